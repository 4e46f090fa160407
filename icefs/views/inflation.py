"""Decompression with a limit, for compressors whose output says how much it will be, or can be had bit by bit.

A chunk is not trusted: a few bytes may decompress to gigabytes. A chunk of a known shape cannot need more than that.
"""

import bz2
import contextlib
import lzma
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, Protocol

import numpy as np
import zstandard

# A decompressor copies what follows a stream: no more than this at a time, or many small streams would take for ever.
_PIECE: Final = 1 << 16
# What the dictionary of lzma's highest preset takes, twice.
_MAX_DICTIONARY: Final = 128 << 20

type Inflate = Callable[[memoryview, int, Mapping[str, Any]], bytes | None]
"""Takes the compressed bytes, the limit and the codec's configuration; returns the decompressed bytes, or None if the
codec may go on itself."""


class TooLargeError(ValueError):
    """Something decompresses to more than it can need."""


class _Stream(Protocol):
    """What decompresses one stream, as the standard library has it for zlib, bz2 and lzma."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: memoryview, max_length: int, /) -> bytes: ...


def _check(size: int, limit: int) -> None:
    if size > limit:
        raise TooLargeError(f"decompresses to {size} bytes, and {limit} are the most that it can need")


def _zstd(data: memoryview, limit: int, configuration: Mapping[str, Any]) -> bytes:
    size = zstandard.frame_content_size(bytes(data[:18]))
    if size > 0:
        _check(size, limit)
        with contextlib.suppress(zstandard.ZstdError):  # below, where more frames may follow
            return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
        found = reader.read(limit + 1)
    _check(len(found), limit)
    return found


def _blosc(data: memoryview, limit: int, configuration: Mapping[str, Any]) -> None:
    # Blosc's header: four bytes of versions and flags, then the number of bytes decompressed.
    if len(data) >= 16:
        _check(struct.unpack_from("<I", data, 4)[0], limit)


def _lz4(data: memoryview, limit: int, configuration: Mapping[str, Any]) -> None:
    # numcodecs puts the number of bytes before LZ4's block.
    if len(data) >= 4:
        _check(struct.unpack_from("<I", data)[0], limit)


def _deflate(data: memoryview, limit: int, configuration: Mapping[str, Any]) -> bytes:
    """Decompresses members of gzip, or one zlib stream."""
    return _streams(data, limit, lambda: zlib.decompressobj(zlib.MAX_WBITS | 32), is_padded=True)  # either header


def _bz2(data: memoryview, limit: int, configuration: Mapping[str, Any]) -> bytes:
    return _streams(data, limit, bz2.BZ2Decompressor, OSError)


def _lzma(data: memoryview, limit: int, configuration: Mapping[str, Any]) -> bytes:
    form, filters = configuration.get("format", lzma.FORMAT_XZ), configuration.get("filters")
    memory = _MAX_DICTIONARY + limit
    if form == lzma.FORMAT_RAW:  # takes no limit of memory, and has its filters from the configuration
        _check_dictionaries(filters or (), memory)
        return _streams(data, limit, partial(lzma.LZMADecompressor, form, None, filters), lzma.LZMAError)
    return _streams(data, limit, partial(lzma.LZMADecompressor, form, memory, filters), lzma.LZMAError)


def _check_dictionaries(filters: Iterable[Mapping[str, Any]], limit: int) -> None:
    for one in filters:
        if int(one.get("dict_size") or 0) > limit:
            raise TooLargeError(f"wants a dictionary of {one['dict_size']} bytes, and {limit} are the most")


def _streams(
    data: memoryview,
    limit: int,
    begin: Callable[[], _Stream],
    ends_at: type[Exception] | None = None,
    *,
    is_padded: bool = False,
) -> bytes:
    """Decompresses streams one after the other.

    Args:
        data: The compressed bytes.
        limit: The most bytes to make of them.
        begin: Makes what decompresses a stream.
        ends_at: The error at which bytes after the first stream are none, and are ignored as in the standard library.
        is_padded: Whether zeros may be between streams.

    Raises:
        TooLargeError: they become more than the limit.
        ValueError: they end within a stream; other errors are the library's.
    """
    found, whole, at = bytearray(), 0, 0
    stream, has_ended = None, False
    while at < len(data):
        if stream is None:
            if is_padded and not data[at]:
                at += 1
                continue
            stream = begin()
        piece = data[at : at + _PIECE]
        try:
            found += stream.decompress(piece, limit + 1 - len(found))
        except Exception as error:
            if has_ended and ends_at is not None and isinstance(error, ends_at):
                return bytes(found[:whole])
            raise
        _check(len(found), limit)
        at += len(piece) - len(stream.unused_data)
        if stream.eof:
            stream, has_ended, whole = None, True, len(found)
    if stream is not None:
        raise ValueError("the compressed bytes end early")
    return bytes(found)


def inflate_pcodec(data: memoryview, into: np.ndarray) -> None:
    """Decompresses numbers into a contiguous array, which they have to fill.

    The number of elements in pcodec's header is a hint, and no limit: the array is one.

    Raises:
        TooLargeError: there are more of them.
        ValueError: there are fewer; pcodec raises other errors where the bytes are damaged or of another data type.
    """
    from pcodec import standalone

    progress = standalone.simple_decompress_into(bytes(data), into.reshape(-1))
    if progress.n_processed != into.size:
        raise ValueError(f"it has {progress.n_processed} elements, and not {into.size}")
    if not progress.finished:
        raise TooLargeError(f"decompresses to more than {into.size} elements, which are the most that it can need")


INFLATE: Final[Mapping[str, Inflate]] = {
    "zstd": _zstd,
    "numcodecs.zstd": _zstd,
    "blosc": _blosc,
    "numcodecs.blosc": _blosc,
    "numcodecs.lz4": _lz4,
    "gzip": _deflate,
    "numcodecs.gzip": _deflate,
    "numcodecs.zlib": _deflate,
    "numcodecs.bz2": _bz2,
    "numcodecs.lzma": _lzma,
}
"""By the name of the codec in a `zarr.json`."""
