"""Points at which a daemon dies, or its storage fails, planned before it starts; see `Nursery.daemon`."""

import functools
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from icefs.errors import UnreachableError
from icefs.storage.base import Storage
from icefs.storage.local.store import LocalStorage
from icefs.worktree.freeze.commits import Commits
from icefs.worktree.spool.journal import Journal
from icefs.worktree.tree import WorkTree
from tests.support.faulty import Call, FaultyStorage

_STORAGE = ("put", "put_file", "copy", "delete", "sync", "_settle")
_JOURNAL = ("freeze", "record_intent", "replace_tree", "thaw", "apply", "set_meta", "sync")


class _Countdown:
    """Kills this process at the n-th passage after it was armed."""

    def __init__(self, passages: int) -> None:
        self._left = passages
        self._is_armed = False
        self._lock = threading.Lock()

    def arm(self) -> None:
        self._is_armed = True

    def __call__(self) -> None:
        with self._lock:
            if self._is_armed:
                self._left -= 1
                if not self._left:
                    os.kill(os.getpid(), signal.SIGKILL)


def die_in_commit(passage: int) -> None:
    """Has the daemon die at the n-th step of a commit: just before one that changes anything, or just after the last.

    Just after one is just before the next.
    """
    countdown = _Countdown(passage)
    views = (Commits, ("_add_view", "_remove_view"))
    for owner, names in ((LocalStorage, _STORAGE), (os, ("rename", "link")), (Journal, _JOURNAL), views):
        for name in names:
            setattr(owner, name, _passing(getattr(owner, name), countdown))
    freeze = WorkTree.freeze

    def armed(self: WorkTree) -> Any:
        countdown.arm()
        return freeze(self)

    WorkTree.freeze = armed  # type: ignore[method-assign]


def _passing(function: Callable[..., Any], gate: Callable[[], None]) -> Callable[..., Any]:
    @functools.wraps(function)
    def passing(*args: Any, **kwargs: Any) -> Any:
        gate()
        return function(*args, **kwargs)

    return passing


def lose_published_answer(failures: int) -> None:
    """Has the storage publish the next commit without saying so, and then fail so many calls.

    The calls after the publishing one are those that would find out what became of it.
    """
    from icefs.daemon import prepare

    opened = prepare.open_storage

    def faulty(url: str) -> Storage:
        storage = FaultyStorage(opened(url))

        def lose(call: Call) -> Exception:
            if failures:
                storage.fail(times=failures)
            error = UnreachableError(f"planned: the answer to {call.method} {call.key} is lost")
            error.facts["maybe_written"] = True
            return error

        freeze = WorkTree.freeze

        def planned(self: WorkTree) -> Any:
            WorkTree.freeze = freeze  # type: ignore[method-assign]
            storage.lose_answer(methods="put", keys="repo", error=lose)
            return freeze(self)

        WorkTree.freeze = planned  # type: ignore[method-assign]
        return storage

    prepare.open_storage = faulty  # type: ignore[assignment]
