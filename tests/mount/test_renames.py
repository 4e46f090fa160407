"""Renames on a mounted branch, against a plain directory, judged by the official library."""

import os
import shutil

import icechunk
import numpy as np
import pytest
import zarr

from icefs.engine.writing import WritableRepository
from icefs.storage.url import open_storage
from tests.support.mounting import mounted

VALUES = np.random.default_rng(0).random((100, 20))


def make(place):
    """Writes the same hierarchy into any directory."""
    root = zarr.open_group(str(place), mode="a")
    group = root.require_group("g")
    for name, size in (("a", 100), ("b", 40)):
        array = group.create_array(name, shape=(size, 20), chunks=(10, 10), dtype="f8")
        array[:] = VALUES[:size]
    root.create_array("scalar", shape=(), dtype="i4")[...] = 7


@pytest.fixture
def pair(tmp_path):
    """A mounted branch with a commit, and a plain directory that holds the same."""
    WritableRepository.create(open_storage(str(tmp_path / "repo"))).close()
    plain = tmp_path / "plain"
    make(plain)
    with mounted(tmp_path / "repo", branch="main", state_dir=str(tmp_path / "state")) as mount:
        make(mount.path)
        commit(mount)
        yield mount, plain, tmp_path / "repo"


def commit(mount, message="a commit"):
    (mount / ".icefs/commit").write_text(message)
    return mount.control("commit")


def official(repo):
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(repo)))


def files(place):
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in place.rglob("*")
        if path.is_file() and ".icefs" not in path.parts
    }


async def _keys(store):
    return [key async for key in store.list()]


def keys(repo):
    """Returns all keys and bytes at the tip, as the official library reads them."""
    store = official(repo).readonly_session("main").store
    buffers = zarr.core.buffer.default_buffer_prototype()
    found = zarr.core.sync.sync(_keys(store))
    return {key: zarr.core.sync.sync(store.get(key, buffers)).to_bytes() for key in found}


def node_ids(repo):
    session = official(repo).readonly_session("main")
    return {path: session.get_node_id(path) for path in _paths(repo)}


def _paths(repo):
    return sorted("/" + key.removesuffix("zarr.json").rstrip("/") for key in keys(repo) if key.endswith("zarr.json"))


def both(pair, *operations):
    """Does something to the mount and to the plain directory, and commits; all three read the same then."""
    mount, plain, repo = pair
    for place in (mount.path, plain):
        for operation in operations:
            operation(place)
    assert files(mount.path) == files(plain)
    staged = mount.control("status.json")["staged"]
    commit(mount)
    assert keys(repo) == files(plain) == files(mount.path)
    assert not any(mount.control("status.json")["staged"].values())
    return staged


def rename(old, new):
    return lambda place: os.rename(place / old, place / new)


@pytest.mark.parametrize(
    ("steps", "moved"),
    [
        ([("g/a", "g/z")], {"/g/a": "/g/z"}),
        ([("g", "h")], {"/g": "/h", "/g/a": "/h/a", "/g/b": "/h/b"}),
        ([("g/a", "t"), ("g/b", "g/a"), ("t", "g/b")], {"/g/a": "/g/b", "/g/b": "/g/a"}),
        ([("scalar", "s"), ("s", "g/s"), ("g", "k")], {"/scalar": "/k/s", "/g": "/k", "/g/a": "/k/a", "/g/b": "/k/b"}),
    ],
    ids=["array", "group", "swap", "chain"],
)
def test_renames_alone_keep_node_ids(pair, steps, moved):
    repo = pair[2]
    before = node_ids(repo)
    staged = both(pair, *(rename(*step) for step in steps))
    assert staged["renamed_nodes"]
    after = node_ids(repo)
    assert after == {moved.get(path, path): node_id for path, node_id in before.items()}
    # The official library commits on top.
    session = official(repo).writable_session("main")
    zarr.open_group(session.store).attrs["x"] = 1
    session.commit("theirs")


def test_a_rename_and_an_edit_of_one_chunk(pair):
    before = set((pair[2] / "chunks").iterdir())

    def edit(place):
        zarr.open_array(str(place / "h/a"), mode="r+")[:10, :10] = 2 * VALUES[10:20, :10]

    both(pair, rename("g", "h"), edit)
    assert len(set((pair[2] / "chunks").iterdir()) - before) == 1


def test_renames_over_what_was_removed_into_new_groups_and_of_chunks(pair):
    both(pair, lambda place: shutil.rmtree(place / "g/b"), rename("g/a", "g/b"))
    both(pair, lambda place: zarr.open_group(str(place), mode="a").create_group("n"), rename("g/b", "n/b"))
    both(pair, lambda place: shutil.rmtree(place / "n/b/c/0"), rename("n/b/c/9", "n/b/c/0"))
    both(pair, rename("n/b/c/1/0", "n/b/c/9.tmp"), lambda place: os.remove(place / "n/b/c/9.tmp"))


def test_members_of_a_group_without_metadata_stay(pair):
    both(pair, lambda place: os.remove(place / "g/zarr.json"))
    store = official(pair[2]).readonly_session("main").store
    np.testing.assert_array_equal(zarr.open_array(store, path="g/b")[:], VALUES[:40])
