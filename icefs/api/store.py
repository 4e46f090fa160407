"""The Zarr store under its official name, with an API session, and with virtual chunks."""

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from icefs.api.aio import DualIterator, asynchronous
from icefs.api.notebook import as_html
from icefs.api.values import ChunkType, VirtualChunkSpec
from icefs.arguments import U64, checked_integer
from icefs.engine.read.chunks import ArrayChunks
from icefs.engine.write.edited_chunks import EditedChunks
from icefs.errors import InvalidInputError, SessionStateError
from icefs.format.ids import ChunkId
from icefs.format.manifest.refs import InlineRef, VirtualRef
from icefs.paths import NodePath
from icefs.zarr import store
from icefs.zarr.virtual_refs import set_virtual_columns
from icefs.zarr.writer import ChunkTarget

if TYPE_CHECKING:
    from icefs.api.session import Session

type ChunkColumns = tuple[
    npt.NDArray[np.uint32], npt.NDArray[np.uint8], list[str], npt.NDArray[np.uint64], npt.NDArray[np.uint64],
    dict[int, bytes],
]  # fmt: skip
"""The values that `IcechunkStore.array_chunk_iterator` yields."""


class IcechunkStore(store.IcechunkStore):
    """A session as a zarr-python store; `Session.store` makes it."""

    _repr_html_ = as_html

    @property
    def session(self) -> "Session":
        """The session that the store reads and writes."""
        from icefs.api.session import session_of  # the session makes stores, too

        return session_of(self._session)

    def sync_clear(self) -> None:
        """Deletes everything."""
        self._checked_writer("read-only-session").delete_directory("")

    def array_chunk_iterator(self, array_path: str, batch_size: int = 100_000) -> AsyncIterator[ChunkColumns]:
        """Yields the references to all chunks of an array, as columns, for `async for`.

        Args:
            array_path: The array's path, with or without the slash at its start.
            batch_size: The most rows of a batch.

        Yields:
            The chunks' indices (uint32, one row each); their `ChunkType`s (uint8); for each its URL, the id of its
            chunk object, or nothing if it is inline; offsets and lengths (uint64); and the bytes of inline chunks by
            their row in the batch.

        Raises:
            NodeNotFoundError, InvalidInputError: no array is at the path (Divergence 75); when the iterator is made.
        """
        return DualIterator(self._batches(self._session.array_chunks(_absolute(array_path)), batch_size))

    def _batches(self, chunks: "ArrayChunks | EditedChunks", batch_size: int) -> Iterator[ChunkColumns]:
        expand = self._session.context.virtual.expand
        for batch in chunks.iter_batches(batch_size):
            places = [""] * len(batch)
            kinds = batch.kinds
            for row in np.flatnonzero(kinds == ChunkType.native).tolist():
                places[row] = str(ChunkId(batch.refs.chunk_ids[batch.start + row].tobytes()))
            inlined: dict[int, bytes] = {}
            for row in np.flatnonzero(kinds != ChunkType.native).tolist():
                ref = batch.ref(row)
                if isinstance(ref, VirtualRef):
                    places[row] = expand(ref.location)
                elif isinstance(ref, InlineRef):
                    inlined[row] = ref.data
            yield batch.indices(), kinds, places, batch.offsets, batch.lengths, inlined

    def set_virtual_ref(
        self,
        key: str,
        location: str,
        *,
        offset: int,
        length: int,
        checksum: str | datetime | None = None,
        validate_container: bool = True,
    ) -> None:
        """Makes a chunk refer to bytes of another object.

        Args:
            key: The chunk's.
            location: The object's URL; `vcc://name/...` is relative to a named container.
            offset: Where the chunk begins in the object.
            length: How long it is.
            checksum: The object's entity tag, or a time after which it was not modified.
            validate_container: Refuse locations that no virtual chunk container of the configuration holds.

        Raises:
            InvalidInputError: the key or location is not valid, or no container holds it
                (`no-container-for-virtual-chunk`).
            NodeNotFoundError, ReadOnlyError: as for other chunks.
            SessionStateError: it is the key of metadata, or the session moves nodes.
        """
        offset, length = checked_integer(offset, U64, "offset"), checked_integer(length, U64, "length")
        target = self._checked_writer().target(key)
        if not isinstance(target, ChunkTarget):
            raise SessionStateError(
                f"{key} is metadata, which cannot be virtual",
                hint="write its bytes with set()",
                kind="not-allowed",
                key=key,
                method=".set",
            )
        refused = set_virtual_columns(
            self._writable,
            target.path,
            [np.array([position], np.int64) for position in target.index],
            [location],
            [offset],
            [length],
            checksums=[checksum],
            validate_containers=validate_container,
        )
        if refused:
            raise InvalidInputError(
                f"no virtual chunk container of the configuration holds {location}",
                kind="no-container-for-virtual-chunk",
                hint="add a container to the configuration and save it",
                location=location,
            )

    def set_virtual_refs(
        self, array_path: str, chunks: Sequence[VirtualChunkSpec], *, validate_containers: bool = True
    ) -> list[tuple[int, ...]] | None:
        """Makes many chunks of one array refer to bytes of other objects.

        Args:
            array_path: The array's path, with or without the slash at its start.
            chunks: The chunks.
            validate_containers: Leave out locations that no virtual chunk container of the configuration holds.

        Returns:
            The indices of the chunks that were left out; None if there are none.

        Raises:
            InvalidInputError, NodeNotFoundError, ReadOnlyError, SessionStateError: as `set_virtual_ref`; nothing is
                set then.
        """
        self._checked_writer()
        if len({len(chunk.index) for chunk in chunks}) > 1:
            raise InvalidInputError(
                "the chunk indices differ in length",
                hint="give each an index per dimension of the array",
                kind="invalid-chunk-index",
            )
        refused = set_virtual_columns(
            self._writable,
            _absolute(array_path),
            [np.array(column, np.int64) for column in zip(*(chunk.index for chunk in chunks), strict=True)],
            [chunk.location for chunk in chunks],
            [chunk.offset for chunk in chunks],
            [chunk.length for chunk in chunks],
            checksums=[
                chunk.last_updated_at_checksum if chunk.etag_checksum is None else chunk.etag_checksum
                for chunk in chunks
            ],
            validate_containers=validate_containers,
        )
        return refused or None

    def set_virtual_refs_arr(
        self,
        array_path: str,
        chunk_grid_shape: Sequence[int],
        locations: Sequence[str],
        offsets: npt.NDArray[np.uint64],
        lengths: npt.NDArray[np.uint64],
        *,
        validate_containers: bool = True,
        arr_offset: Sequence[int] | None = None,
        checksum: str | datetime | None = None,
    ) -> list[tuple[int, ...]] | None:
        """Makes a box of chunks of one array refer to bytes of other objects.

        Args:
            array_path: The array's path, with or without the slash at its start.
            chunk_grid_shape: The box's shape, in chunks.
            locations: The objects' URLs, in C order; an empty one leaves its chunk as it is.
            offsets: Where the chunks begin.
            lengths: How long they are.
            validate_containers: Leave out locations that no virtual chunk container of the configuration holds.
            arr_offset: The index of the box's first chunk.
            checksum: Of all the objects.

        Returns:
            The indices of the chunks that were left out; None if there are none.

        Raises:
            ValueError: the arguments do not fit together.
            InvalidInputError, NodeNotFoundError, ReadOnlyError, SessionStateError: as `set_virtual_ref`; nothing is
                set then.
        """
        self._checked_writer()
        shape, first = tuple(chunk_grid_shape), tuple(arr_offset or (0,) * len(chunk_grid_shape))
        if len(first) != len(shape):
            raise ValueError(f"arr_offset length ({len(first)}) != chunk_grid_shape length ({len(shape)})")
        if not len(locations) == len(offsets) == len(lengths) == prod(shape):
            raise ValueError("locations, offsets, lengths and chunk_grid_shape must have the same length")
        rows = np.array([row for row, location in enumerate(locations) if location], np.int64)
        coords = np.unravel_index(rows, shape) if shape else ()
        refused = set_virtual_columns(
            self._writable,
            _absolute(array_path),
            [column.astype(np.int64) + start for column, start in zip(coords, first, strict=True)],
            [locations[row] for row in rows.tolist()],
            np.asarray(offsets)[rows],
            np.asarray(lengths)[rows],
            checksums=[checksum] * len(rows),
            validate_containers=validate_containers,
        )
        return refused or None

    set_virtual_ref_async = asynchronous(set_virtual_ref)
    set_virtual_refs_async = asynchronous(set_virtual_refs)
    set_virtual_refs_arr_async = asynchronous(set_virtual_refs_arr)


def _absolute(path: str) -> NodePath:
    return NodePath(f"/{path.strip('/')}")
