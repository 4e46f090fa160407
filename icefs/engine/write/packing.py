"""Which chunks share an object: neighbours, in order, until an object has its size.

A request costs an object store and the way to it as much as about a megabyte of data. So chunks that are much smaller
travel together: one object holds many, and each reference says where in it its chunk is. Readers of neighbours find
them side by side.

Larger chunks have objects of their own: they would win nothing, and an object is kept for as long as any of
its chunks is referred to. On a disk a chunk is large sooner: to link a file costs as much as to copy 64 KiB (50 us).
Below that both cost the same, and a repository with a thousandth of the files is quicker to copy, list and collect.
"""

from collections.abc import Iterator, Sequence
from typing import Final

DEFAULT_PACK_BYTES: Final = 8 << 20
_LEAST_CHUNKS: Final = 8
_LINKED_BYTES: Final = 64 << 10


def packed_below(pack_bytes: int, *, is_local: bool) -> int:
    """Returns the size from which on a chunk has an object of its own.

    Args:
        pack_bytes: How large an object may become that chunks share; 0 for no sharing.
        is_local: Whether a file can become an object by a link.
    """
    least = -(-pack_bytes // _LEAST_CHUNKS)
    return min(least, _LINKED_BYTES) if is_local else least


def plan_packs(sizes: Sequence[int], pack_bytes: int) -> Iterator[tuple[int, int]]:
    """Divides chunks, in the order given, among objects; yields the half-open range of each.

    Args:
        sizes: The chunks' sizes in bytes, each below `packed_below`.
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
