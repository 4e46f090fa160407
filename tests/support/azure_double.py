"""The part of Azure Blob Storage that Azurite does not play: copies that take time, and copies that fail.

with AzureDouble(pending_polls=3) as double:
    AzureStorage("container", "prefix", double.options())

It keeps objects in memory, checks no signatures, and knows what that takes: Put Blob, Get Blob, Get Blob Properties
and Copy Blob with the condition of its source.
"""

import re
import threading
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit

from icefs.storage.azure.options import AzureCredentials, AzureOptions

_RANGE = re.compile(r"bytes=(\d+)-(\d+)?")


@dataclass
class _Blob:
    data: bytes
    etag: str
    polls_left: int = 0
    is_copy: bool = False


class AzureDouble:
    """Listens on a free port of this machine.

    Attributes:
        pending_polls: How often a copy is still under way when its target is looked at.
        copy_ends: What becomes of copies then.
    """

    def __init__(self, *, pending_polls: int, copy_ends: str = "success") -> None:
        self.pending_polls = pending_polls
        self.copy_ends = copy_ends
        self.blobs: dict[str, _Blob] = {}

    def __enter__(self) -> Self:
        double = self

        class Handler(_Handler):
            owner = double

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def options(self, **changes: Any) -> AzureOptions:
        """Returns the options for this server."""
        url = f"http://127.0.0.1:{self._server.server_address[1]}/account"
        return AzureOptions("account", url, credentials=AzureCredentials(account_key="a2V5"), **changes)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: AzureDouble

    def log_message(self, *_: Any) -> None:
        pass

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = urlsplit(self.path).path
        blob = _Blob(body, f'"0x{uuid.uuid4().hex[:15].upper()}"')
        source_url = self.headers.get("x-ms-copy-source")
        if source_url is None:
            self.owner.blobs[name] = blob
            self._answer(201, blob)
            return
        source = self.owner.blobs.get(urlsplit(source_url).path)
        if source is None:
            self._refuse(404, "BlobNotFound")
        elif self.headers.get("x-ms-source-if-match") not in (None, source.etag):
            self._refuse(412, "SourceConditionNotMet")
        else:
            blob.data, blob.is_copy, blob.polls_left = source.data, True, self.owner.pending_polls
            self.owner.blobs[name] = blob
            self._answer(202, blob)

    def do_HEAD(self) -> None:
        self._read(is_head=True)

    def do_GET(self) -> None:
        self._read(is_head=False)

    def _read(self, *, is_head: bool) -> None:
        blob = self.owner.blobs.get(urlsplit(self.path).path)
        if blob is None:
            self._refuse(404, "BlobNotFound")
            return
        blob.polls_left = max(blob.polls_left - 1, 0)
        asked = _RANGE.fullmatch(self.headers.get("x-ms-range", ""))
        if asked is None or is_head:
            self._answer(200, blob, blob.data)
            return
        start = int(asked[1])
        end = min(int(asked[2] or len(blob.data)) + 1, len(blob.data))
        self._answer(206, blob, blob.data[start:end], f"bytes {start}-{end - 1}/{len(blob.data)}")

    def _answer(self, status: int, blob: _Blob, data: bytes = b"", content_range: str | None = None) -> None:
        self.send_response(status)
        self.send_header("x-ms-request-id", str(uuid.uuid4()))
        self.send_header("ETag", blob.etag)
        self.send_header("Last-Modified", self.date_time_string())
        self.send_header("x-ms-blob-type", "BlockBlob")
        if blob.is_copy:
            self.send_header("x-ms-copy-status", "pending" if blob.polls_left else self.owner.copy_ends)
        if content_range is not None:
            self.send_header("Content-Range", content_range)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("x-ms-request-id", str(uuid.uuid4()))
        self.send_header("x-ms-error-code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
