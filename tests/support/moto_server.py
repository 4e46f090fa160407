"""A third S3 server for tests: moto, in threads of the test's own process. It keeps its objects in memory."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from moto.server import ThreadedMotoServer


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """Runs a server that answers one request after the other; gives its URL."""
    server: Any = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    # Moto looks at a condition, and stores some time later what was sent on it.
    application, turn = server._server.app, threading.Lock()

    def one_by_one(environ: Any, start_response: Any) -> list[bytes]:
        with turn:
            return list(application(environ, start_response))

    server._server.app = one_by_one
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()
