"""What happens to a mount that lives long: signals, unmounting while busy, a crash, clocks that jump, other versions.

Nothing that a program has closed is lost in any of these.
"""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import icechunk
import pytest

from icefs.daemon.mountinfo import mounted_at
from icefs.daemon.options import MountOptions
from icefs.daemon.spawn import spawn
from icefs.worktree.spool.versions import STATE_VERSION, sealed
from tests.conformance.official import GROUP, commit, create, loose_array_json
from tests.support.mounting import Mount, run_daemon, scratch_directory, unmount, wait_until
from tests.support.store_contents import read_branch

ARRAY = loose_array_json((100,), (1,))
YEAR = 365 * 24 * 3600
ICEFS = Path(sys.executable).with_name("icefs")


class Place:
    """A repository with one place to mount its branch main at, again and again."""

    def __init__(self, scratch: Path) -> None:
        self.repository, self.state = scratch / "repo", scratch / "state"
        self.mountpoint, self.log = scratch / "mnt", scratch / "log"
        self.mountpoint.mkdir()
        commit(create(self.repository, 2), "first", {"zarr.json": GROUP, "a/zarr.json": ARRAY})
        self.mounts: list[Mount] = []

    @property
    def options(self) -> MountOptions:
        return MountOptions(
            repository=str(self.repository),
            mountpoint=str(self.mountpoint),
            branch="main",
            poll_interval_s=0.0,
            state_dir=str(self.state),
            log_file=str(self.log),
        )

    def mount(self) -> Mount:
        self.mounts.append(Mount(self.mountpoint, spawn(self.options), self.log))
        return self.mounts[-1]

    def path(self, number: int) -> Path:
        return self.mountpoint / f"a/c/{number}"

    def icefs(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run([ICEFS, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == code, done
        return done.stdout + done.stderr

    def clean_up(self) -> None:
        for mount in self.mounts:
            if mount.exit_code is None and mount.is_alive():
                os.kill(mount.pid, signal.SIGKILL)
                mount.wait()
        while mounted_at(str(self.mountpoint)) is not None:
            subprocess.run(["fusermount3", "-uz", self.mountpoint], check=True)


def open_repository(place: Place) -> icechunk.Repository:
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(place.repository)))


@pytest.fixture
def place():
    with scratch_directory() as scratch:
        place = Place(Path(scratch))
        try:
            yield place
        finally:
            place.clean_up()


class Writer:
    """A program that writes one chunk after the other until it cannot any more."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.closed = 0
        self.number: int | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        wait_until(lambda: self.closed > 3, "some chunks")

    def _run(self) -> None:
        try:
            for number in range(100):
                self.place.path(number).parent.mkdir(exist_ok=True)
                with open(self.place.path(number), "wb") as file:
                    file.write(b"%d" % number)
                    file.flush()
                    os.fsync(file.fileno())
                self.closed = number + 1
        except OSError as error:
            self.number = error.errno

    def end(self) -> int:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.closed


def check_chunks(place: Place, count: int) -> None:
    for number in range(count):
        assert place.path(number).read_bytes() == b"%d" % number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_programs_write_loses_nothing_that_was_closed(place, number):
    mount = place.mount()
    writer = Writer(place)
    os.kill(mount.pid, number)
    assert mount.wait() == 0
    assert mounted_at(str(place.mountpoint)) is None
    closed = writer.end()
    assert os.listdir(place.mountpoint) == []
    mount = place.mount()
    check_chunks(place, closed)
    assert mount.unmount() == 0


def test_unmounting_while_a_program_writes_is_refused_and_disturbs_nobody(place):
    mount = place.mount()
    place.path(0).parent.mkdir()
    with open(place.path(0), "wb") as file:
        file.write(b"half")
        file.flush()
        told = place.icefs("umount", str(place.mountpoint), code=4)
        assert "the mount is busy" in told
        assert str(os.getpid()) in told
        file.write(b" and whole")
    assert place.path(0).read_bytes() == b"half and whole"
    assert mount.is_alive()
    assert "unmounted" in place.icefs("umount", str(place.mountpoint))
    assert mount.wait() == 0
    place.mount()
    assert place.path(0).read_bytes() == b"half and whole"


def test_a_lazy_unmount_lets_open_files_end_in_peace(place):
    mount = place.mount()
    place.path(0).parent.mkdir()
    with open(place.path(0), "wb") as file:
        file.write(b"before")
        file.flush()
        assert "detached" in place.icefs("umount", "--lazy", str(place.mountpoint))
        assert mounted_at(str(place.mountpoint)) is None
        assert os.listdir(place.mountpoint) == []
        assert mount.is_alive()
        file.write(b" and after")
    assert mount.wait() == 0
    place.mount()
    assert place.path(0).read_bytes() == b"before and after"


@pytest.mark.parametrize("how", ["umount", "remount"])
def test_a_crashed_daemon_is_healed(place, how):
    mount = place.mount()
    writer = Writer(place)
    os.kill(mount.pid, signal.SIGKILL)
    assert mount.wait() == -signal.SIGKILL
    closed = writer.end()
    assert writer.number in {errno.ENOTCONN, errno.ECONNABORTED}
    with pytest.raises(OSError) as caught:
        os.listdir(place.mountpoint)
    assert caught.value.errno == errno.ENOTCONN
    assert f"run 'icefs umount {place.mountpoint}'" in place.icefs("status", str(place.mountpoint), code=4)
    if how == "umount":
        assert "cleared away" in place.icefs("umount", str(place.mountpoint))
    mount = place.mount()
    check_chunks(place, closed)
    assert mount.unmount() == 0
    assert mounted_at(str(place.mountpoint)) is None


CLOCK = """
import os, time
real_time, real_time_ns = time.time, time.time_ns
def offset_s():
    with open({file!r}) as file:
        return int(file.read())
time.time = lambda: real_time() + offset_s()
time.time_ns = lambda: real_time_ns() + offset_s() * 10**9
"""


def jump_and_commit(place: Place, mount: Mount, clock: Path, seen: list[int]) -> None:
    place.path(0).parent.mkdir()
    for number, offset_s in enumerate([0, YEAR, -YEAR, 0, 60, -60]):
        clock.write_text(str(offset_s))
        place.path(0).write_bytes(b"same size %d" % number)
        seen.append(os.stat(place.path(0)).st_mtime_ns)
        answer = mount.rpc({"op": "commit", "message": f"number {number}"})[-1]
        assert answer["type"] == "result", answer
        assert os.stat(place.path(0)).st_mtime_ns == seen[-1]


def test_a_clock_that_jumps_orders_commits_and_changes_times_all_the_same(place):
    """A year ahead, and two back; the official library refuses histories that are not in order."""
    clock = place.log.with_name("clock")
    clock.write_text("0")
    daemon = run_daemon(
        CLOCK.format(file=str(clock)), replace(place.options, foreground=True, log_file=None), place.log
    )
    mount = Mount(place.mountpoint, daemon.pid, place.log)
    seen: list[int] = []
    try:
        jump_and_commit(place, mount, clock, seen)
        unmount(place.mountpoint)
        assert daemon.wait(30) == 0
    finally:
        daemon.kill()
        daemon.wait()
    assert len(set(seen)) == len(seen)
    assert seen == sorted(seen)
    assert read_branch(place.repository, "main")["a/c/0"] == b"same size 5"
    history = list(open_repository(place).ancestry(branch="main"))
    assert [info.message for info in history][:6] == [f"number {number}" for number in range(5, -1, -1)]
    times = [info.written_at for info in history]
    assert times == sorted(times, reverse=True)
    assert len(set(times)) == len(times)
    # The official library commits on top as soon as its own clock has caught up; icefs does at once.
    mount = place.mount()
    place.path(1).write_bytes(b"1")
    assert mount.rpc({"op": "commit", "message": "later"})[-1]["type"] == "result"
    assert mount.unmount() == 0


def test_a_newer_state_directory_is_refused_and_not_touched(place):
    mount = place.mount()
    place.path(0).parent.mkdir()
    place.path(0).write_bytes(b"precious")
    assert mount.unmount() == 0
    [directory] = place.state.iterdir()
    info = directory / "info.json"
    old = info.read_text()
    info.write_text(sealed({**json.loads(old), "version": STATE_VERSION + 1}))
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    command = ["mount", place.repository, place.mountpoint, "--branch", "main", "--state-dir", place.state]
    done = subprocess.run([ICEFS, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 8
    assert "was written by a newer icefs" in done.stderr
    assert not os.path.ismount(place.mountpoint)
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before
    info.write_text(old)
    place.mount()
    assert place.path(0).read_bytes() == b"precious"


def test_a_branch_that_is_deleted_leaves_no_state_but_what_was_not_committed(place):
    official = open_repository(place)
    tip = official.lookup_branch("main")
    mount = Mount(place.mountpoint, spawn(replace(place.options, branch=None)), place.log)
    place.mounts.append(mount)
    for name in ("clean", "changed"):
        official.create_branch(name, tip)
    mount.refresh()
    for name in ("clean", "changed"):
        (place.mountpoint / f"branches/{name}/note").write_bytes(b"note")
    (place.mountpoint / "branches/clean/note").unlink()
    assert len(list(place.state.iterdir())) == 2
    for name in ("clean", "changed"):
        official.delete_branch(name)
    mount.refresh()
    [left] = place.state.iterdir()
    assert "changed" in left.name
    gauges = mount.control("stats.json")["gauges"]
    assert gauges["inode_ranges"] < 20
    assert mount.unmount() == 0


SLOW_PLANS = """
import time
from icefs.vfs.refs import follower as following
plan_advance = following.plan_advance
def slow_plan(*args):
    time.sleep(1.5)
    return plan_advance(*args)
following.plan_advance = slow_plan
"""


def test_a_commit_while_the_mount_works_out_what_others_did(place):
    """What was planned from where the tree stood before is not done to a tree that stands elsewhere."""
    options = replace(place.options, foreground=True, log_file=None)
    daemon = run_daemon(SLOW_PLANS, options, place.log)
    mount = Mount(place.mountpoint, daemon.pid, place.log)
    try:
        os.listdir(place.mountpoint / "a")
        place.path(0).parent.mkdir()
        place.path(0).write_bytes(b"first")
        assert mount.rpc({"op": "commit", "message": "first"})[-1]["type"] == "result"
        commit(open_repository(place), "theirs", {"b/zarr.json": GROUP})
        refresh = threading.Thread(target=mount.refresh)
        refresh.start()
        time.sleep(0.4)
        place.path(1).write_bytes(b"mine")
        answer = mount.rpc({"op": "commit", "message": "mine", "rebase": "fail"})[-1]
        assert answer["type"] == "result", answer
        refresh.join()
        assert "moved to" not in place.log.read_text()
        assert mount.control("info.json")["snapshot"] == answer["snapshot"]
        assert (place.path(0).read_bytes(), place.path(1).read_bytes()) == (b"first", b"mine")
        assert sorted(os.listdir(place.mountpoint)) == ["a", "b", "zarr.json"]
        unmount(place.mountpoint)
        assert daemon.wait(30) == 0
    finally:
        daemon.kill()
        daemon.wait()
