"""What a commit leaves alone because a file that it does not take decides about it.

A file that is open and has changed may be half of what it will be, so no commit takes it. Others depend on it:

- The chunks of an array whose `zarr.json` is open fit what that will say, and perhaps not what it said. The array
  stays as a whole: in the snapshot as the base has it, in the tree as it is. So does one that was renamed, which is
  not deleted at its former place before it can be committed at the new one.
- Where a finished `zarr.json` says that chunks are encoded otherwise than before, a chunk that is open is in the
  snapshot as it was, and does not fit. The array stays as a whole, too.
- An array whose `zarr.json` is refused, because it does not fit chunks that the array keeps, stays as a whole: its new
  chunks fit what was refused.
- Of a group, its `zarr.json` alone stays: what is below needs no group.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from icefs.engine.read.session import Session
from icefs.format.chunk_sizes import encodes_alike
from icefs.format.snapshot.nodes import NodeType
from icefs.format.zarr_json import ZarrMetadata
from icefs.paths import ROOT_DIRECTORY, NodePath, TreePath, child, node_and_ancestors, node_path, tree_path
from icefs.worktree.freeze.differences import Differences, RenamedDirectory
from icefs.worktree.freeze.frozen import FrozenDir, FrozenFile, FrozenTree
from icefs.worktree.stage.staged import LeftOpen
from icefs.zarr.invalid import Invalid
from icefs.zarr.keys import is_zarr_key, metadata_key

OPEN: Final = "is open for writing"


class Holding:
    """The nodes that stay as they are.

    Attributes:
        nodes: Why, by the paths of nodes whose `zarr.json` is not committed.
        arrays: Those of them below which nothing is committed.
        kept: The base nodes that are not deleted, and of which no chunk is.
    """

    def __init__(
        self,
        base: Session,
        frozen: FrozenTree,
        found: Differences,
        refused: Mapping[NodePath, str],
        *,
        includes_open: bool,
    ) -> None:
        """Finds what is open. With `includes_open`, open files are like any others.

        Args:
            base: The base.
            frozen: The tree.
            found: How they differ.
            refused: Why, by the paths of arrays whose edited `zarr.json` cannot be committed.
            includes_open: Whether to commit files that are open for writing.
        """
        self._base = base
        self._frozen = frozen
        self._renamed = found.renamed
        self._paths = frozenset(base.snapshot.paths)
        self.nodes: dict[NodePath, str] = {}
        self.arrays: set[NodePath] = set()
        self.kept: set[NodePath] = set()
        self._open_below: dict[NodePath, TreePath] = {}
        self._refused = refused
        for path in refused:
            self._hold(path, "cannot be committed")
        self._is_off = includes_open or not frozen.view.unfinished
        if self._is_off:
            return
        for directory, files in found.files.items():
            for name, file in files:
                if self.is_open(file) and is_zarr_key(name):
                    self._note_above(directory, child(directory, name))
        for path, file in found.metadata.items():
            if self.is_open(file):
                self._hold(path, OPEN)

    def _note_above(self, directory: TreePath, file: TreePath) -> None:
        for path in node_and_ancestors(node_path(directory)):
            if path in self._open_below:
                return
            self._open_below[path] = file

    def is_open(self, source: object) -> bool:
        """Tells whether a file waits for its writer; one with bytes that are lost is no matter of waiting."""
        return not self._is_off and isinstance(source, FrozenFile) and source.is_open and not _is_damaged(source)

    def holds_encoding(self, path: NodePath, before: bytes, data: bytes, metadata: ZarrMetadata) -> bool:
        """Tells whether an array stays because a chunk of it is open, and its `zarr.json` encodes chunks otherwise."""
        file = self._open_below.get(path)
        if file is None or metadata.node_type is not NodeType.ARRAY or encodes_alike(before, data):
            return False
        self._hold(path, f"encodes chunks otherwise, and {file} {OPEN}")
        return True

    def _hold(self, path: NodePath, reason: str) -> None:
        self.nodes[path] = reason
        before = [one for one in (path, _origin(path, self._renamed)) if one is not None and one in self._paths]
        self.kept.update(before)
        if any(self._base.node(one).array is not None for one in before):
            self.arrays.add(path)

    def reason(self, directory: TreePath) -> str | None:
        """Says for what a chunk in a directory waits, of which no finished array is known; None for nothing."""
        path = self._node_above(directory)
        return None if path is None else f"waits for {metadata_key(path)}, which {self.nodes[path]}"

    def is_refused(self, directory: TreePath) -> bool:
        """Tells whether what waits in a directory does so for a `zarr.json` that was refused."""
        return self._node_above(directory) in self._refused

    def _node_above(self, directory: TreePath) -> NodePath | None:
        return next((path for path in node_and_ancestors(node_path(directory)) if path in self.nodes), None)

    def holder(self, directory: TreePath) -> NodePath | None:
        """Returns the array in which a directory lies and that stays as a whole; None if there is none."""
        if not self.arrays:
            return None
        return next((path for path in node_and_ancestors(node_path(directory)) if path in self.arrays), None)

    def left_open(self) -> Iterator[LeftOpen]:
        """Yields the `zarr.json` files that stay because of a writer."""
        for path, reason in self.nodes.items():
            if path not in self._refused:
                yield LeftOpen(metadata_key(path), reason)

    def refused(self) -> Iterator[Invalid]:
        """Yields the `zarr.json` files that stay because they cannot be committed."""
        for path, reason in self._refused.items():
            yield Invalid(metadata_key(path), reason)

    def held_paths(self, hidden: Mapping[TreePath, Iterable[str]]) -> Iterator[TreePath]:
        """Yields the paths, besides those of the files, at which nothing is committed; whole directories with a slash.

        Args:
            hidden: The names at which the base's entry is not to be seen any more, by directory.
        """
        yield from (TreePath(f"{tree_path(path)}/") for path in self.arrays)
        for path in self.kept:
            names, directory = path[1:].split("/"), ROOT_DIRECTORY
            for name in names if path != "/" else ():
                below = child(directory, name)
                if name in hidden.get(directory, ()) and not isinstance(self._frozen.find(below), FrozenDir):
                    yield below
                directory = below


def _is_damaged(file: FrozenFile) -> bool:
    return file.is_lost or file.is_cut


def _origin(path: NodePath, directories: Iterable[RenamedDirectory]) -> NodePath | None:
    """Returns where the base has the node that a renamed directory brought to a path."""
    best: RenamedDirectory | None = None
    for renamed in directories:
        is_above = path == f"/{renamed.path}" or path.startswith(f"/{renamed.path}/")
        if is_above and (best is None or len(renamed.path) > len(best.path)):
            best = renamed
    return None if best is None else NodePath(f"/{best.base_path}{path[len(best.path) + 1 :]}")
