"""What `make soak` runs: every kind of fault, and every module that goes deeper with its switch."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.soak import FAILURES_VARIABLE, LIMIT_S, MODULES, main

ROOT = Path(__file__).parents[2]


def test_every_kind_of_fault_is_among_them():
    assert {kind for one in MODULES for kind in one.kinds} == set(range(1, 10))


def test_every_module_that_has_the_switch_is_among_them():
    """Hypothesis takes the switch as a profile; `depth` and `SOAK` are for the others."""
    listed = {one.path for one in MODULES}
    assert all((ROOT / path).is_file() for path in listed)
    switched = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"^from tests\.support\.soak import", path.read_text(), re.MULTILINE)
    }
    assert switched - {"tests/unit/test_soak_modules.py"} <= listed


@pytest.mark.parametrize(("switch", "limit", "examples"), [("1", LIMIT_S, 1000), ("0.1", LIMIT_S, 100), ("", 7, 25)])
def test_a_long_run_goes_deep_and_is_not_cut(switch, limit, examples, tmp_path):
    (tmp_path / "test_one.py").write_text(
        "import pytest\nfrom hypothesis import settings\n"
        "@pytest.mark.timeout(7)\ndef test_it(request):\n"
        "    marker = request.node.get_closest_marker('timeout')\n"
        f"    assert marker.args[0] == {limit}\n    assert settings().max_examples == {examples}\n"
    )
    environment = {**os.environ, "ICEFS_SOAK": switch, "CI": ""}
    environment.pop("HYPOTHESIS_PROFILE", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-c", ROOT / "pyproject.toml", tmp_path]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_failure_is_kept_in_a_file_that_says_why(tmp_path):
    failures = tmp_path / "failures"
    failures.mkdir()
    (tmp_path / "test_one.py").write_text(
        "from hypothesis import given, strategies\n"
        "@given(strategies.integers())\ndef test_it(number):\n    print('seen', number)\n    assert number < 7\n"
        "def test_that():\n    pass\n"
    )
    (tmp_path / "test_two.py").write_text("1 / 0\n")
    environment = {**os.environ, "ICEFS_SOAK": "0.01", FAILURES_VARIABLE: str(failures), "CI": ""}
    environment.pop("HYPOTHESIS_PROFILE", None)
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "tests.support.soak_failures", "-n", "2"]
    command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "--continue-on-collection-errors"]
    command.append(str(tmp_path))
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    kept = {path.name.partition("-")[2]: path.read_text() for path in failures.iterdir()}
    assert sorted(kept) == ["test_one.py-test_it.txt", "test_two.py.txt"], done.stdout
    assert "assert 7 < 7" in kept["test_one.py-test_it.txt"]
    assert "@reproduce_failure" in kept["test_one.py-test_it.txt"]
    assert "ZeroDivisionError" in kept["test_two.py.txt"]


def test_a_part_that_no_path_has_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["nonsense"])
    said = capsys.readouterr().err
    assert "no module has nonsense in its path" in said
    assert MODULES[0].path in said
