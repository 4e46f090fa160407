"""Trying again: what, how often, how long between."""

import threading

import pytest

from icefs.errors import AccessDeniedError, StorageError, ThrottledError, UnreachableError
from icefs.storage.retry import Retrier, RetryPolicy

POLICY = RetryPolicy(max_tries=5, first_contact_tries=2, initial_backoff_s=1.0, max_backoff_s=6.0)


class Script:
    """An operation that raises what it is told, then returns."""

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
