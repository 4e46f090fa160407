"""systemd's journal: entries with fields of their own, and lines with priorities where it takes no entries.

An entry is one datagram to the journal's socket, a field a line; a value with line breaks has its length before it.
The journal itself adds the unit, the process and the time. Nothing waits for it: what it does not take at once, or at
all, becomes a line on stderr, which is the journal's as well, with `<N>`, the priority, before it.

Source: systemd's "Native Journal Protocol", sd-daemon(3).
"""

import logging
import os
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Final

SOCKET: Final = "/run/systemd/journal/socket"
"""Where the journal takes entries."""

# syslog's priorities
_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY: Final = 7


def priority(level: int) -> int:
    """Returns syslog's priority of a log level."""
    return next((number for least, number in _PRIORITIES if level >= least), _DEBUG_PRIORITY)


def is_journal(environment: Mapping[str, str], descriptor: int = 2) -> bool:
    """Tells whether a descriptor is the journal's, as systemd says in JOURNAL_STREAM."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(descriptor)
        return (status.st_dev, status.st_ino) == (int(device), int(inode))
    except (OSError, ValueError):
        return False


def encode_entry(fields: Mapping[str, str]) -> bytes:
    """Returns an entry as the journal takes it; names are of `A-Z`, `0-9` and `_`."""
    parts = []
    for name, value in fields.items():
        data = value.encode("utf-8", "backslashreplace")
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)


class JournalHandler(logging.Handler):
    """Sends records to the journal as entries."""

    def __init__(
        self,
        describe: Callable[[logging.LogRecord], Mapping[str, str]],
        instead: logging.Handler,
        address: str = SOCKET,
    ) -> None:
        """Takes the maker of a record's fields, the handler for records that the journal refuses, and its socket."""
        super().__init__()
        self._describe = describe
        self._instead = instead
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one entry."""
        entry = encode_entry(self._describe(record))
        try:
            self._socket.sendto(entry, socket.MSG_DONTWAIT, self._address)
        except OSError:  # not there, busy, or the entry is too long for a datagram
            self._instead.handle(record)

    def flush(self) -> None:
        """Flushes the handler for refused records."""
        self._instead.flush()

    def close(self) -> None:
        """Closes the socket, and the handler for refused records."""
        self._socket.close()
        self._instead.close()
        super().close()
