"""Locks with a place in one order, so that threads never wait for each other in a circle.

A thread takes a lock only while every other lock that it holds has a smaller rank; two locks of one rank are never held
together. `worktree/CONCURRENCY.md` says what each lock protects.

`new_lock` and `new_rlock` return the standard library's locks. Where the environment variable ICEFS_CHECK_LOCKS is the
path of a file, as it is under tests, they return locks that check the order at each use: a thread that breaks it gets
`LockOrderError`, and the file a line that outlasts whatever catches the error.
"""

import os
import threading
from enum import IntEnum
from pathlib import Path
from typing import Any, Final, Self, cast

CHECK_VARIABLE: Final = "ICEFS_CHECK_LOCKS"


class Rank(IntEnum):
    """What a lock protects; the smaller the number, the earlier it is taken."""

    TREE = 1
    """A working tree: its nodes, its journal, its open files."""
    BRANCH = 2
    """What a branch's tree shares with threads: its session, its inode numbers and their times."""
    LEAF = 3
    """A table or queue of one object, which calls nothing that takes a ranked lock."""


class LockOrderError(AssertionError):
    """A thread took a lock while it held one that comes later in the order, or another one of the same rank."""


def new_lock(rank: Rank, name: str) -> threading.Lock:
    """Returns a lock.

    Args:
        rank: Its place in the order.
        name: What messages call it.
    """
    report = os.environ.get(CHECK_VARIABLE)
    if report is None:
        return threading.Lock()
    return cast("threading.Lock", CheckedLock(rank, name, threading.Lock(), Path(report)))


def new_rlock(rank: Rank, name: str) -> threading.RLock:
    """Returns a lock that the thread that holds it may take again.

    Args:
        rank: Its place in the order.
        name: What messages call it.
    """
    report = os.environ.get(CHECK_VARIABLE)
    if report is None:
        return threading.RLock()
    return cast("threading.RLock", CheckedLock(rank, name, threading.RLock(), Path(report), is_reentrant=True))


class _Held(threading.local):
    """The checked locks that a thread holds, in the order in which it took them."""

    def __init__(self) -> None:
        self.locks: list[CheckedLock] = []


_held = _Held()


class CheckedLock:
    """A lock that refuses to be taken against the order; also for `threading.Condition`."""

    def __init__(self, rank: Rank, name: str, lock: Any, report: Path, *, is_reentrant: bool = False) -> None:
        """Wraps a lock of the standard library; `report` is the file that gets a line for each violation."""
        self.rank = rank
        self.name = name
        self._lock = lock
        self._report = report
        self._is_reentrant = is_reentrant

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Takes the lock.

        Raises:
            LockOrderError: the thread would wait while it holds a lock that comes later.
        """
        if blocking:
            self._check()
        is_taken: bool = self._lock.acquire(blocking, timeout)
        if is_taken:
            _held.locks.append(self)
        return is_taken

    def _check(self) -> None:
        held = _held.locks
        if self._is_reentrant and self in held:
            return
        later = [lock for lock in held if lock.rank >= self.rank]
        if later:
            problem = f"{threading.current_thread().name} takes {self} while it holds {', '.join(map(str, later))}"
            with self._report.open("a") as report:
                print(problem, file=report)
            raise LockOrderError(problem)

    def release(self) -> None:
        """Gives the lock back."""
        self._lock.release()
        held = _held.locks
        for position in reversed(range(len(held))):
            if held[position] is self:
                del held[position]
                return

    def locked(self) -> bool:
        """Tells whether any thread holds the lock."""
        return bool(self._lock.locked())

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def _is_owned(self) -> bool:
        return self in _held.locks

    def __str__(self) -> str:
        return f"{self.name} ({self.rank.name})"
