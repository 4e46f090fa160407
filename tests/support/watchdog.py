"""Ends what a failing test waits for: its processes, then the process that runs it.

pytest-timeout fails a test that takes too long, once. The test's way out has no limit: `Popen.__exit__`
waits for a child that nothing ends, a thread is joined that reads from a mount whose daemon hangs. So a second limit
counts from the start of each test:

1. Processes that began since then are killed, daemons among them, which ends nearly everything that a test can wait
   for. The test has failed already.
2. Where even that does not help, the stacks are printed and the process ends; pytest-xdist starts another one and
   names the test.
"""

import contextlib
import faulthandler
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_MARK = "ICEFS_TEST_PROCESS"


class Watchdog:
    """A thread that watches one test at a time; processes that were started before it was made are not its own.

    Args:
        grace_s: How long a test may take to end after its processes were killed.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._changed = threading.Condition()
        self._test: tuple[str, float, float] | None = None
        self._serial = 0
        os.environ[_MARK] = str(os.getpid())
        # Here pytest does not capture yet.
        self._terminal = os.fdopen(os.dup(2), "w")
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextlib.contextmanager
    def watching(self, test: str, limit_s: float | None) -> Iterator[None]:
        """Watches a test with its set-up and its end; None lets it take its time."""
        self._set((test, limit_s, time.clock_gettime(time.CLOCK_BOOTTIME)) if limit_s is not None else None)
        try:
            yield
        finally:
            self._set(None)

    def _set(self, test: tuple[str, float, float] | None) -> None:
        with self._changed:
            self._test = test
            self._serial += 1
            self._changed.notify()

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._test is not None)
                assert self._test is not None
                (name, limit_s, begin_s), serial = self._test, self._serial
            if self._has_ended(serial, limit_s):
                continue
            print(f"\nwatchdog: {name} does not end; its processes are killed", file=self._terminal, flush=True)
            for pid in own_processes(begin_s):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not self._has_ended(serial, self._grace_s):
                print(f"\nwatchdog: {name} does not end even so:", file=self._terminal, flush=True)
                faulthandler.dump_traceback(self._terminal)
                os._exit(70)

    def _has_ended(self, serial: int, limit_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._serial != serial, limit_s)


def own_processes(begin_s: float) -> Iterator[int]:
    """Yields the processes that this one has started since a time of the boot clock, directly or not.

    A daemon is among them although its parent is gone: it has the mark in its environment.
    """
    mark = f"{_MARK}={os.getpid()}".encode()
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            start = int((place / "stat").read_text().rpartition(")")[2].split()[19])
            if (start + 1) * tick_s >= begin_s and mark in (place / "environ").read_bytes().split(b"\0"):
                yield int(place.name)
