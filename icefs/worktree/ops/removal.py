"""Taking entries out of directories, and letting go of the nodes that nothing leads to any more.

Concurrency: everything runs inside a `Change`.
"""

from icefs.paths import child
from icefs.worktree.core.tree_core import Change, TreeCore
from icefs.worktree.model.nodes import STORED, WHITEOUT, DirNode, FileNode


class Removal:
    """Removes entries for `unlink`, `rmdir`, `rename` and `discard`."""

    def __init__(self, core: TreeCore) -> None:
        self._core = core

    def hide(self, op: Change, directory: DirNode, name: str) -> None:
        """Puts a whiteout over an untouched entry."""
        op.put(directory.entries, name, WHITEOUT)
        if directory.hidden is not None:
            directory.hidden.add(name)
        op.links.append((directory, name, 0))

    def take_out(self, op: Change, directory: DirNode, name: str) -> None:
        """Removes an upper entry; a whiteout takes its place if the base directory has the name, too."""
        entry = directory.entries[name]
        if self._hides_base(directory, name):
            op.put(directory.entries, name, WHITEOUT)
            op.links.append((directory, name, 0))
            return
        op.put(directory.entries, name, None)
        if isinstance(entry, FileNode) and entry.extra is not None and (directory, name) in entry.extra:
            op.links.append((directory, name, None))

    def _hides_base(self, directory: DirNode, name: str) -> bool:
        if directory.base_path is None:
            return False
        if directory.hidden is not None:
            return name in directory.hidden
        return self._core.base_tree.stat(child(directory.base_path, name)) is not None

    def drop_link(self, op: Change, node: FileNode, directory: DirNode, name: str, *, is_kept: bool = False) -> None:
        """Takes one link from a file, and with the last one its row and, unless it is open or kept, its bytes."""
        core = self._core
        op.touch(node)
        node.ctime_ns = core.tick(node)
        if node.extra is not None:
            is_first = (node.parent, node.name) == (directory, name)
            node.drop_link(directory, name)
            if is_first:
                assert node.parent is not None
                op.links.append((node.parent, node.name, None))
            op.store[node] = None
            return
        node.parent = None
        op.kill(node)
        if is_kept:
            op.kept.append(node)
        elif node.io is None:
            op.put(core.behind, node, None)
            op.put(core.by_ino, node.ino, None)
            if node.origin is not None and core.base_files.get(node.origin) is node:
                op.put(core.base_files, node.origin, None)
            core.release_spool(op, node.spool_id)

    def drop_dir(self, op: Change, node: DirNode) -> None:
        """Forgets an empty directory that was taken out of its parent."""
        core = self._core
        op.touch(node)
        if node.flags & STORED and node.entries:
            op.purged.append(node.id)
        op.kill(node)
        node.parent = None
        op.put(core.by_ino, node.ino, None)
        if node.base_path is not None:
            op.put(core.base_dirs, node.base_path, None)
