"""Nodes for what the base has and no node stands for yet.

*Materialising* an untouched file or directory makes a node for it that says the same as before. It changes nothing that
anybody can see, so it is not undone, and not written until something refers to it.
"""

from icefs.errors import NotADirectoryTreeError, StaleError
from icefs.paths import TreePath, base_name, child, split
from icefs.worktree.base import BaseEntry
from icefs.worktree.model.node_tree import NodeTree
from icefs.worktree.model.nodes import FROM_BASE, DirNode, FileNode, Node, NodeRef
from icefs.worktree.model.open_state import OpenState


class Materialiser:
    """Makes nodes of untouched files and directories, and drops them again.

    Concurrency: the caller holds the tree's lock.
    """

    def __init__(self, tree: NodeTree) -> None:
        self._tree = tree

    def directory(self, directory: DirNode | TreePath) -> DirNode:
        """Returns the node of a directory, made with all above it where there is none.

        Raises:
            StaleError: it is no longer there.
            NotADirectoryTreeError: it is a file.
        """
        if isinstance(directory, DirNode):
            return directory
        node = self._tree.base_dirs.get(directory)
        if node is not None:
            return node
        missing = []
        path = directory
        while path not in self._tree.base_dirs:
            missing.append(path)
            path, _ = split(path)
        node = self._tree.base_dirs[path]
        for path in reversed(missing):
            name = base_name(path)
            attr = None if name in node.entries else self._tree.base_stat(path)
            if attr is None:
                raise StaleError(f"{directory!r} is gone", path=directory)
            if not attr.is_dir:
                raise NotADirectoryTreeError(f"{path!r} is a file", path=path)
            below = DirNode(
                self._tree.take_id(), attr.ino, self._tree.perm(*self._tree.defaults.directory), attr.mtime_ns, path
            )
            self._tree.base_dirs[path] = below
            self._insert(node, name, below)
            node = below
        return node

    def file(self, parent: DirNode, name: str, base_entry: BaseEntry) -> FileNode:
        """Makes the node of an untouched file, in its materialised directory."""
        attr = base_entry.attr
        # The number may be in use still, by the open file that stood here before a `discard`.
        ino = self._tree.new_ino() if attr.ino in self._tree.by_ino else attr.ino
        node = FileNode(self._tree.take_id(), ino, self._tree.perm(*self._tree.defaults.file), attr.size, attr.mtime_ns)
        node.origin = base_entry.path
        node.flags = FROM_BASE
        self._tree.base_files[base_entry.path] = node
        self._insert(parent, name, node)
        handles = self._tree.base_handles.pop(base_entry.path, None)
        if handles:
            node.io = OpenState(handles=len(handles))
            for handle in handles:
                handle.node = node
        return node

    def _insert(self, parent: DirNode, name: str, node: Node) -> None:
        self._tree.keep_for_views(parent)
        node.parent = parent
        node.name = name
        parent.entries[name] = node
        if parent.hidden is not None:
            parent.hidden.add(name)
        self._tree.by_ino[node.ino] = node

    def node(self, directory: DirNode, name: str, found: Node | BaseEntry) -> Node:
        """Returns the node of what `child` found in a directory."""
        if not isinstance(found, BaseEntry):
            return found
        if found.attr.is_dir:
            return self.directory(found.path)
        return self.file(directory, name, found)

    def at(self, where: NodeRef) -> Node:
        """Returns the node of what a caller means."""
        found = self._tree.resolve(where)
        if not isinstance(found, BaseEntry):
            return found
        if found.attr.is_dir:
            return self.directory(found.path)
        above, name = split(found.path)
        return self.file(self.directory(above), name, found)

    def forget(self, node: FileNode) -> None:
        """Drops the node of a base file that says nothing which the base does not say itself."""
        parent, base_path = node.parent, node.origin
        if (
            node.flags == FROM_BASE
            and node.io is None
            and node.extra is None
            and parent is not None
            and parent.base_path is not None
            and base_path is not None
            and base_path == child(parent.base_path, node.name)
            and not self._tree.views
        ):
            del parent.entries[node.name]
            if parent.hidden is not None:
                parent.hidden.discard(node.name)
            del self._tree.by_ino[node.ino]
            del self._tree.base_files[base_path]
            node.parent = None
            attr = self._tree.base_stat(base_path)
            if attr is not None and (attr.ino, attr.mtime_ns) != (node.ino, node.mtime_ns):
                # It was committed while it was open.
                self._tree.retained.add(parent.base_path, [(node.name, node.ino, node.mtime_ns)])
