"""`icefs export --format` writes the files that a mount's view shows: the same bytes, sizes and times."""

import filecmp
import os
import subprocess
import sys
from pathlib import Path

import pytest

from icefs.engine.write.repository import WritableRepository
from icefs.storage.local.store import LocalStorage
from icefs.views.formats import FORMAT_NAMES
from tests.support.mounting import mounted
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
