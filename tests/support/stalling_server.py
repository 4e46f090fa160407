"""A repository served over HTTP by this process, whose chunks may be kept waiting."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class StallingServer(ThreadingHTTPServer):
    """Serves a directory.

    Attributes:
        may_answer: Whether requests for chunks are answered.
        waiting: How many requests for chunks there were.
    """

    daemon_threads = True

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.directory = directory
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.waiting = 0

    @property
    def url(self) -> str:
        """Where the directory is."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StallingServer

    def do_GET(self) -> None:
        if self.path.startswith("/chunks/"):
            self.server.waiting += 1
            if not self.server.may_answer.wait(60):
                return
        try:
            data = (self.server.directory / self.path.lstrip("/")).read_bytes()
        except OSError:
            self._answer(404, b"", {})
            return
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        if not wanted:
            self._answer(200, data, {})
            return
        first, _, last = wanted.partition("-")
        start = int(first) if first else max(0, len(data) - int(last))
        end = min(int(last) + 1, len(data)) if first and last else len(data)
        self._answer(206, data[start:end], {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})

    def _answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data)), "ETag": '"0"'}).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[StallingServer]:
    """Serves a directory meanwhile."""
    with StallingServer(directory) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.may_answer.set()
            server.shutdown()
            thread.join()
