"""The other end of a `Device`: a kernel made of a socket, and readers of what it is sent."""

import os
import select
import socket
import struct
from typing import NamedTuple

from icefs.fuse import abi
from icefs.fuse.device import Device


class Entry(NamedTuple):
    """One entry of a READDIRPLUS answer; `node_id` 0 means that it came without attributes."""

    node_id: int
    ino: int
    position: int
    kind: int
    name: bytes
    size: int
    mode: int
    mtime_ns: int


def read_entries(data: bytes) -> list[Entry]:
    """Takes an answer to READDIRPLUS apart."""
    entries = []
    while data:
        (node_id, _, _, _, _, _, _, size, _, _, mtime_s, _, _, mtime_ns, _, mode, *_) = abi.ENTRY_OUT.unpack_from(data)
        ino, position, length, kind = abi.DIRENT.unpack_from(data, abi.ENTRY_OUT.size)
        first = abi.ENTRY_OUT.size + abi.DIRENT.size
        name = data[first : first + length]
        entries.append(Entry(node_id, ino, position, kind, name, size, mode, mtime_s * 10**9 + mtime_ns))
        padded = -(-(first + length) // 8) * 8
        assert data[first + length : padded] == bytes(padded - first - length)
        data = data[padded:]
    return entries


class Answer(NamedTuple):
    """What the kernel was sent."""

    unique: int
    error: int
    payload: bytes


class FakeKernel:
    """Sends requests and takes answers, a message each, as `/dev/fuse` does.

    Attributes:
        device: The daemon's end.
    """

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(10)
        self.device = Device(theirs.detach(), "/mnt/fake")
        os.set_blocking(self.device.fd, False)

    def send(self, opcode: int, unique: int, ino: int = 0, body: bytes = b"") -> None:
        """Sends a request of user 1000, group 1001, process 77."""
        length = abi.IN_HEADER.size + len(body)
        self._socket.send(abi.IN_HEADER.pack(length, opcode, unique, ino, 1000, 1001, 77, 0, 0) + body)

    def take(self) -> Answer:
        """Takes the next message."""
        message = self._socket.recv(2 << 20)
        length, error, unique = abi.OUT_HEADER.unpack_from(message)
        assert length == len(message)
        return Answer(unique, error, message[abi.OUT_HEADER.size :])

    def is_quiet(self) -> bool:
        """Tells whether nothing waits to be taken."""
        return not select.select([self._socket], [], [], 0)[0]

    def close(self) -> None:
        """Ends both ends."""
        self._socket.close()
        if self.device.fd >= 0:
            os.close(self.device.fd)
            self.device.fd = -1


def names(*parts: bytes) -> bytes:
    """Lays out names as requests have them."""
    return b"".join(part + b"\0" for part in parts)


def pack(layout: str, *values: int) -> bytes:
    """Packs numbers as the kernel does."""
    return struct.pack(f"={layout}", *values)
