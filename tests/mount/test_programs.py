"""Programs that know nothing of Icechunk read a mount: libraries in Python and C++, and what a shell has."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import icechunk as ic
import numpy as np
import pytest
import xarray as xr
import zarr

from tests.support.ci import require
from tests.support.mounting import mounted

TEMPERATURE = np.random.default_rng(1).normal(280, 10, (12, 30, 40)).astype("f4")
IMAGE = np.arange(64 * 96, dtype="u2").reshape(64, 96)


def _write(path: Path) -> None:
    repo = ic.Repository.create(ic.local_filesystem_storage(str(path)))
    session = repo.writable_session("main")
    dataset = xr.Dataset(
        {"temperature": (("time", "lat", "lon"), TEMPERATURE)},
        {"time": np.arange(12), "lat": np.linspace(-60, 60, 30), "lon": np.linspace(0, 351, 40)},
        {"title": "a year"},
    )
    # What zarr-python has to say of consolidated metadata in version 3 is not our business.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.to_zarr(session.store, group="weather", mode="w", consolidated=False)
        group = zarr.open_group(session.store, mode="a")
        group.create_array("image", shape=IMAGE.shape, chunks=(32, 32), dtype="u2", dimension_names=("y", "x"))[:] = (
            IMAGE
        )
        sharded = group.create_array("sharded", shape=IMAGE.shape, chunks=(8, 8), shards=(32, 32), dtype="u2")
        sharded[:] = IMAGE
        group.create_array("scalar", shape=(), dtype="f8")[...] = 2.5
    session.commit("a year of weather")


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    """Branch main of a repository with a dataset, an image, shards and a scalar, mounted at one place."""
    with tempfile.TemporaryDirectory() as scratch:
        _write(Path(scratch, "repo"))
        with mounted(Path(scratch, "repo"), branch="main") as mount:
            yield mount.path


def files_of(root: Path) -> dict[str, bytes]:
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            found[str(path.relative_to(root))] = path.read_bytes()
    return found


def run(*command: object, cwd: Path | None = None) -> str:
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def test_zarr_python(tree):
    group = zarr.open_group(zarr.storage.LocalStore(tree, read_only=True), mode="r")
    assert dict(group.members(max_depth=None)).keys() == {
        "weather", "weather/temperature", "weather/time", "weather/lat", "weather/lon", "image", "sharded", "scalar"
    }  # fmt: skip
    np.testing.assert_array_equal(group["weather/temperature"][:], TEMPERATURE)
    np.testing.assert_array_equal(group["sharded"][5:50, 7:80], IMAGE[5:50, 7:80])
    assert group["scalar"][()] == 2.5


def test_zarr_python_through_fsspec(tree):
    group = zarr.open_group(f"file://{tree}", mode="r")
    np.testing.assert_array_equal(group["image"][:], IMAGE)


def test_xarray(tree):
    with xr.open_zarr(tree / "weather", consolidated=False, chunks=None) as dataset:
        assert dataset.attrs["title"] == "a year"
        assert dataset.temperature.dims == ("time", "lat", "lon")
        np.testing.assert_array_equal(dataset.temperature.sel(time=7).values, TEMPERATURE[7])


def test_xarray_with_dask(tree):
    with xr.open_zarr(tree / "weather", consolidated=False) as dataset:
        assert float(dataset.temperature.mean().compute()) == pytest.approx(float(TEMPERATURE.mean()), rel=1e-5)


@pytest.mark.parametrize("locking", ["os", "none"])
@pytest.mark.parametrize("mode", ["default", "memmap", "direct"])
def test_tensorstore(tree, locking, mode):
    import tensorstore as ts

    kvstore = {"driver": "file", "file_io_locking": {"mode": locking}}
    if mode != "default":
        kvstore["file_io_mode"] = {"mode": mode}
    for name, expected in (("weather/temperature", TEMPERATURE), ("sharded", IMAGE)):
        spec = {"driver": "zarr3", "kvstore": {**kvstore, "path": f"{tree}/{name}/"}}
        array = ts.open(spec, read=True, open=True).result()
        np.testing.assert_array_equal(array.read().result(), expected)
    store = ts.KvStore.open({**kvstore, "path": f"{tree}/image/"}).result()
    assert sorted(store.list().result()) == sorted(name.encode() for name in files_of(tree / "image"))


def test_gdal(tree):
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(f'ZARR:"{tree}/image"') as dataset:
            assert (dataset.width, dataset.height) == (96, 64)
            np.testing.assert_array_equal(dataset.read(1), IMAGE)
    assert not list(tree.glob("**/*.aux.xml"))


def test_cp(tree, tmp_path):
    run("cp", "-r", tree, tmp_path / "copy")
    assert files_of(tmp_path / "copy") == files_of(tree)
    run("cp", "-a", tree / "image", tmp_path / "archive")
    for copied in (tmp_path / "archive").rglob("*"):
        original = tree / "image" / copied.relative_to(tmp_path / "archive")
        assert copied.stat().st_mtime_ns == original.stat().st_mtime_ns


def test_rsync(tree, tmp_path):
    require(shutil.which("rsync") is not None, "rsync")
    run("rsync", "-a", f"{tree}/", tmp_path / "copy/")
    assert files_of(tmp_path / "copy") == files_of(tree)
    # Nothing changed, so a second run finds nothing to do: sizes and times are as they were.
    assert run("rsync", "-ai", f"{tree}/", tmp_path / "copy/") == ""


def test_tar(tree, tmp_path):
    run("tar", "cf", tmp_path / "tree.tar", "-C", tree, ".")
    with tarfile.open(tmp_path / "tree.tar") as archive:
        members = {member.name.removeprefix("./"): member for member in archive if member.isfile()}
        files = files_of(tree)
        assert members.keys() == files.keys()
        assert all(archive.extractfile(members[name]).read() == data for name, data in files.items())


def test_find_and_sha256sum(tree):
    names = run("find", ".", "-type", "f", cwd=tree).splitlines()
    files = files_of(tree)
    assert sorted(name.removeprefix("./") for name in names) == sorted(files)
    sizes = dict(
        line.split(" ", 1)[::-1] for line in run("find", ".", "-type", "f", "-printf", "%s %P\n", cwd=tree).splitlines()
    )
    assert {name: int(size) for name, size in sizes.items()} == {name: len(data) for name, data in files.items()}
    for line in run("sha256sum", *names, cwd=tree).splitlines():
        digest, name = line.split("  ./", 1)
        assert digest == hashlib.sha256(files[name]).hexdigest()


def test_du_ls_and_grep_pass_by_the_control_directory(tree):
    assert ".icefs" not in run("ls", "-a", tree).split()
    assert ".icefs" not in run("du", "-a", tree)
    assert run("grep", "-rl", "a year", tree).split() == [str(tree / "weather/zarr.json")]
    assert (tree / ".icefs/info.json").exists()


def test_many_processes_read_at_once(tree):
    script = (
        "import sys, zarr; g = zarr.open_group(sys.argv[1], mode='r');"
        "print(float(g['weather/temperature'][:].astype('f8').sum()), int(g['sharded'][:].sum()))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(tree)], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    answers = {process.communicate(timeout=60)[0] for process in processes}
    assert answers == {f"{float(TEMPERATURE.astype('f8').sum())} {int(IMAGE.sum())}\n"}
