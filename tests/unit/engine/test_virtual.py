import os
import threading
from contextlib import closing
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from icefs.engine.read.virtual import ContainerCredentials, Location, VirtualResolver
from icefs.engine.read.workers import Workers
from icefs.errors import (
    AccessDeniedError,
    FormatError,
    InvalidInputError,
    InvalidObjectSizeError,
    ObjectModifiedError,
    ObjectNotFoundError,
    UnauthorizedContainerError,
    UnsupportedError,
)
from icefs.format.config.storage import (
    AzureStore,
    GcsStore,
    HttpStore,
    LocalFileSystemStore,
    S3Options,
    S3Store,
)
from icefs.storage.cache.disk import DiskCache
from icefs.storage.metered import StoreMeter
from tests.support.virtual_refs import container, over, ref, resolver

DATA = bytes(range(100))


@pytest.fixture
def data_dir(tmp_path):
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "file.bin").write_bytes(DATA)
    return directory


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("s3://Bucket/a/b", ("s3", "Bucket", "/a/b")),
        ("S3://bucket/a%20b/%C3%BC", ("s3", "bucket", "/a b/ü")),
        ("s3://bucket/a//b", ("s3", "bucket", "/a//b")),
        ("s3://bucket/a b/%20", ("s3", "bucket", "/a b/ ")),
        ("s3://bucket/a%3Fb%23c%25", ("s3", "bucket", "/a?b#c%")),
        ("s3://bucket", ("s3", "bucket", "/")),
        ("https://Host.Example:443/x", ("https", "host.example", "/x")),
        ("http://host:8080/x", ("http", "host:8080", "/x")),
        ("file:///tmp/x", ("file", "", "/tmp/x")),
        ("file://localhost/tmp/x", ("file", "", "/tmp/x")),
        ("s3://b/..a/b..", ("s3", "b", "/..a/b..")),
    ],
)
def test_locations_are_taken_apart(url, parts):
    location = Location.parse(url)
    assert (location.scheme, location.authority, location.path) == parts


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/tmp/x",
        "mailto:me",
        "s3:/b/x",
        "s3:///x",
        "file://other/x",
        "file:///a/../b",
        "file:///a/%2e%2e/b",
        "file:///a/%2E./b",
        "file:///a/./b",
        "s3://b/a/..",
        "http://h/%2e%2e/x",
        "file:///a%00b",
        "s3://b/%ff",
        "s3://bucket/k?versionId=1",
        "https://host/k#x",
        "file:///x\ny",
        "s3://b/x ",
        "s3://b/\ud800",
    ],
)
def test_locations_that_are_refused(url):
    with pytest.raises(ValueError):
        Location.parse(url)


def test_reads_a_part_of_a_local_file(data_dir):
    virtual = over(data_dir)
    location = (data_dir / "file.bin").as_uri()
    assert virtual.read(ref(location)) == DATA[10:30]
    assert virtual.read(ref(location), 5, 7) == DATA[15:17]


def test_percent_encoded_names(tmp_path):
    directory = tmp_path / "dir with ünï"
    directory.mkdir()
    (directory / "a#b?c%d.bin").write_bytes(DATA)
    virtual = over(directory)
    assert virtual.read(ref((directory / "a#b?c%d.bin").as_uri())) == DATA[10:30]


def test_nothing_is_authorised_by_default(data_dir):
    prefix = data_dir.as_uri() + "/"
    virtual = resolver([container(prefix, name="mine")])
    with pytest.raises(UnauthorizedContainerError) as caught:
        virtual.read(ref(prefix + "file.bin"))
    assert caught.value.kind == "unauthorized-virtual-chunk-container"
    assert "mine" in str(caught.value)
    assert prefix in caught.value.hint


def test_what_is_authorised_is_the_prefix_and_no_more(data_dir, tmp_path):
    (tmp_path / "data-secret").mkdir()
    (tmp_path / "data-secret" / "x").write_bytes(DATA)
    wide = container(tmp_path.as_uri())
    virtual = resolver([wide], [data_dir.as_uri()])
    assert virtual.read(ref((data_dir / "file.bin").as_uri())) == DATA[10:30]
    for outside in (tmp_path / "data-secret" / "x", tmp_path / "data"):
        with pytest.raises(UnauthorizedContainerError):
            virtual.read(ref(outside.as_uri()))


def test_a_location_needs_a_container_too(data_dir):
    virtual = resolver([], ["file:///"])
    with pytest.raises(InvalidInputError) as caught:
        virtual.read(ref((data_dir / "file.bin").as_uri()))
    assert caught.value.kind == "no-container-for-virtual-chunk"


@pytest.mark.parametrize("location", ["..%2Foutside", "sub/../../outside", "%2e%2e/outside", "./file.bin"])
def test_dots_do_not_lead_out(data_dir, location):
    (data_dir.parent / "outside").write_bytes(DATA)
    (data_dir / "sub").mkdir()
    with pytest.raises(FormatError):
        over(data_dir).read(ref(f"{data_dir.as_uri()}/{location}"))


def test_symbolic_links_do_not_lead_out(data_dir, tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_bytes(DATA)
    (data_dir / "link").symlink_to(secret / "key")
    (data_dir / "dir").symlink_to(secret)
    (data_dir / "inside").symlink_to(data_dir / "file.bin")
    virtual = over(data_dir)
    for escaping in ("link", "dir/key"):
        with pytest.raises(UnauthorizedContainerError, match="symbolic link"):
            virtual.read(ref(f"{data_dir.as_uri()}/{escaping}"))
    assert virtual.read(ref(f"{data_dir.as_uri()}/inside")) == DATA[10:30]
    # The authorised place itself may be reached through links.
    alias = tmp_path / "alias"
    alias.symlink_to(data_dir)
    assert over(alias).read(ref(f"{alias.as_uri()}/file.bin")) == DATA[10:30]


def test_the_longest_prefix_wins():
    outer = container("s3://bucket/", GcsStore())
    inner = container("s3://bucket/in/", AzureStore({"account": "a"}))
    for order in ([outer, inner], [inner, outer]):
        virtual = resolver(order, ["s3://bucket/"])
        with pytest.raises(UnsupportedError, match="azure"):
            virtual.read(ref("s3://bucket/in/x"))
        with pytest.raises(UnsupportedError, match="gcs"):
            virtual.read(ref("s3://bucket/out/x"))


def test_locations_relative_to_a_named_container(data_dir):
    prefix = data_dir.as_uri() + "/"
    virtual = resolver([container("s3://b/", S3Store(S3Options())), container(prefix, name="here")], [prefix])
    assert virtual.expand("vcc://here/file.bin") == prefix + "file.bin"
    assert virtual.read(ref("vcc://here/file.bin")) == DATA[10:30]
    for unknown in ("vcc://there/file.bin", "vcc://here", "vcc://"):
        with pytest.raises(InvalidInputError) as caught:
            virtual.expand(unknown)
        assert caught.value.kind == "no-container-for-virtual-chunk"
    with pytest.raises(FormatError):
        virtual.read(ref("vcc://here/../x"))


def test_containers_that_cannot_be_used_are_left_out(caplog, data_dir):
    prefix = data_dir.as_uri()
    virtual = resolver([container("nonsense"), container("file:///a/../"), container(prefix)], [prefix])
    assert virtual.read(ref(f"{prefix}/file.bin")) == DATA[10:30]
    assert len(caplog.records) == 2


def test_a_prefix_that_is_no_url_is_refused():
    with pytest.raises(InvalidInputError):
        resolver([], ["/data"])


def test_a_store_of_another_scheme_is_not_used():
    virtual = resolver([container("s3://b/", LocalFileSystemStore("/"))], ["s3://b/"])
    with pytest.raises(UnsupportedError):
        virtual.read(ref("s3://b/etc/passwd"))
    virtual = resolver([container("file:///etc/", HttpStore())], ["file:///etc/"])
    with pytest.raises(UnsupportedError):
        virtual.read(ref("file:///etc/passwd"))


def test_a_short_file_is_an_error(data_dir):
    location = (data_dir / "file.bin").as_uri()
    with pytest.raises(InvalidObjectSizeError):
        over(data_dir).read(ref(location, 90, 20))
    with pytest.raises(InvalidObjectSizeError):
        over(data_dir).read(ref(location, 0, 1 << 50))


def test_a_missing_file_is_an_error_that_names_it(data_dir):
    with pytest.raises(ObjectNotFoundError, match=r"gone\.bin") as caught:
        over(data_dir).read(ref((data_dir / "gone.bin").as_uri()))
    assert caught.value.kind == "virtual-chunk-fetch"


def test_times_are_compared_by_the_second(data_dir):
    file = data_dir / "file.bin"
    os.utime(file, ns=(0, 1_700_000_000_900_000_000))
    virtual = over(data_dir)
    assert virtual.read(ref(file.as_uri(), last_modified=1_700_000_000)) == DATA[10:30]
    assert virtual.read(ref(file.as_uri(), last_modified=1_700_000_001)) == DATA[10:30]
    with pytest.raises(ObjectModifiedError):
        virtual.read(ref(file.as_uri(), last_modified=1_699_999_999))


def test_an_etag_must_match_and_comes_before_the_time(data_dir):
    file = data_dir / "file.bin"
    status = file.stat()
    etag = f"{status.st_ino:x}-{status.st_mtime_ns // 1000:x}-{status.st_size:x}"
    virtual = over(data_dir)
    assert virtual.read(ref(file.as_uri(), etag=etag, last_modified=1)) == DATA[10:30]
    assert virtual.read(ref(file.as_uri(), etag=f'"{etag}"')) == DATA[10:30]
    with pytest.raises(ObjectModifiedError):
        virtual.read(ref(file.as_uri(), etag="other"))


def test_credentials_of_the_longest_authorised_prefix_are_used(monkeypatch):
    opened = []

    class FakeS3:
        def __init__(self, bucket, *, options):
            opened.append((bucket, options.anonymous, options.profile, options.endpoint_url))

        def read_range(self, key, start, end, **_):
            return f"{key}:{start}-{end}".encode().ljust(end - start)

    monkeypatch.setattr("icefs.storage.s3.store.S3Storage", FakeS3)
    store = S3Store(S3Options(endpoint_url="http://127.0.0.1:1", anonymous=True, region="r"))
    virtual = VirtualResolver(
        [container("s3://bucket/", store)],
        {"s3://bucket/": None, "s3://bucket/mine/": ContainerCredentials(anonymous=False, profile="me")},
        Workers(1),
        named_endpoints=["http://127.0.0.1:1"],
    )
    for _ in range(2):
        assert virtual.read(ref("s3://bucket/a%20b")).strip() == b"a b:10-30"
        assert virtual.read(ref("s3://bucket/mine/x")).strip() == b"mine/x:10-30"
    assert opened == [
        ("bucket", True, None, "http://127.0.0.1:1"),
        ("bucket", False, "me", "http://127.0.0.1:1"),
    ]


def test_a_large_remote_chunk_comes_in_parts(monkeypatch):
    asked = []

    class FakeS3:
        def __init__(self, bucket, *, options):
            pass

        def read_range(self, key, start, end, **_):
            asked.append((start, end))
            return bytes(end - start)

    monkeypatch.setattr("icefs.storage.s3.store.S3Storage", FakeS3)
    virtual = VirtualResolver([container("s3://b/", S3Store(S3Options()))], {"s3://b": None}, Workers(4))
    length = 30 << 20
    assert len(virtual.read(ref("s3://b/big", 7, length))) == length
    assert sorted(asked)[0][0] == 7
    assert sorted(asked)[-1][1] == 7 + length
    assert len(asked) == 3


class _WebServer(BaseHTTPRequestHandler):
    """Serves DATA as /data/a%20b.bin, in ranges, with an entity tag and a time."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.asked += 1
        self.server.path = self.path
        if self.path != "/data/a%20b.bin":
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, end = (int(part) for part in self.headers["Range"].removeprefix("bytes=").split("-"))
        tag = self.server.tag
        modified = self.headers.get("If-Match", tag) != tag
        body = b"" if modified else self.server.data[start : end + 1]
        self.send_response(412 if modified else 206)
        self.send_header("ETag", tag)
        self.send_header("Last-Modified", formatdate(1_700_000_000, usegmt=True))
        self.send_header("Content-Range", f"bytes {start}-{end}/{len(DATA)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def web():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _WebServer)
    server.asked, server.tag, server.data = 0, '"v1"', DATA
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def web_url(web):
    return web.url


def test_reads_over_http(web_url):
    virtual = resolver([container(f"{web_url}/data/", HttpStore())], [f"{web_url}/data/"])
    url = f"{web_url}/data/a%20b.bin"
    assert virtual.read(ref(url)) == DATA[10:30]
    assert virtual.read(ref(url), 1, 2) == DATA[11:12]
    with pytest.raises(FormatError, match=r"write it as %3F"):
        virtual.read(ref(f"{url}?query"))
    assert virtual.read(ref(url, etag="v1")) == DATA[10:30]
    assert virtual.read(ref(url, last_modified=1_700_000_000)) == DATA[10:30]
    for changed in ({"etag": "v2"}, {"last_modified": 1_699_999_999}):
        with pytest.raises(ObjectModifiedError):
            virtual.read(ref(url, **changed))
    with pytest.raises(ObjectNotFoundError):
        virtual.read(ref(f"{web_url}/data/gone"))
    for elsewhere in (f"{web_url}/a%20b.bin", f"{web_url.replace('127.0.0.1', 'localhost')}/data/a%20b.bin"):
        with pytest.raises(InvalidInputError):
            virtual.read(ref(elsewhere))
    virtual.close()


@pytest.fixture
def elsewhere(web_url):
    """A server that redirects everything to the host `localhost`."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", web_url.replace("127.0.0.1", "localhost") + "/data/a%20b.bin")
            self.send_header("Content-Length", "0")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_redirect_leads_only_below_authorised_prefixes(elsewhere, web, web_url):
    there = web_url.replace("127.0.0.1", "localhost")
    containers = [container(f"{elsewhere}/data/", HttpStore())]
    for allowed in ([], [f"{there}/other/"], [f"{web_url}/data/"], ["s3://localhost/"]):
        virtual = resolver(containers, [f"{elsewhere}/data/", *allowed])
        with pytest.raises(AccessDeniedError, match="localhost") as caught:
            virtual.read(ref(f"{elsewhere}/data/x"))
        assert f"--allow-virtual {there}/" in caught.value.hint
        virtual.close()
    assert web.asked == 0
    virtual = resolver(containers, [f"{elsewhere}/data/", f"{there}/data/"])
    assert virtual.read(ref(f"{elsewhere}/data/x")) == DATA[10:30]
    virtual.close()


def test_paths_are_asked_for_as_they_are_written(web, web_url):
    virtual = resolver([container(f"{web_url}/data/", HttpStore())], [f"{web_url}/data/"])
    for path in ("a+b", "a%2Bb", "p;v=1", "p%3Bv%3D1", "%7Ex", "~x", "a%20b c"):
        with pytest.raises(ObjectNotFoundError):
            virtual.read(ref(f"{web_url}/data/{path}"))
        assert web.path == f"/data/{path}".replace(" ", "%20")
    virtual.close()


def test_requests_for_virtual_chunks_are_counted(data_dir):
    meter = StoreMeter()
    prefix = data_dir.as_uri() + "/"
    virtual = VirtualResolver([container(prefix)], {prefix: None}, Workers(1), meter)
    assert virtual.read(ref(prefix + "file.bin")) == DATA[10:30]
    with pytest.raises(ObjectNotFoundError):
        virtual.read(ref(prefix + "nothing"))
    virtual.close()
    counts = meter.counts()
    assert counts.objects == {("read_range", "virtual"): 2}
    assert (counts.read_bytes, sum(counts.errors.values())) == (20, 1)


class Reader:
    """Reads through a resolver of its own, as a mount does, with one cache for all."""

    def __init__(self, directory, web):
        self.directory, self.web = directory, web
        self.prefix = f"{web.url}/data/"
        self.url = f"{self.prefix}a%20b.bin"

    def __call__(self, reference, *, allow=True, headers=None):
        """Returns the bytes, and how many requests that took."""
        cache = DiskCache(self.directory, 1 << 20, reserve_bytes=0)
        store = HttpStore(headers=headers)
        authorized = {self.prefix: None} if allow else {}
        virtual = VirtualResolver([container(self.prefix, store)], authorized, Workers(1), None, cache)
        before = self.web.asked
        try:
            data = virtual.read(reference)
            cache.flush()
            if virtual.can_keep(reference):
                assert virtual.is_kept(reference)
                with closing(virtual.open_cached(reference)) as file:
                    assert file.read(0, file.size) == data
            else:
                assert not virtual.is_kept(reference)
                assert virtual.open_cached(reference) is None
            return data, self.web.asked - before
        finally:
            virtual.close()
            cache.close()


@pytest.fixture
def reader(tmp_path, web):
    return Reader(tmp_path / "cache", web)


@pytest.mark.parametrize("checks", [{"etag": "v1"}, {"etag": '"v1"'}, {"last_modified": 1_700_000_000}])
def test_what_was_read_under_its_checksum_is_kept(reader, web, checks):
    wanted = ref(reader.url, **checks)
    assert reader(wanted) == (DATA[10:30], 1)
    assert reader(wanted) == (DATA[10:30], 0)
    assert reader(ref(reader.url, 10, 21, **checks)) == (DATA[10:31], 1)  # another range is something else
    # The object becomes another one: the referenced bytes are there still, and unread ones are refused.
    web.tag, web.data = '"v2"', bytes(100)
    assert reader(wanted) == (DATA[10:30], 0)
    assert reader(ref(reader.url, etag="v2")) == (bytes(20), 1)
    assert reader(wanted) == (DATA[10:30], 0)
    if "etag" in checks:
        with pytest.raises(ObjectModifiedError):
            reader(ref(reader.url, 11, 20, **checks))


@pytest.mark.parametrize("checks", [{}, {"last_modified": 0}, {"etag": 'W/"v1"'}, {"etag": ""}])
def test_what_has_no_checksum_is_never_kept(reader, web, checks):
    wanted = ref(reader.url, **checks)
    tag = checks.get("etag", "v1")
    web.tag = tag if tag.startswith("W/") else f'"{tag}"'
    assert reader(wanted) == (DATA[10:30], 1)
    web.data = bytes(100)
    assert reader(wanted) == (bytes(20), 1)


def test_kept_chunks_are_for_readers_that_may_follow(reader):
    wanted = ref(reader.url, etag="v1")
    assert reader(wanted) == (DATA[10:30], 1)
    with pytest.raises(UnauthorizedContainerError):
        reader(wanted, allow=False)
    # Other headers may mean other bytes, whatever the tag.
    assert reader(wanted, headers={"Accept-Language": "de"}) == (DATA[10:30], 1)
    assert reader(wanted, headers={"Accept-Language": "de"}) == (DATA[10:30], 0)


def test_what_is_kept_of_one_server_is_not_another_s(reader, web, tmp_path):
    assert reader(ref(reader.url, etag="v1")) == (DATA[10:30], 1)
    there = reader.url.replace("127.0.0.1", "localhost")
    elsewhere = Reader(tmp_path / "cache", web)
    elsewhere.prefix = there.removesuffix("a%20b.bin")
    assert elsewhere(ref(there, etag="v1")) == (DATA[10:30], 1)


def test_local_files_are_not_kept(data_dir, tmp_path):
    cache = DiskCache(tmp_path / "cache", 1 << 20, reserve_bytes=0)
    prefix = data_dir.as_uri() + "/"
    virtual = VirtualResolver([container(prefix)], {prefix: None}, Workers(1), None, cache)
    wanted = ref(prefix + "file.bin", last_modified=int((data_dir / "file.bin").stat().st_mtime))
    assert virtual.read(wanted) == DATA[10:30]
    cache.flush()
    assert not virtual.can_keep(wanted)
    assert cache.used_bytes() == 0
    virtual.close()
    cache.close()
