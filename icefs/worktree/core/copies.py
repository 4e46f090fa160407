"""Private copies of files: bytes that no frozen tree refers to, nor the object store, so that they can be changed.

Concurrency: a copy is begun with the tree's lock held, which is free while the bytes are copied: `OpenState.busy` makes
other writers of the node wait, readers go on with the old bytes. A freeze does not wait for a copy (the copied bytes
are still the old content); a copy that ends on a frozen tree gives its file a new id, so that it is no part of the
view.
"""

import os

from icefs.errors import StorageError
from icefs.paths import ROOT_DIRECTORY, TreePath
from icefs.worktree.base import BaseTree
from icefs.worktree.core.tree_core import TreeCore
from icefs.worktree.model.nodes import FileNode
from icefs.worktree.model.open_state import SpoolFile
from icefs.worktree.spool.files import disk_error


def is_shared(core: TreeCore, node: FileNode) -> bool:
    """Tells whether a view or the object store has a file's spool file, or nothing of it is left."""
    spool_id = node.spool_id
    return 0 < spool_id <= core.spool_limit or spool_id in core.final or node.is_all_lost


class Copies:
    """Copies the bytes of a tree's files."""

    def __init__(self, core: TreeCore) -> None:
        self._core = core
        self._spool = core.spool

    def make(self, node: FileNode, source: SpoolFile | None) -> SpoolFile | None:
        """Makes a private copy of an open file's bytes; the lock is held, and free while they are copied.

        Args:
            node: The file.
            source: The spool file that has its bytes; None if the base has them.

        Returns:
            The copy, for the caller to install; None if the content changed meanwhile, as the tree got another base.

        Raises:
            NoSpaceError: the disk is full.
            StorageError: the disk failed, or the base cannot provide the bytes.
        """
        core = self._core
        io = node.io
        assert io is not None
        before = base_tree, origin, size, _ = io.base_tree or core.base_tree, node.origin, node.size, node.spool_id
        io.busy = True
        if source is not None:
            source.users += 1
        spool_id = core.take_id()
        core.lock.release()
        file: SpoolFile | None = None
        try:
            file = self._spool.create(spool_id)
            if source is None:
                self._fill_from_base(base_tree, origin or ROOT_DIRECTORY, file, size)
            else:
                self._spool.copy(source, file, size)
        except BaseException:
            self._throw_away(file)
            raise
        finally:
            core.lock.acquire()
            io.busy = False
            if source is not None:
                source.drop()
            core.changed.notify_all()
        if before != (io.base_tree or core.base_tree, node.origin, node.size, node.spool_id):
            self._throw_away(file)
            return None
        if spool_id <= core.spool_limit:
            # The tree was frozen meanwhile; a larger id tells that this file is not part of the view.
            self._spool.rename(file, core.take_id())
        return file

    def _throw_away(self, file: SpoolFile | None) -> None:
        if file is not None:
            file.retire()
            self._spool.remove(file.id)

    def _fill_from_base(self, base_tree: BaseTree, path: TreePath, file: SpoolFile, size: int) -> None:
        try:
            base_tree.copy_to(path, file.fd)
            copied = os.fstat(file.fd).st_size
        except OSError as error:
            raise disk_error(error, "copying a file up") from error
        if copied != size:
            raise StorageError(
                f"{path!r} has {copied} bytes where {size} were expected", kind="io", path=path, expected=size
            )
