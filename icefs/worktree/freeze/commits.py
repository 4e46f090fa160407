"""Freezing a tree, and what becomes of it when the commit is done, has failed, or its outcome is not known.

    freeze → stage, upload (by others; writers go on) → record_intent → publish → change of base
                                                                      ↘ it failed → release

`record_intent` is durable before the caller publishes the snapshot. If the process dies after it, the recovered intent
tells the next one which snapshot to look for in the branch's history: if it is there, the tree changes its base to it;
if not, the recovered tree is released. If the process dies before, opening the tree abandons the freeze. In both cases
the tree is either clean of what was committed, or as it was.
"""

import sys
import time
from collections.abc import Iterable
from typing import Final

from icefs.errors import NoSpaceError, SessionStateError, StorageError
from icefs.paths import TreePath
from icefs.worktree.core.content import Content
from icefs.worktree.core.tree_core import Change, TreeCore
from icefs.worktree.freeze.frozen import FrozenTree
from icefs.worktree.model.nodes import STORED
from icefs.worktree.model.views import View
from icefs.worktree.spool.journal import Intent

_CLOSES_S: Final = 0.5


class Commits:
    """Views of a tree, and changes of its base.

    Concurrency: `freeze` blocks writers until those under way have ended; `complete` and `rebase_to` hold the lock
    while they go through what has changed and write it in one transaction.
    """

    def __init__(self, core: TreeCore, content: Content) -> None:
        self._core = core
        self._content = content
        self.recovered: FrozenTree | None = None
        self.intent: Intent | None = None
        self._unreleased: FrozenTree | None = None
        self.attempts = core.journal.attempts()

    # Freezing

    def freeze(self) -> FrozenTree:
        """Takes the view that a commit works on.

        Raises:
            SessionStateError: another commit is under way, or one was not resolved.
            NoSpaceError: the disk is full; nothing is frozen.
        """
        self.release_again()
        core = self._core
        with core.change() as op:
            if any(view.is_durable for view in core.views):
                raise SessionStateError("a commit of this branch is under way", kind="commit-not-allowed")
            self._await_closes()
            self._quiesce()
            try:
                for node in core.behind:
                    self._content.store(op, node)
                for directory in core.soft:
                    if directory.flags & STORED:
                        op.store[directory] = None
                limit = core.next_id - 1
                op.write = lambda batch: core.journal.freeze(batch, limit)
                op.commit()
                core.soft.clear()
                return self._add_view(View(limit, is_durable=True, unfinished=core.unfinished))
            finally:
                core.is_freezing = False
                core.changed.notify_all()

    def view(self) -> FrozenTree:
        """Takes a view for looking only, as `status` does; in memory, next to any other."""
        core = self._core
        with core.change():
            self._quiesce()
            try:
                return self._add_view(View(core.next_id - 1, is_durable=False, unfinished=core.unfinished))
            finally:
                core.is_freezing = False
                core.changed.notify_all()

    def _await_closes(self) -> None:
        """Waits a moment for files of which a descriptor was closed after the last change. The lock is held.

        The kernel says that it was the last descriptor only after `close` has returned to the program, in a request
        of its own. If there are more descriptors, as a child process has them, it never does.
        """
        core = self._core
        fewest, end_s = sys.maxsize, 0.0
        while left := core.unfinished.num_flushed():
            if left < fewest:  # a program that ended may have had thousands: they are waited for as they come
                fewest, end_s = left, time.monotonic() + _CLOSES_S
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return
            core.changed.wait(left_s)

    def _quiesce(self) -> None:
        """Waits until no write is under way; no other begins before `is_freezing` is reset. The lock is held."""
        core = self._core
        while core.is_freezing:
            core.changed.wait()
        core.is_freezing = True
        try:
            while core.writers:
                core.changed.wait()
        except BaseException:
            core.is_freezing = False
            core.changed.notify_all()
            raise

    def _add_view(self, view: View) -> FrozenTree:
        core = self._core
        core.views.append(view)
        core.spool_limit = max(view.limit for view in core.views)
        return FrozenTree(core, view)

    def add_recovered(self, frozen: FrozenTree, intent: Intent) -> None:
        """Takes over the view of a commit whose outcome is not known."""
        self.recovered, self.intent = frozen, intent

    def _remove_view(self, op: Change, view: View) -> None:
        core = self._core
        core.views.remove(view)
        core.spool_limit = max((view.limit for view in core.views), default=0)
        deferred, core.deferred = core.deferred, []
        op.spools.extend(deferred)

    def release(self, frozen: FrozenTree) -> None:
        """Gives a view back; of a commit, abandons it. The tree is as if it had not been frozen."""
        try:
            self._release(frozen)
        except StorageError as error:
            if frozen.view.is_durable:
                self._unreleased = frozen
                raise
            if not isinstance(error, NoSpaceError):
                raise
            # Files that are behind stay so, and the spool files of their rows go with the next view.
            core = self._core
            with core.lock:
                core.views.remove(frozen.view)
                core.spool_limit = max((view.limit for view in core.views), default=0)

    def release_again(self) -> None:
        """Gives back the view of a commit that failed while the disk failed, too.

        Raises:
            StorageError: the disk still fails.
        """
        frozen, self._unreleased = self._unreleased, None
        if frozen is not None and frozen.view in self._core.views:
            self.release(frozen)

    def _release(self, frozen: FrozenTree) -> None:
        core = self._core
        with core.change() as op:
            if frozen.view not in core.views:
                raise SessionStateError("the view was given back already")
            # A row may refer to a spool file that only the view kept; it has to be brought up to date first.
            for node in core.behind:
                if node.flags & STORED:
                    self._content.store(op, node)
            if frozen.view.is_durable:
                op.write = core.journal.thaw
            op.commit()
            self._remove_view(op, frozen.view)
            if frozen is self.recovered:
                self.recovered = self.intent = None

    def record_intent(self, frozen: FrozenTree, snapshot_id: str, base: str, left_out: Iterable[TreePath]) -> None:
        """Notes durably that the frozen tree is about to become a snapshot."""
        core = self._core
        with core.lock:
            core.check_open()
            self.check_durable(frozen)
            core.journal.record_intent(Intent(snapshot_id, base, tuple(sorted(left_out))))
            self.attempts.append(snapshot_id)

    def check_durable(self, frozen: FrozenTree) -> None:
        """Refuses a frozen tree that no commit under way has."""
        if frozen.view not in self._core.views or not frozen.view.is_durable:
            raise SessionStateError("this is not the frozen tree of a commit under way")

    def leave_pending(self, frozen: FrozenTree) -> None:
        """Keeps the frozen tree of a commit whose outcome cannot be learnt now, with the intent that was recorded."""
        core = self._core
        with core.lock:
            self.check_durable(frozen)
            intent = core.journal.intent()
            assert intent is not None  # it was recorded before anything was published
            self.add_recovered(frozen, intent)

    def end_on_new_base(self, op: Change, view: View | None) -> None:
        """Ends the view of a commit on whose snapshot the tree stands now; None for a snapshot of others. Locked."""
        self.attempts.clear()
        if view is not None:
            self._remove_view(op, view)
            if self.recovered is not None and self.recovered.view is view:
                self.recovered = self.intent = None
