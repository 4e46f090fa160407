"""Programs write to a mounted branch; the official library reads their commits."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr

from icefs.cli.support.mounts import require_mount
from icefs.daemon.mountinfo import mounted_at
from icefs.daemon.options import MountOptions
from icefs.daemon.spawn import spawn
from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.support.ci import require

ICEFS = Path(sys.executable).with_name("icefs")
DEADLINE_S = 30


@pytest.fixture(scope="module", autouse=True)
def fuse():
    require(Path("/dev/fuse").exists() and shutil.which("fusermount3") is not None, "FUSE")


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def repo(tmp_path):
    WritableRepository.create(open_storage(str(tmp_path / "repo"))).close()
    return tmp_path / "repo"


@pytest.fixture
def place(tmp_path, repo):
    """A mounted branch."""
    place = tmp_path / "mnt"
    place.mkdir()
    mount(repo, place)
    yield place
    if mounted_at(str(place)) is not None:
        subprocess.run(["fusermount3", "-uz", place], check=True)


def mount(repo, place):
    spawn(
        MountOptions(
            repository=str(repo),
            mountpoint=str(place),
            branch="main",
            poll_interval_s=0,
            state_dir=str(place.parent / "trees"),
        )
    )


def icefs(*arguments, code=0, **options):
    done = subprocess.run(
        [ICEFS, *arguments], capture_output=True, text=True, check=False, timeout=DEADLINE_S, **options
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout if code == 0 else done.stderr


def official(repo):
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(repo)))


def read(repo, name="a"):
    return zarr.open_group(official(repo).readonly_session("main").store, mode="r")[name]


def messages(repo):
    return [info.message for info in official(repo).ancestry(branch="main")]


def status(place):
    return json.loads((place / ".icefs/status.json").read_text())


def commit(place, message="a commit"):
    (place / ".icefs/commit").write_text(message + "\n")
    return json.loads((place / ".icefs/commit").read_text())


def make(place, name="a", size=100):
    array = zarr.open_group(str(place), mode="a").create_array(name, shape=(size,), chunks=(10,), dtype="f8")
    array[:] = np.arange(size)
    return array


def test_zarr_python_creates_appends_resizes_and_deletes(repo, place):
    make(place)
    assert status(place)["staged"]["chunks"] == {"a": {"written": 10, "rewritten": 0, "deleted": 0}}
    done = subprocess.run(["sh", "-c", "echo first > .icefs/commit"], cwd=place, check=False)
    assert done.returncode == 0
    assert messages(repo)[0] == "first"
    np.testing.assert_array_equal(read(repo)[:], np.arange(100))

    array = zarr.open_array(str(place / "a"))
    array.append(np.full(25, 7.0))
    assert require_mount(place / "a").ask("commit", message="append", metadata={"who": "ada"})["chunks"] == 3
    np.testing.assert_array_equal(read(repo)[:], [*range(100), *[7] * 25])
    assert next(iter(official(repo).ancestry(branch="main"))).metadata == {"who": "ada"}

    array = zarr.open_array(str(place / "a"))
    array.resize((30,))
    group = zarr.open_group(str(place))
    group.create_group("g")
    commit(place)
    np.testing.assert_array_equal(read(repo)[:], np.arange(30))
    shutil.rmtree(place / "a")
    commit(place)
    assert sorted(zarr.open_group(official(repo).readonly_session("main").store, mode="r")) == ["g"]
    assert not any(status(place)["staged"].values())


def test_numbers_and_times_stay_over_a_commit(place):
    make(place)
    before = {path: path.stat() for path in place.rglob("*")}
    commit(place)
    after = {path: path.stat() for path in place.rglob("*")}
    assert {path: (s.st_ino, s.st_mtime_ns, s.st_size) for path, s in before.items() if path.is_file()} == {
        path: (s.st_ino, s.st_mtime_ns, s.st_size) for path, s in after.items() if path.is_file()
    }
    time.sleep(0.01)
    zarr.open_array(str(place / "a"))[:10] = 1
    changed = {path for path in after if path.is_file() and path.stat().st_mtime_ns != after[path].st_mtime_ns}
    assert changed == {place / "a/c/0"}


def test_a_commit_that_cannot_be_fails_the_write_and_says_why(place):
    with pytest.raises(OSError) as failure:
        commit(place)
    assert failure.value.errno == errno.ENODATA
    assert json.loads((place / ".icefs/commit").read_text())["kind"] == "no-changes-to-commit"

    (place / "lost").mkdir()
    (place / "lost/0").write_bytes(b"chunk")
    (place / "notes.txt").write_text("hello")
    with pytest.raises(OSError) as failure:
        commit(place)
    assert failure.value.errno == errno.EINVAL
    assert [path for path, _ in json.loads((place / ".icefs/commit").read_text())["invalid"]] == ["lost/0"]
    assert (place / "lost/0").read_bytes() == b"chunk"
    shutil.rmtree(place / "lost")
    make(place)
    assert commit(place)["untracked"] == ["notes.txt"]
    assert (place / "notes.txt").read_text() == "hello"
    (place / ".icefs/discard").write_text("yes")
    assert sorted(path.name for path in place.iterdir()) == ["a", "zarr.json"]


def test_an_invalid_zarr_json_fails_at_close_and_is_kept(place):
    with pytest.raises(OSError) as failure:
        (place / "zarr.json").write_text("{")
    assert failure.value.errno == errno.EINVAL
    assert (place / "zarr.json").read_text() == "{"
    with pytest.raises(PermissionError):
        (place / ".zgroup").write_text("{}")


def test_trees_are_copied_moved_unpacked_and_removed(repo, place, tmp_path):
    plain = tmp_path / "plain"
    zarr.open_group(str(plain), mode="w")
    make(plain, "one")
    make(plain, "two")
    subprocess.run(["cp", "-r", *plain.iterdir(), place], check=True)
    commit(place)
    np.testing.assert_array_equal(read(repo, "two")[:], np.arange(100))

    subprocess.run(["mv", place / "one", place / "uno"], check=True)
    subprocess.run(["rm", "-r", place / "two"], check=True)
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(plain / "two", "three")
    subprocess.run(["tar", "xf", tmp_path / "t.tar", "-C", place], check=True)
    before = sum(1 for _ in (repo / "chunks").iterdir()) if (repo / "chunks").exists() else 0
    commit(place)
    assert sorted(zarr.open_group(official(repo).readonly_session("main").store, mode="r")) == ["three", "uno"]
    np.testing.assert_array_equal(read(repo, "uno")[:], np.arange(100))
    np.testing.assert_array_equal(read(repo, "three")[:], np.arange(100))
    assert before == (sum(1 for _ in (repo / "chunks").iterdir()) if (repo / "chunks").exists() else 0)
    np.testing.assert_array_equal(zarr.open_array(str(place / "uno"))[:], np.arange(100))


def test_work_survives_the_death_of_the_daemon(repo, place):
    make(place)
    commit(place, "before")
    zarr.open_array(str(place / "a"))[:50] = 5
    os.kill(json.loads((place / ".icefs/info.json").read_text())["pid"], signal.SIGKILL)
    subprocess.run(["fusermount3", "-uz", place], check=True)
    mount(repo, place)
    np.testing.assert_array_equal(zarr.open_array(str(place / "a"))[:], [*[5] * 50, *range(50, 100)])
    assert status(place)["staged"]["chunks"] == {"a": {"written": 5, "rewritten": 5, "deleted": 0}}
    commit(place, "after")
    np.testing.assert_array_equal(read(repo)[:], [*[5] * 50, *range(50, 100)])
    assert messages(repo)[:2] == ["after", "before"]


def test_work_survives_unmounting(repo, place):
    make(place)
    icefs("umount", place)
    assert messages(repo) == ["Repository initialized"]
    mount(repo, place)
    np.testing.assert_array_equal(zarr.open_array(str(place / "a"))[:], np.arange(100))
    commit(place)
    np.testing.assert_array_equal(read(repo)[:], np.arange(100))


def test_a_conflict_and_its_rebase(repo, place):
    make(place)
    commit(place)
    theirs = official(repo).writable_session("main")
    zarr.open_group(theirs.store)["a"][90:] = 9
    theirs.commit("theirs")
    zarr.open_array(str(place / "a"))[:10] = 1
    with pytest.raises(OSError) as failure:
        commit(place, "ours")
    assert failure.value.errno == errno.ESTALE
    assert not json.loads((place / ".icefs/commit").read_text())["ok"]
    icefs("refresh", place)
    assert status(place)["tip_moved"]
    (place / ".icefs/rebase").write_text("fail")
    np.testing.assert_array_equal(zarr.open_array(str(place / "a"))[85:], [85, 86, 87, 88, 89, *[9] * 10])
    commit(place, "ours")
    assert messages(repo)[:2] == ["ours", "theirs"]
    np.testing.assert_array_equal(read(repo)[:], [*[1] * 10, *range(10, 90), *[9] * 10])

    theirs = official(repo).writable_session("main")
    zarr.open_group(theirs.store)["a"][:10] = 2
    theirs.commit("theirs again")
    zarr.open_array(str(place / "a"))[:10] = 3
    with pytest.raises(OSError) as failure:
        (place / ".icefs/rebase").write_text("fail")
    assert failure.value.errno == errno.ESTALE
    assert json.loads((place / ".icefs/rebase").read_text())["conflicts"]
    require_mount(place).ask("commit", message="ours wins", rebase="ours")
    np.testing.assert_array_equal(read(repo)[:10], [3] * 10)


def test_a_clean_branch_follows_its_tip(repo, place):
    make(place)
    commit(place)
    theirs = official(repo).writable_session("main")
    zarr.open_group(theirs.store)["a"][:10] = 4
    zarr.open_group(theirs.store).create_group("new")
    theirs.commit("theirs")
    icefs("refresh", place)
    np.testing.assert_array_equal(zarr.open_array(str(place / "a"))[:12], [*[4] * 10, 10, 11])
    assert sorted(path.name for path in place.iterdir()) == ["a", "new", "zarr.json"]
    zarr.open_array(str(place / "a"))[:10] = 6
    commit(place)
    np.testing.assert_array_equal(read(repo)[:12], [*[6] * 10, 10, 11])
