"""Renames on a mounted branch, against a plain directory, judged by the official library."""

import os
import shutil

import icechunk
import numpy as np
import pytest
import zarr

from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.support.differential import RENAME_EXCHANGE, renameat2
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


# Numbers and times.


def attributes(place):
    """Returns inode number and mtime of everything below a directory, by path."""
    found = {}
    for path in sorted(place.rglob("*")):
        if ".icefs" not in path.parts:
            told = path.stat()
            found[str(path.relative_to(place))] = told.st_ino, told.st_mtime_ns
    return found


def read_all(place):
    return {path: (place / path).read_bytes() for path in attributes(place) if (place / path).is_file()}


def assert_kept(mount, expected, contents):
    """Asserts that numbers, times and bytes are as expected, and that listings say the same."""
    assert attributes(mount.path) == expected
    assert read_all(mount.path) == contents
    listed = {}
    for above, dirs, names in os.walk(mount.path):
        with os.scandir(above) as entries:
            listed |= {os.path.relpath(entry.path, mount.path): entry.inode() for entry in entries}
        dirs[:] = [name for name in dirs if name != ".icefs"]
        assert names is not None
    listed.pop(".icefs", None)
    assert listed == {path: ino for path, (ino, _) in expected.items()}
    assert len(set(listed.values())) == len(listed)


EDIT = np.full((10, 10), 7.0)

# Each is what is done to the mount between two commits.
SCRIPTS = {
    "array": [("mv", "g/a", "g/z")],
    "group": [("mv", "g", "h")],
    "scalar": [("mv", "scalar", "g/s")],
    "chunks of an array": [("metadata", "g/a", "g/n"), ("mv", "g/a/c", "g/n/c")],
    "chunks over those of another array": [("rm", "g/a/c"), ("mv", "g/b/c", "g/a/c")],
    "row": [("rm", "g/a/c/0"), ("mv", "g/a/c/9", "g/a/c/0")],
    "row into another array": [("rm", "g/b/c/1"), ("mv", "g/a/c/1", "g/b/c/1")],
    "rows exchanged": [("swap", "g/a/c/1", "g/a/c/2")],
    "rows in a ring": [
        ("mv", "g/a/c/1", "t"),
        ("mv", "g/a/c/2", "g/a/c/1"),
        ("mv", "g/a/c/3", "g/a/c/2"),
        ("mv", "t", "g/a/c/3"),
    ],
    "arrays exchanged": [("swap", "g/a", "g/b")],
    "twice": [("mv", "g", "h"), ("mv", "h/a", "h/z"), ("mv", "h", "k")],
    "there and back": [("mv", "g", "h"), ("mv", "h", "g"), ("write", "g/a/c/0/0")],
    "and overwritten": [("mv", "g/a", "g/z"), ("write", "g/z/c/3/1"), ("mv", "g/z/c/5", "g/z/c/9.tmp"),
                        ("rm", "g/z/c/6"), ("mv", "g/z/c/9.tmp", "g/z/c/6"), ("write", "g/z/c/6/0")],
    "in a renamed group": [("mv", "g", "h"), ("rm", "h/a/c/0"), ("mv", "h/a/c/9", "h/a/c/0"), ("write", "h/b/c/0/0")],
    "and made anew": [("mv", "g/a", "g/z"), ("copy", "g/z", "g/a"), ("write", "g/a/c/1/0")],
    "rewritten metadata": [("mv", "g/a", "g/z"), ("note", "g/z")],
}  # fmt: skip


def do(place, action, *paths):
    """Carries out one step of a script."""
    old = place / paths[0]
    if action == "mv":
        old.rename(place / paths[1])
    elif action == "swap":
        renameat2(str(old), str(place / paths[1]), RENAME_EXCHANGE)
    elif action == "rm":
        shutil.rmtree(old)
    elif action == "copy":
        shutil.copytree(old, place / paths[1])
    elif action == "metadata":
        (place / paths[1]).mkdir()
        shutil.copyfile(old / "zarr.json", place / paths[1] / "zarr.json")
    elif action == "write":
        old.write_bytes(EDIT.tobytes()[::-1])
    else:
        zarr.open_array(str(old), mode="r+").attrs["note"] = "renamed"


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_numbers_and_times_are_those_of_before_the_commit(committed, script):
    mount, _, repo = committed
    for step in script:
        do(mount.path, *step)
    expected, contents = (attributes(mount.path), read_all(mount.path))
    commit(mount)
    assert_kept(mount, expected, contents)
    assert keys(repo) == contents
    # Once more: retained numbers are retained again, wherever their files are by now.
    do(mount.path, "mv", "g" if (mount / "g").exists() else next(name for name in "hk" if (mount / name).exists()), "w")
    rows = sorted(path.parent.relative_to(mount.path) for path in (mount / "w").glob("*/c/*/0"))
    do(mount.path, "swap", rows[0], rows[-1])
    expected, contents = attributes(mount.path), read_all(mount.path)
    commit(mount)
    assert_kept(mount, expected, contents)
    assert keys(repo) == contents


@pytest.fixture
def committed(tmp_path):
    """A mount of a branch that the official library wrote, all of which the kernel has seen."""
    place = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
    session = place.writable_session("main")
    root = zarr.create_group(session.store)
    group = root.create_group("g")
    for name, size in (("a", 100), ("b", 40)):
        group.create_array(name, shape=(size, 20), chunks=(10, 10), dtype="f8", compressors=None)[:] = VALUES[:size]
    root.create_array("scalar", shape=(), dtype="i4")[...] = 7
    session.commit("first")
    with mounted(tmp_path / "repo", branch="main", state_dir=str(tmp_path / "state")) as mount:
        attributes(mount.path)
        yield mount, place, tmp_path / "repo"
