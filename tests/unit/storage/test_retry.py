"""Trying again: what, how often, how long between."""

import logging
import threading

import pytest

from icefs.errors import AccessDeniedError, StorageError, ThrottledError, UnreachableError
from icefs.storage.retry import Retrier, RetryPolicy

POLICY = RetryPolicy(max_tries=5, first_contact_tries=2, initial_backoff_s=1.0, max_backoff_s=6.0)


class Script:
    """An operation that raises the given errors, then returns."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


@pytest.fixture
def waits():
    return []


@pytest.fixture
def retrier(waits):
    return Retrier(POLICY, draw=lambda: 0.999999, wait=waits.append)


def never_connected():
    return UnreachableError("no route", never_connected=True)


def test_the_first_answer_is_enough(retrier, waits):
    assert retrier.run(Script()) == "answer"
    assert waits == []


def test_passing_failures_are_tried_again_with_growing_waits(retrier, waits):
    failures = []
    script = Script(*(ThrottledError("slow down") for _ in range(4)))
    assert retrier.run(script, on_failure=failures.append) == "answer"
    assert script.calls == 5
    assert waits == pytest.approx([1, 2, 4, 6], rel=1e-3)
    assert len(failures) == 4


def test_waits_are_spread_from_half_to_full():
    assert POLICY.backoff_s(1, 0.0) == 0.5
    assert POLICY.backoff_s(1, 0.5) == 0.75
    assert POLICY.backoff_s(10, 0.0) == 3.0
    assert POLICY.backoff_s(5000, 0.999999) <= 6.0


def test_the_tries_end(retrier, waits):
    script = Script(*(ThrottledError("slow down") for _ in range(9)))
    with pytest.raises(ThrottledError) as caught:
        retrier.run(script)
    assert script.calls == 5
    assert len(waits) == 4
    assert caught.value.facts["tries"] == 5


@pytest.mark.parametrize("error", [AccessDeniedError("no"), StorageError("no"), ValueError("a bug")])
def test_lasting_failures_are_not_tried_again(retrier, waits, error):
    script = Script(error)
    with pytest.raises(type(error)):
        retrier.run(script)
    assert script.calls == 1
    assert waits == []


def test_an_error_may_be_declared_passing(retrier):
    error = AccessDeniedError("expired, but there are new credentials")
    error.is_transient = True
    assert retrier.run(Script(error)) == "answer"


def test_a_store_that_never_answered_is_given_up_on_early(retrier):
    script = Script(*(never_connected() for _ in range(9)))
    with pytest.raises(UnreachableError):
        retrier.run(script)
    assert script.calls == 2
    assert retrier.run(Script()) == "answer"
    script = Script(*(never_connected() for _ in range(9)))
    with pytest.raises(UnreachableError):
        retrier.run(script)
    assert script.calls == 5


@pytest.mark.parametrize("first", [ThrottledError("busy"), UnreachableError("broke off"), AccessDeniedError("no")])
def test_any_answer_counts_as_contact(retrier, first):
    lasting = not first.is_transient
    if lasting:
        with pytest.raises(StorageError):
            retrier.run(Script(first))
    script = Script(*([] if lasting else [first]), *(never_connected() for _ in range(9)))
    with pytest.raises(UnreachableError):
        retrier.run(script)
    assert script.calls == 5


def test_the_store_may_ask_for_longer_waits(retrier, waits):
    retrier.run(Script(ThrottledError("busy", retry_after_s=3.0), ThrottledError("busy", retry_after_s=1000.0)))
    assert waits == [3.0, 6.0]


def test_closing_ends_the_waiting():
    retrier = Retrier(RetryPolicy(initial_backoff_s=1000.0, max_backoff_s=1000.0))
    failed = threading.Event()
    raised = []

    def run():
        try:
            retrier.run(Script(*(ThrottledError("slow down") for _ in range(9))), on_failure=lambda error: failed.set())
        except ThrottledError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert failed.wait(10)
    retrier.close()
    thread.join(10)
    assert not thread.is_alive()
    assert len(raised) == 1


def told(caplog):
    return [(entry.levelname, entry.getMessage()) for entry in caplog.records if entry.name == "icefs.storage.retry"]


def test_each_further_try_is_told_and_giving_up_is_a_warning(retrier, caplog):
    caplog.set_level(logging.DEBUG)
    counted = []
    retrier.on_retry = lambda verb, kind: counted.append((verb, kind))
    errors = [ThrottledError("https://h/k?X-Amz-Signature=abc", code="SlowDown", status=503), UnreachableError("gone")]
    assert retrier.run(Script(*errors), verb="delete from", name="s3://bucket/a/b") == "answer"
    assert told(caplog) == [
        ("INFO", "cannot delete from s3://bucket/a/b yet: throttled (SlowDown 503); try 2 of 5 follows in 1.00 s"),
        ("INFO", "cannot delete from s3://bucket/a/b yet: unreachable; try 3 of 5 follows in 2.00 s"),
    ]
    assert caplog.records[0].facts == {
        "operation": "delete from",
        "object": "s3://bucket/a/b",
        "reason": "throttled (SlowDown 503)",
        "attempt": 1,
        "max_attempts": 5,
        "wait_s": 1.0,
    }
    assert counted == [("delete", "throttled"), ("delete", "unreachable")]
    caplog.clear()
    with pytest.raises(ThrottledError):
        retrier.run(
            Script(*(ThrottledError("no", code=429, status=429) for _ in range(9))), verb="read", name="http://h/k"
        )
    assert [level for level, _ in told(caplog)] == ["INFO"] * 4 + ["WARNING"]
    assert told(caplog)[-1][1] == "cannot read http://h/k: given up after 5 of 5 tries: throttled (429)"
    assert len(counted) == 2 + 4


def test_what_fails_for_good_is_not_told_as_a_try(retrier, caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(AccessDeniedError):
        retrier.run(Script(AccessDeniedError("no")), verb="read", name="s3://bucket/a")
    assert told(caplog) == []


def test_a_throttling_store_is_one_line_for_all_its_objects(retrier, caplog):
    caplog.set_level(logging.INFO)
    for number in range(3):
        retrier.run(Script(ThrottledError("no", status=503)), verb="read", name=f"s3://bucket/chunks/{number}")
    retrier.run(Script(ThrottledError("no", status=503)), verb="read", name="s3://other/chunks/0")
    retrier.run(Script(ThrottledError("no", status=503)), verb="write", name="s3://bucket/chunks/0")
    keys = [entry.repeat_key for entry in caplog.records]
    assert len(set(keys[:3])) == 1
    assert len(set(keys)) == 3


def test_a_request_that_its_closing_ends_is_no_warning(caplog):
    caplog.set_level(logging.INFO)
    retrier = Retrier(POLICY)
    retrier.close()
    with pytest.raises(ThrottledError):
        retrier.run(Script(ThrottledError("no")), verb="read", name="s3://bucket/a")
    assert told(caplog) == [("INFO", "cannot read s3://bucket/a: given up after 1 of 5 tries: throttled")]
