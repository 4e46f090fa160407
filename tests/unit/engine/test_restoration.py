"""Restored chunks, arrays and groups: what comes back, what goes, and which ids nodes have."""

import pytest

from icefs.engine.history.origins import origin_of
from icefs.engine.merge.operations import Way, restore
from icefs.engine.merge.restoration import Wanted
from icefs.engine.write.repository import WritableRepository
from icefs.errors import ChunkNotFoundError, InvalidInputError, NodeNotFoundError
from icefs.paths import NodePath
from icefs.storage.memory import MemoryStorage
from tests.support.transactions import GROUP, array, chunks_of, commit_start

MAIN = Way("main")
A = NodePath("/a")


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def repo(request):
    made = WritableRepository.create(MemoryStorage(), spec_version=request.param)
    commit_start(made)
    made.create_tag("good", made.lookup_branch("main"))
    return made


def change(repo, *, nodes=(), deleted=(), chunks=()):
    session = repo.writable_session("main")
    for path in deleted:
        session.nodes.delete(NodePath(path))
    for path, data in nodes:
        session.nodes.put(NodePath(path), data)
    for path, index, data in chunks:
        session.chunks.set(NodePath(path), index, data)
    return session.commit("change")


def wanted(path, chunk=None):
    return Wanted(NodePath(path), chunk, path.strip("/"))


def tree(repo):
    nodes = list(repo.readonly_session("main").list_nodes())
    chunks = {node.path: chunks_of(repo, node.path) for node in nodes if node.array is not None}
    return {node.path: node.user_data for node in nodes}, chunks


def test_an_array_is_as_it_was_and_stores_nothing(repo):
    before = tree(repo)
    change(repo, nodes=[("/a", array([8, 8], [2, 2], units="K"))], chunks=[("/a", (0, 0), b"x"), ("/a", (3, 3), b"x")])
    stored = {info.key for info in repo.storage.iter_objects("chunks/")}
    done = restore(repo, "good", wanted("/a"), MAIN)
    assert tree(repo) == before
    assert {info.key for info in repo.storage.iter_objects("chunks/")} == stored
    assert (done.nodes, done.chunks) == (1, 2)
    origin = origin_of(repo.lookup_snapshot(done.snapshot_id).metadata)
    assert (origin.kind, origin.snapshot_id) == ("restore", repo.lookup_tag("good"))
    assert restore(repo, "good", wanted("/a"), MAIN).snapshot_id is None


def test_a_deleted_array_comes_back_with_its_id(repo):
    before = tree(repo)
    node_id = repo.readonly_session("main").node(A).id
    change(repo, deleted=["/a"])
    restore(repo, "good", wanted("/a"), MAIN)
    assert tree(repo) == before
    assert repo.readonly_session("main").node(A).id == node_id


def test_an_array_that_took_the_place_goes(repo):
    before = tree(repo)
    change(repo, deleted=["/a"])
    change(repo, nodes=[("/a", array([4], [2]))], chunks=[("/a", (1,), b"other")])
    restore(repo, "good", wanted("/"), MAIN)
    assert tree(repo) == before


def test_an_array_that_was_moved_stays_where_it_is(repo):
    if repo.spec_version == 1:
        return
    chunks = chunks_of(repo)
    session = repo.rearrange_session("main")
    session.nodes.move(A, NodePath("/z"))
    session.commit("move")
    restore(repo, "good", wanted("/a"), MAIN)
    assert chunks_of(repo) == chunks_of(repo, "/z") == chunks
    session = repo.readonly_session("main")
    assert session.node(A).id != session.node(NodePath("/z")).id


def test_a_grid_that_was_smaller_meanwhile_hides_nothing(repo):
    before = tree(repo)
    change(repo, chunks=[("/a", (3, 3), b"x")])
    change(repo, nodes=[("/a", array([2, 2], [2, 2]))])
    restore(repo, "good", wanted("/a"), MAIN)
    assert tree(repo) == before


def test_groups_above_come_back(repo):
    change(repo, nodes=[("/g", GROUP), ("/g/h", GROUP), ("/g/h/b", array([4], [2]))], chunks=[("/g/h/b", (1,), b"b")])
    there = tree(repo)
    repo.create_tag("more", repo.lookup_branch("main"))
    change(repo, deleted=["/g"])
    restore(repo, "more", wanted("/g/h/b"), MAIN)
    assert tree(repo) == there
    change(repo, deleted=["/g/h"])
    change(repo, nodes=[("/g/h", array([4], [2]))])
    with pytest.raises(InvalidInputError, match="/g/h is an array now"):
        restore(repo, "more", wanted("/g/h/b"), MAIN)


def test_one_chunk(repo):
    before = chunks_of(repo)
    index = next(iter(before))
    change(repo, chunks=[("/a", index, b"x"), ("/a", (3, 3), b"y")])
    assert restore(repo, "good", wanted("/a", index), MAIN).chunks == 1
    assert chunks_of(repo) == {**before, (3, 3): b"y"}
    with pytest.raises(ChunkNotFoundError):
        restore(repo, "good", wanted("/a", (1, 1)), MAIN)
    change(repo, nodes=[("/a", array([8, 8], [4, 4]))])
    with pytest.raises(InvalidInputError) as caught:
        restore(repo, "good", wanted("/a", index), MAIN)
    assert caught.value.kind == "other-layout"


def test_a_scalar(repo):
    change(repo, nodes=[("/s", array([], []))], chunks=[("/s", (), b"1")])
    repo.create_tag("one", repo.lookup_branch("main"))
    change(repo, chunks=[("/s", (), b"2")])
    assert restore(repo, "one", wanted("/s"), Way("main", dry_run=True)).chunks == 1
    restore(repo, "one", wanted("/s"), MAIN)
    assert chunks_of(repo, "/s") == {(): b"1"}


def test_nothing_there(repo):
    with pytest.raises(NodeNotFoundError, match="nothing at /none"):
        restore(repo, "good", wanted("/none"), MAIN)
