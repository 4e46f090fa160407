"""Decompression with a limit, for compressors whose output says how much it will be, or can be had bit by bit.

A chunk is not trusted: a few bytes may decompress to gigabytes. A chunk of a known shape cannot need more than that.
"""

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Final

import zstandard

# zlib copies what follows a member: no more than this at a time, or many small members would take for ever.
_PIECE: Final = 1 << 16

type Inflate = Callable[[memoryview, int], bytes | None]
"""Takes the compressed bytes and the limit; returns the decompressed bytes, or None if the codec may go on itself."""


class TooLargeError(ValueError):
    """Something decompresses to more than it can need."""


def _check(size: int, limit: int) -> None:
    if size > limit:
        raise TooLargeError(f"decompresses to {size} bytes, and {limit} are the most that it can need")


def _zstd(data: memoryview, limit: int) -> bytes | None:
    size = zstandard.frame_content_size(bytes(data[:18]))
    if size >= 0:
        _check(size, limit)
        return None
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
        found = reader.read(limit + 1)
    _check(len(found), limit)
    return found


def _blosc(data: memoryview, limit: int) -> None:
    # Blosc's header: four bytes of versions and flags, then the number of bytes decompressed.
    if len(data) >= 16:
        _check(struct.unpack_from("<I", data, 4)[0], limit)


def _lz4(data: memoryview, limit: int) -> None:
    # numcodecs puts the number of bytes before LZ4's block.
    if len(data) >= 4:
        _check(struct.unpack_from("<I", data)[0], limit)


def _deflate(data: memoryview, limit: int) -> bytes:
    """Decompresses members of gzip, or one zlib stream."""
    found, at = bytearray(), 0
    stream = None
    while at < len(data):
        if stream is None:
            if not data[at]:  # padding between members
                at += 1
                continue
            stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # either header
        piece = data[at : at + _PIECE]
        found += stream.decompress(piece, limit + 1 - len(found))
        _check(len(found), limit)
        at += len(piece) - len(stream.unused_data)
        if stream.eof:
            stream = None
    if stream is not None:
        raise ValueError("the compressed bytes end early")
    return bytes(found)


INFLATE: Final[Mapping[str, Inflate]] = {
    "zstd": _zstd,
    "numcodecs.zstd": _zstd,
    "blosc": _blosc,
    "numcodecs.blosc": _blosc,
    "numcodecs.lz4": _lz4,
    "gzip": _deflate,
    "numcodecs.gzip": _deflate,
    "numcodecs.zlib": _deflate,
}
"""By the name of the codec in a `zarr.json`."""
