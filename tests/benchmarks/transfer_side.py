"""What is measured of `icefs import` and `icefs export`: against `cp -r` through a mount, and against zarr-python."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks import mounts, repos
from tests.benchmarks.rows import Row, compare

_FILES = {"small": "4096 chunks of 4 KiB", "big": "1024 chunks of 1 MiB"}
_OFFICIAL = """
import sys
import icechunk, zarr
source, target = sys.argv[1:]
repo = icechunk.Repository.create(icechunk.local_filesystem_storage(target))
session = repo.writable_session("main")
group = zarr.open_group(source, mode="r")
for name, array in group.arrays():
    made = zarr.create_array(
        session.store, name=name, shape=array.shape, chunks=array.chunks, dtype=array.dtype,
        compressors=None, filters=None, fill_value=0,
    )
    rows = (64 << 20) // max(1, array.nbytes // array.shape[0])
    step = max(1, rows // array.chunks[0]) * array.chunks[0]
    for row in range(0, array.shape[0], step):
        made[row : row + step] = array[row : row + step]
session.commit("copied")
"""


def _run(*command: object, **environment: str) -> float:
    started = time.perf_counter()
    environment = {**os.environ, **environment, "ICECHUNK_LOG": "error"}
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - started


def _source(name: str) -> Path:
    """Returns a repository's main as plain files, made once."""
    target = repos.cache_root() / f"{name}.zarr"
    _run(mounts.ICEFS, "export", repos.repository(name), target)
    return target


def _in_scratch(measure: Callable[[Path], float]) -> float:
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=repos.cache_root()) as scratch:
        return measure(Path(scratch))


def importing(name: str) -> Callable[[], float]:
    """Returns a measurement: `icefs import` into a new repository."""

    def measure(scratch: Path) -> float:
        source = _source(name)
        _run(mounts.ICEFS, "init", scratch / "repo")
        return _run(mounts.ICEFS, "import", source, scratch / "repo", XDG_STATE_HOME=str(scratch / "state"))

    return lambda: _in_scratch(measure)


def copying_in(name: str) -> Callable[[], float]:
    """Returns a measurement: `cp -r` into a mounted branch of a new repository, and a commit."""

    def measure(scratch: Path) -> float:
        source = _source(name)
        _run(mounts.ICEFS, "init", scratch / "repo")
        with mounts.icefs_mount(scratch / "repo", state_dir=scratch / "state") as place:
            taken = _run("cp", "-r", f"{source}/.", place)
            return taken + _run(mounts.ICEFS, "commit", place, "-m", "copied")

    return lambda: _in_scratch(measure)


def copying_official(name: str) -> Callable[[], float]:
    """Returns a measurement: zarr-python copies from the directory into the official store."""
    return lambda: _in_scratch(lambda scratch: _run(sys.executable, "-c", _OFFICIAL, _source(name), scratch / "repo"))


def exporting(name: str) -> Callable[[], float]:
    """Returns a measurement: `icefs export` into an empty directory."""
    return lambda: _in_scratch(lambda scratch: _run(mounts.ICEFS, "export", repos.repository(name), scratch / "out"))


def copying_out(name: str) -> Callable[[], float]:
    """Returns a measurement: `cp -r` out of a mount."""

    def measure(scratch: Path) -> float:
        with mounts.icefs_mount(repos.repository(name)) as place:
            return _run("cp", "-r", place, scratch / "out")

    return lambda: _in_scratch(measure)


TRANSFER_SIDE: dict[str, Callable[[str, int], Row]] = {
    f"icefs {what}, {files}, vs. {other}": lambda title, n, ours=ours, theirs=theirs, name=name, aim=aim: compare(
        title, ours(name), theirs(name), aim, n
    )
    for name, files in _FILES.items()
    for what, other, ours, theirs, aim in (
        ("import", "cp -r into a mount + commit", importing, copying_in, 2.0),
        ("import", "zarr-python to the official store", importing, copying_official, 1.0),
        ("export", "cp -r out of a mount", exporting, copying_out, 2.0),
    )
}
