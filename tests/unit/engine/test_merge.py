"""Merges, picked commits and reverted ones: what they commit, what conflicts, and what the metadata say."""

import numpy as np
import pytest

from icefs.engine.history.origins import origin_of
from icefs.engine.merge.operations import Way, cherry_pick, merge, revert
from icefs.engine.write.conflicts import ConflictType, VersionSelection
from icefs.engine.write.repository import WritableRepository
from icefs.errors import InvalidInputError, RebaseFailedError
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.ids import INITIAL_SNAPSHOT_ID, SnapshotId
from icefs.format.manifest.refs import ArrayRefs, ChunkKind
from icefs.paths import NodePath
from icefs.storage.memory import MemoryStorage
from tests.support.transactions import GROUP, array, chunks_of, commit_start

MAIN = Way("main")
A = NodePath("/a")


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def repo(request: pytest.FixtureRequest) -> WritableRepository:
    made = WritableRepository.create(MemoryStorage(), spec_version=request.param)
    made.create_branch("dev", commit_start(made))
    return made


def write(repo: WritableRepository, branch: str, *indices: tuple[int, int], data: bytes = b"new") -> SnapshotId:
    session = repo.writable_session(branch)
    for index in indices:
        session.chunks.set(A, index, data)
    return session.commit(f"write {branch}")


def conflicts(repo: WritableRepository) -> list[tuple[str, str]]:
    with pytest.raises(RebaseFailedError) as caught:
        merge(repo, "dev", MAIN)
    return [(one.conflict_type.name, one.path) for one in caught.value.conflicts]


def test_a_merge_copies_no_chunk_and_says_where_it_came_from(repo: WritableRepository):
    tip = write(repo, "dev", (1, 1), data=b"d" * 600)
    write(repo, "main", (2, 2))
    objects = {info.key for info in repo.storage.iter_objects("chunks/")}
    done = merge(repo, "dev", MAIN)
    assert {info.key for info in repo.storage.iter_objects("chunks/")} == objects
    assert (done.nodes, done.chunks) == (0, 1)
    chunks = chunks_of(repo)
    assert chunks[1, 1] == b"d" * 600
    assert chunks[2, 2] == b"new"
    info = repo.lookup_snapshot(repo.lookup_branch("main"))
    origin = origin_of(info.metadata)
    assert origin is not None
    assert (origin.kind, origin.snapshot_id, origin.ref) == ("merge", tip, "dev")
    assert info.message == "Merge dev into main"
    assert not merge(repo, "dev", MAIN).is_new


def test_a_second_merge_begins_at_the_first_one(repo: WritableRepository):
    write(repo, "dev", (1, 1), data=b"one")
    write(repo, "main", (2, 2))
    merge(repo, "dev", MAIN)
    write(repo, "main", (1, 1), data=b"mine")
    write(repo, "dev", (0, 1))
    merge(repo, "dev", MAIN)
    assert chunks_of(repo)[1, 1] == b"mine"
    assert chunks_of(repo)[0, 1] == b"new"
    merge(repo, "main", Way("dev"))
    assert chunks_of(repo, branch="dev") == chunks_of(repo)
    assert not merge(repo, "dev", MAIN).chunks


def crossed(repo: WritableRepository, *, dev: tuple[int, int] = (1, 1)) -> None:
    """Each branch writes a chunk, and then merges what the other one was before."""
    main = write(repo, "main", (0, 0), data=b"m")
    tip = write(repo, "dev", dev, data=b"d")
    merge(repo, str(tip), MAIN)
    merge(repo, str(main), Way("dev"))


@pytest.mark.parametrize("way", ["main", "dev"])
@pytest.mark.parametrize("changed", ["main", "dev"])
@pytest.mark.parametrize(("chunk", "data"), [((0, 0), b"old"), ((1, 1), b"old"), ((0, 0), b"x"), ((1, 1), b"x")])
def test_no_merge_of_branches_that_crossed_undoes_a_change(repo: WritableRepository, way, changed, chunk, data):
    write(repo, "main", (0, 0), (1, 1), data=b"old")
    repo.reset_branch("dev", repo.lookup_branch("main"))
    crossed(repo)
    write(repo, changed, chunk, data=data)
    before = {branch: chunks_of(repo, branch=branch) for branch in ("main", "dev")}
    other = {"main": "dev", "dev": "main"}[way]
    refused = ""
    try:
        merge(repo, other, Way(way))
    except (InvalidInputError, RebaseFailedError) as error:
        refused = error.kind
    if refused:
        assert refused in ("several-common-ancestors", RebaseFailedError("").kind)
        assert {branch: chunks_of(repo, branch=branch) for branch in ("main", "dev")} == before
    else:
        assert chunks_of(repo, branch=way)[chunk] == data


def test_branches_that_crossed_are_merged_where_the_result_is_one(repo: WritableRepository):
    crossed(repo)
    write(repo, "dev", (3, 3), data=b"more")
    merge(repo, "dev", MAIN)
    assert chunks_of(repo) == chunks_of(repo, branch="dev")
    assert chunks_of(repo)[3, 3] == b"more"


def test_a_chunk_that_both_wrote_conflicts_until_a_side_is_chosen(repo: WritableRepository):
    write(repo, "dev", (1, 1), (1, 2), data=b"dev")
    write(repo, "main", (1, 1), data=b"main")
    assert conflicts(repo) == [("ChunkDoubleUpdate", "/a")]
    dry = merge(repo, "dev", Way("main", dry_run=True))
    assert [list(one.chunks or ()) for one in dry.conflicts] == [[(1, 1)]]
    merge(repo, "dev", Way("main", VersionSelection.UseOurs))
    assert (chunks_of(repo)[1, 1], chunks_of(repo)[1, 2]) == (b"main", b"dev")


def test_the_other_side_counts_with_theirs(repo: WritableRepository):
    write(repo, "dev", (1, 1), data=b"dev")
    write(repo, "main", (1, 1), data=b"main")
    done = merge(repo, "dev", Way("main", VersionSelection.UseTheirs))
    assert [one.conflict_type for one in done.settled] == [ConflictType.ChunkDoubleUpdate]
    assert chunks_of(repo)[1, 1] == b"dev"


def test_equal_changes_of_both_sides_do_not_conflict(repo: WritableRepository):
    for branch in ("dev", "main"):
        session = repo.writable_session(branch)
        session.nodes.put(A, array([8, 8], [2, 2], units="K"))
        session.nodes.put(NodePath("/g"), GROUP)
        session.chunks.set(A, (1, 1), b"same")
        session.commit("both")
    assert merge(repo, "dev", MAIN).chunks == 0


def test_two_arrays_at_one_path_conflict(repo: WritableRepository):
    for branch in ("dev", "main"):
        session = repo.writable_session(branch)
        session.nodes.put(NodePath("/b"), array([4], [2]))
        session.commit("both")
    assert conflicts(repo) == [("NewNodeConflictsWithExistingNode", "/b")]


def test_attributes_of_one_side_go_with_chunks_of_the_other_and_a_shape_does_not(repo: WritableRepository):
    session = repo.writable_session("dev")
    session.nodes.put(A, array([8, 8], [2, 2], units="K"))
    session.commit("attributes")
    write(repo, "main", (1, 1))
    merge(repo, "dev", MAIN)
    assert b"units" in repo.readonly_session("main").node(A).user_data
    session = repo.writable_session("dev")
    session.nodes.put(A, array([4, 8], [2, 2], units="K"))
    session.commit("smaller")
    write(repo, "main", (1, 2))
    assert conflicts(repo) == [("ChunksUpdatedInUpdatedArray", "/a")]


def test_a_node_made_in_a_group_that_the_other_side_deleted_conflicts(repo: WritableRepository):
    session = repo.writable_session("main")
    session.nodes.put(NodePath("/g"), GROUP)
    merge_base = session.commit("group")
    repo.reset_branch("dev", merge_base)
    for branch in ("main", "dev"):
        session = repo.writable_session(branch)
        if branch == "dev":
            session.nodes.put(NodePath("/g/x"), array([4], [2]))
        else:
            session.nodes.delete(NodePath("/g"))
        session.commit("change")
    assert conflicts(repo) == [("NewNodeInInvalidGroup", "/g")]


def test_a_commit_is_picked_once(repo: WritableRepository):
    picked = write(repo, "dev", (1, 1))
    write(repo, "dev", (1, 2))
    done = cherry_pick(repo, picked, MAIN)
    assert chunks_of(repo)[1, 1] == b"new"
    assert (1, 2) not in chunks_of(repo)
    assert done.snapshot_id is not None
    origin = origin_of(repo.lookup_snapshot(done.snapshot_id).metadata)
    assert origin is not None
    assert (origin.kind, origin.snapshot_id) == ("cherry_pick", picked)
    assert cherry_pick(repo, picked, MAIN).snapshot_id is None
    assert merge(repo, "dev", MAIN).chunks == 1


def test_a_revert_takes_back_what_a_commit_did(repo: WritableRepository):
    before = chunks_of(repo)
    wrong = write(repo, "main", (0, 0), (1, 1), data=b"wrong")
    later = write(repo, "main", (2, 2))
    done = revert(repo, wrong, MAIN)
    assert chunks_of(repo) == {**before, (2, 2): b"new"}
    assert done.snapshot_id is not None
    assert repo.lookup_snapshot(done.snapshot_id).message == 'Revert "write main"'
    write(repo, "main", (2, 2), data=b"newer")
    with pytest.raises(RebaseFailedError, match="ChunkDoubleUpdate at /a"):
        revert(repo, later, MAIN)


def test_the_first_commit_can_be_neither_picked_nor_reverted(repo: WritableRepository):
    for do in (cherry_pick, revert):
        with pytest.raises(InvalidInputError, match="has no parent"):
            do(repo, INITIAL_SNAPSHOT_ID, MAIN)


def test_moves_are_merged_alone():
    repo = WritableRepository.create(MemoryStorage())
    repo.create_branch("dev", commit_start(repo))
    session = repo.rearrange_session("dev")
    session.nodes.move(A, NodePath("/z"))
    session.commit("move")
    write(repo, "main", (1, 1))
    merge(repo, "dev", MAIN)
    assert chunks_of(repo, "/z")[1, 1] == b"new"
    session = repo.writable_session("dev")
    session.chunks.set(NodePath("/z"), (2, 2), b"more")
    session.commit("after")
    merge(repo, "dev", MAIN)
    assert chunks_of(repo, "/z")[2, 2] == b"more"


def test_metadata_that_name_nothing_count_for_nothing(repo: WritableRepository):
    session = repo.writable_session("main")
    session.chunks.set(A, (1, 0), b"x")
    session.commit("forged", {"icefs": {"merge": {"snapshot_id": "1CECHNKREP0F1RSTCMTZ"}}})
    for wrong in ({"icefs": 3}, {"icefs": {"merge": []}}, {"icefs": {"merge": {"snapshot_id": "no id"}}}):
        assert origin_of(wrong) is None
    write(repo, "dev", (1, 1))
    assert merge(repo, "dev", MAIN).chunks == 1


def test_a_hundred_thousand_chunks_are_merged_as_columns():
    repo = WritableRepository.create(MemoryStorage())
    session = repo.writable_session("main")
    session.nodes.put(NodePath("/"), GROUP)
    session.nodes.put(A, array([100_000], [1]))
    repo.create_branch("dev", session.commit("start"))
    count = 100_000
    session = repo.writable_session("dev")
    refs = ArrayRefs(
        session.node(A).id,
        ChunkIndices([np.arange(count, dtype=np.uint32)]),
        np.full(count, ChunkKind.NATIVE, np.uint8),
        np.full(count, 8, np.uint64),
        np.arange(count, dtype=np.uint64) * 8,
        np.full((count, 12), 7, np.uint8),
    )
    repo.storage.put("chunks/0W3GE1R70W3GE1R70W3G", b"x" * 8 * count)
    session.chunks.set_refs(A, refs)
    session.commit("all")
    assert merge(repo, "dev", MAIN).chunks == count
    assert repo.readonly_session("main").array_chunks(A).num_chunks == count
