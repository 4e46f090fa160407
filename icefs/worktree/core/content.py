"""Where a file's bytes are, and what it takes to change them.

A node's bytes come from one of three places: nothing (size 0), the base file at its `origin`, or a spool file.
Writing needs a *private* spool file: one that no frozen tree refers to, nor the object store. Where there is none,
one is made, filled from the base file (copy-up) or from the shared spool file (a reflink where the disk can), unless
the bytes are to be thrown away.

Concurrency: everything is called with the tree's lock held, except `lose` and `copy_up`. Making content private
releases the lock while it copies (`copies`).
"""

import logging
import os
from dataclasses import replace
from typing import Final

from icefs.errors import FileTooLargeError, IcefsError, InvalidInputError
from icefs.worktree.core.copies import Copies, is_shared
from icefs.worktree.core.lost_bytes import LostBytes, check_there
from icefs.worktree.core.tree_core import Change, TreeCore
from icefs.worktree.model.nodes import DIRTY, DOUBTFUL, FROM_BASE, LOST, FileNode
from icefs.worktree.model.open_state import OpenState, SpoolFile
from icefs.worktree.spool.ahead import SpoolAhead
from icefs.worktree.spool.files import disk_error
from icefs.worktree.spool.write_behind import WriteBehind

logger = logging.getLogger(__name__)

MAX_SIZE_BYTES: Final = 2**63 - 1


class Content:
    """The bytes of a tree's files."""

    def __init__(self, core: TreeCore, files_ahead: int = 0) -> None:
        """Takes the tree's state, and how many spool files to make ahead for programs that write many."""
        self._core = core
        self._spool = core.spool
        self._lost = LostBytes(core)
        self._copies = Copies(core)
        self.ahead = SpoolAhead(core.spool, core.take_spool_id, files_ahead)
        self._behind: WriteBehind | None = None

    def write_behind(self) -> None:
        """Has the disk begin with files that are closed, as a commit will wait for them."""
        behind = self._behind = WriteBehind(self._spool.path)
        with self._core.lock:
            self._core.on_closed = lambda node: behind.closed(node.spool_id, node.size)

    def close(self) -> None:
        """Ends what works in the background. The lock is held."""
        self.ahead.close()
        self._core.on_closed = None
        if self._behind is not None:
            self._behind.close()

    # Rows

    def store(self, op: Change, node: FileNode) -> None:
        """Has a file's row written if it is behind, with the spool file's own mtime (see `recovery`).

        The lock is held.
        """
        if node.parent is None or node not in self._core.behind:
            return
        op.touch(node)
        node.stamp = 0
        io = node.io
        if node.spool_id and (io is None or not io.writers):
            if io is not None and io.file is not None:
                node.stamp = os.fstat(io.file.fd).st_mtime_ns
            else:
                found = self._spool.stat(node.spool_id)
                node.stamp = 0 if found is None else found.st_mtime_ns
        if io is None or not io.writers:
            node.flags &= ~DIRTY
        op.store[node] = None
        self._release_superseded(op, node)

    def close_node(self, op: Change, node: FileNode) -> None:
        """Ends what a node had while it was open. The lock is held."""
        core = self._core
        io = node.io
        assert io is not None
        if node.parent is not None and node in core.behind:
            self.store(op, node)
        if io.file is not None:
            io.file.retire()
        node.io = None
        if node.parent is None:
            core.behind.pop(node, None)
            core.by_ino.pop(node.ino, None)
            if node.origin is not None and core.base_files.get(node.origin) is node:
                del core.base_files[node.origin]
            core.release_spool(op, node.spool_id)
            self._release_superseded(op, node)
        else:
            core.materialise.forget(node)
            if core.on_closed is not None and node.spool_id:
                core.on_closed(node)

    # Spool files

    def file_of(self, node: FileNode) -> SpoolFile:
        """Returns the descriptor that all handles of a node share. The lock is held, the node is open."""
        io = node.io
        assert io is not None
        if io.file is None:
            io.file = self._spool.open(node.spool_id)
        return io.file

    def note_write(self, node: FileNode, start: int, end: int) -> None:
        """Gives a file the size and times that a write of `[start, end)` leaves it with."""
        core = self._core
        if core.views:
            core.keep_for_views(node)
        if node.flags & LOST:
            self._lost.heal(node, start, end)
        if end > node.size:
            node.size = end
        core.unfinished.changed(node)
        core.content_time(node)
        core.mark_behind(node)

    # Bytes that are lost

    def lose(self, node: FileNode, start: int, end: int) -> None:
        """Marks bytes of a file as lost, in memory and, as far as the disk allows, for later. Takes the lock itself."""
        core = self._core
        with core.lock:
            if core.is_closed or not self._lost.add(node, start, end):
                return
            core.mark_behind(node)
        try:
            with core.change() as op:
                self.store(op, node)
                op.write = lambda batch: core.journal.apply(replace(batch, is_needed=True))
        except IcefsError as error:
            # The row stays behind: the next flush, freeze or release writes it.
            logger.warning("the row of %r, whose bytes were lost, cannot be written now: %s", node.name, error)

    # Changing

    def resize(self, op: Change, node: FileNode, size: int) -> None:
        """Sets a file's size inside an operation. The lock is held; it may be released and taken again.

        The bytes are cut or extended at once; a file that is not open has its row written by the operation.
        """
        core = self._core
        assert op.may_wait  # others see the tree while the lock is free
        if size < 0:
            raise InvalidInputError(f"cannot make a file {size} bytes long", kind="io")
        if size > MAX_SIZE_BYTES:
            raise FileTooLargeError(f"cannot make a file {size} bytes long")
        if node.io is None:
            node.io = OpenState()
        io = node.io
        io.handles += 1
        try:
            self._wait_for_turn(node)
            if size or (node.spool_id and not is_shared(self._core, node)):
                file = self.private_file(node)
                if size != node.size:
                    try:
                        self._spool.io.truncate(file.fd, size)
                    except OSError as error:
                        raise disk_error(error, "truncating a spool file") from error
            else:
                self._make_empty(node)
            if core.views:
                core.keep_for_views(node)
            if node.flags & LOST:
                self._lost.heal(node, size, MAX_SIZE_BYTES)
            node.size = size
            if not size:
                node.flags &= ~DOUBTFUL
            core.unfinished.changed(node)
            core.content_time(node)
            core.mark_behind(node)
        finally:
            io.handles -= 1
            if not io.handles:
                self.close_node(op, node)

    def _make_empty(self, node: FileNode) -> None:
        """Drops content that is shared with the base or a view."""
        core = self._core
        core.keep_for_views(node)
        self._let_go(node)
        node.spool_id = 0
        node.size = 0
        node.flags &= ~(FROM_BASE | DOUBTFUL)
        node.lost = ()

    def _let_go(self, node: FileNode) -> None:
        """Gives up a spool file that is shared, or is not there."""
        core = self._core
        if 0 < node.spool_id <= core.spool_limit:
            # A view's release removes what nothing else refers to.
            core.deferred.append(node.spool_id)
        elif node.spool_id:
            core.superseded.setdefault(node, []).append(node.spool_id)
        io = node.io
        if io is not None and io.file is not None:
            io.file.retire()
            io.file = None

    def _release_superseded(self, op: Change, node: FileNode) -> None:
        """Lets go of spool files that a node's row will not name any more once the operation is written."""
        if node in self._core.superseded:
            op.spools += [spool_id for spool_id in self._core.superseded.pop(node) if spool_id != node.spool_id]

    def is_private(self, node: FileNode) -> bool:
        """Tells whether a file's bytes can be changed without copying them first."""
        return not node.size or (bool(node.spool_id) and not is_shared(self._core, node))

    def _wait_for_turn(self, node: FileNode) -> None:
        """Waits until neither a freeze nor a copy of this node is under way. The lock is held."""
        core = self._core
        io = node.io
        assert io is not None
        while core.is_freezing or io.busy:
            core.changed.wait()

    def private_file(self, node: FileNode) -> SpoolFile:
        """Returns a spool file that this node alone refers to. The lock is held; it may be released meanwhile."""
        while True:
            self._wait_for_turn(node)
            check_there(node, 0, 0)
            if node.spool_id and not is_shared(self._core, node):
                return self.file_of(node)
            if not node.size:
                file = self.ahead.take(self._core.spool_limit) or self._spool.create(self._core.take_spool_id())
                self._install(node, file)
                return file
            copy = self._copies.make(node, None if node.flags & FROM_BASE else self.file_of(node))
            if copy is not None:
                self._install(node, copy)
                return copy

    def _install(self, node: FileNode, file: SpoolFile) -> None:
        self._core.keep_for_views(node)
        self._let_go(node)
        assert node.io is not None
        node.io.file = file
        node.spool_id = file.id
        node.flags &= ~FROM_BASE
        if node.flags & LOST:
            self._lost.mark_spool(node)
        self._core.mark_behind(node)

    def copy_up(self, node: FileNode) -> None:
        """Gives a file bytes of its own, because the base is about to lose them. Takes the lock itself."""
        core = self._core
        with core.change() as op:
            if not node.flags & FROM_BASE or node.parent is None:
                return
            if node.io is None:
                node.io = OpenState()
            node.io.handles += 1
            before = node.mtime_ns
            try:
                self.private_file(node)
                node.mtime_ns = before  # the content is the same
            finally:
                node.io.handles -= 1
                if not node.io.handles:
                    self.close_node(op, node)
