"""Freezing a tree, and what becomes of it when the commit is done, has failed, or its outcome is not known.

    freeze → translate, upload (by others; writers go on) → record_intent → publish → complete
                                                                          ↘ it failed → abandon

`record_intent` is durable before the caller publishes the snapshot. If the process dies after it, `pending_intent`
tells the next one which snapshot to look for in the branch's history: found, `complete_recovered`; not found,
`abandon_recovered`. If it dies before, opening the tree abandons the freeze. Either way the tree is either clean of
what was committed, or as it was.
"""

import time
from collections.abc import Callable, Iterable
from typing import Final

from icefs.errors import NoSpaceError, SessionStateError, StorageError
from icefs.inode import Invalidations
from icefs.worktree.base import BaseEntry, BaseTree, join
from icefs.worktree.core.content import Content
from icefs.worktree.core.tree_core import Change, TreeCore
from icefs.worktree.freeze.frozen import FrozenTree
from icefs.worktree.freeze.frozen_index import FrozenIndex
from icefs.worktree.model.nodes import STORED, WHITEOUT, DirNode
from icefs.worktree.model.reappearing import Reappearing
from icefs.worktree.model.views import View
from icefs.worktree.rebase.base_change import Settlement
from icefs.worktree.rebase.outcome import SettleResult
from icefs.worktree.spool.journal import Intent

_CLOSES_S: Final = 0.5

type OnSwitch = Callable[[SettleResult], None]


class TreeChangedError(SessionStateError):
    """The working tree is not what it was compared as; compare it again."""

    default_kind = "tree-changed"


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
        self.attempts = core.journal.attempts()

    # Freezing

    def freeze(self) -> FrozenTree:
        """Takes the view that a commit works on.

        Raises:
            SessionStateError: another commit is under way, or one was not resolved.
            NoSpaceError: the disk is full; nothing is frozen.
        """
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
        """Takes a view for looking only, as `status` does; in memory, beside any other."""
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
        end_s = time.monotonic() + _CLOSES_S
        while core.unfinished.has_flushed():
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
        except NoSpaceError:
            if frozen.view.is_durable:
                raise
            # What is behind stays so, and what its rows refer to goes with the next view.
            core = self._core
            with core.lock:
                core.views.remove(frozen.view)
                core.spool_limit = max((view.limit for view in core.views), default=0)

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

    def record_intent(self, frozen: FrozenTree, snapshot_id: str, base: str, left: Iterable[str]) -> None:
        """Notes durably that the frozen tree is about to become a snapshot."""
        core = self._core
        with core.lock:
            core.check_open()
            self._check_durable(frozen)
            core.journal.record_intent(Intent(snapshot_id, base, tuple(sorted(left))))
            self.attempts.append(snapshot_id)

    def _check_durable(self, frozen: FrozenTree) -> None:
        if frozen.view not in self._core.views or not frozen.view.is_durable:
            raise SessionStateError("this is not the frozen tree of a commit under way")

    # Changing the base

    def leave_pending(self, frozen: FrozenTree) -> None:
        """Keeps the frozen tree of a commit whose outcome cannot be learnt now, with the intent that was recorded."""
        core = self._core
        with core.lock:
            self._check_durable(frozen)
            intent = core.journal.intent()
            assert intent is not None  # it was recorded before anything was published
            self.add_recovered(frozen, intent)

    def complete(
        self,
        frozen: FrozenTree,
        new_base: str,
        left: Iterable[str],
        on_switch: OnSwitch | None,
        yielded: Iterable[str] = (),
    ) -> SettleResult:
        """Puts the tree on the snapshot that the frozen tree became."""
        core = self._core
        with core.lock:
            core.check_open()
            self._check_durable(frozen)
        try:
            base_tree = core.base_for(new_base)
            settlement = Settlement(core, FrozenIndex.of(frozen, frozenset(left)), frozen, base_tree, yielded)
            settlement.verify()
            return self._settle(settlement, new_base, frozen.view, on_switch)
        except StorageError:
            # It was published, so it must not be committed again: the next commit, or daemon, completes it.
            if core.journal.intent() is not None:
                self.leave_pending(frozen)
            raise

    def rebase_to(
        self, new_base: str, on_switch: OnSwitch | None, expected: int | None = None, yielded: Iterable[str] = ()
    ) -> SettleResult:
        """Puts the tree, with all its changes but those at `yielded`, on another snapshot.

        Raises:
            SessionStateError: a commit is under way (kind `commit-not-allowed`).
            TreeChangedError: the tree's revision is not `expected` any more, also because bytes that only the old
                base has had to be copied; nothing else was changed.
        """
        core = self._core
        base_tree = core.base_for(new_base)
        self._check_unfrozen()
        return self._settle(Settlement(core, None, None, base_tree, yielded), new_base, None, on_switch, expected)

    def _check_unfrozen(self) -> None:
        if any(view.is_durable for view in self._core.views):
            raise SessionStateError(
                "the branch cannot change its base while a commit is under way", kind="commit-not-allowed"
            )

    def _settle(
        self,
        settlement: Settlement,
        new_base: str,
        view: View | None,
        on_switch: OnSwitch | None,
        expected: int | None = None,
    ) -> SettleResult:
        core = self._core
        copied_up: list[str] = []
        settlement.look_ahead()
        while True:
            with core.change() as op:
                if view is None:
                    self._check_unfrozen()  # a commit may have begun since the last look
                if expected is not None and core.revision != expected:
                    raise TreeChangedError("the working tree changed while it was compared with others' commits")
                left_files, left_directories = settlement.rescue_left()
                files = [*settlement.rescue_files(), *left_files]
                directories = [*settlement.rescue_dirs(), *left_directories]
                if not files and not directories:
                    return self._switch(op, settlement, new_base, view, copied_up, on_switch)
                paths = [*map(core.path_of, files), *map(core.path_of, directories)]
                base_tree = core.base_tree
            # Copying takes time and the network; it happens without the lock, then everything is checked anew.
            copied_up += paths
            for node in files:
                self._content.copy_up(node)
                settlement.copied(node)
            for directory in directories:
                self._rescue(directory, base_tree)

    def _switch(
        self,
        op: Change,
        settlement: Settlement,
        new_base: str,
        view: View | None,
        copied_up: list[str],
        on_switch: OnSwitch | None,
    ) -> SettleResult:
        core = self._core
        if view is None:
            self._check_unfrozen()
        if view is not None and view not in core.views:
            raise SessionStateError("the view was given back already")
        reappearing = Reappearing(core)
        settlement.apply()
        try:
            nodes, links = settlement.rows()
            core.journal.settle(nodes, links, base=new_base)
        except BaseException:
            settlement.undo()
            raise
        settlement.finish()
        core.base = new_base
        self.attempts.clear()
        core.revision += 1
        op.spools.extend(spool_id for spool_id in settlement.spools if spool_id)
        if view is not None:
            self._remove_view(op, view)
            if self.recovered is not None and self.recovered.view is view:
                self.recovered = self.intent = None
        entries = sum(len(node.entries) for node in settlement.remaining if isinstance(node, DirNode))
        result = SettleResult(
            new_base,
            settlement.dropped,
            settlement.changed_attrs,
            settlement.kept_back,
            copied_up,
            entries,
            settlement.renamed,
            settlement.places.new_path,
            self._forget,
            settlement.keep_renamed,
        )
        if on_switch is not None:
            on_switch(result)
        reappearing.renumber(settlement.twins)
        return result

    def _forget(self, paths: Iterable[str]) -> list[str]:
        """Forgets what is kept of base paths, and returns of which there was; see `KeptAttrs`. The lock is held."""
        kept = self._core.kept
        changed = list(paths)
        known = [path for path in (*changed, *_above(changed)) if path[-1:] != "/" and kept.get(path) is not None]
        kept.forget(changed)
        return known

    def forgotten(self, paths: Iterable[str], kept: Iterable[str]) -> Invalidations:
        """Gives the directories above what others changed another time; `kept` is what `_forget` returned of it."""
        core = self._core
        above = _above(paths)
        with core.lock:
            base_tree = core.base_tree
            known = [path for path in above if path in core.base_dirs or core.kept.get(path) is not None]
        asked = {*known, *(path.rpartition("/")[0] for path in kept)}
        found = {path: attr for path in asked if (attr := base_tree.stat(path)) is not None}  # may fetch
        there = {path: found[path] for path in known if path in found}
        with core.lock:
            core.kept.forget(path for path in known if path not in there)
            inos = [ino for path, attr in there.items() if (ino := core.renew_dir(path, attr.mtime_ns)) is not None]
            names = [path.rpartition("/") for path in kept if path not in there]
            dirs = {directory: self._number_of(directory) for directory in {directory for directory, _, _ in names}}
            entries = [(ino, name.encode(errors="surrogatepass")) for above, _, name in names if (ino := dirs[above])]
            return Invalidations(entries, inos)

    def _number_of(self, directory: str) -> int:
        """Returns the number of a base directory, 0 if it is not there."""
        node = self._core.base_dirs.get(directory)
        attr = self._core.base_stat(directory) if node is None else None
        return node.ino if node is not None else attr.ino if attr is not None else 0

    def _rescue(self, directory: DirNode, base_tree: BaseTree) -> None:
        """Gives everything that a directory shows bytes of its own."""
        core = self._core
        waiting = [directory]
        for node in waiting:
            if node.base_path is None:
                continue
            names = list(base_tree.list(node.base_path))
            for name, attr in names:
                with core.change():
                    entry = node.entries.get(name)
                    if entry is None:
                        entry = core.materialise.node(node, name, BaseEntry(join(node.base_path, name), attr))
                if isinstance(entry, DirNode):
                    if entry.is_natural:
                        waiting.append(entry)
                elif entry is not WHITEOUT:
                    self._content.copy_up(entry)


def _above(paths: Iterable[str]) -> set[str]:
    """Returns the directories above paths; that of a path with a slash at its end is the path itself."""
    above: set[str] = set()
    for path in paths:
        while path and (path := path.rpartition("/")[0]) not in above:
            above.add(path)
    return above
