"""Serves `/metrics` for Prometheus and `/healthz`, and nothing else, over HTTP.

The least of HTTP that does it: one request a connection, no bodies. Numbers are taken on the event loop's thread and
written down in a worker thread, so that a scrape costs the mount a fraction of a millisecond.
"""

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import trio

from icefs.daemon.background import in_background
from icefs.daemon.options import parse_address
from icefs.errors import InvalidInputError
from icefs.vfs.mount import Mount

_MAX_REQUEST: Final = 8192
_PATIENCE_S: Final = 5.0
_MAX_CONNECTIONS: Final = 16
_PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"
_TEXT: Final = "text/plain; charset=utf-8"

type _Page = tuple[str, str, bytes]


def listen(address: str) -> socket.socket:
    """Opens the socket to serve at.

    Raises:
        InvalidInputError: it cannot be had, for another process has it, or no such address is this machine's.
    """
    host, port = parse_address(address)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(_MAX_CONNECTIONS)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        reason = error.strerror or os.strerror(error.errno or errno.EINVAL)
        raise InvalidInputError(
            f"metrics cannot be served at {address}: {reason}", hint="give another address"
        ) from error
    return listener


async def serve_metrics(listener: socket.socket, mount: Mount) -> None:
    """Serves until it is cancelled."""
    pages: dict[bytes, Callable[[], Awaitable[_Page]]] = {
        b"/metrics": partial(_metrics, mount),
        b"/healthz": partial(_health, mount),
    }
    stream = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    idle = _Idle()

    async def answer(connection: trio.SocketStream) -> None:
        await in_background("serving metrics", partial(_answer, connection, pages, idle))

    await trio.serve_listeners(answer, [stream])


class _Idle:
    """The connections that have not sent their request yet, oldest first.

    There are at most `_MAX_CONNECTIONS`: a new one ends the oldest, so that connections without a request keep no other
    out, however many they are.
    """

    def __init__(self) -> None:
        self._scopes: dict[trio.CancelScope, None] = {}

    @contextmanager
    def one(self, scope: trio.CancelScope) -> Iterator[None]:
        """Counts a connection, which `scope` ends, while its request is waited for."""
        if len(self._scopes) >= _MAX_CONNECTIONS:
            oldest = next(iter(self._scopes))
            del self._scopes[oldest]
            oldest.cancel()
        self._scopes[scope] = None
        try:
            yield
        finally:
            self._scopes.pop(scope, None)


async def _answer(
    connection: trio.SocketStream, pages: dict[bytes, Callable[[], Awaitable[_Page]]], idle: _Idle
) -> None:
    with trio.move_on_after(_PATIENCE_S) as scope:
        async with connection:
            try:
                with idle.one(scope):
                    method, target = await _request(connection)
                page = pages.get(target.partition(b"?")[0])
                if method not in (b"GET", b"HEAD"):
                    status, kind, body = "405 Method Not Allowed", _TEXT, b"only GET\n"
                elif page is None:
                    status, kind, body = "404 Not Found", _TEXT, b"/metrics and /healthz are here\n"
                else:
                    status, kind, body = await page()
                head = (
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
                    "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
                )
                await connection.send_all(head.encode() + (b"" if method == b"HEAD" else body))
            except trio.BrokenResourceError:
                return  # the client has gone away


async def _request(connection: trio.SocketStream) -> tuple[bytes, bytes]:
    """Reads a request; if it is none, returns an empty method."""
    data = b""
    while b"\r\n\r\n" not in data and len(data) < _MAX_REQUEST:
        part = await connection.receive_some(_MAX_REQUEST)
        if not part:
            break
        data += part
    words = data.partition(b"\r\n")[0].split(b" ")
    return (words[0], words[1]) if len(words) == 3 and words[2].startswith(b"HTTP/1.") else (b"", b"")


async def _metrics(mount: Mount) -> _Page:
    text = await mount.in_thread(partial(mount.observer.as_prometheus, mount.observer.look()))
    return "200 OK", _PROMETHEUS, text.encode(errors="backslashreplace")


async def _health(mount: Mount) -> _Page:
    """Says that the mount answers; that its store does not is no reason to end it, and is reported all the same."""
    problem = mount.follower.problem
    return "200 OK", _TEXT, f"degraded: {problem}\n".encode() if problem else b"ok\n"
