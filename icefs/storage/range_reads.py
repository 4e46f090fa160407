"""Reads ranges of objects over HTTP on one thread, however many are under way.

A thread for each request costs more than the request where there are many: they take the interpreter from each
other, and wait for it when an answer has come. Here one thread sends requests, and takes in what has arrived on
whichever connection, straight into the memory that it is for. It knows the one answer that is as it should be.
Whatever else happens (an error, a redirect, a connection that cannot be made, an answer that is not the range) is left
to somebody who asks in the ordinary way, knows what to do about it, and what to say. `Failed` also gets the failures
that may pass, each as a try of its own.
"""

import contextlib
import errno
import os
import re
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from icefs.errors import StorageError, ThrottledError, UnreachableError
from icefs.storage.base import Done

type Failed = Callable[[StorageError], None]
"""Gets the reason why a read did not succeed, where that passes."""

_HEAD_BYTES: Final = 32 << 10
"""The longest head of an answer; bytes that come with it are copied from here."""

_TICK_S: Final = 1.0
# How long requests go the ordinary way after one that did not succeed here.
_PAUSE_S: Final = 1.0
_ADDRESSES_S: Final = 60.0
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n")
_RANGE = re.compile(rb"\r\ncontent-range:[ \t]*bytes (\d{1,18})-(\d{1,18})/\d{1,18}[ \t]*\r\n")
_STATUS = re.compile(rb"http/1\.1 (\d{3}) ")
_THROTTLED: Final = frozenset((429, 503))
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close[ \t]*\r\n")
_READABLE: Final = select.EPOLLIN | select.EPOLLRDHUP


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go.

    Attributes:
        host: A name or address.
        port: Of TCP.
        tls: The context that checks certificates; None for a connection in the clear.
        connections: How many there may be.
        connect_timeout_s: How long to wait for one.
        read_timeout_s: How long to wait for the next bytes of an answer.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None
    connections: int
    connect_timeout_s: float
    read_timeout_s: float


@dataclass(slots=True, eq=False)
class _Read:
    """A range that is wanted.

    Attributes:
        request: Makes the request as it goes over the wire; called when it is sent.
        start: The first byte.
        end: One past the last.
        done: Gets the result.
        failed: Gets the error before, where the reason may pass.
        was_repeated: Whether it was sent before, over a connection that the service had closed meanwhile.
    """

    request: Callable[[], bytes]
    start: int
    end: int
    done: Done
    failed: Failed
    was_repeated: bool = False


class _FailedError(Exception):
    """A read cannot be had this way.

    Attributes:
        status: That of the answer; 0 for one that makes no sense.
    """

    def __init__(self, status: int = 0) -> None:
        super().__init__(status)
        self.status = status


@dataclass(slots=True, eq=False)
class _Connection:
    """A connection, and the read that it is busy with.

    Attributes:
        sock: Never blocks.
        deadline: When to give up, on the monotonic clock.
        read: The read that is under way; None if there is none.
        is_open: Whether it can be written to: connected, and the keys are agreed on.
        served: How many answers came over it.
        pending: The rest of the request to send.
        head: How many bytes of an answer's head are in the common buffer, which is this connection's then.
        body: The bytes of the answer; None before its head was read.
        got: How many of them are there.
        is_last: Whether the service closes the connection after this answer.
    """

    sock: socket.socket
    deadline: float
    read: _Read | None = None
    is_open: bool = False
    served: int = 0
    pending: memoryview = field(default_factory=lambda: memoryview(b""))
    head: bytes = b""
    body: bytearray | None = None
    got: int = 0
    is_last: bool = False


def _tell_nobody(_: StorageError) -> None:
    pass


class RangeReads:
    """Reads ranges of objects from one service.

    Concurrency: `start` and `close` may be called from any thread; `_lock` guards what they share with the thread of
    the reads, to which everything else belongs. `done` is called without the lock.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        """Connects to nothing yet; the thread begins with the first read."""
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._queue: deque[_Read] = deque()
        self._closing = False
        self._unfit = False
        self._paused_until = 0.0
        self._thread: threading.Thread | None = None
        self._wake_fd = -1
        self._is_awake = False
        self._poll: select.epoll | None = None
        self._connections: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []
        self._buffer = memoryview(bytearray(_HEAD_BYTES))
        self._addresses: tuple[float, list[tuple[int, Any]]] = (0.0, [])

    def start(
        self, request: Callable[[], bytes], start: int, end: int, done: Done, failed: Failed = _tell_nobody
    ) -> bool:
        """Begins to read `[start, end)`, which is not empty.

        Args:
            request: Makes the request for that range as it goes over the wire; called on the thread of the reads.
            start: The first byte.
            end: One past the last.
            done: See `Done`.
            failed: See `Failed`.

        Returns:
            Whether it begins. Where it does not, because nothing of late has come this way, `done` is not called.
        """
        with self._lock:
            if self._closing or self._unfit or time.monotonic() < self._paused_until:
                return False
            if self._thread is None:
                self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                self._thread = threading.Thread(target=self._run, name="icefs-ranges", daemon=True)
                self._thread.start()
            self._queue.append(_Read(request, start, end, done, failed))
            self._wake()
        return True

    def close(self) -> None:
        """Gives up the reads that are under way, and ends the thread."""
        with self._lock:
            self._closing = True
            self._is_awake = False
            self._wake()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _wake(self) -> None:
        if not self._is_awake and self._wake_fd >= 0:
            self._is_awake = True
            os.eventfd_write(self._wake_fd, 1)

    # The thread.

    def _run(self) -> None:
        with select.epoll() as poll:
            self._poll = poll
            poll.register(self._wake_fd, select.EPOLLIN)
            checked = time.monotonic()
            try:
                while not self._closing:
                    events = poll.poll(_TICK_S if len(self._idle) < len(self._connections) else None)
                    self._is_awake = True  # what is asked for from here on is seen below
                    for fd, _ in events:
                        if fd == self._wake_fd:
                            os.eventfd_read(fd)
                        elif (connection := self._connections.get(fd)) is not None:
                            self._go_on(connection)
                    self._send_waiting()
                    now = time.monotonic()
                    if now - checked > _TICK_S:
                        checked = now
                        self._expire(now)
            finally:
                self._end()

    def _end(self) -> None:
        with self._lock:
            self._closing = True
            reads = [*self._queue]
            self._queue.clear()
            os.close(self._wake_fd)
            self._wake_fd = -1
        for connection in list(self._connections.values()):
            if connection.read is not None:
                reads.append(connection.read)
            self._drop(connection)
        for read in reads:
            read.done(None)

    def _expire(self, now: float) -> None:
        for connection in list(self._connections.values()):
            if connection.read is not None and now > connection.deadline:
                self._fail(connection, TimeoutError())

    def _send_waiting(self) -> None:
        while True:
            with self._lock:
                self._is_awake = False
                may_begin = bool(self._idle) or len(self._connections) < self._endpoint.connections
                read = self._queue.popleft() if self._queue and may_begin else None
                if read is None:
                    return
                self._is_awake = True
            self._send(read)

    def _send(self, read: _Read) -> None:
        connection = None
        try:
            request = read.request()
            connection = self._idle.pop() if self._idle else self._connect()
            connection.read, connection.pending = read, memoryview(request)
            connection.head, connection.body, connection.got = b"", None, 0
            if connection.is_open:
                self._flush(connection)
        except Exception as error:  # noqa: BLE001  (whatever it is, the ordinary way meets it again, and says what)
            if connection is not None:
                self._fail(connection, error)
            else:
                self._give_up(read, error)

    def _flush(self, connection: _Connection) -> None:
        connection.deadline = time.monotonic() + self._endpoint.read_timeout_s
        try:
            sent = connection.sock.send(connection.pending)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            sent = 0
        except OSError as error:
            self._lose(connection, error)
            return
        connection.pending = connection.pending[sent:]
        if connection.pending:
            self._watch(connection, _READABLE | select.EPOLLOUT)

    # Connections.

    def _connect(self) -> _Connection:
        endpoint = self._endpoint
        family, address = self._next_address()
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            code = sock.connect_ex(address)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
        except BaseException:
            sock.close()
            raise
        connection = _Connection(sock, time.monotonic() + endpoint.connect_timeout_s)
        self._connections[sock.fileno()] = connection
        assert self._poll is not None  # this is its thread
        self._poll.register(sock.fileno(), select.EPOLLOUT)
        return connection

    def _next_address(self) -> tuple[int, Any]:
        """Returns the next of the service's addresses, which are asked for once in a while."""
        asked, addresses = self._addresses
        now = time.monotonic()
        if not addresses or now - asked > _ADDRESSES_S:
            found = socket.getaddrinfo(self._endpoint.host, self._endpoint.port, type=socket.SOCK_STREAM)
            addresses = [(entry[0], entry[4]) for entry in found]
            self._addresses = now, addresses
        addresses.append(addresses.pop(0))
        return addresses[-1]

    def _open(self, connection: _Connection) -> None:
        """Goes on with a connection that is being made."""
        sock, tls = connection.sock, self._endpoint.tls
        if not isinstance(sock, ssl.SSLSocket):
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            if tls is not None:
                # It takes over the descriptor.
                sock = connection.sock = tls.wrap_socket(
                    sock, server_hostname=self._endpoint.host, do_handshake_on_connect=False
                )
        if isinstance(sock, ssl.SSLSocket):
            try:
                sock.do_handshake()
            except ssl.SSLWantReadError:
                self._watch(connection, _READABLE)
                return
            except ssl.SSLWantWriteError:
                self._watch(connection, select.EPOLLOUT)
                return
        connection.is_open = True
        self._watch(connection, _READABLE)
        self._flush(connection)

    def _watch(self, connection: _Connection, events: int) -> None:
        assert self._poll is not None  # this is its thread
        self._poll.modify(connection.sock.fileno(), events)

    def _drop(self, connection: _Connection) -> None:
        with contextlib.suppress(KeyError):
            del self._connections[connection.sock.fileno()]
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        connection.sock.close()

    # What comes.

    def _go_on(self, connection: _Connection) -> None:
        try:
            if connection.read is None:
                self._drop(connection)  # the service closed it, or talks without being asked
            elif not connection.is_open:
                self._open(connection)
            elif connection.pending:
                self._flush(connection)
                if not connection.pending and connection.read is not None:
                    self._watch(connection, _READABLE)
            else:
                self._receive(connection)
        except (_FailedError, OSError, ValueError) as error:
            self._fail(connection, error)

    def _receive(self, connection: _Connection) -> None:
        while connection.read is not None:
            body = connection.body
            room = self._buffer if body is None else memoryview(body)[connection.got :]
            try:
                size = connection.sock.recv_into(room)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except ConnectionError as error:
                self._lose(connection, error)
                return
            if size == 0:
                self._lose(connection, ConnectionResetError())
                return
            connection.deadline = time.monotonic() + self._endpoint.read_timeout_s
            if body is None:
                self._take_head(connection, size)
            else:
                connection.got += size
            if connection.body is not None and connection.got == len(connection.body):
                self._finish(connection)
            elif self._endpoint.tls is None and size < len(room):
                return  # that was all; select would not report decrypted bytes again

    def _take_head(self, connection: _Connection, size: int) -> None:
        """Reads the head of an answer, and takes the bytes that came with it."""
        head = connection.head + bytes(self._buffer[:size])
        stop = head.find(b"\r\n\r\n")
        if stop < 0:
            if len(head) > _HEAD_BYTES:
                raise _FailedError
            connection.head = head
            return
        read = connection.read
        assert read is not None  # the caller has looked
        connection.is_last = self._check_head(head[: stop + 2].lower(), read)
        body = connection.body = bytearray(read.end - read.start)
        connection.got = len(head) - stop - 4
        if connection.got > len(body):
            raise _FailedError
        body[: connection.got] = head[stop + 4 :]

    def _check_head(self, head: bytes, read: _Read) -> bool:
        """Tells whether the connection ends after an answer, which is the range that was asked for."""
        found = _STATUS.match(head)
        status = 0 if found is None else int(found[1])
        if status != 206:
            self._unfit |= status == 200  # a service that does not know ranges
            raise _FailedError(status)
        length, told = _LENGTH.search(head), _RANGE.search(head)
        if length is None or told is None or b"\r\ntransfer-encoding:" in head:
            raise _FailedError
        if (int(told[1]), int(told[2]) + 1, int(length[1])) != (read.start, read.end, read.end - read.start):
            raise _FailedError
        return _CLOSE.search(head) is not None

    # How it ends.

    def _finish(self, connection: _Connection) -> None:
        read, body = connection.read, connection.body
        assert read is not None  # the caller has looked
        connection.read, connection.body = None, None
        connection.served += 1
        if connection.is_last:
            self._drop(connection)
        else:
            self._idle.append(connection)
        read.done(body)

    def _lose(self, connection: _Connection, error: OSError) -> None:
        """A connection was closed: perhaps before it was used again, which is no failure."""
        read = connection.read
        if read is None or read.was_repeated or not connection.served or connection.head or connection.body is not None:
            self._fail(connection, error)
            return
        read.was_repeated = True
        connection.read = None
        self._drop(connection)
        with self._lock:
            self._queue.appendleft(read)

    def _fail(self, connection: _Connection, error: Exception) -> None:
        read, connection.read = connection.read, None
        self._drop(connection)
        if read is not None:
            self._give_up(read, error)

    def _give_up(self, read: _Read, error: Exception) -> None:
        self._paused_until = time.monotonic() + _PAUSE_S
        self._addresses = 0.0, []
        passing = _passing(error)
        if passing is not None:
            read.failed(passing)
        read.done(None)


def _passing(error: Exception) -> StorageError | None:
    """Returns what went wrong where it may not the next time; None where it will, or is no failure of the service."""
    if isinstance(error, OSError):
        return UnreachableError("the connection failed", cause=type(error).__name__)
    if not isinstance(error, _FailedError):
        return None
    if error.status in _THROTTLED:
        return ThrottledError("the store asked for fewer requests", status=error.status)
    if error.status >= 500:
        return UnreachableError("the store could not answer", status=error.status)
    return None if error.status else UnreachableError("the answer makes no sense", cause="ProtocolError")
