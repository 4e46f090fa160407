"""Has the working trees of a process check what they state of themselves after every change."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from icefs.worktree.core.invariants import check_invariants
from icefs.worktree.core.tree_core import Change

REPORT_VARIABLE = "ICEFS_TEST_BROKEN_TREES"


def check_every_change() -> None:
    """Checks a tree whenever an operation gives its lock back; a broken one raises, and a file gets the traceback."""
    leaving, report = Change.__exit__, Path(os.environ[REPORT_VARIABLE])

    def left(self: Change, *exc: Any) -> None:
        leaving(self, *exc)
        try:
            check_invariants(self.core)
        except AssertionError:
            with report.open("a") as file:
                traceback.print_exc(file=file)
            raise

    Change.__exit__ = left  # type: ignore[method-assign,assignment]


@contextmanager
def checking_daemons(report: Path) -> Iterator[None]:
    """Has daemons that are started meanwhile check their trees, and write to a file what is broken."""
    hook = str(Path(__file__).with_name("checked_daemon"))
    with mock.patch.dict(os.environ, {"PYTHONPATH": hook, REPORT_VARIABLE: str(report)}):
        yield
