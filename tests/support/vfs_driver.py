"""Drives a file system by paths, as the kernel does by inodes, without a kernel."""

import contextlib
import os
import stat
from collections.abc import AsyncIterator, Callable

import trio

from icefs.engine.repository import Repository
from icefs.errors import EntryNotFoundError
from icefs.format.ids import SnapshotId
from icefs.fuse.boundary import OPERATIONS
from icefs.inode import ROOT_INO
from icefs.storage.base import Storage
from icefs.storage.cache.disk import DiskCache
from icefs.vfs.attrs import Attr, EntryRun, Ownership
from icefs.vfs.control.mount_control import MountControl
from icefs.vfs.mount import Mount, MountRequest
from icefs.vfs.observe.mount_facts import MountFacts
from icefs.vfs.observe.stats import Stats
from icefs.vfs.views.versions import ViewTools, view_tools
from tests.support.fake_vfs import FakeNotifier

OWNERSHIP = Ownership(1000, 1001)


class Driver:
    """A mounted file system; paths are relative to the mountpoint, without a leading slash."""

    def __init__(self, mount: Mount, notifier: FakeNotifier) -> None:
        self.mount = mount
        self.fs = mount.fs
        self.notifier = notifier

    async def walk(self, path: str) -> Attr:
        """Looks every component up; raises EntryNotFoundError where there is none."""
        attr = await self.fs.getattr(ROOT_INO)
        for name in filter(None, path.split("/")):
            attr = await self.fs.lookup(attr.ino, name)
            if not attr.ino:
                raise EntryNotFoundError(f"no {name} in {path}", path=path)
        return attr

    async def exists(self, path: str) -> bool:
        try:
            await self.walk(path)
        except EntryNotFoundError:
            return False
        return True

    async def read_ino(self, ino: int, step: int = 1 << 20) -> bytes:
        fh, _ = await self.fs.open(ino, os.O_RDONLY)
        parts = []
        try:
            while data := await self.fs.read(fh, sum(map(len, parts)), step):
                parts.append(bytes(data))
        finally:
            await self.fs.release(fh)
        return b"".join(parts)

    async def read(self, path: str, step: int = 1 << 20) -> bytes:
        return await self.read_ino((await self.walk(path)).ino, step)

    async def entries(self, ino: int, step: int = 1 << 30) -> list[tuple[str, Attr]]:
        """Lists a directory in steps of at most so many entries, dots included."""
        fh = await self.fs.opendir(ino)
        found: list[tuple[str, Attr]] = []
        try:
            position = 0
            while (run := await self.fs.readdir(fh, position)) is not None:
                first = position - run.start
                end = min(len(run.names), first + step)
                self.fs.entered(fh, run, first, end)
                found += [_entry(run, index) for index in range(first, end)]
                position = run.start + end
        finally:
            await self.fs.releasedir(fh)
        return found

    async def listdir(self, path: str = "", step: int = 1 << 30) -> list[str]:
        entries = await self.entries((await self.walk(path)).ino, step)
        assert [name for name, _ in entries[:2]] == [".", ".."]
        return sorted(name for name, _ in entries[2:])

    async def tree(self, path: str = "") -> dict[str, bytes | None]:
        """Reads everything below a path; directories are None, and of a link the target is read."""
        found: dict[str, bytes | None] = {}
        entries = await self.entries((await self.walk(path)).ino)
        for name, attr in entries[2:]:
            below = f"{path}/{name}".lstrip("/")
            looked_up = await self.walk(below)
            assert looked_up == attr._replace(entry_timeout_s=looked_up.entry_timeout_s), below
            if stat.S_ISDIR(attr.mode):
                found[below] = None
                found |= await self.tree(below)
            else:
                is_link = stat.S_ISLNK(attr.mode)
                data = (await self.fs.readlink(attr.ino)).encode() if is_link else await self.read(below)
                assert len(data) == attr.size, below
                found[below] = data
        return found


def _entry(run: EntryRun, index: int) -> tuple[str, Attr]:
    attr = run.template._replace(ino=run.inos[index])
    if run.sizes is not None:
        attr = attr._replace(size=run.sizes[index])
    if run.mtimes_ns is not None:
        time_ns = run.mtimes_ns[index]
        attr = attr._replace(mtime_ns=time_ns, ctime_ns=time_ns, atime_ns=time_ns)
    return run.names[index].decode(errors="surrogatepass"), attr


async def until(condition: Callable[[], object], deadline_s: float = 30.0) -> None:
    """Waits for what happens in threads."""
    with trio.fail_after(deadline_s):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.001)


@contextlib.asynccontextmanager
async def mounted(
    storage: Storage,
    *,
    branch: str | None = None,
    tag: str | None = None,
    snapshot: SnapshotId | None = None,
    memory_bytes: int = 1 << 20,
    authorized: tuple[str, ...] = (),
    cache: DiskCache | None = None,
    view: str = "",
    tools: ViewTools | None = None,
) -> AsyncIterator[Driver]:
    """Mounts a repository, or one tree of it."""
    repository = Repository.open(storage, authorize_virtual_chunk_access=dict.fromkeys(authorized), cache=cache)
    refs = repository.refs()
    kind, name, shown = "", "", snapshot
    if branch is not None:
        kind, name, shown = "branch", branch, refs.branch(branch)
    elif tag is not None:
        kind, name, shown = "tag", tag, refs.tag(tag)
    elif snapshot is not None:
        kind = "snapshot"
    facts = MountFacts({"version": "1.2.3", "mountpoint": "/mnt"})
    request = MountRequest(
        OWNERSHIP, kind, name, shown, memory_bytes, facts, view=view, view_tools=tools or view_tools()
    )
    notifier = FakeNotifier()
    mount = Mount(repository, refs, request, notifier, Stats(OPERATIONS), MountControl)
    try:
        yield Driver(mount, notifier)
    finally:
        mount.close()
        repository.close()
