"""Tries again what failed for a passing reason, with back-off and jitter.

Which failures pass is not decided here: the layer that knows sets `is_transient` on its errors.

Each try that is to be repeated is a line of the log, and a request that is given up a warning. Lines name the request,
and why it failed by the error's class and code alone: what a service or a driver says may repeat a signed URL.
"""

import logging
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from icefs.errors import StorageError, UnreachableError
from icefs.storage.settings import StoreSettings

_WORD: Final = re.compile("[A-Z][a-z]*")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how fast to try.

    Attributes:
        max_tries: How many tries a request gets in all.
        first_contact_tries: How many it gets if the store could not be reached and has never answered yet: more
            likely it is misspelt than passing through a bad moment.
        initial_backoff_s: The longest wait before the second try; each further one doubles it.
        max_backoff_s: The longest wait before any try.
        operation_timeout_s: How long a request may take with all its tries and waits; None for no limit.
        attempt_timeout_s: How long one try may take; None for no limit but those between its bytes.
    """

    max_tries: int = 8
    first_contact_tries: int = 3
    initial_backoff_s: float = 0.1
    max_backoff_s: float = 5.0
    operation_timeout_s: float | None = None
    attempt_timeout_s: float | None = None

    @property
    def has_deadlines(self) -> bool:
        """Whether a try has to end by a certain time, however fast its bytes come."""
        return self.operation_timeout_s is not None or self.attempt_timeout_s is not None

    def with_settings(self, settings: StoreSettings) -> "RetryPolicy":
        """Returns the policy that obeys the settings in the fields that they have."""
        tries = settings.max_tries
        named: dict[str, Any] = {
            "max_tries": tries,
            "first_contact_tries": None if tries is None else min(tries, self.first_contact_tries),
            "initial_backoff_s": settings.initial_backoff_s,
            "max_backoff_s": settings.max_backoff_s,
            "operation_timeout_s": settings.operation_timeout_s,
            "attempt_timeout_s": settings.operation_attempt_timeout_s,
        }
        return replace(self, **{name: value for name, value in named.items() if value is not None})

    def settings(self, given: StoreSettings, *, connect_timeout_s: float, read_timeout_s: float) -> StoreSettings:
        """Returns settings with the times and numbers of tries that are in force."""
        return replace(
            given,
            max_tries=self.max_tries,
            initial_backoff_s=self.initial_backoff_s,
            max_backoff_s=self.max_backoff_s,
            operation_timeout_s=self.operation_timeout_s,
            operation_attempt_timeout_s=self.attempt_timeout_s,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
        )

    def backoff_s(self, failures: int, draw: float) -> float:
        """Returns how long to wait after so many failures.

        The wait is spread over the whole interval from half to full (`draw` in [0, 1)), so that clients which
        failed together do not return together.
        """
        longest: float = min(self.max_backoff_s, self.initial_backoff_s * 2.0 ** min(failures - 1, 60))
        return longest * (0.5 + draw / 2)


class _Operation(threading.local):
    """The operation that a thread runs.

    Attributes:
        ends_at: When it has to be over, on the monotonic clock; None for no limit.
    """

    ends_at: float | None = None


class Retrier:
    """Runs operations under a policy, for one store.

    Several threads may run operations at once. `close` wakes those that wait between two tries; they then raise
    the error of their last try.

    Attributes:
        on_retry: Told of each try that is repeated: what it was to do (one word), and the class of its error.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        draw: Callable[[], float] = random.random,
        wait: Callable[[float], object] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self._monotonic = monotonic
        self._operation = _Operation()
        self._draw = draw
        self._closed = threading.Event()
        self._wait = self._closed.wait if wait is None else wait
        self._answered = False
        self.on_retry: Callable[[str, str], None] = _tell_nobody

    def run[T](
        self,
        operation: Callable[[], T],
        *,
        verb: str = "request",
        name: str = "",
        on_failure: Callable[[StorageError], None] | None = None,
    ) -> T:
        """Calls `operation` until it returns, raises something lasting, or the tries are used up.

        Args:
            operation: One try. Its errors are final unless `is_transient`; a fact `retry_after_s` makes the wait at
                least that long (up to the policy's longest).
            verb: What it does, as "read".
            name: To what, as "s3://bucket/key"; without anything secret.
            on_failure: Told of each passing failure, also of the last.
        """
        failures = 0
        limit_s = self.policy.operation_timeout_s
        self._operation.ends_at = ends_at = None if limit_s is None else self._monotonic() + limit_s
        while True:
            try:
                result = operation()
            except StorageError as error:
                failures += 1
                reached = not (isinstance(error, UnreachableError) and error.facts.get("never_connected"))
                self._answered |= reached
                if not error.is_transient:
                    raise
                if on_failure is not None:
                    on_failure(error)
                limit = self.policy.max_tries if self._answered else self.policy.first_contact_tries
                wait_s = self._delay_s(failures, error)
                is_late = ends_at is not None and self._monotonic() + wait_s >= ends_at
                if failures >= limit or is_late or self._closed.is_set():
                    error.facts["tries"] = failures
                    # Where the store is being closed, nobody waits for the answer any more.
                    level = logging.INFO if self._closed.is_set() else logging.WARNING
                    self._tell(level, error, verb, name, failures, limit)
                    raise
                self._tell(logging.INFO, error, verb, name, failures, limit, wait_s)
                self._wait(wait_s)
            else:
                self._answered = True
                return result

    def attempt_limit_s(self) -> float | None:
        """Returns how long the try that this thread makes may take from now on; None for no limit."""
        limit_s, ends_at = self.policy.attempt_timeout_s, self._operation.ends_at
        if ends_at is None:
            return limit_s
        left_s = max(ends_at - self._monotonic(), 0.001)
        return left_s if limit_s is None else min(limit_s, left_s)

    def _delay_s(self, failures: int, error: StorageError) -> float:
        asked = float(error.facts.get("retry_after_s", 0.0))
        return max(self.policy.backoff_s(failures, self._draw()), min(asked, self.policy.max_backoff_s))

    def pause(self, error: StorageError, failures: int, limit: int, *, verb: str, name: str) -> None:
        """Waits as after so many failures, of at most `limit`, of something that the caller retries."""
        wait_s = self.policy.backoff_s(failures, self._draw())
        self._tell(logging.INFO, error, verb, name, failures, limit, wait_s)
        self._wait(wait_s)

    def note(self, error: StorageError, *, verb: str, name: str) -> None:
        """Tells of a try that was made elsewhere, and that `run` is to repeat at once."""
        self._tell(logging.INFO, error, verb, name, 1, self.policy.max_tries, 0.0)

    def _tell(
        self,
        level: int,
        error: StorageError,
        verb: str,
        name: str,
        tries: int,
        limit: int,
        wait_s: float | None = None,
    ) -> None:
        if wait_s is not None:
            self.on_retry(verb.partition(" ")[0], _class_of(error))
        reason = _reason(error)
        facts = {"operation": verb, "object": name, "reason": reason, "attempt": tries, "max_attempts": limit}
        if wait_s is None:
            text = f"cannot {verb} {name}: given up after {tries} of {limit} tries: {reason}"
        else:
            text = f"cannot {verb} {name} yet: {reason}; try {tries + 1} of {limit} follows in {wait_s:.2f} s"
            facts["wait_s"] = round(wait_s, 3)
        # A store that throttles does so to all its objects: one line tells of all of them.
        store = "/".join(name.split("/", 3)[:3])
        _log.log(level, text, extra={"facts": facts, "repeat_key": f"{level} {verb} {store} {reason}"})

    def close(self) -> None:
        """Makes every try from now on the last."""
        self._closed.set()


def _tell_nobody(verb: str, kind: str) -> None:
    pass


def _reason(error: StorageError) -> str:
    """Says why a try failed, in words of our own: class, code and status."""
    code, status = error.facts.get("code"), error.facts.get("status")
    known = " ".join(dict.fromkeys(str(one) for one in (code, status, error.facts.get("cause")) if one))
    return f"{_class_of(error)} ({known})" if known else _class_of(error)


def _class_of(error: StorageError) -> str:
    """Returns the class of an error as a word: `throttled`, `unreachable`, `access-denied`."""
    return "-".join(_WORD.findall(type(error).__name__.removesuffix("Error"))).lower()
