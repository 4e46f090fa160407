"""A branch as a tree that follows the branch's tip.

When the tip moves, what changed is worked out in a thread (`plan_advance`), and then taken over at once, between two
requests (`BranchTree.advance`). The kernel is told which names lead elsewhere now. It need not be told of contents:
what changed has another inode number, and the old number is stale, which makes the kernel look the name up again
even where a notification is late.
"""

from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from icefs.errors import FormatError
from icefs.format.ids import SnapshotId
from icefs.inode import Entry, Invalidations
from icefs.paths import NodePath, node_and_ancestors
from icefs.vfs.inodes.numbers import ArrayNumbers, ChunkRange
from icefs.vfs.inodes.table import Range
from icefs.vfs.trees.advance import Advance, ArrayAdvance, Columns, chunk_counts, distinct, has_dir
from icefs.vfs.trees.renames import AppliedRenaming, Renaming
from icefs.vfs.trees.snapshot_tree import SessionTree
from icefs.zarr.keys import METADATA_NAME, ChunkKeyLayout

_METADATA: Final = METADATA_NAME.encode()
_TIDY_AT: Final = 200


class BranchTree(SessionTree):
    """A branch without uncommitted changes.

    Attributes:
        problem: Why the tree does not show the tip, in words; None if it does.
        tip: The branch's tip as last seen.
    """

    is_immutable = False

    problem: str | None = None
    tip: SnapshotId | None = None
    _tidy_at: int = _TIDY_AT

    @property
    def is_pinned(self) -> bool:
        """Whether the tree stays where it is, whatever the tip does."""
        return False

    def used_numbers(self) -> Iterable[int] | None:
        """Returns the numbers, beside those of open files, that lead to what they always did; None to ask later."""
        return ()

    def tidy(self, open_inos: Iterable[int]) -> None:
        """Forgets the numbers of what was replaced long ago, once there are many: a mount lives for months.

        Every advance of the tip gives a range of numbers to each array with new chunks. Where all chunks of a range
        have been replaced or deleted since, its numbers are stale anyhow. Called between two requests.
        """
        space = self._context.space
        ranges = space.ranges_of(self)
        if len(ranges) + len(self._nodes) < self._tidy_at:
            return
        others = self.used_numbers()
        if others is None:
            return
        used = {*open_inos, *others}
        ordered = sorted(used)
        gone = {id(numbers): key for key, numbers in self._numbers.items() if not self._has_array(*key)}
        over = [one for one in ranges if self._is_over(one, gone) and not _is_any_in(ordered, one)]
        for one in over:
            numbers: ArrayNumbers = one.content.numbers
            numbers.forget(one.content.epoch)
            if id(numbers) in gone and numbers.is_unused:
                self._numbers.pop(gone[id(numbers)], None)
        space.drop_ranges(self, over)
        self._nodes.forget(lambda key: key.epoch != self.history.file_epoch(key.path), used)
        self._file_times = {key: time for key, time in self._file_times.items() if self._nodes.known(key) is not None}
        self._tidy_at = max(_TIDY_AT, 2 * (len(ranges) - len(over) + len(self._nodes)))

    def _has_array(self, path: str, node_id: bytes) -> bool:
        if self.session is None:
            return True
        try:
            node = self.session.get_node(path)
        except FormatError:  # a node that cannot be read is there all the same
            return True
        return node is not None and bytes(node.id) == node_id

    def _is_over(self, one: Range, gone: Container[int]) -> bool:
        """Tells whether a range is one of chunks that all have other numbers now, or of an array that is gone."""
        content = one.content
        if not isinstance(content, ChunkRange) or content.layout is None:
            return False
        numbers = content.numbers
        if id(numbers) in gone or self._numbers.get((numbers.path, bytes(numbers.node_id))) is not numbers:
            return True
        if not content.epoch or content.epoch in numbers.dir_epochs.values():  # directories have numbers of it, too
            return False
        epochs = self.history.chunks(numbers.node_id)
        return epochs is None or content.epoch not in epochs.live()

    async def take_over(self, advance: Advance, open_inos: Iterable[int]) -> Invalidations | None:
        """Takes over what was planned, as `advance` does; None if the tree has to stay after all."""
        return self.advance(advance, open_inos)

    async def find_out(self, open_inos: Iterable[int]) -> Invalidations | None:
        """Finds out what became of a commit that is in doubt; None where nothing has changed by that."""
        return None

    @property
    def is_untouched(self) -> bool:
        """Whether nobody has looked below the root yet."""
        return self.session is None and not len(self._nodes)

    def restart(self, snapshot_id: SnapshotId, flushed_at: int) -> Invalidations:
        """Takes another tip where nobody has looked at the tree yet."""
        self.snapshot_id = snapshot_id
        self._begin_history(snapshot_id, flushed_at)
        return Invalidations(inodes=[self.root_ino])

    def advance(self, advance: Advance, open_inos: Iterable[int], renaming: Renaming | None = None) -> Invalidations:
        """Takes over what was planned.

        Args:
            advance: The plan, from the present session.
            open_inos: The inodes that are open, of any tree.
            renaming: What was renamed by the mount's own commit, and keeps its numbers.

        Returns:
            The names that lead elsewhere now, and the directories with new attributes.
        """
        changes = advance.changes
        entries = list(self._changed_nodes(advance))
        for path, array in advance.arrays.items():
            entries += self._changed_chunks(path, array)
        entries += self._changed_open(advance, open_inos)
        renames = None if renaming is None else AppliedRenaming(self, renaming, advance)
        epoch = self.history.begin(advance.session.snapshot.flushed_at)
        self.history.change_files(changes.new | changes.deleted | changes.updated, epoch)
        touched = {*changes.new, *changes.deleted, *changes.updated, *advance.arrays}
        if renames is not None:
            touched = renames.touched(touched)
            renames.keep_dirs()
        dirs = {above for path in touched for above in node_and_ancestors(NodePath(path))}
        self.history.change_dirs(dirs, epoch)
        # An array that was moved is at two paths here, and is not gone.
        for array in advance.arrays.values():
            if array.before is not None and (array.after is None or array.after.id != array.before.id):
                self.history.forget_array(array.before.id)
        for array in advance.arrays.values():
            self._record(array, epoch)
        chunk_dirs = [ino for path, array in advance.arrays.items() for ino in self._changed_chunk_dirs(path, array)]
        if renames is not None:
            renames.finish(epoch)
        self.unload()
        self.snapshot_id = advance.session.snapshot_id
        self.session = advance.session
        attrs = [ino for path in dirs if (ino := self.known_dir(path)) is not None]
        return Invalidations(entries, attrs + chunk_dirs)

    def _record(self, advance: ArrayAdvance, epoch: int) -> None:
        after = advance.after
        if after is None:
            return
        if advance.changed is None:
            self.history.change_chunks(after.id).change_all(epoch)
        elif not advance.changed or len(advance.changed[0]):
            self.history.change_chunks(after.id).change(advance.changed, epoch)

    # What the kernel is told. All of this runs before the tree changes, and asks what the kernel may know from before.

    def _changed_nodes(self, advance: Advance) -> Iterator[Entry]:
        old, new = self.session, advance.session
        assert old is not None  # the advance was planned from it
        for path in advance.changes.updated:
            yield from self._entry(path, _METADATA)
        for path in advance.changes.new | advance.changes.deleted:
            yield from self._entry(path, _METADATA)
            # Upwards as long as a directory came to be or ceased to be.
            for place in node_and_ancestors(NodePath(path)):
                if place == "/" or has_dir(old, place) == has_dir(new, place):
                    break
                parent, _, name = place.rpartition("/")
                yield from self._entry(parent or "/", name.encode(errors="surrogatepass"))

    def _entry(self, directory: str, name: bytes) -> Iterator[Entry]:
        ino = self.known_dir(directory)
        if ino is not None:
            yield ino, name

    def _changed_chunks(self, path: str, advance: ArrayAdvance) -> Iterator[Entry]:
        before, layout = advance.before, advance.layout
        directory = self.known_dir(path)
        numbers = None if before is None else self.known_numbers(path, before)
        if directory is None or layout is None or numbers is None:
            return  # nobody looked at its chunks
        for columns in advance.among_nodes:
            yield from self._entries_among_nodes(path, layout, columns)
        if advance.after is not None and advance.after.array is not None:
            numbers.fit(chunk_counts(advance.after))
        yield from ((directory, name) for name in advance.cut_names)
        if advance.top_names:
            yield from ((directory, name) for name in advance.top_names)
            return
        if advance.changed is None:
            return
        yield from _leaf_entries(numbers, layout, directory, advance.changed)
        for depth, prefixes in advance.gone_dirs.items():
            yield from _dir_entries(numbers, layout, directory, depth, prefixes)

    def _entries_among_nodes(self, path: str, layout: ChunkKeyLayout, columns: Columns) -> Iterator[Entry]:
        """Yields what lies above and at chunks in directories that are nodes as well, name by name."""
        rows = zip(*(column.tolist() for column in columns), strict=True) if columns else [()]
        for index in rows:
            directory = path
            for name in layout.format(index).split("/"):
                yield from self._entry(directory, name.encode())
                directory = f"{directory.rstrip('/')}/{name}"

    def _changed_chunk_dirs(self, path: str, advance: ArrayAdvance) -> list[int]:
        before, layout = advance.before, advance.layout
        numbers = None if before is None else self.known_numbers(path, before)
        if layout is None or numbers is None or not advance.changed or len(layout.widths) < 2 or advance.top_names:
            return []
        inos: list[int] = []
        for depth in range(len(advance.changed)):
            inos += numbers.dir_numbers(distinct(advance.changed[:depth]))
        return inos

    def _changed_open(self, advance: Advance, open_inos: Iterable[int]) -> Iterator[Entry]:
        """Yields the names of open chunks in directories that are dropped whole: dropping does not reach those."""
        for ino in open_inos:
            found = self._context.space.find(ino)
            if found is None or found.tree is not self or not isinstance(found.content, ChunkRange):
                continue
            numbers, layout = found.content.numbers, found.content.layout
            array = advance.arrays.get(numbers.path)
            directory = self.known_dir(numbers.path)
            if array is None or array.layout is None or not array.top_names or layout is None or directory is None:
                continue
            columns = tuple(np.array([position], np.uint32) for position in layout.unpack(ino - found.start))
            if len(columns) == array.layout.ndim:
                yield from _leaf_entries(numbers, array.layout, directory, columns)


def _is_any_in(ordered: Sequence[int], one: Range) -> bool:
    """Tells whether any of some ordered numbers lies in a range."""
    at = bisect_left(ordered, one.start)
    return at < len(ordered) and ordered[at] < one.end


def _leaf_entries(numbers: ArrayNumbers, layout: ChunkKeyLayout, directory: int, columns: Columns) -> Iterator[Entry]:
    """Yields the names of chunks with their directories."""
    level = len(layout.widths) - 1
    width = layout.widths[level]
    names = layout.format_names(level, columns[len(columns) - width :])
    if level == 0:
        return ((directory, name) for name in names)
    above = columns[: len(columns) - width]
    if above:
        parents = numbers.dir_numbers(above)
    else:
        parents = [numbers.dir_number(()) if layout.prefix else directory] * len(names)
    return iter(zip(parents, names, strict=True))


def _dir_entries(
    numbers: ArrayNumbers, layout: ChunkKeyLayout, directory: int, depth: int, prefixes: Columns
) -> Iterator[Entry]:
    """Yields the names of directories above chunks, given by prefixes of `depth` coordinates, with their parents."""
    lead = 1 if layout.prefix else 0
    if depth == 0:
        return iter([(directory, b"c")] if lead else [])
    names = layout.format_names(depth - 1 + lead, prefixes[-1:])
    if depth > 1:
        parents = numbers.dir_numbers(prefixes[:-1])
    else:
        parents = [numbers.dir_number(()) if lead else directory] * len(names)
    return iter(zip(parents, names, strict=True))
