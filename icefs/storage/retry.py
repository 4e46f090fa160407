"""Tries again what failed for a passing reason, with back-off and jitter.

Which failures pass is not decided here: the layer that knows sets `is_transient` on its errors.
"""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from icefs.errors import StorageError, UnreachableError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how fast to try.

    Attributes:
        max_tries: How many tries a request gets in all.
        first_contact_tries: How many it gets if the store could not be reached and has never answered yet: more
            likely it is misspelt than passing through a bad moment.
        initial_backoff_s: The longest wait before the second try; each further one doubles it.
        max_backoff_s: The longest wait before any try.
    """

    max_tries: int = 8
    first_contact_tries: int = 3
    initial_backoff_s: float = 0.1
    max_backoff_s: float = 5.0

    def backoff_s(self, failures: int, draw: float) -> float:
        """Returns how long to wait after so many failures.

        The wait is spread over the whole interval from half to full (`draw` in [0, 1)), so that clients which
        failed together do not return together.
        """
        longest: float = min(self.max_backoff_s, self.initial_backoff_s * 2.0 ** min(failures - 1, 60))
        return longest * (0.5 + draw / 2)


class Retrier:
    """Runs operations under a policy, for one store.

    Several threads may run operations at once. `close` wakes those that wait between two tries; they then raise
    the error of their last try.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        draw: Callable[[], float] = random.random,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self.policy = policy
        self._draw = draw
        self._closed = threading.Event()
        self._wait = self._closed.wait if wait is None else wait
        self._answered = False

    def run[T](self, operation: Callable[[], T], *, on_failure: Callable[[StorageError], None] | None = None) -> T:
        """Calls `operation` until it returns, raises something lasting, or the tries are used up.

        Args:
            operation: One try. Its errors are final unless `is_transient`; a fact `retry_after_s` makes the wait at
                least that long (up to the policy's longest).
            on_failure: Told of each passing failure, also of the last.
        """
        failures = 0
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
                if failures >= limit or self._closed.is_set():
                    error.facts["tries"] = failures
                    raise
                self._wait(self._delay_s(failures, error))
            else:
                self._answered = True
                return result

    def _delay_s(self, failures: int, error: StorageError) -> float:
        asked = float(error.facts.get("retry_after_s", 0.0))
        return max(self.policy.backoff_s(failures, self._draw()), min(asked, self.policy.max_backoff_s))

    def pause(self, failures: int) -> None:
        """Waits as after so many failures."""
        self._wait(self.policy.backoff_s(failures, self._draw()))

    def close(self) -> None:
        """Makes every try from now on the last."""
        self._closed.set()
