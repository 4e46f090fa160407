"""Interrupts requests that wait when the program behind them is to end.

A program that waits for a store which is slow or away waits in the kernel, for this process to answer: neither
Ctrl-C nor SIGKILL ends it before. The kernel does say that a signal has come (INTERRUPT), but once for a request,
whichever signal came first, and also for those that a program handles and goes on. The system call would fail with
EINTR then, and not be restarted, whatever SA_RESTART says: with a timer that ticks faster than the store answers, no
read would ever succeed, and programs that know no EINTR from files would fail. So it is looked up what the signal is
(`is_to_end`), and where there is no reason to end, the request goes on. Signals that come later, or that the kernel
does not report at all (it sends no INTERRUPT for reads with O_DIRECT), are found by looking again and again while a
request waits.

Python handles SIGINT, always, and means to end what is under way: that counts, too, but for a READ only if the program
is seen to be in a system call that reads. For a READ may be for a page fault, and the failure of that
is SIGBUS, or EFAULT where the kernel looks at the page.

Sources: fuse(4), proc_pid_status(5), proc_pid_syscall(5), signal(7).

A program that is gone is no reason: its requests read ahead into the page cache, for the next reader, or were begun
by a thread for another.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import trio

LOOK_S: Final = 0.2
"""How often it looks at the programs behind requests that wait."""


def _mask(*signals: signal.Signals) -> int:
    return sum(1 << (number - 1) for number in signals)


_KILL: Final = _mask(signal.SIGKILL)
_ASKED: Final = _mask(signal.SIGINT)
# Signals that end no process by default: they stop it, or do nothing.
_HARMLESS: Final = _mask(
    signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH,
    signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
)  # fmt: skip
_MASKS: Final = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")


# read, pread64, readv, preadv, preadv2
_READS: Final = {"x86_64": (0, 17, 19, 295, 327), "aarch64": (63, 67, 65, 69, 286)}.get(os.uname().machine, ())


def is_to_end(pid: int, may_be_fault: bool) -> bool:
    """Tells whether a signal is pending that ends a thread, or what it does; False if that cannot be found out.

    Args:
        pid: The thread, as requests name it; 0 if it has no number here.
        may_be_fault: Whether it may wait for a page.
    """
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            fields = dict(line.split(":", 1) for line in file if line.startswith("S") and ":" in line)
    except OSError:  # it is gone, or another user's behind `hidepid`
        return False
    try:
        own, shared, blocked, ignored, caught = (int(fields[name], 16) for name in _MASKS)
    except KeyError:
        return False
    pending = (own | shared) & ~blocked & ~ignored
    if pending & _KILL or pending & ~caught & ~_HARMLESS:
        return True
    return bool(pending & _ASKED) and (not may_be_fault or _is_reading(pid))


def _is_reading(pid: int) -> bool:
    """Tells whether a thread is in a system call that reads; False also where this process may not know."""
    try:
        with open(f"/proc/{pid}/syscall", encoding="ascii") as file:
            number = file.read().split()[0]
    except (OSError, IndexError):
        return False
    return number.isdecimal() and int(number) in _READS


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A request that waits and may be interrupted."""

    scope: trio.CancelScope
    pid: int
    may_be_fault: bool
    since: float


class Interrupts:
    """The requests that wait and may be interrupted.

    Concurrency: on the event loop's thread.
    """

    def __init__(self, is_to_end: Callable[[int, bool], bool] = is_to_end) -> None:
        """Takes the function that tells whether a thread is to end."""
        self._is_to_end = is_to_end
        self._waiting: dict[int, _Waiting] = {}
        self._sleeper = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def is_asleep(self) -> bool:
        """Whether `run` waits for a request to look at."""
        return len(self._sleeper) > 0

    @contextlib.contextmanager
    def cutting(self, unique: int, pid: int, may_be_fault: bool) -> Iterator[None]:
        """Cancels its block when the thread behind a request is to end, and goes on after it."""
        self._sleeper.unpark()
        with trio.CancelScope() as scope:
            self._waiting[unique] = _Waiting(scope, pid, may_be_fault, trio.current_time())
            try:
                yield
            finally:
                del self._waiting[unique]

    def interrupt(self, unique: int) -> None:
        """Records that a signal has come for the program that waits for a request.

        That was read before, as the kernel sends one after the other. Of one that was answered meanwhile, or may not
        be interrupted, nothing is known here.
        """
        waiting = self._waiting.get(unique)
        if waiting is not None and self._is_to_end(waiting.pid, waiting.may_be_fault):
            waiting.scope.cancel()

    def cut_all(self) -> None:
        """Interrupts all requests that wait, as no program is left to be answered."""
        for waiting in list(self._waiting.values()):
            waiting.scope.cancel()

    async def run(self) -> None:
        """Looks at the programs behind requests that have waited for long; never returns."""
        while True:
            if not self._waiting:
                await self._sleeper.park()
            await trio.sleep(LOOK_S)
            self._look()

    def _look(self) -> None:
        # Many requests have few programs behind them: the kernel reads ahead for one with many.
        found: dict[tuple[int, bool], bool] = {}
        latest = trio.current_time() - LOOK_S
        for waiting in list(self._waiting.values()):
            if waiting.since > latest:
                continue
            asker = waiting.pid, waiting.may_be_fault
            if asker not in found:
                found[asker] = self._is_to_end(*asker)
            if found[asker]:
                waiting.scope.cancel()
