"""Clone, pull and push by the Python API."""

import asyncio

import pytest
import zarr

import icefs


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def repo(request):
    repo = icefs.Repository.create(icefs.in_memory_storage(), spec_version=request.param)
    with repo.transaction("main", message="start") as store:
        zarr.create_array(store, name="a", shape=(400,), chunks=(100,), dtype="f8", fill_value=0)
    repo.create_branch("dev", repo.lookup_branch("main"))
    write(repo, "main", 1)
    repo.create_tag("v1", repo.lookup_branch("main"))
    return repo


def write(repo, branch, value):
    session = repo.writable_session(branch)
    zarr.open_array(session.store, path="a")[:100] = value
    return session.commit(str(value))


def history(repo, branch):
    return [info.id for info in repo.ancestry(branch=branch)]


def test_a_clone_that_pulls_and_pushes(repo):
    place = icefs.in_memory_storage()
    assert repo.clone(place, dry_run=True).objects > 5
    done = repo.clone(place, verify=True)
    assert done.compared_objects == done.objects == done.copied_objects
    assert {(each.kind, each.name, each.action) for each in done.refs} == {
        ("branch", "main", "created"), ("branch", "dev", "created"), ("tag", "v1", "created"),
    }  # fmt: skip
    copy = icefs.Repository.open(place)
    assert history(copy, "main") == history(repo, "main")

    tip = write(repo, "main", 2)
    [ref] = asyncio.run(copy.pull_async(repo, branches=["main"])).refs
    assert (ref.action, ref.snapshot_id) == ("forwarded", tip)
    own = write(copy, "dev", 3)
    [ref] = copy.push(repo, branches={"dev": "theirs"}).refs
    assert (ref.source_name, ref.name, ref.action, ref.previous_id) == ("dev", "theirs", "created", None)
    assert repo.lookup_branch("theirs") == own
    assert zarr.open_array(repo.readonly_session("theirs").store, path="a", mode="r")[0] == 3


def test_branches_that_would_lose_commits(repo):
    place = icefs.in_memory_storage()
    repo.clone(place, tags=["v1"], depth=1)
    copy = icefs.Repository.open(place)
    assert copy.list_tags() == {"v1"}
    assert len(list(copy.ancestry(tag="v1"))) == 2
    copy.reset_branch("main", copy.lookup_tag("v1"))
    write(copy, "main", 4)
    write(repo, "main", 5)
    done = copy.pull(repo)
    assert [(each.name, each.action) for each in done.refused] == [("main", "refused")]
    assert "would lose them" in done.refused[0].reason
    assert copy.list_branches() == {"main", "dev"}
    with pytest.raises(icefs.IcechunkError, match="no branch nothing"):
        copy.pull(repo, branches=["nothing"])
