"""The subject of log lines: the branch that a thread or task works for, for the code that formats a line."""

from collections.abc import Callable
from contextvars import ContextVar

_branch: ContextVar[str | None] = ContextVar("icefs_branch", default=None)


def current_branch() -> str | None:
    """Returns the branch that is worked for; None where it is for none, or nobody said."""
    return _branch.get()


def in_branch[T](branch: str, work: Callable[[], T]) -> Callable[[], T]:
    """Returns the same work, done for a branch."""

    def run() -> T:
        token = _branch.set(branch)
        try:
            return work()
        finally:
            _branch.reset(token)

    return run
