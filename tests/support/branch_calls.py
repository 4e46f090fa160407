"""System calls on a mounted branch and on a plain directory, as the rules of a state machine: both do the same."""

import contextlib
import errno
import mmap
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.conformance.official import GROUP, loose_array_json
from tests.support.differential import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    Outcome,
    Seen,
    Side,
    Station,
    is_metadata,
    is_reserved,
    is_valid,
    populate,
    renameat2,
)

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


class BranchCalls(RuleBasedStateMachine):
    """Names, whole files and open files: each call goes to both sides."""

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
        self.write_back(number)
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

    def write_back(self, number: int) -> None:
        """Has the kernel write what was written through mappings: allowed difference 6."""
        ino = self.unsynced.pop(number, None)
        if ino is not None:
            self.touched.add(ino)
            self.both(lambda side: os.fsync(side.fds[number]))

    def write_back_all(self) -> None:
        for number in list(self.unsynced):
            self.write_back(number)

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
        self.write_back(number)
        self.touch_open(number)
        del self.flags[number]
        self.closing(number, lambda side: side.close(number))

    def close_all(self) -> None:
        for number in list(self.flags):
            self.close_one(number)
