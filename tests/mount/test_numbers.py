"""An inode number leads to one file or directory: whatever was renamed, removed, discarded, or is still open."""

import os
import shutil

import icechunk
import pytest
import zarr

from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.support.mounting import mounted

CHUNK = b"\1"


@pytest.fixture
def repo(tmp_path):
    WritableRepository.create(open_storage(str(tmp_path / "repo"))).close()
    session = official(tmp_path / "repo").writable_session("main")
    make_array(session.store, "a")
    session.commit("an array")
    return tmp_path / "repo"


@pytest.fixture
def mount(tmp_path, repo):
    # A branch that is reset by others is warned of.
    with mounted(repo, branch="main", state_dir=str(tmp_path / "state"), may_complain=True) as mount:
        yield mount


def official(repo):
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(repo)))


def make_array(place, name):
    zarr.open_group(place, mode="a").create_array(name, shape=(4,), chunks=(1,), dtype="i1", compressors=None)[:] = 1


def commit(mount):
    answer = mount.rpc({"op": "commit", "message": "a commit", "skip_invalid": True})[-1]
    assert answer["type"] == "result", answer


def discard(mount, path=""):
    answer = mount.rpc({"op": "discard", "path": path})[-1]
    assert answer["type"] == "result", answer


def numbers(mount):
    found = [os.stat(above).st_ino for above, _, _ in os.walk(mount.path) if ".icefs" not in above]
    assert len(set(found)) == len(found)


def test_a_directory_that_was_renamed_and_made_anew_is_two_directories(mount):
    os.rename(mount / "a", mount / "b")
    make_array(mount.path, "a")
    (mount / "a/c/0").write_bytes(b"\2")
    (mount / "a/empty").mkdir()  # what is not committed: the directory above stays the working tree's own
    commit(mount)
    discard(mount)
    assert os.stat(mount / "a").st_ino != os.stat(mount / "b").st_ino
    assert ((mount / "a/c/0").read_bytes(), (mount / "b/c/0").read_bytes()) == (b"\2", CHUNK)
    (mount / "a/c/1").write_bytes(b"\3")
    assert (mount / "b/c/1").read_bytes() == CHUNK
    numbers(mount)


def test_a_directory_that_was_renamed_and_that_others_make_anew_is_two_directories(mount, repo):
    os.rename(mount / "a", mount / "b")
    commit(mount)
    number = os.stat(mount / "b").st_ino
    session = official(repo).writable_session("main")
    make_array(session.store, "a")
    zarr.open_array(session.store, path="a")[0] = 2
    session.commit("theirs")
    mount.refresh()
    assert os.stat(mount / "b").st_ino == number
    assert ((mount / "a/c/0").read_bytes(), (mount / "b/c/0").read_bytes()) == (b"\2", CHUNK)
    numbers(mount)


@pytest.mark.parametrize("is_removed", [False, True])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
def test_a_file_that_is_open_and_discarded_is_not_the_one_that_is_there_again(mount, repo, flags, is_removed):
    (mount / "a/c/3").write_bytes(b"\5")
    commit(mount)
    fd = os.open(mount / "a/c/0", flags)
    try:
        if flags == os.O_RDWR:
            os.pwrite(fd, b"\2", 0)
        if is_removed:
            os.unlink(mount / "a/c/0")
        discard(mount)
        assert (mount / "a/c/0").read_bytes() == CHUNK
        (mount / "a/c/0").write_bytes(b"\3")
        assert (mount / "a/c/0").read_bytes() == b"\3"
        if flags == os.O_RDWR:
            assert os.pread(fd, 10, 0) == b"\2"
            os.pwrite(fd, b"\4", 0)
    finally:
        os.close(fd)
    assert (mount / "a/c/0").read_bytes() == b"\3"
    commit(mount)
    assert zarr.open_array(official(repo).readonly_session("main").store, path="a", mode="r")[0] == 3


@pytest.mark.parametrize("is_read_early", [False, True])
def test_directories_that_were_removed_around_an_open_file_are_usable_when_they_are_back(mount, is_read_early):
    if not is_read_early:  # then there is no working tree yet
        (mount / "a/c/3").write_bytes(b"\5")
    with open(mount / "a/c/0", "rb") as file:
        for name in os.listdir(mount / "a/c"):
            os.unlink(mount / "a/c" / name)
        os.rmdir(mount / "a/c")
        discard(mount)
        (mount / "a/c/1").write_bytes(b"\3")
        assert file.read() == CHUNK
    assert ((mount / "a/c/0").read_bytes(), (mount / "a/c/1").read_bytes()) == (CHUNK, b"\3")


def test_an_array_that_others_replace_shows_the_chunks_it_did_not_have(tmp_path, repo):
    # The daemon warns of a branch that is reset.
    with mounted(repo, branch="main", state_dir=str(tmp_path / "state"), may_complain=True) as mount:
        first = official(repo).lookup_branch("main")
        shutil.rmtree(mount / "a")
        make_array(mount.path, "a")
        (mount / "a/c/3").unlink()
        commit(mount)
        number = os.stat(mount / "a").st_ino
        assert not (mount / "a/c/3").exists()
        official(repo).reset_branch("main", first)
        mount.refresh()
        assert (mount / "a/c/3").exists()
        assert os.stat(mount / "a").st_ino == number


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_WRONLY | os.O_TRUNC])
def test_a_file_that_was_opened_before_anything_was_written_shows_what_others_write(mount, flags):
    with open(mount / "a/c/0", "rb", buffering=0) as early, open(mount / "a/c/1", "rb", buffering=0) as untouched:
        fd = os.open(mount / "a/c/0", flags)
        os.write(fd, b"\3")
        os.close(fd)
        assert early.read() == (mount / "a/c/0").read_bytes() == b"\3"
        os.unlink(mount / "a/c/0")
        early.seek(0)
        assert (early.read(), os.fstat(early.fileno()).st_size) == (b"\3", 1)
        assert untouched.read() == CHUNK
        discard(mount)
        assert (mount / "a/c/0").read_bytes() == CHUNK
    assert (mount / "a/c/0").read_bytes() == CHUNK
    commit_nothing = mount.rpc({"op": "commit", "message": "nothing"})[-1]
    assert commit_nothing["kind"] == "no-changes-to-commit"
