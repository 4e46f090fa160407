"""Copies ranges of bytes between files, within the kernel where that is possible."""

import errno
import os
from collections.abc import Iterator
from typing import Final

_COPY_BYTES: Final = 8 << 20
_NOT_IN_KERNEL: Final = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def write_all(data: bytes | memoryview, fd: int) -> None:
    """Writes all bytes where a file is."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def write_at(data: bytes | memoryview, fd: int, offset: int) -> None:
    """Writes all bytes to a place in a file."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written


def copy_range(source: int, fd: int, start: int, offset: int, length: int) -> int:
    """Copies bytes from one file to another.

    Args:
        source: The file to read.
        fd: The file to write.
        start: Where in `source`.
        offset: Where in `fd`.
        length: How many bytes.

    Returns:
        How many bytes there were.
    """
    done = 0
    in_kernel = True
    while done < length:
        if in_kernel:
            try:
                some = os.copy_file_range(source, fd, length - done, start + done, offset + done)
            except OSError as error:
                if error.errno not in _NOT_IN_KERNEL:
                    raise
                in_kernel = False
                continue
        else:
            data = os.pread(source, min(_COPY_BYTES, length - done), start + done)
            write_at(data, fd, offset + done)
            some = len(data)
        if not some:
            break
        done += some
    return done


def data_ranges(source: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yields the parts of a range of a file that are no holes; all of it where the file system does not say."""
    while start < stop:
        try:
            low = os.lseek(source, start, os.SEEK_DATA)
            high = os.lseek(source, low, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:
                yield start, stop
            return  # a hole to the end
        if low >= stop:
            return
        yield low, min(high, stop)
        start = high
