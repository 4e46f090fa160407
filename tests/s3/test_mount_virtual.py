"""Virtual chunks in buckets and on web servers, through a mount: what was referenced, or EIO and a reason."""

import email.utils
import errno
import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import icechunk
import pytest

from icefs.storage.s3.store import S3Storage
from tests.conformance.official import GROUP, array_json, put
from tests.support.fault_proxy import FaultProxy
from tests.support.mounting import Mount, mounted
from tests.support.s3_server import SeaweedServer

ICEFS = Path(sys.executable).with_name("icefs")
OLD, NEW = bytes(range(250)) * 4, bytes(range(250, 0, -1)) * 4
SPAN = 100
CACHE = 1 << 30


class WebServer:
    """A careful web server: ranges, entity tags, times, conditions."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, int]] = {}
        self.requests: list[str] = []

    def put(self, name: str, data: bytes, modified_s: int) -> str:
        self.files[name] = (data, modified_s)
        return etag(data)

    def __enter__(self) -> Self:
        owner = self

        class Handler(_WebHandler):
            files = owner.files

            def do_GET(self) -> None:
                owner.requests.append(self.path)
                super().do_GET()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def etag(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class _WebHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: dict[str, tuple[bytes, int]]

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        found = self.files.get(self.path)
        if found is None:
            self._answer(404, b"")
            return
        data, modified_s = found
        since = self.headers.get("If-Unmodified-Since")
        is_old = since is not None and email.utils.parsedate_to_datetime(since).timestamp() < modified_s
        if is_old or self.headers.get("If-Match", f'"{etag(data)}"') != f'"{etag(data)}"':
            self._answer(412, b"")
            return
        first, last = (int(part) for part in self.headers["Range"].removeprefix("bytes=").split("-"))
        if first >= len(data):
            self._answer(416, b"", ("Content-Range", f"bytes */{len(data)}"))
            return
        part = data[first : last + 1]
        span = ("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        modified = ("Last-Modified", email.utils.formatdate(modified_s, usegmt=True))
        self._answer(206, part, ("ETag", f'"{etag(data)}"'), modified, span)

    def _answer(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response_only(status)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as web:
        yield web


class Place:
    """A local repository whose chunks lie in a bucket and on a web server."""

    def __init__(self, path: Path, storage: S3Storage, endpoint_url: str, web: WebServer) -> None:
        self.path, self.storage, self.web = path, storage, web
        bucket, web_prefix = f"s3://{storage.bucket}/{storage.prefix}/data/", f"{web.url}/data/"
        self.prefixes = (bucket, web_prefix)
        self.allowed = (f"{bucket}?endpoint_url={endpoint_url}", web_prefix)
        s3_store = icechunk.s3_store(
            region="us-east-1", endpoint_url=endpoint_url, allow_http=True, force_path_style=True, s3_compatible=True
        )
        containers = {
            bucket: icechunk.VirtualChunkContainer(bucket, s3_store),
            web_prefix: icechunk.VirtualChunkContainer(web_prefix, icechunk.http_store()),
        }
        repo = icechunk.Repository.create(
            icechunk.local_filesystem_storage(str(path)),
            config=icechunk.RepositoryConfig(virtual_chunk_containers=containers),
        )
        self.write(OLD, first=True)
        refs: list[tuple[str, int, Any]] = []
        for prefix in self.prefixes:
            refs += [
                (f"{prefix}tagged", 10, etag(OLD)),
                (f"{prefix}dated", 20, datetime.fromtimestamp(self.modified_s, UTC)),
                (f"{prefix}plain", 30, None),
                (f"{prefix}plain", len(OLD) - SPAN, None),
                (f"{prefix}plain", len(OLD) - SPAN + 1, None),
                (f"{prefix}gone", 0, None),
            ]
        session = repo.writable_session("main")
        put(session.store, "zarr.json", GROUP)
        put(session.store, "v/zarr.json", array_json((len(refs) * SPAN,), (SPAN,)))
        for number, (location, offset, checksum) in enumerate(refs):
            session.store.set_virtual_ref(
                f"v/c/{number}", location, offset=offset, length=SPAN, checksum=checksum, validate_container=False
            )
        session.commit("virtual")
        self.offsets = [offset for _, offset, _ in refs]
        self.count = len(refs) // 2

    def write(self, data: bytes, *, first: bool = False) -> None:
        """Writes the objects of both kinds."""
        for name in ("tagged", "dated", "plain"):
            self.storage.put(f"data/{name}", data)
        if first:
            self.modified_s = self.storage.head("data/plain").last_modified // 1_000_000
        for name in ("tagged", "dated", "plain"):
            self.web.put(f"/data/{name}", data, self.modified_s if first else self.modified_s + 5)


@pytest.fixture
def place(
    tmp_path: Path,
    s3_server: SeaweedServer,
    s3_storage: S3Storage,
    proxy: FaultProxy,
    web: WebServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return Place(tmp_path / "repo", s3_storage, proxy.endpoint_url, web)


def read(mount: Mount, number: int) -> bytes | str:
    """Reads a chunk, or says what that fails with."""
    try:
        return (mount / f"v/c/{number}").read_bytes()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def test_virtual_chunks_are_what_was_referenced_or_nothing(place: Place, proxy: FaultProxy) -> None:
    count = place.count
    expected: list[bytes | str] = [OLD[offset : offset + SPAN] for offset in place.offsets]
    for first in (0, count):
        expected[first + 4] = expected[first + 5] = "EIO"  # beyond the end, and not there
    options = {"branch": "main", "read_only": True, "allow_virtual": place.allowed, "may_complain": True}
    with mounted(place.path, **options) as mount:
        proxy.plan("truncate", path="/data/tagged")
        assert [read(mount, number) for number in range(2 * count)] == expected
        ranges = {
            value for request in proxy.requests for name, value in request.headers.items() if name.lower() == "range"
        }
        assert "bytes=10-109" in ranges
    # Somebody writes other bytes of the same length, in a later second.
    time.sleep(max(0.0, place.modified_s + 1.1 - time.time()))
    place.write(NEW)
    with mounted(place.path, **options) as mount:
        for first in (0, count):
            assert [read(mount, first + number) for number in range(2)] == ["EIO", "EIO"]
            assert read(mount, first + 2) == NEW[30 : 30 + SPAN]  # nothing was said that it should not
        said = [line for line in mount.complaints() if "modified" in line]
        assert sum("/tagged" in line for line in said) >= 2, said
        assert sum("/dated" in line for line in said) >= 2, said
        failures = json.dumps(mount.control("stats.json")["failures"])
        assert "was modified after it was referenced" in failures


def test_virtual_chunks_that_were_not_allowed(place: Place, proxy: FaultProxy) -> None:
    with mounted(place.path, branch="main", read_only=True, may_complain=True) as mount:
        assert {read(mount, number) for number in range(2 * place.count)} == {"EACCES"}
        assert any("--allow-virtual" in line or "may not be followed" in line for line in mount.complaints())
    assert proxy.requests == []
    options = {"branch": "main", "read_only": True, "may_complain": True}
    with mounted(place.path, **options, allow_virtual=place.allowed[1:]) as mount:
        assert read(mount, 0) == "EACCES"
        assert read(mount, place.count) == OLD[10 : 10 + SPAN]


def asked(proxy: FaultProxy, web: WebServer) -> tuple[set[str], set[str]]:
    """Returns which objects the bucket and the web server were asked for since the last time."""
    bucket = {request.path.rpartition("/")[2] for request in proxy.requests if "/data/" in request.path}
    found = bucket, {path.removeprefix("/data/") for path in web.requests}
    proxy.requests.clear()
    web.requests.clear()
    return found


def warm(path: Path) -> dict[str, int]:
    done = subprocess.run([ICEFS, "warmup", path, "--json"], check=True, capture_output=True, text=True)
    told: dict[str, int] = json.loads(done.stdout)
    return told


def test_what_has_a_checksum_is_read_from_afar_once(
    place: Place, proxy: FaultProxy, web: WebServer, tmp_path: Path
) -> None:
    options = {
        "branch": "main",
        "read_only": True,
        "may_complain": True,
        "cache_dir": str(tmp_path / "cache"),
        "cache_size": CACHE,
    }
    allowed = {**options, "allow_virtual": place.allowed}
    checked = [first + number for first in (0, place.count) for number in range(2)]
    expected = {number: OLD[place.offsets[number] : place.offsets[number] + SPAN] for number in checked}
    with mounted(place.path, **allowed) as mount:
        assert {number: read(mount, number) for number in checked} == expected
    names = {"tagged", "dated"}
    assert all(names <= found for found in asked(proxy, web))
    time.sleep(max(0.0, place.modified_s + 1.1 - time.time()))
    place.write(NEW)
    place.storage.delete(["data/dated"])
    with mounted(place.path, **allowed) as mount:
        # These are the bytes that the snapshot refers to, whatever has become of the objects.
        assert {number: read(mount, number) for number in checked} == expected
        assert all(names.isdisjoint(found) for found in asked(proxy, web))
        # A chunk without a checksum is whatever is there now, for each mount again.
        for first in (0, place.count):
            assert read(mount, first + 2) == NEW[30 : 30 + SPAN]
    asked(proxy, web)
    with mounted(place.path, **allowed) as mount:
        assert [read(mount, first + 2) for first in (0, place.count)] == [NEW[30 : 30 + SPAN]] * 2
    assert all("plain" in found for found in asked(proxy, web))
    with mounted(place.path, **{**allowed, "cache_size": 0}) as mount:
        assert {read(mount, number) for number in checked} == {"EIO"}
    with mounted(place.path, **options) as mount:
        assert {read(mount, number) for number in checked} == {"EACCES"}


def test_damage_of_what_is_kept_is_no_danger(place: Place, proxy: FaultProxy, web: WebServer, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    options = {
        "branch": "main",
        "read_only": True,
        "allow_virtual": place.allowed,
        "cache_dir": str(cache),
        "cache_size": CACHE,
    }
    for damaged in (False, True):
        with mounted(place.path, **options) as mount:
            assert read(mount, 0) == OLD[10 : 10 + SPAN]
            assert "tagged" in asked(proxy, web)[0]
        if not damaged:
            [entry] = [path for path in (cache / "v1").glob("??/*") if path.parent.name != "tmp"]
            data = bytearray(entry.read_bytes())
            data[-1] ^= 1
            entry.write_bytes(data)


def test_warmup_of_virtual_chunks(place: Place, proxy: FaultProxy, web: WebServer, tmp_path: Path) -> None:
    options = {
        "branch": "main",
        "read_only": True,
        "cache_dir": str(tmp_path / "cache"),
        "cache_size": CACHE,
        "may_complain": True,
    }
    with mounted(place.path, **options, allow_virtual=place.allowed[:1]) as mount:
        told = warm(mount / "v/c/0")
        assert (told["chunks"], told["bytes"], told["fetched_bytes"], told["skipped_chunks"]) == (1, SPAN, SPAN, 0)
        told = warm(mount.path)
        # Two have checksums and may be followed.
        assert (told["chunks"], told["done_chunks"], told["bytes"]) == (2, 2, 2 * SPAN)
        assert (told["fetched_bytes"], told["skipped_chunks"]) == (SPAN, 2 * place.count - 2)
        assert asked(proxy, web) == ({"tagged", "dated"}, set())
        out = subprocess.run([ICEFS, "warmup", mount.path], check=True, capture_output=True, text=True).stdout
        assert "; 0 bytes of that fetched now; 10 virtual chunks cannot be kept" in out
    with mounted(place.path, **options, allow_virtual=place.allowed[:1]) as mount:
        assert [read(mount, number) for number in range(2)] == [OLD[10 : 10 + SPAN], OLD[20 : 20 + SPAN]]
    assert asked(proxy, web)[0] <= {"plain"}  # which was fetched ahead
