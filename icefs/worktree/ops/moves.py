"""Moving entries: what `rename` does once it is known to be allowed.

Concurrency: everything runs inside a `Change`.
"""

from icefs.paths import TreePath, is_below, split
from icefs.worktree.base import BaseEntry
from icefs.worktree.core.tree_core import Change, TreeCore
from icefs.worktree.model.nodes import DirNode, FileNode, Node
from icefs.worktree.ops.removal import Removal


class Mover:
    """Moves and exchanges entries."""

    def __init__(self, core: TreeCore, removal: Removal) -> None:
        self._core = core
        self._removal = removal

    def contains(self, found: Node | BaseEntry, directory: DirNode | TreePath) -> bool:
        """Tells whether a directory is what was found, or lies below it."""
        if isinstance(found, FileNode):
            return False
        if isinstance(found, BaseEntry):
            # Everything below an untouched directory is untouched.
            return isinstance(directory, str) and is_below(directory, found.path)
        node: DirNode | None = directory if isinstance(directory, DirNode) else self._nearest(directory)
        while node is not None and node is not found:
            node = node.parent
        return node is not None

    def _nearest(self, path: TreePath) -> DirNode:
        while True:
            node = self._core.base_dirs.get(path)
            if node is not None:
                return node
            path, _ = split(path)

    def move(
        self,
        op: Change,
        source: tuple[DirNode | TreePath, str, Node | BaseEntry],
        target: tuple[DirNode | TreePath, str, Node | BaseEntry | None],
    ) -> None:
        """Moves an entry, each end a (directory, name, what stands there); the target is replaced."""
        core = self._core
        above, name = core.materialise.directory(source[0]), source[1]
        new_above, new_name, replaced = core.materialise.directory(target[0]), target[1], target[2]
        node = core.materialise.node(above, name, source[2])
        op.dir_changed(above)
        if new_above is not above:
            op.dir_changed(new_above)
        was_extra = False
        if isinstance(replaced, BaseEntry):
            if replaced.path in core.base_handles or (core.keeps_removed and not replaced.attr.is_dir):
                replaced = core.materialise.node(new_above, new_name, replaced)
            elif new_above.hidden is not None:
                new_above.hidden.add(new_name)
        if isinstance(replaced, FileNode):
            was_extra = replaced.extra is not None and (new_above, new_name) in replaced.extra
            self._removal.drop_link(op, replaced, new_above, new_name, is_kept=core.keeps_removed)
        elif isinstance(replaced, DirNode):
            self._removal.drop_dir(op, replaced)
        self._removal.take_out(op, above, name)
        op.touch(node)
        node.ctime_ns = core.tick(node)
        _set_place(node, (above, name), (new_above, new_name))
        op.put(new_above.entries, new_name, node)
        op.store[node] = None
        self._write_link(op, new_above, new_name, was_extra=was_extra)

    def exchange(
        self,
        op: Change,
        one: tuple[DirNode | TreePath, str, Node | BaseEntry],
        two: tuple[DirNode | TreePath, str, Node | BaseEntry],
    ) -> None:
        """Exchanges two entries, each a (directory, name, what stands there)."""
        core = self._core
        places = [(core.materialise.directory(directory), name) for directory, name, _ in (one, two)]
        nodes = [core.materialise.node(*place, found) for place, (_, _, found) in zip(places, (one, two), strict=True)]
        extras = [
            isinstance(node, FileNode) and node.extra is not None and place in node.extra
            for place, node in zip(places, nodes, strict=True)
        ]
        for directory in dict.fromkeys(directory for directory, _ in places):
            op.dir_changed(directory)
        for node, old, new in zip(nodes, places, reversed(places), strict=True):
            op.touch(node)
            node.ctime_ns = core.tick(node)
            _set_place(node, old, new)
            op.put(new[0].entries, new[1], node)
            op.store[node] = None
        for (directory, name), was_extra in zip(places, extras, strict=True):
            self._write_link(op, directory, name, was_extra=was_extra)

    def _write_link(self, op: Change, directory: DirNode, name: str, *, was_extra: bool) -> None:
        """Brings the `link` row of a place in line with what stands there now."""
        entry = directory.entries[name]
        if isinstance(entry, FileNode) and (entry.parent, entry.name) != (directory, name):
            op.links.append((directory, name, entry.id))
        elif was_extra:
            op.links.append((directory, name, None))


def _set_place(node: Node, old: tuple[DirNode, str], new: tuple[DirNode, str]) -> None:
    if isinstance(node, FileNode) and node.extra is not None and old in node.extra:
        node.extra = {new if link == old else link: None for link in node.extra}
    else:
        node.parent, node.name = new
