"""An entry of the disk cache: a file that is checked when it is read.

    8  magic                16  digest of the key      8 for each block: its checksum
    8  length                8  checksum of the header  then the bytes

A file's length says how many bytes it holds, so that nothing is read before they are wanted: an entry of one block
takes one read, its header with it.
"""

import hashlib
import os
import struct
import zlib
from collections.abc import Callable
from typing import Final

import numpy as np

BLOCK_BYTES: Final = 128 << 10
"""The number of bytes that a checksum covers."""

_MAGIC: Final = b"icefsC\0\1"
_HEADER: Final = struct.Struct("<8sQ16s8s")
_SUM_BYTES: Final = 8
_ROW_WORDS: Final = 64


class DamagedEntryError(Exception):
    """An entry is damaged; the readers of the cache handle it."""


class CachedFile:
    """An entry, open for reading; whatever is read of it is checked.

    Attributes:
        size: How many bytes it holds.
    """

    __slots__ = ("_digest", "_drop", "_fd", "_head_bytes", "_nowait", "_sums", "size")

    def __init__(self, digest: bytes, fd: int, size: int, drop: Callable[[bytes], None]) -> None:
        """Takes over a file descriptor.

        Args:
            digest: The name of the entry.
            fd: The file, which is as long as an entry of `size` bytes is.
            size: How many bytes the entry holds.
            drop: Gets the digest of an entry that turns out to be damaged.
        """
        self._digest = digest
        self._drop = drop
        self._fd = fd
        self._head_bytes = _head_bytes(size)
        self._sums: bytes | None = None
        self._nowait = True
        self.size = size

    def read(self, offset: int, size: int, *, nowait: bool = False) -> bytearray | memoryview | None:
        """Reads a range that ends at the entry's end at the latest.

        Returns:
            None where `nowait` is asked for and the disk would have to be waited for.

        Raises:
            DamagedEntryError: the entry is damaged; it has been dropped.
        """
        if nowait and not self._nowait:
            return None
        first, last = offset // BLOCK_BYTES, -(-(offset + size) // BLOCK_BYTES)
        if self._sums is not None or self.size > BLOCK_BYTES:
            start, data = first * BLOCK_BYTES, self._read_blocks(first, last, nowait=nowait)
        else:
            start, data = 0, self._read_all(nowait=nowait)
        if data is None or (start == offset and len(data) == size):
            return data
        return memoryview(data)[offset - start : offset - start + size]

    def _read_all(self, *, nowait: bool) -> bytearray | None:
        """Reads header and bytes at once."""
        head, data = bytearray(self._head_bytes), bytearray(self.size)
        if not self._fill([head, data], 0, nowait=nowait):
            return None
        self._sums = self._check_head(head)
        if checksums(data) != self._sums:
            raise self._damaged()
        return data

    def _read_blocks(self, first: int, last: int, *, nowait: bool) -> bytearray | None:
        sums = self._sums
        if sums is None:
            head = bytearray(self._head_bytes)
            if not self._fill([head], 0, nowait=nowait):
                return None
            sums = self._sums = self._check_head(head)
        start = first * BLOCK_BYTES
        data = bytearray(min(last * BLOCK_BYTES, self.size) - start)
        if not self._fill([data], self._head_bytes + start, nowait=nowait):
            return None
        if checksums(data) != sums[first * _SUM_BYTES : last * _SUM_BYTES]:
            raise self._damaged()
        return data

    def _fill(self, buffers: list[bytearray], position: int, *, nowait: bool) -> bool:
        """Fills buffers from the file; False where that would have to be waited for."""
        wanted = sum(map(len, buffers))
        try:
            got = os.preadv(self._fd, buffers, position, os.RWF_NOWAIT if nowait else 0)
            while got < wanted and not nowait:
                missing = _behind(buffers, got)
                step = os.preadv(self._fd, missing, position + got)
                if step == 0:
                    raise self._damaged()
                got += step
        except BlockingIOError:
            return False
        except OSError as error:
            if nowait:
                self._nowait = False  # this file system cannot say
                return False
            raise self._damaged() from error
        return got == wanted

    def _check_head(self, head: bytearray) -> bytes:
        """Returns the checksums that a header holds."""
        magic, size, digest, head_sum = _HEADER.unpack_from(head)
        sums = bytes(memoryview(head)[_HEADER.size :])
        is_mine = magic == _MAGIC and size == self.size and digest == self._digest
        if not is_mine or head_sum != _head_sum(size, digest, sums):
            raise self._damaged()
        return sums

    def _damaged(self) -> DamagedEntryError:
        self._drop(self._digest)
        return DamagedEntryError(self._digest.hex())

    def close(self) -> None:
        """Closes the file."""
        os.close(self._fd)


def _behind(buffers: list[bytearray], count: int) -> list[memoryview]:
    """Returns the rest of buffers after so many bytes."""
    left = []
    for buffer in buffers:
        if count < len(buffer):
            left.append(memoryview(buffer)[count:])
        count = max(0, count - len(buffer))
    return left


def _head_bytes(size: int) -> int:
    return _HEADER.size + _SUM_BYTES * -(-size // BLOCK_BYTES)


def entry_size(file_bytes: int) -> int | None:
    """Returns how many bytes an entry of this file size holds; None if no entry has this size."""
    blocks = -(-(file_bytes - _HEADER.size) // (BLOCK_BYTES + _SUM_BYTES))
    size = file_bytes - _HEADER.size - _SUM_BYTES * blocks
    return size if size >= 0 and _head_bytes(size) + size == file_bytes else None


def entry_head(digest: bytes, data: bytes | bytearray | memoryview) -> bytes:
    """Returns the header and the checksums of an entry, which precede its bytes."""
    sums = checksums(data)
    return _HEADER.pack(_MAGIC, len(data), digest, _head_sum(len(data), digest, sums)) + sums


def checksums(data: bytes | bytearray | memoryview) -> bytes:
    """Returns eight bytes for each block of `BLOCK_BYTES`.

    Sums over the rows and over the columns of the block as a matrix of words, so that neither wrong bytes nor
    displaced ones fit. That runs at the speed of memory, four times as fast as a CRC; against intent it is no help,
    and need not be: a user who can write to the directory could as well write to the program.
    """
    sums = []
    for start in range(0, len(data), BLOCK_BYTES):
        block = memoryview(data)[start : start + BLOCK_BYTES]
        even = len(block) // (_ROW_WORDS * 8) * (_ROW_WORDS * 8)
        words = np.frombuffer(block[:even], np.uint64).reshape(-1, _ROW_WORDS)
        rows, columns = words.sum(axis=1).tobytes(), words.sum(axis=0).tobytes()
        sums.append(struct.pack("<II", zlib.crc32(rows, len(block)), zlib.crc32(block[even:], zlib.crc32(columns))))
    return b"".join(sums)


def _head_sum(size: int, digest: bytes, sums: bytes) -> bytes:
    return hashlib.blake2b(size.to_bytes(8, "little") + digest + sums, digest_size=8).digest()
