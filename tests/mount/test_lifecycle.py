"""How a mount begins, what it survives, and how it ends."""

import errno
import json
import os
import signal
import subprocess
import threading
import time

import pytest

from icefs.daemon.mountinfo import mounted_at
from icefs.daemon.options import MountOptions
from icefs.daemon.spawn import spawn
from icefs.errors import InvalidInputError, RefNotFoundError
from tests.conformance.official import GROUP, commit, create, loose_array_json
from tests.support.mounting import Mount, mounted, run_daemon, unmount, wait_until

CHUNK = bytes(range(256)) * 256


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    path = tmp_path_factory.mktemp("lifecycle") / "repo"
    commit(create(path, 2), "first", {"zarr.json": GROUP, "a/zarr.json": loose_array_json((2,), (1,)), "a/c/0": CHUNK})
    return path


def fails(number, function, *args):
    with pytest.raises(OSError) as caught:
        function(*args)
    assert caught.value.errno == number, errno.errorcode[caught.value.errno]


def test_a_mount_answers_as_soon_as_it_is_there(repo):
    with mounted(repo) as mount:
        entry = mounted_at(str(mount.path))
        assert (entry.filesystem_type, entry.source) == ("fuse.icefs", str(repo))
        assert os.stat(mount.path).st_ino == 1
        assert mount.control("info.json")["pid"] == mount.pid
        assert os.readlink(f"/proc/{mount.pid}/cwd") == "/"
        assert os.getsid(mount.pid) == mount.pid
        assert mount.unmount() == 0
        assert mounted_at(str(mount.path)) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts(repo, number):
    with mounted(repo, branch="main") as mount:
        reader = os.open(mount / "zarr.json", os.O_RDONLY)
        writer = os.open(mount / "zarr.json", os.O_RDWR)
        os.kill(mount.pid, number)
        assert mount.wait() == 0
        assert mounted_at(str(mount.path)) is None
        assert os.listdir(mount.path) == []
        os.close(reader)
        with pytest.raises(OSError, match="not connected"):  # what may have been written to is flushed at its close
            os.close(writer)


def test_a_busy_mount_is_not_unmounted(repo):
    with mounted(repo, branch="main") as mount:
        with open(mount / "zarr.json", "rb") as file:
            done = subprocess.run(["fusermount3", "-u", mount.path], check=False, capture_output=True, text=True)
            assert done.returncode != 0
            assert "busy" in done.stderr.lower()
            assert file.read() == GROUP
            assert (mount / "a/c/0").read_bytes() == CHUNK
        assert mount.unmount() == 0


def test_a_mount_that_is_detached_lives_until_its_last_file_is_closed(repo):
    with mounted(repo, branch="main") as mount:
        with open(mount / "a/c/0", "rb", buffering=0) as file:
            subprocess.run(["umount", "-l", mount.path], check=True)
            assert mounted_at(str(mount.path)) is None
            assert file.read() == CHUNK
            assert mount.is_alive()
        assert mount.wait() == 0


@pytest.mark.parametrize("healed_by", ["umount", "mount"])
def test_a_daemon_that_is_killed_leaves_a_mount_that_is_healed(repo, healed_by):
    with mounted(repo, branch="main") as mount:
        os.kill(mount.pid, signal.SIGKILL)
        assert mount.wait() == -signal.SIGKILL
        fails(errno.ENOTCONN, os.listdir, mount.path)
        options = MountOptions(repository=str(repo), mountpoint=str(mount.path), log_file=str(mount.log))
        if healed_by == "umount":
            unmount(mount.path)
        pid = spawn(options)
        again = Mount(mount.path, pid, mount.log)
        assert (mount / "branches/main/zarr.json").read_bytes() == GROUP
        assert again.unmount() == 0
        mount.exit_code = 0


def test_what_cannot_be_mounted_is_said_before_anything_is_mounted(repo, tmp_path):
    place = tmp_path / "mnt"
    place.mkdir()

    def attempt(**options):
        usual = {"repository": str(repo), "mountpoint": str(place), "log_file": str(tmp_path / "log")}
        spawn(MountOptions(**usual | options))

    with pytest.raises(RefNotFoundError, match="nobody"):
        attempt(branch="nobody")
    with pytest.raises(InvalidInputError, match="does not exist"):
        attempt(mountpoint=str(tmp_path / "missing"))
    inside = repo / "inside"
    inside.mkdir()
    with pytest.raises(InvalidInputError, match="in the repository itself"):
        attempt(mountpoint=str(inside))
    inside.rmdir()
    assert os.listdir(place) == []
    assert mounted_at(str(place)) is None


def test_the_tip_is_followed_without_being_asked(tmp_path):
    official = create(tmp_path / "repo", 2)
    commit(official, "first", {"zarr.json": GROUP})
    with mounted(tmp_path / "repo", branch="main", poll_interval_s=0.05) as mount:
        before = os.stat(mount / "zarr.json")
        assert not os.path.lexists(mount / "g")
        commit(official, "second", {"g/zarr.json": GROUP, "zarr.json": GROUP + b"\n"})
        wait_until(lambda: os.path.lexists(mount / "g"), "a new group")
        wait_until(lambda: (mount / "zarr.json").read_bytes() == GROUP + b"\n", "changed metadata")
        assert os.stat(mount / "zarr.json").st_ino != before.st_ino


def test_a_store_that_is_gone_does_not_end_the_mount(tmp_path):
    official = create(tmp_path / "repo", 2)
    commit(official, "first", {"zarr.json": GROUP})
    with mounted(tmp_path / "repo", branch="main", poll_interval_s=0.02, may_complain=True) as mount:
        assert (mount / "zarr.json").read_bytes() == GROUP
        (tmp_path / "repo/repo").rename(tmp_path / "hidden")
        wait_until(lambda: "following the refs" in mount.log.read_text(), "a complaint")
        assert (mount / "zarr.json").read_bytes() == GROUP
        assert mount.rpc({"op": "refresh"})[0]["type"] == "error"
        (tmp_path / "hidden").rename(tmp_path / "repo/repo")
        mount.refresh()


BROKEN = """
from icefs.vfs.filesystem import FileSystem
from icefs.daemon import serve as serving
serving.GRACE_S = 0.2

lookup = FileSystem.lookup
async def broken_lookup(self, parent, name):
    if name == "boom":
        raise ZeroDivisionError("planted")
    if name == "group":
        raise ExceptionGroup("planted", [ZeroDivisionError("one"), KeyError("two")])
    if name == "never":
        import trio
        await trio.sleep_forever()
    return await lookup(self, parent, name)
FileSystem.lookup = broken_lookup

forget = FileSystem.forget
def broken_forget(self, ino, count):
    forget(self, ino, count)
    raise RuntimeError("planted")
FileSystem.forget = broken_forget

async def broken(self, *args):
    raise AssertionError("planted")
FileSystem.getxattr = FileSystem.statfs = FileSystem.releasedir = broken

async def broken_release(self, fh):
    self.handles.pop_file(fh).release()
    raise OSError(5, "planted")
FileSystem.release = broken_release

from icefs.vfs.refs.follower import Follower
async def broken_refresh(self):
    raise TypeError("planted")
Follower.refresh = broken_refresh
"""


def test_no_exception_in_a_handler_ends_the_mount(repo, tmp_path):
    place, log = tmp_path / "mnt", tmp_path / "log"
    place.mkdir()
    options = MountOptions(
        repository=str(repo), mountpoint=str(place), branch="main", poll_interval_s=0.05, foreground=True
    )
    daemon = run_daemon(BROKEN, options, log)
    try:
        for _ in range(2):
            for attempt in (
                lambda: os.stat(place / "boom"),
                lambda: os.stat(place / "group"),
                lambda: os.getxattr(place / "zarr.json", "user.x"),
                lambda: os.statvfs(place),
            ):
                fails(errno.EIO, attempt)
            assert (place / "zarr.json").read_bytes() == GROUP
            assert sorted(os.listdir(place)) == ["a", "zarr.json"]
        waiter = threading.Thread(target=lambda: os.path.exists(place / "never"), daemon=True)
        waiter.start()
        wait_until(lambda: "following the refs" in log.read_text(), "a failed poll")
        os.kill(daemon.pid, signal.SIGUSR1)
        wait_until(lambda: "Current thread" in log.read_text(), "a dump of the stacks")
        assert daemon.poll() is None
        told = log.read_text()
        assert "ZeroDivisionError: planted" in told
        assert "broken_lookup" in told  # its traceback
        assert "AssertionError: planted" in told
        assert "TypeError: planted" in told
    finally:
        started = time.monotonic()
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(20) == 0
        assert time.monotonic() - started < 10
    waiter.join(10)
    assert not waiter.is_alive()
    assert mounted_at(str(place)) is None


SLOW_JOURNAL = """
import time
from icefs.worktree.spool.journal import Journal

meta = Journal.meta
def slow_meta(self):
    time.sleep(0.3)
    return meta(self)
Journal.meta = slow_meta
"""


def test_a_working_tree_that_was_left_is_opened_once_for_all_who_ask(repo, tmp_path):
    place = tmp_path / "mnt"
    place.mkdir()
    options = MountOptions(
        repository=str(repo), mountpoint=str(place), branch="main", state_dir=str(tmp_path / "trees"), foreground=True
    )

    def serve(program):
        return run_daemon(program, options, tmp_path / "log")

    daemon = serve("")
    (place / "notes").write_text("kept")
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait(20) == 0
    daemon = serve(SLOW_JOURNAL)
    found = []
    # Opened before, for the kernel looks names up in a directory one after the other.
    rpc = os.open(place / ".icefs/rpc", os.O_RDWR)
    try:
        reader = threading.Thread(target=lambda: found.append((place / "notes").read_text()))
        reader.start()
        time.sleep(0.1)  # it waits for the journal now
        os.write(rpc, b'{"op": "uncommitted"}')
        assert json.loads(os.read(rpc, 1 << 16))["type"] == "result"
        reader.join(20)
        assert found == ["kept"]
    finally:
        os.close(rpc)
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(20) == 0
