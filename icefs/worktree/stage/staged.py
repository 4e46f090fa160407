"""What a commit of a working tree would do, as values: what `staging` works out and `vfs.commit.committer` carries out.

Chunks with files of their own are listed one by one, since each has to be stored. Whatever is already in the base,
however much of it was renamed or removed, is columns.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from icefs.engine.read.session import Session
from icefs.engine.write.changeset import difference
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.manifest.refs import ArrayRefs
from icefs.paths import NodePath, TreePath
from icefs.worktree.base import BaseEntry
from icefs.worktree.freeze.frozen import FrozenFile
from icefs.zarr.invalid import Invalid
from icefs.zarr.keys import ChunkIndex

type Source = FrozenFile | BaseEntry


class LeftOpen(NamedTuple):
    """A file, or a directory with all below it, that waits for a writer, and why."""

    path: TreePath
    reason: str


class Dropped(NamedTuple):
    """Chunks that an array has in the base, and that its rewritten `zarr.json` has no place for.

    Attributes:
        indices: Their indices in the base.
        lengths: Their lengths in bytes.
        reason: Why they are no chunks of it any more.
    """

    indices: ChunkIndices
    lengths: npt.NDArray[np.uint64]
    reason: str


def no_indices(ndim: int) -> ChunkIndices:
    """Returns no chunk indices, of that many dimensions."""
    return ChunkIndices([np.zeros(0, np.uint32)] * ndim, 0)


def source_size(source: Source) -> int:
    """Returns the length of a file in bytes."""
    return source.attr.size if isinstance(source, BaseEntry) else source.size


@dataclass(slots=True)
class StagedArray:
    """The chunks of one array.

    INVARIANT: no chunk is in two of `sets`, `reused` and `deletes`.

    Attributes:
        ndim: The number of dimensions of the chunk indices.
        sets: The files of chunks that were written, by index.
        deletes: The chunks of the base that are gone.
        reused: References of the base to chunks that are elsewhere now; their `node_id` means nothing.
    """

    ndim: int
    sets: dict[ChunkIndex, Source] = field(default_factory=dict)
    deletes: ChunkIndices = field(default_factory=lambda: no_indices(0))
    reused: ArrayRefs | None = None

    def __bool__(self) -> bool:
        return bool(self.sets or len(self.deletes) or self.reused)

    @property
    def num_written(self) -> int:
        """How many chunks the commit sets."""
        return len(self.sets) + (0 if self.reused is None else len(self.reused))

    @property
    def num_deleted(self) -> int:
        """How many chunks it deletes."""
        return len(self.deletes)

    def written(self) -> ChunkIndices:
        """Returns the indices of all chunks that the commit sets."""
        own = ChunkIndices.from_indices(self.ndim, self.sets)
        return own if self.reused is None else own.union(self.reused.indices)

    def settle(self) -> None:
        """Lets what is set count more than what is deleted."""
        if len(self.deletes) and self.num_written:
            self.deletes = difference(self.deletes, self.written())


@dataclass(slots=True)
class Staged:
    """What a commit of a frozen tree would do.

    Where `moves` says all of it, a session that moves nodes can do the same and keep their ids; `gone`, `nodes` and
    `arrays` describe it as well, for where that is not possible.

    Attributes:
        gone: The paths of all base nodes that are deleted; deleted nodes below one are listed, too.
        nodes: The `zarr.json` of nodes that are made or rewritten, by path, parents first.
        made: Those of `nodes` that the base does not have, or has as another one.
        arrays: The chunks that change, by array.
        dropped: With the paths of their nodes, the chunks that go because of what a `zarr.json` says; those of them
            that have to be deleted for that are in `arrays`, too.
        renames: (from, to) of nodes that were renamed, without those that came along with the one above them.
        moves: (from, to) of every renamed node, if that is all that there is to commit; otherwise empty.
        implicit: Deleted groups below which nodes remain, which can be read as before, by their paths.
        untracked: Paths that are no Zarr keys of the hierarchy.
        invalid: Files that ought to be part of it and cannot.
        lost: The paths of the files with lost bytes (see `lost`), in `untracked` or `invalid` as well.
        open: What stays because somebody has it open for writing, or waits for such a file.
        held: Further paths at which nothing is committed, since `open` depends on what the base has there.
    """

    gone: list[NodePath] = field(default_factory=list)
    nodes: dict[NodePath, bytes] = field(default_factory=dict)
    made: set[NodePath] = field(default_factory=set)
    arrays: dict[NodePath, StagedArray] = field(default_factory=dict)
    dropped: list[tuple[NodePath, Dropped]] = field(default_factory=list)
    renames: list[tuple[NodePath, NodePath]] = field(default_factory=list)
    moves: list[tuple[NodePath, NodePath]] = field(default_factory=list)
    implicit: list[NodePath] = field(default_factory=list)
    untracked: list[TreePath] = field(default_factory=list)
    invalid: list[Invalid] = field(default_factory=list)
    lost: list[TreePath] = field(default_factory=list)
    open: list[LeftOpen] = field(default_factory=list)
    held: list[TreePath] = field(default_factory=list)

    @property
    def deleted(self) -> list[NodePath]:
        """The deleted nodes, without those below another deleted one."""
        return topmost(self.gone)

    @property
    def num_chunks(self) -> int:
        """How many chunks the commit sets or deletes."""
        return sum(array.num_written + array.num_deleted for array in self.arrays.values())

    @property
    def num_dropped(self) -> int:
        """How many of these chunks nobody removed, and go because of what a `zarr.json` says."""
        count = 0
        for path, dropped in self.dropped:
            array = self.arrays.get(path)
            if array is not None and array.deletes.ndim == dropped.indices.ndim:
                count += len(array.deletes) - len(difference(array.deletes, dropped.indices))
        return count

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not (self.gone or self.nodes or self.arrays)

    @property
    def left_out(self) -> list[TreePath]:
        """The paths that stay in the working tree."""
        named = (path for path, _ in (*self.invalid, *self.open))
        return sorted({*self.untracked, *named, *self.held})


class StagedAt(NamedTuple):
    """What was staged at one moment.

    Attributes:
        base: The snapshot that the tree stood on.
        revision: The tree's.
        staged: What was staged.
    """

    base: Session
    revision: int
    staged: Staged


def topmost(paths: Iterable[NodePath]) -> list[NodePath]:
    """Returns the sorted paths that do not lie below another one of them."""
    found: list[NodePath] = []
    chosen: set[str] = set()
    for path in sorted(paths, key=lambda path: (path.count("/"), path)):
        if "/" in chosen and path != "/":
            continue
        above: str = path
        while above and above not in chosen:
            above = above.rpartition("/")[0]
        if not above:
            chosen.add(path)
            found.append(path)
    return sorted(found)
