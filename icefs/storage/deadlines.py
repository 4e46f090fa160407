"""Ends a try of an HTTP request at its deadline, however steadily its bytes come.

The timeouts of urllib3 are those between two pieces of an answer; one that trickles never ends.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator

import urllib3
from urllib3.connection import HTTPConnection


def timeout_within(connect_s: float, read_s: float, limit_s: float | None) -> urllib3.Timeout:
    """Returns the timeouts of a request that has to have the beginning of its answer within `limit_s` (None: ever)."""
    if limit_s is None:
        return urllib3.Timeout(connect=connect_s, read=read_s)
    return urllib3.Timeout(connect=min(connect_s, limit_s), read=min(read_s, limit_s), total=limit_s)


@contextlib.contextmanager
def ended_after(response: urllib3.BaseHTTPResponse, limit_s: float | None) -> Iterator[None]:
    """Lets the connection of an answer break off `limit_s` seconds from now, unless the block ends before."""
    if limit_s is None:
        yield
        return
    timer = threading.Timer(limit_s, _cut, (response,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cut(response: urllib3.BaseHTTPResponse) -> None:
    connection = response.connection
    sock = connection.sock if isinstance(connection, HTTPConnection) else None
    if sock is not None:
        with contextlib.suppress(OSError):  # it is closed already
            # That of the plain socket: TLS's own drops what a thread that reads still uses.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
