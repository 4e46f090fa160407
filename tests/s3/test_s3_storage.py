"""S3 storage against a real server, and against a server that fails; `test_servers` has other servers."""

import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from icefs.errors import (
    AccessDeniedError,
    InvalidInputError,
    ObjectModifiedError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageError,
    UnreachableError,
)
from icefs.storage.s3.options import S3Credentials, S3Options
from icefs.storage.s3.store import S3Storage
from icefs.storage.url import open_storage
from tests.support.hex_storage import HexStorage
from tests.support.s3_server import BUCKET, FAST, READER, Identity
from tests.support.storage_contract import StorageContract

MIB = 1 << 20


class TestS3(StorageContract):
    lost_characters = "\\"  # SeaweedFS keeps its objects in directories, and lists it as a slash.

    @pytest.fixture
    def storage(self, s3_storage):
        return s3_storage

    @pytest.fixture
    def other(self, s3_server, s3_prefix):
        storage = S3Storage(BUCKET, s3_prefix, s3_server.options())
        yield storage
        storage.close()


class TestHexOverS3:
    """Only what could differ from `TestS3`: names and ranges."""

    def test_names_and_ranges(self, s3_storage):
        storage = HexStorage(s3_storage)
        storage.put("chunks/A", b"0123456789", create_only=True)
        assert storage.get("chunks/A", start=3, end=5).data == b"34"
        assert list(storage.list_dir("chunks/")) == ["A"]


# --- rights and places ---


def test_a_reader_may_not_write(s3_server, s3_storage, s3_prefix):
    version = s3_storage.put("repo", b"1")
    reader = S3Storage(BUCKET, s3_prefix, s3_server.options(READER, retry=FAST))
    assert reader.get("repo").data == b"1"
    assert [info.key for info in reader.iter_objects()] == ["repo"]
    for write in (
        lambda: reader.put("a", b""),
        lambda: reader.put("a", b"", create_only=True),
        lambda: reader.put("repo", b"2", if_match=version),
        lambda: reader.copy("repo", "a"),
    ):
        with pytest.raises(AccessDeniedError) as caught:
            write()
        assert caught.value.hint
    assert reader.delete(["repo"]) == ["repo"]
    assert s3_storage.get("repo").data == b"1"


@pytest.mark.parametrize(
    "identity",
    [Identity("NOSUCHKEYID", "a-secret-to-keep", ()), Identity(READER.access_key_id, "a-secret-to-keep", ())],
)
def test_wrong_credentials_are_refused_and_not_repeated(s3_server, identity):
    storage = S3Storage(BUCKET, "x", s3_server.options(identity, retry=FAST))
    for call in (lambda: storage.get("repo"), lambda: storage.head("repo"), lambda: list(storage.iter_objects())):
        with pytest.raises(AccessDeniedError) as caught:
            call()
        error = caught.value
        told = f"{error} {error.hint} {error.facts} {error.__cause__}"
        assert "a-secret-to-keep" not in told
        assert identity.access_key_id not in told
        assert error.hint


def test_no_credentials_at_all(s3_server, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    storage = open_storage(f"s3://{BUCKET}/x?endpoint_url={s3_server.endpoint_url}")
    with pytest.raises(AccessDeniedError, match="credentials") as caught:
        storage.get("repo")
    assert "anonymous" in caught.value.hint
    anonymous = open_storage(f"s3://{BUCKET}/x?endpoint_url={s3_server.endpoint_url}&anonymous=true")
    with pytest.raises(AccessDeniedError, match="answered"):
        anonymous.get("repo")


def test_credentials_from_the_environment_and_from_profiles(s3_server, s3_storage, s3_prefix, monkeypatch, tmp_path):
    s3_storage.put("repo", b"here")
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    url = f"s3://{BUCKET}/{s3_prefix}?endpoint_url={s3_server.endpoint_url}"
    assert open_storage(url).get("repo").data == b"here"
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    assert open_storage(f"s3://{BUCKET}/{s3_prefix}").get("repo").data == b"here"
    for name in s3_server.environment():
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    _write_profile(tmp_path / "credentials", READER)
    assert open_storage(f"{url}&profile=lab").get("repo").data == b"here"
    with pytest.raises(InvalidInputError, match="nowhere"):
        open_storage(f"{url}&profile=nowhere").get("repo")


def _write_profile(path, identity):
    path.write_text(
        f"[lab]\naws_access_key_id={identity.access_key_id}\naws_secret_access_key={identity.secret_access_key}\n"
    )


def test_credentials_from_a_callback_are_renewed(s3_server, s3_storage, s3_prefix):
    s3_storage.put("repo", b"here")
    asked = []

    def keys():
        asked.append(1)
        # The first ones are about to expire.
        lifetime = timedelta(seconds=5 if len(asked) == 1 else 3600)
        return S3Credentials(READER.access_key_id, READER.secret_access_key, None, datetime.now(UTC) + lifetime)

    storage = S3Storage(BUCKET, s3_prefix, S3Options(endpoint_url=s3_server.endpoint_url, credentials=keys))
    assert asked == []
    for _ in range(3):
        assert storage.get("repo").data == b"here"
    assert len(asked) == 2


def test_a_missing_bucket_is_not_a_missing_object(s3_server):
    storage = S3Storage("no-such-bucket", "x", s3_server.options(retry=FAST))
    for call in (lambda: storage.get("repo"), lambda: list(storage.iter_objects())):
        with pytest.raises(StorageError, match="NoSuchBucket") as caught:
            call()
        assert not isinstance(caught.value, ObjectNotFoundError)
        assert "bucket" in caught.value.hint


def test_an_endpoint_that_is_not_there_is_named():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # Nobody listens here.
        endpoint = f"http://127.0.0.1:{held.getsockname()[1]}"
        storage = open_storage(f"s3://bucket/x?endpoint_url={endpoint}", access_key_id="a", secret_access_key="b")
        with pytest.raises(UnreachableError, match=re.escape(endpoint)) as caught:
            storage.get("repo")
    assert caught.value.facts["tries"] == 3
    assert "endpoint_url" in caught.value.hint


def test_a_host_that_does_not_exist():
    options = S3Options(endpoint_url="http://icefs.invalid", credentials=S3Credentials("a", "b"), retry=FAST)
    with pytest.raises(UnreachableError, match=r"icefs\.invalid"):
        S3Storage("bucket", "x", options).get("repo")


def test_http_may_be_forbidden(s3_server):
    storage = S3Storage(BUCKET, "x", s3_server.options(allow_http=False))
    with pytest.raises(InvalidInputError, match="not encrypted"):
        storage.get("repo")


def test_what_cannot_be_a_bucket_is_refused(s3_server):
    with pytest.raises(InvalidInputError):
        S3Storage("no bucket!", "x", s3_server.options()).get("repo")


def test_prefixes_keep_repositories_apart(s3_server, s3_prefix):
    one, two, three = (S3Storage(BUCKET, f"{s3_prefix}{tail}", s3_server.options()) for tail in ("/a", "/ab", "/a/b"))
    one.put("repo", b"1")
    two.put("repo", b"2")
    three.put("repo", b"3")
    assert [info.key for info in two.iter_objects()] == ["repo"]
    assert sorted(info.key for info in one.iter_objects()) == ["b/repo", "repo"]
    assert one.get("b/repo").data == b"3"


def test_directory_markers_of_other_tools_are_no_objects(s3_server, s3_storage, s3_prefix):
    client = s3_server.client()
    s3_storage.put("chunks/A", b"")
    client.put_object(Bucket=BUCKET, Key=f"{s3_prefix}/chunks/", Body=b"")
    client.put_object(Bucket=BUCKET, Key=f"{s3_prefix}/empty/", Body=b"")
    assert [info.key for info in s3_storage.iter_objects()] == ["chunks/A"]
    assert list(s3_storage.list_dir("chunks/")) == ["A"]


def test_foreign_objects_have_names_of_their_own(s3_server, s3_storage, s3_prefix):
    client = s3_server.client()
    etag = client.put_object(Bucket=BUCKET, Key=f"{s3_prefix}/odd ~name%41+.nc", Body=b"0123456789")["ETag"]
    assert s3_storage.read_range("odd ~name%41+.nc", 2, 5, if_match_etag=etag) == b"234"
    assert s3_storage.read_range("odd ~name%41+.nc", 2, 5, if_match_etag=etag.strip('"')) == b"234"
    with pytest.raises(ObjectModifiedError):
        s3_storage.read_range("odd ~name%41+.nc", 2, 2, if_match_etag="0" * 32)


def test_large_objects_go_in_parts(s3_server, s3_prefix, tmp_path):
    options = s3_server.options(multipart_threshold_bytes=6 * MIB, multipart_part_bytes=5 * MIB)
    storage = S3Storage(BUCKET, s3_prefix, options)
    data = bytes(range(256)) * (11 * MIB // 256) + b"tail"
    version = storage.put("chunks/A", data)
    assert version.endswith("-3")
    assert storage.get("chunks/A").data == data
    (tmp_path / "file").write_bytes(data)
    assert storage.put_file("chunks/B", str(tmp_path / "file")).endswith("-3")
    assert storage.get("chunks/B").data == data
    created = storage.put("repo", memoryview(data), create_only=True)
    with pytest.raises(PreconditionFailedError):
        storage.put("repo", data, create_only=True)
    changed = storage.put("repo", data[1:], if_match=created)
    with pytest.raises(PreconditionFailedError):
        storage.put("repo", data, if_match=created)
    assert storage.head("repo").version == changed
    uploads = s3_server.client().list_multipart_uploads(Bucket=BUCKET, Prefix=s3_prefix)
    assert uploads.get("Uploads", []) == []


# --- a store that fails ---


def test_expired_credentials_are_read_again(s3_server, s3_storage, s3_prefix, proxy, monkeypatch, tmp_path):
    s3_storage.put("repo", b"here")
    for name in s3_server.environment():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    _write_profile(tmp_path / "credentials", Identity("OLDKEYID", "old", ()))
    proxy.plan("expire")
    storage = open_storage(f"s3://{BUCKET}/{s3_prefix}?endpoint_url={proxy.endpoint_url}&profile=lab")
    storage.access.clients.connection()
    _write_profile(tmp_path / "credentials", READER)
    assert storage.get("repo").data == b"here"
    assert "OLDKEYID" in proxy.requests[0].headers["Authorization"]
    assert READER.access_key_id in proxy.requests[1].headers["Authorization"]
    # Not again and again, if the new ones are no better.
    proxy.plan("expire", times=None)
    proxy.requests.clear()
    with pytest.raises(AccessDeniedError, match="ExpiredToken"):
        storage.get("repo")
    assert len(proxy.requests) == 1


def test_bulk_deletion_that_a_store_lacks(s3_storage):
    for number in range(3):
        s3_storage.put(f"chunks/{number}", b"")
    client = s3_storage.access.clients.connection().client

    def lacking(**_):
        raise client.exceptions.ClientError(
            {"Error": {"Code": "NotImplemented"}, "ResponseMetadata": {"HTTPStatusCode": 501}}, "DeleteObjects"
        )

    client.delete_objects = lacking
    assert s3_storage.delete([f"chunks/{number}" for number in range(3)]) == []
    assert list(s3_storage.iter_objects()) == []


def test_keys_of_a_bulk_deletion_fail_one_by_one(s3_storage):
    client = s3_storage.access.clients.connection().client
    answers = [
        {
            "Errors": [
                {"Key": s3_storage.base + "a", "Code": "SlowDown"},
                {"Key": s3_storage.base + "b", "Code": "X"},
            ],
            "Deleted": [{"Key": s3_storage.base + "c"}],
        },
        {"Deleted": [{"Key": s3_storage.base + "a"}]},
    ]
    asked = []

    def scripted(**arguments):
        asked.append([item["Key"][len(s3_storage.base) :] for item in arguments["Delete"]["Objects"]])
        return answers.pop(0)

    client.delete_objects = scripted
    assert s3_storage.delete(["a", "b", "c"]) == ["b"]
    assert asked == [["a", "b", "c"], ["a"]]


def test_copies_on_a_condition_that_a_store_lacks(shaky, proxy):
    """The bytes go through the client then; they are still those of the version that was asked for."""
    plan = proxy.plan("lack", header="x-amz-copy-source", times=None)
    version = shaky.put("repo", b"one")
    shaky.copy("repo", "backup-1", if_match=version)
    changed = shaky.put("repo", b"two", if_match=version)
    with pytest.raises(PreconditionFailedError):
        shaky.copy("repo", "backup-2", if_match=version)
    shaky.copy("repo", "backup-3", if_match=changed)
    shaky.copy("repo", "backup-4")
    assert plan.fired == 1
    found = {info.key: shaky.get(info.key).data for info in shaky.iter_objects()}
    assert found == {"repo": b"two", "backup-1": b"one", "backup-3": b"two", "backup-4": b"two"}
    with pytest.raises(ObjectNotFoundError):
        shaky.copy("gone", "backup-5")


def test_unused_storage_sends_nothing(s3_server, proxy):
    storage = S3Storage(BUCKET, "x", s3_server.options(endpoint_url=proxy.endpoint_url))
    assert storage.url.startswith(f"s3://{BUCKET}/x")
    storage.close()
    assert proxy.requests == []


def test_requests_are_what_was_asked_for_and_no_more(shaky, proxy):
    version = shaky.put("repo", b"0123456789", create_only=True)
    shaky.copy("repo", "backup", if_match=version)
    shaky.put("repo", b"x", if_match=version)
    shaky.get("repo")
    assert shaky.get_if_changed("repo", shaky.head("repo").version) is None
    shaky.put("chunks/A", b"")
    shaky.delete(["chunks/A", "backup"])
    assert [request.method for request in proxy.requests] == ["PUT", "PUT", "PUT", "GET", "HEAD", "GET", "PUT", "POST"]
    # What services other than AWS refuse.
    for request in proxy.requests:
        names = {name.lower() for name in request.headers}
        assert not {"x-amz-sdk-checksum-algorithm", "x-amz-trailer"} & names or request.method == "POST"


def test_threads_share_the_connections(shaky, proxy):
    shaky.put("repo", b"x" * 1000)
    barrier = threading.Barrier(8)

    def read(_):
        barrier.wait()
        return [shaky.get("repo").data for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        assert all(data == b"x" * 1000 for several in pool.map(read, range(8)) for data in several)
