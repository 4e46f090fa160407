"""The staged changes, as those of a writable session."""

from icefs.engine.read.session import Session
from icefs.engine.write.publish import MOVE_NODE
from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.session import WritableSession
from icefs.format.manifest.refs import ArrayRefs, InlineRef
from icefs.paths import NodePath
from icefs.worktree.freeze.frozen import FrozenTree
from icefs.worktree.stage.staged import Staged
from icefs.worktree.upload.background import BackgroundUploads
from icefs.worktree.upload.options import UploadOptions
from icefs.worktree.upload.uploader import ArrayUpload, Progress, upload_chunks


def session_for(staged: Staged, repository: WritableRepository, branch: str, base: Session) -> WritableSession:
    """Opens the session that the staged changes need: for nothing but renames, one that moves nodes, with their ids.

    Where the repository does not have moves, nodes are deleted and made again.
    """
    is_rearrange = bool(staged.moves) and _has_moves(repository)
    return repository.writable_session_at(branch, base.snapshot_id, is_rearrange=is_rearrange)


def _has_moves(repository: WritableRepository) -> bool:
    return repository.spec_version > 1 and repository.assets.fetch_repo_info()[0].feature_flag(MOVE_NODE) is not False


def apply_staged(
    staged: Staged,
    frozen: FrozenTree,
    base: Session,
    session: WritableSession,
    progress: Progress,
    uploads: UploadOptions,
    background: BackgroundUploads | None,
) -> None:
    """Makes the staged changes in a session; chunks are stored in parallel."""
    _apply_nodes(staged, session)
    arrays = [
        ArrayUpload(path, session.node(NodePath(path)).id, list(array.sets.items()))
        for path, array in staged.arrays.items()
        if array.sets
    ]
    for path, refs in upload_chunks(arrays, frozen, base, session, progress, uploads, background):
        session.chunks.set_refs(NodePath(path), refs)


def pretend_staged(staged: Staged, session: WritableSession) -> None:
    """Makes the staged changes in a session, as far as conflicts depend on them: no chunk is stored."""
    _apply_nodes(staged, session)
    for path, array in staged.arrays.items():
        if array.sets:
            node, ndim = session.node(NodePath(path)), len(next(iter(array.sets)))
            refs = ArrayRefs.from_refs(node.id, ndim, [(index, InlineRef(b"?")) for index in array.sets])
            session.chunks.set_refs(NodePath(path), refs)


def _apply_nodes(staged: Staged, session: WritableSession) -> None:
    """Does everything but write chunks that have files of their own."""
    if session.draft.is_rearrange:
        session.nodes.move_each({NodePath(source): NodePath(target) for source, target in staged.moves})
        return
    session.nodes.delete_each(map(NodePath, staged.gone))
    # While the old grid holds: what lies outside of the new one could not be deleted, and would come back with it.
    for path, array in staged.arrays.items():
        if len(array.deletes):
            session.chunks.delete(NodePath(path), array.deletes)
    for path, data in staged.nodes.items():
        session.nodes.put(NodePath(path), data)
    for path, array in staged.arrays.items():
        if array.reused is not None:
            session.chunks.set_refs(NodePath(path), array.reused)
