"""The README's recipes, as they stand there, to be run."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
DEADLINE_S = 100


def recipe(name: str) -> str:
    """Returns the shell commands of a recipe."""
    found = re.search(rf"<!-- recipe: {name} -->\n```sh\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None, f"the README has no recipe called {name}"
    return found[1]


def run_recipe(script: str, home: Path, **environment: str) -> str:
    """Runs commands as a person with that home directory would; each of them has to succeed."""
    done = subprocess.run(
        ["bash", "-e", "-u", "-o", "pipefail"],
        input=script,
        cwd=home,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "AWS_"))},
            "HOME": str(home),
            "TMPDIR": str(home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "rror" not in done.stderr, done.stderr
    return done.stdout
