"""Chunks that garbage collection may have taken from a session before its commit.

Nothing refers to the chunks of an open session, so a collection whose cutoff is younger than the session takes them. A
commit must not refer to chunks that are gone. Each collection leaves an entry in the ops log of spec version 2:

    no collection since the session was opened    all chunks are there: nothing is asked
    a collection that may still be deleting       every chunk object of the session is copied to a new name
    an older one, or a log that starts later      every chunk object of the session is looked up before the commit
    spec version 1, which has no log              every chunk object of the session is looked up before the commit

To look up is not enough while a collection deletes: it may take an object after the commit has seen it. A collection
(`garbage`) lists what it may delete *before* it writes its entry, and keeps what the state with that entry needs. So
it takes no object that was stored after the entry, and a copy is out of its reach. Its entry allows it to delete for
`DELETES_FOR_S`; after that it needs another one.

The position in the log counts, not the time: the clocks of two machines may differ. Time tells only whether a
collection can still be deleting, with much more room than clocks may differ. The publishing write looks at the log
again, so a collection cannot come between the question and the commit unseen.

Source: spec 2.1 "Updates to the repo info file"; format notes §5 and §7.4.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from icefs.engine.read.assets import AssetManager
from icefs.engine.write.changeset import ChangeSet
from icefs.errors import ChunksCollectedError, IcefsError, InvalidInputError, ObjectNotFoundError
from icefs.format.ids import ChunkId
from icefs.format.layout import CHUNKS, chunk_key
from icefs.format.manifest.refs import ArrayRefs, ChunkKind
from icefs.format.repo.info import RepoInfo
from icefs.format.repo.ops_log import GCRan

if TYPE_CHECKING:
    from icefs.engine.write.repository import WritableRepository
    from icefs.engine.write.session import WritableSession

type Mark = int
"""A position in the ops log: the time of an update, in microseconds since the epoch; 0 comes before all updates."""

DELETES_FOR_S: Final = 900
"""How long after its entry a collection may begin to delete objects, in seconds."""
_MAY_DELETE_MICROS: Final = 3600 * 1_000_000
"""How old an entry is whose collection has ended: `DELETES_FOR_S`, a last request, and two clocks that differ."""
_MAX_QUESTIONS: Final = 10_000
"""For more chunk objects than this, one listing of all of them takes fewer requests than a question for each."""
_NAMED: Final = 3
_LISTED: Final = 1000


class CollectionRanError(IcefsError):
    """A collection ran after the chunks of a commit were looked up; the commit looks again. Never leaves the engine."""


def newest_update(info: RepoInfo) -> Mark:
    """Returns the position of the newest update in the ops log."""
    updates = info.latest_updates
    return updates[0].updated_at if updates else 0


def may_have_run(info: RepoInfo, since: Mark) -> bool:
    """Tells whether a collection may have run after a position; yes, where the log does not reach back to it."""
    for update in info.latest_updates:
        if update.updated_at <= since:
            return False
        if isinstance(update.kind, GCRan):
            return True
    return True


def may_delete(info: RepoInfo, since: Mark, now: int) -> bool:
    """Tells whether a collection that ran after a position may still be deleting.

    Args:
        info: The repository's state.
        since: The position.
        now: The time, in microseconds since the epoch.
    """
    for update in info.latest_updates:
        if update.updated_at <= max(since, now - _MAY_DELETE_MICROS):
            return False
        if isinstance(update.kind, GCRan):
            return True
    return info.repo_before_updates is not None  # else this is the whole log


class Collections:
    """The collections of one repository, as far as its state was last seen.

    Safe for use from any thread; makes no request unless nothing of the repository was read yet.
    """

    def __init__(self, repository: "WritableRepository") -> None:
        self._repository = repository

    def mark(self) -> Mark:
        """Returns the newest known position in the ops log; 0 in spec version 1."""
        if self._repository.spec_version == 1:
            return 0
        return newest_update(self._repository.assets.fetch_repo_info(refresh=False)[0])

    def may_have_run(self, since: Mark) -> bool:
        """Tells whether a collection may have run after a position."""
        if self._repository.spec_version == 1:
            return True
        return may_have_run(self._repository.assets.fetch_repo_info(refresh=False)[0], since)

    def at_work_since(self) -> Mark:
        """Returns a position in the log that all collections come after that may still be deleting."""
        return 0 if self._repository.spec_version == 1 else max(0, self._repository.clock() - _MAY_DELETE_MICROS)

    def may_delete(self, since: Mark) -> bool:
        """Tells whether a collection that ran after a position may still be deleting; no, where there is no log."""
        if self._repository.spec_version == 1:
            return False
        info, _ = self._repository.assets.fetch_repo_info(refresh=False)
        return may_delete(info, since, self._repository.clock())


@dataclass(slots=True)
class ChunkGuard:
    """Keeps one commit from referring to chunks that are gone.

    Attributes:
        session: The session that is committed; nobody changes it meanwhile.
        seen: The position in the ops log up to which its chunks are known to be there.
    """

    session: "WritableSession"
    seen: Mark

    @classmethod
    def of(cls, session: "WritableSession") -> "ChunkGuard":
        """Begins with what is known since the session was opened."""
        return cls(session, session.opened_at)

    def check(self, changes: ChangeSet) -> None:
        """Looks up the chunks where a collection may have taken some; copies them where it may still take some.

        Args:
            changes: What is committed; refers to the copies afterwards, as the session does.

        Raises:
            ChunksCollectedError: some are gone.
            StorageError: the store cannot be asked.
        """
        repository = self.session.repository
        if repository.spec_version == 1:
            self._look_up(changes)
            return
        info, _ = repository.assets.fetch_repo_info(refresh=False)
        if may_delete(info, self.seen, repository.clock()):
            self._copy(changes)
        elif may_have_run(info, self.seen):
            self._look_up(changes)
        self.seen = newest_update(info)

    def check_unmoved(self, info: RepoInfo) -> None:
        """Checks, in the state that the publishing write replaces, that the last look was after each collection.

        Raises:
            CollectionRanError: it was not.
        """
        if may_have_run(info, self.seen):
            raise CollectionRanError("a garbage collection ran meanwhile")

    def _look_up(self, changes: ChangeSet) -> None:
        sets, needed = _needed(changes)
        gone = missing_chunks(self.session.repository.assets, needed)
        if gone:
            raise _collected(self.session, sets, gone)

    def _copy(self, changes: ChangeSet) -> None:
        sets, needed = _needed(changes)
        copies, gone = _copy_chunks(self.session.repository.assets, needed)
        if gone:
            raise _collected(self.session, sets, gone)
        # In the session as well: a commit that fails now finds the copies the next time.
        self.session.rename_chunks(copies)
        changes.rename_chunks(copies)


def _needed(changes: ChangeSet) -> tuple[list[ArrayRefs], set[bytes]]:
    sets = [chunks.sets() for chunks in changes.chunks.values()]
    needed: set[bytes] = set()
    for refs in sets:
        needed.update(_native_ids(refs))
    return sets, needed


def _copy_chunks(assets: "AssetManager", chunk_ids: Iterable[bytes]) -> tuple[dict[bytes, bytes], set[bytes]]:
    """Copies chunk objects to new names, within the store.

    Returns:
        The id of each copy by that of its object, and the objects that the store does not have.

    Raises:
        StorageError: an object cannot be copied.
    """
    copies = {chunk_id: bytes(ChunkId.random()) for chunk_id in sorted(chunk_ids)}

    def is_copied(chunk_id: bytes) -> bool:
        try:
            assets.storage.copy(chunk_key(ChunkId(chunk_id)), chunk_key(ChunkId(copies[chunk_id])))
        except ObjectNotFoundError:
            return False
        return True

    done = assets.workers.map_ahead(is_copied, list(copies), window=2 * assets.workers.max_workers)
    return copies, {chunk_id for chunk_id, is_there in zip(copies, done, strict=True) if not is_there}


def missing_chunks(assets: "AssetManager", chunk_ids: Iterable[bytes]) -> set[bytes]:
    """Returns which chunk objects the store does not have.

    Raises:
        StorageError: the store cannot be asked.
    """
    wanted = set(chunk_ids)
    if len(wanted) > _MAX_QUESTIONS:
        for listed in assets.storage.list_objects(f"{CHUNKS}/"):
            try:
                wanted.discard(bytes(ChunkId.parse(listed.key.removeprefix(f"{CHUNKS}/"))))
            except InvalidInputError:
                continue  # nothing that a reference can name

    def is_there(chunk_id: bytes) -> bool:
        try:
            assets.storage.head(chunk_key(ChunkId(chunk_id)))
        except ObjectNotFoundError:
            return False
        return True

    asked = sorted(wanted)
    there = assets.workers.map_ahead(is_there, asked, window=2 * assets.workers.max_workers)
    return {chunk_id for chunk_id, is_found in zip(asked, there, strict=True) if not is_found}


def _native_ids(refs: ArrayRefs) -> Iterable[bytes]:
    native = refs.chunk_ids[refs.kinds == ChunkKind.NATIVE]
    return {row.tobytes() for row in np.unique(native, axis=0)} if len(native) else ()


def _collected(session: "WritableSession", sets: Iterable[ArrayRefs], gone: set[bytes]) -> ChunksCollectedError:
    paths = {node.id: node.path for node in session.current_nodes()}
    lost: list[tuple[str, list[int]]] = []
    for refs in sets:
        rows = [
            row
            for row in np.flatnonzero(refs.kinds == ChunkKind.NATIVE).tolist()
            if refs.chunk_ids[row].tobytes() in gone
        ]
        lost += [(paths.get(refs.node_id, str(refs.node_id)), list(refs.index(row))) for row in rows]
    named = ", ".join(f"{path} {index}" for path, index in lost[:_NAMED])
    more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
    return ChunksCollectedError(
        f"{len(lost)} chunk{'' if len(lost) == 1 else 's'} of these changes {'is' if len(lost) == 1 else 'are'} not in "
        f"{session.repository.storage.url} any more, because a garbage collection took what was not committed: "
        f"{named}{more}",
        hint="nothing was committed, and the changes are kept: write these chunks again, then commit; collect with a "
        "longer age than any session is open",
        chunks=[list(one) for one in lost[:_LISTED]],
        count=len(lost),
        chunk_ids=sorted(gone),
    )
