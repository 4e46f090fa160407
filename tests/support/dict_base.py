"""A base in a dictionary, and a registry of them by snapshot."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count

from icefs.paths import child
from icefs.worktree.base import BaseAttr, BaseTree

_ROOT_INO = 1


class DictBase:
    """Files by path. Directories exist where a file lies below them, as in an Icechunk tree.

    Inode numbers come from a `Numbers` that several snapshots share: a path keeps its number while `epochs` says
    the same of it.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        numbers: "Numbers",
        mtimes: Mapping[str, int] | None = None,
        epochs: Mapping[str, int] | None = None,
    ) -> None:
        self.files = dict(files)
        self.epochs = dict(epochs or {})
        self.numbers = numbers
        self.mtimes = dict(mtimes or {})
        self.listed: list[str] = []
        self.reads: list[str] = []
        self._names: dict[str, dict[str, bool]] = {"": {}}
        for path in sorted(self.files):
            above, name, is_dir = path.rpartition("/")[0], path.rpartition("/")[2], False
            while name not in self._names.setdefault(above, {}) or above:
                self._names[above][name] = is_dir
                if not above:
                    break
                above, _, name = above.rpartition("/")
                is_dir = True

    def stat(self, path: str) -> BaseAttr | None:
        ino, mtime_ns = self.numbers.of(path, self.epochs.get(path, 0)), self.mtimes.get(path, 1_000)
        if path in self.files:
            return BaseAttr(ino, False, len(self.files[path]), mtime_ns)
        return BaseAttr(ino, True, 0, mtime_ns) if path in self._names else None

    def stat_many(self, paths: Sequence[str]) -> list[BaseAttr | None]:
        return [self.stat(path) for path in paths]

    def content(self, path: str) -> bytes | None:
        return self.files.get(path)

    def list(self, path: str) -> Iterator[tuple[str, BaseAttr]]:
        self.listed.append(path)
        for name in self._names.get(path, {}):
            attr = self.stat(child(path, name))
            assert attr is not None
            yield name, attr

    def read(self, path: str, offset: int, size: int) -> bytes:
        self.reads.append(path)
        return self.files[path][offset : offset + size]

    def copy_to(self, path: str, fd: int) -> None:
        self.reads.append(path)
        os.write(fd, self.files[path])


class Numbers:
    """Inode numbers of base paths; those of upper nodes are drawn from far above."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], int] = {("", 0): _ROOT_INO}
        self._upper = count(1 << 40)

    def of(self, path: str, epoch: int) -> int:
        return self._known.setdefault((path, epoch), len(self._known) + _ROOT_INO)

    def allocate(self) -> int:
        return next(self._upper)


class Snapshots:
    """The base of a make-believe repository."""

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        self.numbers = Numbers()
        self.trees: dict[str, DictBase] = {}
        self.add("base", files or {})

    def add(
        self,
        snapshot_id: str,
        files: Mapping[str, bytes],
        mtimes: Mapping[str, int] | None = None,
        *,
        on: str = "",
        changed: Collection[str] = (),
    ) -> DictBase:
        """Adds a snapshot.

        Args:
            snapshot_id: Its id.
            files: All its files.
            mtimes: When each changed.
            on: The snapshot it was made from.
            changed: The paths that it made or changed, which have other inode numbers therefore.
        """
        epochs = {**(self.trees[on].epochs if on else {}), **dict.fromkeys(changed, len(self.trees))}
        self.trees[snapshot_id] = tree = DictBase(files, self.numbers, mtimes, epochs)
        return tree

    def __call__(self, snapshot_id: str) -> BaseTree:
        return self.trees[snapshot_id]
