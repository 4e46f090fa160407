"""From a working tree to a commit: freeze, stage, upload, publish, settle. In a worker thread.

    freeze → stage → upload → manifests … snapshot → intent recorded → published → the tree stands on it
                │                                                        │
                └ anything wrong: abandoned, the tree is as before       └ outcome unknown: asked of the history

Writers wait for the freeze alone.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from icefs.engine.read.session import Session
from icefs.engine.write.publish import MOVE_NODE
from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.session import WritableSession
from icefs.errors import (
    BranchMovedError,
    NotFoundError,
    NothingToCommitError,
    RebaseFailedError,
    SessionStateError,
    StorageError,
)
from icefs.format.ids import SnapshotId
from icefs.format.manifest.refs import ArrayRefs, InlineRef
from icefs.inode import Entry, Invalidations
from icefs.vfs.commit.late_commits import base_of, differing, facts_of, hidden, late_commit, remove_hidden
from icefs.vfs.commit.notes import commit_notes
from icefs.vfs.commit.report import LISTED, NOTHING_LEFT_OUT, check_amend, check_staged, left_out_facts, taken_facts
from icefs.vfs.control.consolidated_notes import advance_notes
from icefs.vfs.control.ways_out import tell_way_out
from icefs.vfs.trees.advance import Advance, plan_advance
from icefs.vfs.trees.places import open_session
from icefs.vfs.trees.renames import Renaming, plan_renaming
from icefs.worktree.freeze.commits import TreeChangedError
from icefs.worktree.freeze.frozen import FrozenTree
from icefs.worktree.freeze.frozen_index import FrozenIndex
from icefs.worktree.rebase.outcome import SettleResult
from icefs.worktree.rebase.yielding import TreeSolver, check_shown, revealed
from icefs.worktree.stage.staged import Staged
from icefs.worktree.stage.stager import stage
from icefs.worktree.tree import WorkTree
from icefs.worktree.upload.background import BackgroundUploads
from icefs.worktree.upload.packing import UploadOptions
from icefs.worktree.upload.uploader import ArrayUpload, Progress, storing_again, upload_chunks

if TYPE_CHECKING:
    from icefs.vfs.trees.writable_branch import WritableBranch

logger = logging.getLogger(__name__)

_REBASE_TRIES: Final = 20

type Invalidate = Callable[[Invalidations], None]
"""Has the kernel drop what it caches."""


def _invalidate_nothing(changed: Invalidations) -> None:
    """Is for trees that no kernel knows."""


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """What to commit, and how.

    Attributes:
        message: The commit message; None, with `amend`, for that of the commit that is replaced.
        metadata: The commit's metadata; with `amend`, joined with that of the commit that is replaced.
        rebase: `ours`, `theirs` or `fail` to rebase where others have committed; None to fail then.
        allow_empty: Commit also where nothing changed.
        skip_invalid: Leave out what cannot be committed.
        include_open: Take what is open for writing, as it is at that moment.
        amend: Replace the branch's newest commit, which the tree must stand on.
    """

    message: str | None
    metadata: dict[str, Any] = field(default_factory=dict)
    rebase: str | None = None
    allow_empty: bool = False
    skip_invalid: bool = False
    include_open: bool = False
    amend: bool = False


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit did.

    Attributes:
        snapshot_id: The new snapshot.
        facts: What is told of it, in JSON.
        changed: What the kernel has to ask for again.
    """

    snapshot_id: SnapshotId
    facts: dict[str, Any]
    changed: Invalidations


def commit(
    tree: "WritableBranch",
    work: WorkTree,
    request: CommitRequest,
    open_inos: Iterable[int],
    progress: Progress,
    before_publish: Callable[[], None] = lambda: None,
    invalidate: Invalidate = _invalidate_nothing,
) -> Committed:
    """Commits a working tree.

    Args:
        tree: The branch.
        work: Its working tree.
        request: What to commit, and how.
        open_inos: The inodes that are open.
        progress: Is told how far the uploads are; what it raises ends the commit, and the tree is as it was.
        before_publish: Called right before the commit may become visible; what it raises ends the commit, too.
        invalidate: Gets what an earlier commit has changed whose outcome was not known before, whatever becomes of
            this one.

    Raises:
        NothingToCommitError: nothing changed.
        InvalidInputError: some files cannot be committed; `facts["invalid"]` lists them (kind `invalid-tree`).
        BranchMovedError, RebaseFailedError: others have committed; the tree is as it was.
        StorageError: the store failed; the tree is as it was, or the commit's outcome is not known yet.
    """
    if work.pending_intent is not None:
        invalidate(resolve(tree, work, open_inos))
    made: SnapshotId | None = None
    while True:
        late = take_over_late(tree, work, open_inos, invalidate)
        if late is not None:
            made = late
            request = replace(request, allow_empty=False, amend=False)  # that is done
        try:
            commit_once = partial(_commit_once, tree, work, request, open_inos, progress, before_publish)
            return storing_again(work.uploads, commit_once)
        except NothingToCommitError:
            if made is None:
                raise
            empty = {"dropped_chunks": [], "notes": [], "kept_back": [], "remaining": 0}
            return Committed(made, {**facts_of(tree, made), **empty, **NOTHING_LEFT_OUT}, Invalidations())
        except BranchMovedError:
            if late_commit(tree, work) is None:
                raise


def _commit_once(
    tree: "WritableBranch",
    work: WorkTree,
    request: CommitRequest,
    open_inos: Iterable[int],
    progress: Progress,
    before_publish: Callable[[], None],
) -> Committed:
    repository = tree.settings.repository
    frozen = work.freeze()
    session: WritableSession | None = None
    solver: TreeSolver | None = None
    try:
        base = open_session(repository, SnapshotId.parse(frozen.base))
        staged = stage(frozen, base, includes_open=request.include_open)
        check_staged(staged, skip_invalid=request.skip_invalid, allow_empty=request.allow_empty)
        if request.amend:
            check_amend(staged, base)
        if request.rebase is not None:
            solver = TreeSolver(request.rebase, frozen, staged.left, work.attempts)
        session = _session_for(staged, repository, tree.name, base)
        # Asked for beside the uploads: where the store is far away, each question in turn is a part of the commit.
        state = repository.assets.workers.submit(repository.check_online)
        apply_staged(staged, frozen, base, session, progress, tree.settings.uploads, work.uploads)
        state.result()

        def announce(new: SnapshotId) -> None:
            before_publish()
            work.record_intent(frozen, str(new), frozen.base, staged.left)

        if request.amend:
            snapshot_id = _amend(session, request, announce)
        else:
            snapshot_id = session.commit(
                request.message or "",
                request.metadata or None,
                rebase_with=solver,
                allow_empty=request.allow_empty,
                before_publish=announce,
                is_state_known=True,
            )
    except BaseException as error:
        try:
            published = _published(repository, tree.name, session, error)
        except StorageError as unreadable:
            work.leave_pending(frozen)
            raise _in_doubt(session, unreadable) from error
        if published is None:
            work.abandon(frozen)
            if session is not None and request.rebase is not None:
                tell_way_out(error, request.rebase, staged, session)
            raise
        snapshot_id = published
    try:
        return _settle(tree, work, frozen, staged, snapshot_id, open_inos, solver)
    except StorageError as error:
        if work.pending_intent is None:
            work.leave_pending(frozen)
        raise _unsettled(snapshot_id, error) from error


def _unsettled(snapshot_id: SnapshotId, error: StorageError) -> StorageError:
    """Makes the error for a commit that was made, and that the tree cannot take over at present."""
    return type(error)(
        f"the commit {snapshot_id} was made, but the working tree cannot be put on it yet: {error.message}",
        kind=error.kind,
        hint="nothing is lost; the next commit, or refresh, does that",
        **error.facts | {"snapshot": str(snapshot_id)},
    )


def _in_doubt(session: WritableSession | None, error: StorageError) -> StorageError:
    assert session is not None  # there is a doubt
    snapshot_id = str(session.in_doubt[-1].snapshot_id)
    return StorageError(
        f"the store does not tell whether the commit {snapshot_id} was made: {error.message}",
        kind="commit-in-doubt",
        hint="nothing is lost; it is found out when the store answers again, with the next commit or refresh",
        snapshot=snapshot_id,
    )


def _amend(session: WritableSession, request: CommitRequest, announce: Callable[[SnapshotId], None]) -> SnapshotId:
    """Replaces the newest commit; says plainly that this cannot be where that is somebody else's by now."""
    replaced = session.snapshot
    message = replaced.message if request.message is None else request.message
    metadata = {key: value for key, value in replaced.metadata.items() if key != "__icechunk"} | request.metadata
    try:
        return session.amend(
            message, metadata or None, allow_empty=request.allow_empty, before_publish=announce, is_state_known=True
        )
    except BranchMovedError as error:
        raise BranchMovedError(
            f"{replaced.id} is not the newest commit of {session.branch!r} any more; amending would lose the newest",
            hint="rebase, then commit without amending",
            **error.facts,
        ) from error


def _published(
    repository: WritableRepository, branch: str, session: WritableSession | None, error: BaseException
) -> SnapshotId | None:
    """Finds out whether a commit went through whose answer was lost."""
    if session is None or not session.in_doubt or not isinstance(error, StorageError):
        return None
    snapshot_id = session.in_doubt[-1].snapshot_id
    return snapshot_id if is_in_history(repository, branch, snapshot_id) else None


def is_in_history(repository: WritableRepository, branch: str, snapshot_id: SnapshotId) -> bool:
    """Tells whether a branch has a snapshot among its commits."""
    return any(info.id == snapshot_id for info in repository.ancestry(branch=branch))


def apply_staged(
    staged: Staged,
    frozen: FrozenTree,
    base: Session,
    session: WritableSession,
    progress: Progress,
    uploads: UploadOptions,
    background: BackgroundUploads | None,
) -> None:
    """Does to a session what is staged; chunks are stored in parallel."""
    _apply_nodes(staged, session)
    arrays = [
        ArrayUpload(path, session.node(path).id, list(array.sets.items()))
        for path, array in staged.arrays.items()
        if array.sets
    ]
    for path, refs in upload_chunks(arrays, frozen, base, session, progress, uploads, background):
        session.set_chunk_refs(path, refs)


def _session_for(staged: Staged, repository: WritableRepository, branch: str, base: Session) -> WritableSession:
    """Opens the session that what is staged needs: if it is nothing but renames, one that moves nodes, with their ids.

    Where the repository does not have moves, nodes are deleted and made again.
    """
    is_rearrange = bool(staged.moves) and _has_moves(repository)
    return repository.writable_session_at(branch, base.snapshot_id, is_rearrange=is_rearrange)


def _has_moves(repository: WritableRepository) -> bool:
    return repository.spec_version > 1 and repository.assets.fetch_repo_info()[0].feature_flag(MOVE_NODE) is not False


def _apply_nodes(staged: Staged, session: WritableSession) -> None:
    """Does everything but write chunks that have files of their own."""
    if session.is_rearrange:
        session.move_nodes(dict(staged.moves))
        return
    session.delete_nodes(staged.gone)
    # While the old grid holds: what lies outside of the new one could not be deleted, and would come back with it.
    for path, array in staged.arrays.items():
        if len(array.deletes):
            session.delete_chunks(path, array.deletes)
    for path, data in staged.nodes.items():
        session.set_metadata(path, data)
    for path, array in staged.arrays.items():
        if array.reused is not None:
            session.set_chunk_refs(path, array.reused)


def _settle(
    tree: "WritableBranch",
    work: WorkTree,
    frozen: FrozenTree,
    staged: Staged,
    snapshot_id: SnapshotId,
    open_inos: Iterable[int],
    solver: TreeSolver | None,
) -> Committed:
    """Puts the tree on the snapshot that it became."""
    before = tree.next_number
    told = _Switch(tree, snapshot_id, open_inos, frozen, staged.left)
    yielded = [] if solver is None else list(solver.paths(told.advance.session))
    is_rebased = solver is not None and solver.was_needed
    if is_rebased:
        # Asked before the tree is moved: from then on, nothing may fail.
        told.theirs = tree.changed_paths(_their_part(tree, told, frozen.base, snapshot_id))
    result = work.complete(frozen, str(snapshot_id), staged.left, told, yielded)
    # A file that had several names is several files now.
    entries = [*_new_names(work, result, before), *_cut_names(work, told.advance), *told.renamed(result)]
    if is_rebased:
        entries += [*told.changed.entries, *_names_above(work, yielded)]
    changed = Invalidations(entries, told.changed.inodes)
    if is_rebased:
        changed += work.forgotten(told.theirs, told.kept)
    facts = {
        "snapshot": str(snapshot_id),
        **taken_facts(staged),
        "notes": [*commit_notes(staged.nodes), *advance_notes(told.advance)],
        **left_out_facts(staged, told.advance.session),
        "kept_back": result.kept_back[:LISTED],
        "remaining": result.remaining,
    }
    return Committed(snapshot_id, facts, changed)


def _their_part(tree: "WritableBranch", told: "_Switch", base: str, snapshot_id: SnapshotId) -> Advance:
    """Works out what came in between when a commit was rebased; numbers and times of that are not those of before."""
    repository = tree.settings.repository
    parent = repository.snapshot_info(snapshot_id).parent_id
    if parent is None or str(parent) == base:
        return told.advance
    return plan_advance(open_session(repository, SnapshotId.parse(base)), open_session(repository, parent))


def _names_above(work: WorkTree, paths: Iterable[str]) -> Iterable[Entry]:
    """Yields names that were hidden, or led to the tree's own files, with those of the directories above them."""
    seen: set[str] = set()
    for path in paths:
        while path and path not in seen:
            seen.add(path)
            above, _, name = path.rpartition("/")
            where = work.where_is(above)
            if where is not None:
                yield work.getattr(where).ino, name.encode(errors="surrogatepass")
            path = above


def _cut_names(work: WorkTree, advance: Advance) -> Iterable[Entry]:
    """Yields the names below which chunks were that lie outside of their array's grid now, and are gone."""
    for path, array in advance.arrays.items():
        where = work.where_is(path[1:]) if array.cut_names else None
        if where is not None:
            ino = work.getattr(where).ino
            yield from ((ino, name) for name in array.cut_names)


def _new_names(work: WorkTree, result: SettleResult, before: int) -> Iterable[Entry]:
    for path, ino, _ in result.dropped:
        if ino >= before:
            above, _, name = path.rpartition("/")
            where = work.where_is(above)
            if where is not None:
                yield work.getattr(where).ino, name.encode()


class _Switch:
    """Moves the branch tree at the moment when the working tree changes its base.

    Attributes:
        theirs: The base paths at and below which others have changed something.
        kept: Those of which a number was kept until then.
    """

    def __init__(
        self,
        tree: "WritableBranch",
        snapshot_id: SnapshotId,
        open_inos: Iterable[int],
        frozen: FrozenTree | None = None,
        left: Iterable[str] = (),
    ) -> None:
        """Plans; what was renamed in the frozen tree that the snapshot is made of keeps its numbers."""
        old = tree.session
        assert old is not None  # a working tree stands on one
        self._tree = tree
        new = open_session(tree.settings.repository, snapshot_id)
        self.advance = plan_advance(old, new)
        self._renaming: Renaming | None = None
        if frozen is not None:
            index = FrozenIndex.of_dirs(frozen, frozenset(left))
            self._renaming = plan_renaming(tree, old, new, frozen.base_tree, index)
        self._open_inos = list(open_inos)
        self.changed = Invalidations()
        self.theirs: list[str] = []
        self.kept: list[str] = []

    def __call__(self, result: SettleResult) -> None:
        self.changed = self._tree.advance(self.advance, self._open_inos, self._renaming)
        self.changed += Invalidations(inodes=result.changed_attrs)
        if self._renaming is not None:
            result.keep_renamed(self._renaming.regions, self._renaming.names)
        self.kept = result.forget(self.theirs)

    def renamed(self, result: SettleResult) -> Iterable[Entry]:
        """Yields the names of directories that were renamed, if not all that lies below keeps its number."""
        if self._renaming is None or self._renaming.is_complete:
            return ()
        return result.renamed


def resolve(tree: "WritableBranch", work: WorkTree, open_inos: Iterable[int]) -> Invalidations:
    """Finds out what became of a commit in doubt, and completes or abandons it.

    Returns:
        What the kernel has to ask for again.

    Raises:
        StorageError: the store does not tell; the commit stays in doubt.
    """
    intent = work.pending_intent
    assert intent is not None
    snapshot_id = SnapshotId.parse(intent.snapshot_id)
    if is_in_history(tree.settings.repository, tree.name, snapshot_id):
        before = tree.next_number
        frozen, _ = work.pending()
        switch = _Switch(tree, snapshot_id, open_inos, frozen, intent.left)
        result = work.complete_recovered(switch)
        logger.info("%s: the commit %s had gone through", tree.label, snapshot_id)
        entries = [*_new_names(work, result, before), *_cut_names(work, switch.advance), *switch.renamed(result)]
        return switch.changed + Invalidations(entries)
    work.abandon_recovered()
    logger.info("%s: the commit %s had not gone through", tree.label, snapshot_id)
    return Invalidations()


def take_over_late(
    tree: "WritableBranch", work: WorkTree, open_inos: Iterable[int], invalidate: Invalidate = _invalidate_nothing
) -> SnapshotId | None:
    """Puts a tree on a commit of its own that had been given up, and that its branch has; returns that."""
    snapshot_id = late_commit(tree, work)
    if snapshot_id is None:
        return None
    frozen = work.freeze()
    try:
        base, made = base_of(tree, frozen), open_session(tree.settings.repository, snapshot_id)
        staged = stage(frozen, base)
        others = differing(staged, frozen, made)
        if others is None:
            work.abandon(frozen)
            return None
        removed = list(hidden(staged, frozen, base, made))
        left = [*staged.left, *others]
        before = tree.next_number
        told = _Switch(tree, snapshot_id, open_inos, frozen, left)
        theirs = _their_part(tree, told, frozen.base, snapshot_id)
        if theirs is not told.advance:
            told.theirs = tree.changed_paths(theirs)
        work.record_intent(frozen, str(snapshot_id), frozen.base, left)
    except BaseException:
        work.abandon(frozen)
        raise
    result = work.complete(frozen, str(snapshot_id), left, told)
    entries = [*_new_names(work, result, before), *_cut_names(work, told.advance), *told.renamed(result)]
    changed = told.changed + Invalidations(entries)
    if theirs is not told.advance:
        changed += work.forgotten(told.theirs, told.kept)
    invalidate(changed + Invalidations(list(remove_hidden(work, removed))))
    logger.info("%s: the commit %s, which had been given up, was made after all", tree.label, snapshot_id)
    return snapshot_id


def recover(tree: "WritableBranch", work: WorkTree, session: Session) -> None:
    """Brings a working tree that was just opened to where it can be worked with; in a worker thread.

    Where the store does not answer, a commit in doubt stays so; the tree can be read and written all the same.
    """
    if work.pending_intent is not None:
        try:
            resolve(tree, work, ())
        except StorageError as error:
            logger.warning("%s: cannot find out yet whether the last commit was made: %s", tree.label, error)
    try:
        take_over_late(tree, work, ())
    except (StorageError, NotFoundError) as error:
        logger.warning("%s: cannot find out yet whether a commit was made late: %s", tree.label, error)
    if not work.recovery.is_new:
        logger.info("%s has the working tree of %s", tree.label or "the mount", session.snapshot_id)


def rebase_tree(
    tree: "WritableBranch",
    work: WorkTree,
    how: str,
    open_inos: Iterable[int],
    invalidate: Invalidate = _invalidate_nothing,
) -> tuple[SnapshotId, Invalidations]:
    """Puts a working tree's changes on the branch's tip.

    Returns:
        The tip, and what the kernel has to ask for again.

    Raises:
        RebaseFailedError: what is staged conflicts with what others have committed, or the tree cannot show that; it is
            as it was.
        SessionStateError: the tree changes faster than it can be compared; it is as it was (kind `tree-changed`).
        StorageError: the store failed; the tree is as it was.
    """
    if work.pending_intent is not None:
        invalidate(resolve(tree, work, open_inos))
    take_over_late(tree, work, open_inos, invalidate)
    for _ in range(_REBASE_TRIES):
        tip = tree.settings.repository.lookup_branch(tree.name)
        if str(tip) == work.base:
            return tip, Invalidations()
        view = work.view()
        try:
            session, yielded = _compare(tree, view, how)
        finally:
            work.release_view(view)
        tip = session.snapshot_id
        switch = _Switch(tree, tip, open_inos)
        switch.theirs = tree.changed_paths(switch.advance)
        try:
            work.rebase_to(str(tip), switch, view.revision, yielded)
        except TreeChangedError:
            continue  # what was written since has to be compared, too
        changed = switch.changed + work.forgotten(switch.theirs, switch.kept)
        return tip, changed + Invalidations(list(_names_above(work, yielded)))
    raise SessionStateError(
        "files of the working tree change all the time, so they cannot be compared with others' commits",
        kind="tree-changed",
        hint="pause the programs that write, or commit with a rebase: that works on the tree of one moment",
    )


def _compare(tree: "WritableBranch", view: FrozenTree, how: str) -> tuple[WritableSession, list[str]]:
    """Rebases what is staged, without storing it.

    Returns:
        The changes on the branch's tip, and the paths at which the tree gives way.
    """
    repository = tree.settings.repository
    base = open_session(repository, SnapshotId.parse(view.base))
    staged = stage(view, base)
    session = _session_for(staged, repository, tree.name, base)
    _pretend(staged, session)
    solver = TreeSolver(how, view, staged.left)
    try:
        session.rebase(solver)
    except RebaseFailedError as error:
        tell_way_out(error, how, staged, session)
        raise
    yielded = list(solver.paths(session))
    check_shown(view, base, open_session(repository, session.snapshot_id), frozenset(yielded))
    return session, [*yielded, *revealed(view, session, frozenset(staged.left))]


def _pretend(staged: Staged, session: WritableSession) -> None:
    """Does to a session what is staged, as far as conflicts depend on it: no chunk is stored."""
    _apply_nodes(staged, session)
    for path, array in staged.arrays.items():
        if array.sets:
            node, ndim = session.node(path), len(next(iter(array.sets)))
            refs = ArrayRefs.from_refs(node.id, ndim, [(index, InlineRef(b"?")) for index in array.sets])
            session.set_chunk_refs(path, refs)
