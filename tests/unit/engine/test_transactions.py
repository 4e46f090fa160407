"""Sessions that write, in memory: commits, conflicts, rebases, and faults at every storage call."""

import dataclasses
import threading

import numpy as np
import pytest

from icefs.engine.history.changes import compare
from icefs.engine.write.conflicts import BasicConflictSolver, Conflict, ConflictDetector, ConflictType, VersionSelection
from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.session import WritableSession
from icefs.errors import (
    AlreadyExistsError,
    BranchMovedError,
    ConflictError,
    IcefsError,
    InvalidInputError,
    NothingToCommitError,
    ReadOnlyError,
    RebaseFailedError,
    RefNotFoundError,
    SessionStateError,
    UnsupportedSpecVersionError,
)
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.config.manifest import (
    ManifestConfig,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    ManifestSplittingConfig,
)
from icefs.format.config.values import RepositoryConfig
from icefs.format.ids import INITIAL_SNAPSHOT_ID, ChunkId, SnapshotId
from icefs.format.layout import chunk_key
from icefs.format.manifest.refs import ArrayRefs, ChunkKind
from icefs.format.repo.ops_log import RepoAvailability, RepoStatus
from icefs.storage.memory import MemoryStorage
from tests.support.faulty import FaultyStorage
from tests.support.transactions import GROUP, array, chunks_of, commit_start


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def repo(request: pytest.FixtureRequest) -> WritableRepository:
    return WritableRepository.create(MemoryStorage(), spec_version=request.param)


@pytest.fixture
def repo2() -> WritableRepository:
    return WritableRepository.create(MemoryStorage())


def test_a_commit_is_the_new_tip_and_ends_the_session(repo):
    first = commit_start(repo)
    assert repo.lookup_branch("main") == first
    assert chunks_of(repo) == {(0, 0): b"zero", (3, 3): b"x" * 600}
    session = repo.writable_session("main")
    session.chunks.set("/a", (0, 0), b"new")
    second = session.commit("second", {"by": "test"})
    assert session.read_only
    assert session.branch is None
    assert session.snapshot_id == second
    history = list(repo.ancestry(branch="main"))
    assert [(info.message, info.parent_id) for info in history] == [
        ("second", first), ("start", INITIAL_SNAPSHOT_ID), ("Repository initialized", None)
    ]  # fmt: skip
    assert history[0].metadata == {"by": "test"}
    with pytest.raises(SessionStateError) as raised:
        session.commit("again")
    assert raised.value.kind == "commit-not-allowed"
    with pytest.raises(ReadOnlyError):
        session.chunks.set("/a", (0, 0), b"late")


def test_nothing_is_visible_before_the_commit(repo):
    commit_start(repo)
    session = repo.writable_session("main")
    session.nodes.put("/b", array([4], [2]))
    session.chunks.set("/b", (1,), b"bb")
    session.nodes.delete("/a")
    assert [node.path for node in repo.readonly_session("main").list_nodes()] == ["/", "/a"]
    assert sorted(node.path for node in session.list_nodes()) == ["/", "/b"]
    assert session.children("/") == ["b"]
    assert session.chunk_type("/b", (1,)) is ChunkKind.INLINE
    status = session.status()
    assert (status.new_arrays, status.deleted_arrays) == ({"/b"}, {"/a"})
    session.draft.discard()
    assert not session.has_uncommitted_changes
    with pytest.raises(NothingToCommitError) as raised:
        session.commit("nothing")
    assert raised.value.kind == "no-changes-to-commit"
    session.commit("empty", allow_empty=True)


def test_the_log_says_what_changed_and_no_more(repo):
    commit_start(repo)
    session = repo.writable_session("main")
    session.nodes.put("/a", array([8, 8], [2, 2], units="m"))
    session.nodes.put("/g", GROUP)
    session.nodes.put("/g/gone", GROUP)
    session.nodes.delete("/g/gone")
    session.nodes.put("/", GROUP)  # the same bytes: no change
    session.chunks.delete("/a", ChunkIndices.from_indices(2, [(3, 3), (1, 1)]))
    second = session.commit("second")
    log = repo.assets.fetch_transaction_log(second)
    tip = repo.session_at(second)
    a, g = tip.node("/a").id, tip.node("/g").id
    assert (log.new_groups, log.updated_arrays, log.deleted_groups, log.updated_groups) == ((g,), (a,), (), ())
    assert set(log.updated_chunks) == {a}
    assert list(log.updated_chunks[a]) == [(1, 1), (3, 3)]
    assert chunks_of(repo) == {(0, 0): b"zero"}


def test_deleting_and_making_again_gives_a_new_node(repo):
    first = commit_start(repo)
    old = repo.session_at(first).node("/a")
    session = repo.writable_session("main")
    session.nodes.delete("/a")
    session.nodes.put("/a", GROUP)
    second = session.commit("now a group")
    log = repo.assets.fetch_transaction_log(second)
    new = repo.session_at(second).node("/a")
    assert new.id != old.id
    assert (log.deleted_arrays, log.new_groups) == ((old.id,), (new.id,))


def test_what_a_session_refuses(repo):
    commit_start(repo)
    session = repo.writable_session("main")
    for action, error, kind in [
        (lambda: session.nodes.put("/a", GROUP), AlreadyExistsError, "node-already-exists"),
        (lambda: session.nodes.put("/n", b"{}"), InvalidInputError, "bad-metadata"),
        (lambda: session.chunks.set("/a", (4, 0), b"1"), InvalidInputError, "invalid-chunk-index"),
        (lambda: session.chunks.set("/a", (0,), b"1"), InvalidInputError, "invalid-chunk-index"),
        (lambda: session.chunks.set("/a", (0, 0), b""), InvalidInputError, "zero-length-chunk"),
        (lambda: session.chunks.set("/", (0, 0), b"1"), InvalidInputError, "not-an-array"),
        (lambda: session.nodes.move("/a", "/b"), SessionStateError, "non-rearrange-session"),
        (lambda: repo.writable_session("nobody"), RefNotFoundError, "ref-not-found"),
    ]:
        with pytest.raises(error) as raised:
            action()
        assert raised.value.kind == kind
    assert not session.has_uncommitted_changes


def test_shrinking_forgets_chunks_that_growing_does_not_bring_back(repo):
    commit_start(repo)
    for shape in ([4, 4], [8, 8]):
        session = repo.writable_session("main")
        session.nodes.put("/a", array(shape, [2, 2]))
        session.commit("resize")
    assert chunks_of(repo) == {(0, 0): b"zero"}


def test_manifests_are_split_and_untouched_ones_kept():
    splitting = ManifestSplittingConfig([(ManifestSplitCondition.AnyArray(), [(ManifestSplitDimCondition.Axis(0), 2)])])
    config = RepositoryConfig(manifest=ManifestConfig(splitting=splitting))
    repo = WritableRepository.create(MemoryStorage(), config)
    session = repo.writable_session("main")
    session.nodes.put("/a", array([8], [1]))
    for index in range(8):
        session.chunks.set("/a", (index,), bytes([index + 1]))
    session.commit("all")
    before = {ref.extents: ref.manifest_id for ref in repo.readonly_session("main").node("/a").array.manifests}
    assert set(before) == {((0, 2),), ((2, 4),), ((4, 6),), ((6, 8),)}
    session = repo.writable_session("main")
    session.chunks.set("/a", (3,), b"new")
    session.chunks.delete("/a", ChunkIndices.from_indices(1, [(6,), (7,)]))
    session.commit("some")
    after = {ref.extents: ref.manifest_id for ref in repo.readonly_session("main").node("/a").array.manifests}
    assert set(after) == {((0, 2),), ((2, 4),), ((4, 6),)}
    assert after[((0, 2),)] == before[((0, 2),)]
    assert after[((2, 4),)] != before[((2, 4),)]
    # A coarser splitting rewrites nothing that it need not: old manifests that lie within one box stay.
    coarse = dataclasses.replace(config, manifest=ManifestConfig(splitting=ManifestSplittingConfig([])))
    coarse_repo = repo.reopen(coarse)
    session = coarse_repo.writable_session("main")
    session.chunks.set("/a", (0,), b"first")
    session.commit("coarse")
    assert len(repo.readonly_session("main").node("/a").array.manifests) == 1
    assert [data for _, data in sorted(chunks_of(repo).items())] == [
        b"first", b"\2", b"\3", b"new", b"\5", b"\6"
    ]  # fmt: skip


def test_many_references_at_once_are_listed_and_found(repo):
    session = repo.writable_session("main")
    node = session.nodes.put("/m", array([300, 300], [1, 1]))
    rows, columns = np.divmod(np.arange(90_000), 300)
    ids = np.arange(90_000 * 12, dtype=np.uint32).astype(np.uint8).reshape(-1, 12)
    for chunk_id in {row.tobytes() for row in ids}:
        repo.storage.put(chunk_key(ChunkId(chunk_id)), b"x" * 7)
    session.chunks.set_refs(
        "/m",
        ArrayRefs.from_columns(
            node.id, [rows, columns], kinds=ChunkKind.NATIVE, lengths=np.full(90_000, 7), chunk_ids=ids
        ),
    )
    session.chunks.set_ref("/m", (5, 5), None)
    session.chunks.delete_below("/m", (7,))
    assert session.array_chunks("/m").num_chunks == 90_000 - 301
    session.commit("many")
    chunks = repo.readonly_session("main").array_chunks("/m")
    assert chunks.num_chunks == 90_000 - 301
    assert chunks.find((5, 5)) is None
    assert chunks.find((7, 0)) is None
    assert chunks.length((8, 0)) == 7


def test_errors_about_many_chunks_name_the_first_bad_one(repo):
    session = repo.writable_session("main")
    node = session.nodes.put("/m", array([10, 10], [1, 1]))

    def refs(rows, columns, lengths):
        return ArrayRefs.from_columns(
            node.id, [rows, columns], kinds=ChunkKind.VIRTUAL, lengths=lengths, locations=["s3://b/x"] * len(rows)
        )

    with pytest.raises(InvalidInputError, match=r"chunk \[2, 3\] of /m is empty"):
        session.chunks.set_refs("/m", refs([1, 2, 9], [9, 3, 9], [4, 0, 4]))
    with pytest.raises(InvalidInputError, match=r"chunk \[3, 10\] is outside of the grid \[10, 10\] of /m") as caught:
        session.chunks.set_refs("/m", refs([1, 3, 9], [9, 10, 9], [4, 4, 4]))
    assert caught.value.facts["chunk_index"] == (3, 10)
    with pytest.raises(InvalidInputError, match=r"chunk \[10, 0\] is outside"):
        session.chunks.delete("/m", ChunkIndices.from_indices(2, [(9, 9), (10, 0)]))
    with pytest.raises(InvalidInputError, match=r"chunk \[10\] is outside"):
        session.chunks.delete("/m", ChunkIndices.from_indices(1, [(10,)]))
    assert not session.array_chunks("/m").num_chunks


# Conflicts.


def two_sessions(repo: WritableRepository) -> tuple[WritableSession, WritableSession]:
    session = repo.writable_session("main")
    session.nodes.put("/", GROUP)
    session.nodes.put("/g", GROUP)
    for name in ("a", "b", "c"):
        session.nodes.put(f"/{name}", array([8], [1]))
        session.chunks.set(f"/{name}", (0,), b"old")
    session.commit("base")
    return repo.writable_session("main"), repo.writable_session("main")


CASES = {
    "NewNodeConflictsWithExistingNode": (
        lambda s: s.nodes.put("/n", GROUP), lambda s: s.nodes.put("/n", GROUP)
    ),
    "NewNodeInInvalidGroup": (
        lambda s: s.nodes.put("/n", array([1], [1])), lambda s: s.nodes.put("/n/x", GROUP)
    ),
    "ZarrMetadataDoubleUpdate": (
        lambda s: s.nodes.put("/a", array([8], [1], k=1)), lambda s: s.nodes.put("/a", array([8], [1], k=2))
    ),
    "ZarrMetadataUpdateOfDeletedArray": (
        lambda s: s.nodes.delete("/a"), lambda s: s.nodes.put("/a", array([8], [1], k=2))
    ),
    "ZarrMetadataUpdateOfDeletedGroup": (
        lambda s: s.nodes.delete("/g"), lambda s: s.nodes.put("/g", GROUP + b" ")
    ),
    "ChunkDoubleUpdate": (
        lambda s: s.chunks.set("/a", (0,), b"theirs"), lambda s: s.chunks.set("/a", (0,), b"ours")
    ),
    "ChunksUpdatedInDeletedArray": (
        lambda s: s.nodes.delete("/a"), lambda s: s.chunks.set("/a", (1,), b"ours")
    ),
    "ChunksUpdatedInUpdatedArray": (
        lambda s: s.nodes.put("/a", array([8], [1], k=1)), lambda s: s.chunks.set("/a", (1,), b"ours")
    ),
    "DeleteOfUpdatedArray": (lambda s: s.chunks.set("/a", (1,), b"theirs"), lambda s: s.nodes.delete("/a")),
    "DeleteOfUpdatedGroup": (lambda s: s.nodes.put("/g", GROUP + b" "), lambda s: s.nodes.delete("/g")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_conflict_is_named_and_the_session_survives_it(repo, name):
    theirs, ours = two_sessions(repo)
    CASES[name][0](theirs)
    CASES[name][1](ours)
    base = ours.snapshot_id
    tip = theirs.commit("theirs")
    with pytest.raises(BranchMovedError) as moved:
        ours.commit("ours")
    assert (moved.value.facts["expected_parent"], moved.value.facts["actual_parent"]) == (str(base), str(tip))
    with pytest.raises(RebaseFailedError) as failed:
        ours.rebase(ConflictDetector())
    conflicts: list[Conflict] = failed.value.facts["conflicts"]
    assert [conflict.conflict_type for conflict in conflicts] == [ConflictType[name]]
    assert failed.value.facts["snapshot"] == str(tip)
    assert ours.snapshot_id == base
    assert ours.has_uncommitted_changes


def test_moves_cannot_be_rebased_over(repo2):
    _, ours = two_sessions(repo2)
    mover = repo2.rearrange_session("main")
    mover.nodes.move("/a", "/g/a")
    mover.commit("moved")
    ours.chunks.set("/b", (1,), b"ours")
    with pytest.raises(RebaseFailedError) as failed:
        ours.rebase(BasicConflictSolver())
    kinds = [conflict.conflict_type for conflict in failed.value.facts["conflicts"]]
    assert kinds == [ConflictType.MoveOperationCannotBeRebased]


@pytest.mark.parametrize(("side", "kept"), [("UseOurs", b"ours"), ("UseTheirs", b"theirs")])
def test_the_basic_solver_chooses_a_side_for_chunks(repo, side, kept):
    theirs, ours = two_sessions(repo)
    theirs.chunks.set("/a", (0,), b"theirs")
    theirs.chunks.set("/a", (1,), b"only theirs")
    ours.chunks.set("/a", (0,), b"ours")
    ours.chunks.set("/a", (2,), b"only ours")
    theirs.commit("theirs")
    ours.commit("ours", rebase_with=BasicConflictSolver(on_chunk_conflict=VersionSelection[side]))
    assert chunks_of(repo) == {(0,): kept, (1,): b"only theirs", (2,): b"only ours"}
    assert next(repo.ancestry(branch="main")).metadata == {"__icechunk": {"rebase_attempts": 1}}


def test_a_failed_rebase_stands_on_the_last_commit_without_conflicts(repo):
    theirs, ours = two_sessions(repo)
    ours.chunks.set("/a", (0,), b"ours")
    theirs.chunks.set("/b", (0,), b"theirs")
    harmless = theirs.commit("harmless")
    session = repo.writable_session("main")
    session.chunks.set("/a", (0,), b"theirs")
    session.commit("harmful")
    with pytest.raises(RebaseFailedError):
        ours.rebase(ConflictDetector())
    assert ours.snapshot_id == harmless
    ours.rebase(BasicConflictSolver())
    ours.commit("ours")
    assert chunks_of(repo)[(0,)] == b"ours"
    assert chunks_of(repo, "/b")[(0,)] == b"theirs"


# Moves, amends, detached snapshots.


def test_a_move_keeps_ids_and_chunks(repo2):
    commit_start(repo2)
    before = repo2.readonly_session("main").node("/a")
    session = repo2.rearrange_session("main")
    session.nodes.move("/a", "/b")
    session.nodes.move("/b", "/c")
    assert session.get_node("/a") is None
    assert session.children("/") == ["c"]
    for action, kind in [
        (lambda: session.nodes.move("/c", "/c/d"), "move-into-self-or-descendant"),
        (lambda: session.nodes.move("/c", "/x/d"), "move-destination-parent-missing"),
        (lambda: session.nodes.put("/g", GROUP), "rearrange-session-only"),
        (lambda: session.nodes.move("/nothing", "/x"), "node-not-found"),
    ]:
        with pytest.raises(IcefsError) as raised:
            action()
        assert raised.value.kind == kind
    tip = session.commit("moved")
    assert repo2.readonly_session("main").node("/c").id == before.id
    moves = repo2.assets.fetch_transaction_log(tip).moved_nodes
    assert [(move.from_path, move.to_path) for move in moves] == [("/a", "/c")]
    assert chunks_of(repo2, "/c") == {(0, 0): b"zero", (3, 3): b"x" * 600}


def test_an_amend_replaces_the_newest_commit(repo2):
    first = commit_start(repo2)
    session = repo2.writable_session("main")
    session.chunks.set("/a", (1, 1), b"one")
    amended = session.amend("start, better")
    history = list(repo2.ancestry(branch="main"))
    assert [info.message for info in history] == ["start, better", "Repository initialized"]
    log = repo2.assets.fetch_transaction_log(amended)
    assert list(log.updated_chunks[repo2.readonly_session("main").node("/a").id]) == [(0, 0), (1, 1), (3, 3)]
    assert first in repo2.assets.fetch_repo_info()[0].snapshots
    fresh = WritableRepository.create(MemoryStorage()).writable_session("main")
    fresh.nodes.put("/", GROUP)
    with pytest.raises(SessionStateError) as raised:
        fresh.amend("no")
    assert raised.value.kind == "no-amend-for-initial-commit"


def test_a_flush_leaves_the_branch_where_it_was(repo):
    first = commit_start(repo)
    session = repo.writable_session("main")
    session.chunks.set("/a", (1, 1), b"one")
    detached = session.flush("aside")
    assert repo.lookup_branch("main") == first
    assert repo.session_at(detached).chunk_ref("/a", (1, 1)).data == b"one"
    assert session.read_only


def test_spec_1_has_no_amend_and_no_moves():
    repo = WritableRepository.create(MemoryStorage(), spec_version=1)
    commit_start(repo)
    session = repo.writable_session("main")
    session.chunks.set("/a", (1, 1), b"one")
    with pytest.raises(UnsupportedSpecVersionError):
        session.amend("no")
    with pytest.raises(UnsupportedSpecVersionError):
        repo.rearrange_session("main")


# Refs and repository.


def test_refs_are_made_moved_and_deleted(repo):
    first = commit_start(repo)
    repo.create_branch("dev", first)
    repo.create_tag("v1", first)
    for action, error, kind in [
        (lambda: repo.create_branch("dev", first), AlreadyExistsError, "branch-already-exists"),
        (lambda: repo.create_tag("v1", first), AlreadyExistsError, "tag-already-exists"),
        (lambda: repo.delete_branch("main"), SessionStateError, "cannot-delete-main"),
        (lambda: repo.create_branch("x", SnapshotId.random()), IcefsError, "snapshot-not-found"),
    ]:
        with pytest.raises(error) as raised:
            action()
        assert raised.value.kind == kind
    repo.reset_branch("dev", INITIAL_SNAPSHOT_ID)
    with pytest.raises(ConflictError):
        repo.reset_branch("dev", first, expected=first)
    assert repo.lookup_branch("dev") == INITIAL_SNAPSHOT_ID
    repo.delete_branch("dev")
    repo.delete_tag("v1")
    assert (repo.list_branches(), repo.list_tags()) == ({"main"}, set())
    with pytest.raises(AlreadyExistsError) as raised:
        repo.create_tag("v1", first)
    assert raised.value.kind == "tag-previously-deleted"


def test_a_repository_that_is_not_online_takes_no_commits(repo2):
    commit_start(repo2)
    session = repo2.writable_session("main")
    session.chunks.set("/a", (1, 1), b"one")
    repo2.set_status(RepoStatus(RepoAvailability.read_only, 0, "moving house"))
    with pytest.raises(ReadOnlyError) as raised:
        session.commit("no")
    assert raised.value.kind == "read-only-repository"
    assert "moving house" in str(raised.value)
    repo2.set_status(RepoStatus(RepoAvailability.online, 0))
    session.commit("yes")


def test_metadata_and_configuration_are_kept(repo2):
    repo2.set_metadata({"owner": "us"})
    assert repo2.update_metadata({"since": 2026}) == {"owner": "us", "since": 2026}
    changed = repo2.reopen(RepositoryConfig(inline_chunk_threshold_bytes=3))
    changed.save_config()
    assert WritableRepository.open(repo2.storage).context.inline_threshold_bytes == 3


def test_configuration_of_spec_1_is_a_file():
    repo = WritableRepository.create(MemoryStorage(), spec_version=1)
    repo.reopen(RepositoryConfig(inline_chunk_threshold_bytes=3)).save_config()
    repo.reopen(RepositoryConfig(inline_chunk_threshold_bytes=4)).save_config()
    assert WritableRepository.open(repo.storage).context.inline_threshold_bytes == 4
    assert sum(1 for _ in repo.storage.iter_objects("overwritten/")) == 1


def test_a_transaction_commits_on_a_clean_exit_only(repo):
    with repo.transaction("main", message="good") as session:
        session.nodes.put("/", GROUP)
    with pytest.raises(InvalidInputError), repo.transaction("main", message="bad") as session:
        session.nodes.put("/x", b"no metadata")
    assert next(repo.ancestry(branch="main")).message == "good"


def test_creating_twice_is_refused():
    storage = MemoryStorage()
    WritableRepository.create(storage)
    with pytest.raises(InvalidInputError) as raised:
        WritableRepository.create(storage)
    assert raised.value.kind == "parent-directory-not-clean"
    with pytest.raises(ConflictError) as conflict:
        WritableRepository.create(storage, check_clean_root=False)
    assert conflict.value.kind == "repo-info-updated"


# Faults.


def test_cuts_of_old_manifests_do_not_hide_those_that_are_kept():
    """Boxes of 3 become boxes of 5: in [5, 10) the middle manifest stays, between cuts of its neighbours."""
    repo = WritableRepository.create(MemoryStorage(), split_by(3))
    session = repo.writable_session("main")
    session.nodes.put("/a", array([12], [1]))
    for index in range(12):
        session.chunks.set("/a", (index,), bytes([index + 1]))
    session.commit("by three")
    session = repo.reopen(split_by(5)).writable_session("main")
    session.chunks.set("/a", (0,), b"new")
    session.commit("by five")
    extents = sorted(ref.extents for ref in repo.readonly_session("main").node("/a").array.manifests)
    assert extents == [((0, 5),), ((5, 6),), ((6, 9),), ((9, 10),), ((10, 12),)]
    assert chunks_of(repo) == {(0,): b"new"} | {(index,): bytes([index + 1]) for index in range(1, 12)}


def split_by(size: int) -> RepositoryConfig:
    rule = (ManifestSplitCondition.AnyArray(), [(ManifestSplitDimCondition.Axis(0), size)])
    return RepositoryConfig(manifest=ManifestConfig(splitting=ManifestSplittingConfig([rule])))


def test_a_commit_takes_few_requests_and_what_it_wrote_is_read_without_any():
    storage = FaultyStorage(MemoryStorage())
    repo = WritableRepository.create(storage)
    before = repo.session_at(commit_start(repo))
    session = repo.writable_session("main")
    session.chunks.set("/a", (1, 1), b"tiny")
    before.array_chunks("/a").find((0, 0))
    storage.clear()
    new = session.commit("few")
    asked = [(call.method, call.key.partition("/")[0]) for call in storage.calls if call.method != "sync"]
    assert asked[0] == ("get_if_changed", "repo")
    assert sorted(asked[1:3]) == [("put", "manifests"), ("put", "transactions")]
    assert sorted(asked[3:5]) == [("head", "transactions"), ("put", "snapshots")]
    assert asked[5:] == [("copy", "repo"), ("put", "repo")]

    storage.clear()
    after = repo.session_at(new)
    assert after.read_chunk(after.array_chunks("/a").find((1, 1))) == b"tiny"
    assert list(compare(before, after).chunks["/a"]) == [(1, 1)]
    assert not storage.calls
    other = WritableRepository.open(storage)
    assert chunks_of(other) == {(0, 0): b"zero", (1, 1): b"tiny", (3, 3): b"x" * 600}


@pytest.mark.parametrize("pair", [("manifests/", "transactions/"), ("snapshots/", "transactions/")])
def test_what_need_not_wait_for_each_other_does_not(pair):
    storage = FaultyStorage(MemoryStorage())
    repo = WritableRepository.create(storage)
    commit_start(repo)
    session = repo.writable_session("main")
    session.chunks.set("/a", (1, 1), b"tiny")
    both = threading.Barrier(2)
    first, second = pair
    storage.interfere(lambda: both.wait(20), methods="put", keys=first)
    storage.interfere(lambda: both.wait(20), methods="put" if first == "manifests/" else "head", keys=second)
    session.commit("at once")


def test_a_state_that_is_not_the_present_one_costs_one_more_look(repo2):
    """A commit begins with the state that it saw before it wrote; others may have changed it since."""
    commit_start(repo2)
    other = WritableRepository.open(repo2.storage)
    session = repo2.writable_session("main")
    session.chunks.set("/a", (1, 1), b"tiny")
    new = session.commit("mine", before_publish=lambda _: other.create_tag("theirs", other.lookup_branch("main")))
    assert repo2.lookup_branch("main") == new
    assert repo2.list_tags() == {"theirs"}
    session = repo2.writable_session("main")
    session.chunks.set("/a", (1, 1), b"late")

    def go_offline(_: SnapshotId) -> None:
        other.set_status(RepoStatus(RepoAvailability.read_only, 0, "moving"))

    with pytest.raises(ReadOnlyError, match="moving"):
        session.commit("too late", before_publish=go_offline)
