"""A small server of Google Cloud Storage's JSON interface that keeps every condition; in this process.

    with PreciseGcs() as server:
        GcsStorage("bucket", "", GcsOptions(endpoint_url=server.endpoint_url, anonymous=True))

It does what fake-gcs-server does not: `ifGenerationMatch` at the end of uploads in parts and for the source of copies,
`ifGenerationNotMatch` and If-Match of reads, storage classes. It keeps each request, so that tests can look at them.
"""

import json
import re
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Stored:
    """An object."""

    data: bytes
    generation: int
    made_s: float
    resource: dict[str, Any]

    def described(self, name: str) -> dict[str, Any]:
        """Returns its description, as the service gives it."""
        made = datetime.fromtimestamp(self.made_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            **{key: value for key, value in self.resource.items() if key in ("metadata", "storageClass")},
            "name": name,
            "bucket": "bucket",
            "size": str(len(self.data)),
            "generation": str(self.generation),
            "timeCreated": made,
            "updated": made,
        }


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass
class _Upload:
    name: str
    condition: str | None
    resource: dict[str, Any]
    data: bytearray = field(default_factory=bytearray)
    made: Stored | None = None


class PreciseGcs:
    """Listens on a free port of this machine; has one bucket, called `bucket`."""

    endpoint_url: str

    def __init__(self) -> None:
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, _Upload] = {}
        self.seen: list[Seen] = []
        self.lock = threading.Lock()
        self._generation = 1_700_000_000_000_000

    def __enter__(self) -> Self:
        server = self

        class Handler(_Handler):
            owner = server

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint_url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def store(self, name: str, data: bytes, resource: dict[str, Any]) -> Stored:
        """Keeps an object; the caller holds the lock."""
        self._generation += 1
        made = self.objects[name] = Stored(data, self._generation, time.time(), resource)
        return made

    def generation_of(self, name: str) -> int:
        """Returns the generation of an object; 0 for none."""
        found = self.objects.get(name)
        return 0 if found is None else found.generation


class _Handler(BaseHTTPRequestHandler):
    owner: PreciseGcs
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _describe(self, value: dict[str, Any], **headers: str) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})

    def _refuse(self, status: int, reason: str) -> None:
        error = {"code": status, "message": reason, "errors": [{"reason": reason}]}
        self._answer(status, json.dumps({"error": error}).encode(), {"Content-Type": "application/json"})

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.owner.lock:
            self.owner.seen.append(Seen(self.command, parts.path, query, dict(self.headers), body))
            self._route(parts.path, query, body)

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def _route(self, path: str, query: dict[str, str], body: bytes) -> None:
        objects = "/storage/v1/b/bucket/o"
        if path == f"/upload{objects}" and self.command == "POST":
            self._upload(query, body)
        elif path == f"/upload{objects}" and self.command == "PUT":
            self._part(query, body)
        elif path.startswith(f"/download{objects}/"):
            self._read(unquote(path.removeprefix(f"/download{objects}/")), query)
        elif path == objects:
            self._list(query)
        elif "/rewriteTo/" in path:
            source, _, target = path.removeprefix(f"{objects}/").partition("/rewriteTo/b/bucket/o/")
            self._copy(unquote(source), unquote(target), query, body)
        elif path.startswith(f"{objects}/"):
            self._one(unquote(path.removeprefix(f"{objects}/")))
        elif path.startswith("/bucket/"):
            self._read(unquote(path.removeprefix("/bucket/")), query)
        else:
            self._refuse(404, "notFound")

    def _holds(self, name: str, condition: str | None) -> bool:
        if condition is None or int(condition) == self.owner.generation_of(name):
            return True
        self._refuse(412, "conditionNotMet")
        return False

    def _upload(self, query: dict[str, str], body: bytes) -> None:
        condition = query.get("ifGenerationMatch")
        if query.get("uploadType") == "resumable":
            resource = json.loads(body or b"{}")
            key = uuid.uuid4().hex
            self.owner.uploads[key] = _Upload(resource["name"], condition, resource)
            # A host that is not there: a client has to go on where it is.
            self._describe({}, Location=f"http://elsewhere.invalid/upload/storage/v1/b/bucket/o?upload_id={key}")
            return
        boundary = self.headers["Content-Type"].partition("boundary=")[2].strip('"').encode()
        _, described, media, _ = body.split(b"--" + boundary)
        resource = json.loads(described.partition(b"\r\n\r\n")[2])
        data = media.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        name = resource["name"]
        if self._holds(name, condition):
            self._describe(self.owner.store(name, data, resource).described(name))

    def _part(self, query: dict[str, str], body: bytes) -> None:
        upload = self.owner.uploads.get(query["upload_id"])
        found = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)", self.headers["Content-Range"])
        if upload is None or found is None:
            self._refuse(404, "notFound")
            return
        if found[1] is not None and int(found[1]) == len(upload.data):
            upload.data += body
        if upload.made is None and len(upload.data) == int(found[3]):
            if not self._holds(upload.name, upload.condition):
                return
            upload.made = self.owner.store(upload.name, bytes(upload.data), upload.resource)
        if upload.made is not None:
            self._describe(upload.made.described(upload.name))
        elif upload.data:
            self._answer(308, headers={"Range": f"bytes=0-{len(upload.data) - 1}"})
        else:
            self._answer(308)

    def _read(self, name: str, query: dict[str, str]) -> None:
        found = self.owner.objects.get(name)
        if found is None:
            self._answer(404, f"No such object: bucket/{name}".encode(), {"Content-Type": "text/html; charset=UTF-8"})
            return
        if query.get("ifGenerationNotMatch") == str(found.generation):
            self._answer(304)
            return
        tag = f'"tag-{found.generation}"'
        if self.headers.get("If-Match", tag) != tag:
            self._answer(412)
            return
        headers = {
            "Content-Type": "application/octet-stream",
            "x-goog-generation": str(found.generation),
            "ETag": tag,
            "Last-Modified": formatdate(found.made_s, usegmt=True),
        }
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._answer(200, found.data, headers)
            return
        start, size = int(wanted[1]), len(found.data)
        end = min(int(wanted[2]) + 1, size) if wanted[2] else size
        if start >= size:
            self._answer(416)
            return
        self._answer(206, found.data[start:end], {**headers, "Content-Range": f"bytes {start}-{end - 1}/{size}"})

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], set()
        for name in sorted(self.owner.objects):
            if not name.startswith(prefix):
                continue
            head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if found:
                prefixes.add(f"{prefix}{head}{delimiter}")
            else:
                items.append(self.owner.objects[name].described(name))
        # Small pages, so that each listing takes several.
        start = int(query.get("pageToken", "0"))
        more = {"nextPageToken": str(start + 400)} if len(items) > start + 400 else {}
        self._describe({"items": items[start : start + 400], "prefixes": sorted(prefixes) if not start else [], **more})

    def _copy(self, source: str, target: str, query: dict[str, str], body: bytes) -> None:
        if source not in self.owner.objects:
            self._refuse(404, "notFound")
        elif self._holds(source, query.get("ifSourceGenerationMatch")):
            made = self.owner.store(target, self.owner.objects[source].data, json.loads(body or b"{}"))
            size = str(len(made.data))
            told = {"done": True, "totalBytesRewritten": size, "objectSize": size, "resource": made.described(target)}
            self._describe(told)

    def _one(self, name: str) -> None:
        found = self.owner.objects.get(name)
        if found is None:
            self._refuse(404, "notFound")
        elif self.command == "DELETE":
            del self.owner.objects[name]
            self._answer(204)
        else:
            self._describe(found.described(name))
