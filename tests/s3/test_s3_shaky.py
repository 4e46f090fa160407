"""Requests over a connection that fails: retries, lost answers, spurious conflicts."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import Queue

import pytest

from icefs.errors import (
    PreconditionFailedError,
    StorageError,
    ThrottledError,
    UnreachableError,
)
from icefs.storage.s3.store import S3Storage
from tests.support.fault_proxy import FaultProxy
from tests.support.s3_server import BUCKET, FAST
from tests.support.storage_contract import append_line

MIB = 1 << 20
PASSING = ["throttle", "too many", "error", "refuse", "lose"]


@pytest.mark.parametrize("fault", [*PASSING, "truncate"])
@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("GET", lambda storage: storage.get("repo").data == b"0123456789"),
        ("GET", lambda storage: storage.get("repo", start=2, end=8).data == b"234567"),
        ("GET", lambda storage: storage.get_if_changed("repo", None).data == b"0123456789"),
        ("GET", lambda storage: storage.read_range("repo", 2, 8) == b"234567"),
        ("GET", lambda storage: [info.key for info in storage.iter_objects()] == ["repo"]),
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
        ("POST", lambda storage: storage.delete(["repo", "a"]) == [] and list(storage.iter_objects()) == []),
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
