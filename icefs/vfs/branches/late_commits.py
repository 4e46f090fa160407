"""A tree's own commit that was given up, and that the store has carried out all the same, later.

A tree remembers what it was about to publish on its base. Where one of these snapshots is found in the branch's history
the tree is put on it as if the commit had succeeded at once, and whatever differs in the tree by now stays a change.
The files themselves tell: the tree may have been written to since, and by another daemon.
"""

from collections.abc import Iterable, Iterator

from icefs.engine.history.changes import compare
from icefs.engine.read.session import Session
from icefs.engine.write.repository import WritableRepository
from icefs.format.ids import SnapshotId
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.inode import Ino
from icefs.paths import NodePath, TreePath, split
from icefs.worktree.freeze.frozen import FrozenTree
from icefs.worktree.stage.staged import Source, Staged, source_size
from icefs.worktree.tree import WorkTree
from icefs.zarr.keys import ChunkKeyLayout, metadata_key, node_prefix
from icefs.zarr.reader import KeyReader


def late_commit(work: WorkTree, repository: WritableRepository, branch: str) -> SnapshotId | None:
    """Finds a commit that a tree had given up among those of its branch since the tree's base.

    Raises:
        StorageError, FormatError: the history cannot be read.
        RefNotFoundError: the branch is gone.
    """
    if not work.attempts:
        return None
    attempts = frozenset(work.attempts)
    if str(repository.lookup_branch(branch)) == work.base:
        return None
    for info in repository.ancestry(branch=branch):
        if str(info.id) in attempts:
            return info.id
        if str(info.id) == work.base:
            return None
    return None


def differing(staged: Staged, frozen: FrozenTree, made: Session) -> list[TreePath] | None:
    """Returns the staged paths that a snapshot has otherwise; None where renames make that too much to tell."""
    if staged.renames or any(array.reused is not None for array in staged.arrays.values()):
        return None
    reader = KeyReader(made)
    keys = {metadata_key(NodePath(path)): data for path, data in staged.nodes.items()}
    found: list[TreePath] = [key for key, data in keys.items() if reader.read(key) != data]
    for path, array in staged.arrays.items():
        node = made.get_node(NodePath(path))
        layout = None if node is None or node.array is None else _layout(node)
        for index, source in array.sets.items():
            place = source.path
            if layout is None or layout.ndim != len(index) or not _is_same(reader, frozen, place, source):
                found.append(place)
    return found


def _is_same(reader: KeyReader, frozen: FrozenTree, key: str, source: Source) -> bool:
    there = reader.find(key)
    if there is None or isinstance(there, NodeSnapshot) or there.length_bytes != source_size(source):
        return False
    return reader.read(key) == frozen.read(source)


def hidden(staged: Staged, frozen: FrozenTree, base: Session, made: Session) -> Iterator[TreePath]:
    """Yields the keys of a snapshot that a tree does not show, although they are not in its way: removed since."""
    reader = KeyReader(made)
    for key in _candidates(staged, base, made, reader):
        if reader.find(key) is not None and frozen.find(key) is None:
            yield key


def _candidates(staged: Staged, base: Session, made: Session, reader: KeyReader) -> Iterator[TreePath]:
    changes = compare(base, made)
    for path in {*changes.new, *changes.updated, *staged.gone}:
        yield metadata_key(NodePath(path))
    whole = {*changes.new, *staged.gone, *(path for path, indices in changes.chunks.items() if indices is None)}
    for path in whole:
        node = made.get_node(NodePath(path))
        if node is not None and node.array is not None:
            for batch in reader.list_batches(node_prefix(NodePath(path)).rstrip("/")):
                yield from map(TreePath, batch)
    parts = [(path, indices) for path, indices in changes.chunks.items() if indices is not None]
    parts += [(NodePath(path), array.deletes) for path, array in staged.arrays.items() if len(array.deletes)]
    for path, indices in parts:
        node = made.get_node(path)
        if node is not None and node.array is not None and len(node.array.shape) == indices.ndim:
            layout = _layout(node)
            yield from (TreePath(node_prefix(path) + layout.format(index)) for index in indices)


def _layout(node: NodeSnapshot) -> ChunkKeyLayout:
    assert node.array is not None  # for arrays only
    return ChunkKeyLayout.of_metadata(node.user_data, len(node.array.shape))


def remove_hidden(work: WorkTree, keys: Iterable[TreePath]) -> Iterator[tuple[Ino, bytes]]:
    """Removes names from a tree, and yields them with the numbers of their directories."""
    for key in keys:
        above, name = split(key)
        where = work.entries.find(above)
        if where is not None and work.entries.find(key) is not None:
            work.names.unlink(where, name)
            yield work.entries.attr(where).ino, name.encode(errors="surrogatepass")
