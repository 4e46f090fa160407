"""Merge, cherry-pick, revert and restore by the Python API."""

import asyncio

import pytest
import zarr

import icefs
from icefs.errors import ChunkNotFoundError


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def repo(request):
    repo = icefs.Repository.create(icefs.in_memory_storage(), spec_version=request.param)
    with repo.transaction("main", message="start") as store:
        group = zarr.open_group(store)
        group.create_array("g/a", shape=(4,), chunks=(1,), dtype="i4", fill_value=0)
    repo.create_branch("dev", repo.lookup_branch("main"))
    return repo


def write(repo, branch, at, value, path="g/a"):
    session = repo.writable_session(branch)
    zarr.open_array(session.store, path=path)[at] = value
    return session.commit(f"{value} at {at}")


def values(repo, ref="main", path="g/a"):
    return zarr.open_array(repo.readonly_session(ref).store, path=path, mode="r")[:].tolist()


def test_a_merge(repo):
    incoming = write(repo, "dev", 1, 10)
    before = write(repo, "main", 2, 20)
    dry = repo.merge("dev", dry_run=True)
    assert (dry.snapshot_id, dry.chunks, repo.lookup_branch("main")) == (None, 1, before)
    done = repo.merge("dev", metadata={"by": "me"})
    assert (done.previous_id, done.incoming_id, done.snapshot_id) == (before, incoming, repo.lookup_branch("main"))
    assert values(repo) == [0, 10, 20, 0]
    info = repo.lookup_snapshot(done.snapshot_id)
    assert (info.message, info.metadata["by"]) == ("Merge dev into main", "me")
    assert not asyncio.run(repo.merge_async("dev")).is_new


def test_conflicts_have_paths_chunks_and_sides(repo):
    write(repo, "dev", 1, 10)
    write(repo, "main", 1, 20)
    with pytest.raises(icefs.RebaseFailedError) as caught:
        repo.merge("dev")
    (conflict,) = caught.value.conflicts
    assert (conflict.conflict_type, conflict.path) == (icefs.ConflictType.ChunkDoubleUpdate, "/g/a")
    assert conflict.conflicted_chunks == [[1]]
    assert repo.merge("dev", dry_run=True).conflicts == [conflict]
    assert repo.merge("dev", side=icefs.VersionSelection.UseTheirs).settled == [conflict]
    assert values(repo) == [0, 10, 0, 0]


def test_picked_and_reverted_commits(repo):
    ids = [write(repo, "dev", at, at * 10) for at in (1, 2, 3)]
    done = repo.cherry_pick(ids[2], ids[0])
    assert [one.chunks for one in done] == [1, 1]
    assert [info.message for info in repo.log("main")][:2] == ["10 at 1", "30 at 3"]
    repo.revert(ids[0], branch="dev")
    assert values(repo, "dev") == [0, 0, 20, 30]
    write(repo, "main", 2, 21)
    with pytest.raises(icefs.RebaseFailedError) as caught:
        repo.cherry_pick(ids[1], ids[0])
    assert (caught.value.facts["made"], caught.value.facts["remain"]) == ([], [ids[1], ids[0]])


def test_a_restored_chunk_array_and_group(repo):
    write(repo, "main", slice(None), 1)
    repo.create_tag("good", repo.lookup_branch("main"))
    write(repo, "main", slice(0, 2), 2)
    done = repo.restore("g/a/c/1", "good")
    assert (done.chunks, done.nodes) == (1, 0)
    assert values(repo) == [2, 1, 1, 1]
    assert repo.log("main")[0].message == "Restore g/a/c/1 from good"
    assert repo.restore("g/a", "good", dry_run=True).chunks == 1
    with repo.transaction("main", message="gone") as store:
        group = zarr.open_group(store)
        del group["g"]
        group.create_array("g/new", shape=(1,), chunks=(1,), dtype="i4")
    asyncio.run(repo.restore_async("/g", "good"))
    assert values(repo) == [1, 1, 1, 1]
    assert "new" not in zarr.open_group(repo.readonly_session("main").store, mode="r")["g"]
    assert not repo.restore("", "main").is_new


def test_nothing_to_restore(repo):
    for path, error in (
        ("nothing", icefs.NodeNotFoundError),
        ("g/a/c/3", ChunkNotFoundError),
        ("g/a/zarr.json", icefs.InvalidInputError),
    ):
        with pytest.raises(error):
            repo.restore(path, "main")
