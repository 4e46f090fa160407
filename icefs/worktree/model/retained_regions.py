"""The inode numbers and times of renamed directories of chunks, which are computed and not listed.

Files in a directory of the base have numbers that follow from its place there (see `Former`). When the directory
was renamed and committed they lie elsewhere, and the new base would give them other numbers. A region says instead:
what is below this path has the numbers of what was below that place, but for what has changed since.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from icefs.inode import Ino
from icefs.paths import TreePath, ancestors, child, is_below, lineage, relative

_MAX_LAYERS: Final = 16
"""A directory that is renamed over and over, with changes in between, keeps so many accounts; the rest is new."""


class RetainedAttr(NamedTuple):
    """What stays of a committed file or directory."""

    ino: Ino
    mtime_ns: int


class Former(Protocol):
    """The numbers and times that the chunks of an array had, and the directories above them, at one moment.

    Paths are relative to the array. The answers never change.

    Concurrency: any thread may ask, and holds the tree's lock.
    """

    @property
    def owner(self) -> object:
        """What has the numbers: the same for all moments of one array."""

    def get(self, path: TreePath) -> RetainedAttr | None:
        """Returns what a path had; None where that is not known. Whether anything was there is not looked at."""

    def path_of(self, ino: Ino) -> TreePath | None:
        """Returns the path that had a number."""

    def owner_of(self, ino: Ino) -> object:
        """Returns the owner of any number, or something else where it is of no array."""

    def numbers(self) -> Iterator[Ino]:
        """Yields numbers, one at least of each range that is in use."""


class Region(NamedTuple):
    """A directory that was renamed.

    Attributes:
        former: What was.
        place: Where the directory was, in the array of `former`.
    """

    former: Former
    place: TreePath


@dataclass(slots=True)
class _Layer:
    """One region at a path; `gone` are the paths below it that are something else now, with all below them."""

    region: Region
    gone: set[TreePath] = field(default_factory=set)

    def get(self, below: TreePath) -> RetainedAttr | None:
        if self.gone and not self.gone.isdisjoint(lineage(below)):
            return None
        return self.region.former.get(child(self.region.place, below))

    def inside(self, below: TreePath) -> "_Layer | None":
        """Returns what is known of a directory in the region."""
        if not self.gone.isdisjoint(lineage(below)):
            return None
        gone = {relative(path, below) for path in self.gone if path.startswith(f"{below}/")}
        return _Layer(Region(self.region.former, child(self.region.place, below)), gone)


class RetainedRegions:
    """Regions by the base path that they are at now.

    Of two regions that a path lies in the inner one counts; of two at the same path the older one, which has the
    numbers that were there first.

    INVARIANT: `_formers` and `_places` are made of `_layers`: the accounts by their owner, and the paths that show a
        place of one.

    Concurrency: the tree's lock protects it; `get` may be called without.
    """

    def __init__(self) -> None:
        self._layers: dict[TreePath, list[_Layer]] = {}
        self._formers: dict[object, list[Former]] = {}
        self._places: dict[tuple[int, TreePath], list[TreePath]] = {}

    def __bool__(self) -> bool:
        return bool(self._layers)

    def __len__(self) -> int:
        return sum(len(layers) for layers in self._layers.values())

    def get(self, path: TreePath) -> RetainedAttr | None:
        """Returns the retained attributes of a base path."""
        if not self._layers:
            return None
        for root in ancestors(path):
            for layer in self._layers.get(root, ()):
                found = layer.get(relative(path, root))
                if found is not None:
                    return found
        return None

    def covers(self, parent: TreePath) -> bool:
        """Tells whether entries of a base directory may have retained attributes."""
        return bool(self._layers) and any(root in self._layers for root in ancestors(child(parent, "?")))

    def path_of(self, ino: Ino) -> TreePath | None:
        """Returns the base path that has retained this inode number."""
        if not self._formers:
            return None
        owner = next(iter(self._formers.values()))[0].owner_of(ino)
        for former in self._formers.get(owner, ()):
            was = former.path_of(ino)
            if not was:
                continue
            for place in ancestors(was):
                for root in self._places.get((id(former), place), ()):
                    path = child(root, relative(was, place))
                    found = self.get(path)
                    if found is not None and found.ino == ino:
                        return path
        return None

    def numbers(self) -> Iterator[Ino]:
        """Yields numbers, one at least of each range that is in use."""
        for formers in self._formers.values():
            for former in formers:
                yield from former.numbers()

    def add(self, regions: Mapping[TreePath, Region]) -> None:
        """Adds regions by the paths that they are at now."""
        for path, region in regions.items():
            layers = self._layers.get(path, [])
            if len(layers) < _MAX_LAYERS and all(layer.gone for layer in layers):
                self._layers[path] = [*layers, _Layer(region)]
        self._index()

    def forget(self, paths: Iterable[TreePath]) -> None:
        """Forgets base paths and everything below them."""
        gone = set(paths) if self._layers else set()
        if not gone:
            return
        over = [root for root in self._layers if "" in gone or not gone.isdisjoint(lineage(root))]
        for root in over:
            del self._layers[root]
        for path in gone:
            for root in ancestors(path):
                for layer in self._layers.get(root, ()):
                    layer.gone.add(relative(path, root))
        if over:
            self._index()

    def follow(self, moves: Mapping[TreePath, TreePath], gone: Sequence[TreePath]) -> None:
        """Follows a change of base.

        Args:
            moves: New base paths of directories by old ones, for what is below. Of two that lie below one another
                the longer holds for what is below it.
            gone: Old base paths, in order, that are forgotten with everything below unless it was moved away.
        """
        if not self._layers:
            return
        taken: dict[TreePath, list[_Layer]] = {}
        for old, new in sorted(moves.items(), key=lambda move: len(move[0]), reverse=True):
            for root, layers in self._take(old, gone):
                taken[child(new, relative(root, old)) if root != old else new] = layers
        self.forget(gone)
        self._layers |= taken
        self._index()

    def _take(self, path: TreePath, gone: Sequence[TreePath]) -> Iterator[tuple[TreePath, list[_Layer]]]:
        """Takes out what is known of the inside of a directory, but for what is gone."""
        inner = RetainedRegions()
        inner._layers = {root: layers for root, layers in self._layers.items() if is_below(root, path)}
        for root in inner._layers:
            del self._layers[root]
        cut = [layer.inside(relative(path, root)) for root in ancestors(path) for layer in self._layers.get(root, ())]
        own = [*inner._layers.pop(path, ()), *(layer for layer in cut if layer is not None)]
        if own:
            inner._layers[path] = own[:_MAX_LAYERS]
        inner.forget(gone[bisect_left(gone, f"{path}/") : bisect_left(gone, f"{path}0")])
        self.forget([path])
        yield from inner._layers.items()

    def _index(self) -> None:
        self._formers, self._places = {}, {}
        for root, layers in self._layers.items():
            for layer in layers:
                former, place = layer.region
                known = self._formers.setdefault(former.owner, [])
                if former not in known:
                    known.append(former)
                self._places.setdefault((id(former), place), []).append(root)
