"""The same random system calls on a mounted branch and on a plain directory: results, errnos, listings and bytes.

The plain directory is the model; `tests.support.differential` lists where the two may differ. Commits, amended ones,
discards, remounts, killed daemons, the commits of others and rebases come in between. The official library, which
gets the same changes, says what becomes of a rebase.

`ICEFS_TEST_ROUNDS` is the number of examples.
"""

import contextlib
import errno
import mmap
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from icefs.words import node_name
from icefs.zarr.keys import metadata_key, node_prefix
from tests.conformance.official import GROUP, loose_array_json, put_all, remove
from tests.support.differential import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    Outcome,
    Seen,
    Side,
    Station,
    is_metadata,
    is_of_base,
    is_reserved,
    is_valid,
    look,
    mark_base,
    partition,
    populate,
    renameat2,
    restore,
)
from tests.support.mounting import scratch_directory, wait_until
from tests.support.rebase_oracle import Changes, rebased

ROUNDS = int(os.environ.get("ICEFS_TEST_ROUNDS", "25"))
# Making a failure small takes minutes: done where ICEFS_TEST_SHRINK is set.
PHASES = [Phase.generate, *([Phase.shrink] if os.environ.get("ICEFS_TEST_SHRINK") else [])]
STEPS = int(os.environ.get("ICEFS_TEST_STEPS", "40"))

ARRAY = loose_array_json((4, 4), (1, 2))
SCALAR = loose_array_json((), ())
CONTENT = {
    "zarr.json": GROUP,
    "a/zarr.json": ARRAY,
    "a/c/0/0": b"inline",
    "a/c/1/0": b"native " * 20,
    "b/zarr.json": GROUP,
    "b/a/zarr.json": ARRAY,
    "b/a/c/0/0": b"another native chunk",
    "b/s/zarr.json": SCALAR,
    "b/s/c": b"scalar",
}

# A path is text, the number of something that exists, or a name in a directory of that number.
type PathLike = str | int | tuple[int, str]
NAMES = ["zarr.json", "c", "0", "1", "x.partial", "a", "b", "t"]
PATHS = (
    st.integers(0, 40)
    | st.tuples(st.integers(0, 15), st.sampled_from(NAMES))
    | st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
)
DATA = st.sampled_from([b"x", b"some bytes", GROUP, ARRAY, b"", b"long " * 2000])
OFFSETS = st.sampled_from([0, 1, 7, 30, 4095, 4096, 70_000])
SIZES = st.sampled_from([0, 1, 5, 4096, 10_000])
FLAGS = st.builds(
    lambda access, more: access | sum(more),
    st.sampled_from([os.O_RDWR, os.O_RDWR, os.O_RDONLY, os.O_WRONLY]),
    st.sets(
        st.sampled_from(
            [os.O_CREAT, os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_NOFOLLOW, os.O_SYNC, os.O_DIRECTORY]
        ),
        max_size=3,
    ),
)
THEIR_CHANGES = [
    "group",
    "array",
    "metadata",
    "delete",
    *(f"chunk {index}" for index in ("0/0", "0/1", "1/0", "1/1", "2/0")),
]
EXPLICIT_NS = 10**18
"""Times that tests set are before this one, those of the clock after it."""


class BranchMachine(RuleBasedStateMachine):
    station: Station

    @initialize(every=st.sampled_from([1, 1, 6]))
    def start(self, every: int) -> None:
        """Begins on a fresh branch, and looks at everything after so many steps."""
        self.branch = self.station.new_branch()
        self.tree = f"branches/{self.branch}"
        self.base = dict(CONTENT)
        self.plain = Side(str(self.station.scratch / f"plain-{self.branch}"))
        self.mounted = Side(str(self.station.place / self.tree))
        populate(Path(self.plain.root), CONTENT)
        self.every = every
        self.steps = 0
        self.count = 0
        self.others = 0
        self.remounts = 0
        self.flags: dict[int, int] = {}
        self.places: dict[int, str] = {}
        self.last: dict[str, tuple[Seen, Seen]] = {}
        self.touched: set[int] = set()
        self.unsynced: dict[int, int] = {}
        self.is_behind = False
        self.has_renames = False
        self.committed_times: set[tuple[int, int]] = set()

    # How a step is done.

    def text(self, path: PathLike) -> str:
        """Returns the path that a strategy means."""
        if isinstance(path, str):
            return path
        dirs, files = [""], []
        for above, names, others in os.walk(self.plain.root):
            at = os.path.relpath(above, self.plain.root)
            dirs += [os.path.normpath(f"{at}/{name}") for name in names]
            files += [os.path.normpath(f"{at}/{name}") for name in others]
        if isinstance(path, int):
            found = sorted(dirs[1:] + files)
            return found[path % len(found)] if found else "a"
        above = sorted(dirs)[path[0] % len(dirs)]
        return f"{above}/{path[1]}" if above else path[1]

    def touch(self, *paths: str) -> None:
        """Notes that files, and the directories that they are in, may get another mtime."""
        for path in paths:
            for place in (path, path.rpartition("/")[0]):
                try:
                    self.touched.add(os.stat(self.plain.at(place)).st_ino)
                except OSError:
                    continue

    def both(self, action: Callable[[Side], Any]) -> Outcome:
        """Does the same on both sides, and compares what becomes of it."""
        expected, found = self.plain.do(action), self.mounted.do(action)
        assert found == expected, f"the mount: {found}, a plain directory: {expected}"
        return expected

    def refused(self, action: Callable[[Side], Any], *numbers: int) -> None:
        """Does on the mount alone what it must refuse."""
        found = self.mounted.do(action)
        assert found.number, "was not refused"
        # Or what a plain directory would not do either.
        assert found.number in {*numbers, errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY,
                                errno.EINVAL, errno.EPERM}, found  # fmt: skip

    def put(self, path: str, action: Callable[[Side], Any], data: bytes | None = None) -> None:
        """Does what creates a name, or writes `data` to it: allowed differences 1 and 2."""
        self.touch(path)
        if is_reserved(path):
            self.refused(action, errno.EPERM)
            return
        expected, found = self.plain.do(action), self.mounted.do(action)
        is_invalid = data is not None and not is_valid(data) and not expected.number
        if is_invalid and (not data or os.stat(self.plain.at(path)).st_nlink > 1):
            # An empty file may still get its bytes; of a file with several names, one says whether it is a `zarr.json`.
            assert found.number in {0, errno.EINVAL}, found
        elif is_invalid and is_metadata(path):
            assert found.number == errno.EINVAL, f"{path} is not valid, the mount: {found}"
        else:
            assert found == expected, f"the mount: {found}, a plain directory: {expected}"
        self.touch(path)

    # Names.

    @rule(path=PATHS, mode=st.sampled_from([0o777, 0o777, 0o700]))
    def mkdir(self, path: PathLike, mode: int) -> None:
        path = self.text(path)
        self.put(path, lambda side: os.mkdir(side.at(path), mode))

    @rule(path=PATHS)
    def rmdir(self, path: PathLike) -> None:
        path = self.text(path)
        self.touch(path)
        self.both(lambda side: os.rmdir(side.at(path)))

    @rule(path=PATHS)
    def unlink(self, path: PathLike) -> None:
        path = self.text(path)
        self.touch(path)
        self.both(lambda side: os.unlink(side.at(path)))

    @rule(path=PATHS)
    def rmtree(self, path: PathLike) -> None:
        path = self.text(path)
        self.touch(path)
        self.both(lambda side: shutil.rmtree(side.at(path)))

    @rule(old=PATHS, new=PATHS, flags=st.sampled_from([0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE]))
    def rename(self, old: PathLike, new: PathLike, flags: int) -> None:
        old, new = self.text(old), self.text(new)
        pairs = [(old, new), (new, old)] if flags == RENAME_EXCHANGE else [(old, new)]
        if any(self.becomes_invalid(source, target) for source, target in pairs):
            self.refused(lambda side: renameat2(side.at(old), side.at(new), flags), errno.EINVAL)
            return
        self.touch(old, new)
        self.has_renames = True
        self.put(new, lambda side: renameat2(side.at(old), side.at(new), flags))
        self.touch(old)

    def becomes_invalid(self, source: str, target: str) -> bool:
        """Tells whether a file that is none would become a `zarr.json`: allowed difference 2."""
        if not is_metadata(target) or is_metadata(source) or not os.path.isfile(self.plain.at(source)):
            return False
        return not is_valid(Path(self.plain.at(source)).read_bytes())

    @rule(old=PATHS, new=PATHS)
    def link(self, old: PathLike, new: PathLike) -> None:
        old, new = self.text(old), self.text(new)
        if self.becomes_invalid(old, new):
            self.refused(lambda side: os.link(side.at(old), side.at(new)), errno.EINVAL)
            return
        self.has_renames = True
        self.put(new, lambda side: os.link(side.at(old), side.at(new)))

    @rule(path=PATHS, name=st.sampled_from([".zgroup", ".zarray", "n" * 256, "é" * 127, "."]), how=st.integers(0, 3))
    def odd_name(self, path: PathLike, name: str, how: int) -> None:
        above = self.text(path)
        path = f"{above}/{name}"
        actions: list[Callable[[Side], Any]] = [
            lambda side: os.mkdir(side.at(path)),
            lambda side: side.write_file(path, b"x"),
            lambda side: stat.S_IFMT(os.stat(side.at(path)).st_mode),
            lambda side: os.rename(side.at(above), side.at(path)),
        ]
        if is_reserved(path) and how != 2:
            self.refused(actions[how], errno.EPERM)
        else:
            self.touch(path, above)
            self.has_renames |= how == 3
            self.both(actions[how])

    # Whole files.

    @rule(path=PATHS, data=DATA, flags=st.sampled_from([os.O_TRUNC, os.O_TRUNC, 0, os.O_APPEND, os.O_EXCL]))
    def write_file(self, path: PathLike, data: bytes, flags: int) -> None:
        path = self.text(path)
        whole = data
        if flags in {0, os.O_APPEND} and os.path.isfile(self.plain.at(path)):
            old = Path(self.plain.at(path)).read_bytes()
            whole = old + data if flags else data + old[len(data) :]
            if not data:
                whole = GROUP  # nothing is written, so nothing is checked
        elif not data and not flags & os.O_TRUNC:
            whole = GROUP
        self.put(path, lambda side: side.write_file(path, data, flags), whole)

    @rule(path=PATHS, data=DATA)
    def write_by_rename(self, path: PathLike, data: bytes) -> None:
        """As zarr-python writes."""
        path = self.text(path)
        temporary = f"{path}.tmp.partial"
        self.put(temporary, lambda side: side.write_file(temporary, data))
        if not os.path.exists(self.plain.at(temporary)):
            return
        if self.becomes_invalid(temporary, path):
            self.refused(lambda side: os.rename(side.at(temporary), side.at(path)), errno.EINVAL)
        else:
            self.put(path, lambda side: os.rename(side.at(temporary), side.at(path)))
        if os.path.exists(self.plain.at(temporary)):
            self.both(lambda side: os.unlink(side.at(temporary)))

    @rule(path=PATHS, data=DATA)
    def write_by_link(self, path: PathLike, data: bytes) -> None:
        """As zarr-python's `set_if_not_exists` writes."""
        path = self.text(path)
        temporary = f"{path}.tmp.partial"
        self.put(temporary, lambda side: side.write_file(temporary, data))
        if not os.path.exists(self.plain.at(temporary)):
            return
        if self.becomes_invalid(temporary, path):
            self.refused(lambda side: os.link(side.at(temporary), side.at(path)), errno.EINVAL)
        else:
            self.put(path, lambda side: os.link(side.at(temporary), side.at(path)))
        self.both(lambda side: os.unlink(side.at(temporary)))

    @rule(path=PATHS, size=OFFSETS)
    def truncate(self, path: PathLike, size: int) -> None:
        path = self.text(path)
        self.touch(path)
        self.both(lambda side: os.truncate(side.at(path), size))

    @rule(path=PATHS, mode=st.sampled_from([0o600, 0o644, 0o755]))
    def chmod(self, path: PathLike, mode: int) -> None:
        path = self.text(path)
        self.both(lambda side: os.chmod(side.at(path), mode))

    @rule(path=PATHS, mtime_s=st.integers(0, 1000), keep_atime=st.booleans())
    def utimens(self, path: PathLike, mtime_s: int, keep_atime: bool) -> None:
        path = self.text(path)
        times = (mtime_s * 10**9 + 1, mtime_s * 10**9 + 123_456_789)
        self.touch(path)
        self.both(lambda side: os.utime(side.at(path), ns=times))
        self.both(lambda side: os.stat(side.at(path)).st_mtime_ns if os.path.exists(side.at(path)) else None)

    # Open files.

    @precondition(lambda self: len(self.flags) < 5)
    @rule(path=PATHS, flags=FLAGS, mode=st.sampled_from([0o666, 0o600]))
    def open(self, path: PathLike, flags: int, mode: int) -> None:
        path = self.text(path)
        self.count += 1
        number = self.count
        self.touch(path)
        done = self.both(lambda side: side.open(number, path, flags, mode))
        if not done.number:
            self.flags[number] = flags
            self.places[number] = path
            self.touch(path)

    def pick(self, number: int) -> int:
        return sorted(self.flags)[number % len(self.flags)]

    def touch_open(self, number: int) -> None:
        self.touched.add(os.fstat(self.plain.fds[number]).st_ino)

    def is_dir(self, number: int) -> bool:
        return stat.S_ISDIR(os.fstat(self.plain.fds[number]).st_mode)

    @precondition(lambda self: self.flags)
    @rule(number=st.integers(0, 4), data=DATA, offset=OFFSETS)
    def pwrite(self, number: int, data: bytes, offset: int) -> None:
        number = self.pick(number)
        self.touch_open(number)
        self.both(lambda side: os.pwrite(side.fds[number], data, offset))

    @precondition(lambda self: self.flags)
    @rule(number=st.integers(0, 4), data=DATA)
    def write(self, number: int, data: bytes) -> None:
        """Writes where the descriptor is, or appends."""
        number = self.pick(number)
        self.touch_open(number)
        self.both(lambda side: os.writev(side.fds[number], [data, b"+", data]))
        if not self.is_dir(number):
            self.both(lambda side: os.lseek(side.fds[number], 0, os.SEEK_CUR))

    @precondition(lambda self: self.flags)
    @rule(number=st.integers(0, 4), size=SIZES, offset=OFFSETS)
    def pread(self, number: int, size: int, offset: int) -> None:
        number = self.pick(number)
        self.both(lambda side: os.pread(side.fds[number], size, offset))

    @precondition(lambda self: self.flags)
    @rule(number=st.integers(0, 4), size=SIZES, offset=st.integers(0, 100), whence=st.integers(0, 2))
    def seek_and_read(self, number: int, size: int, offset: int, whence: int) -> None:
        number = self.pick(number)
        if self.is_dir(number):
            return
        self.both(lambda side: os.lseek(side.fds[number], offset, whence))
        self.both(lambda side: os.read(side.fds[number], size))

    @precondition(lambda self: self.flags)
    @rule(number=st.integers(0, 4), offset=OFFSETS)
    def seek_data(self, number: int, offset: int) -> None:
        """Allowed difference 7."""
        number = self.pick(number)
        if self.is_dir(number):
            return
        size = os.fstat(self.plain.fds[number]).st_size
        fd = self.mounted.fds[number]
        found = [self.mounted.do(lambda _: os.lseek(fd, offset, whence)) for whence in (os.SEEK_DATA, os.SEEK_HOLE)]  # noqa: B023
        assert found == ([Outcome(errno.ENXIO, None)] * 2 if offset >= size else [Outcome(0, offset), Outcome(0, size)])
        self.both(lambda side: os.lseek(side.fds[number], 0, os.SEEK_SET))

    @precondition(lambda self: self.flags)
    @rule(number=st.integers(0, 4), size=OFFSETS)
    def ftruncate(self, number: int, size: int) -> None:
        number = self.pick(number)
        self.touch_open(number)
        self.both(lambda side: os.ftruncate(side.fds[number], size))

    @precondition(lambda self: self.flags)
    @rule(number=st.integers(0, 4), size=OFFSETS)
    def posix_fallocate(self, number: int, size: int) -> None:
        number = self.pick(number)
        if self.flags[number] & os.O_ACCMODE != os.O_RDWR or self.flags[number] & os.O_APPEND or not size:
            return  # the C library reads and writes, where there is no system call: allowed difference 8
        self.touch_open(number)
        before = os.fstat(self.plain.fds[number])
        self.both(lambda side: os.posix_fallocate(side.fds[number], 0, size))
        if before.st_size >= size:
            # The system call gives the file another time all the same.
            os.utime(self.plain.fds[number], ns=(before.st_atime_ns, before.st_mtime_ns))

    @precondition(lambda self: self.flags)
    @rule(
        number=st.integers(0, 4),
        data=st.sampled_from([b"m", b"mapped bytes"]),
        at=st.integers(0, 99),
        sync=st.booleans(),
    )
    def map_and_write(self, number: int, data: bytes, at: int, sync: bool) -> None:
        number = self.pick(number)
        size = os.fstat(self.plain.fds[number]).st_size
        if not size or self.is_dir(number) or self.flags[number] & os.O_ACCMODE != os.O_RDWR:
            return
        at %= size

        def write(side: Side) -> bytes:
            with mmap.mmap(side.fds[number], size, mmap.MAP_SHARED) as mapped:
                mapped[at : at + len(data)] = data[: size - at]
                if sync:
                    mapped.flush()
                return mapped[:]

        self.touch_open(number)
        if not sync:
            self.unsynced[number] = os.fstat(self.plain.fds[number]).st_ino
        self.both(write)

    @precondition(lambda self: self.flags)
    @rule(number=st.integers(0, 4), flags=st.sampled_from([mmap.MAP_PRIVATE, mmap.MAP_SHARED]))
    def map_and_read(self, number: int, flags: int) -> None:
        number = self.pick(number)
        size = os.fstat(self.plain.fds[number]).st_size
        if not size or self.is_dir(number) or self.flags[number] & os.O_ACCMODE == os.O_WRONLY:
            return

        def read(side: Side) -> bytes:
            with mmap.mmap(side.fds[number], size, flags=flags, prot=mmap.PROT_READ) as mapped:
                return mapped[:]

        self.both(read)

    @precondition(lambda self: len(self.flags) > 1)
    @rule(source=st.integers(0, 4), into=st.integers(0, 4), size=SIZES, offset=OFFSETS, how=st.booleans())
    def copy_between(self, source: int, into: int, size: int, offset: int, how: bool) -> None:
        source, target = self.pick(source), self.pick(into)
        if self.is_dir(source) or self.is_dir(target) or source == target:
            return
        if os.path.sameopenfile(self.plain.fds[source], self.plain.fds[target]):
            return
        self.touch_open(target)

        def copy(side: Side) -> int:
            if how:
                return os.copy_file_range(side.fds[source], side.fds[target], size, 0, offset)
            return os.sendfile(side.fds[target], side.fds[source], 0, size)

        self.both(copy)

    @precondition(lambda self: self.flags)
    @rule(number=st.integers(0, 4))
    def fstat(self, number: int) -> None:
        number = self.pick(number)
        is_file = not self.is_dir(number)

        def told(side: Side) -> tuple[int, ...]:
            found = os.fstat(side.fds[number])
            # Allowed difference 3; 5 makes one of 4.
            return (found.st_mode, found.st_size, found.st_nlink > 0) if is_file else (found.st_mode,)

        self.both(told)

    @precondition(lambda self: self.flags)
    @rule(number=st.integers(0, 4), what=st.integers(0, 3))
    def sync(self, number: int, what: int) -> None:
        number = self.pick(number)
        fd = [os.fsync, os.fdatasync, lambda fd: os.close(os.dup(fd)), os.listdir][what]
        self.settle(number)
        if what == 2:
            self.closing(number, lambda side: os.close(os.dup(side.fds[number])))
        elif what == 3:
            self.both(lambda side: sorted(os.listdir(side.fds[number])))
        else:
            self.both(lambda side: fd(side.fds[number]))

    @precondition(lambda self: self.flags)
    @rule(number=st.integers(0, 4), name=st.sampled_from(NAMES), flags=FLAGS)
    def open_at(self, number: int, name: str, flags: int) -> None:
        """Opens a name in an open directory, perhaps a removed one."""
        number = self.pick(number)

        def touch(side: Side) -> None:
            os.close(os.open(name, flags, 0o666, dir_fd=side.fds[number]))

        self.touch_open(number)
        with contextlib.suppress(OSError):
            self.touched.add(os.stat(name, dir_fd=self.plain.fds[number]).st_ino)
        if name == "zarr.json" and flags & os.O_TRUNC:
            return  # a truncated one is invalid at close, and `write_file` does that
        self.both(touch)

    def settle(self, number: int) -> None:
        """Has the kernel write what was written through mappings: allowed difference 6."""
        ino = self.unsynced.pop(number, None)
        if ino is not None:
            self.touched.add(ino)
            self.both(lambda side: os.fsync(side.fds[number]))

    def settle_all(self) -> None:
        for number in list(self.unsynced):
            self.settle(number)

    def closing(self, number: int, action: Callable[[Side], Any]) -> None:
        """Closes a descriptor; a written file that is no valid `zarr.json` may fail: allowed difference 2."""
        fd = self.plain.fds[number]
        size = os.fstat(fd).st_size
        path = f"/proc/self/fd/{fd}"
        name = os.readlink(path).rpartition("/")[2]
        is_invalid = (
            name == "zarr.json" and not self.is_dir(number) and not is_valid(Path(path).read_bytes() if size else b"")
        )
        expected, found = self.plain.do(action), self.mounted.do(action)
        assert found == expected or (is_invalid and found.number == errno.EINVAL), (found, expected)
        self.mounted.fds = {known: fd for known, fd in self.mounted.fds.items() if known in self.plain.fds}

    @precondition(lambda self: self.flags)
    @rule(number=st.integers(0, 4))
    def close(self, number: int) -> None:
        self.close_one(self.pick(number))

    def close_one(self, number: int) -> None:
        self.settle(number)
        self.touch_open(number)
        del self.flags[number]
        self.closing(number, lambda side: side.close(number))

    def close_all(self) -> None:
        for number in list(self.flags):
            self.close_one(number)

    # Commits, discards, remounts.

    def rpc(self, op: str, **request: Any) -> dict[str, Any]:
        return self.station.mount.rpc({"op": op, **request}, self.tree)[-1]

    def files(self) -> dict[str, bytes]:
        return {path: seen.data for path, seen in look(self.plain.root).items() if seen.data is not None}

    def history(self) -> list[str]:
        return [info.id for info in self.station.official.ancestry(branch=self.branch)]

    @rule(strict=st.booleans(), amend=st.sampled_from([False, False, True]))
    def commit(self, strict: bool, amend: bool) -> None:
        """Commits; the official library then finds what the plain directory has."""
        self.settle_all()
        files = self.files()
        status = self.station.mount.control("status.json", self.tree)
        before = self.history()
        answer = self.rpc("commit", message="a commit", skip_invalid=not strict, amend=amend)
        if answer["type"] == "error":
            kinds = {"invalid-tree", "no-changes-to-commit"} | ({"commit-conflict"} if self.is_behind else set())
            if amend and self.official_moves(before[0]):
                kinds.add("rearrange-session-only")
            assert answer["kind"] in kinds, answer
            assert self.history() == before
            return
        assert not self.is_behind
        now = self.history()
        assert now[0] == answer["snapshot"]
        # An amended commit is replaced, whatever it was; its parent stays.
        assert now[1:] == (before[1:] if amend else before)
        self.check_committed(files, status)
        self.committed()
        # Whatever is left may have been renamed.
        self.has_renames &= bool(status["untracked"] or status["invalid"] or status["open"])

    def official_moves(self, snapshot_id: str) -> bool:
        """Tells whether a commit has moved nodes."""
        parent = self.station.official.lookup_snapshot(snapshot_id).parent_id
        diff = self.station.official.diff(from_snapshot_id=parent, to_snapshot_id=snapshot_id)
        return bool(diff.moved_nodes)

    def check_committed(self, files: dict[str, bytes], status: dict[str, Any]) -> None:
        self.base = self.station.read_branch(self.branch)
        left = left_by(status, files)
        self.drop(files.keys() - self.base.keys() - left, status["staged"]["dropped_chunks"])
        for path, data in self.base.items():
            assert path in left or files[path] == data, path

    def drop(self, gone: set[str], told: list[dict[str, Any]]) -> None:
        """Removes the chunks that go with the metadata of their array, which the status tells before."""
        counts = {node_prefix(node_name(one["path"])): one["count"] for one in told}
        found = dict.fromkeys(counts, 0)
        for path in gone:
            [prefix] = [prefix for prefix in counts if path.startswith(f"{prefix}c")] or [""]
            assert prefix, f"{path} is gone, and was not told of: {told}"
            found[prefix] += 1
            os.unlink(self.plain.at(path))
        self.last.clear()
        # Files that were rewritten here stay, and are left.
        assert all(found[prefix] <= count for prefix, count in counts.items())
        self.remove_dirs()

    def remove_dirs(self) -> None:
        """Removes directories of the base that have gone with what was in them."""
        for path in sorted((path for path, seen in look(self.plain.root).items() if seen.data is None), reverse=True):
            if not os.path.isdir(self.mounted.at(path)):
                os.rmdir(self.plain.at(path))

    def committed(self) -> None:
        """Does to the plain directory what a commit does besides its purpose: allowed difference 4."""
        mark_base(Path(self.plain.root), self.base)
        shared: dict[int, list[tuple[str, int]]] = {}
        for path in look(self.plain.root):
            told = os.stat(self.mounted.at(path))
            os.chmod(self.plain.at(path), stat.S_IMODE(told.st_mode))
            if stat.S_ISREG(told.st_mode):
                shared.setdefault(os.stat(self.plain.at(path)).st_ino, []).append((path, told.st_ino))
        for links in shared.values():
            groups: dict[int, list[str]] = {}
            for path, ino in links:
                groups.setdefault(ino, []).append(path)
            # An open file stays one file with its descriptor.
            opened = {os.fstat(fd).st_ino for fd in self.mounted.fds.values()}
            order = sorted(groups.items(), key=lambda group: (group[0] in opened, len(group[1])))
            for _, paths in order[: len(groups) - 1]:
                self.split(paths)
        of_base = {*self.base, *(path[:cut] for path in self.base for cut, char in enumerate(path) if char == "/"), ""}
        self.committed_times = {
            (seen.ino, seen.mtime_ns)
            for path, seen in look(self.plain.root).items()
            if path in of_base and seen.mtime_ns < EXPLICIT_NS
        }

    def split(self, paths: list[str]) -> None:
        """Makes some names of a file names of another file."""
        first = self.plain.at(paths[0])
        above = {os.path.dirname(self.plain.at(path)) for path in paths}
        times = {place: os.stat(place) for place in above}
        shutil.copy2(first, f"{first}.split")
        os.replace(f"{first}.split", first)
        for path in paths[1:]:
            os.unlink(self.plain.at(path))
            os.link(first, self.plain.at(path))
        for place, told in times.items():
            os.utime(place, ns=(told.st_atime_ns, told.st_mtime_ns))

    @rule()
    def discard(self) -> None:
        self.close_all()
        answer = self.rpc("discard")
        assert answer["type"] == "result", answer
        populate(Path(self.plain.root), self.base)
        self.last.clear()
        self.has_renames = False
        assert not self.has_changes()
        self.follow()

    @rule(path=PATHS)
    def discard_path(self, path: PathLike) -> None:
        """What is at a path and below it becomes what it is in the base; above it nothing changes."""
        self.close_all()
        if self.has_renames:
            return  # where a directory of the base stands elsewhere, the base is not to be seen by its paths
        path = self.text(path)
        answer = self.rpc("discard", path=path)
        assert answer["type"] == "result", answer
        root, place = Path(self.plain.root), Path(self.plain.at(path))
        above = {at: at.stat() for at in (place.parent,) if at.is_dir()}
        if not above:
            return
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
        if is_of_base(place.parent):
            shown = {key: data for key, data in self.base.items() if key == path or key.startswith(f"{path}/")}
            for key, data in shown.items():
                restore(root, key, data)
            mark_base(root, shown)
        self.last.clear()
        self.follow()

    def has_changes(self) -> bool:
        """Tells whether the mount has anything in the branch that is not the base's."""
        [told] = self.station.mount.rpc({"op": "uncommitted"})
        return self.branch in {one["name"] for one in told["branches"]}

    @precondition(lambda self: self.remounts < 1)
    @rule(kill=st.booleans(), chance=st.integers(0, 7))
    def remount(self, kill: bool, chance: int) -> None:
        """Allowed difference 5. Takes half a second, so it is done now and then."""
        if chance != 7:
            return
        self.remounts += 1
        self.close_all()
        self.station.remount(kill=kill)
        for path, mine in look(self.plain.root).items():
            if (mine.ino, mine.mtime_ns) in self.committed_times:
                os.utime(self.plain.at(path))
        self.last = {}
        self.follow()

    @rule(
        what=st.lists(st.sampled_from(THEIR_CHANGES), min_size=1, max_size=2, unique=True),
        data=st.sampled_from([b"theirs", b"their native chunk"]),
    )
    def others_commit(self, what: list[str], data: bytes) -> None:
        """Somebody else commits to the branch, which follows if nothing is changed in it, and nothing about to be."""
        self.others += 1
        theirs = self.station.read_branch(self.branch)
        items: dict[str, bytes | None] = {}
        for one in what:
            items |= self.their_change(one, data + b"%d" % self.others, theirs)
        items = {key: value for key, value in items.items() if theirs.get(key) != value}
        if not items:
            return
        self.settle_all()
        session = self.station.official.writable_session(self.branch)
        put_all(session.store, {key: data for key, data in items.items() if data is not None})
        remove(session.store, *(key for key, data in items.items() if data is None))
        session.commit("theirs")
        self.is_behind = True
        self.follow()

    def follow(self) -> None:
        """Lets a branch that is behind follow, which it does if nothing is changed in it, and nothing about to be."""

        def has_followed() -> bool:
            self.station.mount.refresh()
            return not self.rpc("status")["tip_moved"]

        if not self.is_behind:
            return
        if self.has_changes() or self.is_written():
            assert not has_followed()
            return
        # The kernel tells of a descriptor that was closed in its own time, and until then the file may be written to:
        # whether the branch has followed must not hang on that, for what is done next does.
        wait_until(has_followed, "a branch without changes follows")
        self.is_behind = False
        old, new = self.base, self.station.read_branch(self.branch)
        self.take_theirs({key: new.get(key) for key in old.keys() | new.keys() if old.get(key) != new.get(key)})
        self.committed()

    def is_written(self) -> bool:
        """Tells whether anything that has a name is open for writing."""
        return any(
            flags & os.O_ACCMODE != os.O_RDONLY and os.fstat(self.mounted.fds[number]).st_nlink
            for number, flags in self.flags.items()
        )

    def their_change(self, what: str, data: bytes, theirs: dict[str, bytes]) -> dict[str, bytes | None]:
        """Returns the keys of one change of others to what the branch's tip has."""
        kind, _, index = what.partition(" ")
        if kind == "group":
            return {f"o{self.others % 3}/zarr.json": GROUP if self.others % 2 else GROUP + b" "}
        if kind == "array":
            path = "b/t/zarr.json"
            return {} if path in theirs or "b/zarr.json" not in theirs else {path: ARRAY}
        if theirs.get("a/zarr.json", b"").rstrip() != ARRAY:
            return {}
        if kind == "metadata":
            return {"a/zarr.json": theirs["a/zarr.json"] + b" "}
        key = "a/c/0/0" if kind == "delete" else f"a/c/{index}"
        if kind == "delete":
            return {key: None} if key in theirs else {}
        return {key: data}

    def take_theirs(self, items: dict[str, bytes | None]) -> None:
        """Does to the plain directory what others have done, where nothing of ours is in the way."""
        root = Path(self.plain.root)
        for path, content in items.items():
            if content is None:
                (root / path).unlink(missing_ok=True)
                self.base.pop(path, None)
            else:
                restore(root, path, content)
                self.base[path] = content
            self.last.pop(path, None)
            self.touch(*(path[:cut] for cut in range(len(path) + 1) if path[cut : cut + 1] in {"", "/"}))
        self.renew_above(items)
        for path in items:
            self.prune((root / path).parent)
        mark_base(root, self.base)

    def renew_above(self, paths: Iterable[str]) -> None:
        """Gives the directories above what others changed a time of the clock: allowed difference 10."""
        for directory in {"", *(path[:cut] for path in paths for cut, char in enumerate(path) if char == "/")}:
            if os.path.isdir(self.plain.at(directory)):
                os.utime(self.plain.at(directory))

    def prune(self, directory: Path) -> None:
        """Removes directories of the base with nothing in them."""
        while directory != Path(self.plain.root) and directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
            directory = directory.parent

    @precondition(lambda self: self.is_behind)
    @rule(how=st.sampled_from(["ours", "theirs", "fail"]), commit=st.booleans())
    def rebase(self, how: str, commit: bool) -> None:
        """Puts the changes on what others have committed, or commits them there, as the official library would."""
        self.close_all()
        files, base = self.files(), self.base
        diff = self.station.mount.control("diff.json", self.tree)
        status = self.station.mount.control("status.json", self.tree)
        changes = Changes.of(diff, files, base)
        if changes is None or (commit and diff["invalid"]):
            return
        expected = rebased(self.station.official, self.branch, status["snapshot"], changes, how)
        tip, theirs = self.history(), self.station.read_branch(self.branch)
        answer = self.rpc("commit", message="ours", rebase=how) if commit else self.rpc("rebase", how=how)
        if commit and not any(status["staged"].values()):
            assert answer["kind"] == "no-changes-to-commit", answer
            return
        if answer.get("kind") == "rebase-failed" and not answer["conflicts"]:
            self.check_refused(answer, commit)
            assert self.history() == tip
            return
        if expected is None:
            assert answer.get("kind") == "rebase-failed", answer
            assert self.history() == tip
            return
        assert answer["type"] == "result", answer
        assert self.history()[-len(tip) :] == tip
        assert len(self.history()) == len(tip) + commit
        self.is_behind = False
        self.base = self.station.read_branch(self.branch)
        if commit:
            assert self.base == expected
        committed = {*base, *changes.chunks, *map(metadata_key, changes.metadata)}
        self.become(expected, left_by(status, files), files.keys() & committed)
        self.renew_above(key for key in base.keys() | theirs.keys() if base.get(key) != theirs.get(key))
        assert not self.rpc("status")["tip_moved"]

    def check_refused(self, answer: dict[str, Any], commit: bool) -> None:
        """Allowed difference 12."""
        path = self.plain.at(answer["path"])
        if "no commit takes" in answer["message"]:
            assert os.path.isfile(path)
        elif "several names" in answer["message"]:
            assert not commit
            assert os.stat(path).st_nlink > 1
        else:
            assert not commit
            assert "renamed directory" in answer["message"]
            assert os.path.isdir(path)

    def become(self, expected: dict[str, bytes], left: set[str], committed: set[str]) -> None:
        """Lets the plain directory have other keys, and keep what is left: allowed difference 11."""
        root = Path(self.plain.root)
        for path in committed - expected.keys() - left:
            (root / path).unlink()
        for path, data in expected.items():
            if path in left:
                continue
            if not (root / path).is_file() or (root / path).read_bytes() != data:
                restore(root, path, data)
        self.remove_dirs()
        for path, seen in look(self.mounted.root).items():
            if seen.data is None:
                (root / path).mkdir(parents=True, exist_ok=True)
            os.chmod(root / path, stat.S_IMODE(seen.mode))
        mark_base(root, self.base)
        self.committed()
        self.last.clear()

    # What holds after a step.

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "branch"):
            return
        self.station.check()
        self.steps += 1
        if self.steps % self.every:
            return
        expected, found = look(self.plain.root), look(self.mounted.root)
        assert found.keys() == expected.keys()
        self.unsynced = {number: ino for number, ino in self.unsynced.items() if number in self.flags}
        now: dict[str, tuple[Seen, Seen]] = {}
        for path, mine in expected.items():
            theirs = found[path]
            assert theirs.data == mine.data, path
            assert theirs.mode == mine.mode, f"{path}: {theirs.mode:o}, {mine.mode:o}"
            assert mine.data is None or theirs.nlink == mine.nlink, f"{path}: {theirs.nlink} links, {mine.nlink}"
            if mine.mtime_ns < EXPLICIT_NS:
                assert theirs.mtime_ns == mine.mtime_ns, f"{path}: its time was set"
            now[path] = theirs, mine
            # Over several steps the plain directory may use an inode number again.
            if path in self.last and self.every == 1:
                self.check_times(path, *self.last[path], theirs, mine)
        assert partition(found) == partition(expected)
        self.last = now
        self.touched.clear()

    def check_times(self, path: str, theirs: Seen, mine: Seen, theirs_now: Seen, mine_now: Seen) -> None:
        """Checks that inode numbers stay with files, and mtimes with contents."""
        if mine.ino != mine_now.ino:
            return
        assert theirs_now.ino == theirs.ino, f"{path}: another inode number for the same file"
        changed = theirs_now.mtime_ns != theirs.mtime_ns
        if mine_now.ino in self.unsynced.values():
            return
        if mine_now.data != mine.data or mine_now.mtime_ns != mine.mtime_ns:
            assert changed, f"{path}: changed, and mtime did not"
        elif mine_now.ino not in self.touched:
            assert not changed, f"{path}: mtime changed, and nothing else did"

    def teardown(self) -> None:
        if hasattr(self, "branch"):
            for side in (self.mounted, self.plain):
                for fd in side.fds.values():
                    try:
                        os.close(fd)
                    except OSError:
                        continue  # an invalid zarr.json
            self.station.drop_branch(self.branch)
            shutil.rmtree(self.plain.root)


def left_by(status: dict[str, Any], files: dict[str, bytes]) -> set[str]:
    """Returns the files that stay in the working tree; a renamed directory of chunks counts as one."""
    told = {*status["untracked"], *(one["path"] for one in (*status["invalid"], *status["open"]))}
    return {path for path in files.keys() | told if path in told or any(path.startswith(f"{one}/") for one in told)}


@pytest.fixture(scope="module", autouse=True)
def station():
    with scratch_directory() as scratch:
        BranchMachine.station = Station(Path(scratch), CONTENT)
        yield
        BranchMachine.station.stop()


# A time that runs out is taken for an example that fails now and then.
TestBranch = pytest.mark.timeout(120 + 20 * ROUNDS)(BranchMachine.TestCase)
TestBranch.settings = settings(
    max_examples=ROUNDS,
    stateful_step_count=STEPS,
    deadline=None,
    phases=PHASES,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
