"""A mounted branch that others commit to after directories were renamed in it: all that the kernel knows is true."""

import os

import pytest

from icefs.engine.write.repository import WritableRepository
from icefs.format.chunk_indices import ChunkIndices
from icefs.storage.local.store import LocalStorage
from tests.conformance.official import GROUP, loose_array_json
from tests.support.mounting import mounted

SHAPE, CHUNK = (9, 9), (1, 1)


@pytest.fixture
def branch(tmp_path):
    """A repository with an array of some rows of chunks, and its branch mounted."""
    repository = WritableRepository.create(LocalStorage(str(tmp_path / "repo")))
    with repository.transaction("main", message="start") as session:
        session.nodes.put("/", GROUP)
        for path in ("/g", "/g/sub"):
            session.nodes.put(path, GROUP)
        for path in ("/a", "/g/sub/b"):
            session.nodes.put(path, loose_array_json(SHAPE, CHUNK))
            for index in ((2, 2), (2, 3), (3, 2)):
                session.chunks.set(path, index, f"{path} {index}".encode())
    with mounted(tmp_path / "repo", branch="main") as mount:
        look(mount.path)
        yield mount, repository


def look(place):
    """Returns number, time and content of everything below a directory, as far as the kernel has cached it."""
    found = {}
    for above, dirs, names in os.walk(place):
        dirs[:] = [name for name in dirs if name != ".icefs"]
        for name in (*dirs, *names):
            path = os.path.join(above, name)
            told = os.stat(path)
            data = None
            if name in names:
                with open(path, "rb") as file:
                    data = file.read()
            found[os.path.relpath(path, place)] = told.st_ino, told.st_mtime_ns, data
    return found


def commit(mount):
    (mount / ".icefs/commit").write_text("ours")


def files_of(found):
    return {path: data for path, (_, _, data) in found.items() if data is not None}


def test_who_makes_a_directory_where_one_was_renamed_away_makes_another_one(branch):
    mount, repository = branch
    (mount / "a/c/2").rename(mount / "a/c/7")
    (mount / "g").rename(mount / "h")
    before = look(mount.path)
    commit(mount)
    with repository.transaction("main", message="theirs") as session:
        session.chunks.set("/a", (2, 5), b"theirs")
        session.nodes.put("/g", GROUP)
        session.nodes.put("/g/sub", GROUP)
    mount.refresh()
    now = look(mount.path)
    assert now["a/c/2/5"][2] == b"theirs"
    assert {path for path in now if path.startswith(("a/c/2", "g"))} == {
        "a/c/2", "a/c/2/5", "g", "g/zarr.json", "g/sub", "g/sub/zarr.json",
    }  # fmt: skip
    inos = [ino for ino, _, _ in now.values()]
    assert len(set(inos)) == len(inos)
    changed = {"a", "a/c"}  # the directories above what others changed have its time
    assert {path: seen for path, seen in now.items() if path in before and path not in changed} == {
        path: seen for path, seen in before.items() if path not in changed
    }


def test_what_others_change_in_renamed_directories_is_seen_and_the_rest_stays(branch):
    mount, repository = branch
    (mount / "a/c/2").rename(mount / "a/c/7")
    (mount / "g").rename(mount / "h")
    before = look(mount.path)
    commit(mount)
    with repository.transaction("main", message="theirs") as session:
        session.chunks.set("/a", (7, 2), b"theirs")
        session.chunks.delete("/a", ChunkIndices.from_indices(2, [(3, 2)]))
        session.chunks.set("/h/sub/b", (2, 3), b"theirs, too")
    mount.refresh()
    changed = {"a/c/7/2", "h/sub/b/c/2/3"}
    gone = {"a/c/3", "a/c/3/2"}
    assert {path: (mount / path).stat().st_ino for path in changed}.items().isdisjoint(
        {path: ino for path, (ino, _, _) in before.items()}.items()
    )
    assert not any((mount / path).exists() for path in gone)
    now = look(mount.path)
    assert now.keys() == before.keys() - gone
    assert now["a/c/7/2"][2] == b"theirs"
    assert now["h/sub/b/c/2/3"][2] == b"theirs, too"
    above = {os.path.dirname(path) for path in (*changed, *gone)}
    while parents := {os.path.dirname(path) for path in above} - above:
        above |= parents
    for path, seen in now.items():
        if path in above:
            assert seen[0] == before[path][0], path
        elif path not in changed:
            assert seen == before[path], path


def test_a_commit_of_others_in_between_does_not_change_what_stays(branch):
    mount, repository = branch
    (mount / "a/c/2").rename(mount / "a/c/7")
    (mount / "g/sub").rename(mount / "s")
    before = look(mount.path)
    with repository.transaction("main", message="theirs") as session:
        session.chunks.set("/a", (8, 8), b"theirs")
    told = mount.rpc({"op": "commit", "message": "ours", "rebase": "fail"})[-1]
    assert told["type"] == "result", told
    now = look(mount.path)
    assert now["a/c/8/8"][2] == b"theirs"
    assert {path: seen for path, seen in now.items() if seen[2] is not None and not path.startswith("a/c/8")} == {
        path: seen for path, seen in before.items() if seen[2] is not None
    }
    assert {path: now[path][0] for path in before} == {path: ino for path, (ino, _, _) in before.items()}


def test_stat_tells_of_what_others_wrote_over_what_was_committed_here(branch):
    mount, repository = branch
    (mount / "a/c/5").mkdir()
    (mount / "a/c/5/5").write_bytes(b"ours")
    (mount / "a/c/6").mkdir()
    (mount / "a/c/6/6").write_bytes(b"ours")
    before = (mount / "a/c/5/5").stat()
    commit(mount)
    assert (mount / "a/c/5/5").stat() == before
    with repository.transaction("main", message="theirs") as session:
        session.chunks.set("/a", (5, 5), b"longer than it was")
        session.chunks.delete("/a", ChunkIndices.from_indices(2, [(6, 6)]))
    mount.refresh()
    assert (mount / "a/c/5/5").stat().st_size == len(b"longer than it was")
    assert not (mount / "a/c/6/6").exists()
    assert not (mount / "a/c/6").exists()


def test_pages_of_a_renamed_directory_stay_in_the_cache(branch):
    mount, _ = branch
    (mount / "a/c/2").rename(mount / "a/c/7")
    (mount / "g").rename(mount / "h")
    look(mount.path)
    commit(mount)
    before = mount.requests()
    files = files_of(look(mount.path))
    after = mount.requests()
    assert files["h/sub/b/c/2/3"] == b"/g/sub/b (2, 3)"
    # A few requests are those of the statistics themselves.
    assert after["read"] - before["read"] < len(files) - 2
    assert after["lookup"] - before["lookup"] < len(files) - 2


def test_a_directory_that_may_have_chunks_of_two_arrays_keeps_what_it_has(tmp_path):
    repository = WritableRepository.create(LocalStorage(str(tmp_path / "repo")))
    inner = loose_array_json(SHAPE, CHUNK, encoding=("v2", "/"))
    with repository.transaction("main", message="start") as session:
        session.nodes.put("/", GROUP)
        session.nodes.put("/a", loose_array_json(SHAPE, CHUNK))
        session.nodes.put("/a/c", inner)
        for path, index in (("/a", (3, 3)), ("/a/c", (2, 3)), ("/a/c", (2, 4))):
            session.chunks.set(path, index, f"{path} {index}".encode())
    with mounted(tmp_path / "repo", branch="main") as mount:
        look(mount.path)
        (mount / "a/c/2").rename(mount / "a/c/7")
        before = look(mount.path)
        assert before["a/c/7/3"][2] == b"/a/c (2, 3)"
        commit(mount)
        assert look(mount.path) == before
