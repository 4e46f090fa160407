"""Which chunks share an object: neighbours, in order, until an object has its size.

A request costs an object store and the way to it as much as about a megabyte of data. So chunks that are much smaller
travel together: one object holds many, and each reference says where in it its chunk is. Whoever reads neighbours
finds them side by side.

Larger chunks have objects of their own: nothing would be won for them, and an object is kept for as long as any of
its chunks is referred to.
"""

from collections.abc import Iterator, Sequence
from typing import Final

DEFAULT_PACK_BYTES: Final = 8 << 20
_LEAST_CHUNKS: Final = 8


def is_packed(size_bytes: int, pack_bytes: int) -> bool:
    """Tells whether a chunk is small enough to share an object of up to `pack_bytes`; 0 stands for no sharing."""
    return size_bytes * _LEAST_CHUNKS < pack_bytes


def plan_packs(sizes: Sequence[int], pack_bytes: int) -> Iterator[tuple[int, int]]:
    """Divides chunks, in the order given, among objects; yields the half-open range of each.

    Args:
        sizes: The chunks' sizes in bytes, each small enough by `is_packed`.
        pack_bytes: What an object may have.
    """
    start = filled = 0
    for position, size in enumerate(sizes):
        if filled and filled + size > pack_bytes:
            yield start, position
            start, filled = position, 0
        filled += size
    if start < len(sizes):
        yield start, len(sizes)
