"""Virtual chunks read by both libraries: checksums of local files, and chunks on a web server."""

import asyncio
import email.utils
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import icechunk as ic
import pytest
from zarr.core.buffer import default_buffer_prototype

import icefs
from tests.conformance.official import GROUP, GeneratedRepo, array_json, commit, create, credentials, open_official
from tests.conformance.oracle import error_facts
from tests.conformance.reading import open_icefs

MODIFIED = ("StorageError", "virtual-chunk-modified")
DATA = bytes(range(200))
_WRITTEN_AT = 1_600_000_000


def ask(store: Any, key: str) -> bytes | tuple[str, str | None]:
    """Reads a key; returns its bytes, or the class and kind of the error."""
    try:
        return asyncio.run(store.get(key, default_buffer_prototype())).to_bytes()
    except (ic.IcechunkError, icefs.IcechunkError) as error:
        return error_facts(error)


def entity_tag(path: Path) -> str:
    status = path.stat()
    return f"{status.st_ino:x}-{status.st_mtime_ns // 1000:x}-{status.st_size:x}"


@pytest.mark.parametrize(
    ("checksum", "official", "ours"),
    [
        (lambda path: datetime.fromtimestamp(_WRITTEN_AT, UTC), MODIFIED, DATA[3:10]),  # Divergence 29
        (lambda path: datetime.fromtimestamp(_WRITTEN_AT + 1, UTC), DATA[3:10], DATA[3:10]),
        (lambda path: datetime.fromtimestamp(_WRITTEN_AT - 1, UTC), MODIFIED, MODIFIED),
        (entity_tag, MODIFIED, DATA[3:10]),  # Divergence 28
        (lambda path: f'"{entity_tag(path)}"', MODIFIED, DATA[3:10]),  # Divergence 28
        (lambda path: entity_tag(path) + "0", MODIFIED, MODIFIED),
        (lambda path: None, DATA[3:10], DATA[3:10]),
    ],
)
def test_checksums_of_local_files(tmp_path, checksum, official, ours):
    file = tmp_path / "data" / "file.bin"
    file.parent.mkdir()
    file.write_bytes(DATA)
    os.utime(file, ns=(0, _WRITTEN_AT * 10**9 + 500_000_000))
    base = f"file://{file.parent}/"
    container = ic.VirtualChunkContainer(base, ic.local_filesystem_store(str(file.parent)))
    repo = create(tmp_path / "repo", 2, virtual=[base], virtual_chunk_containers={base: container})
    repo.save_config()
    session = repo.writable_session("main")
    asyncio.run(session.store.set("zarr.json", default_buffer_prototype().buffer.from_bytes(array_json([1], [1]))))
    session.store.set_virtual_ref("c/0", f"{base}file.bin", offset=3, length=7, checksum=checksum(file))
    session.commit("virtual")
    generated = GeneratedRepo("checksums", tmp_path / "repo", 2, virtual_prefixes=(base,))
    assert ask(open_official(generated).readonly_session("main").store, "c/0") == official
    assert ask(open_icefs(generated).readonly_session("main").store, "c/0") == ours


class _WebServer(BaseHTTPRequestHandler):
    """Serves one file, with ranges, an entity tag and a modification time."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        status, body = 404, b""
        headers = {"ETag": '"tag"', "Last-Modified": email.utils.formatdate(_WRITTEN_AT, usegmt=True)}
        if self.path == "/data/a%20b.bin":
            since = self.headers.get("If-Unmodified-Since")
            is_modified = since and email.utils.parsedate_to_datetime(since).timestamp() < _WRITTEN_AT
            if is_modified or self.headers.get("If-Match", '"tag"').strip('"') != "tag":
                status = 412
            else:
                first, _, last = self.headers.get("Range", f"bytes=0-{len(DATA)}").removeprefix("bytes=").partition("-")
                status, body = 206, DATA[int(first) : int(last) + 1]
                headers["Content-Range"] = f"bytes {first}-{int(first) + len(body) - 1}/{len(DATA)}"
        self.send_response_only(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def web_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _WebServer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/data/"
        server.shutdown()
        thread.join()


def test_chunks_on_a_web_server(tmp_path, web_url):
    container = ic.VirtualChunkContainer(web_url, ic.http_store({"allow_http": "true"}))
    access = ic.containers_credentials({web_url: ic.credentials.HttpAccess})
    storage = ic.local_filesystem_storage(str(tmp_path / "repo"))
    config = ic.RepositoryConfig(virtual_chunk_containers={web_url: container})
    repo = ic.Repository.create(storage, config=config, authorize_virtual_chunk_access=access)
    repo.save_config()
    session = repo.writable_session("main")
    when = datetime.fromtimestamp(_WRITTEN_AT, UTC)
    commit_first = {"zarr.json": array_json([9], [1])}
    for key, value in commit_first.items():
        asyncio.run(session.store.set(key, default_buffer_prototype().buffer.from_bytes(value)))
    references = [
        ("a%20b.bin", 0, 200, None, DATA),
        ("a%20b.bin", 10, 5, None, DATA[10:15]),
        ("a%20b.bin", 10, 5, "tag", DATA[10:15]),
        ("a%20b.bin", 10, 5, "other", MODIFIED),
        ("a%20b.bin", 10, 5, when, DATA[10:15]),
        ("a%20b.bin", 10, 5, datetime.fromtimestamp(_WRITTEN_AT - 9, UTC), MODIFIED),
        ("missing.bin", 0, 5, None, ("StorageError", "virtual-chunk-fetch")),
        ("a%20b.bin", 190, 50, None, ("StorageError", "invalid-object-size")),
    ]
    for number, (name, offset, length, checksum, _) in enumerate(references):
        session.store.set_virtual_ref(f"c/{number}", web_url + name, offset=offset, length=length, checksum=checksum)
    session.commit("virtual")
    official = ic.Repository.open(storage, authorize_virtual_chunk_access=access).readonly_session("main").store
    ours = icefs.Repository.open(
        icefs.local_filesystem_storage(tmp_path / "repo"),
        authorize_virtual_chunk_access=icefs.containers_credentials({web_url: icefs.HttpAccess}),
    ).readonly_session("main")
    for number, (*_, expected) in enumerate(references):
        assert ask(official, f"c/{number}") == expected, number
        assert ask(ours.store, f"c/{number}") == expected, number
    assert sorted(ours.all_virtual_chunk_locations()) == sorted(web_url + name for name, *_ in references)


def test_containers_of_the_opener_come_in_the_place_of_the_persisted_ones(tmp_path):
    """A repository may be moved, and its virtual chunks with it."""
    for name, text in (("old", b"the old place"), ("new", b"the new place")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file.bin").write_bytes(text)
    old, new = (f"file://{tmp_path}/{name}/" for name in ("old", "new"))
    path = tmp_path / "repo"
    store = ic.local_filesystem_store(str(tmp_path / "old"))
    persisted = {old: ic.VirtualChunkContainer(old, store, name="data")}
    repo = create(path, 2, virtual=[old], virtual_chunk_containers=persisted)
    repo.save_config()
    commit(repo, "array", {"zarr.json": GROUP, "a/zarr.json": array_json([1], [1])})
    session = repo.writable_session("main")
    session.store.set_virtual_ref("a/c/0", "vcc://data/file.bin", offset=0, length=7)
    session.commit("virtual")
    for module, authorize in ((ic, credentials), (icefs, _credentials)):
        storage = module.local_filesystem_storage(str(path))
        moved = module.VirtualChunkContainer(new, module.local_filesystem_store(str(tmp_path / "new")), name="data")
        config = module.RepositoryConfig(virtual_chunk_containers={new: moved})
        opened = module.Repository.open(storage, config, authorize_virtual_chunk_access=authorize([new]))
        assert ask(opened.readonly_session("main").store, "a/c/0") == b"the new"
        assert opened.readonly_session("main").all_virtual_chunk_locations() == [f"{new}file.bin"]
        assert opened.authorized_virtual_container_prefixes == {new}
        unmoved = module.Repository.open(storage, authorize_virtual_chunk_access=authorize([old]))
        assert ask(unmoved.readonly_session("main").store, "a/c/0") == b"the old"


def _credentials(prefixes: list[str]) -> dict[str, Any]:
    return icefs.containers_credentials(dict.fromkeys(prefixes, icefs.credentials.LocalFileSystemAccess))
