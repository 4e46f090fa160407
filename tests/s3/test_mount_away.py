"""A mount whose store goes away: work goes on, nothing is lost, and what fails says so and works later."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icefs.daemon.mountinfo import mounted_at
from icefs.daemon.options import MountOptions
from icefs.daemon.spawn import spawn
from icefs.engine.repository import Repository
from icefs.engine.upkeep.fsck import fsck
from icefs.storage.s3.store import S3Storage
from tests.support.fault_proxy import FaultProxy
from tests.support.mounting import Mount, mounted, require_fuse, wait_until

CHUNK = 100_000
COUNT = 12
ICEFS = Path(sys.executable).with_name("icefs")


@pytest.fixture
def place(far_array: Callable[..., str]) -> str:
    """The location of a repository behind the proxy, for impatient clients."""
    chunks = {number: data(number) for number in range(2)}
    return far_array(chunks, count=COUNT, chunk_bytes=CHUNK, options="max_tries=2&read_timeout_s=2")


def data(number: int) -> bytes:
    return bytes([number]) * CHUNK


def history(storage: S3Storage) -> list[str]:
    return [info.message for info in Repository.open(storage).log("main")]


def chunks(storage: S3Storage) -> dict[int, bytes]:
    session = Repository.open(storage).readonly_session("main")
    refs = {number: session.chunk_ref("/a", (number,)) for number in range(COUNT)}
    return {number: session.read_chunk(ref) for number, ref in refs.items() if ref is not None}


def background(mount: Mount) -> dict[str, Any]:
    found: dict[str, Any] = mount.control("status.json")["background"]
    return found


def test_the_store_goes_away_and_comes_back(
    place: str, proxy: FaultProxy, s3_storage: S3Storage, tmp_path: Path
) -> None:
    options = {"branch": "main", "state_dir": str(tmp_path / "state"), "upload_after_s": 0.0}
    with mounted(place, may_complain=True, **options) as mount:
        assert (mount / "a/c/0").read_bytes() == data(0)
        (mount / "a/c/2").write_bytes(data(2))
        proxy.plan("refuse", times=None)
        # Fetched chunks are read, and work goes on.
        (mount / "a/c/3").write_bytes(data(3))
        assert [(mount / f"a/c/{number}").read_bytes() for number in (2, 3)] == [data(2), data(3)]
        assert (mount / "a/c/0").read_bytes() == data(0)
        assert sorted(os.listdir(mount / "a/c")) == ["0", "1", "2", "3"]
        with pytest.raises(OSError) as caught:
            (mount / "a/c/1").read_bytes()
        assert caught.value.errno == errno.EIO
        started = time.monotonic()
        with pytest.raises(OSError) as caught:
            (mount / ".icefs/commit").write_text("away\n")
        assert caught.value.errno == errno.EIO
        assert time.monotonic() - started < 10
        told = json.loads((mount / ".icefs/commit").read_text())
        assert told["ok"] is False
        assert proxy.endpoint_url in told["message"]
        done = subprocess.run([ICEFS, "commit", "-m", "away", mount.path], check=False, capture_output=True, text=True)
        assert done.returncode == 7, done
        assert proxy.endpoint_url in done.stderr
        assert "Traceback" not in done.stderr
        (mount / "a/c/4").write_bytes(data(4))
        proxy.clear()
        assert (mount / "a/c/1").read_bytes() == data(1)
        (mount / ".icefs/commit").write_text("back\n")
        assert json.loads((mount / ".icefs/commit").read_text())["ok"] is True
    assert history(s3_storage) == ["back", "start", "Repository initialized"]
    assert chunks(s3_storage) == {number: data(number) for number in range(5)}
    assert fsck(s3_storage).status == "clean"


FAULTS = ("lose", "refuse", "throttle", "error", "deny", "mismatch", "conflict", "stall")


def test_each_request_of_a_commit_fails_in_turn(
    place: str, proxy: FaultProxy, s3_storage: S3Storage, tmp_path: Path
) -> None:
    """From one request on, each time the next one; unacknowledged changes are in the tree, and are committed later."""
    expected, messages = chunks(s3_storage), history(s3_storage)
    every = os.environ.get("ICEFS_TEST_ROUNDS") is not None
    options = {"branch": "main", "state_dir": str(tmp_path / "state"), "upload_after_s": 0.0}
    with mounted(place.replace("read_timeout_s=2", "read_timeout_s=0.3"), may_complain=True, **options) as mount:
        turn, left = 0, True
        while left:
            left = False
            for fault in FAULTS if every else (FAULTS[turn % len(FAULTS)],):
                number, message = 2 + turn % (COUNT - 2), f"{turn} {fault}"
                expected[number] = data(100 + turn)
                (mount / f"a/c/{number}").write_bytes(expected[number])
                is_conditional = fault in ("mismatch", "conflict")
                plan = proxy.plan(fault, skip=0 if is_conditional else turn, times=8, conditional=is_conditional)
                if is_conditional:
                    plan.method = "PUT"
                is_done = commit(mount, message)
                left |= plan.fired > 0
                proxy.clear()
                assert (mount / f"a/c/{number}").read_bytes() == expected[number]
                if not is_done and commit(mount, message) is False:
                    mount.refresh()
                    assert commit(mount, message) is not False
                messages.insert(0, message)
                assert history(s3_storage) == messages
                assert chunks(s3_storage) == expected
            turn += 1
    assert turn > 6
    assert fsck(s3_storage).status == "clean"


def commit(mount: Mount, message: str) -> bool | None:
    """Commits; None where there was nothing left to do."""
    *_, told = mount.rpc({"op": "commit", "message": message})
    if told["type"] == "result":
        return True
    return None if told.get("kind") == "no-changes-to-commit" else False


def test_uploads_go_on_when_the_store_is_back(
    place: str, proxy: FaultProxy, s3_storage: S3Storage, tmp_path: Path
) -> None:
    options = {"branch": "main", "state_dir": str(tmp_path / "state"), "upload_after_s": 0.1, "pack_size": 0}
    with mounted(place, may_complain=True, **options) as mount:
        before = len(list(s3_storage.iter_objects("chunks/")))
        proxy.plan("refuse", times=None)
        for number in range(2, 6):
            (mount / f"a/c/{number}").write_bytes(data(number))
        wait_until(lambda: background(mount)["error"] is not None, "an upload that fails")
        assert proxy.endpoint_url in background(mount)["error"]
        proxy.clear()
        wait_until(lambda: background(mount)["stored"] == 4, "uploads")
        assert background(mount)["error"] is None
        puts = [request for request in proxy.requests if request.method == "PUT"]
        assert len(puts) == 4
        (mount / ".icefs/commit").write_text("late\n")
    assert len(list(s3_storage.iter_objects("chunks/"))) == before + 4
    assert chunks(s3_storage) == {number: data(number) for number in range(6)}


def test_unmounting_tells_what_is_not_uploaded_and_loses_nothing(
    place: str, proxy: FaultProxy, s3_storage: S3Storage, tmp_path: Path
) -> None:
    require_fuse()
    at, log = tmp_path / "mnt", tmp_path / "log"
    at.mkdir()
    options = MountOptions(
        repository=place, mountpoint=str(at), branch="main", state_dir=str(tmp_path / "state"), log_file=str(log),
        poll_interval_s=0, pack_size=0, upload_after_s=0.1,
    )  # fmt: skip
    before = len(list(s3_storage.iter_objects("chunks/")))
    try:
        mount = Mount(at, spawn(options), log)
        for number in range(2, 4):
            (at / f"a/c/{number}").write_bytes(data(number))
        wait_until(lambda: background(mount)["stored"] == 2, "uploads")
        proxy.plan("stall", method="PUT", times=None)
        for number in range(4, 8):
            (at / f"a/c/{number}").write_bytes(data(number))
        wait_until(lambda: background(mount)["pending"] == 4, "uploads that hang")
        started = time.monotonic()
        done = subprocess.run([ICEFS, "umount", "--json", at], check=True, capture_output=True, text=True)
        assert time.monotonic() - started < 10
        told = json.loads(done.stdout)["uploads"]["main"]
        assert (told["stored"], told["pending"], told["pending_bytes"]) == (2, 4, 4 * CHUNK)
        mount.wait()
        proxy.clear()
        # The same with a daemon that is killed; files recorded as stored are not sent again.
        mount = Mount(at, spawn(options), log)
        wait_until(lambda: background(mount)["stored"] == 6, "the rest")
        assert sum(request.method == "PUT" for request in proxy.requests) == 4
        proxy.plan("stall", method="PUT", times=None)
        for number in range(8, 10):
            (at / f"a/c/{number}").write_bytes(data(number))
        wait_until(lambda: background(mount)["pending"] == 2, "uploads that hang")
        os.kill(mount.pid, signal.SIGKILL)
        mount.wait()
        subprocess.run(["fusermount3", "-uz", at], check=True)
        proxy.clear()
        mount = Mount(at, spawn(options), log)
        wait_until(lambda: background(mount)["stored"] == 8, "the last")
        assert sum(request.method == "PUT" for request in proxy.requests) == 2
        (at / ".icefs/commit").write_text("late\n")
        done = subprocess.run([ICEFS, "umount", at], check=True, capture_output=True, text=True)
        assert done.stdout == f"unmounted {at}\n"
        mount.wait()
    finally:
        if mounted_at(str(at)) is not None:
            subprocess.run(["fusermount3", "-uz", at], check=True)
    assert chunks(s3_storage) == {number: data(number) for number in range(10)}
    # Those that hung had arrived: 4 + 2 objects more than are referred to, which garbage collection takes.
    assert len(list(s3_storage.iter_objects("chunks/"))) <= before + 8 + 6
    assert fsck(s3_storage).status == "clean"


@pytest.mark.parametrize("is_killed", [False, True], ids=["same daemon", "killed daemon"])
@pytest.mark.parametrize("changed", [False, True], ids=["unchanged", "changed"])
def test_a_commit_is_carried_out_after_it_was_given_up(
    place: str,
    proxy: FaultProxy,
    s3_storage: S3Storage,
    s3_prefix: str,
    tmp_path: Path,
    is_killed: bool,
    changed: bool,
) -> None:
    options = MountOptions(
        repository=place,
        mountpoint=str(tmp_path / "mnt"),
        branch="main",
        poll_interval_s=0.0,
        state_dir=str(tmp_path / "state"),
        log_file=str(tmp_path / "log"),
    )
    require_fuse()
    (tmp_path / "mnt").mkdir()
    mount = Mount(tmp_path / "mnt", spawn(options), tmp_path / "log")
    expected = {0: data(0), 1: data(7), 2: data(2)}
    try:
        for number in (1, 2):
            (mount / f"a/c/{number}").write_bytes(expected[number])
        proxy.plan("late", method="PUT", path=f"{s3_prefix}/repo", conditional=True)
        proxy.plan("refuse", method="PUT", path=f"{s3_prefix}/repo", conditional=True, times=None)
        with pytest.raises(OSError, match=rf"\[Errno {errno.EIO}\]"):
            (mount / ".icefs/commit").write_text("given up\n")
        assert proxy.held
        proxy.clear()
        assert history(s3_storage) == ["start", "Repository initialized"]
        if changed:
            expected[1] = data(8)  # of the same length
            (mount / "a/c/1").write_bytes(expected[1])
            (mount / "a/c/2").unlink()
            del expected[2]
        if is_killed:
            os.kill(mount.pid, signal.SIGKILL)
            assert mount.wait() == -signal.SIGKILL
            subprocess.run(["fusermount3", "-uz", mount.path], check=True)
            mount = Mount(mount.path, spawn(options), mount.log)
        assert proxy.land() == [200]
        assert history(s3_storage)[0] == "given up"
        mount.refresh()
        status = mount.control("status.json")
        assert not status["tip_moved"]
        assert status["message"] == "given up"
        assert status["staged"]["chunks"] == ({"a": {"written": 1, "rewritten": 1, "deleted": 1}} if changed else {})
        assert {int(name): (mount / f"a/c/{name}").read_bytes() for name in os.listdir(mount / "a/c")} == expected
        if changed:
            (mount / ".icefs/commit").write_text("again\n")
        else:
            with pytest.raises(OSError, match=rf"\[Errno {errno.ENODATA}\]"):
                (mount / ".icefs/commit").write_text("again\n")
        assert {int(name): (mount / f"a/c/{name}").read_bytes() for name in os.listdir(mount / "a/c")} == expected
        assert mount.unmount() == 0
    finally:
        if mounted_at(str(mount.path)) is not None:
            subprocess.run(["fusermount3", "-uz", mount.path], check=True)
    assert history(s3_storage) == ["again"] * changed + ["given up", "start", "Repository initialized"]
    assert chunks(s3_storage) == expected
    assert fsck(s3_storage).status == "clean"
