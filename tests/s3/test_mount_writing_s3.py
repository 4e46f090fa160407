"""Writing to a mounted bucket: packed objects, uploads before the commit, and a daemon that dies in between."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import pytest
import zarr

import icefs
from icefs.clock import system_clock
from icefs.daemon.mountinfo import mounted_at
from icefs.daemon.options import MountOptions
from icefs.daemon.spawn import spawn
from icefs.engine.upkeep.fsck import fsck
from icefs.engine.upkeep.garbage import collect_garbage
from icefs.engine.write.repository import WritableRepository
from icefs.storage.s3.store import S3Storage
from tests.support.mounting import Mount, mounted, require_fuse
from tests.support.s3_server import SeaweedServer

SHAPE, CHUNKS = (60, 25_600), (1, 1280)  # 1200 chunks of 10 KiB
DATA = np.random.default_rng(5).random(SHAPE)


@pytest.fixture
def place(s3_server: SeaweedServer, s3_storage: S3Storage, s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> str:
    WritableRepository.create(s3_storage)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://icefs-tests/{s3_prefix}?endpoint_url={s3_server.endpoint_url}"


def chunk_objects(storage: S3Storage) -> list[int]:
    return [info.size_bytes for info in storage.iter_objects("chunks/")]


def background(mount: Mount, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while not condition(state := mount.control("status.json")["background"]):
        assert time.monotonic() < deadline, state
        time.sleep(0.05)
    return state


def write(mount: Mount, chunks: tuple[int, int]) -> None:
    group = zarr.open_group(str(mount.path), mode="a")
    array = group.create_array(
        "a", shape=SHAPE, chunks=chunks, dtype="f8", compressors=None, filters=None, fill_value=0
    )
    array[:] = DATA


def official(s3_server: SeaweedServer, s3_prefix: str) -> np.ndarray:
    keys = s3_server.environment()
    storage = icechunk.s3_storage(
        bucket="icefs-tests",
        prefix=s3_prefix,
        endpoint_url=s3_server.endpoint_url,
        region="us-east-1",
        allow_http=True,
        force_path_style=True,
        access_key_id=keys["AWS_ACCESS_KEY_ID"],
        secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
    )
    repo = icechunk.Repository.open(storage)
    return zarr.open_group(repo.readonly_session("main").store, mode="r")["a"][:]


def test_many_small_chunks_cost_few_requests(
    place: str, s3_server: SeaweedServer, s3_storage: S3Storage, s3_prefix: str, tmp_path: Path
) -> None:
    with mounted(place, branch="main", state_dir=str(tmp_path / "state"), pack_size=1 << 20) as mount:
        write(mount, CHUNKS)
        (mount.path / ".icefs/commit").write_text("packed")
        np.testing.assert_array_equal(zarr.open_array(str(mount / "a"))[:], DATA)
    sizes = chunk_objects(s3_storage)
    assert sum(sizes) == DATA.nbytes
    assert len(sizes) == -(-1200 // 102)
    np.testing.assert_array_equal(official(s3_server, s3_prefix), DATA)


def test_uploads_outlive_the_daemon(
    place: str, s3_server: SeaweedServer, s3_storage: S3Storage, s3_prefix: str, tmp_path: Path
) -> None:
    require_fuse()
    at, log = tmp_path / "mnt", tmp_path / "log"
    at.mkdir()
    options = MountOptions(
        repository=place,
        mountpoint=str(at),
        branch="main",
        state_dir=str(tmp_path / "state"),
        log_file=str(log),
        poll_interval_s=0,
        pack_size=0,
        upload_after_s=0.2,
    )
    expected = DATA.copy()
    try:
        mount = Mount(at, spawn(options), log)
        write(mount, (10, 2560))  # 60 chunks of 200 KiB
        assert background(mount, lambda state: state["stored"] == 60)["error"] is None
        assert len(chunk_objects(s3_storage)) == 60
        os.kill(mount.pid, signal.SIGKILL)
        mount.wait()
        subprocess.run(["fusermount3", "-uz", at], check=True)
        mount = Mount(at, spawn(options), log)
        background(mount, lambda state: (state["stored"], state["pending"]) == (60, 0))
        zarr.open_array(str(at / "a"))[0, 0] = expected[0, 0] = 0.5
        (at / ".icefs/commit").write_text("late")
        assert mount.unmount() == 0
    finally:
        if mounted_at(str(at)) is not None:
            subprocess.run(["fusermount3", "-uz", at], check=True)
    assert 60 <= len(chunk_objects(s3_storage)) <= 61
    np.testing.assert_array_equal(official(s3_server, s3_prefix), expected)


def test_chunks_that_were_collected_before_the_commit_are_stored_again(
    place: str, s3_server: SeaweedServer, s3_storage: S3Storage, s3_prefix: str, tmp_path: Path
) -> None:
    state = str(tmp_path / "state")
    with mounted(place, branch="main", state_dir=state, pack_size=0, upload_after_s=0.1, may_complain=True) as mount:
        write(mount, (10, 2560))  # 60 chunks of 200 KiB
        background(mount, lambda state: state["stored"] == 60)
        collected = collect_garbage(WritableRepository.open(s3_storage), system_clock() + 60_000_000)
        assert collected.chunks_deleted == 60
        (mount.path / ".icefs/commit").write_text("after a collection")
    # A daemon that learns of the collection right after it opened the commit's session cannot tell that the collection
    # has ended. It copies what it stored (`chunk_guard`), and the first 60 objects are garbage.
    assert len(chunk_objects(s3_storage)) in (60, 120)
    collect_garbage(WritableRepository.open(s3_storage), system_clock() + 60_000_000)
    assert len(chunk_objects(s3_storage)) == 60
    assert fsck(s3_storage).status == "clean"
    np.testing.assert_array_equal(official(s3_server, s3_prefix), DATA)


def collecting(place: str, done: threading.Event, collected: list[int]) -> None:
    """Deletes what nothing refers to, again and again, as far as the moment; keeps what each run returned."""
    program = str(Path(sys.executable).with_name("icefs"))
    while not done.is_set():
        command = [program, "gc", place, "--older-than", "0s", "--force"]
        collected.append(subprocess.run(command, check=False, capture_output=True, timeout=60).returncode)


def commit(mount: Mount, message: str) -> None:
    """Commits; what a collection has taken is refused, and stored again for the next attempt."""
    for attempt in range(20):
        try:
            (mount.path / ".icefs/commit").write_text(message)
        except OSError:
            assert attempt < 19
            time.sleep(0.05)
        else:
            return


def test_commits_of_a_mount_whose_uploads_a_collection_takes_read_back_whole(
    place: str, s3_storage: S3Storage, tmp_path: Path
) -> None:
    done, collected = threading.Event(), []
    thread = threading.Thread(target=collecting, args=(place, done, collected))
    expected: dict[str, np.ndarray] = {}
    options = {"branch": "main", "state_dir": str(tmp_path / "state"), "pack_size": 1 << 17, "upload_after_s": 0.05}
    with mounted(place, **options, may_complain=True) as mount:
        thread.start()
        try:
            end = time.monotonic() + 5
            while time.monotonic() < end:
                name, values = f"a{len(expected)}", DATA[:, :2560] + len(expected)
                group = zarr.open_group(str(mount.path), mode="a")
                array = group.create_array(
                    name, shape=values.shape, chunks=CHUNKS, dtype="f8", compressors=None, filters=None
                )
                array[:] = values
                time.sleep(0.2)  # uploads are under way
                commit(mount, name)
                expected[name] = values
        finally:
            done.set()
            thread.join()
    assert len(expected) > 1
    assert set(collected) == {0}
    group = zarr.open_group(icefs.Repository.open(s3_storage).readonly_session("main").store, mode="r")
    assert sorted(group.array_keys()) == sorted(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(group[name][:], values)
    assert fsck(s3_storage).status == "clean"
