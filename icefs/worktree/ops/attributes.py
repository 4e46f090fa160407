"""Setting attributes: mode, owner, times, size."""

from dataclasses import dataclass

from icefs.errors import IsADirectoryTreeError
from icefs.worktree.core.content import Content
from icefs.worktree.core.tree_core import TreeCore
from icefs.worktree.model.nodes import ATTRS, STORED, Attr, DirNode, NodeRef


@dataclass(frozen=True, slots=True)
class AttrChange:
    """What to set; None leaves a field as it is.

    Attributes:
        mode: Permission bits.
        uid: The owner.
        gid: The group.
        size: The file's size in bytes.
        atime_ns: The time of the last access.
        mtime_ns: The time of the last change of the content.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


class Attributes:
    """The attributes of a working tree's nodes."""

    def __init__(self, core: TreeCore, content: Content) -> None:
        self._core = core
        self._content = content

    def set(self, where: NodeRef, change: AttrChange) -> Attr:
        """Changes a node's attributes; they survive the death of this process when it returns.

        Those of a file that was created and not flushed yet go with its first flush.

        Raises:
            IsADirectoryTreeError: a directory has no size to be set.
            NoSpaceError: the disk is full.
        """
        core = self._core
        with core.change() as op:
            node = core.materialise.at(where)
            if change.size is not None:
                if isinstance(node, DirNode):
                    raise IsADirectoryTreeError(f"{node.name!r} is a directory", name=node.name)
                # First, since it may let go of the lock for a while.
                self._content.resize(op, node, change.size)
            if change == AttrChange(size=change.size):
                return node.attr()
            op.touch(node)
            perm = node.perm
            node.perm = core.perm(
                perm.mode if change.mode is None else change.mode,
                perm.uid if change.uid is None else change.uid,
                perm.gid if change.gid is None else change.gid,
            )
            node.ctime_ns = core.tick(node)
            if change.atime_ns is not None:
                node.atime_ns = change.atime_ns
            if change.mtime_ns is not None:
                node.mtime_ns = change.mtime_ns
            node.flags |= ATTRS
            is_linked = node.parent is not None or node is core.root
            if is_linked and (node.flags & STORED or node not in core.behind):
                op.store[node] = None
            return node.attr()
