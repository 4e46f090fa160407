"""Writes FlatBuffers front to back: a million tables of one shape as one structured array.

The `flatbuffers` package builds one table at a time, in Python, which takes minutes for a large manifest. This writer
computes the positions of everything first, and then writes whole columns. The result passes the strict verifier
of the official reader: scalars are aligned to their size, offsets point forward, strings end in a NUL, vtables lie
inside the buffer (tables of one shape share one, which stands before them).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from icefs.errors import InvalidInputError
from icefs.format.flat.columns import ByteColumn, place_rows
from icefs.format.flat.wire import IDENTIFIER, MAX_BYTES, align, encode_vtable

type ByteArray = npt.NDArray[np.uint8]
type Int64Array = npt.NDArray[np.int64]

_HEADER_BYTES = 8


class TableShape:
    """The inline fields of a table, and where they stand.

    Attributes:
        size_bytes: The inline size, with the offset to the vtable, padded to four bytes.
        offsets: Where each slot's field stands.
        vtable: The vtable's bytes.
    """

    __slots__ = ("_fields", "offsets", "size_bytes", "vtable")

    def __init__(self, fields: Sequence[tuple[int, str]]) -> None:
        """Takes slots and numpy formats, in the order that they shall stand in: scalars, offsets (`<u4`), structs."""
        self._fields: list[tuple[str, str, int]] = []
        self.offsets: dict[int, int] = {}
        end = 4
        for slot, form in fields:
            kind = np.dtype(form)
            start = align(end, 1 if kind.kind == "V" else kind.itemsize)
            self.offsets[slot] = start
            self._fields.append((str(slot), form, start))
            end = start + kind.itemsize
        self.size_bytes = align(end, 4)
        self.vtable = encode_vtable(self.size_bytes, self.offsets)

    def records(self, positions: Int64Array, vtable: int, index_ndim: int | None = None) -> npt.NDArray[np.void]:
        """Makes records for tables at `positions`; field i is called `str(i)`, and is still zero.

        Args:
            positions: Where the tables will stand.
            vtable: Where their vtable stands.
            index_ndim: A vector of so many uint32 follows each table, with its count set; its items are `index`.
        """
        fields = [("vtable", "<i4", 0), *self._fields]
        size_bytes = self.size_bytes
        if index_ndim is not None:
            fields.append(("count", "<u4", size_bytes))
            if index_ndim:
                fields.append(("index", f"({index_ndim},)<u4", size_bytes + 4))
            size_bytes += 4 + 4 * index_ndim
        names, formats, offsets = zip(*fields, strict=True)
        dtype = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size_bytes})
        records = np.zeros(len(positions), dtype)
        records["vtable"] = positions - vtable
        if index_ndim is not None:
            records["count"] = index_ndim
        return records


class BodyPlan:
    """Hands out places in a buffer, front to back, and keeps small pieces until the buffer is made."""

    __slots__ = ("_pieces", "size_bytes")

    def __init__(self) -> None:
        self.size_bytes = _HEADER_BYTES
        self._pieces: list[tuple[int, bytes]] = []

    def reserve(self, size_bytes: int, alignment: int) -> int:
        """Returns the place for `size_bytes` more."""
        position = align(self.size_bytes, alignment)
        self.size_bytes = position + size_bytes
        return position

    def put(self, piece: bytes, alignment: int) -> int:
        """Returns the place of a piece whose bytes are known."""
        position = self.reserve(len(piece), alignment)
        self._pieces.append((position, piece))
        return position

    def build(self, root: int) -> ByteArray:
        """Makes the buffer: zeros, the pieces, and the header that refers to the root table.

        Raises:
            InvalidInputError: a FlatBuffer cannot hold so much.
        """
        if self.size_bytes > MAX_BYTES:
            raise InvalidInputError(
                f"a file of {self.size_bytes} bytes is larger than a FlatBuffer can be; split it", kind="invalid-input"
            )
        out = np.zeros(align(self.size_bytes, 8), np.uint8)
        for position, piece in ((0, root.to_bytes(4, "little") + IDENTIFIER), *self._pieces):
            out[position : position + len(piece)] = np.frombuffer(piece, np.uint8)
        return out


def align_all(sizes: Int64Array, alignment: int) -> Int64Array:
    """Rounds up to multiples of `alignment`, a power of two."""
    return (sizes + (alignment - 1)) & -alignment


def put_offsets(out: ByteArray, position: int, targets: Int64Array) -> None:
    """Writes a vector of offsets to `targets` at `position`; it takes 4 + 4 n bytes."""
    count = len(targets)
    out[position : position + 4].view("<u4")[0] = count
    entries = position + 4 + 4 * np.arange(count, dtype=np.int64)
    out[position + 4 : position + 4 + 4 * count].view("<u4")[:] = targets - entries


def put_vectors(out: ByteArray, positions: Int64Array, items: ByteColumn) -> None:
    """Writes byte vectors at `positions` (which are aligned); a string's NUL is there already, as all else is 0."""
    place_rows(out, positions, items.lengths.astype("<u4"))
    items.place(out, positions + 4)


def padded_sizes(items: ByteColumn, nul: int = 0) -> Int64Array:
    """Returns the sizes of byte vectors with their counts, padded so that the next one is aligned.

    Args:
        items: The vectors' bytes.
        nul: 1 for strings, which end in a NUL that is not counted.
    """
    return align_all(items.lengths + 4 + nul, 4)
