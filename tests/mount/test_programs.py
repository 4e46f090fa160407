"""Programs that know nothing of Icechunk read a mount: libraries in Python and C++, and what a shell has."""

import hashlib
import json
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

from tests.support.mounting import mounted
from tests.support.programs import files_of, find_program, run, run_zarrita

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


def test_zarrita(tree):
    """It takes the length of what it asked for on trust: ranges of shards, and many at a time."""
    told = json.loads(
        run_zarrita(
            """
            const root = zarr.root(new FileSystemStore(args[0]));
            const told = { title: (await zarr.open(root.resolve("weather"), { kind: "group" })).attrs.title };
            for (const name of ["weather/temperature", "image", "sharded"]) {
                const array = await zarr.open(root.resolve(name), { kind: "array" });
                const { data, shape } = await zarr.get(array);
                told[name] = { shape, data: Array.from(data) };
            }
            const sharded = await zarr.open(root.resolve("sharded"), { kind: "array" });
            told.part = Array.from((await zarr.get(sharded, [zarr.slice(5, 50), zarr.slice(7, 80)])).data);
            told.scalar = await zarr.get(await zarr.open(root.resolve("scalar"), { kind: "array" }));
            told.missing = await zarr.open(root.resolve("nowhere")).then(() => "found", (error) => error.name);
            console.log(JSON.stringify(told));
            """,
            tree,
        )
    )
    assert told.pop("title") == "a year"
    assert told.pop("missing") == "NotFoundError"
    assert told.pop("scalar") == 2.5
    np.testing.assert_array_equal(np.reshape(told.pop("part"), (45, 73)), IMAGE[5:50, 7:80])
    expected = {"weather/temperature": TEMPERATURE, "image": IMAGE, "sharded": IMAGE}
    assert told.keys() == expected.keys()
    for name, array in told.items():
        np.testing.assert_array_equal(np.reshape(array["data"], array["shape"]).astype("f4"), expected[name])


def test_zarrista_and_the_zarrs_codec_pipeline(tree):
    from zarrista import Array
    from zarrista.store import FilesystemStore

    for name, expected in (("weather/temperature", TEMPERATURE), ("sharded", IMAGE)):
        found = Array.open(FilesystemStore(tree / name), "/")
        np.testing.assert_array_equal(np.asarray(found[:]), expected)
        with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
            np.testing.assert_array_equal(zarr.open_array(tree / name, mode="r")[:], expected)


def test_z5(tree):
    import z5py

    with z5py.File(tree, "r") as file:
        np.testing.assert_array_equal(file["weather/temperature"][:], TEMPERATURE)
        np.testing.assert_array_equal(file["sharded"][:], IMAGE)


def test_rclone(tree, tmp_path):
    rclone = find_program("rclone")
    run(rclone, "copy", tree, tmp_path / "copy", "--config", "")
    assert files_of(tmp_path / "copy") == files_of(tree)
    run(rclone, "check", tree, tmp_path / "copy", "--config", "")


def test_cp(tree, tmp_path):
    run("cp", "-r", tree, tmp_path / "copy")
    assert files_of(tmp_path / "copy") == files_of(tree)
    run("cp", "-a", tree / "image", tmp_path / "archive")
    for copied in (tmp_path / "archive").rglob("*"):
        original = tree / "image" / copied.relative_to(tmp_path / "archive")
        assert copied.stat().st_mtime_ns == original.stat().st_mtime_ns


def test_rsync(tree, tmp_path):
    rsync = find_program("rsync")
    run(rsync, "-a", f"{tree}/", tmp_path / "copy/")
    assert files_of(tmp_path / "copy") == files_of(tree)
    # Nothing changed, so a second run finds nothing to do: sizes and times are as they were.
    assert run(rsync, "-ai", f"{tree}/", tmp_path / "copy/") == ""


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
