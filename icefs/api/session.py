"""Sessions under their official names: ids and paths as text."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from operator import index as to_integer
from typing import TYPE_CHECKING, Any

from icefs.api.aio import DualIterator, asynchronous
from icefs.api.notebook import as_html
from icefs.api.values import ChunkType, Diff, SessionMode
from icefs.arguments import U16, U32, check_instance, checked_integer
from icefs.engine.history.diff import Diff as EngineDiff
from icefs.engine.read.session import Session as EngineSession
from icefs.engine.write import forks, reindex
from icefs.engine.write.conflicts import ConflictSolver
from icefs.engine.write.pickling import is_same_view, restore_session, session_state
from icefs.engine.write.session import WritableSession
from icefs.errors import InvalidInputError, ReadOnlyError, SessionStateError
from icefs.format.config.values import RepositoryConfig
from icefs.paths import ROOT_NODE, NodePath

if TYPE_CHECKING:
    from icefs.api.store import IcechunkStore


def _checked(path: str) -> NodePath:
    """Returns the path of a node, without the slash that may end it.

    Raises:
        InvalidInputError: it does not start with a slash (`invalid-path`).
    """
    if not path.startswith("/"):
        raise InvalidInputError(
            f"the path of a node starts with a slash, and {path!r} does not",
            hint=f"give '/{path}'",
            kind="invalid-path",
            start="/",
        )
    return NodePath(path.rstrip("/")) or ROOT_NODE


def _check_solver(solver: object) -> None:
    if isinstance(solver, type) or not hasattr(solver, "solve"):
        raise TypeError(f"{solver!r} is not an instance of 'ConflictSolver'")


class Session:
    """A view of one snapshot of a repository; one that writes also has changes, until it commits them.

    After a commit the session is read-only, on no branch, and stands on the new snapshot.

    Two sessions are equal if they stand on the same snapshot of the same repository and have no changes.
    """

    def __init__(self, engine: EngineSession) -> None:
        """Takes the engine's session; use `Repository.readonly_session` or `writable_session`."""
        self._engine = engine

    @property
    def read_only(self) -> bool:
        """Whether the session cannot write."""
        return self._engine.read_only

    @property
    def mode(self) -> SessionMode:
        """The changes that the session allows; a fork is writable (Divergence 73)."""
        if not isinstance(self._engine, WritableSession) or self._engine.read_only:
            return SessionMode.readonly
        return SessionMode.rearrange if self._engine.draft.is_rearrange else SessionMode.writable

    @property
    def snapshot_id(self) -> str:
        """The snapshot that the session stands on."""
        return str(self._engine.snapshot_id)

    @property
    def branch(self) -> str | None:
        """The branch that a writable session commits to; None for one that only reads."""
        return None if self._engine.read_only else self._engine.branch

    @property
    def has_uncommitted_changes(self) -> bool:
        """Whether there is anything to commit."""
        return self._engine.has_uncommitted_changes

    @property
    def config(self) -> RepositoryConfig:
        """The repository's configuration."""
        return self._engine.config

    @property
    def store(self) -> "IcechunkStore":
        """The session's Zarr store, for zarr-python."""
        # zarr-python takes half a second to import, and a program that only reads refs does not need it.
        from icefs.api.store import IcechunkStore

        store = IcechunkStore(self._engine)
        store._is_open = True
        return store

    def status(self) -> Diff:
        """Returns the uncommitted changes."""
        engine = self._engine
        return Diff.of(engine.status() if isinstance(engine, WritableSession) else EngineDiff())

    def get_node_id(self, path: str) -> str:
        """Returns the id of the node at an absolute path; it stays the same when the node is moved.

        Raises:
            NodeNotFoundError: no node is at the path.
            InvalidInputError: the path is not absolute.
        """
        return str(self._engine.node(_checked(path)).id)

    def chunk_type(self, array_path: str, chunk_coordinates: Sequence[int]) -> ChunkType:
        """Tells where a chunk's bytes are; `uninitialized` if there is no such chunk.

        Raises:
            NodeNotFoundError: no node is at the path.
            InvalidInputError: the path is not absolute, or the node is a group.
        """
        index = [checked_integer(each, U32, "a chunk coordinate") for each in chunk_coordinates]
        return ChunkType(int(self._engine.chunk_type(_checked(array_path), index)))

    async def chunk_coordinates(self, array_path: str, batch_size: int = 1000) -> AsyncIterator[tuple[int, ...]]:
        """Yields the index of every chunk of an array.

        Raises:
            NodeNotFoundError: no node is at the path.
            InvalidInputError: the path is not absolute, or the node is a group.
        """
        async for batch in DualIterator(self._engine.chunk_coordinates(_checked(array_path), batch_size)):
            for index in batch.tolist():
                yield tuple(index)

    def all_virtual_chunk_locations(self) -> list[str]:
        """Returns the location of every virtual chunk, one for each chunk, as absolute URLs."""
        return list(self._engine.iter_virtual_chunk_locations())

    # Writing.

    def discard_changes(self) -> None:
        """Forgets all uncommitted changes.

        Raises:
            ReadOnlyError: the session is read-only.
        """
        self._changing().draft.discard()

    def move(self, from_path: str, to_path: str) -> None:
        """Moves a node, with all below it; for rearrange sessions.

        Raises:
            SessionStateError: this is no rearrange session; the target lies below the source; or its parent does not
                exist or is an array.
            NodeNotFoundError: nothing is at `from_path`.
            AlreadyExistsError: something is at `to_path`.
            InvalidInputError: a path is not absolute.
            ReadOnlyError: the session is read-only.
        """
        self._changing().nodes.move(_checked(from_path), _checked(to_path))

    def shift_array(self, array_path: str, chunk_offset: Iterable[int]) -> None:
        """Moves all chunks of an array by as many chunks along each axis, without reading any.

        Chunks that would leave the array are gone (resize it first), and places that no chunk moves to read as the fill
        value.

        Args:
            array_path: The array's absolute path.
            chunk_offset: How far, in chunks, along each axis.

        Raises:
            NodeNotFoundError: no node is at the path.
            InvalidInputError: the path is not absolute, the node is a group, or the offset has not its number of
                dimensions.
            UnsupportedError: the array's chunk grid is not regular.
            ReadOnlyError: the session is read-only.
        """
        offset = [to_integer(step) for step in chunk_offset]
        reindex.shift_array(self._changing(), _checked(array_path), offset)

    def reindex_array(
        self,
        array_path: str,
        forward: Callable[[Iterable[int]], Iterable[int] | None],
        backward: Callable[[Iterable[int]], Iterable[int] | None] | None = None,
    ) -> None:
        """Moves each chunk of an array to where a function says, without reading any.

        Both functions take the index of a chunk as a list, and return another one within the array's grid of chunks.
        Their exceptions come out unchanged.

        Args:
            array_path: The array's absolute path.
            forward: Says where a chunk moves to; None leaves it. Asked only about chunks that exist.
            backward: Says where from a place gets its chunk. A place that nothing moves to becomes empty if this
                returns None, or a place without a chunk; without the function, the chunk that is there stays.

        Raises:
            InvalidInputError: as for `shift_array`, and if a function returns anything but a chunk index of the
                array.
            NodeNotFoundError, UnsupportedError, ReadOnlyError: as for `shift_array`.
        """
        reindex.reindex_array(self._changing(), _checked(array_path), forward, backward)

    def fork(self) -> "ForkSession":
        """Starts a session that writes for this one, in another process.

        A fork can be pickled, with its changes; `merge` brings them back, and this session commits it.

        Raises:
            SessionStateError: the session is read-only (`cannot-fork-read-only-session`).
        """
        return ForkSession(forks.fork(self._engine))

    def merge(self, *others: "Session") -> None:
        """Takes over the changes of forks: of all of them, or where an error is raised, of none.

        Of a chunk that several wrote, the last of them counts.

        Raises:
            SessionStateError: two of them, or one and this session, changed the metadata of a node differently, made
                it, or deleted something that the other changed (`merge-failed`).
            ReadOnlyError: the session is read-only.
        """
        forks.merge(self._engine, [other._engine for other in others])

    def commit(
        self,
        message: str,
        metadata: dict[str, Any] | None = None,
        *,
        rebase_with: ConflictSolver | None = None,
        rebase_tries: int = 1000,
        allow_empty: bool = False,
    ) -> str:
        """Commits the changes to the branch.

        Args:
            message: The commit message.
            metadata: Joined with the repository's default commit metadata.
            rebase_with: Rebase with this solver where the branch has moved, and try again.
            rebase_tries: How often.
            allow_empty: Commit also where nothing changed.

        Returns:
            The id of the new snapshot.

        Raises:
            SessionStateError: nothing changed (`no-changes-to-commit`), or the session was committed already
                (`commit-not-allowed`).
            ConflictError: the branch has moved; the session is as it was, and can be rebased.
            RebaseFailedError: the rebase met conflicts that the solver does not settle.
        """
        check_instance(message, str)
        if rebase_with is not None:
            _check_solver(rebase_with)
        checked_integer(rebase_tries, U16, "rebase_tries")
        return str(
            self._committing().commit(
                message, metadata, rebase_with=rebase_with, rebase_tries=rebase_tries, allow_empty=allow_empty
            )
        )

    def amend(self, message: str, *, metadata: dict[str, Any] | None = None, allow_empty: bool = False) -> str:
        """Replaces the branch's newest commit by one that also has the changes, and returns its id (spec version 2).

        Raises:
            SessionStateError: nothing changed, the session was committed already, or the newest commit is the
                repository's first.
            ConflictError: the branch has moved.
        """
        check_instance(message, str)
        return str(self._committing().amend(message, metadata=metadata, allow_empty=allow_empty))

    def flush(self, message: str, *, metadata: dict[str, Any] | None = None) -> str:
        """Writes the changes as a snapshot that no branch leads to, and returns its id.

        Divergence 39: a session that only reads has nothing to flush.

        Raises:
            SessionStateError: the session was committed already.
        """
        check_instance(message, str)
        return str(self._committing().flush(message, metadata=metadata))

    def rebase(self, solver: ConflictSolver) -> None:
        """Puts the changes on top of the branch's present tip.

        Raises:
            RebaseFailedError: there are conflicts that the solver does not settle; the session stands on the last
                commit without any.
            SessionStateError: the session was committed already.
        """
        _check_solver(solver)
        self._committing().rebase(solver)

    def _changing(self) -> WritableSession:
        if not isinstance(self._engine, WritableSession):
            raise ReadOnlyError("the session is read-only", kind="read-only-session", hint="open a writable session")
        return self._engine

    def _committing(self) -> WritableSession:
        if not isinstance(self._engine, WritableSession) or self._engine.read_only:
            raise SessionStateError(
                "the session is read-only, and has nothing to commit",
                kind="commit-not-allowed",
                hint="open a new writable session",
            )
        return self._engine

    shift_array_async = asynchronous(shift_array)
    reindex_array_async = asynchronous(reindex_array)
    fork_async = asynchronous(fork)
    merge_async = asynchronous(merge)
    discard_changes_async = asynchronous(discard_changes)
    move_async = asynchronous(move)
    commit_async = asynchronous(commit)
    amend_async = asynchronous(amend)
    flush_async = asynchronous(flush)
    rebase_async = asynchronous(rebase)
    chunk_type_async = asynchronous(chunk_type)
    get_node_id_async = asynchronous(get_node_id)
    all_virtual_chunk_locations_async = asynchronous(all_virtual_chunk_locations)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Session):
            return NotImplemented
        return is_same_view(self._engine, other._engine)

    __hash__ = None  # type: ignore[assignment]  # a session changes

    def __repr__(self) -> str:
        text = f"<icefs.{type(self).__name__}>\nread_only: {self.read_only}\nsnapshot_id: {self.snapshot_id}\n"
        if self.read_only:
            return text
        return f"{text}branch: {self.branch}\nhas_uncommitted_changes: {self.has_uncommitted_changes}\n"

    _repr_html_ = as_html

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (session_state(self._engine),)


class ForkSession(Session):
    """A session that writes for another one; see `Session.fork`.

    It is not committed, flushed or rebased itself (`commit-not-allowed`, Divergence 74).
    """


def session_of(engine: EngineSession) -> Session:
    """Wraps the engine's session in the class of its kind."""
    is_fork = isinstance(engine, WritableSession) and engine.draft.is_fork
    return ForkSession(engine) if is_fork else Session(engine)


def _restore(state: tuple[Any, ...]) -> Session:
    return session_of(restore_session(*state))
