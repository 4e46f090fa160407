"""The check that the differential machine has its daemons do: a broken tree is noticed by the next change."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.tree_checks import checking_daemons

ROOT = Path(__file__).parents[3]
PROGRAM = """
from pathlib import Path
import sys
from tests.support.dict_base import Snapshots
from tests.support.tree_driver import open_tree
driver = open_tree(Path(sys.argv[1]), Snapshots({"a/c/0": b"zero"}))
driver.write("a/c/1", b"one")
if sys.argv[2] == "break":
    del driver.tree._core.by_ino[driver.stat("a/c/1").ino]
driver.write("a/c/2", b"two")
"""


def run(tmp_path: Path, what: str) -> tuple[int, str]:
    report = tmp_path / "report"
    with checking_daemons(report):
        path = os.pathsep.join([str(ROOT), os.environ["PYTHONPATH"]])
        done = subprocess.run(
            [sys.executable, "-P", "-c", PROGRAM, str(tmp_path / "state"), what],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            check=False,
        )
    return done.returncode, report.read_text() if report.exists() else ""


def test_a_broken_tree_is_raised_and_written_down(tmp_path: Path) -> None:
    code, report = run(tmp_path, "break")
    assert code == 1
    assert "AssertionError" in report


def test_a_whole_tree_is_not(tmp_path: Path) -> None:
    assert run(tmp_path, "leave") == (0, "")
