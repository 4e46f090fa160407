"""A file system in front of which the handlers of FUSE requests are tested: it records, and answers or fails."""

from typing import Any

from icefs.daemon.errno_map import to_errno
from icefs.ioctl import is_request
from icefs.vfs.attrs import FOREVER_S, Attr, EntryRun, FsStats
from icefs.vfs.handles import BytesHandle, DirectBytesHandle

FILE = Attr(
    ino=42, mode=0o100444, nlink=1, uid=7, gid=8, size=1000, mtime_ns=3_000_000_001, ctime_ns=2_000_000_002,
    atime_ns=1_000_000_003, entry_timeout_s=FOREVER_S, attr_timeout_s=5.5,
)  # fmt: skip
DIRECTORY = FILE._replace(ino=2, mode=0o040555, nlink=2, size=0)


class FakeVfs:
    """Implements `icefs.vfs.interface.Vfs`.

    Attributes:
        calls: Every call but `describe_…`: the method and its arguments.
        error: What every call raises, if anything.
        answers: What a method returns instead of its usual answer.
        acting: Handles to read from which carries something out.
    """

    wants_flush = True

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.error: BaseException | None = None
        self.answers: dict[str, Any] = {}
        self.runs: list[EntryRun] = []
        self.acting: set[int] = set()

    def _note(self, name: str, *args: Any) -> Any:
        self.calls.append((name, args))
        if self.error is not None:
            raise self.error
        return self.answers.get(name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        async def call(*args: Any) -> Any:
            return self._note(name, *args)

        return call

    async def _attr(self, name: str, *args: Any) -> Attr:
        return self._note(name, *args) or FILE

    async def lookup(self, *args): return await self._attr("lookup", *args)  # fmt: skip

    async def getattr(self, *args): return await self._attr("getattr", *args)  # fmt: skip

    async def setattr(self, *args): return await self._attr("setattr", *args)  # fmt: skip

    async def mknod(self, *args): return await self._attr("mknod", *args)  # fmt: skip

    async def mkdir(self, *args): return await self._attr("mkdir", *args)  # fmt: skip

    async def symlink(self, *args): return await self._attr("symlink", *args)  # fmt: skip

    async def link(self, *args): return await self._attr("link", *args)  # fmt: skip

    async def open(self, *args):
        return 5, self._note("open", *args) or BytesHandle(42, b"abc")

    async def create(self, *args):
        return 6, self._note("create", *args) or DirectBytesHandle(43, b""), FILE

    async def statfs(self, *args):
        self._note("statfs", *args)
        return FsStats(100, 10, 8, 1000, 5)

    async def readdir(self, fh, position):
        self._note("readdir", fh, position)
        return next((run for run in self.runs if run.start <= position < run.start + len(run.names)), None)

    def entered(self, fh, run, first, end):
        self._note("entered", fh, run.start + first, run.start + end)

    def forget(self, ino, count):
        self._note("forget", ino, count)

    def takes_ioctl(self, command):
        return is_request(command)

    def only_reads(self, fh):
        return fh not in self.acting

    def describe_inode(self, ino):
        return f"/path/of/{ino}"

    def describe_handle(self, fh):
        return f"/path/behind/{fh}"


class FakeRecorder:
    """Implements `icefs.fuse.boundary.Recorder`; errnos are those of the daemon."""

    def __init__(self) -> None:
        self.requests: list[int] = []
        self.accesses: list[tuple[int, int, tuple]] = []
        self.failures: list[tuple[int, BaseException, str]] = []

    def record(self, operation, started_ns, elapsed_ns, error, subject):
        assert elapsed_ns >= 0
        self.requests.append(operation)
        self.accesses.append((operation, error, subject))

    def failed(self, operation, error, where):
        self.failures.append((operation, error, where()))
        return to_errno(error).errno


class FakeNotifier:
    """Implements `icefs.vfs.interface.Notifier`: keeps the invalidations that the kernel would have got."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, bytes]] = []
        self.attrs: list[int] = []
        self.dropped: list[int] = []
        self.drained = 0
        self.pending = 0
        self.failed = 0

    @property
    def sent(self):
        return len(self.entries) + len(self.attrs) + len(self.dropped)

    def invalidate(self, changed):
        self.entries += changed.entries
        self.attrs += changed.inodes

    async def drop_pages(self, inos):
        self.dropped += inos

    async def drain(self):
        self.drained += 1
