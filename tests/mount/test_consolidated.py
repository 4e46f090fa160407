"""xarray and consolidated metadata on mounts: two people add variables to one group, and what becomes of the copy."""

import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.support.mounting import mounted

pytestmark = pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")


def icefs(*arguments, check=True, cwd=None):
    command = [Path(sys.executable).with_name("icefs"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=60)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def add(place, name, value, mode="a"):
    data = np.full((4, 6), value, "f4")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xr.Dataset({name: (("y", "x"), data)}).to_zarr(place, mode=mode, consolidated=True)


@pytest.fixture
def mounts(tmp_path):
    """Two mounts of one repository, which has a group with consolidated metadata."""
    WritableRepository.create(open_storage(str(tmp_path / "repo"))).close()
    with (
        mounted(tmp_path / "repo", branch="main", state_dir=str(tmp_path / "one")) as one,
        mounted(tmp_path / "repo", branch="main", state_dir=str(tmp_path / "other")) as other,
    ):
        add(one.path, "base", 0, "w-")
        icefs("commit", one.path, "-m", "base")
        other.refresh()
        yield one, other


@pytest.mark.parametrize("way", ["rebase", "rebase --ours", "rebase --theirs", "commit --rebase fail"])
def test_two_people_add_variables_to_one_group_without_a_conflict(mounts, way):
    one, other = mounts
    add(one.path, "z1", 1)
    add(other.path, "z2", 2)
    icefs("commit", one.path, "-m", "z1")
    words = way.split()
    done = icefs(words[0], other.path, *words[1:], *(["-m", "z2"] if words[0] == "commit" else []))
    if words[0] == "rebase":
        done = icefs("commit", other.path, "-m", "z2")
    assert "consolidated metadata of / does not list /z1; run zarr.consolidate_metadata" in done.stderr + done.stdout
    one.refresh()
    for mount in mounts:
        group = zarr.open_group(str(mount.path), mode="r", use_consolidated=False)
        assert (group["z1"][0, 0], group["z2"][0, 0]) == (1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(other.path))
    assert "consolidated" not in icefs("status", other.path).stdout
    assert "consolidated" not in icefs("commit", other.path, "-m", "all").stdout
    with xr.open_zarr(other.path, consolidated=True) as dataset:
        assert set(dataset.data_vars) == {"base", "z1", "z2"}


@pytest.mark.parametrize("cwd", [True, False], ids=["from above", "from elsewhere"])
def test_the_commands_that_a_conflict_prints_work(mounts, cwd, tmp_path):
    one, other = mounts
    for number, mount in enumerate(mounts):
        group = zarr.open_group(str(mount.path), mode="r+", use_consolidated=False)
        group.attrs["title"] = str(number)
        zarr.create_group(str(mount.path / "n"), attributes={"number": number})
    icefs("commit", one.path, "-m", "first")
    where = other.path.parent if cwd else tmp_path
    for command in (["rebase", other.path], ["commit", other.path, "-m", "x", "--rebase", "ours"]):
        refused = icefs(*command, check=False, cwd=where)
        assert refused.returncode == 5
        assert "--ours" not in refused.stderr
    shown = other.path.name if cwd else str(other.path)
    assert f"'icefs discard {shown}/zarr.json'" in refused.stderr
    assert f"'icefs discard {shown}/n/zarr.json'" in refused.stderr
    for command in re.findall(r"'icefs ([^']+)'", refused.stderr):
        icefs(*shlex.split(command), cwd=where)
    zarr.open_group(str(other.path), mode="r+", use_consolidated=False).attrs["title"] = "again"
    icefs("commit", other.path, "-m", "second")
    one.refresh()
    assert zarr.open_group(str(one.path), mode="r", use_consolidated=False).attrs["title"] == "again"


def test_a_control_file_says_what_to_discard(mounts):
    one, other = mounts
    for number, mount in enumerate(mounts):
        zarr.open_group(str(mount.path), mode="r+", use_consolidated=False).attrs["title"] = str(number)
    icefs("commit", one.path, "-m", "first")
    with pytest.raises(OSError):
        (other / ".icefs/rebase").write_text("ours")
    told = other.control("rebase")
    assert (told["discard"], told["sides"]) == (["zarr.json"], [])
    assert "'icefs discard zarr.json'" in told["hint"]
    (other / ".icefs/discard").write_text(told["discard"][0])
    (other / ".icefs/rebase").write_text("ours")
    assert other.control("rebase")["ok"]


def test_status_says_what_a_pull_left_wrong_until_the_group_is_consolidated(mounts):
    one, other = mounts
    assert "consolidated" not in icefs("status", other.path).stdout
    list(other.path.iterdir())
    zarr.create_array(str(one.path / "u"), shape=(4,), dtype="f4")
    line = "consolidated metadata of / does not list /u; run zarr.consolidate_metadata"
    assert f"Note: {line}" in icefs("status", one.path).stdout
    assert f"note: {line}" in icefs("commit", one.path, "-m", "u").stdout
    other.refresh()
    assert f"Note: {line}" in icefs("status", other.path).stdout
    assert other.control("status.json")["notes"] == [line]
    zarr.consolidate_metadata(str(other.path))
    assert other.control("status.json")["notes"] == []
    icefs("commit", other.path, "-m", "consolidated")
    for mount in mounts:
        mount.refresh()
        assert mount.control("status.json")["notes"] == []
