"""A file of any store as a binary file of Python, for libraries that read many small pieces."""

import io
import threading
from collections import OrderedDict
from typing import Final, override

from icefs.errors import IcefsError
from icefs.transfer.files.sources import SourceFile

_BLOCK_BYTES: Final = 1 << 20
_KEPT_BLOCKS: Final = 32


class BlockReader(io.RawIOBase):
    """Reads a file in blocks, and keeps the last used ones.

    A library of C may lose what a read raised: `failure` keeps it.

    Concurrency: `read_at` is safe for threads; one thread at a time uses the position of the file.

    Attributes:
        failure: The first error that a read raised.
    """

    def __init__(self, file: SourceFile) -> None:
        super().__init__()
        self.failure: IcefsError | None = None
        self._file = file
        self._at = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def read_at(self, start: int, end: int) -> bytes:
        """Reads the bytes `[start, end)`; raises as `SourceFile.read`."""
        try:
            if end - start >= _BLOCK_BYTES:
                return self._file.read(start, end)
            return b"".join(self._pieces(start, end))
        except IcefsError as error:
            self.failure = self.failure or error
            raise

    def _pieces(self, start: int, end: int) -> list[bytes]:
        pieces = []
        while start < end:
            number, skip = divmod(start, _BLOCK_BYTES)
            pieces.append(self._block(number)[skip : skip + end - start])
            start = min((number + 1) * _BLOCK_BYTES, end)
        return pieces

    def _block(self, number: int) -> bytes:
        with self._lock:
            if number not in self._blocks:
                first = number * _BLOCK_BYTES
                self._blocks[number] = self._file.read(first, min(first + _BLOCK_BYTES, self._file.size_bytes))
                while len(self._blocks) > _KEPT_BLOCKS:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end(number)
            return self._blocks[number]

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position; returns it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size_bytes}[whence]
        self._at = max(start + offset, 0)
        return self._at

    @override
    def tell(self) -> int:
        return self._at

    @override
    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what the standard library hands over
        """Fills a buffer as far as the file reaches; returns how many bytes that were."""
        end = min(self._at + len(buffer), self._file.size_bytes)
        if end <= self._at:
            return 0
        data = self.read_at(self._at, end)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
