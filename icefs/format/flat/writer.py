"""Builds FlatBuffers back to front, for the files that are many small tables: snapshots and the repo info.

The `flatbuffers` package's builder takes 20 µs and more for a table; a snapshot of 10 000 arrays has 60 000, and the
repo info is written at each commit. Here a table is one `struct.pack` (2 µs), because the layout of a kind of table
with a given set of fields is worked out once.

Everything that is added is referred to by its distance from the buffer's end, so that a reference stays valid while
the buffer grows at its front; the end is aligned to 8 bytes. A field is absent where its value is None, and only
there: defaults are written. Strings end in a NUL, which the official readers want in the repo info (format notes
§7.3). A buffer that `FlatBuilder.detach` returns contains no position, and can be spliced into others.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from icefs.errors import InvalidInputError
from icefs.format.flat.wire import IDENTIFIER, MAX_BYTES, align, encode_vtable

OFFSET: Final = "O"
"""The code of a field that refers to a string, a vector or a table; others are those of `struct`."""

_U32: Final = struct.Struct("<I")

type TableCodes = tuple[str, ...]


class _Layout(NamedTuple):
    """How a table with some of its kind's fields looks: `order` is (slot, distance from the table) as packed."""

    pack: struct.Struct
    vtable: bytes
    order: tuple[tuple[int, int], ...]
    offsets: frozenset[int]
    alignment: int


@lru_cache(maxsize=512)
def _layout(codes: TableCodes, present: tuple[bool, ...]) -> _Layout:
    """Lays out a table: its i32, then the fields from the widest to the narrowest, without gaps."""
    slots = [slot for slot, is_present in enumerate(present) if is_present]
    widths = {slot: 4 if codes[slot] == OFFSET else struct.calcsize("<" + codes[slot]) for slot in slots}
    alignments = {slot: 1 if codes[slot].endswith("s") else widths[slot] for slot in slots}
    slots.sort(key=lambda slot: (-alignments[slot], slot))
    at, order = 4, []
    for slot in slots:
        order.append((slot, at))
        at += widths[slot]
    size = align(at, 4)
    formats = ["I" if codes[slot] == OFFSET else codes[slot] for slot in slots]
    return _Layout(
        struct.Struct("<i" + "".join(formats) + f"{size - at}x"),
        encode_vtable(size, dict(order)),
        tuple(order),
        frozenset(slot for slot in slots if codes[slot] == OFFSET),
        8 if any(alignments[slot] == 8 for slot in slots) else 4,
    )


def encode_text(text: str) -> bytes:
    """Encodes text as UTF-8.

    Raises:
        InvalidInputError: it has surrogates, as undecodable file names do.
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(f"{text!r} cannot be written as UTF-8", kind="serialization") from None


def field_offset(codes: TableCodes, present: Sequence[bool], slot: int) -> int:
    """Returns where a present field stands in a table, counted from the table."""
    return dict(_layout(codes, tuple(present)).order)[slot]


class FlatBuilder:
    """One buffer being built.

    Concurrency: used by one thread.
    """

    __slots__ = ("_parts", "_shared", "_size", "_vtables")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._vtables: dict[bytes, int] = {}
        self._shared: dict[str, int] = {}

    def _pad(self, size_bytes: int, alignment: int) -> int:
        """Pads so that a piece of `size_bytes` will begin aligned; returns its distance from the end."""
        end = self._size + size_bytes
        padding = -end % alignment
        if padding:
            self._parts.append(bytes(padding))
            self._size += padding
            end += padding
        if end > MAX_BYTES:
            raise InvalidInputError("a metadata file cannot be larger than 2 GiB", kind="serialization")
        return end

    def _push(self, part: bytes) -> int:
        self._parts.append(part)
        self._size += len(part)
        return self._size

    def vector(self, items: bytes, count: int, *, alignment: int = 4) -> int:
        """Adds a vector of scalars or structs: the items' bytes, aligned to 1, 2, 4 or 8."""
        self._pad(len(items), max(4, alignment))
        return self._push(_U32.pack(count) + items)

    def byte_vector(self, data: bytes) -> int:
        """Adds a vector of bytes."""
        self._pad(4 + len(data), 4)
        return self._push(_U32.pack(len(data)) + data)

    def string(self, text: str) -> int:
        """Adds a string."""
        return self.raw_string(encode_text(text))

    def raw_string(self, raw: bytes) -> int:
        """Adds a string that is UTF-8 already."""
        self._pad(5 + len(raw), 4)
        return self._push(_U32.pack(len(raw)) + raw + b"\0")

    def shared_string(self, text: str) -> int:
        """Adds a string, or refers to the same one added before by this method."""
        found = self._shared.get(text)
        if found is None:
            found = self._shared[text] = self.string(text)
        return found

    def offsets(self, targets: Sequence[int] | npt.NDArray[np.int64]) -> int:
        """Adds a vector of references to tables or strings."""
        count = len(targets)
        end = self._pad(4 + 4 * count, 4)
        if count > 32 or isinstance(targets, np.ndarray):
            where = np.int64(end - 4) - 4 * np.arange(count, dtype=np.int64)
            items = (where - np.asarray(targets, np.int64)).astype("<u4").tobytes()
        else:
            items = struct.pack(f"<{count}I", *(end - 4 - 4 * row - target for row, target in enumerate(targets)))
        return self._push(_U32.pack(count) + items)

    def table(self, codes: TableCodes, values: Sequence[Any]) -> int:
        """Adds a table.

        Args:
            codes: The `struct` code of each slot (`OFFSET` for references, "12s" for structs of bytes).
            values: A number, reference or bytes for each slot; None where the field is absent.
        """
        layout = _layout(codes, tuple([value is not None for value in values]))
        vtable = self._vtables.get(layout.vtable)
        if vtable is None:
            self._pad(len(layout.vtable), 2)
            vtable = self._vtables[layout.vtable] = self._push(layout.vtable)
        size = layout.pack.size
        # The first field, not the table, is what has to be aligned.
        end = self._pad(size - 4, layout.alignment) + 4
        fields = [end - at - values[slot] if slot in layout.offsets else values[slot] for slot, at in layout.order]
        return self._push(layout.pack.pack(vtable - end, *fields))

    def splice(
        self, joined: bytes, sizes: npt.NDArray[np.int64], roots: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Adds detached buffers, all at once.

        Args:
            joined: The buffers that `detach` returned, one after the other: each a multiple of 8 bytes.
            sizes: Their sizes.
            roots: The distance of something in each of them from that buffer's end.

        Returns:
            References to these things.
        """
        self._pad(0, 8)
        # The first buffer stands in front, so it is the farthest from the end.
        ends = self._size + sizes[::-1].cumsum()[::-1] - sizes
        self._pad(len(joined), 8)
        self._push(joined)
        return ends + roots

    def detach(self) -> bytes:
        """Returns the bytes added so far, aligned to 8 bytes at both ends, to be spliced into another buffer."""
        self._pad(0, 8)
        return b"".join(reversed(self._parts))

    def finish(self, root: int) -> bytes:
        """Returns the buffer with the root table `root`."""
        end = self._pad(8, 8)
        self._push(_U32.pack(end - root) + IDENTIFIER)
        return b"".join(reversed(self._parts))
