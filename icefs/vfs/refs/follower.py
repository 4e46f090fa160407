"""Follows the repository's refs: new ones appear, deleted ones go, and branch trees advance with their tips."""

import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import trio

from icefs.engine.read.refs import Refs
from icefs.engine.repository import Repository
from icefs.errors import IcefsError
from icefs.format.ids import SnapshotId
from icefs.inode import Entry, Ino, Invalidations
from icefs.vfs.branches.branch_tree import BranchTree
from icefs.vfs.interface import Notifier
from icefs.vfs.names import encode_ref
from icefs.vfs.refs.mounted_trees import MountedTrees
from icefs.vfs.refs.root import RootTree
from icefs.vfs.refs.snapshot_times import fetch_times
from icefs.vfs.threads import Threads
from icefs.vfs.trees.advance import plan_advance
from icefs.vfs.trees.finder import open_session

logger = logging.getLogger(__name__)

_MAX_WALKED: Final = 1000
_SHOWN: Final = 20


class Follower:
    """Keeps a mount's trees at the tips of their branches.

    Concurrency: `refresh` holds `_lock`, so that two of them never interleave; what blocks runs in a thread. A
    tree is changed between two awaits, and the kernel's caches are invalidated afterwards.

    Attributes:
        refs: The refs as last seen.
        problem: Why the refs could not be read the last time; None if they could.
        moves: How many times a branch tree moved.
    """

    def __init__(
        self,
        repository: Repository,
        threads: Threads,
        notifier: Notifier,
        refs: Refs,
        trees: MountedTrees,
        open_inos: Callable[[], Iterable[Ino]],
    ) -> None:
        """Takes a mount's trees, and what they are kept up to date with.

        Args:
            repository: Has the refs.
            threads: Read them.
            notifier: Invalidates what the kernel caches.
            refs: The refs that the trees were made of.
            trees: The trees.
            open_inos: Returns the inode numbers that are open.
        """
        self.refs = refs
        self.problem: str | None = None
        self.moves = 0
        self.refreshed_at = time.time()
        self._repository = repository
        self._threads = threads
        self._notifier = notifier
        self._trees = trees
        self._open_inos = open_inos
        self._retired: list[BranchTree] = []
        self._lock = trio.Lock()

    async def refresh(self) -> dict[str, Any]:
        """Reads the refs, takes over what changed, and returns when the invalidations were sent.

        Returns:
            What changed, in JSON.

        Raises:
            StorageError, FormatError: the refs cannot be read; nothing was changed.
        """
        async with self._lock:
            # A branch that commits while the refs are read stands on a tip that they may not know yet.
            stood = {branch: branch.snapshot_id for branch in self._trees.branches()}
            try:
                refs = await self._threads.run(self._repository.refs)
            except IcefsError as error:
                self.problem = error.own_message
                if error.kind == "repository-upgraded":
                    for branch in self._trees.branches():
                        branch.problem = f"{error.own_message}; {error.hint}"
                raise
            self.problem = None
            self.refreshed_at = time.time()
            old, self.refs = self.refs, refs
            changed = _compare(old, refs)
            moved: dict[str, list[str]] = {}
            left_behind: dict[str, str] = {}
            if self._trees.root is not None:
                await self._update_root(self._trees.root, refs, changed)
            self._forget_retired()
            for branch in self._trees.branches():
                await self._find_out(branch)
                tip = refs.branches.get(branch.name)
                is_behind = tip is not None and tip != branch.snapshot_id == stood.get(branch, branch.snapshot_id)
                if tip is not None and is_behind and not branch.is_pinned:
                    before = branch.snapshot_id
                    if await self._advance(branch, tip):
                        moved[branch.name] = [str(before), str(tip)]
                        if await self._threads.run(partial(_is_left_behind, self._repository, before, tip)):
                            left_behind[branch.name] = str(before)
                            self._warn_of_left_behind(branch, before, tip)
                branch.tip = tip
                branch.tidy(self._open_inos())
                if tip is None and branch is self._trees.single:
                    branch.problem = f"branch {branch.name} was deleted"
            await self._notifier.drain()
            return {**changed, "moved": moved, "left_behind": left_behind}

    def _warn_of_left_behind(self, branch: BranchTree, before: SnapshotId, tip: SnapshotId) -> None:
        logger.warning(
            "%s: snapshot %s, which was the tip of branch %s, is not in the history of the new tip %s: the branch was"
            " amended or reset, or the store lost the commit ('icefs doctor' tries what it can do)",
            branch.tree.identity.shown,
            before,
            branch.name,
            tip,
            extra={"branch": branch.name},
        )

    async def _find_out(self, branch: BranchTree) -> None:
        """Lets a branch ask again for the outcome of a commit."""
        try:
            changed = await branch.find_out(self._open_inos())
        except IcefsError as error:
            what, about = branch.tree.identity.shown, {"branch": branch.name}
            logger.warning("%s: the outcome of a commit is not known yet: %s", what, error, extra=about)
            return
        if changed is not None:
            self._notifier.invalidate(changed)

    def _forget_retired(self) -> None:
        """Forgets the numbers of branches that are gone, once none of their files is open."""
        if not self._retired:
            return
        space = self._retired[0].tree.inodes.space
        opened = {id(found.tree) for ino in self._open_inos() if (found := space.find(ino)) is not None}
        for branch in [branch for branch in self._retired if id(branch.owner) not in opened]:
            space.drop(branch.owner)
            self._retired.remove(branch)

    async def _update_root(self, root: RootTree, refs: Refs, changed: dict[str, list[str]]) -> None:
        """Lets refs come and go."""
        entries: list[Entry] = []
        old = root.refs
        root.refs = refs
        for name in [name for name in root.branches if name not in refs.branches]:
            branch = root.branches.pop(name)
            branch.retire()
            self._retired.append(branch)
            entries += _named(root.directory_ino("branches"), name)
        for name in [name for name, tree in root.tags.items() if refs.tags.get(name) != tree.snapshot_id]:
            root.tags.pop(name).retire()
            entries += _named(root.directory_ino("tags"), name)
        touched = [kind for kind in ("branches", "tags") if changed[f"new_{kind}"] or changed[f"deleted_{kind}"]]
        if old.version != refs.version:
            touched.append("snapshots")
        self._notifier.invalidate(Invalidations(entries, root.touch(touched, time.time_ns())))

    async def _advance(self, branch: BranchTree, tip: SnapshotId) -> bool:
        """Takes one branch to a new tip; where that cannot be read the branch stays, and says so."""
        try:
            if branch.is_untouched:
                times = await self._threads.run(lambda: fetch_times(self._repository, [tip]))
                if branch.is_untouched:
                    self._notifier.invalidate(branch.restart(tip, times[tip] or 0))
                    branch.problem = None
                    return True
            old = branch.session
            if old is None:
                old = await self._threads.run(lambda: open_session(self._repository, branch.snapshot_id))
                branch.tree.files.finder.take(old)
            session = branch.session
            assert session is not None  # a branch never unloads by itself
            advance = await self._threads.run(lambda: plan_advance(session, open_session(self._repository, tip)))
            if branch.session is not session:
                return False  # it has committed meanwhile, and the plan is not about where it stands now
        except IcefsError as error:
            if branch.problem != error.own_message:
                facts = branch.label, branch.snapshot_id, type(error).__name__, error.own_message
                logger.warning("%s stays at %s: %s: %s", *facts, extra={"branch": branch.name})
            branch.problem = error.own_message
            return False
        taken = await branch.follow(advance, self._open_inos())
        if taken is None:
            return False
        branch.problem = None
        self.moves += 1
        self._notifier.invalidate(taken)
        what, about = branch.tree.identity.shown, {"branch": branch.name}
        logger.info("%s moved to %s: %d names", what, tip, len(taken.entries), extra=about)
        return True


def _named(directory: Ino, name: str) -> list[Entry]:
    text = encode_ref(name)
    return [] if text is None else [(directory, text.encode())]


def _is_left_behind(repository: Repository, before: SnapshotId, tip: SnapshotId) -> bool:
    """Tells whether a branch's former tip is not in the history of the new one, as far as that is quick to find out."""
    seen = 0
    try:
        for info in repository.ancestry_as_seen(tip):
            seen += 1
            if info.id == before or seen > _MAX_WALKED:
                return False
    except IcefsError as error:
        logger.debug("cannot tell whether %s comes after %s: %s", tip, before, error)
        return False
    return True


def _compare(old: Refs, new: Refs) -> dict[str, list[str]]:
    """Says which refs came and went, for people: not more than a screenful of each."""
    pairs = {"branches": (old.branches, new.branches), "tags": (old.tags, new.tags)}
    changed: dict[str, list[str]] = {}
    for kind, (before, after) in pairs.items():
        changed[f"new_{kind}"] = sorted(after.keys() - before.keys())[:_SHOWN]
        changed[f"deleted_{kind}"] = sorted(before.keys() - after.keys())[:_SHOWN]
    return changed
