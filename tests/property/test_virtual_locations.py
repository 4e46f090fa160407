"""Generated locations of virtual chunks: one that is taken leads to exactly the object of that name.

The meaning of the location is worked out here once more, in the plainest way: everything after the bucket, host or root
is the name, percent-encoding decoded, and nothing ends it. A web server that has every object, with the hash of its
name as its bytes, plays S3 and the web; for files the named file and those of shorter and decoded names are made.
Divergences 78 and 79 list the refused locations.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from icefs.engine.read.virtual import ContainerCredentials, VirtualResolver
from icefs.engine.read.workers import Workers
from icefs.errors import IcefsError, InvalidInputError
from icefs.format.config.storage import (
    HttpStore,
    LocalFileSystemStore,
    S3CompatibleStore,
    S3Options,
    VirtualChunkContainer,
)
from icefs.format.manifest.refs import VirtualRef
from icefs.zarr.virtual_refs import LocationCheck
from tests.support.soak import depth

_EVERY_BYTE = "".join(f"%{code:02X}" for code in range(256))

PIECES = st.one_of(
    st.sampled_from(
        ["a", "b", "/", "//", ".", "..", "/../", "/./", "%2e", "%2E%2e", "%2F", "%", "%zz", "%25", "%00", "ü"]
    ),
    st.sampled_from([chr(code) for code in range(128)]),
    st.sampled_from([_EVERY_BYTE[at : at + 3] for at in range(0, len(_EVERY_BYTE), 3)]),
    st.sampled_from(["?versionId=1", "#1", " ", "\n", "\\", "@", ":", ";v=1", "&", "+", "%C3%BC", "\ud800", "x" * 300]),
)
RESTS = st.lists(PIECES, min_size=1, max_size=6).map("".join)


def digest(name: bytes) -> bytes:
    return hashlib.sha256(name).digest()


def name_of(rest: str) -> bytes | None:
    """Returns the name that the end of a location means; None if it cannot be one."""
    try:
        raw = rest.encode()
    except UnicodeEncodeError:
        return None
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), raw)


class _Everything(BaseHTTPRequestHandler):
    """Has every object; answers with the hash of the path that was asked for."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        # Not `self.path`, from which slashes at the beginning are taken.
        body = digest(unquote_to_bytes(self.requestline.split(" ")[1][1:]))
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        part = body[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", '"x"')
        self.send_header("Last-Modified", "Mon, 02 Nov 2026 10:00:00 GMT")
        self.end_headers()
        self.wfile.write(part)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Everything) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="icefs-locations-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def resolver(server: str, root: Path) -> Iterator[VirtualResolver]:
    s3 = S3CompatibleStore(S3Options(endpoint_url=server, region="us-east-1", anonymous=True, force_path_style=True))
    containers = [
        VirtualChunkContainer("s3://bucket/", s3, "named"),
        VirtualChunkContainer(f"{server}/", HttpStore()),
        VirtualChunkContainer(f"file://{root}/", LocalFileSystemStore("/")),
    ]
    allowed = {one.url_prefix: ContainerCredentials(anonymous=True) for one in containers}
    found = VirtualResolver(containers, allowed, Workers(1))
    yield found
    found.close()


@pytest.mark.parametrize("scheme", ["s3", "http", "vcc"])
@given(rest=RESTS)
@example(rest="%%01")
@example(rest="a+b%2B")
@settings(max_examples=depth(settings.default.max_examples, 5000))
def test_a_location_that_is_taken_names_the_object_that_is_read(
    scheme: str, rest: str, resolver: VirtualResolver, server: str
):
    prefix = {"s3": "s3://bucket/", "http": f"{server}/", "vcc": "vcc://named/"}[scheme]
    name = name_of(rest)
    asked = b"" if name is None else (name if scheme == "http" else b"bucket/" + name)
    for location in (prefix + rest, stored(resolver, prefix + rest)):
        if location is None:
            continue
        try:
            data = resolver.read(VirtualRef(location, 4, 8))
        except IcefsError:
            assert location == prefix + rest, "it was taken, and cannot be read"
            continue
        assert name is not None
        assert data == digest(asked)[4:12]


@given(rest=RESTS)
@settings(max_examples=depth(settings.default.max_examples, 5000))
def test_a_file_that_is_taken_is_the_file_that_is_read(rest: str, resolver: VirtualResolver, root: Path):
    location = stored(resolver, f"file://{root}/{rest}")
    if location is None:
        return
    meant = resolved(rest)
    for name in {meant, *shortened(rest)}:
        make(root, name)
    try:
        data = resolver.read(VirtualRef(location, 4, 8))
    except IcefsError:
        assert not os.path.isfile(os.fsencode(root) + b"/" + meant)
    else:
        assert data == digest(collapsed(meant))[4:12]


def stored(resolver: VirtualResolver, location: str) -> str | None:
    """Returns a location as a reference keeps it; None if it is refused."""
    try:
        return LocationCheck(resolver.has_container)(location)
    except InvalidInputError:
        return None


def resolved(rest: str) -> bytes:
    """Returns the name that a file's location means, whose `.` and `..` are resolved before anything is decoded."""
    kept: list[str] = []
    segments = rest.split("/")
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    name = name_of("/".join(kept))
    assert name is not None, "it was taken"
    return name


def collapsed(name: bytes) -> bytes:
    """Returns the name under which the file is: a directory's empty names count for nothing."""
    return re.sub(rb"/+", b"/", name).strip(b"/")


def shortened(rest: str) -> Iterator[bytes]:
    """Yields the names of other files that a careless reader would take it for."""
    raw = rest.encode(errors="ignore")
    yield raw
    for mark in (b"?", b"#", b"%", b" ", b"\n", b"\\"):
        yield raw.partition(mark)[0]


def make(root: Path, name: bytes) -> None:
    """Makes a file whose bytes tell its name, where a file can have that name."""
    segments = collapsed(name).split(b"/")
    if b"\0" in name or not {b"", b".", b".."}.isdisjoint(segments):
        return
    path = os.path.join(os.fsencode(root), *segments)
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(digest(collapsed(name)))
