"""The basic story on three implementations of S3: SeaweedFS, ministack and moto.

`test_s3_storage` has the contract on SeaweedFS, and all other modules of this directory their tests.
"""

import os
import signal
import subprocess
from datetime import UTC, datetime, timedelta

import icechunk
import numpy as np
import pytest
import zarr

import icefs
from icefs.daemon.mountinfo import mounted_at
from icefs.daemon.options import MountOptions
from icefs.daemon.spawn import spawn
from icefs.engine.upkeep.fsck import fsck
from icefs.engine.write.store_probe import ignored_conditions
from tests.support.mounting import Mount, require_fuse
from tests.support.s3_places import Place, make_bucket
from tests.support.s3_server import ADMIN
from tests.support.storage_contract import StorageContract

SERVERS = ("seaweed", "ministack", "moto")


@pytest.fixture(scope="session")
def moto():
    # Lazy: importing moto takes half a second, which the other tests need not wait for.
    from tests.support.moto_server import moto_server

    with moto_server() as url:
        make_bucket(url)
        yield url


@pytest.fixture(params=SERVERS)
def place(request, s3_prefix) -> Place:
    if request.param == "seaweed":
        url = request.getfixturevalue("s3_server").endpoint_url
        return Place(url, s3_prefix, ADMIN.access_key_id, ADMIN.secret_access_key)
    return Place(request.getfixturevalue(request.param), s3_prefix)


# --- the contract ---


class TestMinistack(StorageContract):
    race_updates = 5

    @pytest.fixture
    def storage(self, ministack, s3_prefix):
        storage = Place(ministack, s3_prefix).storage()
        yield storage
        storage.close()

    @pytest.fixture
    def other(self, ministack, s3_prefix):
        other = Place(ministack, s3_prefix).storage()
        yield other
        other.close()


class TestMoto(StorageContract):
    # It ignores the condition of a copy.
    copies_conditionally = False
    # Its listings do not escape it.
    lost_characters = "\n"
    # One request after the other: the races are short, and the listing is one page.
    many_objects = 50
    race_updates = 5

    @pytest.fixture
    def storage(self, moto, s3_prefix):
        storage = Place(moto, s3_prefix).storage()
        yield storage
        storage.close()


# --- the story ---


def test_conditions_hold(place: Place) -> None:
    storage = place.storage()
    assert ignored_conditions(storage) == []
    assert list(storage.iter_objects()) == []
    storage.close()


def test_a_repository_lives_through_commits_conflicts_and_upkeep(place: Place) -> None:
    icechunk.set_logs_filter("off")
    repo = icefs.Repository.create(icefs.s3_storage(**place.arguments()))
    values = np.arange(1000, dtype="f8")
    with repo.transaction("main", message="start") as store:
        zarr.create_array(store, name="a", data=values, chunks=(100,), compressors=None)
        zarr.create_array(store, name="b", data=np.zeros(10), chunks=(10,), compressors=None)

    # Two sessions on one tip: the second one conflicts, and is rebased.
    first, second = repo.writable_session("main"), repo.writable_session("main")
    zarr.open_array(first.store, path="a")[:100] = values[:100] = -1
    zarr.open_array(second.store, path="b")[:] = 2
    replaced = first.commit("first")
    with pytest.raises(icefs.ConflictError):
        second.commit("second")
    second.commit("second", rebase_with=icefs.BasicConflictSolver())
    repo.create_tag("two", repo.lookup_branch("main"))

    # The official library reads all of it, and writes.
    official = icechunk.Repository.open(icechunk.s3_storage(**place.arguments()))
    assert [info.message for info in official.ancestry(tag="two")] == [
        info.message for info in repo.ancestry(tag="two")
    ]
    assert official.lookup_tag("two") == repo.lookup_tag("two")
    with official.transaction("main", message="theirs") as store:
        group = zarr.open_group(store, mode="a")
        np.testing.assert_array_equal(group["a"][:], values)
        group["a"][:] = values[:] = 7
        assert group["b"][:].tolist() == [2.0] * 10
    np.testing.assert_array_equal(zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")[:], values)

    # Nothing refers to a session's chunks; what a reset branch had is expired and collected.
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="a")[:] = 8
    repo.reset_branch("main", repo.lookup_tag("two"))
    later = datetime.now(UTC) + timedelta(minutes=1)
    expired = repo.expire_snapshots(later)
    assert replaced in expired
    collected = repo.garbage_collect(later)
    # Those of "start" but nine, those of "theirs" and those of the session; "start", "first" and "theirs".
    assert (collected.chunks_deleted, collected.snapshots_deleted) == (1 + 10 + 10, 3)
    assert zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")[:100].tolist() == [-1.0] * 100
    storage = place.storage()
    report = fsck(storage)
    assert (report.status, report.lost) == ("clean", [])
    storage.close()


# `tests/mount/test_life_on_stores` has SeaweedFS.
@pytest.mark.parametrize("place", ["ministack", "moto"], indirect=True)
def test_a_mount_is_written_to_killed_and_mounted_again(place: Place, tmp_path, monkeypatch) -> None:
    require_fuse()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", place.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", place.secret_access_key)
    icefs.Repository.create(icefs.s3_storage(**place.arguments()))
    at, log = tmp_path / "mnt", tmp_path / "log"
    at.mkdir()
    options = MountOptions(
        repository=place.url,
        mountpoint=str(at),
        branch="main",
        state_dir=str(tmp_path / "state"),
        log_file=str(log),
        poll_interval_s=0,
    )
    values = np.arange(400, dtype="i4").reshape(20, 20)
    try:
        mount = Mount(at, spawn(options), log)
        array = zarr.create_array(str(at / "a"), shape=(20, 20), chunks=(5, 10), dtype="i4", compressors=None)
        array[:] = values
        (at / ".icefs/commit").write_text("written")
        array[:5] = values[:5] = -1
        os.kill(mount.pid, signal.SIGKILL)
        mount.wait()
        subprocess.run(["fusermount3", "-uz", at], check=True)
        mount = Mount(at, spawn(options), log)
        np.testing.assert_array_equal(zarr.open_array(str(at / "a"))[:], values)
        (at / ".icefs/commit").write_text("after the kill")
        assert mount.unmount() == 0
    finally:
        if mounted_at(str(at)) is not None:
            subprocess.run(["fusermount3", "-uz", at], check=True)
    repo = icechunk.Repository.open(icechunk.s3_storage(**place.arguments()))
    assert [info.message for info in repo.ancestry(branch="main")][:2] == ["after the kill", "written"]
    array = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
    np.testing.assert_array_equal(array[:], values)
