"""Repositories and sessions that are sent to other processes, and comparing them with what comes back.

Where the repository is, how it was opened, and which snapshot is meant are sent; the receiver opens it again. Storage
keeps its credentials when it is pickled, so a pickle is as secret as they are.
"""

import pickle
import threading
from typing import Any
from weakref import WeakValueDictionary

from icefs.engine.read.context import ReadContext
from icefs.engine.read.session import Session, session_at
from icefs.engine.repository import Repository
from icefs.engine.write.changeset import ChangeSet
from icefs.engine.write.collection_log import Mark
from icefs.engine.write.context import WriteContext
from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.session import WritableSession
from icefs.errors import SessionStateError, SnapshotNotFoundError
from icefs.format.ids import SnapshotId

# A program may receive thousands of sessions of one repository: they share it, with its caches and connections, for
# as long as any of them lives.
_received: WeakValueDictionary[bytes, ReadContext] = WeakValueDictionary()
_lock = threading.Lock()


class WritableSessionPickledError(SessionStateError, ValueError):
    """A session that writes was to be pickled; a `ValueError` too, which is what the official library raises."""

    default_kind = "pickle"


type RepositoryState = bytes
"""What opens a repository, pickled."""


def repository_state(context: ReadContext) -> RepositoryState:
    """Returns what opens a repository as it was opened here."""
    cls = WritableRepository if isinstance(context, WriteContext) else Repository
    named = tuple(sorted(context.named_endpoints))
    return pickle.dumps((cls, named, context.opened_as, context.config, context.authorizations))


def restore_context(state: RepositoryState) -> ReadContext:
    """Opens the repository that `repository_state` described; raises as `Repository.open`."""
    with _lock:
        context: ReadContext | None = _received.get(state)
        if context is None:
            cls, named, *opening = pickle.loads(state)  # a part of what is being unpickled anyway
            context = _received[state] = cls.open(*opening, named_endpoints=frozenset(named)).context
        return context


def restore_repository(state: RepositoryState) -> Repository:
    """Returns a repository on what `restore_context` opens."""
    context = restore_context(state)
    return WritableRepository(context) if isinstance(context, WriteContext) else Repository(context)


def session_state(session: Session) -> tuple[Any, ...]:
    """Returns what opens a session that only reads, or a fork with the changes that it has.

    Raises:
        WritableSessionPickledError: any other session that writes: nobody could commit what came of the copy.
    """
    state = repository_state(session.context), bytes(session.snapshot_id), session.branch
    if session.read_only:
        return state
    if not isinstance(session, WritableSession) or not session.draft.is_fork:
        raise WritableSessionPickledError(
            "a session that writes cannot be pickled",
            hint="pickle `fork()` of it and merge what comes back, or pickle a read-only session",
        )
    with session.draft.lock:
        return *state, session.draft.changes.copy(), session.draft.opened_at, bytes(session.draft.published_base)


def restore_session(
    state: RepositoryState,
    snapshot_id: bytes,
    branch: str | None,
    changes: ChangeSet | None = None,
    opened_at: Mark = 0,
    origin_id: bytes | None = None,
) -> Session:
    """Opens the session that `session_state` described; raises as `read.session.session_at`."""
    try:
        session = session_at(restore_context(state), SnapshotId(snapshot_id), branch)
    except SnapshotNotFoundError as error:
        if changes is None:
            raise
        raise SnapshotNotFoundError(
            f"no snapshot {SnapshotId(snapshot_id)}, on which the fork stands: a garbage collection took it",
            hint="fork the session again, and write the changes again; collect with a longer age than any fork is away",
            **error.facts,
        ) from error
    if changes is None:
        return session
    assert isinstance(session.context, WriteContext)  # forks are of nothing else
    origin = None if origin_id is None else SnapshotId(origin_id)
    fork = WritableSession(session.context, session.snapshot, None, origin_id=origin)
    with fork.draft.lock:
        fork.draft.replace_changes(changes)
        fork.draft.opened_at = opened_at
    return fork


def is_same_view(one: Session, other: Session) -> bool:
    """Tells whether two sessions show the same: they are one, or read the same snapshot of the same repository."""
    if one is other:
        return True
    return (
        one.read_only
        and other.read_only
        and one.snapshot_id == other.snapshot_id
        and one.context.storage.url == other.context.storage.url
    )
