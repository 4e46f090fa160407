"""A plugin of pytest that writes each failure to a file of its own, as soon as it is known.

A long run scrolls by, and may be ended before pytest shows its failures. `running.txt` lists the tests under way: those
that hung, if the run was killed. The directory is named by an environment variable; with pytest-xdist the process that
collects the reports of the others writes them.
"""

import os
import re
from pathlib import Path
from typing import Final

import pytest

from tests.support.soak import FAILURES_VARIABLE, RUNNING_NAME

_MAX_NAME: Final = 120


class FailureFiles:
    """Writes the reports of failures to a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0
        self._running: dict[str, None] = {}

    def write(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        """Writes one report: the traceback, the captured output and what Hypothesis says."""
        self._number += 1
        name = re.sub(r"[^\w.-]+", "-", f"{self._number:03}-{report.nodeid.removeprefix('tests/')}")[:_MAX_NAME]
        parts = [report.nodeid, report.longreprtext, *(f"--- {title} ---\n{text}" for title, text in report.sections)]
        self._directory.joinpath(f"{name}.txt").write_text("\n\n".join(parts), errors="backslashreplace")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Receives the beginning of a test."""
        self._running[nodeid] = None
        self._write_running()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Receives the end of a test."""
        self._running.pop(nodeid, None)
        self._write_running()

    def _write_running(self) -> None:
        path = self._directory / RUNNING_NAME
        if self._running:
            path.write_text("".join(f"{nodeid}\n" for nodeid in self._running))
        else:
            path.unlink(missing_ok=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Receives the report of a test's set-up, call and teardown."""
        if report.failed:
            self.write(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Receives the report of a module that was collected."""
        if report.failed:
            self.write(report)


def pytest_configure(config: pytest.Config) -> None:
    """Registers the plugin, in the process that shows the results alone."""
    directory = os.environ.get(FAILURES_VARIABLE)
    if directory and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailureFiles(Path(directory)))
