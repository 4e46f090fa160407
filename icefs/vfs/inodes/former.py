"""The numbers and times that an array's chunks had before a directory of them was renamed.

A directory of chunks that is renamed within a working tree and committed has other chunk indices then, perhaps in
another array. The files that the kernel knows keep their numbers: these are computed from the place it had, as it was
at the commit (see `worktree.model.retained_regions`).
"""

import threading
from collections.abc import Iterator

from icefs.clock import NS_PER_US
from icefs.engine.history.key_times import ChunkTimes
from icefs.inode import Ino
from icefs.paths import TreePath
from icefs.vfs.inodes.history import ChunkEpochs, History
from icefs.vfs.inodes.numbers import ArrayNumbers, ChunkRange, ChunkTable, Prefix, newest_epoch
from icefs.vfs.inodes.table import InodeSpace
from icefs.worktree.model.retained_regions import RetainedAttr
from icefs.zarr.keys import ChunkKeyLayout


class FormerArray:
    """An array's numbers and times at one moment; implements `worktree.model.retained_regions.Former`.

    Attributes:
        owner: The numbers; the array itself may be at another path by now.
    """

    def __init__(
        self,
        space: InodeSpace,
        lock: threading.RLock,
        numbers: ArrayNumbers,
        layout: ChunkKeyLayout,
        history: History,
        first: ChunkTimes | None,
    ) -> None:
        """Takes what is true now.

        Args:
            space: Tells whose number is whose.
            lock: Protects the numbers.
            numbers: The array's.
            layout: How its keys are written.
            history: When it changed.
            first: When it had changed before that; None where nobody has asked.
        """
        epochs = history.chunks(numbers.node_id)
        self.owner = numbers
        self._space = space
        self._lock = lock
        self._layout = layout
        self._history = history
        self._epochs = ChunkEpochs() if epochs is None else epochs.copy()
        self._dir_epochs = dict(numbers.dir_epochs)
        self._first = first

    def get(self, path: str) -> RetainedAttr | None:
        """Returns the number and the time of a chunk, or of a directory above chunks."""
        components = path.split("/")
        prefix = self._layout.parse_prefix(components)
        if prefix is None:
            return None
        is_chunk = len(components) == self._layout.depth
        epoch = self._epochs.of(prefix) if is_chunk else self._epochs.newest_below(prefix)
        time_ns = self._history.time_ns(epoch)
        if is_chunk and not epoch:
            if self._first is None:
                return None  # so the kernel has seen none
            time_ns = self._first.of(prefix) * NS_PER_US
        with self._lock:
            try:
                number = self.owner.number(prefix, epoch if is_chunk else newest_epoch(self._dir_epochs, prefix))
            except ValueError:  # outside of the grid that it had
                return None
        return RetainedAttr(number, time_ns)

    def path_of(self, ino: Ino) -> TreePath | None:
        """Returns the path of the chunk, or directory, that had a number."""
        found = self._space.find(ino)
        content = None if found is None else found.content
        if isinstance(content, ChunkRange) and content.layout is not None and found is not None:
            prefix, epoch = content.layout.unpack(ino - found.start), content.epoch
        elif isinstance(content, ChunkTable) and (key := content.key(ino)) is not None:
            prefix, epoch = key
        else:
            return None
        if content.numbers is not self.owner:
            return None
        layout = self._layout
        if len(prefix) == layout.ndim:
            return TreePath(layout.format(prefix)) if epoch == self._epochs.of(prefix) else None
        return self._path_above(prefix) if epoch == newest_epoch(self._dir_epochs, prefix) else None

    def _path_above(self, prefix: Prefix) -> TreePath:
        """Returns the path of a directory above chunks."""
        constant = ["c"] if self._layout.widths[0] == 0 else []
        return TreePath("/".join([*constant, *map(str, prefix)]))

    def owner_of(self, ino: Ino) -> object:
        """Returns the numbers that a number is one of."""
        found = self._space.find(ino)
        content = None if found is None else found.content
        return content.numbers if isinstance(content, ChunkRange | ChunkTable) else None

    def numbers(self) -> Iterator[Ino]:
        """Yields a number of each range."""
        yield from self.owner.starts()
