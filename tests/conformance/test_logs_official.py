"""Which log lines a program prints, and where, by its calls and by the environment: the same with either library.

The libraries have different things to say. The official one says something of each level when a repository is made
and changed; for icefs the program says one thing of each level on a logger of icefs's.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import datetime, logging, sys, warnings
import {library} as ic

warnings.simplefilter("ignore")
for directive in sys.argv[2:]:
    ic.set_logs_filter(None if directive == "None" else directive)
repo = ic.Repository.create(ic.local_filesystem_storage(sys.argv[1]))
repo.garbage_collect(datetime.datetime(2001, 1, 1, tzinfo=datetime.timezone.utc))
if ic.__name__ == "icefs":
    for level in (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG):
        logging.getLogger("icefs.engine").log(level, "said")
"""
# Warnings are the worst that the official library has to say here.
_ORDER = ("WARN", "INFO", "DEBUG")


def run(library: str, path: Path, directives: list[str], environment: dict[str, str]) -> tuple[str, str]:
    """Returns the standard output and the standard error of the program."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(library=library), str(path), *directives],
        capture_output=True,
        text=True,
        check=True,
        env={name: value for name, value in os.environ.items() if "ICECHUNK" not in name} | environment,
    )
    return done.stdout, done.stderr


def levels(text: str) -> list[str]:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return [level for level in _ORDER if re.search(rf"\b{level}", plain)]


CASES: dict[str, tuple[list[str], dict[str, str]]] = {
    "by default": ([], {}),
    **{f"filter {each!r}": ([each], {}) for each in (
        *("off", "error", "warn", "info", "debug", "trace", "DEBUG", "0", "1", "3", "4", "5", "", "false", "verbose"),
        *("icechunk=info", "icechunk", "warn,icechunk=debug", "off,icechunk=info", "debug,icechunk=off"),
        "icechunk:debug",
    )},
    **{f"environment {each!r}": ([], {"ICECHUNK_LOG": each}) for each in (
        *("off", "error", "warn", "info", "debug", "trace", "icechunk=debug", "non[sense", ""),
    )},
    "no logs": ([], {"ICECHUNK_NO_LOGS": "1"}),
    "no logs, though some are asked for": ([], {"ICECHUNK_NO_LOGS": "1", "ICECHUNK_LOG": "debug"}),
    "no logs, and a filter": (["info"], {"ICECHUNK_NO_LOGS": "1"}),
    "no logs, if it is empty": ([], {"ICECHUNK_NO_LOGS": ""}),
    "to standard output": ([], {"ICECHUNK_LOG_TO_STDOUT": "1"}),
    "to standard output, with a filter": (["debug"], {"ICECHUNK_LOG_TO_STDOUT": ""}),
    "the filter before the environment": (["error"], {"ICECHUNK_LOG": "debug"}),
    "the environment again": (["error", "None"], {"ICECHUNK_LOG": "debug"}),
    "two filters": (["debug", "error"], {}),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_lines_of_the_same_levels_are_printed(name: str, tmp_path: Path) -> None:
    directives, environment = CASES[name]
    found = {}
    for library in ("icechunk", "icefs"):
        found[library] = [levels(text) for text in run(library, tmp_path / library, directives, environment)]
    assert found["icefs"] == found["icechunk"]


def test_a_programs_own_logging_shows_lines_once(tmp_path: Path) -> None:
    program = (
        "import logging\nlogging.basicConfig(format='mine: %(message)s')\nimport icefs\n"
        "icefs.set_logs_filter('info')\nlogging.getLogger('icefs.engine').info('said')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "mine: said\n"


def test_a_programs_own_levels_count() -> None:
    program = (
        "import logging, icefs\nlogging.basicConfig(level='DEBUG', format='mine: %(message)s')\n"
        "logging.getLogger('icefs.engine').debug('said')\n"
    )
    environment = {name: value for name, value in os.environ.items() if "ICECHUNK" not in name}
    done = subprocess.run(
        [sys.executable, "-c", program + "icefs.Repository"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stderr == "mine: said\n"
    done = subprocess.run(
        [sys.executable, "-c", "import icefs\nicefs.Repository\n" + program],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stderr == "mine: said\n"
