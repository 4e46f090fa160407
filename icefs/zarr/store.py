"""The Zarr store of a session, for zarr-python.

Reading is the engine's, which is synchronous. Values in memory (metadata, inline chunks and missing ones of
manifests that are loaded) are answered at once on the event loop; everything else runs on the repository's workers,
so that zarr-python's concurrent requests run side by side. The `*_sync` methods, which newer versions of
zarr-python look for, skip the event loop altogether.

Writing changes the session, in memory and at once; only the bytes of chunks that are not inline are stored first, on
the repository's workers. While the session is committed, writers wait, on threads that are not the repository's: the
commit needs those.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, override

import numpy as np
import zarr.abc.store
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, default_buffer_prototype

from icefs.engine.read.session import Session
from icefs.engine.write.pickling import is_same_view, restore_session, session_state
from icefs.engine.write.session import WritableSession
from icefs.errors import ReadOnlyError
from icefs.format.manifest.refs import InlineRef
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.paths import TreePath
from icefs.zarr.keys import parse_metadata_key
from icefs.zarr.reader import ByteRange, KeyReader
from icefs.zarr.writer import KeyWriter, MetadataTarget

if TYPE_CHECKING:
    from zarr.core.buffer import BufferPrototype


class ReadOnlyStoreError(ReadOnlyError, ValueError):
    """A write through a store that only reads; a `ValueError` too, which zarr-python's own stores raise."""

    default_kind = "read-only-store"


def _byte_range(request: ByteRequest | None) -> ByteRange | None:
    match request:
        case None:
            return None
        case RangeByteRequest(start, end):
            return ByteRange(start, end)
        case OffsetByteRequest(offset):
            return ByteRange(offset, None)
        case SuffixByteRequest(suffix):
            # The last no bytes: the negative zero that a start cannot be.
            return ByteRange(-suffix, None) if suffix else ByteRange(0, 0)
    raise ValueError(f"Unexpected byte_range, got {request!r}")


def _bytes(value: Buffer) -> bytes | memoryview:
    """Returns a value's bytes, without copying them where they are in one piece.

    Raises:
        TypeError: it is no buffer.
    """
    if not isinstance(value, Buffer):
        raise TypeError(f"a value is a zarr Buffer, not {type(value).__name__}")
    return memoryview(np.ascontiguousarray(value.as_numpy_array())).cast("B") if len(value) else b""


def _restore(cls: "type[IcechunkStore]", state: tuple[Any, ...], read_only: bool) -> "IcechunkStore":
    return cls(restore_session(*state), read_only)


class IcechunkStore(zarr.abc.store.Store):
    """A session as a zarr-python store; `Session.store` makes it.

    Two stores are equal if they read the same snapshot of the same repository and neither writes, or if they share a
    session.
    """

    def __init__(self, session: Session, read_only: bool | None = None) -> None:
        super().__init__(read_only=session.read_only or bool(read_only))
        self._session = session
        self._reader = KeyReader(session)
        self._writer = KeyWriter(session, self._reader) if isinstance(session, WritableSession) else None

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IcechunkStore):
            return NotImplemented
        return self.read_only == other.read_only and is_same_view(self._session, other._session)

    __hash__ = None  # type: ignore[assignment]  # as of zarr-python's own stores

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), session_state(self._session), self.read_only)

    def __repr__(self) -> str:
        return (
            f"<icefs.IcechunkStore>\nread_only: {self.read_only}\n"
            f"snapshot_id: {self._session.snapshot_id}\nbranch: {None if self.read_only else self._session.branch}\n"
        )

    @override
    def with_read_only(self, read_only: bool = False) -> Self:
        """Returns a store of the same session that may write only if asked to and if the session may."""
        return type(self)(self._session, read_only)

    # Reading.

    @override
    async def get(self, key: str, prototype: "BufferPrototype", byte_range: ByteRequest | None = None) -> Buffer | None:
        """Returns the bytes of a key's value, or a range of them; None if the key is missing.

        A range that ends behind the value's end is cut there, a suffix longer than the value is all of it.

        Raises:
            InvalidInputError: no Zarr hierarchy has such a key, or the range starts behind the value's end.
        """
        wanted = _byte_range(byte_range)
        located = self._reader.locate(key)
        if located is None:
            return None
        if isinstance(located, NodeSnapshot):
            return prototype.buffer.from_bytes(self._reader.read_found(located, key, wanted))
        opened, index = located
        if opened.is_loaded(index):
            ref = opened.chunks.find(index)
            if ref is None:
                return None
            if isinstance(ref, InlineRef):
                return prototype.buffer.from_bytes(self._reader.read_found(ref, key, wanted))
        data = await self._run(self._reader.read, key, wanted)
        return None if data is None else prototype.buffer.from_bytes(data)

    @override
    async def get_partial_values(
        self, prototype: "BufferPrototype", key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Returns what `get` does for each key and range, reading side by side."""
        most = self._session.config.get_partial_values_concurrency
        turns = None if most is None else asyncio.Semaphore(max(1, most))

        async def get(key: str, byte_range: ByteRequest | None) -> Buffer | None:
            async with turns or nullcontext():
                return await self.get(key, prototype, byte_range)

        return await asyncio.gather(*(get(key, byte_range) for key, byte_range in key_ranges))

    def get_sync(
        self, key: str, *, prototype: "BufferPrototype | None" = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Returns what `get` does, on the calling thread."""
        data = self._reader.read(key, _byte_range(byte_range))
        return None if data is None else (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    @override
    async def exists(self, key: str) -> bool:
        """Tells whether a key exists.

        Raises:
            InvalidInputError: no Zarr hierarchy has such a key.
        """
        return await self._run(self._reader.exists, key)

    @override
    async def getsize(self, key: str) -> int:
        """Returns the length of a key's value in bytes, without reading it.

        Raises:
            KeyMissingError: the key is missing; it is a KeyError and a FileNotFoundError.
            InvalidInputError: no Zarr hierarchy has such a key.
        """
        return await self._run(self._reader.size, key)

    @override
    async def getsize_prefix(self, prefix: str) -> int:
        """Returns the length in bytes of all values below a directory, without reading them."""
        return await self._run(self._reader.size_below, prefix)

    @override
    async def is_empty(self, prefix: str) -> bool:
        """Tells whether no key lies below a directory."""
        return await self._run(self._reader.is_empty, prefix)

    # Listing.

    @property
    @override
    def supports_listing(self) -> bool:
        return True

    @override
    def list(self) -> AsyncIterator[str]:
        """Yields all keys, in no promised order."""
        return self.list_prefix("")

    @override
    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yields all keys below a directory, in no promised order; none if it does not exist."""
        batches = self._reader.list_batches(prefix)
        while (batch := await self._run(next, batches, None)) is not None:
            for key in batch:
                yield key

    @override
    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yields the names of the files and directories in a directory, in no promised order."""
        for name in await self._run(self._reader.list_directory, prefix):
            yield name

    # Writing.

    @property
    @override
    def supports_writes(self) -> bool:
        return True

    @property
    @override
    def supports_deletes(self) -> bool:
        return True

    @property
    @override
    def supports_partial_writes(self) -> Literal[False]:
        return False

    @property
    @override
    def supports_consolidated_metadata(self) -> bool:
        return False

    @override
    def _check_writable(self) -> None:
        self._checked_writer()

    def _checked_writer(self, kind: str = "read-only-store") -> KeyWriter:
        """Returns what writes; `kind` is the error's, where deleting has another than setting.

        Raises:
            ReadOnlyStoreError: the store, or by now the session, only reads.
        """
        if self.read_only or self._writer is None or self._session.read_only:
            self._refuse(kind)
        return self._writer

    def _refuse(self, kind: str) -> NoReturn:
        raise ReadOnlyStoreError(
            "store was opened in read-only mode and does not support writing",
            kind=kind,
            hint="write in a writable session",
        )

    @override
    async def set(self, key: str, value: Buffer) -> None:
        """Sets a node's metadata or a chunk; the bytes are kept as they are.

        Nodes need no parents, and make none. Chunks need their array.

        Raises:
            InvalidInputError: no Zarr hierarchy, or not the array, has such a key; the metadata is invalid; or the
                chunk is empty.
            NodeNotFoundError: there is no array that the chunk could belong to.
            AlreadyExistsError: an array would replace a group, or the reverse.
            ReadOnlyError, SessionStateError: the store, or the session, does not write such things.
            StorageError: the chunk cannot be stored.
        """
        await self._set(key, value, overwrite=True)

    @override
    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Does what `set` does where the key does not exist, and nothing where it does; others cannot come between.

        Divergence 34: a store that only reads refuses it, also for a key that exists.
        """
        self._check_writable()
        if await self._run(self._reader.exists, key):
            return
        await self._set(key, value, overwrite=False)

    async def _set(self, key: str, value: Buffer, *, overwrite: bool) -> None:
        writer, session, data = self._checked_writer(), self._writable, _bytes(value)
        target = writer.target(key)
        if isinstance(target, MetadataTarget):
            await self._change(session.nodes.put, target.path, bytes(data), overwrite=overwrite)
            return
        # Nothing is stored for a chunk that is refused, and nothing is referred to that is not stored.
        session.chunks.check(target.path, target.index, len(data))
        if len(data) <= session.context.inline_threshold_bytes:
            ref = session.chunks.store(data)
        else:
            ref = await self._run(session.chunks.store, data)
        await self._change(session.chunks.set_ref, target.path, target.index, ref, overwrite=overwrite)

    @override
    async def _set_many(self, values: Iterable[tuple[str, Buffer]]) -> None:
        """Sets many keys, first all metadata in their order, then the chunks side by side."""
        chunks = []
        for key, value in values:
            if parse_metadata_key(TreePath(key)) is None:
                chunks.append((key, value))
            else:
                await self.set(key, value)
        await asyncio.gather(*(self.set(key, value) for key, value in chunks))

    @override
    async def delete(self, key: str) -> None:
        """Deletes a chunk, or with a node's metadata the node and all below it; nothing where there is none.

        Raises:
            InvalidInputError: no Zarr hierarchy has such a key.
            ReadOnlyError, SessionStateError: the store, or the session, does not write such things.
        """
        await self._change(self._checked_writer("read-only-session").delete, key)

    @override
    async def delete_dir(self, prefix: str) -> None:
        """Deletes all nodes and chunks whose keys lie below a directory; raises as `delete`."""
        await asyncio.to_thread(self._checked_writer().delete_directory, prefix)

    @override
    async def clear(self) -> None:
        """Deletes everything."""
        await asyncio.to_thread(self._checked_writer("read-only-session").delete_directory, "")

    # zarr-python takes either all of these and get_sync, or none.

    def set_sync(self, key: str, value: Buffer) -> None:
        """Does what `set` does, on the calling thread."""
        writer, session, data = self._checked_writer(), self._writable, _bytes(value)
        target = writer.target(key)
        if isinstance(target, MetadataTarget):
            session.nodes.put(target.path, bytes(data))
        else:
            session.chunks.set(target.path, target.index, data)

    def delete_sync(self, key: str) -> None:
        """Does what `delete` does, on the calling thread."""
        self._checked_writer("read-only-session").delete(key)

    @property
    def _writable(self) -> WritableSession:
        assert isinstance(self._session, WritableSession)
        return self._session

    async def _change[**P](self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Changes the session: at once, or on a thread that can wait where it is being committed."""
        if self._writable.draft.gate.is_frozen:
            await asyncio.to_thread(function, *args, **kwargs)
        else:
            function(*args, **kwargs)

    async def _run[**P, R](self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs something that may do I/O on the repository's workers."""
        return await asyncio.wrap_future(self._session.context.assets.workers.submit(function, *args, **kwargs))
