"""Control files that carry out the text written to them: `commit`, `discard`, `rebase`.

A shell's `echo` learns of a failure from its `write` alone, so a command is carried out by the write that ends it and
not at `close`. Long texts come in several writes, of whole pages but for the last: a write of whole pages that does
not end a line is the beginning of something, and waits for the rest, or for `close`. And bash writes each line by
itself; so a command gets the text that came through the same descriptor before it, which it may continue.
"""

import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

from icefs.errors import InvalidInputError
from icefs.inode import Ino
from icefs.vfs.control.reports import to_json
from icefs.vfs.interface import FileHandle

MAX_COMMAND_BYTES: Final = 1 << 20
_PAGE: Final = 4096

type Carry = Callable[[bytes, bytes], Awaitable[Any]]
"""Carries out a command, given all that was written, and how it begins with what was carried out already."""

type Outcome = Callable[[], Any]


class CommandHandle(FileHandle):
    """An open control file that carries out the text written to it, and shows the outcome to readers.

    Concurrency: a handle belongs to one program, which waits for each of its calls.
    """

    __slots__ = ("_carried", "_carry", "_is_too_long", "_outcome", "_pending", "_unread")

    direct_io = True
    nonseekable = True
    wants_flush = True

    def __init__(self, ino: Ino, flags: int, carry: Carry, outcome: Outcome) -> None:
        """Takes a function that carries out a command, and one that returns the outcome of the last one, in JSON."""
        super().__init__(ino)
        self._carry = carry
        self._outcome = outcome
        self._carried = b""
        self._pending = b""
        self._is_too_long = False
        self._unread: bytes | None = None
        if flags & os.O_ACCMODE == os.O_RDONLY:
            self._unread = to_json(outcome())  # as it was when it was opened

    def read_nowait(self, offset: int, size: int) -> bytes:
        """Reads the outcome."""
        if self._unread is None:
            self._unread = to_json(self._outcome())
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    async def write(self, offset: int, data: bytes | memoryview) -> int:
        """Takes a command, or a part of one; the failure of a command is the write's."""
        if self._is_too_long:
            raise _too_long()  # the rest of something long is nothing by itself
        data = bytes(data)
        self._pending += data
        self._is_too_long = len(self._carried) + len(self._pending) > MAX_COMMAND_BYTES
        if data.endswith(b"\n") or len(data) % _PAGE or self._is_too_long:
            await self._carry_out()
        return len(data)

    async def flush(self) -> None:
        """Carries out a text that was not known to be complete."""
        if self._pending:
            await self._carry_out()

    async def _carry_out(self) -> None:
        before, data = self._carried, self._carried + self._pending
        self._pending, self._unread = b"", None
        await self._carry(data, before)
        self._carried = data


def _too_long() -> InvalidInputError:
    return InvalidInputError(f"this is longer than {MAX_COMMAND_BYTES} bytes", hint="write something shorter")


def command_text(data: bytes) -> str:
    """Decodes a command; white space around it does not count.

    Raises:
        InvalidInputError: it is too long, or no UTF-8.
    """
    if len(data) > MAX_COMMAND_BYTES:
        raise _too_long()
    try:
        return data.decode().strip()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"this is no UTF-8: {error.reason}", hint="write text in UTF-8") from error
