"""The inode numbers and times of what was committed.

A program must not notice a commit: the file it wrote keeps its inode number and mtime when the snapshot provides
it instead of the working tree. A million committed files cost some thirty bytes each here: one sorted column of
names per directory, with two numbers each. Files that were renamed with their directory cost nothing
(`retained_regions`).
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from icefs.inode import Ino
from icefs.paths import TreePath, child, is_below, lineage, relative, split
from icefs.worktree.model.retained_regions import RetainedAttr, RetainedRegions


class _Directory(NamedTuple):
    """INVARIANT: the columns have one length; `names` is sorted and has no duplicates."""

    names: npt.NDArray[np.bytes_]
    inos: npt.NDArray[np.uint64]
    mtimes: npt.NDArray[np.int64]

    def find(self, name: bytes) -> int:
        if len(name) > self.names.dtype.itemsize:
            return -1  # and numpy would widen the whole column to compare
        row = int(np.searchsorted(self.names, np.array(name, dtype=self.names.dtype)))
        return row if row < len(self.names) and self.names[row] == name else -1


class RetainedAttrs:
    """Attributes by base path, and paths by inode number.

    Concurrency: the tree's lock protects it.

    Attributes:
        regions: The retained attributes of whole directories, where a path has none of its own.
    """

    def __init__(self) -> None:
        self.regions = RetainedRegions()
        self._directories: dict[TreePath, _Directory] = {}
        self._by_ino: tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], list[TreePath]] | None = None

    def __bool__(self) -> bool:
        return bool(self._directories) or bool(self.regions)

    def __len__(self) -> int:
        return sum(len(directory.names) for directory in self._directories.values())

    def get(self, path: TreePath) -> RetainedAttr | None:
        """Returns the retained attributes of a base path; None if it has none."""
        return self._own(path) or self.regions.get(path)

    def _own(self, path: TreePath) -> RetainedAttr | None:
        parent, name = split(path)
        directory = self._directories.get(parent)
        if directory is None:
            return None
        row = directory.find(name.encode())
        return None if row < 0 else RetainedAttr(Ino(int(directory.inos[row])), int(directory.mtimes[row]))

    def has_names(self, parent: TreePath) -> bool:
        """Tells whether entries of one base directory have retained attributes."""
        return parent in self._directories or self.regions.covers(parent)

    def in_directory(self, parent: TreePath) -> Callable[[str], RetainedAttr | None]:
        """Returns a function from a name in one base directory to its retained attributes; it takes no lock."""
        names, regions = self._names_of(parent), self.regions
        if not regions.covers(parent):
            return names.get
        return lambda name: names.get(name) or regions.get(child(parent, name))

    def _names_of(self, parent: TreePath) -> dict[str, RetainedAttr]:
        directory = self._directories.get(parent)
        if directory is None:
            return {}
        rows = zip(directory.names.tolist(), directory.inos.tolist(), directory.mtimes.tolist(), strict=True)
        return {name.decode(): RetainedAttr(ino, mtime) for name, ino, mtime in rows}

    def path_of(self, ino: Ino) -> TreePath | None:
        """Returns the base path that has retained this inode number."""
        own = self._own_path_of(ino)
        if own is not None or not self.regions:
            return own
        path = self.regions.path_of(ino)
        return path if path is not None and self._own(path) is None else None

    def _own_path_of(self, ino: Ino) -> TreePath | None:
        if not self._directories:
            return None
        if self._by_ino is None:
            self._by_ino = self._index()
        inos, places, parents = self._by_ino
        at = int(np.searchsorted(inos, np.uint64(ino)))
        if at >= len(inos) or int(inos[at]) != ino:
            return None
        place = int(places[at])
        parent = parents[place >> 32]
        return child(parent, self._directories[parent].names[place & 0xFFFFFFFF].decode())

    def _index(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64], list[TreePath]]:
        parents = list(self._directories)
        directories = [self._directories[parent] for parent in parents]
        inos = np.concatenate([directory.inos for directory in directories])
        places = np.concatenate(
            [
                np.arange(len(directory.inos), dtype=np.int64) | number << 32
                for number, directory in enumerate(directories)
            ]
        )
        order = np.argsort(inos, kind="stable")
        return inos[order], places[order], parents

    def add(self, parent: TreePath, entries: Iterable[tuple[str, Ino, int]]) -> None:
        """Retains (name, ino, mtime_ns) of entries of one base directory, in place of what they had retained."""
        rows = {name.encode(): (ino, mtime) for name, ino, mtime in entries}
        if not rows:
            return
        order = sorted(rows)
        names = np.array(order)
        inos = np.array([rows[name][0] for name in order], dtype=np.uint64)
        mtimes = np.array([rows[name][1] for name in order], dtype=np.int64)
        old = self._directories.get(parent)
        self._directories[parent] = (
            _Directory(names, inos, mtimes) if old is None else _merge(old, _Directory(names, inos, mtimes))
        )
        self._by_ino = None

    def add_paths(self, entries: Iterable[tuple[TreePath, Ino, int]]) -> None:
        """Retains (path, ino, mtime_ns) of entries of any directories."""
        by_parent: dict[TreePath, list[tuple[str, Ino, int]]] = {}
        for path, ino, mtime_ns in entries:
            above, name = split(path)
            by_parent.setdefault(above, []).append((name, ino, mtime_ns))
        for above, rows in by_parent.items():
            self.add(above, rows)

    def forget(self, paths: Iterable[TreePath]) -> None:
        """Forgets base paths and everything below them; of a path with a slash at its end, what is below alone."""
        gone = set(paths)
        self.regions.forget(TreePath(path.removesuffix("/")) for path in gone)
        self._forget_own(gone)

    def _forget_own(self, paths: Iterable[TreePath]) -> None:
        gone = set(paths)
        if not gone or not self._directories:
            return
        above = {TreePath(path.removesuffix("/")) for path in gone}
        for parent in [one for one in self._directories if "" in above or not above.isdisjoint(lineage(one))]:
            del self._directories[parent]
        names: dict[TreePath, list[bytes]] = {}
        for path in gone:
            parent, name = split(path)
            if parent in self._directories:
                names.setdefault(parent, []).append(name.encode())
        for parent, dropped in names.items():
            directory = self._directories[parent]
            rows = [row for name in dropped if (row := directory.find(name)) >= 0]
            self._set(
                parent,
                _Directory(
                    np.delete(directory.names, rows),
                    np.delete(directory.inos, rows),
                    np.delete(directory.mtimes, rows),
                ),
            )
        self._by_ino = None

    def _set(self, parent: TreePath, directory: _Directory) -> None:
        if len(directory.names):
            self._directories[parent] = directory
        else:
            self._directories.pop(parent, None)

    def follow(self, moves: Mapping[TreePath, TreePath], gone: Iterable[TreePath]) -> None:
        """Follows a change of base; for whole directories `regions` has to follow it, too.

        Args:
            moves: New base paths by old ones, for them and everything below. Of two that lie below one another
                the longer holds for what is below it.
            gone: Old base paths that are forgotten with everything below, unless it was moved away.
        """
        if not self._directories:
            return
        hidden = sorted(set(gone))
        taken = [
            (new, self._take(old, hidden))
            for old, new in sorted(moves.items(), key=lambda move: len(move[0]), reverse=True)
        ]
        self._forget_own(hidden)
        for new, (attr, below) in taken:
            if attr is not None:
                parent, name = split(new)
                self.add(parent, [(name, *attr)])
            for inner, directory in below.items():
                self._directories[child(new, inner) if inner else new] = directory
        self._by_ino = None

    def _take(
        self, path: TreePath, hidden: Sequence[TreePath]
    ) -> tuple[RetainedAttr | None, dict[TreePath, _Directory]]:
        """Takes out a path and what is below it, but for what is hidden (paths in order) of the latter."""
        attr = self._own(path)
        below = RetainedAttrs()
        below._directories = {
            parent: directory for parent, directory in self._directories.items() if is_below(parent, path)
        }
        self._forget_own([path])
        if below:
            below._forget_own(hidden[bisect_left(hidden, f"{path}/") : bisect_left(hidden, f"{path}0")])
        return attr, {relative(parent, path): directory for parent, directory in below._directories.items()}

    def forget_numbers(self, inos: Sequence[Ino]) -> None:
        """Forgets whatever has one of these numbers: a number leads to one path."""
        if not self._directories or not inos:
            return
        wanted = np.array(inos, np.uint64)
        for parent, directory in list(self._directories.items()):
            rows = np.isin(directory.inos, wanted)
            if rows.any():
                others = ~rows
                self._set(parent, _Directory(directory.names[others], directory.inos[others], directory.mtimes[others]))
        self._by_ino = None

    def used(self) -> Iterator[Ino]:
        """Yields the inode numbers that must not be given up; of a range that is in use, one at least."""
        yield from self.numbers()
        yield from self.regions.numbers()

    def numbers(self) -> Iterator[Ino]:
        """Yields every inode number that a path retains by itself."""
        for directory in self._directories.values():
            yield from directory.inos.tolist()

    def paths(self) -> Iterator[tuple[TreePath, RetainedAttr]]:
        """Yields every path with retained attributes of its own, by directory."""
        for parent in self._directories:
            for name, attr in self._names_of(parent).items():
                yield child(parent, name), attr


def _merge(old: _Directory, new: _Directory) -> _Directory:
    """Puts `new` over `old`, in time proportional to a copy of the columns."""
    width = np.promote_types(old.names.dtype, new.names.dtype)
    names, news = old.names.astype(width), new.names.astype(width)
    at = np.searchsorted(names, news)
    known = names[np.minimum(at, len(names) - 1)] == news
    inos, mtimes = old.inos.copy(), old.mtimes.copy()
    inos[at[known]], mtimes[at[known]] = new.inos[known], new.mtimes[known]
    fresh = ~known
    return _Directory(
        np.insert(names, at[fresh], news[fresh]),
        np.insert(inos, at[fresh], new.inos[fresh]),
        np.insert(mtimes, at[fresh], new.mtimes[fresh]),
    )
