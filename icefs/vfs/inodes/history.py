"""When each path of a tree changed last, as far as the mount has seen it.

A branch tree lives through epochs: epoch 0 is the tip that the mount found, and each move of the tip begins the
next one. Unchanged things keep their epoch, and so their time of last change and their inode number; changed ones
belong to the new one. An immutable tree never leaves epoch 0. Renames that a commit of this mount makes take epochs
along (see `renaming`).

Nothing is kept for what never changed, and 12 bytes for a chunk that did.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from icefs.clock import NS_PER_US
from icefs.format.ids import NodeId
from icefs.vfs.inodes.table import BitLayout

type I64 = npt.NDArray[np.int64]
type U32 = npt.NDArray[np.uint32]

_EMPTY_KEYS: Final = np.empty(0, np.int64)
_EMPTY_EPOCHS: Final = np.empty(0, np.uint32)


class ChunkEpochs:
    """The epochs in which the chunks of one array changed last.

    Attributes:
        since: The epoch of all chunks that have none of their own: the one in which the array came to be, or in
            which too much changed to keep account of.

    INVARIANT: `_keys` is strictly increasing, and `_epochs` has as many elements, each greater than `since`.
    """

    def __init__(self, since: int = 0) -> None:
        self.since = since
        self._layout: BitLayout | None = None
        self._keys: I64 = _EMPTY_KEYS
        self._epochs: npt.NDArray[np.uint32] = _EMPTY_EPOCHS

    def __len__(self) -> int:
        return len(self._keys)

    def copy(self) -> "ChunkEpochs":
        """Returns a copy that later changes do not touch; costs nothing."""
        copied = ChunkEpochs(self.since)
        copied._layout, copied._keys, copied._epochs = self._layout, self._keys, self._epochs
        return copied

    def change(self, columns: Sequence[U32], epoch: int) -> None:
        """Records that chunks changed, given by their indices as one column per dimension, in a new epoch."""
        if not columns:
            self.change_all(epoch)
            return
        if not len(columns[0]):
            return
        extent = [int(column.max()) + 1 for column in columns]
        layout = self._layout
        if layout is None or not layout.fits_grid(extent):
            known = [1] * len(columns) if layout is None else [1 << width for width in layout.bits]
            layout = BitLayout.for_grid([max(pair) for pair in zip(extent, known, strict=True)], may_grow=True)
            if layout is None:
                # So wide a grid that its indices do not pack: the whole array counts as changed.
                self.change_all(epoch)
                return
            if self._layout is not None and len(self._keys):
                self._keys = layout.pack_columns(self._layout.unpack_columns(self._keys))
            self._layout = layout
        changed = np.unique(layout.pack_columns(columns))
        kept = ~np.isin(self._keys, changed, assume_unique=True)
        keys = np.concatenate((self._keys[kept], changed))
        epochs = np.concatenate((self._epochs[kept], np.full(len(changed), epoch, np.uint32)))
        order = np.argsort(keys, kind="stable")
        self._keys, self._epochs = keys[order], epochs[order]

    def change_all(self, epoch: int) -> None:
        """Records that the array changed as a whole."""
        self.since, self._layout, self._keys, self._epochs = epoch, None, _EMPTY_KEYS, _EMPTY_EPOCHS

    def of(self, chunk_index: Sequence[int]) -> int:
        """Returns the epoch of a chunk."""
        layout = self._layout
        if layout is None or not layout.fits(chunk_index):
            return self.since
        key = layout.pack(chunk_index)
        row = int(self._keys.searchsorted(key))
        return int(self._epochs[row]) if row < len(self._keys) and self._keys[row] == key else self.since

    def live(self) -> set[int]:
        """Returns the epochs that chunks may be of."""
        return {0, self.since, *np.unique(self._epochs).tolist()}

    def of_all(self, columns: Sequence[U32]) -> npt.NDArray[np.uint32] | None:
        """Returns the epochs of many chunks, given as one column per dimension; None if all are of `since`."""
        layout = self._layout
        if layout is None or not len(self._keys) or not columns:
            return None
        inside = np.ones(len(columns[0]), np.bool_)
        for column, width in zip(columns, layout.bits, strict=True):
            if width < 32:
                inside &= column < 1 << width
        epochs = np.full(len(columns[0]), self.since, np.uint32)
        keys = layout.pack_columns([column[inside] for column in columns])
        rows = np.minimum(self._keys.searchsorted(keys), len(self._keys) - 1)
        found = self._keys[rows] == keys
        epochs[np.flatnonzero(inside)[found]] = self._epochs[rows[found]]
        return epochs

    def newest_below(self, prefix: Sequence[int]) -> int:
        """Returns the newest epoch of the chunks whose index starts with `prefix`, existing or deleted."""
        layout = self._layout
        if layout is None or not layout.fits(prefix):
            return self.since
        depth = layout.ndim << layout.total_bits
        first = depth | layout.pack(prefix) & (1 << layout.total_bits) - 1
        span = 1 << layout.shifts[len(prefix) - 1] if prefix else 1 << layout.total_bits
        start, end = self._keys.searchsorted((first, first + span))
        return int(self._epochs[start:end].max()) if start < end else self.since

    def check_invariants(self) -> None:
        """Raises AssertionError if a stated invariant does not hold; for tests."""
        assert len(self._keys) == len(self._epochs)
        assert (np.diff(self._keys) > 0).all()
        assert (self._epochs > self.since).all()


class History:
    """The epochs of one tree.

    INVARIANT: the epochs' times are distinct, so that a path whose content changed never has a time it had before
        with other content.
    """

    def __init__(self, flushed_at: int) -> None:
        """Begins epoch 0, at a snapshot's time in microseconds."""
        self._times_ns = [flushed_at * NS_PER_US]
        self._files: dict[str, int] = {}
        self._dirs: dict[str, int] = {}
        self._chunks: dict[NodeId, ChunkEpochs] = {}

    @property
    def epoch(self) -> int:
        """The present epoch."""
        return len(self._times_ns) - 1

    def begin(self, flushed_at: int) -> int:
        """Begins the next epoch, at its snapshot's time in microseconds, and returns it."""
        time_ns = flushed_at * NS_PER_US
        known = set(self._times_ns)
        while time_ns in known:  # a branch that was reset and is back, or two snapshots of the same microsecond
            time_ns += NS_PER_US
        self._times_ns.append(time_ns)
        return self.epoch

    def time_ns(self, epoch: int) -> int:
        """Returns the time of an epoch, in nanoseconds since the epoch of clocks."""
        return self._times_ns[epoch]

    def times_ns(self, epochs: npt.NDArray[np.uint32]) -> list[int]:
        """Returns the times of many epochs."""
        times = self._times_ns
        return [times[epoch] for epoch in epochs.tolist()]

    # What changed.

    def change_files(self, paths: Iterable[str], epoch: int) -> None:
        """Records that metadata files were made, deleted or rewritten, given by their nodes' paths."""
        for path in paths:
            self._files[path] = epoch

    def change_dirs(self, paths: Iterable[str], epoch: int) -> None:
        """Records that something at or below directories changed."""
        for path in paths:
            self._dirs[path] = epoch

    def chunks(self, node_id: NodeId) -> ChunkEpochs | None:
        """Returns the account of an array's chunks, or None if none ever changed."""
        return self._chunks.get(node_id)

    def change_chunks(self, node_id: NodeId) -> ChunkEpochs:
        """Returns the account of an array's chunks, to add to."""
        return self._chunks.setdefault(node_id, ChunkEpochs())

    def put_chunks(self, node_id: NodeId, epochs: ChunkEpochs) -> None:
        """Gives an array an account that begins as another one's was."""
        self._chunks[node_id] = epochs

    def keep_dirs(self, paths: Mapping[str, str]) -> None:
        """Has directories, given by their new paths, keep the epochs that they have at their old paths."""
        self._dirs |= {new: self._dirs.get(old, 0) for new, old in paths.items()}

    def forget_array(self, node_id: NodeId) -> None:
        """Drops the account of an array that is gone; node ids are never used again."""
        self._chunks.pop(node_id, None)

    # When it was.

    def file_epoch(self, path: str) -> int:
        """Returns the epoch in which the metadata file of a node changed last."""
        return self._files.get(path, 0)

    def dir_epoch(self, path: str) -> int:
        """Returns the newest epoch of anything at or below a directory of nodes."""
        return self._dirs.get(path, 0)
