"""The options of `s3_storage`, as they are seen in the requests: headers, checksums, keys that begin with a slash."""

import base64
import hashlib
import subprocess
import sys
import zlib
from contextlib import closing
from dataclasses import replace

import boto3
import icechunk
import numpy as np
import pytest
import zarr

import icefs
from icefs.cli.main import main
from icefs.errors import InvalidInputError, UnsupportedError
from icefs.storage.s3.headers import extra_headers
from icefs.storage.s3.options import S3Options
from icefs.storage.s3.store import S3Storage
from icefs.storage.url import open_storage
from tests.support.s3_places import Place
from tests.support.s3_server import ADMIN

ALGORITHMS = {
    "Crc32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "Sha1": lambda data: hashlib.sha1(data).digest(),
    "Sha256": lambda data: hashlib.sha256(data).digest(),
    "Crc32c": None,
    "Crc64Nvme": None,
}
# The check values of the two: of the nine bytes "123456789".
CHECKS = {"Crc32c": 0xE3069283.to_bytes(4, "big"), "Crc64Nvme": 0xAE8B14860A799888.to_bytes(8, "big")}


@pytest.fixture
def place(proxy, s3_prefix) -> Place:
    return Place(proxy.endpoint_url, s3_prefix, ADMIN.access_key_id, ADMIN.secret_access_key)


def sent(request) -> dict[str, str]:
    return {name.lower(): value for name, value in request.headers.items()}


# --- headers ---


def test_headers_are_sent_and_signed(place, proxy):
    storage = icefs.s3_storage(
        **place.arguments(),
        headers={"X-Both": "both", "x-amz-expected-bucket-owner": "me"},
        read_headers={"x-read": "read", "X-BOTH": "of reading"},
        write_headers={"x-write": "write"},
    )
    repo = icefs.Repository.create(storage)
    with repo.transaction("main", message="one") as store:
        zarr.create_array(store, name="a", data=np.arange(8.0), chunks=(4,))
    storage.copy("repo", "copied")
    assert storage.delete(["copied", "with\nline"]) == []
    ways = {(request.method, "delete" in request.path) for request in proxy.requests}
    assert ways == {
        *(("GET", False), ("HEAD", False), ("PUT", False), ("POST", True)),
        ("DELETE", False),
    }
    for request in proxy.requests:
        headers = sent(request)
        is_read = request.method in ("GET", "HEAD")
        expected = {"x-both": "of reading", "x-read": "read"} if is_read else {"x-both": "both", "x-write": "write"}
        expected["x-amz-expected-bucket-owner"] = "me"
        assert {name: headers.get(name) for name in expected} == expected
        assert headers.keys().isdisjoint(("x-write",) if is_read else ("x-read",))
        signed = headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
        assert expected.keys() <= set(signed)


def test_tigris_is_asked_for_what_was_written_last(place, proxy):
    given = {name: value for name, value in place.arguments().items() if name != "force_path_style"}
    with closing(icefs.tigris_storage(**given)) as storage:
        storage.put("chunks/A", b"data")
        assert storage.get("chunks/A").data == b"data"
    found = [
        {name: value for name, value in sent(request).items() if "tigris" in name or name == "cache-control"}
        for request in proxy.requests
    ]
    both = {"x-tigris-regions": "us-east-1", "x-tigris-consistent": "true"}
    assert found == [both, {**both, "cache-control": "no-cache"}]


def test_headers_are_not_shown(place):
    with closing(icefs.s3_storage(**place.arguments(), headers={"x-token": "s3cret"})) as storage:
        assert "s3cret" not in f"{storage!r} {storage.url} {storage.options!r}"


@pytest.mark.parametrize(
    "headers",
    [{"Host": "other"}, {"if-match": "*"}, {"authorization": "x"}, {"a b": "c"}, {"": "c"}, {"x-a": "b\r\nx-c: d"}],
)
def test_headers_that_cannot_be_given(headers):
    for given in ({"headers": headers}, {"read_headers": headers}, {"write_headers": headers}):
        with pytest.raises(InvalidInputError, match="header"):
            icefs.s3_storage(bucket="bucket", prefix="p", **given)
        with pytest.raises(InvalidInputError, match="header"):
            open_storage("s3://bucket/p", **given)


def test_the_more_special_header_counts():
    assert extra_headers({"x-a": "1", "X-B": "2"}, {"x-b": " 3 "}, None) == (("x-a", "1"), ("x-b", "3"))


# --- checksums ---


@pytest.mark.parametrize("name", ALGORITHMS)
def test_checksums_are_those_of_the_official_library(ministack, s3_prefix, proxy_of_ministack, name):
    place = Place(proxy_of_ministack.endpoint_url, s3_prefix)
    ours = icefs.s3_storage(**place.arguments(), checksum_algorithm=getattr(icefs.ChecksumAlgorithm, name))
    repo = icefs.Repository.create(ours)
    wire = f"x-amz-checksum-{name.lower()}"
    uploads = [request for request in proxy_of_ministack.requests if is_upload(request)]
    assert uploads
    assert all(sent(request)["x-amz-sdk-checksum-algorithm"] == name.upper() for request in uploads)
    snapshots = [request for request in uploads if "/snapshots/" in request.path]
    stored = ours.get("snapshots/1CECHNKREP0F1RSTCMT0").data
    reckon = ALGORITHMS[name]
    if reckon is not None:
        assert [base64.b64decode(sent(request)[wire]) for request in snapshots] == [reckon(stored)]

    # The official library stores objects of ours again, and sends the same.
    storage = icechunk.s3_storage(**place.arguments(), checksum_algorithm=getattr(icechunk.ChecksumAlgorithm, name))
    official = icechunk.Repository.open(storage)
    proxy_of_ministack.clear()
    with official.transaction("main", message="one") as store:
        zarr.create_array(store, name="a", data=np.arange(200.0), chunks=(100,), compressors=None)
    theirs = {sent(request)[wire] for request in proxy_of_ministack.requests if "/chunks/" in request.path}
    chunks = [np.arange(200.0)[at : at + 100].tobytes() for at in (0, 100)]
    proxy_of_ministack.clear()
    for number, chunk in enumerate(chunks):
        ours.put(f"chunks/{number}", chunk)
    mine = {sent(request)[wire] for request in proxy_of_ministack.requests}
    assert mine == theirs
    assert next(info.message for info in repo.ancestry(branch="main")) == "one"


def is_upload(request) -> bool:
    return request.method == "PUT" and "x-amz-copy-source" not in sent(request)


@pytest.mark.parametrize(("name", "value"), CHECKS.items())
def test_check_values(place, proxy, name, value):
    with closing(open_storage(f"{place.url}&checksum_algorithm={name}", **keys())) as storage:
        storage.put("chunks/A", b"123456789")
    [request] = proxy.requests
    assert base64.b64decode(sent(request)[f"x-amz-checksum-{name.lower()}"]) == value


def keys() -> dict[str, str]:
    return {"access_key_id": ADMIN.access_key_id, "secret_access_key": ADMIN.secret_access_key}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_parts_and_deletions_have_checksums(proxy_of_ministack, s3_prefix, name):
    place = Place(proxy_of_ministack.endpoint_url, s3_prefix)
    with closing(place.storage()) as opened:
        options = replace(
            opened.options,
            checksum_algorithm=name.upper(),
            multipart_threshold_bytes=6 << 20,
            multipart_part_bytes=5 << 20,
        )
    data = bytes(range(256)) * (11 << 12)  # 11 MiB
    with closing(S3Storage("icefs-tests", s3_prefix, options)) as storage:
        storage.put("chunks/A", data)
        assert storage.get("chunks/A").data == data
        assert storage.delete(["chunks/A"]) == []
    parts = [sent(request) for request in proxy_of_ministack.requests if "partNumber=" in request.path]
    assert len(parts) == 3
    [deletion] = [sent(request) for request in proxy_of_ministack.requests if "delete" in request.path]
    assert all(f"x-amz-checksum-{name.lower()}" in headers for headers in [*parts, deletion])


def test_a_checksum_that_cannot_be_computed_names_the_extra():
    program = (
        "import sys; sys.modules['awscrt'] = None\n"
        "from icefs.storage.s3.store import S3Storage\n"
        "from icefs.storage.s3.options import S3Options\n"
        "try:\n    S3Storage('bucket', 'p', S3Options(checksum_algorithm=sys.argv[1]))\n"
        "except Exception as error:\n    print(type(error).__name__, error.hint)\n"
    )
    for name, told in (("CRC32C", "icefs[checksums]"), ("CRC64NVME", "icefs[checksums]"), ("CRC32", "")):
        done = subprocess.run([sys.executable, "-c", program, name], check=True, capture_output=True, text=True)
        assert (told in done.stdout, UnsupportedError.__name__ in done.stdout) == (True, bool(told))
    with pytest.raises(InvalidInputError, match="MD5"):
        S3Storage("bucket", "p", S3Options(checksum_algorithm="MD5"))


# --- keys that begin with a slash ---


@pytest.fixture(params=[1, 2])
def rooted(request, ministack, s3_prefix) -> Place:
    """A repository at the root of a bucket whose keys begin with a slash; the place's prefix is the bucket."""
    bucket = f"rooted-{request.param}-{s3_prefix.replace('/', '-')}"
    client = boto3.client(
        "s3",
        endpoint_url=ministack,
        aws_access_key_id="any",
        aws_secret_access_key="any",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=bucket)
    source = Place(ministack, s3_prefix).storage()
    repo = icefs.Repository.create(source, spec_version=request.param)
    with repo.transaction("main", message="one") as store:
        zarr.create_array(store, name="a", data=np.arange(4.0))
    for info in source.iter_objects():
        client.put_object(Bucket=bucket, Key=f"/{info.key}", Body=source.get(info.key).data)
    source.close()
    return Place(ministack, bucket)


def arguments(place: Place, **more) -> dict:
    return place.arguments() | {"bucket": place.prefix, "prefix": None} | more


@pytest.mark.parametrize("prefix", [None, "", "/"])
@pytest.mark.parametrize("told", [None, True, False])
def test_rooted_keys_are_found_as_by_the_official_library(rooted, prefix, told):
    given = arguments(rooted, prefix=prefix, legacy_rooted_keys=told)
    for library in (icechunk, icefs):
        if told is False:
            with pytest.raises(library.IcechunkError):
                library.Repository.open(library.s3_storage(**given))
            continue
        repo = library.Repository.open(library.s3_storage(**given))
        with repo.transaction("main", message=library.__name__) as store:
            array = zarr.open_array(store, path="a", mode="a")
            array[:] = array[:] + 1
    with closing(icefs.s3_storage(**arguments(rooted, legacy_rooted_keys=False))) as plain:
        assert not [info.key for info in plain.iter_objects() if not info.key.startswith("/")]
    if told is not False:
        repo = icechunk.Repository.open(icechunk.s3_storage(**given))
        session = repo.readonly_session("main")
        assert zarr.open_array(session.store, path="a", mode="r")[:].tolist() == [2.0, 3.0, 4.0, 5.0]


def test_the_command_line_finds_rooted_keys_and_says_so(rooted, monkeypatch, capsys):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    url = f"s3://{rooted.prefix}?endpoint_url={rooted.endpoint_url}&region=us-east-1"
    assert main(["log", url, "--oneline"]) == 0
    assert "one" in capsys.readouterr().out
    main(["doctor", url])
    assert "its keys begin with a slash" in capsys.readouterr().out
    assert main(["log", f"{url}&legacy_rooted_keys=false"]) != 0


def test_one_request_finds_ordinary_keys(proxy_of_ministack, s3_prefix):
    bucket = f"plain-{s3_prefix.replace('/', '-')}"
    place = Place(proxy_of_ministack.endpoint_url, bucket)
    storage = icefs.s3_storage(**arguments(place))
    storage.access.clients.connection().client.create_bucket(Bucket=bucket)
    storage.close()
    icefs.Repository.create(icefs.s3_storage(**arguments(place))).storage.close()
    proxy_of_ministack.clear()
    with closing(icefs.s3_storage(**arguments(place))) as storage:
        assert storage.get("repo").data
        assert storage.remarks() == ()
    assert [(request.method, request.path) for request in proxy_of_ministack.requests] == [
        ("HEAD", f"/{bucket}/repo"),
        ("GET", f"/{bucket}/repo"),
    ]


def test_rooted_keys_go_with_no_prefix():
    with pytest.raises(InvalidInputError, match="empty prefix"):
        icefs.s3_storage(bucket="bucket", prefix="p", legacy_rooted_keys=True)
