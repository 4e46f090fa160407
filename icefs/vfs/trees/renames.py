"""What a commit renames, and how inode numbers and times go along.

    a node's directory, its zarr.json    the entries of the tree's table of nodes get other paths
    an array, or all chunks of one       its numbers, and the account of what changed when, are those of the new array
    a directory of chunks                has other indices: a `Region` that the working tree keeps

Nothing here is proportional to the number of chunks, but where an array is renamed and changed in one commit: then
the references before and after are compared, as columns, and a chunk that differs in any way has another number.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from icefs.engine.history.changes import compare_refs
from icefs.engine.read.session import Session
from icefs.errors import FormatError, InvalidInputError, StorageError
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.paths import NodePath, TreePath, child
from icefs.vfs.chunks.array_view import key_layout
from icefs.vfs.inodes.former import FormerArray
from icefs.vfs.inodes.history import ChunkEpochs
from icefs.vfs.inodes.numbers import ArrayNumbers, NodeKey, Prefix
from icefs.vfs.inodes.tree_inodes import ArrayKey, TreeInodes
from icefs.vfs.trees.advance import Advance, Columns, has_dir
from icefs.worktree.base import BaseTree
from icefs.worktree.freeze.frozen_index import FrozenIndex
from icefs.worktree.model.retained_regions import Region, RetainedAttr
from icefs.zarr.keys import ChunkKeyLayout, metadata_key, node_prefix, parse_metadata_key


@dataclass(frozen=True, slots=True)
class ArrayRename:
    """An array all chunks of which are now those of another one, or of the same one elsewhere.

    Attributes:
        before: The array that they were of.
        after: The array that they are of.
        changed: The indices of those that are not what they were, one column per dimension; None where all are.
    """

    before: NodeSnapshot
    after: NodeSnapshot
    changed: Columns | None


@dataclass(slots=True)
class Renaming:
    """What a commit renames.

    Attributes:
        index: Where everything was in the frozen tree, and is in the new snapshot.
        under: What the paths of the nodes begin with that may be elsewhere now.
        ends: The directories that lost or got the directory of a node.
        files: The new paths of the nodes whose zarr.json is what it was, by the old ones.
        same: The old paths of the nodes that are what they were, with all their chunks, by the new ones.
        arrays: The arrays whose numbers go along.
        renumbered: The arrays whose chunks are all elsewhere: the present ones get new numbers.
        departed: The numbers of arrays with the prefixes at which directories were renamed away.
        regions: The directories of chunks that are elsewhere, by new path.
        names: New path, number and time of what lies in such directories of more than one array, name by name.
        inside: The arrays with directories of chunks that are elsewhere.
        known: The arrays that were looked at when this was planned.
        is_complete: Whether everything that was looked at keeps its number.
    """

    index: FrozenIndex
    under: tuple[str, ...] = ()
    ends: set[str] = field(default_factory=set)
    files: dict[str, str] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    arrays: list[ArrayRename] = field(default_factory=list)
    renumbered: list[NodeSnapshot] = field(default_factory=list)
    departed: list[tuple[ArrayNumbers, Prefix]] = field(default_factory=list)
    regions: dict[TreePath, Region] = field(default_factory=dict)
    names: dict[TreePath, RetainedAttr] = field(default_factory=dict)
    inside: set[str] = field(default_factory=set)
    known: set[ArrayKey] = field(default_factory=set)
    is_complete: bool = True

    def concerns(self, array: str) -> bool:
        """Tells whether the chunks of an array may be elsewhere now."""
        return array in self.inside or f"{array}/".startswith(self.under)


def plan_renaming(
    inodes: TreeInodes, lock: threading.RLock, old: Session, new: Session, base_tree: BaseTree, index: FrozenIndex
) -> Renaming | None:
    """Works out what a commit renames; in a worker thread. None if there is nothing of the kind.

    Unreadable arrays do not keep their numbers.

    Args:
        inodes: The numbers of the branch, which shows `old`.
        lock: Protects them.
        old: What the working tree stood on.
        new: What was committed.
        base_tree: `old` by path, with the tree's numbers.
        index: Where everything was in the frozen tree.
    """
    redirects = [
        directory.base_path
        for directory in index.dirs.values()
        if directory.is_redirect and directory.base_path is not None and not index.is_left_out(directory.path)
    ]
    if not redirects:
        return None
    return _Planning(inodes, lock, old, new, base_tree, Renaming(index)).run(redirects)


class _Planning:
    def __init__(
        self,
        inodes: TreeInodes,
        lock: threading.RLock,
        old: Session,
        new: Session,
        base_tree: BaseTree,
        plan: Renaming,
    ) -> None:
        self._inodes = inodes
        self._lock = lock
        self._base_tree = base_tree
        self._old = old
        self._new = new
        self._plan = plan

    def run(self, redirects: list[TreePath]) -> Renaming:
        """Goes through the renamed directories: those of nodes, and those of chunks."""
        plan = self._plan
        nodes = [path for path in redirects if has_dir(self._old, f"/{path}")]
        plan.under = tuple(f"/{path}/" for path in nodes)
        plan.ends = {_above(f"/{end}") for path in nodes for end in (path, plan.index.by_base_path[path].path)}
        inside: dict[str, list[TreePath]] = {}
        for path in set(redirects).difference(nodes):
            for above in _arrays_above(self._old, path):
                inside.setdefault(above, []).append(path)
        with self._lock:
            known = self._inodes.known_arrays()
        plan.inside, plan.known = set(inside), set(known)
        moved: dict[str, ArrayRename | None] = {}
        for (array, node_id), numbers in known.items():
            node = _array(self._old, array) if plan.concerns(array) else None
            if node is not None and node.id == node_id:
                moved[array] = self._move_array(node, numbers, inside.get(array, []))
        self._find_same(moved)
        return plan

    def _move_array(self, node: NodeSnapshot, numbers: ArrayNumbers, inside: list[TreePath]) -> ArrayRename | None:
        """Plans for an array that was looked at; `inside` are directories of its chunks that were renamed."""
        try:
            layout = key_layout(node)
        except InvalidInputError:  # so there were no chunks to be seen
            return None
        plan, prefix = self._plan, node_prefix(node.path)
        lead = "c" if layout.depth > 1 and layout.widths[0] == 0 else ""
        root = TreePath((prefix + lead).rstrip("/"))
        place = plan.index.new_path(root)
        found = None
        inodes = self._inodes
        first = inodes.first_times.known_chunks(node.id)
        former = FormerArray(inodes.space, self._lock, numbers, layout, inodes.history, first)
        if place is not None and place != root and not plan.index.is_left_out(place):
            plan.renumbered.append(node)
            found = self._same_array(node, layout, place, lead)
            if found is not None:
                plan.arrays.append(found)
            else:
                self._add_region(node, former, root, place)
        for path in inside:
            at = _prefix_in(node, layout, path)
            if at is not None and path != root:
                plan.departed.append((numbers, at))
                self._add_region(node, former, path, plan.index.by_base_path[path].path)
        return found

    def _add_region(self, node: NodeSnapshot, former: FormerArray, path: TreePath, now: TreePath) -> None:
        old = self._old
        others = [other for above in _arrays_above(old, path) if above != node.path and (other := _array(old, above))]
        if old.has_children(NodePath(f"/{path}")) or any(_prefix_in(other, None, path) is not None for other in others):
            self._list(path)  # their names alone do not say whose chunks these are
        else:
            self._plan.regions[now] = Region(former, TreePath(path[len(node_prefix(node.path)) :]))

    def _list(self, path: TreePath) -> None:
        """Goes through a directory name by name, as staging has to do as well (`worktree.stage.renames`)."""
        plan, waiting = self._plan, [path]
        try:
            for directory in waiting:
                for name, attr in self._base_tree.list(directory):
                    below = child(directory, name)
                    place = plan.index.new_path(below)
                    if place is not None and attr.ino:
                        plan.names[place] = RetainedAttr(attr.ino, attr.mtime_ns)
                    if attr.is_dir:
                        waiting.append(below)
        except (FormatError, StorageError):
            plan.is_complete = False

    def _same_array(self, node: NodeSnapshot, layout: ChunkKeyLayout, place: str, lead: str) -> ArrayRename | None:
        """Returns which array has an array's chunks now, under the same indices; None if none has."""
        if lead:
            above, _, name = place.rpartition("/")
            if name != lead:
                return None
            place = above
        after = _array(self._new, f"/{place}")
        with suppress(InvalidInputError, FormatError, StorageError):
            if after is not None and key_layout(after) == layout:
                return ArrayRename(node, after, self._changed(node, after))
        return None

    def _changed(self, node: NodeSnapshot, after: NodeSnapshot) -> Columns | None:
        one, other = self._old.array_chunks(node), self._new.array_chunks(after)
        assert node.array is not None
        assert after.array is not None
        if node.array.manifests == after.array.manifests:
            return None
        if not one.ndim:
            return () if one.find(()) != other.find(()) else None
        indices = compare_refs(one.refs_besides(other), other.refs_besides(one))
        return indices.coords if len(indices) else None

    def _find_same(self, moved: Mapping[str, ArrayRename | None]) -> None:
        index, plan = self._plan.index, self._plan
        touched = set(index.by_base_path)
        for old_path in self._old.snapshot.paths if plan.under else ():
            if not f"{old_path}/".startswith(plan.under):
                continue
            place = index.new_path(TreePath(metadata_key(old_path)))
            path = None if place is None else parse_metadata_key(place)
            if path is None or path == old_path:
                continue
            node, after = _node(self._old, old_path), _node(self._new, path)
            if node is None or after is None or after.user_data != node.user_data:
                continue
            plan.files[old_path] = path
            if node.array is None or (
                _is_unchanged(moved[old_path]) if old_path in moved else old_path[1:] not in touched
            ):
                plan.same[path] = old_path


def _is_unchanged(array: ArrayRename | None) -> bool:
    return array is not None and array.changed is None


def _prefix_in(node: NodeSnapshot, layout: ChunkKeyLayout | None, path: str) -> Prefix | None:
    """Returns the coordinates that all chunks below a base directory share; None if it is none of the array's."""
    with suppress(InvalidInputError):
        layout = layout or key_layout(node)
        components = path[len(node_prefix(node.path)) :].split("/")
        return layout.parse_prefix(components) if len(components) < layout.depth else None
    return None


def _above(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def _node(session: Session, path: str) -> NodeSnapshot | None:
    """Returns a node; None where there is none, or none that can be read."""
    with suppress(FormatError):
        return session.get_node(NodePath(path))
    return None


def _array(session: Session, path: str) -> NodeSnapshot | None:
    node = _node(session, path)
    return node if node is not None and node.array is not None else None


def _arrays_above(session: Session, path: str) -> Iterator[str]:
    """Yields the paths of the arrays that a base directory lies below."""
    above = f"/{path}"
    while above != "/":
        above = above.rpartition("/")[0] or "/"
        if _array(session, above) is not None:
            yield above


class AppliedRenaming:
    """Carries out what a commit renames, while a branch tree moves to the commit.

    Made before the tree moves, since it takes what is true until then.
    """

    def __init__(self, inodes: TreeInodes, plan: Renaming, advance: Advance) -> None:
        self._inodes = inodes
        self._plan = plan
        self._advance = advance
        history = inodes.history
        self._epochs = {
            array.after.id: ChunkEpochs() if (known := history.chunks(array.before.id)) is None else known.copy()
            for array in plan.arrays
        }
        self._files: dict[NodeKey, tuple[str, int]] = {}
        for old, new in plan.files.items():
            key = NodeKey(old, history.file_epoch(old))
            if (time_ns := inodes.known_time_ns(key)) is not None:
                self._files[key] = new, time_ns
        late = inodes.known_arrays().keys() - plan.known
        self.is_complete = plan.is_complete and not any(plan.concerns(path) for path, _ in late)

    def touched(self, paths: set[str]) -> set[str]:
        """Returns which of the nodes that an advance touches are not merely elsewhere, and what lost or got one."""
        same, new = self._plan.same, self._advance.session
        gone = {old for old in same.values() if old not in same and not has_dir(new, old)}
        return paths - same.keys() - gone | self._plan.ends

    def keep_dirs(self) -> None:
        """Lets directories have the times that they had; before those that are touched get the new one."""
        moves = {new.path: old.path for old, new in self._moved_dirs().items() if new is not None}
        self._inodes.history.keep_dirs(self._plan.same | moves)

    def finish(self, epoch: int) -> None:
        """Lets numbers and times follow; the tree's history has recorded the advance already."""
        inodes, plan = self._inodes, self._plan
        inodes.rename_arrays(plan.renumbered, [(array.before, array.after) for array in plan.arrays])
        for node in plan.renumbered:
            still = _node(self._advance.session, node.path)
            if still is not None and still.id == node.id:
                inodes.history.put_chunks(node.id, ChunkEpochs(epoch))
        for array in plan.arrays:
            epochs = self._epochs[array.after.id]
            if array.changed is not None:
                epochs.change(array.changed, epoch)
            inodes.history.put_chunks(array.after.id, epochs)
        for numbers, prefix in plan.departed:
            numbers.renew_dirs(prefix, epoch)
        files = {old: (NodeKey(new, epoch), time_ns) for old, (new, time_ns) in self._files.items()}
        inodes.rename_nodes(self._moved_dirs(), files)

    def _moved_dirs(self) -> dict[NodeKey, NodeKey | None]:
        """Returns which directories are elsewhere; None for those that are no directories of nodes any more."""
        new = self._advance.session
        moves: dict[NodeKey, NodeKey | None] = {}
        for key in self._inodes.nodes.known_keys():
            if key.epoch is None and f"{key.path}/".startswith(self._plan.under):
                place = self._plan.index.new_path(TreePath(key.path[1:]))
                target = None if place is None or not has_dir(new, f"/{place}") else NodeKey(f"/{place}", None)
                if target != key:
                    moves[key] = target
        return moves
