"""Files that were removed or replaced while the kernel knows them.

A program looks a name up, another one replaces what is there, and the first one opens what it found: on a local disk it
gets the old bytes. So a file whose last name goes stays, like one that somebody has open, until the kernel forgets its
inode number. It says so as soon as no program can come back to the file, mostly at once.
"""

from icefs.inode import Ino
from icefs.worktree.core.content import Content
from icefs.worktree.core.tree_core import TreeCore


class RemovedFiles:
    """Keeps the removed files of a tree that a kernel asks."""

    def __init__(self, core: TreeCore, content: Content) -> None:
        self._core = core
        self._content = content

    def keep(self) -> None:
        """Keeps what is removed from now on until `forget`. Without a kernel nothing would ever forget it."""
        with self._core.lock:
            self._core.keeps_removed = True

    def forget(self, ino: Ino) -> None:
        """Lets a removed file go, as the kernel has forgotten its number."""
        core = self._core
        if ino not in core.removed or core.is_closed:
            return
        with core.change() as op:
            node = core.removed.pop(ino)
            assert node.io is not None  # it counts as open
            node.io.handles -= 1
            if not node.io.handles:
                self._content.close_node(op, node)
