"""Working trees by path: what tests call instead of the kernel."""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from icefs.errors import EntryNotFoundError, NotADirectoryTreeError
from icefs.worktree.model.nodes import Attr, NodeRef, Perm, TreeEntry
from icefs.worktree.ops.attributes import AttrChange
from icefs.worktree.tree import TreeOptions, WorkTree
from tests.support.dict_base import Snapshots

PERM = Perm(0o644, 1000, 1000)
DIR_PERM = Perm(0o755, 1000, 1000)


class Ticks:
    """A clock that goes on by itself; or stands still, to see whether times grow all the same."""

    def __init__(self, start: int = 1_000_000, step: int = 10) -> None:
        self.now = start
        self.step = step

    def __call__(self) -> int:
        self.now += self.step
        return self.now


def options(snapshots: Snapshots, now_ns: Callable[[], int] | None = None) -> TreeOptions:
    """Returns how a test opens a tree."""
    made = TreeOptions(
        base_for=snapshots,
        allocate_ino=snapshots.numbers.allocate,
        repository="memory:test",
        branch="main",
        base="base",
        file=PERM,
        directory=DIR_PERM,
    )
    return made if now_ns is None else replace(made, now_ns=now_ns)


class Driver:
    """A working tree, addressed by path."""

    def __init__(self, tree: WorkTree) -> None:
        self.tree = tree

    def entry(self, path: str) -> TreeEntry | None:
        """Looks a path up, one name at a time, as the kernel does."""
        entry = TreeEntry(self.tree.root_ino, self.tree.entries.attr(self.tree.root_ino))
        for name in path.split("/") if path else []:
            if not entry.attr.is_dir:
                raise NotADirectoryTreeError(path)
            found = self.tree.entries.lookup(entry.where, name)
            if found is None:
                return None
            entry = found
        return entry

    def where(self, path: str) -> NodeRef:
        entry = self.entry(path)
        if entry is None:
            raise EntryNotFoundError(path)
        return entry.where

    def parent(self, path: str) -> tuple[NodeRef, str]:
        above, _, name = path.rpartition("/")
        entry = self.entry(above)
        if entry is None:
            raise EntryNotFoundError(path)
        if not entry.attr.is_dir:
            raise NotADirectoryTreeError(path)
        return entry.where, name

    def stat(self, path: str) -> Attr:
        entry = self.entry(path)
        if entry is None:
            raise EntryNotFoundError(path)
        assert entry.attr == self.tree.entries.attr(entry.where)
        return entry.attr

    def exists(self, path: str) -> bool:
        try:
            return self.entry(path) is not None
        except NotADirectoryTreeError:
            return False

    def open(self, path: str, flags: int, perm: Perm = PERM) -> int:
        if flags & os.O_CREAT:
            return self.tree.names.create(*self.parent(path), perm, flags)[1]
        return self.tree.files.open(self.where(path), flags)

    def close(self, handle: int) -> None:
        try:
            self.tree.files.flush(handle)
        finally:
            self.tree.files.release(handle)

    def write(self, path: str, data: bytes, flags: int = os.O_WRONLY | os.O_CREAT | os.O_TRUNC) -> None:
        handle = self.open(path, flags)
        try:
            self.tree.files.write(handle, 0, data)
        finally:
            self.close(handle)

    def read(self, path: str) -> bytes:
        handle = self.open(path, os.O_RDONLY)
        try:
            return self.tree.files.read(handle, 0, 1 << 24)
        finally:
            self.close(handle)

    def mkdir(self, path: str, perm: Perm = DIR_PERM) -> None:
        self.tree.names.mkdir(*self.parent(path), perm)

    def unlink(self, path: str) -> None:
        self.tree.names.unlink(*self.parent(path))

    def rmdir(self, path: str) -> None:
        self.tree.names.rmdir(*self.parent(path))

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        self.tree.names.rename(*self.parent(old), *self.parent(new), flags)

    def link(self, old: str, new: str) -> None:
        self.tree.names.link(self.where(old), *self.parent(new))

    def truncate(self, path: str, size: int) -> None:
        self.tree.attributes.set(self.where(path), AttrChange(size=size))

    def chmod(self, path: str, mode: int) -> None:
        self.tree.attributes.set(self.where(path), AttrChange(mode=mode))

    def utime(self, path: str, atime_ns: int, mtime_ns: int) -> None:
        self.tree.attributes.set(self.where(path), AttrChange(atime_ns=atime_ns, mtime_ns=mtime_ns))

    def listdir(self, path: str) -> list[str]:
        return sorted(name for name, _ in self.tree.entries.list(self.where(path)))

    def walk(self) -> Iterator[tuple[str, TreeEntry]]:
        """Yields everything below the root with its path."""
        waiting: list[tuple[str, NodeRef]] = [("", self.tree.root_ino)]
        while waiting:
            above, where = waiting.pop()
            for name, entry in sorted(self.tree.entries.list(where)):
                path = f"{above}/{name}" if above else name
                looked_up = self.tree.entries.lookup(where, name)
                assert looked_up == entry, (path, looked_up, entry)
                yield path, entry
                if entry.attr.is_dir:
                    waiting.append((path, entry.where))

    def files(self) -> dict[str, bytes]:
        """Returns the bytes of every file."""
        return {path: self.read(path) for path, entry in self.walk() if stat.S_ISREG(entry.attr.mode)}


def open_tree(directory: Path, snapshots: Snapshots, now_ns: Callable[[], int] | None = None) -> Driver:
    """Opens a working tree."""
    return Driver(WorkTree(directory, options(snapshots, now_ns)))
