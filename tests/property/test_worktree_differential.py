"""The same random operations on a working tree and on a plain directory: results, errnos, listings and bytes.

The plain directory is the model. Where the two may differ is listed here, and nowhere else:

1.  Names of Zarr v2 metadata cannot be created (EPERM).
2.  A directory has one link and size 0.
3.  After a commit, modes are the default ones, and names that shared a file and were all committed are files of
    their own; both are then done to the model, too.
4.  A remount gives new inode numbers, committed files the time of the snapshot, and a directory of the base in
    which nothing is left that changed its old time.
5.  Content changes always give a new, later mtime, even if the clock stands still (the model is not asked).
"""

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from icefs import errors
from icefs.worktree.freeze.frozen import FrozenDir, FrozenEntry, FrozenFile, FrozenTree, is_directory
from icefs.worktree.ops.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE
from tests.support.base_plans import complete_recovered, plan_of_commit
from tests.support.dict_base import Snapshots
from tests.support.differential import is_reserved, renameat2
from tests.support.tree_driver import Driver, Ticks, open_tree

ERRNOS: list[tuple[type[BaseException], int]] = [
    (errors.ReservedNameError, errno.EPERM),
    (errors.NotPermittedError, errno.EPERM),
    (errors.NameTooLongError, errno.ENAMETOOLONG),
    (errors.InvalidInputError, errno.EINVAL),
    (errors.NotFoundError, errno.ENOENT),
    (errors.StaleError, errno.ENOENT),
    (errors.AlreadyExistsError, errno.EEXIST),
    (errors.NotADirectoryTreeError, errno.ENOTDIR),
    (errors.IsADirectoryTreeError, errno.EISDIR),
    (errors.NotEmptyError, errno.ENOTEMPTY),
    (errors.BadHandleError, errno.EBADF),
]

BASE = {
    "zarr.json": b"root",
    "a/zarr.json": b"array",
    "a/c/0": b"chunk 0",
    "a/c/1": b"chunk one",
    "b/zarr.json": b"group",
    "b/0/zarr.json": b"inner",
    "b/0/c/0": b"deep chunk",
}

NAMES = ["zarr.json", "c", "0", "1", "x.partial", ".zgroup", "a", "b"]
LONG_NAME = "n" * 256
# A path is text, the number of something that exists, or a name in a directory of that number.
type PathLike = str | int | tuple[int, str]
PATHS = (
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
    | st.integers(0, 30)
    | st.tuples(st.integers(0, 10), st.sampled_from(NAMES))
)
DATA = st.sampled_from([b"", b"x", b"some bytes", b"longer than a chunk was"])
OFFSETS = st.sampled_from([0, 1, 7, 30])
OPEN_FLAGS = st.sampled_from(
    [
        os.O_RDONLY,
        os.O_RDWR,
        os.O_WRONLY | os.O_APPEND,
        os.O_RDWR | os.O_TRUNC,
        os.O_RDWR | os.O_CREAT,
        os.O_RDWR | os.O_CREAT | os.O_EXCL,
        os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    ]
)
UNTRACKED = "x.partial"


@dataclass
class Open:
    fd: int
    handle: int


@dataclass
class Taken:
    """A view, and what the model had when it was taken."""

    frozen: FrozenTree
    files: dict[str, bytes]


def outcome(function: Callable[[], Any]) -> tuple[int, Any]:
    try:
        return 0, function()
    except OSError as error:
        return error.errno or -1, None
    except errors.IcefsError as error:
        for kind, number in ERRNOS:
            if isinstance(error, kind):
                return number, None
        raise


class WorkTreeMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix="icefs-worktree-"))
        self.model = self.scratch / "model"
        self.model.mkdir()
        self.snapshots = Snapshots(BASE)
        self.populate(BASE)
        self.clock = Ticks(step=0)
        self.driver: Driver = open_tree(self.scratch / "state", self.snapshots, self.clock)
        self.opened: list[Open] = []
        self.frozen: Taken | None = None
        self.views: list[Taken] = []
        self.commits = 0
        self.times: dict[str, tuple[int, int, bytes, int]] = {}
        self.may_change: set[int] = set()
        self.forget_inos = False

    def populate(self, files: dict[str, bytes]) -> None:
        for path, data in files.items():
            target = self.model / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        for directory, _, names in os.walk(self.model):
            os.chmod(directory, 0o755)
            for name in names:
                os.chmod(os.path.join(directory, name), 0o644)

    def text(self, path: PathLike) -> str:
        """Returns the path that a strategy means."""
        if isinstance(path, str):
            return path
        found = [("", "")]
        for directory, dirs, names in os.walk(self.model):
            at = os.path.relpath(directory, self.model)
            found += [
                (kind, os.path.normpath(f"{at}/{name}")) for kind, of in (("d", dirs), ("f", names)) for name in of
            ]
        if isinstance(path, int):
            found = sorted(path for kind, path in found if kind)
            return found[path % len(found)] if found else "a"
        dirs = sorted(path for kind, path in found if kind != "f")
        above = dirs[path[0] % len(dirs)]
        return f"{above}/{path[1]}" if above else path[1]

    def real(self, path: str) -> str:
        return f"{self.model}/{path}"

    def both(self, tree: Callable[[], Any], model: Callable[[], Any]) -> tuple[Any, Any] | None:
        """Does the same on both sides; returns the results, or None if both failed alike."""
        expected, result = outcome(model), outcome(tree)
        assert result[0] == expected[0], (
            f"tree: {errno.errorcode.get(result[0], result[0])}, model: {errno.errorcode.get(expected[0], expected[0])}"
        )
        return None if expected[0] else (result[1], expected[1])

    def both_unless_reserved(self, path: str, tree: Callable[[], Any], model: Callable[[], Any]) -> None:
        """Allowed difference 1."""
        if is_reserved(path):
            assert outcome(tree)[0] in {errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EINVAL, errno.EEXIST}
        else:
            self.both(tree, model)

    def changing(self, path: str) -> None:
        """Notes that an operation may give the file at a path another mtime."""
        with contextlib.suppress(errors.IcefsError):
            self.may_change.add(self.driver.stat(path).ino)

    # Names

    @rule(path=PATHS)
    def mkdir(self, path: PathLike) -> None:
        path = self.text(path)
        self.both_unless_reserved(path, lambda: self.driver.mkdir(path), lambda: os.mkdir(self.real(path), 0o755))

    @rule(path=PATHS)
    def rmdir(self, path: PathLike) -> None:
        path = self.text(path)
        self.both(lambda: self.driver.rmdir(path), lambda: os.rmdir(self.real(path)))

    @rule(path=PATHS)
    def unlink(self, path: PathLike) -> None:
        path = self.text(path)
        self.both(lambda: self.driver.unlink(path), lambda: os.unlink(self.real(path)))

    @rule(old=PATHS, new=PATHS, flags=st.sampled_from([0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE]))
    def rename(self, old: PathLike, new: PathLike, flags: int) -> None:
        old, new = self.text(old), self.text(new)
        if is_reserved(old) and not is_reserved(new):
            new = old
        self.both_unless_reserved(
            new,
            lambda: self.driver.rename(old, new, flags),
            lambda: renameat2(self.real(old), self.real(new), flags),
        )

    @rule(old=PATHS, new=PATHS)
    def link(self, old: PathLike, new: PathLike) -> None:
        old, new = self.text(old), self.text(new)
        self.both_unless_reserved(
            new, lambda: self.driver.link(old, new), lambda: os.link(self.real(old), self.real(new))
        )

    @rule(path=PATHS)
    def name_too_long(self, path: PathLike) -> None:
        path = self.text(path)
        path = f"{path}/{LONG_NAME}"
        self.both(lambda: self.driver.stat(path), lambda: os.stat(self.real(path)))
        self.both(lambda: self.driver.mkdir(path), lambda: os.mkdir(self.real(path)))

    @rule(path=PATHS)
    def rmtree(self, path: PathLike) -> None:
        path = self.text(path)

        def tree() -> None:
            if not self.driver.stat(path).is_dir:
                raise errors.NotADirectoryTreeError(path)
            self.remove_below(path)

        def model() -> None:
            if not stat.S_ISDIR(os.stat(self.real(path)).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, path)
            shutil.rmtree(self.real(path))

        self.both(tree, model)

    def remove_below(self, path: str) -> None:
        for name, entry in self.driver.tree.entries.list(self.driver.where(path)):
            if entry.attr.is_dir:
                self.remove_below(f"{path}/{name}")
            else:
                self.driver.unlink(f"{path}/{name}")
        self.driver.rmdir(path)

    # Whole files

    @rule(path=PATHS, data=DATA)
    def write_file(self, path: PathLike, data: bytes) -> None:
        path = self.text(path)
        self.changing(path)
        self.both_unless_reserved(path, lambda: self.driver.write(path, data), lambda: self.write_model(path, data))

    def write_model(self, path: str, data: bytes) -> None:
        fd = os.open(self.real(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            os.fchmod(fd, os.fstat(fd).st_mode)
            os.write(fd, data)
        finally:
            os.close(fd)

    @rule(path=PATHS, data=DATA)
    def write_by_rename(self, path: PathLike, data: bytes) -> None:
        """As zarr-python writes."""
        path = self.text(path)
        temporary = f"{path.rpartition('/')[0]}/tmp.partial".lstrip("/")

        def tree() -> None:
            self.driver.write(temporary, data)
            try:
                self.driver.rename(temporary, path)
            except errors.IcefsError:
                self.driver.unlink(temporary)
                raise

        def model() -> None:
            self.write_model(temporary, data)
            try:
                os.rename(self.real(temporary), self.real(path))
            except OSError:
                os.unlink(self.real(temporary))
                raise

        self.both_unless_reserved(path, tree, model)

    @rule(path=PATHS, size=OFFSETS)
    def truncate(self, path: PathLike, size: int) -> None:
        path = self.text(path)
        self.changing(path)
        self.both(lambda: self.driver.truncate(path, size), lambda: os.truncate(self.real(path), size))

    @rule(path=PATHS, mode=st.sampled_from([0o600, 0o644, 0o755]))
    def chmod(self, path: PathLike, mode: int) -> None:
        path = self.text(path)
        self.both(lambda: self.driver.chmod(path, mode), lambda: os.chmod(self.real(path), mode))

    @rule(path=PATHS, time_ns=st.integers(1, 2_000_000))
    def utime(self, path: PathLike, time_ns: int) -> None:
        path = self.text(path)
        self.changing(path)
        done = self.both(
            lambda: self.driver.utime(path, time_ns + 1, time_ns),
            lambda: os.utime(self.real(path), ns=(time_ns + 1, time_ns)),
        )
        if done is not None:
            attr = self.driver.stat(path)
            assert (attr.mtime_ns, attr.atime_ns) == (time_ns, time_ns + 1)

    # Handles

    @precondition(lambda self: len(self.opened) < 4)
    @rule(path=PATHS, flags=OPEN_FLAGS)
    def open(self, path: PathLike, flags: int) -> None:
        path = self.text(path)
        if flags & os.O_TRUNC:
            self.changing(path)
        if is_reserved(path) and flags & os.O_CREAT:
            assert outcome(lambda: self.driver.open(path, flags))[0] in {errno.EPERM, errno.ENOENT, errno.ENOTDIR}
            return
        if flags == os.O_RDONLY and os.path.isdir(self.real(path)):
            assert outcome(lambda: self.driver.open(path, flags))[0] == errno.EISDIR  # the kernel calls opendir
            return
        done = self.both(lambda: self.driver.open(path, flags), lambda: os.open(self.real(path), flags, 0o644))
        if done is not None:
            self.opened.append(Open(fd=done[1], handle=done[0]))

    def pick(self, number: int) -> Open:
        return self.opened[number % len(self.opened)]

    @precondition(lambda self: self.opened)
    @rule(number=st.integers(0, 3), data=DATA, offset=OFFSETS)
    def pwrite(self, number: int, data: bytes, offset: int) -> None:
        opened = self.pick(number)
        self.may_change.add(self.driver.tree.files.getattr(opened.handle).ino)
        done = self.both(
            lambda: self.driver.tree.files.write(opened.handle, offset, data),
            lambda: os.pwrite(opened.fd, data, offset),
        )
        assert done is None or done[0] == done[1]

    @precondition(lambda self: self.opened)
    @rule(number=st.integers(0, 3), offset=OFFSETS, size=OFFSETS)
    def pread(self, number: int, offset: int, size: int) -> None:
        opened = self.pick(number)
        done = self.both(
            lambda: self.driver.tree.files.read(opened.handle, offset, size), lambda: os.pread(opened.fd, size, offset)
        )
        assert done is None or done[0] == done[1]

    @precondition(lambda self: self.opened)
    @rule(number=st.integers(0, 3), size=OFFSETS)
    def ftruncate(self, number: int, size: int) -> None:
        opened = self.pick(number)
        self.may_change.add(self.driver.tree.files.getattr(opened.handle).ino)
        expected = outcome(lambda: os.ftruncate(opened.fd, size))[0]
        # Not open for writing is EINVAL for ftruncate and EBADF for write; the kernel checks before it asks.
        expected = errno.EBADF if expected == errno.EINVAL else expected
        assert outcome(lambda: self.driver.tree.files.truncate(opened.handle, size))[0] == expected

    @precondition(lambda self: self.opened)
    @rule(number=st.integers(0, 3), durable=st.booleans())
    def sync(self, number: int, durable: bool) -> None:
        opened = self.pick(number)
        if durable:
            self.driver.tree.files.fsync(opened.handle)
            self.driver.tree.names.fsync()
        else:
            self.driver.tree.files.flush(opened.handle)

    @precondition(lambda self: self.opened)
    @rule(number=st.integers(0, 3))
    def close(self, number: int) -> None:
        opened = self.pick(number)
        self.opened.remove(opened)
        os.close(opened.fd)
        self.driver.close(opened.handle)

    # Views, commits, remounts

    def model_files(self) -> dict[str, bytes]:
        return {
            os.path.relpath(os.path.join(directory, name), self.model): Path(directory, name).read_bytes()
            for directory, _, names in os.walk(self.model)
            for name in names
        }

    def frozen_files(self, frozen: FrozenTree) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        waiting: list[tuple[str, Any]] = [("", frozen.root)]
        while waiting:
            above, directory = waiting.pop()
            for name, entry in frozen.list(directory):
                path = f"{above}/{name}" if above else name
                if is_directory(entry):
                    waiting.append((path, entry))
                else:
                    files[path] = frozen.read(entry)
        return files

    @precondition(lambda self: self.frozen is None)
    @rule()
    def freeze(self) -> None:
        self.frozen = Taken(self.driver.tree.freeze(), self.model_files())

    @precondition(lambda self: len(self.views) < 2)
    @rule()
    def view(self) -> None:
        self.views.append(Taken(self.driver.tree.view(), self.model_files()))

    @precondition(lambda self: self.views)
    @rule(number=st.integers(0, 1))
    def release_view(self, number: int) -> None:
        taken = self.views.pop(number % len(self.views))
        assert self.frozen_files(taken.frozen) == taken.files
        self.driver.tree.release_view(taken.frozen)

    @precondition(lambda self: self.frozen is not None)
    @rule()
    def abandon(self) -> None:
        assert self.frozen is not None
        assert self.frozen_files(self.frozen.frozen) == self.frozen.files
        self.driver.tree.abandon(self.frozen.frozen)
        self.frozen = None

    def prepare_commit(self) -> tuple[str, list[str]]:
        assert self.frozen is not None
        assert self.frozen_files(self.frozen.frozen) == self.frozen.files
        left = [path for path, _ in self.frozen.frozen.walk() if path.rpartition("/")[2] == UNTRACKED]
        committed = {path: data for path, data in self.frozen.files.items() if UNTRACKED not in path.split("/")}
        self.commits += 1
        snapshot_id = f"commit {self.commits}"
        changed = [
            path for path, entry in self.frozen.frozen.walk() if isinstance(entry, FrozenDir) or not is_natural(entry)
        ]
        self.snapshots.add(snapshot_id, committed, on=self.driver.tree.base, changed=changed)
        return snapshot_id, left

    @precondition(lambda self: self.frozen is not None)
    @rule()
    def complete(self) -> None:
        assert self.frozen is not None
        snapshot_id, left = self.prepare_commit()
        if self.commits % 2:
            self.driver.tree.record_intent(self.frozen.frozen, snapshot_id, self.driver.tree.base, left)
        result = self.driver.tree.change_base(plan_of_commit(self.frozen.frozen, snapshot_id, left))
        assert result.kept_back == []
        assert self.driver.tree.base == snapshot_id
        self.frozen = None
        self.committed()

    def committed(self) -> None:
        """Does to the model what a commit does besides its purpose: allowed difference 3."""
        self.times = {path: (ino, mtime, data, -1) for path, (ino, mtime, data, _) in self.times.items()}
        shared: dict[int, list[tuple[str, int]]] = {}
        for path, entry in self.driver.walk():
            os.chmod(self.real(path), stat.S_IMODE(entry.attr.mode))
            if not entry.attr.is_dir:
                shared.setdefault(os.stat(self.real(path)).st_ino, []).append((path, entry.attr.ino))
        for links in shared.values():
            groups: dict[int, list[str]] = {}
            for path, ino in links:
                groups.setdefault(ino, []).append(path)
            # A file that is still open stays one file in the tree, and keeps its descriptor in the model.
            for paths in sorted(groups.values(), key=len)[: len(groups) - 1]:
                self.may_change.update(self.driver.stat(path).ino for path in paths)
                first = self.real(paths[0])
                shutil.copy2(first, f"{first}.split")
                os.replace(f"{first}.split", first)
                for path in paths[1:]:
                    os.unlink(self.real(path))
                    os.link(first, self.real(path))

    @rule(how=st.sampled_from(["plain", "intent", "intent"]), published=st.booleans())
    def remount(self, how: str, published: bool) -> None:
        for opened in self.opened:
            os.close(opened.fd)
            self.driver.close(opened.handle)
        self.opened.clear()
        self.views.clear()
        before = {path: entry.attr for path, entry in self.driver.walk()}
        snapshot_id, left = "", []
        if self.frozen is not None and how == "intent":
            snapshot_id, left = self.prepare_commit()
            self.driver.tree.record_intent(self.frozen.frozen, snapshot_id, self.driver.tree.base, left)
        self.driver.tree.close()
        self.driver = open_tree(self.scratch / "state", self.snapshots, self.clock)
        tree = self.driver.tree
        assert not tree.recovery.lost
        assert not tree.recovery.rewritten
        assert not tree.recovery.changed
        assert not tree.recovery.cut
        assert not tree.recovery.set_aside
        frozen, self.frozen = self.frozen, None
        if snapshot_id:
            assert tree.pending_intent is not None
            assert tree.pending_intent.snapshot_id == snapshot_id
            assert frozen is not None
            recovered = tree._commits.recovered
            assert recovered is not None
            assert self.frozen_files(recovered) == frozen.files
            if published:
                complete_recovered(tree)
                self.committed()
            else:
                tree.abandon_recovered()
        assert tree.pending_intent is None
        after = dict(self.driver.walk())
        for path, (where, attr) in after.items():
            if attr.is_dir or isinstance(where, str):
                assert (attr.mode, attr.size) == (before[path].mode, before[path].size) or published
            else:
                assert attr._replace(ino=before[path].ino) == before[path]
        self.forget_inos = True

    @precondition(lambda self: self.frozen is None and not self.opened)
    @rule()
    def discard_all(self) -> None:
        self.driver.tree.discard()
        base = self.snapshots.trees[self.driver.tree.base]
        shutil.rmtree(self.model)
        self.model.mkdir()
        self.populate(base.files)
        self.forget_inos = True
        assert not self.driver.tree.has_changes()

    # What holds after each step

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "driver"):
            return
        self.driver.tree.check_invariants()
        seen = {path: entry.attr for path, entry in self.driver.walk()}
        expected: dict[str, os.stat_result] = {}
        for directory, dirs, names in os.walk(self.model):
            for name in (*dirs, *names):
                path = os.path.relpath(os.path.join(directory, name), self.model)
                expected[path] = os.stat(self.real(path))
        assert seen.keys() == expected.keys()
        times: dict[str, tuple[int, int, bytes, int]] = {}
        for path, attr in seen.items():
            model = expected[path]
            assert attr.mode == model.st_mode, path
            if attr.is_dir:
                continue
            data = self.driver.read(path)
            assert data == Path(self.real(path)).read_bytes(), path
            assert attr.size == len(data), path
            if not self.commits:
                assert attr.nlink == model.st_nlink, path
            times[path] = (attr.ino, attr.mtime_ns, data, model.st_ino)
        inos = {path: attr.ino for path, attr in seen.items()}
        model_inos = {path: found.st_ino for path, found in expected.items()}
        assert partition(inos) == partition(model_inos)
        self.check_times(times)
        self.times = times
        self.may_change.clear()
        self.forget_inos = False

    def check_times(self, times: dict[str, tuple[int, int, bytes, int]]) -> None:
        """Checks that inode numbers stay with files, and mtimes with contents."""
        if self.forget_inos:
            return
        for path, (ino, mtime, data, model_ino) in times.items():
            if path not in self.times:
                continue
            old_ino, old_mtime, old_data, old_model_ino = self.times[path]
            if model_ino == old_model_ino:
                assert ino == old_ino, f"{path}: another inode number for the same file"
            if ino in self.may_change:
                if old_ino == ino and data != old_data:
                    assert mtime != old_mtime, f"{path}: content changed and mtime did not"
            elif ino == old_ino:
                assert data == old_data, path
                assert mtime == old_mtime, f"{path}: mtime changed and content did not"

    def teardown(self) -> None:
        if hasattr(self, "driver"):
            for opened in self.opened:
                os.close(opened.fd)
                self.driver.close(opened.handle)
            self.driver.tree.close()
            shutil.rmtree(self.scratch)


def is_natural(entry: FrozenEntry) -> bool:
    return isinstance(entry, FrozenFile) and entry.is_natural


def partition(inos: dict[str, int]) -> set[frozenset[str]]:
    """Returns which paths are names of one file."""
    groups: dict[int, set[str]] = {}
    for path, ino in inos.items():
        groups.setdefault(ino, set()).add(path)
    return {frozenset(paths) for paths in groups.values()}


TestWorkTree = WorkTreeMachine.TestCase
TestWorkTree.settings = settings(stateful_step_count=60)
