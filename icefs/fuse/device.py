"""The connection to the kernel: mounts, agrees on a protocol, carries messages, unmounts.

`fusermount3` does what takes privileges: it opens `/dev/fuse`, mounts, and hands the descriptor over through a socket.
Sources: fuse(4), fusermount3(1), and for the socket, whose descriptor `_FUSE_COMMFD` names, libfuse's lib/mount.c.
`requests` knows the requests and their meaning; here they are bytes.
"""

import contextlib
import errno
import os
import select
import socket
import subprocess
from array import array
from collections.abc import Iterable
from typing import Final, Self

from icefs.fuse import abi
from icefs.fuse.connection import KernelTooOldError, MountError

MAX_WRITE_BYTES: Final = 1 << 20
"""The longest WRITE; what the kernel allows by default, also for READ."""

BUFFER_BYTES: Final = MAX_WRITE_BYTES + 4096

_WANTED: Final = (
    abi.ASYNC_READ
    | abi.ATOMIC_O_TRUNC
    | abi.BIG_WRITES
    | abi.AUTO_INVAL_DATA
    | abi.DO_READDIRPLUS
    | abi.ASYNC_DIO
    | abi.PARALLEL_DIROPS
    | abi.MAX_PAGES
)

# How many reads ahead, and other requests that no program waits for, the kernel sends at once. Its own default of 12
# keeps a store that is far away idle.
_MAX_BACKGROUND: Final = 64
_CONGESTION_THRESHOLD: Final = 48

_COMM_FD: Final = "_FUSE_COMMFD"
_ENDED: Final = frozenset((errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED))


class Device:
    """`/dev/fuse`, connected to one mount.

    Concurrency: messages may be sent from any thread, each goes as a whole; requests are read by one task at a time.

    Attributes:
        fd: The descriptor; it does not block.
        mountpoint: Where it is mounted, without links.
    """

    def __init__(self, fd: int, mountpoint: str) -> None:
        self.fd = fd
        self.mountpoint = mountpoint

    @classmethod
    def mount(cls, mountpoint: str, options: Iterable[str]) -> Self:
        """Mounts, and agrees with the kernel on the protocol.

        Args:
            mountpoint: An absolute path.
            options: Those of `fusermount3 -o`; commas in them are escaped.

        Raises:
            MountError: the kernel or `fusermount3` refused.
            KernelTooOldError: it speaks a version of FUSE before 7.31.
        """
        # fusermount3 takes the mode of a link for that of the root.
        mountpoint = os.path.realpath(mountpoint)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            done = subprocess.run(
                ["fusermount3", "-o", ",".join(("nosuid", "nodev", *options)), "--", mountpoint],
                env={**os.environ, _COMM_FD: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
                check=False,
            )
            theirs.close()
            fd = _received_fd(ours)
        if fd is None:
            reason = (
                " ".join(done.stderr.decode(errors="replace").split()) or f"fusermount3 ended with {done.returncode}"
            )
            raise MountError(reason)
        device = cls(fd, mountpoint)
        try:
            device.agree()
            os.set_blocking(device.fd, False)
        except BaseException:
            device.close()
            raise
        return device

    def agree(self) -> None:
        """Answers INIT, which is the first request."""
        while True:
            request = os.read(self.fd, BUFFER_BYTES)
            _, opcode, unique, *_ = abi.IN_HEADER.unpack_from(request)
            if opcode != abi.INIT:
                raise MountError(f"the kernel began with request {opcode}")
            # Older kernels send a shorter one.
            major, minor, max_readahead, flags, _ = abi.INIT_IN.unpack(
                request[abi.IN_HEADER.size :][: abi.INIT_IN.size].ljust(abi.INIT_IN.size, b"\0")
            )
            wanted = flags & _WANTED
            self.answer(
                unique,
                abi.INIT_OUT.pack(
                    abi.MAJOR, abi.MINOR, max_readahead, wanted, _MAX_BACKGROUND, _CONGESTION_THRESHOLD,
                    MAX_WRITE_BYTES, 1, MAX_WRITE_BYTES // os.sysconf("SC_PAGE_SIZE"), 0, 0,
                ),
            )  # fmt: skip
            if major < abi.MAJOR or (major == abi.MAJOR and minor < abi.OLDEST_MINOR):
                raise KernelTooOldError(
                    f"the kernel speaks version {major}.{minor} of FUSE, which is too old",
                    advice="use Linux 5.4 or newer",
                )
            if major == abi.MAJOR:
                return
            # A newer kernel learns the version from the answer, and begins again.

    def answer(self, unique: int, payload: bytes | bytearray | memoryview) -> None:
        """Answers a request.

        Raises:
            OSError: ENOENT if no program waits for the answer any more.
        """
        os.writev(self.fd, (abi.OUT_HEADER.pack(abi.OUT_HEADER.size + len(payload), 0, unique), payload))

    def refuse(self, unique: int, number: int) -> None:
        """Answers a request with an errno; raises as `answer`."""
        os.write(self.fd, abi.OUT_HEADER.pack(abi.OUT_HEADER.size, -number, unique))

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        """Makes the kernel look a name up again; waits for requests that are under way in its directory.

        Raises:
            OSError: ENOENT where the kernel does not know it.
        """
        body = abi.NOTIFY_INVAL_ENTRY_OUT.pack(parent, len(name), 0) + name + b"\0"
        self._notify(abi.NOTIFY_INVAL_ENTRY, body)

    def invalidate_inode(self, ino: int, *, attr_only: bool = False) -> None:
        """Makes the kernel drop what it cached of an inode: attributes, and pages; raises as `invalidate_entry`.

        A negative offset is the kernel's sign for attributes alone.
        """
        self._notify(abi.NOTIFY_INVAL_INODE, abi.NOTIFY_INVAL_INODE_OUT.pack(ino, -1 if attr_only else 0, 0))

    def _notify(self, code: int, body: bytes) -> None:
        os.write(self.fd, abi.OUT_HEADER.pack(abi.OUT_HEADER.size + len(body), code, 0) + body)

    def is_mounted(self) -> bool:
        """Tells whether the file system is still mounted."""
        poll = select.poll()
        poll.register(self.fd, 0)
        return not any(events & select.POLLERR for _, events in poll.poll(0))

    def close(self) -> None:
        """Unmounts, unless the file system is unmounted already; requests that wait for an answer fail."""
        if self.fd < 0:
            return
        is_mounted = self.is_mounted()
        # Closed first: else the unmounting process may wait for an answer from here.
        fd, self.fd = self.fd, -1
        os.close(fd)
        if is_mounted:
            with contextlib.suppress(OSError):  # fusermount3 is gone: the mount is left behind, dead
                subprocess.run(["fusermount3", "-u", "-q", "-z", "--", self.mountpoint], check=False)


def _received_fd(connection: socket.socket) -> int | None:
    """Receives a descriptor through a socket; children of this process do not inherit it."""
    # `socket.recv_fds` of Python 3.12 passes no flags on.
    number = array("i")
    _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_LEN(number.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            number.frombytes(data[: number.itemsize])
            return number[0]
    return None


def is_over(error: OSError) -> bool:
    """Tells whether an error of reading means that the file system was unmounted."""
    return error.errno in _ENDED
