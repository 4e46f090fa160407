"""Long runs of the generating tests: one switch, `ICEFS_SOAK=1`, and what `make soak` runs with it.

    python -m tests.support.soak [--share SHARE] [PART OF A PATH …]
    make soak SOAK="--share 0.05 hostile"

`--share 0.05`, or `ICEFS_SOAK=0.05`, makes a twentieth of the cases, but never fewer than an ordinary run.

The tests run in a copy of the source, so that it can be edited meanwhile. The reports of failures stay in the source's
`.soak/TIME`, a file for each, with the output of the test and Hypothesis' `@reproduce_failure`.
"""

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

SHARE: Final = float(os.environ.get("ICEFS_SOAK") or 0)
"""The share of a long run's cases that tests make: 1 for all of them, 0 for an ordinary run."""
SOAK: Final = SHARE > 0
FAILURES_VARIABLE: Final = "ICEFS_SOAK_FAILURES"
"""Names the directory, which exists, that `tests.support.soak_failures` writes to."""
RUNNING_NAME: Final = "running.txt"
"""The list of the tests under way, in the same directory."""
LIMIT_S: Final = 4 * 3600
"""When a single test of a long run is taken for one that hangs."""

_ROOT: Final = Path(__file__).parents[2]
_NOT_COPIED: Final = shutil.ignore_patterns(".*", "__pycache__", "man")


class Module(NamedTuple):
    """A module of generating tests.

    Attributes:
        path: Its file.
        kinds: Of which kinds of fault it makes cases: (1) damage of a state directory, (2) writes that nobody waits
            for, (3) names that always exist, (4) commits while programs write, (5) collection while programs write,
            (6) newer and damaged formats, (7) hostile repositories and neighbours, (8) answers of a store, (9) words.
        minutes: How long it takes with the switch, on two processors; its cases are counted, not its time.
    """

    path: str
    kinds: tuple[int, ...]
    minutes: int


MODULES: Final = (
    Module("tests/unit/worktree/test_damaged_state.py", (1,), 25),
    Module("tests/property/test_lost_bytes.py", (1, 2), 10),
    Module("tests/mount/test_lost_writes.py", (2,), 10),
    Module("tests/mount/test_names_that_exist.py", (3,), 10),
    Module("tests/property/test_open_writers.py", (4,), 10),
    Module("tests/mount/test_open_writers.py", (4,), 1),
    Module("tests/property/test_collection.py", (5,), 15),
    Module("tests/unit/engine/test_collections_at_work.py", (5,), 10),
    Module("tests/s3/test_collection_s3.py", (5,), 10),
    Module("tests/property/test_damage.py", (6,), 15),
    Module("tests/property/test_hostile_repositories.py", (7,), 20),
    Module("tests/property/test_virtual_locations.py", (7,), 10),
    Module("tests/unit/storage/test_bent_answers.py", (8,), 30),
    Module("tests/unit/engine/test_bent_repository.py", (8,), 20),
    Module("tests/unit/cli/test_hostile_names.py", (9,), 10),
    Module("tests/unit/cli/test_errors_by_command.py", (9,), 3),
    Module("tests/mount/test_one_count.py", (9,), 6),
    Module("tests/property/test_fork_histories.py", (), 10),
    Module("tests/property/test_export_kills.py", (), 10),
    Module("tests/mount/test_export_folding.py", (), 5),
    Module("tests/property/test_view_export_kills.py", (), 10),
    Module("tests/property/test_zarr2_views.py", (), 5),
)


def depth(usual: int, soak: int) -> int:
    """Returns how many cases a test makes, or for how many seconds it goes on."""
    return max(usual, round(soak * SHARE)) if SOAK else usual


def share_of[T](cases: Sequence[T]) -> list[T]:
    """Returns the cases of a list that a long run makes: its share of them, evenly spread, and at least one."""
    count = max(1, round(len(cases) * SHARE))
    return [cases[number * len(cases) // count] for number in range(count)]


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: more than 0, at most 1")
    return share


def main(arguments: list[str]) -> int:
    """Runs the modules whose paths have one of the parts in them, all without; returns pytest's exit code."""
    parser = argparse.ArgumentParser(prog="make soak", description="Runs the generating tests for long.")
    parser.add_argument("--share", type=_share, default=1.0, help="the share of the cases to make (default: 1)")
    parser.add_argument("parts", nargs="*", metavar="PART", help="run only modules with this in their paths")
    options = parser.parse_args(arguments)
    chosen = [one for one in MODULES if not options.parts or any(part in one.path for part in options.parts)]
    if not chosen:
        parser.error(f"no module has {' or '.join(options.parts)} in its path; those there are:\n{_listed(MODULES)}")
    minutes = math.ceil(sum(one.minutes for one in chosen) * options.share)
    print(
        f"soak: {len(chosen)} modules, {minutes} minutes of two processors, or as long as they take in an ordinary run"
    )
    failures = _ROOT / ".soak" / time.strftime("%Y-%m-%dT%H%M%S")
    failures.mkdir(parents=True)
    began = time.monotonic()
    try:
        return _run([one.path for one in chosen], options.share, failures)
    finally:
        print(f"soak: {(time.monotonic() - began) / 60:.0f} minutes")
        for path in sorted(failures.iterdir()):
            print(f"soak: {'under way at the end' if path.name == RUNNING_NAME else 'a failure'}: {path}")
        if not any(failures.iterdir()):
            failures.rmdir()


def _run(paths: Sequence[str], share: float, failures: Path) -> int:
    """Runs modules in a copy of the source; returns pytest's exit code."""
    with tempfile.TemporaryDirectory(prefix="icefs-soak-", ignore_cleanup_errors=True) as scratch:
        copy = Path(scratch, "icefs")
        shutil.copytree(_ROOT, copy, ignore=_NOT_COPIED, symlinks=True)
        for name in (".ci", ".gitignore"):
            if (_ROOT / name).is_dir():
                shutil.copytree(_ROOT / name, copy / name)
            elif (_ROOT / name).exists():
                shutil.copy(_ROOT / name, copy / name)
        environment = {
            **os.environ,
            "ICEFS_SOAK": str(share),
            FAILURES_VARIABLE: str(failures),
            "PYTHONPATH": str(copy),
        }
        workers = str((os.cpu_count() or 1) + 1)
        # Parts of a module run side by side: one of them may take as long as all others.
        command = [sys.executable, "-m", "pytest", "-p", "tests.support.soak_failures", "-n", workers]
        command += ["--durations", "30", "--durations-min", "60"]
        return subprocess.run([*command, *paths], cwd=copy, env=environment, check=False).returncode


def _listed(modules: Iterable[Module]) -> str:
    return "\n".join(f"  {one.path}" for one in modules)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
