"""The inode numbers and times of one tree, whichever snapshot it shows.

A tree of a tag or snapshot shows one snapshot, a branch's one after another. The facts that outlive each of them are
here: which number a directory or file has, and when it changed (see `history`). Nothing here reads a snapshot.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence

from icefs.engine.history.lineage import Lineages
from icefs.format.ids import NodeId, SnapshotId
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.inode import Ino
from icefs.paths import ROOT_NODE, NodePath
from icefs.vfs.inodes.first_times import FirstTimes
from icefs.vfs.inodes.history import History
from icefs.vfs.inodes.numbers import (
    ArrayNumbers,
    ChunkRange,
    FixedNumbers,
    NodeKey,
    NodeNumbers,
    Prefix,
    reserve_fixed,
)
from icefs.vfs.inodes.table import InodeSpace, Range, is_any_in
from icefs.vfs.interface import Tree

type ArrayKey = tuple[str, NodeId]

_TIDY_AT = 200


type Numbered = tuple[Ino, int]
"""The number of a file or directory, and when it changed last, in nanoseconds since the epoch of clocks."""


class TreeInodes:
    """The numbers and times of one tree.

    Attributes:
        space: Where the numbers come from.
        owner: The tree that answers for them.
        fixed: The numbers of the root and of the control directory.
        root_ino: The number of the root directory.
        nodes: The numbers of directories of nodes and of metadata files.
        history: When what changed.
        first_times: When it had changed before that.

    INVARIANT: what a number stands for never changes its content; what changes gets another number.

    Concurrency: belongs to the event loop's thread, or to the thread that holds the lock of the tree's `Guarded`.
    """

    def __init__(
        self,
        space: InodeSpace,
        owner: Tree,
        lineages: Lineages | None,
        snapshot_id: SnapshotId,
        flushed_at: int,
        *,
        is_root: bool,
        may_grow: bool,
    ) -> None:
        """Begins with a snapshot, and the time at which it was written, in microseconds.

        Args:
            space: Where numbers come from.
            owner: The tree that answers for them.
            lineages: Tells when keys changed last; None gives them the time of the snapshot.
            snapshot_id: What the tree shows first.
            flushed_at: When that was written, in microseconds.
            is_root: Whether the tree's root is the mount's.
            may_grow: Whether arrays may have more chunks in a later snapshot.
        """
        self.space = space
        self.owner = owner
        self.fixed: FixedNumbers = reserve_fixed(space, owner, is_root=is_root)
        self.root_ino = self.fixed.root_ino
        self.nodes = NodeNumbers(space, owner)
        self._arrays: dict[ArrayKey, ArrayNumbers] = {}
        self._lineages = lineages
        self._may_grow = may_grow
        self._tidy_at = _TIDY_AT
        self.begin(snapshot_id, flushed_at)

    def begin(self, snapshot_id: SnapshotId, flushed_at: int) -> None:
        """Begins the history again, with a snapshot and its time in microseconds; numbers stay."""
        self.history = History(flushed_at)
        self.first_times = FirstTimes(self._lineages, snapshot_id, flushed_at)
        # Of files that have not changed since the mount looks, or were renamed with the directory they are in.
        self._file_times: dict[NodeKey, int] = {}

    @property
    def is_untouched(self) -> bool:
        """Whether no number below the root was ever given."""
        return not len(self.nodes) and not self._arrays

    # Directories of nodes, and metadata files.

    def directory(self, path: NodePath) -> Numbered:
        """Returns the number and time of a directory of nodes."""
        ino = self.root_ino if path == ROOT_NODE else self.nodes.number(NodeKey(path, None))
        return ino, self.history.time_ns(self.history.dir_epoch(path))

    def known_directory(self, path: str) -> Ino | None:
        """Returns the number of a directory of nodes if it was ever asked for."""
        return self.root_ino if path == ROOT_NODE else self.nodes.known(NodeKey(path, None))

    def metadata_file(self, path: NodePath, node_id: NodeId) -> Numbered:
        """Returns the number and time of a node's `zarr.json`.

        Raises:
            NotInMemoryError: the history has to be read.
        """
        epoch = self.history.file_epoch(path)
        key = NodeKey(path, epoch)
        ino = self.nodes.number(key)
        time_ns = self._file_times.get(key)
        if time_ns is None:
            if epoch:
                time_ns = self.history.time_ns(epoch)
            else:
                time_ns = self._file_times[key] = self.first_times.metadata_ns(node_id)
        return ino, time_ns

    def is_current(self, key: NodeKey) -> bool:
        """Tells whether a metadata file has not changed since it was given a number."""
        return key.epoch == self.history.file_epoch(key.path)

    def known_time_ns(self, key: NodeKey) -> int | None:
        """Returns the time of a metadata file; None if nobody has asked for its number."""
        if self.nodes.known(key) is None:
            return None
        return self._file_times.get(key) or (self.history.time_ns(key.epoch) if key.epoch else None)

    # Chunks, and directories above them.

    def array(self, path: str, node_id: NodeId) -> ArrayNumbers:
        """Returns the numbers of an array."""
        numbers = self._arrays.get((path, node_id))
        if numbers is None:
            numbers = ArrayNumbers(self.space, self.owner, path, node_id, may_grow=self._may_grow)
            self._arrays[path, node_id] = numbers
        return numbers

    def known_array(self, path: str, node_id: NodeId) -> ArrayNumbers | None:
        """Returns the numbers of an array if any was ever asked for."""
        return self._arrays.get((path, node_id))

    def known_arrays(self) -> dict[ArrayKey, ArrayNumbers]:
        """Returns the numbers of all arrays that were looked at, by path and id."""
        return dict(self._arrays)

    def chunk(self, numbers: ArrayNumbers, node_id: NodeId, chunk_index: Prefix) -> Numbered:
        """Returns the number and time of a chunk.

        Raises:
            NotInMemoryError: the history has to be read.
        """
        epochs = self.history.chunks(node_id)
        epoch = 0 if epochs is None else epochs.of(chunk_index)
        ino = numbers.number(chunk_index, epoch)
        return ino, self.history.time_ns(epoch) if epoch else self.first_times.chunk_ns(node_id, chunk_index)

    def chunk_directory(self, numbers: ArrayNumbers, node_id: NodeId, prefix: Prefix) -> Numbered:
        """Returns the number and time of a directory above chunks."""
        epochs = self.history.chunks(node_id)
        epoch = 0 if epochs is None else epochs.newest_below(prefix)
        return numbers.dir_number(prefix), self.history.time_ns(epoch)

    def chunk_epoch(self, node_id: NodeId, chunk_index: Prefix) -> int:
        """Returns the epoch in which a chunk changed last."""
        epochs = self.history.chunks(node_id)
        return 0 if epochs is None else epochs.of(chunk_index)

    def time_of_open_ns(self, ino: Ino) -> int | None:
        """Returns the time of a chunk or metadata file that may have been replaced since it was opened."""
        found = self.space.find(ino)
        content = None if found is None else found.content
        if isinstance(content, ChunkRange) and found is not None:
            if not content.epoch and content.layout is not None:
                index = content.layout.unpack(ino - found.start)
                first_ns = self.first_times.known_chunk_ns(content.numbers.node_id, index)
                if first_ns is not None:
                    return first_ns
            return self.history.time_ns(content.epoch)
        key = content.key(ino) if isinstance(content, NodeNumbers) else None
        if key is None or key.epoch is None:
            return None
        first_ns = self._file_times.get(key)
        return self.history.time_ns(key.epoch) if first_ns is None else first_ns

    # What a commit renames.

    def rename_arrays(
        self, renumbered: Sequence[NodeSnapshot], moves: Sequence[tuple[NodeSnapshot, NodeSnapshot]]
    ) -> None:
        """Lets the numbers and first times of arrays go along to others, all at once.

        Args:
            renumbered: The arrays that will get new numbers.
            moves: Of some of them, the arrays that get their numbers.
        """
        taken = {node.id: self._arrays.pop((node.path, node.id), None) for node in renumbered}
        for before, after in moves:
            numbers = taken[before.id]
            if numbers is not None and after.array is not None:
                numbers.fit([dimension.num_chunks for dimension in after.array.shape])
                numbers.path, numbers.node_id = after.path, after.id
                self._arrays[after.path, after.id] = numbers
        self.first_times.rename({after.id: before.id for before, after in moves})

    def rename_nodes(
        self, dirs: Mapping[NodeKey, NodeKey | None], files: Mapping[NodeKey, tuple[NodeKey, int]]
    ) -> None:
        """Lets the numbers of directories, and the numbers and times of metadata files, go along to others."""
        self.nodes.rename({**dirs, **{old: new for old, (new, _) in files.items()}})
        for old in files:
            self._file_times.pop(old, None)
        self._file_times |= dict(files.values())

    # What was replaced long ago.

    def tidy(self, used: Callable[[], Iterable[Ino] | None], has_array: Callable[[str, NodeId], bool]) -> None:
        """Forgets the numbers of what was replaced long ago, once there are many: a mount lives for months.

        Every move of the tip gives a range of numbers to each array with new chunks. Where all chunks of a range
        have been replaced or deleted since, its numbers are stale anyhow. Called between two requests.

        Args:
            used: Returns the numbers that are open or known otherwise, and keep what they stand for; None to ask later.
            has_array: Tells whether the snapshot that is shown still has an array.
        """
        ranges = self.space.ranges_of(self.owner)
        if len(ranges) + len(self.nodes) < self._tidy_at:
            return
        in_use = used()
        if in_use is None:
            return
        kept = frozenset(in_use)
        ordered = sorted(kept)
        gone = {id(numbers): key for key, numbers in self._arrays.items() if not has_array(*key)}
        over = [one for one in ranges if self._is_over(one, gone) and not is_any_in(ordered, one)]
        for one in over:
            numbers: ArrayNumbers = one.content.numbers
            numbers.forget(one.content.epoch)
            if id(numbers) in gone and numbers.is_unused:
                self._arrays.pop(gone[id(numbers)], None)
        self.space.drop_ranges(self.owner, over)
        self.nodes.forget(lambda key: not self.is_current(key), kept)
        self._file_times = {key: time for key, time in self._file_times.items() if self.nodes.known(key) is not None}
        self._tidy_at = max(_TIDY_AT, 2 * (len(ranges) - len(over) + len(self.nodes)))

    def _is_over(self, one: Range, gone: Container[int]) -> bool:
        """Tells whether a range is one of chunks that all have other numbers now, or of an array that is gone."""
        content = one.content
        if not isinstance(content, ChunkRange) or content.layout is None:
            return False
        numbers = content.numbers
        if id(numbers) in gone or self._arrays.get((numbers.path, numbers.node_id)) is not numbers:
            return True
        if not content.epoch or content.epoch in numbers.dir_epochs.values():  # directories have numbers of it, too
            return False
        epochs = self.history.chunks(numbers.node_id)
        return epochs is None or content.epoch not in epochs.live()

    def check_invariants(self) -> None:
        """Raises AssertionError if a stated invariant does not hold; for tests."""
        self.nodes.check_invariants()
        for (path, node_id), numbers in self._arrays.items():
            assert (numbers.path, numbers.node_id) == (path, node_id)
