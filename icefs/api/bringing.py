"""Versions that come together: merge, cherry-pick, revert and restore, which the official library does not have."""

from dataclasses import dataclass
from typing import Any

from icefs.api.aio import asynchronous
from icefs.engine.merge.operations import Brought, Way, cherry_pick_all, merge, restore, revert
from icefs.engine.read.session import session_at
from icefs.engine.write.conflicts import Conflict, VersionSelection
from icefs.engine.write.repository import WritableRepository
from icefs.zarr.wanted import wanted_at

__all__ = ["BroughtChanges"]


@dataclass(frozen=True, slots=True)
class BroughtChanges:
    """What a merge, a cherry-pick, a revert or a restore did, or would do.

    Attributes:
        branch: The branch that got the commit.
        previous_id: Where it was.
        base_id: The snapshot that the changes begin at; of a restore the branch's tip.
        incoming_id: The snapshot that has them.
        snapshot_id: The new commit; None for a dry run, and where the branch has everything already.
        is_new: Whether there was anything to bring.
        nodes: How many nodes were made, rewritten, deleted or moved.
        chunks: How many chunks were set or deleted.
        conflicts: Of a dry run, what forbids it.
        settled: The conflicts that the chosen side settled.
    """

    branch: str
    previous_id: str
    base_id: str
    incoming_id: str
    snapshot_id: str | None
    is_new: bool
    nodes: int
    chunks: int
    conflicts: list[Conflict]
    settled: list[Conflict]


def _public(done: Brought, way: Way) -> BroughtChanges:
    return BroughtChanges(
        branch=way.branch,
        previous_id=str(done.tip),
        base_id=str(done.base),
        incoming_id=str(done.incoming),
        snapshot_id=None if done.snapshot_id is None else str(done.snapshot_id),
        is_new=done.is_new,
        nodes=done.nodes,
        chunks=done.chunks,
        conflicts=done.conflicts,
        settled=done.settled,
    )


class Bringing:
    """The part of a repository that brings versions together, as ordinary commits.

    No chunk is read or copied. A version is a snapshot id, a branch or a tag. All of it is icefs's own.
    """

    _engine: WritableRepository

    def merge(
        self,
        ref: str,
        *,
        branch: str = "main",
        side: VersionSelection = VersionSelection.Fail,
        message: str | None = None,
        metadata: dict[str, Any] | None = None,
        dry_run: bool = False,
    ) -> BroughtChanges:
        """Brings what a version has, and the branch does not, to the branch, as one commit.

        Args:
            ref: The version.
            branch: The branch.
            side: Whose version counts where both changed the same: `UseOurs` is the branch's.
            message: The commit message; None for one that says what it is.
            metadata: The commit's own metadata.
            dry_run: Find out, and change nothing; conflicts are then no error.

        Raises:
            RefNotFoundError: there is no such branch or version.
            RebaseFailedError: conflicts that the side does not settle; nothing was committed.
            InvalidInputError: the two have no snapshot in common (kind `no-common-ancestor`), or several that lead
                to different results (kind `several-common-ancestors`).
        """
        way = Way(branch, side, message, metadata, dry_run=dry_run)
        return _public(merge(self._engine, ref, way), way)

    def cherry_pick(
        self,
        *refs: str,
        branch: str = "main",
        side: VersionSelection = VersionSelection.Fail,
        message: str | None = None,
        metadata: dict[str, Any] | None = None,
        dry_run: bool = False,
    ) -> list[BroughtChanges]:
        """Makes the changes of commits again on the branch, each as one commit with the message that it has.

        Args:
            refs: The commits, in the order in which they are picked.
            branch: As for `merge`, and so are the others; metadata and message are for each commit.
            side: As for `merge`.
            message: As for `merge`; None for the commit's own.
            metadata: As for `merge`.
            dry_run: Find out, each commit on top of those before it, up to the first that conflicts.

        Raises:
            RebaseFailedError: conflicts; the commits before are made. `facts` has those that were `made`, and
                those that `remain`.
            InvalidInputError: a commit has no parent (kind `no-parent`); none was picked.
            RefNotFoundError: as `merge`.
        """
        way = Way(branch, side, message, metadata, dry_run=dry_run)
        wanted = [self._engine.resolve_ref(ref) for ref in refs]
        return [_public(done, way) for done in cherry_pick_all(self._engine, wanted, way)]

    def revert(
        self,
        ref: str,
        *,
        branch: str = "main",
        side: VersionSelection = VersionSelection.Fail,
        message: str | None = None,
        metadata: dict[str, Any] | None = None,
        dry_run: bool = False,
    ) -> BroughtChanges:
        """Takes back the changes of a commit on the branch, as one commit; arguments and errors as `merge`.

        Raises:
            InvalidInputError: the commit has no parent (kind `no-parent`).
        """
        way = Way(branch, side, message, metadata, dry_run=dry_run)
        return _public(revert(self._engine, self._engine.resolve_ref(ref), way), way)

    def restore(
        self,
        path: str,
        ref: str,
        *,
        branch: str = "main",
        message: str | None = None,
        metadata: dict[str, Any] | None = None,
        dry_run: bool = False,
    ) -> BroughtChanges:
        """Has a chunk, an array or a group of the branch be as in a version, as one commit.

        Args:
            path: A node's path, or a chunk's key, as `a/c/0/1`.
            ref: The version to restore from.
            branch: As for `merge`, and so are the others.
            message: As for `merge`.
            metadata: As for `merge`.
            dry_run: As for `merge`.

        Raises:
            NodeNotFoundError: the version has nothing there.
            InvalidInputError: the branch has no array for the chunk, or one of other chunks (kind `other-layout`).
            RefNotFoundError: as `merge`.
        """
        way = Way(branch, VersionSelection.Fail, message, metadata, dry_run=dry_run)
        wanted = wanted_at(session_at(self._engine.context, self._engine.resolve_ref(ref)), path)
        return _public(restore(self._engine, ref, wanted, way), way)

    merge_async = asynchronous(merge)
    cherry_pick_async = asynchronous(cherry_pick)
    revert_async = asynchronous(revert)
    restore_async = asynchronous(restore)
