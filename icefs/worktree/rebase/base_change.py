"""Putting a working tree on another base: after a commit, after a rebase, or to follow a branch.

    plan ──► what the new base has of the tree, asked without the lock (`new_base`, `decisions`)
             │
             ├─► locked: what only the old base has (`rescue`) ──► copied up without the lock, and looked at again
             │
             └─► locked: nodes (`tree_edit`), rows, tables (`tables`), numbers (`numbering`), the branch ──► outcome

Nothing that is only in the old base, and that the tree still shows, is lost. Until the rows are written the change can
fail as a whole; afterwards nothing may.
"""

from collections.abc import Callable
from dataclasses import replace

from icefs.errors import SessionStateError, StorageError
from icefs.inode import Invalidations
from icefs.paths import TreePath
from icefs.worktree.core.content import Content
from icefs.worktree.core.tree_core import Change, TreeCore
from icefs.worktree.freeze.commits import Commits
from icefs.worktree.model.nodes import FROM_BASE, DirNode, FileNode
from icefs.worktree.model.reappearing import Reappearing
from icefs.worktree.rebase import numbering, tables
from icefs.worktree.rebase.decisions import Decisions
from icefs.worktree.rebase.new_base import AskedOnce, NewBase, find_kept_back
from icefs.worktree.rebase.plan import BaseOutcome, BasePlan, TreeChangedError
from icefs.worktree.rebase.rescue import Rescue
from icefs.worktree.rebase.tree_edit import TreeEdit

type Advance = Callable[[], None]
"""Puts what stands below a tree, such as its branch in the mount, on the new base while the tree is locked."""


def nothing_below() -> None:
    """Is for a tree with nothing below it that has to change at the same moment."""


def change_base(
    core: TreeCore, content: Content, commits: Commits, plan: BasePlan, advance: Advance = nothing_below
) -> BaseOutcome:
    """Puts a tree on another base.

    Args:
        core: The tree.
        content: The bytes of its files.
        commits: Its views.
        plan: What to do.
        advance: Called with the tree locked, when it stands on the new base.

    Raises:
        SessionStateError: a commit is under way (kind `commit-not-allowed`), other than the one that the plan is about.
        TreeChangedError: the tree does not have the plan's revision any more, also because bytes that only the old base
            has had to be copied; nothing else was changed.
        NoSpaceError: the disk is full; the tree is as it was, and this can be called again.
        StorageError: the store failed; the tree is as it was. A commit whose intent was recorded stays pending.
    """
    frozen = None if plan.committed is None else plan.committed.frozen
    if frozen is None:
        _check_unfrozen(core)
        return _Changing(core, commits, plan).run(content, advance)
    commits.check_durable(frozen)
    try:
        return _Changing(core, commits, plan).run(content, advance)
    except StorageError:
        # It was published, so it must not be committed again: the next commit, or daemon, completes it.
        if core.journal.intent() is not None:
            commits.leave_pending(frozen)
        raise


def _check_unfrozen(core: TreeCore) -> None:
    if any(view.is_durable for view in core.views):
        raise SessionStateError(
            "the branch cannot change its base while a commit is under way", kind="commit-not-allowed"
        )


class _Changing:
    """One change of base under way.

    Concurrency: the constructor asks the new base without the tree's lock; `run` takes it.
    """

    def __init__(self, core: TreeCore, commits: Commits, plan: BasePlan) -> None:
        asked = AskedOnce(core.base_for(plan.base))
        committed = plan.committed
        self._kept_back: list[TreePath] = []
        if committed is not None:
            self._kept_back = find_kept_back(asked, committed, plan.yielded)
            committed = committed.leaving_out(self._kept_back)
        self._core = core
        self._commits = commits
        self._plan = plan
        self._committed = committed
        self._new = NewBase(core.base_tree, asked, committed)
        self._decisions = Decisions(self._new, committed, plan.yielded)
        self._rescue = Rescue(core, self._new, self._decisions, committed)

    def run(self, content: Content, advance: Advance) -> BaseOutcome:
        """Copies up what has to be, and changes the base."""
        core, plan = self._core, self._plan
        self._look_ahead()
        while True:
            with core.change() as op:
                self._check()
                found = self._rescue.find()
                if not found:
                    outcome, given_up = self._change(op, advance)
                    break
            # Copying takes time and the network; it happens without the lock, then everything is checked again.
            self._rescue.copy_up(content, found)
        return replace(outcome, changed=outcome.changed + numbering.renew_above(core, plan.changed, given_up))

    def _look_ahead(self) -> None:
        """Asks what will be asked with the lock held, so that readers and writers do not wait for a fetch then."""
        core, new = self._core, self._new
        with core.lock:
            nodes = [node for node in core.by_ino.values() if node.parent is not None]
            files = [node.origin for node in nodes if isinstance(node, FileNode) and node.flags & FROM_BASE]
            dirs = [node for node in nodes if isinstance(node, DirNode)]
            made = [node.path() for node in dirs if node.base_path is None]
            origins = [path for path in (*files, *(node.base_path for node in dirs)) if path is not None]
        for origin in origins:
            new.old.content(origin)
        for path in (*made, *map(new.new_path, origins)):
            if path is not None:
                new.asked.stat(path)

    def _check(self) -> None:
        """Refuses to go on where the plan is not about the tree as it is now. The lock is held."""
        core, plan = self._core, self._plan
        if plan.committed is None:
            _check_unfrozen(core)  # a commit may have begun since the last look
        elif plan.committed.frozen.view not in core.views:
            raise SessionStateError("the view was given back already")
        if core.base_tree is not self._new.old or plan.revision not in (None, core.revision):
            raise TreeChangedError("the working tree changed while it was compared with others' commits")

    def _change(self, op: Change, advance: Advance) -> tuple[BaseOutcome, list[TreePath]]:
        """Changes the base; returns also which retained numbers were given up. The lock is held."""
        core, plan, new = self._core, self._plan, self._new
        renamed = numbering.renamed_entries(self._committed)
        still_open = tables.find_still_open(core, new)
        reappearing = Reappearing(core)
        edit = TreeEdit(core, new, self._decisions)
        edit.apply(self._rescue.copied)
        done = edit.done
        try:
            nodes, links = tables.rows(core, done.remaining)
            core.journal.replace_tree(nodes, links, base=plan.base)
        except BaseException:
            edit.undo()
            raise
        numbering.follow(core, new, self._committed, done.dropped)
        tables.stand_on(core, new, done, still_open)
        core.base = plan.base
        core.revision += 1
        op.spools.extend(spool_id for spool_id in done.spools if spool_id)
        self._commits.end_on_new_base(op, None if plan.committed is None else plan.committed.frozen.view)
        advance()
        numbering.retain_renamed(core, new.asked, plan)
        given_up = numbering.give_up(core, plan.changed)
        reappearing.renumber(done.twins)
        entries = [
            *numbering.base_entries(core, done.renumbered),
            *numbering.tree_entries(core, numbering.shown_again(plan)),
        ]
        remaining = sum(len(node.entries) for node in done.remaining if isinstance(node, DirNode))
        changed = Invalidations(entries, done.inodes)
        return BaseOutcome(changed, renamed, self._kept_back, remaining), given_up
