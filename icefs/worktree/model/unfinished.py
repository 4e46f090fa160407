"""Files that somebody is in the middle of writing: open for writing, and changed or empty since they were opened so."""

from collections.abc import Iterator

from icefs.worktree.model.nodes import FileNode


class Unfinished:
    """The files of a tree of which nobody knows yet whether their bytes are all there.

    Concurrency: under the tree's lock.
    """

    def __init__(self) -> None:
        self._nodes: dict[FileNode, None] = {}

    def __iter__(self) -> Iterator[FileNode]:
        return iter(self._nodes)

    def opened(self, node: FileNode) -> None:
        """Notes one more handle that may write. An empty file was just made or truncated, or is about to be filled."""
        assert node.io is not None
        node.io.writable += 1
        if not node.size:
            self.changed(node)

    def changed(self, node: FileNode) -> None:
        """Notes that an open file changed; it counts if a handle may write."""
        io = node.io
        assert io is not None
        if io.writable:
            io.is_flushed = False
            self._nodes[node] = None

    def closed(self, node: FileNode) -> bool:
        """Notes one handle less that may write; tells whether the file was unfinished, and is no longer."""
        assert node.io is not None
        node.io.writable -= 1
        return not node.io.writable and self.forget(node)

    def forget(self, node: FileNode) -> bool:
        """Takes a file for finished; tells whether it was not."""
        is_known = node in self._nodes
        self._nodes.pop(node, None)
        return is_known

    def num_flushed(self) -> int:
        """Returns how many files had a descriptor closed after their last change; it may have been the last one."""
        return sum(node.io is not None and node.io.is_flushed for node in self._nodes)
