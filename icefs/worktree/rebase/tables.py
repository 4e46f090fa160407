"""What follows from the nodes of a tree that stands on another base: their rows, and the tree's tables.

Concurrency: under the tree's lock.
"""

from collections.abc import Iterable

from icefs.paths import TreePath
from icefs.worktree.core.tree_core import TreeCore
from icefs.worktree.model.nodes import DIRTY, FROM_BASE, STORED, WHITEOUT, DirNode, FileNode, Node
from icefs.worktree.rebase.new_base import NewBase
from icefs.worktree.rebase.tree_edit import Edited
from icefs.worktree.spool.journal import LinkRow, NodeRow


def find_still_open(core: TreeCore, new: NewBase) -> dict[TreePath, TreePath]:
    """Returns the paths of open files of the old base, with those at which the new one has the same content."""
    found: dict[TreePath, TreePath] = {}
    for path, opened in core.base_handles.items():
        now, tree = new.new_path(path), opened[0].base_tree
        if now is not None and tree is not None and tree.content(opened[0].path) == new.asked.tree.content(now):
            found[path] = now
    return found


def rows(core: TreeCore, remaining: Iterable[Node]) -> tuple[list[NodeRow], list[LinkRow]]:
    """Returns the rows of all nodes and further names of a tree."""
    nodes: list[NodeRow] = []
    links: list[LinkRow] = []
    for node in remaining:
        if not is_placeholder(node):
            nodes.append(core.row(node))
        if isinstance(node, DirNode):
            for name, entry in node.entries.items():
                if entry is WHITEOUT:
                    links.append((node.id, name, 0))
                elif isinstance(entry, FileNode) and (entry.parent, entry.name) != (node, name):
                    links.append((node.id, name, entry.id))
    return nodes, links


def stand_on(core: TreeCore, new: NewBase, done: Edited, still_open: dict[TreePath, TreePath]) -> None:
    """Puts a tree, whose nodes were edited and whose rows are written, on the new base; does not fail."""
    _fill_tables(core, new, done)
    for file in done.converted:
        core.unfinished.forget(file)  # all that was written is committed, as its writer wanted
        if file.io is not None and file.io.file is not None:
            file.io.file.retire()
            file.io.file = None
    core.soft = {node: None for node in core.soft if node in done.remaining}
    for node in done.remaining:
        if is_placeholder(node):
            node.flags &= ~STORED
        else:
            node.flags |= STORED
            if isinstance(node, FileNode) and not node.flags & DIRTY:
                core.behind.pop(node, None)
    core.behind = {node: None for node in core.behind if core.by_ino.get(node.ino) is node}
    handles, core.base_handles = core.base_handles, {}
    for path, opened in handles.items():
        now = still_open.get(path)
        if now is not None:
            core.base_handles[now] = opened
            for handle in opened:
                handle.path, handle.base_tree = now, new.asked.tree
    core.base_tree = new.asked.tree


def _fill_tables(core: TreeCore, new: NewBase, done: Edited) -> None:
    orphans = [node for node in core.by_ino.values() if node.parent is None and node is not core.root]
    core.by_ino = {node.ino: node for node in done.remaining}
    core.base_dirs = {
        node.base_path: node for node in done.remaining if isinstance(node, DirNode) and node.base_path is not None
    }
    core.base_files = {
        node.origin: node for node in done.remaining if isinstance(node, FileNode) and node.origin is not None
    }
    removed: list[Node] = [*orphans, *done.vanished]
    for one in removed:
        # Removed but still open: it goes on reading from the tree that has its bytes.
        if isinstance(one, FileNode) and one.io is not None and one not in done.remaining:
            one.parent = None
            one.io.base_tree = one.io.base_tree or new.old
            core.by_ino[one.ino] = one


def is_placeholder(node: Node) -> bool:
    """Tells whether a node says only what the new base says, and is there because it is open."""
    return isinstance(node, FileNode) and node.flags & ~STORED == FROM_BASE and node.is_natural
