"""A program that waits for a commit, rebase or discard finds the tree as it left it, however slow invalidations are."""

import os

import icechunk
import pytest
import zarr

from icefs.daemon.options import MountOptions
from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.support.mounting import Mount, run_daemon, scratch_directory, unmount

SLOW = """
import time
from icefs.fuse.device import Device

def slowly(send):
    def later(*args, **kwargs):
        time.sleep(0.1)
        send(*args, **kwargs)
    return later
Device.invalidate_entry = slowly(Device.invalidate_entry)
Device.invalidate_inode = slowly(Device.invalidate_inode)
"""


@pytest.fixture
def place(tmp_path):
    """A mounted branch of a daemon that takes its time to tell the kernel of changes."""
    WritableRepository.create(open_storage(str(tmp_path / "repo"))).close()
    with scratch_directory() as scratch:
        place, log = tmp_path / "mnt", tmp_path / "log"
        place.mkdir()
        options = MountOptions(
            repository=str(tmp_path / "repo"), mountpoint=str(place), branch="main", poll_interval_s=0,
            state_dir=scratch, foreground=True,
        )  # fmt: skip
        daemon = run_daemon(SLOW, options, log)
        try:
            zarr.open_group(place, mode="a").create_array("a", shape=(4,), chunks=(1,), dtype="i1", compressors=None)[
                :
            ] = 1
            commit(place)
            yield place
        finally:
            unmount(place)
            assert daemon.wait(timeout=30) == 0, log.read_text()


def commit(place):
    (place / ".icefs/commit").write_text("a commit\n")


def ask(place, **request):
    return Mount(place, 0, place).rpc(request)[-1]


@pytest.mark.parametrize("how", ["file", "rpc"])
def test_what_a_commit_takes_away_is_gone(place, how):
    assert (place / "a/c/3").exists()
    metadata = (place / "a/zarr.json").read_text()
    (place / "a/zarr.json").write_text(metadata.replace("4", "2", 1))
    if how == "file":
        commit(place)
    else:
        assert ask(place, op="commit", message="smaller")["type"] == "result"
    assert not (place / "a/c/3").exists()
    assert (place / "a/c/1").exists()


@pytest.mark.parametrize("how", ["file", "rpc"])
def test_what_a_discard_takes_away_is_gone_and_what_it_brings_back_is_there(place, how):
    (place / "a/c/3").unlink()
    (place / "new").mkdir()
    (place / "new/file").write_text("x")
    assert not (place / "a/c/3").exists()
    if how == "file":
        (place / ".icefs/discard").write_text("yes")
    else:
        assert ask(place, op="discard")["type"] == "result"
    assert (place / "a/c/3").exists()
    assert not (place / "new/file").exists()
    assert not (place / "new").exists()


def test_what_a_rebase_brings_is_there(place):
    os.stat(place / "a/c/0")
    session = icechunk.Repository.open(icechunk.local_filesystem_storage(str(place.parent / "repo"))).writable_session(
        "main"
    )
    group = zarr.open_group(session.store, mode="a")
    del group["a"]
    group.create_group("b")
    session.commit("theirs")
    (place / "notes.txt").write_text("keeps the branch where it is")
    (place / ".icefs/rebase").write_text("fail")
    assert (place / "b/zarr.json").exists()
    assert not (place / "a/c/0").exists()


@pytest.mark.parametrize("is_changed", [False, True], ids=["committed here", "with a mode of its own"])
def test_directories_have_another_time_when_others_add_something(place, is_changed):
    if is_changed:
        (place / "a").chmod(0o700)
    before = {name: os.stat(place / name) for name in ("", "a", "a/c")}
    session = theirs(place)
    group = zarr.open_group(session.store, mode="a")
    group["a"].resize((5,))
    group["a"][4:] = 5
    session.commit("theirs")
    assert ask(place, op="refresh")["moved"]
    for name, then in before.items():
        now = os.stat(place / name)
        assert now.st_mtime_ns > then.st_mtime_ns, name
        assert now.st_ino == then.st_ino, name
    assert (place / "a/c/4").exists()


def test_a_branch_stays_while_a_file_is_open_for_writing(place):
    before = (place / "a/c/0").read_bytes()
    fd = os.open(place / "a/c/0", os.O_RDWR)
    try:
        session = theirs(place)
        zarr.open_group(session.store, mode="a")["a"][:] = 5
        session.commit("theirs")
        assert not ask(place, op="refresh")["moved"]
        os.pwrite(fd, b"7", 0)
    finally:
        os.close(fd)
    assert not ask(place, op="refresh")["moved"]
    mine = b"7" + before[1:]
    assert (place / "a/c/0").read_bytes() == mine
    assert ask(place, op="commit", message="mine")["kind"] == "commit-conflict"
    assert ask(place, op="commit", message="mine", rebase="ours")["type"] == "result"
    assert (place / "a/c/0").read_bytes() == mine
    assert (place / "a/c/1").read_bytes() not in {mine, before}


def theirs(place):
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(place.parent / "repo")))
    return repository.writable_session("main")


@pytest.mark.parametrize("is_new", [False, True], ids=["move", "new group"])
def test_what_lies_in_a_renamed_directory_has_one_number_after_a_commit(place, is_new):
    """It is the new snapshot's, in listings and for programs that have looked at it before."""
    if is_new:
        (place / "g").mkdir()
        (place / "g/zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    target = place / ("g/b" if is_new else "b")
    (place / "a").rename(target)
    before = [path for path, _ in numbers(place)]
    commit(place)
    assert [path for path, _ in numbers(place)] == before
    for path, number in numbers(place):
        assert os.stat(path).st_ino == number, path
    for path in target.rglob("*"):
        assert path.is_dir() or path.read_bytes()
    (target / "c/1").write_bytes(b"2")
    commit(place)
    assert (target / "c/1").read_bytes() == b"2"


def numbers(place):
    """Yields what lies below a directory, with its number in the listing."""
    for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
        os.stat(entry.path)
        yield entry.path, entry.inode()
        if entry.is_dir():
            yield from numbers(entry.path)
