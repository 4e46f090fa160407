"""Mounts with views: `--view`, what a mount without views costs, and what goes wrong."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import zarr

from icefs.daemon.options import FUSE_LIBRARIES, MountOptions
from icefs.daemon.spawn import spawn
from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.support import view_judges as judges
from tests.support.mounting import Mount, mounted, wait_until
from tests.support.stalling_server import serving
from tests.support.users import run_as
from tests.support.view_data import write_climate
from tests.support.viewed import commit_arrays

ICEFS = Path(sys.executable).with_name("icefs")
LIBRARIES = ("h5py", "numcodecs")
ARRAYS = ["lat", "lat_bnds", "lon", "sparse", "t2m", "time"]


def fails(number, function, *args):
    with pytest.raises(OSError) as caught:
        function(*args)
    assert caught.value.errno == number, errno.errorcode[caught.value.errno]


def libraries_of(pid):
    """Returns the libraries for views that a process has mapped."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return [name for name in LIBRARIES if f"/{name}/" in maps]


def threads_of(pid):
    return len(os.listdir(f"/proc/{pid}/task"))


@pytest.fixture(scope="module")
def climate(tmp_path_factory):
    """Returns a repository without the large array."""
    place = str(tmp_path_factory.mktemp("climate") / "repository")
    repository = WritableRepository.create(open_storage(place))
    commit_arrays(repository, write_climate)
    repository.create_tag("v1", repository.lookup_branch("main"))
    repository.close()
    return place


def test_a_mount_shows_the_view_of_each_tree(repository):
    place, snapshot = repository
    with mounted(place, view="netcdf") as mount:
        assert sorted(os.listdir(mount.path)) == ["as-of", "branches", "snapshots", "tags"]
        assert os.listdir(mount / "tags") == ["v1"]
        assert "root.nc" in os.listdir(mount / "as-of/main/2100-01-01")
        for tree, hours in (("branches/main", 36), ("tags/v1", 24), (f"snapshots/{snapshot}", 36)):
            assert "root.nc" in os.listdir(mount / tree)
            assert not (mount / tree / "zarr.json").exists()
            [found] = judges.ncdump(mount / tree / "root.nc", ["time"]).values()
            assert found.tolist() == list(range(hours))
            assert (mount / tree / ".icefs/log").read_text()
        assert mount.control("info.json")["options"]["view"] == "netcdf"
        fails(errno.EROFS, (mount / "tags/v1/new").write_bytes, b"")
        fails(errno.EROFS, (mount / "branches/main/root.nc").unlink)
        fails(errno.EROFS, (mount / "branches/main/root.nc").write_bytes, b"")


def test_the_kernel_asks_for_a_snapshot_below_the_views_once(repository):
    place, snapshot = repository
    with mounted(place) as mount:
        above = os.open(mount / ".icefs/views/npy/snapshots", os.O_PATH)
        try:
            os.stat(f"{snapshot}/time.npy", dir_fd=above)
            before = mount.requests()["lookup"]
            for _ in range(5):
                os.stat(f"{snapshot}/time.npy", dir_fd=above)
            assert mount.requests()["lookup"] == before
        finally:
            os.close(above)


def test_a_mount_shows_the_view_of_its_one_tree(repository):
    with mounted(repository[0], view="npy", tag="v1", view_cache=1 << 20) as mount:
        assert np.load(mount / "time.npy", mmap_mode="r").tolist() == list(range(24))
        assert np.load(mount / "outer/inner/deep.npy").tolist() == [0, 1, 2, 3, 4]
        assert mount.control("status.json")["name"] == "v1"


@pytest.mark.parametrize("view", ["netcdf", "netcdf,groups", "netcdf3", "zarr2", "zarr2,compressed", "npy"])
def test_copies_of_views_are_what_an_export_writes(climate, tmp_path, view):
    exported = tmp_path / "exported"
    subprocess.run([ICEFS, "export", f"{climate}@v1", exported, "--format", view], check=True, capture_output=True)
    with mounted(climate) as mount:
        subprocess.run(["cp", "-r", mount / "tags/v1/.icefs/views" / view, tmp_path / "copied"], check=True)
    done = subprocess.run(["diff", "-r", exported, tmp_path / "copied"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert any(path.is_file() for path in exported.rglob("*"))


@pytest.mark.parametrize("library", FUSE_LIBRARIES)
def test_views_are_listed_and_walked(climate, library):
    with mounted(climate, fuse_library=library) as mount:
        for place in ("", "tags/v1", "branches/main"):
            control = mount / place / ".icefs"
            kinds = {entry.name: entry.is_dir() for entry in os.scandir(control)}
            assert kinds["views"]
            assert not kinds["status"]
            assert sorted(path.name for path in (control / "views").iterdir()) == ["netcdf", "netcdf3", "npy", "zarr2"]
        for tree in (mount / "tags/v1/.icefs/views/npy", mount / ".icefs/views/npy/branches/main"):
            listed = [(path, path.stat()) for path in sorted(tree.rglob("*")) if path.is_file()]
            assert [path.name for path, _ in listed if path.suffix == ".npy"] == [f"{name}.npy" for name in ARRAYS]
            for path, status in listed:
                assert len(path.read_bytes()) == status.st_size
        assert mount.rpc({"op": "ping"})[0]["pid"] == mount.pid


def test_options_are_checked_before_anything_is_mounted(repository, tmp_path):
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    for view, said in (("hdf4", "there is no format 'hdf4'"), ("npy,groups", "the format npy has no option 'groups'")):
        done = subprocess.run(
            [ICEFS, "mount", repository[0], mountpoint, "--view", view], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert said in done.stderr
        assert not os.path.ismount(mountpoint)


def test_a_mount_whose_views_nobody_reads_pays_nothing_for_them(repository):
    with mounted(repository[0]) as mount:
        tree = mount / "branches/main"
        assert zarr.open_group(tree, mode="r")["time"][:].tolist() == list(range(36))
        assert sorted(os.listdir(tree / ".icefs/views")) == ["netcdf", "netcdf3", "npy", "zarr2"]
        assert libraries_of(mount.pid) == []
        before = threads_of(mount.pid)
        (tree / ".icefs/views/netcdf/root.nc").read_bytes()
        assert libraries_of(mount.pid) == list(LIBRARIES)
        assert threads_of(mount.pid) > before


def test_the_daemon_starts_without_what_makes_views():
    names = ["zarr", *LIBRARIES, *(f"icefs.views.{name}" for name in ("codecs", "netcdf4", "netcdf3", "zarr2", "npy"))]
    code = (
        "import sys, icefs.daemon.spawn, icefs.daemon.serve, icefs.daemon.prepare\n"
        "print([name for name in sys.argv[1:] if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_branch_is_followed_by_its_view(repository):
    with mounted(repository[0]) as mount:
        tree = mount / "branches/main"
        file = tree / ".icefs/views/netcdf/root.nc"
        with netCDF4.Dataset(file) as before:
            zarr.open_group(tree, mode="r+", use_consolidated=False)["lat"][:2] = [-89, -88]
            with netCDF4.Dataset(file) as after:
                assert after["lat"][:2].tolist() == [-89, -88]
            assert before["lat"][:2].tolist() == [-50, -30]
        (tree / ".icefs/discard").write_text("yes\n")
        with netCDF4.Dataset(file) as after:
            assert after["lat"][:2].tolist() == [-50, -30]


def test_a_chunk_that_does_not_decode_fails_the_reads_that_meet_it(repository):
    with mounted(repository[0], may_complain=True) as mount:
        tree = mount / "branches/main"
        (tree / "time/c/1").write_bytes(b"this is not what the codec makes")
        file = os.open(tree / ".icefs/views/npy/time.npy", os.O_RDONLY | os.O_DIRECT)
        size = os.fstat(file).st_size
        start = size - 36 * 8
        assert np.frombuffer(os.pread(file, 32, start), "f8").tolist() == [0, 1, 2, 3]
        fails(errno.EIO, os.pread, file, 32, start + 32)
        assert np.frombuffer(os.pread(file, 32, start + 64), "f8").tolist() == [8, 9, 10, 11]
        os.close(file)
        log = mount.log.read_text()
        assert "time" in log
        assert "Traceback" not in log
        assert np.load(tree / ".icefs/views/npy/lon.npy").shape == (8,)


def test_a_codec_that_is_not_installed_leaves_its_array_out(repository):
    with mounted(repository[0], may_complain=True) as mount:
        tree = mount / "branches/main"
        document = (tree / "lat_bnds/zarr.json").read_text()
        assert '"name": "bytes"' in document
        (tree / "lat_bnds/zarr.json").write_text(document.replace('"name": "bytes"', '"name": "acme.bytes"'))
        views = tree / ".icefs/views"
        for view in ("netcdf", "netcdf3"):
            with netCDF4.Dataset(views / view / "root.nc") as dataset:
                assert "lat_bnds" not in dataset.variables
                assert "/lat_bnds: its codec 'acme.bytes' is not installed" in dataset.getncattr("icefs_left_out")
                assert dataset["time"][:].tolist() == list(range(36))
        for view in ("zarr2", "zarr2,compressed"):
            group = zarr.open_group(views / view, mode="r", zarr_format=2)
            assert "lat_bnds" not in group
            assert "lat_bnds: its codec 'acme.bytes' is not installed" in group.attrs["icefs_left_out"]
            assert group["time"][:].tolist() == list(range(36))
        assert not (views / "npy/lat_bnds.npy").exists()
        assert "acme.bytes" in json.loads((views / "npy/icefs_view.json").read_text())["icefs_left_out"]["/lat_bnds"]
        log = mount.log.read_text()
        for view in ("netcdf", "netcdf3", "zarr2", "zarr2,compressed", "npy"):
            assert re.search(rf"the view {view} of .* leaves out /lat_bnds: its codec 'acme.bytes' is not", log)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_a_reader_that_waits_for_a_store_can_be_ended(repository, number):
    with serving(Path(repository[0])) as server, mounted(server.url, tag="v1", may_complain=True) as mount:
        file = mount / ".icefs/views/npy/noise/values.npy"
        size = file.stat().st_size
        server.may_answer.clear()
        asked = server.waiting
        with subprocess.Popen(["cat", file], stdout=subprocess.DEVNULL) as reader:
            wait_until(lambda: server.waiting > asked, "a chunk is asked for")
            assert reader.poll() is None
            os.kill(reader.pid, number)
            assert reader.wait(30) == -number
        assert mount.control("info.json")["pid"] == mount.pid
        server.may_answer.set()
        assert len(file.read_bytes()) == size


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_other_users_read_views_where_they_are_let_in(repository):
    with mounted(repository[0], allow_other=True) as mount:
        os.chmod(mount.path.parent, 0o755)
        file = mount / "tags/v1/.icefs/views/npy/time.npy"
        size = file.stat().st_size
        assert run_as(65534, 65534, lambda: len(file.read_bytes())) == str(size)
        assert run_as(65534, 65534, lambda: file.open("r+b")) == "PermissionError"
    with mounted(repository[0]) as mount:
        os.chmod(mount.path.parent, 0o755)
        file = mount / "tags/v1/.icefs/views/npy/time.npy"
        assert run_as(65534, 65534, lambda: len(file.read_bytes())) == "PermissionError"


def test_after_the_death_of_the_daemon_a_view_shows_the_changes_that_were_left(repository, tmp_path):
    options = {"state_dir": str(tmp_path / "state"), "branch": "main"}
    with mounted(repository[0], may_complain=True, **options) as mount:
        place = mount.path
        root = zarr.open_group(place, mode="r+", use_consolidated=False)
        root["lat"][0] = -77
        file = place / ".icefs/views/npy/lat.npy"
        assert np.load(file)[0] == -77
        os.kill(mount.pid, signal.SIGKILL)
        assert mount.wait() == -signal.SIGKILL
        fails(errno.ENOTCONN, os.stat, file)
        chosen = MountOptions(repository=repository[0], mountpoint=str(place), log_file=str(mount.log), **options)
        again = Mount(place, spawn(chosen), mount.log)
        assert np.load(file)[0] == -77
        (place / ".icefs/discard").write_text("yes\n")
        assert np.load(file)[0] == -50
        assert again.unmount() == 0
        mount.exit_code = 0
