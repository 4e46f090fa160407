"""`icefs export --format` writes the files that a mount's view shows: the same bytes, sizes and times."""

import filecmp
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from icefs.engine.write.repository import WritableRepository
from icefs.storage.local.store import LocalStorage
from icefs.views.formats import FORMAT_NAMES
from tests.support.mounting import mounted, wait_until
from tests.support.stalling_server import serving
from tests.support.viewed import commit_arrays
from tests.unit.transfer.test_view_export import first

ICEFS = Path(sys.executable).with_name("icefs")


def paths_below(place: Path) -> list[str]:
    return sorted(
        os.path.relpath(os.path.join(directory, name), place)
        for directory, _, names in os.walk(place)
        for name in names
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A repository of a few arrays, and its branch in a mount."""
    place = tmp_path_factory.mktemp("small") / "repository"
    repository = WritableRepository.create(LocalStorage(place))
    commit_arrays(repository, first)
    with mounted(place) as mount:
        yield place, mount / "branches/main/.icefs/views"


@pytest.mark.parametrize("view_format", FORMAT_NAMES)
def test_an_export_has_the_files_of_the_view(view_format, small, tmp_path):
    place, views = small
    target = tmp_path / "out"
    done = subprocess.run(
        [ICEFS, "export", place, target, "--format", view_format],
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    view = views / view_format
    paths = paths_below(target)
    assert paths == paths_below(view)
    assert filecmp.cmpfiles(view, target, paths, shallow=False) == (paths, [], [])
    for path in paths:
        assert os.stat(view / path).st_mtime_ns == os.stat(target / path).st_mtime_ns


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
@pytest.mark.parametrize("view_format", [None, "npy", "netcdf", "zarr2"])
def test_an_export_that_was_ended_while_the_store_kept_it_waiting_goes_on(
    view_format, number, code, repository, tmp_path
):
    place, _ = repository
    target = tmp_path / "out"
    options = [] if view_format is None else ["--format", view_format]
    environment = {
        **os.environ,
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    with serving(Path(place)) as server:
        command = [ICEFS, "export", server.url, target, "noise", "--ref", "v1", *options]
        server.may_answer.clear()
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as export:
            wait_until(lambda: server.waiting > 0 or export.poll() is not None, "a chunk is asked for")
            export.send_signal(number)
            assert export.wait(20) == code
            assert "Traceback" not in export.stderr.read()
        server.may_answer.set()
        there = {path for path in paths_below(target) if not path.startswith(".icefs")}
        assert not {path for path in there if path.endswith((".npy", ".nc")) or path[-1].isdigit()}
        subprocess.run(command, env=environment, check=True, capture_output=True)
    subprocess.run([ICEFS, "export", f"{place}@v1", tmp_path / "at once", "noise", *options],
                   env=environment, check=True, capture_output=True)  # fmt: skip
    paths = paths_below(tmp_path / "at once")
    assert paths_below(target) == paths
    # Files name the repository.
    data = [path for path in paths if path.endswith(".npy") or path.rpartition("/")[2].isdigit()]
    assert filecmp.cmpfiles(target, tmp_path / "at once", data, shallow=False) == (data, [], [])
