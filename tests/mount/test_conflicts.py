"""Others commit to a mounted branch: what is refused, and what the tree, the kernel and the repository show then."""

import errno

import icechunk
import numpy as np
import pytest
import zarr

from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.support.mounting import mounted


@pytest.fixture
def mount(tmp_path):
    WritableRepository.create(open_storage(str(tmp_path / "repo"))).close()
    with mounted(tmp_path / "repo", branch="main", state_dir=str(tmp_path / "state")) as mount:
        array = zarr.open_group(str(mount.path), mode="a").create_array("a", shape=(100,), chunks=(10,), dtype="f8")
        array[:] = np.arange(100)
        commit(mount)
        yield mount


@pytest.fixture
def repo(tmp_path):
    return tmp_path / "repo"


def commit(mount, **request):
    return mount.rpc({"op": "commit", "message": "ours", **request})[-1]


def array(mount):
    return zarr.open_array(str(mount / "a"))


def official(repo):
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(repo)))


def theirs(repo, change, message="theirs"):
    session = official(repo).writable_session("main")
    change(zarr.open_group(session.store))
    session.commit(message)


def both_write(mount, repo):
    """Makes a conflict in chunk 0, and changes that do not conflict in others; every byte is in the kernel's cache."""
    ours = array(mount)
    ours[:10] = 1
    ours[10:20] = 1
    assert ours[:].sum()

    def write(group):
        group["a"][:10] = 2
        group["a"][90:] = 2

    theirs(repo, write)


def test_a_conflict_is_told_in_full(mount, repo):
    both_write(mount, repo)
    with pytest.raises(OSError) as failure:
        (mount / ".icefs/rebase").write_text("fail")
    assert failure.value.errno == errno.ESTALE
    told = mount.control("rebase")
    assert (told["ok"], told["kind"]) == (False, "rebase-failed")
    [conflict] = told["conflicts"]
    assert (conflict["type"], conflict["path"], conflict["chunks"]) == ("ChunkDoubleUpdate", "a", [[0]])
    assert [one["message"] for one in told["commits"]] == ["theirs"]
    with pytest.raises(OSError) as failure:
        (mount / ".icefs/commit").write_text("ours")
    assert failure.value.errno == errno.ESTALE
    assert [one["message"] for one in mount.control("commit")["commits"]] == ["theirs"]
    np.testing.assert_array_equal(array(mount)[:30], [*[1] * 20, *range(20, 30)])


@pytest.mark.parametrize("at_once", [False, True], ids=["rebase, then commit", "commit"])
@pytest.mark.parametrize("how", ["ours", "theirs"])
def test_what_a_rebase_leaves_is_what_the_kernel_shows_and_what_is_committed(mount, repo, how, at_once):
    both_write(mount, repo)
    expected = [*[1 if how == "ours" else 2] * 10, *[1] * 10, *range(20, 90), *[2] * 10]
    if at_once:
        assert commit(mount, rebase=how)["type"] == "result"
    else:
        (mount / ".icefs/rebase").write_text(how)
        np.testing.assert_array_equal(array(mount)[:], expected)
        assert commit(mount)["type"] == "result"
    np.testing.assert_array_equal(array(mount)[:], expected)
    np.testing.assert_array_equal(
        zarr.open_group(official(repo).readonly_session("main").store, mode="r")["a"][:], expected
    )
    assert not any(mount.control("status.json")["staged"].values())


@pytest.mark.parametrize("at_once", [False, True], ids=["rebase, then commit", "commit"])
def test_a_removed_chunk_gives_way(mount, repo, at_once):
    (mount / "a/c/0").unlink()
    (mount / "a/c/1").unlink()
    assert not (mount / "a/c/0").exists()
    theirs(repo, lambda group: group["a"].__setitem__(slice(0, 10), 2))
    expected = [*[2] * 10, *[0] * 10, *range(20, 100)]
    if at_once:
        commit(mount, rebase="theirs")
    else:
        (mount / ".icefs/rebase").write_text("theirs")
        assert mount.control("status.json")["staged"]["chunks"]["a"]["deleted"] == 1
        commit(mount)
    assert (mount / "a/c/0").exists()
    np.testing.assert_array_equal(array(mount)[:], expected)
    np.testing.assert_array_equal(
        zarr.open_group(official(repo).readonly_session("main").store, mode="r")["a"][:], expected
    )


def test_what_was_added_below_a_removed_directory_is_seen_by_the_kernel(mount, repo):
    zarr.open_group(str(mount.path)).create_array("b", shape=(4, 4), chunks=(2, 2), dtype="u1", fill_value=0)[:2] = 5
    commit(mount)
    for path in (mount / "b/c/0").iterdir():
        path.unlink()
    (mount / "b/c/0").rmdir()
    assert not (mount / "b/c/0").exists()
    theirs(repo, lambda group: group["b"].__setitem__((slice(2, 4), slice(0, 2)), 6))
    theirs(repo, lambda group: group.create_group("new"))
    (mount / ".icefs/rebase").write_text("fail")
    assert sorted(path.name for path in mount.path.iterdir()) == ["a", "b", "new", "zarr.json"]
    commit(mount)
    expected = [[0] * 4] * 2 + [[6, 6, 0, 0]] * 2
    np.testing.assert_array_equal(zarr.open_array(str(mount / "b"))[:], expected)
    np.testing.assert_array_equal(
        zarr.open_group(official(repo).readonly_session("main").store, mode="r")["b"][:], expected
    )


@pytest.mark.parametrize("at_once", [False, True], ids=["rebase, then commit", "commit"])
def test_what_was_added_to_a_directory_that_both_sides_made_is_seen_by_the_kernel(mount, repo, at_once):
    ours = zarr.open_group(str(mount.path)).create_array("b", shape=(4, 4), chunks=(2, 2), dtype="u1", fill_value=0)
    commit(mount)
    ours[:2, :2] = 5
    places = [mount / "b/c/0/0", mount / "b/c/0/1", mount / "b/c/1/1", mount / "b/c/1", mount / "new"]
    assert [path.exists() for path in places] == [True, False, False, False, False]
    (mount / "new").mkdir()
    (mount / "new/notes.txt").write_text("mine")
    assert not (mount / "new/zarr.json").exists()

    def write(group):
        group["b"][:, 2:] = 6
        group.create_group("new")

    theirs(repo, write)
    if at_once:
        assert commit(mount, rebase="fail")["type"] == "result"
    else:
        (mount / ".icefs/rebase").write_text("fail")
        staged = mount.control("status.json")["staged"]
        assert staged["chunks"] == {"b": {"written": 1, "rewritten": 0, "deleted": 0}}
        assert not staged["deleted_nodes"]
    assert [path.exists() for path in places] == [True, True, True, True, True]
    assert sorted(path.name for path in (mount / "new").iterdir()) == ["notes.txt", "zarr.json"]
    expected = [[5, 5, 6, 6]] * 2 + [[0, 0, 6, 6]] * 2
    np.testing.assert_array_equal(zarr.open_array(str(mount / "b"))[:], expected)
    if not at_once:
        commit(mount)
    session = official(repo).readonly_session("main")
    np.testing.assert_array_equal(zarr.open_group(session.store, mode="r")["b"][:], expected)
    assert zarr.open_group(session.store, mode="r")["new"].attrs.asdict() == {}


def test_a_file_that_would_hide_what_others_wrote_is_told(mount, repo):
    (mount / "new").write_text("mine")
    theirs(repo, lambda group: group.create_group("new"))
    with pytest.raises(OSError) as failure:
        (mount / ".icefs/rebase").write_text("fail")
    assert failure.value.errno == errno.ESTALE
    told = mount.control("rebase")
    assert (told["ok"], told["kind"], told["hint"]) == (False, "rebase-failed", "rename or remove new, and try again")
    assert (mount / "new").read_text() == "mine"
    (mount / "new").rename(mount / "mine.txt")
    (mount / ".icefs/rebase").write_text("fail")
    assert sorted(path.name for path in (mount / "new").iterdir()) == ["zarr.json"]
