"""What `make soak` runs: every kind of fault, and every module that goes deeper with its switch."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.soak import LIMIT_S, MODULES

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


@pytest.mark.parametrize(("switch", "limit", "examples"), [("1", LIMIT_S, 1000), ("", 7, 25)])
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
