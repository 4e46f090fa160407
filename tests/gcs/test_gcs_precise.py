"""The storage for Google Cloud Storage against a server that keeps every condition, which the emulator does not."""

import json
import multiprocessing
import os

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
from icefs.storage.gcs.options import GcsKey, GcsKeyFile, GcsOptions, GcsToken
from icefs.storage.gcs.store import GcsStorage
from icefs.storage.settings import StoreSettings
from icefs.storage.url import open_storage
from tests.support.fault_proxy import FaultProxy
from tests.support.gcs_precise import PreciseGcs
from tests.support.s3_server import FAST
from tests.support.storage_contract import StorageContract

PART = 256 << 10


@pytest.fixture(scope="module")
def server():
    with PreciseGcs() as server:
        yield server


@pytest.fixture(autouse=True)
def _empty(server):
    server.objects.clear()
    server.seen.clear()


@pytest.fixture
def make(server):
    made = []

    def make(**changes):
        options = {"endpoint_url": server.endpoint_url, "anonymous": True, "retry": FAST} | changes
        made.append(GcsStorage("bucket", "p", GcsOptions(**options)))
        return made[-1]

    yield make
    for storage in made:
        storage.close()


@pytest.fixture
def proxy(server):
    with FaultProxy(server.endpoint_url) as proxy:
        yield proxy


class TestPrecise(StorageContract):
    race_updates = 5
    many_objects = 450  # its pages hold 400

    @pytest.fixture
    def storage(self, make):
        return make()

    @pytest.fixture
    def other(self, make):
        return make()


# --- uploads in parts ---


@pytest.fixture
def in_parts(make):
    return make(multipart_threshold_bytes=PART, multipart_part_bytes=PART)


@pytest.mark.parametrize("size", [PART, PART + 1, 3 * PART])
def test_a_large_object_is_sent_in_parts(server, in_parts, size, tmp_path):
    data = os.urandom(size)
    version = in_parts.put("a", data, create_only=True)
    assert server.objects["p/a"].data == data
    assert version == in_parts.head("a").version
    parts = [seen for seen in server.seen if seen.method == "PUT"]
    assert len(parts) == -(-size // PART)
    (tmp_path / "file").write_bytes(data)
    in_parts.put_file("b", str(tmp_path / "file"))
    assert server.objects["p/b"].data == data


def test_conditions_hold_at_the_end_of_an_upload(server, in_parts):
    data = os.urandom(2 * PART)
    first = in_parts.put("a", data, create_only=True)
    for condition in ({"create_only": True}, {"if_match": "5"}, {"if_match": "not a generation"}):
        with pytest.raises(PreconditionFailedError):
            in_parts.put("a", os.urandom(PART), **condition)
    assert server.objects["p/a"].data == data
    second = in_parts.put("a", data, if_match=first)
    assert second != first


@pytest.mark.parametrize("fault", ["lose", "refuse", "throttle", "error"])
@pytest.mark.parametrize("skip", [0, 1, 2])
def test_a_part_whose_answer_is_lost_goes_on(server, make, proxy, fault, skip):
    storage = make(endpoint_url=proxy.endpoint_url, multipart_threshold_bytes=PART, multipart_part_bytes=PART)
    data = os.urandom(2 * PART + 7)
    plan = proxy.plan(fault, method="PUT", skip=skip)
    version = storage.put("a", data, create_only=True)
    assert plan.fired == 1
    assert (server.objects["p/a"].data == data, version) == (True, storage.head("a").version)


# --- conditions ---


@pytest.mark.parametrize("version", ["0", "0" * 32, "1" * 40, "other", ""])
def test_what_is_no_generation_is_no_version(server, make, version):
    storage = make()
    with pytest.raises(PreconditionFailedError):
        storage.put("a", b"1", if_match=version)
    storage.put("a", b"1")
    with pytest.raises(PreconditionFailedError):
        storage.put("a", b"2", if_match=version)
    assert storage.get_if_changed("a", version).data == b"1"


def test_a_copy_keeps_the_version(make):
    storage = make()
    first = storage.put("a", b"1")
    storage.put("a", b"2")
    with pytest.raises(PreconditionFailedError):
        storage.copy("a", "b", if_match=first)
    with pytest.raises(ObjectNotFoundError):
        storage.copy("missing", "b")


def test_a_virtual_read_keeps_its_conditions(server, make):
    storage = make()
    storage.put("a", b"0123456789")
    tag = f"tag-{server.objects['p/a'].generation}"
    assert storage.read_range("a", 2, 4, if_match_etag=tag) == b"23"
    assert storage.read_range("a", 2, 4, if_match_etag=f'"{tag}"') == b"23"
    assert storage.read_range("a", 10, 10) == b""
    storage.put("a", b"9876543210")
    with pytest.raises(ObjectModifiedError):
        storage.read_range("a", 2, 4, if_match_etag=tag)


# --- settings, as the service sees them ---


def _resource(server):
    """Returns the description that the last upload sent."""
    body = next(seen.body for seen in reversed(server.seen) if seen.path.startswith("/upload"))
    return json.loads(body.split(b"\r\n\r\n")[1].partition(b"\r\n")[0])


def test_storage_classes_are_sent(server, make):
    settings = StoreSettings(
        storage_class="STANDARD", metadata_storage_class="NEARLINE", chunks_storage_class="ARCHIVE"
    )
    storage = make().with_settings(settings)
    for key, expected in (("repo", "STANDARD"), ("snapshots/A", "NEARLINE"), ("chunks/A", "ARCHIVE")):
        storage.put(key, b"x")
        assert _resource(server)["storageClass"] == expected
    storage.copy("repo", "chunks/B")
    assert server.objects["p/chunks/B"].resource["storageClass"] == "ARCHIVE"
    in_parts = storage.with_settings(StoreSettings(multipart_threshold_bytes=1, chunks_storage_class="COLDLINE"))
    in_parts.put("chunks/C", b"x")
    assert server.objects["p/chunks/C"].resource["storageClass"] == "COLDLINE"


def test_conditions_and_metadata_can_be_left_out(server, make):
    storage = make().with_settings(StoreSettings(conditional_create=False, conditional_update=False, metadata=False))
    assert not storage.capabilities.conditional_update
    version = storage.put("repo", b"1", create_only=True)
    newer = storage.put("repo", b"2", if_match=version)
    storage.copy("repo", "b", if_match=newer)
    for refused in (
        lambda: storage.put("repo", b"3", create_only=True),
        lambda: storage.put("repo", b"3", if_match=version),
        lambda: storage.copy("repo", "b", if_match=version),
    ):
        with pytest.raises(PreconditionFailedError):  # it is looked up instead
            refused()
    sent = " ".join(f"{seen.query}" for seen in server.seen)
    assert "GenerationMatch" not in sent
    assert "metadata" not in _resource(server)


def test_retries_are_ours(make, proxy):
    storage = make(endpoint_url=proxy.endpoint_url)
    told = []
    storage.watch_retries(lambda *what: told.append(what))
    storage.put("a", b"1")
    proxy.plan("throttle", times=2)
    assert storage.get("a").data == b"1"
    assert told == [("read", "throttled")] * 2
    once = storage.with_settings(StoreSettings(max_tries=1))
    for call in (
        lambda: once.get("a"),
        lambda: once.head("a"),
        lambda: once.put("a", b""),
        lambda: once.copy("a", "b"),
        lambda: list(once.iter_objects()),
    ):
        proxy.clear()
        proxy.plan("throttle", times=None)
        with pytest.raises(StorageError):
            call()
        assert len(proxy.requests) == 1
    proxy.clear()
    proxy.plan("throttle", times=None)
    assert once.delete(["a"]) == ["a"]


def test_a_read_timeout_is_kept(make, proxy):
    storage = make(endpoint_url=proxy.endpoint_url).with_settings(StoreSettings(read_timeout_s=0.1, max_tries=1))
    proxy.plan("hang", times=None)
    with pytest.raises(UnreachableError):
        storage.get("a")


@pytest.mark.parametrize("field", ["operation_timeout_s", "operation_attempt_timeout_s"])
def test_a_try_ends_in_time(make, proxy, field):
    storage = make(endpoint_url=proxy.endpoint_url)
    storage.put("a", b"1")
    hurried = storage.with_settings(StoreSettings(max_tries=1, **{field: 0.1}))
    proxy.plan("stall", times=None)
    for call in (lambda: hurried.get("a"), lambda: hurried.head("a"), lambda: list(hurried.iter_objects())):
        with pytest.raises(UnreachableError):
            call()


def test_the_user_goes_before_settings(server):
    storage = open_storage("gs://bucket/p?max_tries=7&anonymous=true", endpoint_url=server.endpoint_url)
    assert storage.with_settings(StoreSettings(max_tries=1)).options.retry.max_tries == 7


# --- credentials and options ---


def test_a_token_and_who_pays_are_sent(server, make):
    tokens = iter(["first-secret", "second-secret"])
    storage = make(anonymous=False, credentials=lambda: GcsToken(next(tokens)), user_project="payer")
    storage.put("a", b"1")
    storage.get("a")
    storage.read_range("a", 0, 1)
    assert {
        seen.headers["authorization" if "authorization" in seen.headers else "Authorization"] for seen in server.seen
    } == {"Bearer first-secret"}
    assert [seen.query.get("userProject") for seen in server.seen] == ["payer", "payer", None]
    assert server.seen[-1].headers["x-goog-user-project"] == "payer"
    told = f"{storage!r} {storage.url} {storage.identity} {storage.options}"
    assert "secret" not in told


@pytest.mark.parametrize("credentials", [GcsKey("SECRET"), GcsKeyFile("/nowhere/key.json"), lambda: "SECRET"])
def test_credentials_that_are_none(make, credentials):
    storage = make(anonymous=False, credentials=credentials)
    with pytest.raises(AccessDeniedError) as caught:
        storage.get("a")
    assert "SECRET" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.hint


@pytest.mark.parametrize("url", ["ftp://host", "http://user:pass@host", "host"])
def test_an_endpoint_that_is_none(url):
    with pytest.raises(InvalidInputError):
        GcsOptions(endpoint_url=url)


def test_no_token_goes_over_an_open_network():
    storage = GcsStorage("bucket", "", GcsOptions(endpoint_url="http://store.example", credentials=GcsToken("SECRET")))
    with pytest.raises(InvalidInputError, match="not encrypted"):
        storage.get("a")


def test_the_owner_sees_the_labels(server, make):
    make(user_agent="job=7").put("a", b"1")
    make(user_agent="job=7").head("a")
    for seen in server.seen:
        assert "icefs job=7" in next(value for name, value in seen.headers.items() if name.lower() == "user-agent")


def test_the_emulator_of_the_environment(server, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.endpoint_url)
    storage = open_storage("gs://bucket/p")
    storage.put("a", b"1")
    assert server.objects["p/a"].data == b"1"
    storage.close()


def test_a_place_where_nothing_listens():
    storage = open_storage("gs://bucket/p?endpoint_url=http://127.0.0.1:1&anonymous=true&max_tries=1")
    with pytest.raises(UnreachableError) as caught:
        storage.put("repo", b"", create_only=True)
    assert caught.value.facts["maybe_written"] is False
    assert caught.value.hint


def _read_in_child(storage, results):
    results.put(storage.get("a").data)


def test_a_forked_child_has_a_connection_of_its_own(make):
    storage = make()
    storage.put("a", b"here")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_read_in_child, args=(storage, results))
    child.start()
    assert results.get(timeout=60) == b"here"
    child.join()
    assert storage.get("a").data == b"here"
