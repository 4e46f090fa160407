"""S3 storage against a real server; against a server that fails; and against moto, as a second opinion."""

import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from queue import Queue

import pytest

from icefs.errors import (
    AccessDeniedError,
    InvalidInputError,
    ObjectModifiedError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageError,
    ThrottledError,
    UnreachableError,
)
from icefs.storage.retry import RetryPolicy
from icefs.storage.s3.options import S3Credentials, S3Options
from icefs.storage.s3.store import S3Storage
from icefs.storage.url import open_storage
from tests.support.fault_proxy import FaultProxy
from tests.support.hex_storage import HexStorage
from tests.support.s3_server import READER, Identity
from tests.support.storage_contract import StorageContract, append_line

BUCKET = "icefs-tests"
FAST = RetryPolicy(max_tries=5, initial_backoff_s=0.005, max_backoff_s=0.01)
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


@pytest.fixture(scope="module")
def moto_url():
    # Lazy: importing moto takes half a second, which the other tests need not wait for.
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    # It looks at a condition, and stores some time later what was sent on it.
    application, turn = server._server.app, threading.Lock()

    def one_by_one(environ, start_response):
        with turn:
            return list(application(environ, start_response))

    server._server.app = one_by_one
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class TestMoto(StorageContract):
    """A second opinion on the protocol. Moto copies unconditionally."""

    copies_conditionally = False
    lost_characters = "\n"
    many_objects = 50
    race_updates = 5

    @pytest.fixture
    def storage(self, moto_url, s3_prefix):
        options = S3Options(endpoint_url=moto_url, credentials=S3Credentials("any", "any"))
        storage = S3Storage("motobucket", s3_prefix, options)
        storage._clients.connection().client.create_bucket(Bucket="motobucket")
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
    assert [info.key for info in reader.list_objects()] == ["repo"]
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
    for call in (lambda: storage.get("repo"), lambda: storage.head("repo"), lambda: list(storage.list_objects())):
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
    for call in (lambda: storage.get("repo"), lambda: list(storage.list_objects())):
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
    assert [info.key for info in two.list_objects()] == ["repo"]
    assert sorted(info.key for info in one.list_objects()) == ["b/repo", "repo"]
    assert one.get("b/repo").data == b"3"


def test_directory_markers_of_other_tools_are_no_objects(s3_server, s3_storage, s3_prefix):
    client = s3_server.client()
    s3_storage.put("chunks/A", b"")
    client.put_object(Bucket=BUCKET, Key=f"{s3_prefix}/chunks/", Body=b"")
    client.put_object(Bucket=BUCKET, Key=f"{s3_prefix}/empty/", Body=b"")
    assert [info.key for info in s3_storage.list_objects()] == ["chunks/A"]
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


@pytest.fixture
def shaky(s3_server, s3_prefix, proxy):
    """The storage through the proxy; nothing is planned yet."""
    storage = S3Storage(BUCKET, s3_prefix, s3_server.options(endpoint_url=proxy.endpoint_url, retry=FAST))
    yield storage
    storage.close()


PASSING = ["throttle", "too many", "error", "refuse", "lose"]


@pytest.mark.parametrize("fault", [*PASSING, "truncate"])
@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("GET", lambda storage: storage.get("repo").data == b"0123456789"),
        ("GET", lambda storage: storage.get("repo", start=2, end=8).data == b"234567"),
        ("GET", lambda storage: storage.get_if_changed("repo", None).data == b"0123456789"),
        ("GET", lambda storage: storage.read_range("repo", 2, 8) == b"234567"),
        ("GET", lambda storage: [info.key for info in storage.list_objects()] == ["repo"]),
        ("GET", lambda storage: list(storage.list_dir()) == ["repo"]),
    ],
)
def test_reading_survives_passing_faults(shaky, s3_storage, proxy, fault, method, call):
    s3_storage.put("repo", b"0123456789")
    plan = proxy.plan(fault, method=method, times=3)
    assert call(shaky)
    assert plan.fired == 3


def begun(storage, start, end):
    """Reads a range of `repo` without a thread; None where that is left to `get`."""
    answers = Queue()
    assert storage.start_read("repo", start, end, answers.put)
    return answers.get(timeout=20)


@pytest.mark.parametrize("fault", [*PASSING, "truncate", "deny", "expire", "hide"])
def test_reading_without_a_thread_leaves_faults_to_others(shaky, s3_storage, proxy, fault):
    s3_storage.put("repo", b"0123456789")
    assert not shaky.start_read("repo", 2, 8, pytest.fail)  # nobody knows yet where the bucket is
    assert shaky.get("repo").data == b"0123456789"
    assert begun(shaky, 2, 8) == b"234567"
    plan = proxy.plan(fault, method="GET", times=2)
    told = []
    shaky.watch_retries(lambda *what: told.append(what))
    # A connection that ends before its answer is taken for one that had been idle for too long, once.
    assert begun(shaky, 2, 8) is None
    assert plan.fired == (2 if fault in ("refuse", "lose") else 1)
    if fault in ("deny", "expire", "hide"):
        assert not told  # which will not pass: the next request learns it
    else:
        assert told == [("read", "throttled" if fault in ("throttle", "too many") else "unreachable")]
    assert not shaky.start_read("repo", 2, 8, pytest.fail)


def test_reading_without_a_thread_finds_what_get_finds(shaky, s3_storage):
    s3_storage.put("repo", b"0123456789")
    assert shaky.get("repo").data == b"0123456789"
    assert begun(shaky, 0, 10) == b"0123456789"
    assert begun(shaky, 9, 10) == b"9"
    assert not shaky.start_read("repo", 3, 3, pytest.fail)
    assert begun(shaky, 5, 11) is None  # `get` says that the object is too short


@pytest.mark.parametrize("fault", PASSING)
@pytest.mark.parametrize(
    ("method", "call"),
    [
        (None, lambda storage: storage.head("repo").size_bytes == 10),
        ("PUT", lambda storage: storage.put("a", b"1") and storage.get("a").data == b"1"),
        ("PUT", lambda storage: storage.put("a", b"2", create_only=True) and storage.get("a").data == b"2"),
        ("PUT", lambda storage: storage.put("repo", b"3", if_match=storage.head("repo").version)),
        ("PUT", lambda storage: storage.copy("repo", "a") or storage.get("a").data == b"0123456789"),
        ("POST", lambda storage: storage.delete(["repo", "a"]) == [] and list(storage.list_objects()) == []),
    ],
)
def test_other_requests_survive_passing_faults(shaky, s3_storage, proxy, fault, method, call):
    s3_storage.put("repo", b"0123456789")
    plan = proxy.plan(fault, method=method, times=3)
    assert call(shaky)
    assert plan.fired == 3


@pytest.mark.parametrize(("fault", "cls"), [("throttle", ThrottledError), ("error", UnreachableError)])
def test_faults_that_do_not_pass_are_told(shaky, proxy, fault, cls):
    plan = proxy.plan(fault, times=None)
    for call in (
        lambda: shaky.get("repo"),
        lambda: shaky.put("repo", b"", create_only=True),
        lambda: shaky.delete(["repo"]),
    ):
        with pytest.raises(cls) as caught:
            call()
        assert caught.value.is_transient
        assert caught.value.facts["tries"] == 5
    assert plan.fired >= 15


def test_a_lost_answer_to_a_creation_is_found_out(shaky, proxy):
    plan = proxy.plan("lose", method="PUT")
    version = shaky.put("repo", b"mine", create_only=True)
    assert plan.fired == 1
    assert shaky.head("repo").version == version
    assert shaky.put("repo", b"next", if_match=version)


def test_a_lost_answer_to_an_update_is_found_out(shaky, proxy):
    version = shaky.put("repo", b"one")
    proxy.plan("lose", method="PUT", times=2)
    version = shaky.put("repo", b"two", if_match=version)
    assert shaky.get("repo").data == b"two"
    assert shaky.put("repo", b"three", if_match=version)


def test_when_all_answers_are_lost_the_write_is_still_found(shaky, proxy):
    version = shaky.put("repo", b"one")
    plan = proxy.plan("lose", method="PUT", times=None)
    version = shaky.put("repo", b"two", if_match=version)
    assert plan.fired >= 1
    assert shaky.head("repo").version == version
    assert shaky.get("repo").data == b"two"


def test_somebody_elses_write_is_never_taken_for_ours(shaky, s3_storage, proxy):
    """Our request never arrived, and another writer created the object meanwhile."""
    proxy.plan("refuse", method="PUT")
    proxy.plan("throttle", method="PUT", times=1)
    s3_storage.put("repo", b"theirs", create_only=True)
    with pytest.raises(PreconditionFailedError):
        shaky.put("repo", b"ours", create_only=True)
    assert shaky.get("repo").data == b"theirs"


def test_a_conflict_without_a_lost_answer_is_certain(shaky, s3_storage):
    version = s3_storage.put("repo", b"one")
    s3_storage.put("repo", b"two")
    with pytest.raises(PreconditionFailedError) as caught:
        shaky.put("repo", b"ours", if_match=version)
    assert not caught.value.facts["maybe_written"]


def test_a_write_that_was_built_on_is_told_as_uncertain(shaky, s3_storage, proxy):
    """Ours arrived, its answer did not, and another writer has replaced it since."""
    proxy.plan("act", method="PUT", action=lambda: append_line(s3_storage, "repo", b"+ theirs"))
    with pytest.raises(PreconditionFailedError) as caught:
        shaky.put("repo", b"ours ", create_only=True)
    assert caught.value.facts["maybe_written"]
    assert s3_storage.get("repo").data == b"ours + theirs\n"


def test_when_nothing_answers_any_more_it_is_told_as_uncertain(shaky, proxy):
    version = shaky.put("repo", b"one")
    proxy.plan("lose", method="PUT")
    proxy.plan("refuse", method="PUT", times=None)
    proxy.plan("refuse", method="HEAD", times=None)
    with pytest.raises(UnreachableError) as caught:
        shaky.put("repo", b"two", if_match=version)
    assert caught.value.facts["maybe_written"]
    proxy.clear()
    assert shaky.get("repo").data == b"two"


def test_a_spurious_conflict_is_not_believed(shaky, proxy):
    """AWS answers 409 while another request for the object is under way, even one that then fails."""
    version = shaky.put("repo", b"one")
    plan = proxy.plan("conflict", method="PUT", times=3)
    shaky.put("repo", b"two", if_match=version)
    assert plan.fired == 3
    proxy.plan("conflict", method="PUT", times=2)
    shaky.put("new", b"x", create_only=True)


@pytest.mark.parametrize("fault", ["conflict", "mismatch", "absent"])
def test_a_store_that_refuses_every_condition_is_not_believed(shaky, proxy, fault):
    """The object is what the condition asks for, at each try: nobody else has written."""
    shaky.put("repo", b"one")
    version = shaky.head("repo").version
    proxy.plan(fault, method="PUT", times=None)
    with pytest.raises(StorageError, match="refuses If-Match although it is unchanged") as caught:
        shaky.put("repo", b"three", if_match=version)
    assert not isinstance(caught.value, PreconditionFailedError)
    with pytest.raises(StorageError, match="refuses If-None-Match although there is no object"):
        shaky.put("new", b"three", create_only=True)
    if fault == "mismatch":
        with pytest.raises(StorageError, match=r"cannot copy .* refuses If-Match although it is unchanged"):
            shaky.copy("repo", "backup", if_match=version)
    assert len(proxy.requests) < 60


def test_weak_entity_tags_name_the_strong_ones(s3_server, s3_prefix, s3_storage):
    """A proxy that compresses makes them weak, and passes conditions on as they are."""
    with FaultProxy(s3_server.endpoint_url) as proxy:
        proxy.weakens_tags = True
        storage = S3Storage(BUCKET, s3_prefix, s3_server.options(endpoint_url=proxy.endpoint_url, retry=FAST))
        version = storage.put("repo", b"one")
        version = storage.put("repo", b"two", if_match=version)
        assert storage.get_if_changed("repo", version) is None
        storage.copy("repo", "backup", if_match=version)
        assert s3_storage.get("backup") == s3_storage.get("repo") == storage.get("repo")
        proxy.plan("mismatch", method="PUT", times=None)
        with pytest.raises(StorageError, match="its entity tags are weak"):
            storage.put("repo", b"three", if_match=version)
        storage.close()


def test_a_write_without_a_condition_meets_no_conflict(shaky, proxy):
    """AWS answers 409 (OperationAborted) to any write while a conditional one is under way."""
    plan = proxy.plan("conflict", method="PUT", times=3)
    shaky.put("chunks/A", b"one")
    assert plan.fired == 3
    assert shaky.get("chunks/A").data == b"one"


def test_a_lost_answer_to_the_end_of_a_multipart_upload(s3_server, s3_prefix, proxy):
    options = s3_server.options(
        endpoint_url=proxy.endpoint_url, retry=FAST, multipart_threshold_bytes=MIB, multipart_part_bytes=5 * MIB
    )
    storage = S3Storage(BUCKET, s3_prefix, options)
    data = b"x" * (6 * MIB)
    for number, write in enumerate(
        (
            lambda key: storage.put(key, data),
            lambda key: storage.put(key, data, create_only=True),
        )
    ):
        plan = proxy.plan("lose", method="POST", skip=1)
        version = write(f"chunks/{number}")
        assert plan.fired == 1
        assert storage.head(f"chunks/{number}").version == version
        proxy.clear()
    storage.close()


def test_no_update_is_lost_or_doubled_on_a_shaky_connection(s3_server, s3_prefix, proxy):
    """One request after the other meets a fault, and each acknowledged line is there exactly once."""
    patient = replace(FAST, max_tries=50)
    shaky = S3Storage(BUCKET, s3_prefix, s3_server.options(endpoint_url=proxy.endpoint_url, retry=patient))
    shaky.put("repo", b"")
    for number, fault in enumerate(("lose", "refuse", "throttle", "error", "lose", "lose", "truncate")):
        for round_number in range(6):
            proxy.plan(fault, skip=number + 3 * round_number)

    def update(thread):
        lines = []
        for number in range(8):
            line = b"%d.%d" % (thread, number)
            while True:
                found = shaky.get("repo")
                if line in found.data.split():
                    break  # An uncertain one that did arrive.
                try:
                    shaky.put("repo", found.data + line + b"\n", if_match=found.version)
                except PreconditionFailedError:
                    continue
                break
            lines.append(line)
        return lines

    with ThreadPoolExecutor(4) as pool:
        acknowledged = [line for lines in pool.map(update, range(4)) for line in lines]
    assert sorted(shaky.get("repo").data.split()) == sorted(acknowledged)


def test_expired_credentials_are_read_again(s3_server, s3_storage, s3_prefix, proxy, monkeypatch, tmp_path):
    s3_storage.put("repo", b"here")
    for name in s3_server.environment():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    _write_profile(tmp_path / "credentials", Identity("OLDKEYID", "old", ()))
    proxy.plan("expire")
    storage = open_storage(f"s3://{BUCKET}/{s3_prefix}?endpoint_url={proxy.endpoint_url}&profile=lab")
    storage._clients.connection()
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
    client = s3_storage._clients.connection().client

    def lacking(**_):
        raise client.exceptions.ClientError(
            {"Error": {"Code": "NotImplemented"}, "ResponseMetadata": {"HTTPStatusCode": 501}}, "DeleteObjects"
        )

    client.delete_objects = lacking
    assert s3_storage.delete([f"chunks/{number}" for number in range(3)]) == []
    assert list(s3_storage.list_objects()) == []


def test_keys_of_a_bulk_deletion_fail_one_by_one(s3_storage):
    client = s3_storage._clients.connection().client
    answers = [
        {
            "Errors": [
                {"Key": s3_storage._base + "a", "Code": "SlowDown"},
                {"Key": s3_storage._base + "b", "Code": "X"},
            ],
            "Deleted": [{"Key": s3_storage._base + "c"}],
        },
        {"Deleted": [{"Key": s3_storage._base + "a"}]},
    ]
    asked = []

    def scripted(**arguments):
        asked.append([item["Key"][len(s3_storage._base) :] for item in arguments["Delete"]["Objects"]])
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
    found = {info.key: shaky.get(info.key).data for info in shaky.list_objects()}
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
