"""A program's end of a conversation with a mount, through the control file `.icefs/rpc` (see `vfs.control.rpc`).

    where the mount may be written to    opened to read and write: the request is written
    where it only reads                  opened to read: the request is handed over by ioctls, each with a part of it

Either way the answer is read from the same descriptor. The kernel lets an ioctl pass also where the mount is `ro`.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from icefs.ioctl import MAX_PART_BYTES, request_command


class Conversation:
    """An open `rpc`; a context manager, whose end takes back a request that is not answered whole."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens the control file.

        Raises:
            OSError: it cannot be opened; PermissionError for users without the right to command the mount.
        """
        self._may_write = True
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            self._may_write = False
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def ask(self, request: bytes) -> Iterator[bytes]:
        """Hands a request over, and yields the lines of its answer.

        Raises:
            OSError: the daemon could not be asked.
        """
        if self._may_write:
            os.write(self._fd, request)
        else:
            for first in range(0, len(request), MAX_PART_BYTES):
                part = bytearray(request[first : first + MAX_PART_BYTES])  # Python copies no more than 1 KiB of bytes
                fcntl.ioctl(self._fd, request_command(len(part)), part)
        rest = b""
        while data := os.read(self._fd, 1 << 16):
            *whole, rest = (rest + data).split(b"\n")
            yield from whole
        if rest:
            yield rest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
