"""A snapshot tree goes from one snapshot to the next, and the kernel has to ask again for what leads elsewhere.

All names that lead elsewhere are found before the tree changes, from what the kernel may know of it. Contents need no
invalidation: changed files have other inode numbers, and the old number is stale, which makes the kernel look
the name up again even where an invalidation is late.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

from icefs.inode import Entry, Ino, Invalidations
from icefs.paths import NodePath, node_and_ancestors
from icefs.vfs.inodes.numbers import ArrayNumbers, ChunkRange
from icefs.vfs.trees.advance import Advance, Advanced, ArrayAdvance, Columns, chunk_counts, distinct, has_dir
from icefs.vfs.trees.renames import AppliedRenaming, Renaming
from icefs.vfs.trees.snapshot_tree import SnapshotTree
from icefs.zarr.keys import METADATA_NAME, ChunkKeyLayout

_METADATA: Final = METADATA_NAME.encode()


class Advancer:
    """Advances the snapshot tree of a branch."""

    def __init__(self, tree: SnapshotTree) -> None:
        self._tree = tree
        self._inodes = tree.inodes

    def advance(self, advance: Advance, open_inos: Iterable[Ino], renaming: Renaming | None = None) -> Advanced:
        """Carries out what was planned.

        Args:
            advance: The plan, from the present session.
            open_inos: The inodes that are open, of any tree.
            renaming: What was renamed by the mount's own commit, and keeps its numbers.
        """
        changes = advance.changes
        entries = list(self._changed_nodes(advance))
        for path, array in advance.arrays.items():
            entries += self._changed_chunks(path, array)
        entries += self._changed_open(advance, open_inos)
        renames = None if renaming is None else AppliedRenaming(self._inodes, renaming, advance)
        history = self._inodes.history
        epoch = history.begin(advance.session.snapshot.flushed_at)
        history.change_files(changes.new | changes.deleted | changes.updated, epoch)
        touched = {*changes.new, *changes.deleted, *changes.updated, *advance.arrays}
        if renames is not None:
            touched = renames.touched(touched)
            renames.keep_dirs()
        dirs = {above for path in touched for above in node_and_ancestors(NodePath(path))}
        history.change_dirs(dirs, epoch)
        # An array that was moved is at two paths here, and is not gone.
        for array in advance.arrays.values():
            if array.before is not None and (array.after is None or array.after.id != array.before.id):
                history.forget_array(array.before.id)
        for array in advance.arrays.values():
            self._record(array, epoch)
        chunk_dirs = [ino for path, array in advance.arrays.items() for ino in self._changed_chunk_dirs(path, array)]
        if renames is not None:
            renames.finish(epoch)
        self._tree.show(advance.session)
        attrs = [ino for path in dirs if (ino := self._inodes.known_directory(path)) is not None]
        return Advanced(Invalidations(entries, attrs + chunk_dirs), renames is None or renames.is_complete)

    def _record(self, advance: ArrayAdvance, epoch: int) -> None:
        after = advance.after
        if after is None:
            return
        if advance.changed is None:
            self._inodes.history.change_chunks(after.id).change_all(epoch)
        elif not advance.changed or len(advance.changed[0]):
            self._inodes.history.change_chunks(after.id).change(advance.changed, epoch)

    # The invalidations. All of this runs before the tree changes, and asks what the kernel may know from before.

    def _changed_nodes(self, advance: Advance) -> Iterator[Entry]:
        old, new = self._tree.session, advance.session
        assert old is not None  # the advance was planned from it
        for path in advance.changes.updated:
            yield from self._entry(path, _METADATA)
        for path in advance.changes.new | advance.changes.deleted:
            yield from self._entry(path, _METADATA)
            # Upwards as long as a directory came to be or ceased to be.
            for directory in node_and_ancestors(NodePath(path)):
                if directory == "/" or has_dir(old, directory) == has_dir(new, directory):
                    break
                parent, _, name = directory.rpartition("/")
                yield from self._entry(parent or "/", name.encode(errors="surrogatepass"))

    def _entry(self, directory: str, name: bytes) -> Iterator[Entry]:
        ino = self._inodes.known_directory(directory)
        if ino is not None:
            yield ino, name

    def _changed_chunks(self, path: str, advance: ArrayAdvance) -> Iterator[Entry]:
        before, layout = advance.before, advance.layout
        directory = self._inodes.known_directory(path)
        numbers = None if before is None else self._inodes.known_array(path, before.id)
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

    def _changed_chunk_dirs(self, path: str, advance: ArrayAdvance) -> list[Ino]:
        before, layout = advance.before, advance.layout
        numbers = None if before is None else self._inodes.known_array(path, before.id)
        if layout is None or numbers is None or not advance.changed or len(layout.widths) < 2 or advance.top_names:
            return []
        inos: list[Ino] = []
        for depth in range(len(advance.changed)):
            inos += numbers.dir_numbers(distinct(advance.changed[:depth]))
        return inos

    def _changed_open(self, advance: Advance, open_inos: Iterable[Ino]) -> Iterator[Entry]:
        """Yields the names of open chunks in directories that are dropped whole: dropping does not reach those."""
        for ino in open_inos:
            found = self._inodes.space.find(ino)
            if found is None or found.tree is not self._inodes.owner or not isinstance(found.content, ChunkRange):
                continue
            numbers, layout = found.content.numbers, found.content.layout
            array = advance.arrays.get(numbers.path)
            directory = self._inodes.known_directory(numbers.path)
            if array is None or array.layout is None or not array.top_names or layout is None or directory is None:
                continue
            columns = tuple(np.array([position], np.uint32) for position in layout.unpack(ino - found.start))
            if len(columns) == array.layout.ndim:
                yield from _leaf_entries(numbers, array.layout, directory, columns)


def _leaf_entries(numbers: ArrayNumbers, layout: ChunkKeyLayout, directory: Ino, columns: Columns) -> Iterator[Entry]:
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
    numbers: ArrayNumbers, layout: ChunkKeyLayout, directory: Ino, depth: int, prefixes: Columns
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
