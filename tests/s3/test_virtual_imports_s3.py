"""Files in a bucket and on a web server are referred to or copied, and read back equal."""

import email.utils
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import icechunk
import numpy as np
import pytest
import zarr

from icefs.api.repository import Repository
from icefs.api.storage import local_filesystem_storage
from icefs.engine.write.repository import WritableRepository
from icefs.errors import StorageError
from icefs.storage.local.store import LocalStorage
from icefs.transfer.virtual.importing import VirtualRequest, import_virtual
from tests.support.copied_samples import copied
from tests.support.virtual_samples import make

# zarr-python warns of codecs and types that the specification lacks.
pytestmark = pytest.mark.filterwarnings("ignore")


class Handler(BaseHTTPRequestHandler):
    """Serves files whose versions only their times tell."""

    protocol_version = "HTTP/1.1"
    files: dict[str, tuple[bytes, int]]

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        if self.path not in self.files:
            self.answer(404, b"")
            return
        data, modified_s = self.files[self.path]
        since = self.headers.get("If-Unmodified-Since")
        if since and email.utils.parsedate_to_datetime(since).timestamp() < modified_s:
            self.answer(412, b"")
            return
        modified = ("Last-Modified", email.utils.formatdate(modified_s, usegmt=True))
        wanted = self.headers.get("Range")
        if wanted is None:
            self.answer(200, data, modified)
            return
        first, last = (int(part) for part in wanted.removeprefix("bytes=").split("-"))
        part = data[first : last + 1]
        span = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
        self.answer(206, part, modified, ("Content-Range", span))

    def answer(self, status, body, *headers):
        self.send_response_only(status)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def web():
    files = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Files", (Handler,), {"files": files}))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", files
    server.shutdown()
    server.server_close()
    thread.join()


def refer(root, files, **more):
    repository = WritableRepository.create(LocalStorage(root))
    try:
        return import_virtual(repository, VirtualRequest(files, message="m", **more))
    finally:
        repository.close()


def ours(root, allow):
    opened = Repository.open(local_filesystem_storage(root), authorize_virtual_chunk_access=dict.fromkeys(allow))
    return zarr.open_group(opened.readonly_session("main").store, mode="r")


def official(root, prefixes, credentials=None):
    opened = icechunk.Repository.open(
        icechunk.local_filesystem_storage(str(root)),
        authorize_virtual_chunk_access=icechunk.containers_credentials(dict.fromkeys(prefixes, credentials)),
    )
    return zarr.open_group(opened.readonly_session("main").store, mode="r")


@pytest.mark.parametrize("kind", ["netcdf4", "zarr2", "hdf5"])
def test_files_in_a_bucket(tmp_path, s3_server, s3_storage, s3_prefix, monkeypatch, kind):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    path, expected = make(kind, tmp_path)
    client = s3_server.client()
    for file in [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]:
        client.put_object(
            Bucket=s3_storage.bucket, Key=f"{s3_prefix}/{file.relative_to(tmp_path)}", Body=file.read_bytes()
        )
    name = "*.nc" if kind == "netcdf4" else path.name
    url = f"s3://{s3_storage.bucket}/{s3_prefix}/{name}?endpoint_url={s3_server.endpoint_url}&force_path_style=true"
    done = refer(tmp_path / "repo", [url])
    prefix = f"s3://{s3_storage.bucket}/{s3_prefix}/" + (f"{path.name}/" if kind == "zarr2" else "")
    assert [container.url_prefix for container in done.containers] == [prefix]
    keys = s3_server.environment()
    credentials = icechunk.s3_static_credentials(
        access_key_id=keys["AWS_ACCESS_KEY_ID"], secret_access_key=keys["AWS_SECRET_ACCESS_KEY"]
    )
    for group in (ours(tmp_path / "repo", done.allow), official(tmp_path / "repo", [prefix], credentials)):
        for array, values in expected.items():
            np.testing.assert_array_equal(group[array][...], values)


@pytest.mark.parametrize("kind", ["netcdf4", "netcdf3", "zarr2"])
def test_files_in_a_bucket_are_copied(tmp_path, s3_server, s3_storage, s3_prefix, monkeypatch, kind):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    path, expected = make(kind, tmp_path)
    client = s3_server.client()
    for file in [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]:
        client.put_object(
            Bucket=s3_storage.bucket, Key=f"{s3_prefix}/{file.relative_to(tmp_path)}", Body=file.read_bytes()
        )
    place = f"s3://{s3_storage.bucket}/{s3_prefix}/{path.name}"
    group = copied(tmp_path / "repo", f"{place}?endpoint_url={s3_server.endpoint_url}&force_path_style=true")
    for array, values in expected.items():
        np.testing.assert_array_equal(group[array][...], values)


@pytest.mark.parametrize("kind", ["netcdf3", "tiff", "netcdf4"])
def test_files_on_a_web_server_are_copied(tmp_path, web, kind):
    url, files = web
    path, expected = make(kind, tmp_path)
    files[f"/data/{path.name}"] = (path.read_bytes(), 1_700_000_000)
    group = copied(tmp_path / "repo", f"{url}/data/{path.name}")
    for array, values in expected.items():
        np.testing.assert_array_equal(group[array][...], values)


@pytest.mark.parametrize("kind", ["netcdf3", "tiff"])
def test_files_on_a_web_server(tmp_path, web, kind):
    url, files = web
    path, expected = make(kind, tmp_path)
    files[f"/data/{path.name}"] = (path.read_bytes(), 1_700_000_000)
    done = refer(tmp_path / "repo", [f"{url}/data/{path.name}"])
    assert done.allow == [f"{url}/data/"]
    assert done.unchecked == []
    for array, values in expected.items():
        np.testing.assert_array_equal(ours(tmp_path / "repo", done.allow)[array][...], values)
        np.testing.assert_array_equal(official(tmp_path / "repo", done.allow)[array][...], values)
    files[f"/data/{path.name}"] = (path.read_bytes()[:-1] + b"?", 1_700_000_001)
    with pytest.raises(StorageError):
        ours(tmp_path / "repo", done.allow)[next(iter(expected))][:1, :1]
