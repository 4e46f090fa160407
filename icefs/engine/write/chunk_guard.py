"""Keeps a commit from referring to chunks that garbage collection has taken.

Nothing refers to the chunks of an open session, so a collection whose cutoff is younger than the session takes them. A
commit must not refer to chunks that are gone:

    no collection since the session was opened    all chunks are there: the store is not asked
    a collection that may still be deleting       every chunk object of the session is copied to a new name
    an older one, or a log that starts later      every chunk object of the session is looked up before the commit
    spec version 1, which has no log              every chunk object of the session is looked up before the commit

A look is not enough while a collection deletes: it may take an object after the commit has seen it. A collection
(`upkeep.garbage`) lists what it may delete *before* it writes its entry into the log, and keeps what the state with
that entry needs. So it takes no object that was stored after the entry, and a copy is out of its reach. Its entry
allows it to delete for `collection_log.DELETES_FOR_S`; after that it needs another one.

The publishing write looks at the log again, so a collection cannot come between the look and the commit unseen. In spec
version 1 it can: `engine/CONCURRENCY.md` says how long that window is.

Source: format notes §5.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from icefs.engine.read.assets import AssetManager
from icefs.engine.read.workers import Workers
from icefs.engine.write.changeset import ChangeSet
from icefs.engine.write.collection_log import Mark, may_delete, may_have_run, newest_update
from icefs.engine.write.context import WriteContext
from icefs.engine.write.draft import Draft
from icefs.errors import ChunksCollectedError, IcefsError, InvalidInputError, ObjectNotFoundError
from icefs.format.ids import ChunkId
from icefs.format.layout import CHUNKS, chunk_key
from icefs.format.manifest.refs import ArrayRefs, ChunkKind
from icefs.format.repo.info import RepoInfo
from icefs.storage.base import Storage
from icefs.words import plural

_MAX_QUESTIONS: Final = 10_000
"""For more chunk objects than this, one listing of all of them takes fewer requests than a question for each."""
_NAMED: Final = 3
_LISTED: Final = 1000


class CollectionRanError(IcefsError):
    """A collection ran after the chunks of a commit were looked up, or while it wrote; the commit begins again."""


@dataclass(slots=True)
class ChunkGuard:
    """Keeps one commit from referring to chunks that are gone.

    Attributes:
        context: The repository.
        draft: The draft that is committed; frozen by the caller.
        seen: The position in the ops log up to which its chunks are known to be there.
    """

    context: WriteContext
    draft: Draft
    seen: Mark

    @classmethod
    def of(cls, context: WriteContext, draft: Draft) -> "ChunkGuard":
        """Begins where the session was opened."""
        return cls(context, draft, draft.opened_at)

    def check(self, changes: ChangeSet) -> None:
        """Looks up the chunks where a collection may have taken some; copies them where it may still take some.

        Args:
            changes: The changes to commit; refer to the copies afterwards, as the draft does.

        Raises:
            ChunksCollectedError: some are gone.
            StorageError: the store cannot be asked.
        """
        if self.context.spec_version == 1:
            self._look_up(changes)
            return
        info, _ = self.context.assets.fetch_repo_info(refresh=False)
        if may_delete(info, self.seen, self.context.clock()):
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
        gone = missing_chunks(self.context.storage, self.context.assets.workers, needed)
        if gone:
            raise self._collected(sets, gone)

    def _copy(self, changes: ChangeSet) -> None:
        sets, needed = _needed(changes)
        copies, gone = _copy_chunks(self.context.assets, needed)
        if gone:
            raise self._collected(sets, gone)
        # In the draft as well: a commit that fails now finds the copies the next time.
        self.draft.rename_chunks(copies)
        changes.rename_chunks(copies)

    def _collected(self, sets: Iterable[ArrayRefs], gone: set[bytes]) -> ChunksCollectedError:
        paths = {node.id: node.path for node in self.draft.nodes()}
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
            f"{plural(len(lost), 'chunk')} of these changes {'is' if len(lost) == 1 else 'are'} not in "
            f"{self.context.storage.url} any more, because a garbage collection took what was not committed: "
            f"{named}{more}",
            hint="nothing was committed, and the changes are kept: write these chunks again, then commit; collect "
            "with a longer age than any session is open",
            chunks=[list(one) for one in lost[:_LISTED]],
            count=len(lost),
            chunk_ids=sorted(gone),
        )


def _needed(changes: ChangeSet) -> tuple[list[ArrayRefs], set[bytes]]:
    sets = [chunks.sets() for chunks in changes.chunks.values()]
    needed: set[bytes] = set()
    for refs in sets:
        needed.update(_native_ids(refs))
    return sets, needed


def _copy_chunks(assets: AssetManager, chunk_ids: Iterable[bytes]) -> tuple[dict[bytes, bytes], set[bytes]]:
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


def missing_chunks(storage: Storage, workers: Workers, chunk_ids: Iterable[bytes]) -> set[bytes]:
    """Returns which chunk objects the store does not have.

    Args:
        storage: The store.
        workers: Ask it, side by side.
        chunk_ids: The ids of the objects.

    Raises:
        StorageError: the store cannot be asked.
    """
    wanted = set(chunk_ids)
    if len(wanted) > _MAX_QUESTIONS:
        for listed in storage.iter_objects(f"{CHUNKS}/"):
            try:
                wanted.discard(bytes(ChunkId.parse(listed.key.removeprefix(f"{CHUNKS}/"))))
            except InvalidInputError:
                continue  # nothing that a reference can name

    def is_there(chunk_id: bytes) -> bool:
        try:
            storage.head(chunk_key(ChunkId(chunk_id)))
        except ObjectNotFoundError:
            return False
        return True

    asked = sorted(wanted)
    there = workers.map_ahead(is_there, asked, window=2 * workers.max_workers)
    return {chunk_id for chunk_id, is_found in zip(asked, there, strict=True) if not is_found}


def _native_ids(refs: ArrayRefs) -> Iterable[bytes]:
    native = refs.chunk_ids[refs.kinds == ChunkKind.NATIVE]
    return {row.tobytes() for row in np.unique(native, axis=0)} if len(native) else ()
