"""What is measured of merges: the command as a whole, where one branch has changed a million chunks."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks import mounts, repos
from tests.benchmarks.clients import command_seconds
from tests.benchmarks.rows import Row, limit

_AIM_S = 10


def merging() -> float:
    """Merges a branch into a fresh copy of the repository."""
    source = repos.repository("branches")
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=repos.cache_root()) as scratch:
        copy = Path(shutil.copytree(source, Path(scratch) / "repo"))
        return command_seconds(str(mounts.ICEFS), "merge", "dev", "--repo", str(copy))


MERGE_SIDE: dict[str, Callable[[str, int], Row]] = {
    "merge of a branch with a million changed chunks": lambda what, n: limit(what, merging, _AIM_S, "s", n)
}
