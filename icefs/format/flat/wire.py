"""The bytes of FlatBuffers that both writers share: identifier, bounds, vtables.

The two writers stay apart because they lay a buffer out in opposite directions. `writer` packs small tables one by one,
back to front, so that finished buffers can be spliced into others; `bulk` computes the positions of a million tables of
one shape first, and then writes them column by column.

Source: FlatBuffers, "Internals"; format notes §7.3.
"""

import struct
from collections.abc import Mapping
from typing import Final

IDENTIFIER: Final = b"Ichk"
"""The file identifier, behind the root offset."""

MAX_BYTES: Final = 2**31 - 1
"""The largest buffer: offsets to vtables are signed."""


def align(position: int, alignment: int) -> int:
    """Rounds up to a multiple of `alignment`, a power of two."""
    return (position + alignment - 1) & -alignment


def encode_vtable(size_bytes: int, offsets: Mapping[int, int]) -> bytes:
    """Encodes a vtable.

    Args:
        size_bytes: The inline size of a table, with its offset to the vtable.
        offsets: By slot, where its present fields stand, in bytes from the table.
    """
    slots = 1 + max(offsets, default=-1)
    return struct.pack(f"<{2 + slots}H", 4 + 2 * slots, size_bytes, *(offsets.get(slot, 0) for slot in range(slots)))
