"""Forks of sessions, in memory and pickled, and merging what they changed."""

import json
import pickle
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from icefs.clock import system_clock
from icefs.engine.read.session import Session
from icefs.engine.upkeep.garbage import collect_garbage
from icefs.engine.write import forks
from icefs.engine.write.conflicts import ConflictDetector
from icefs.engine.write.pickling import WritableSessionPickledError, restore_session, session_state
from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.session import WritableSession
from icefs.errors import ReadOnlyError, SessionStateError, SnapshotNotFoundError
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.ids import ChunkId
from icefs.format.manifest.refs import ArrayRefs, ChunkKind, InlineRef, NativeRef, VirtualRef
from icefs.storage.memory import MemoryStorage

GROUP = b'{"zarr_format":3,"node_type":"group","attributes":{}}'

type Change = Callable[[WritableSession], object]


def array(shape: Sequence[int], **attributes: object) -> bytes:
    grid = {"name": "regular", "configuration": {"chunk_shape": [1] * len(shape)}}
    document = {"zarr_format": 3, "node_type": "array", "shape": list(shape), "chunk_grid": grid}
    return json.dumps(document | {"attributes": attributes}).encode()


def sent(session: Session) -> WritableSession:
    """Returns what another process would have of a fork."""
    restored = restore_session(*pickle.loads(pickle.dumps(session_state(session))))
    assert isinstance(restored, WritableSession)
    return restored


def contents(session: Session, path: str = "/a") -> dict[tuple[int, ...], object]:
    return {
        tuple(index): batch.ref(row)
        for batch in session.array_chunks(path).iter_batches()
        for row, index in enumerate(batch.indices().tolist())
    }


def inline(**chunks: bytes) -> dict[tuple[int, ...], object]:
    return {(int(name[1:]),): InlineRef(data) for name, data in chunks.items()}


def write(session: WritableSession, data: bytes, *positions: int, path: str = "/a") -> None:
    for position in positions:
        session.chunks.set(path, (position,), data)


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def repo(request: pytest.FixtureRequest) -> WritableRepository:
    repo = WritableRepository.create(MemoryStorage(), spec_version=request.param)
    session = repo.writable_session("main")
    session.nodes.put("/", GROUP)
    session.nodes.put("/g", GROUP)
    session.nodes.put("/a", array([6]))
    write(session, b"base", 0, 1)
    session.commit("base")
    return repo


# Forking.


def test_a_fork_sees_what_its_origin_has_changed_and_nothing_of_what_comes(repo: WritableRepository):
    session = repo.writable_session("main")
    assert forks.fork(session).snapshot_id == session.snapshot_id  # nothing to write
    write(session, b"origin", 1, 2)
    session.nodes.put("/new", array([3]))
    write(session, b"origin", 0, path="/new")
    objects = len(list(repo.storage.iter_objects()))
    fork = sent(forks.fork(session))
    assert len(list(repo.storage.iter_objects())) > objects
    assert [info.message for info in repo.ancestry(branch="main")] == ["base", "Repository initialized"]
    assert not fork.has_uncommitted_changes
    assert contents(fork) == inline(_0=b"base", _1=b"origin", _2=b"origin")
    write(session, b"later", 3)
    write(fork, b"fork", 0, path="/new")
    assert contents(fork, "/new") == inline(_0=b"fork")
    assert contents(session, "/new") == inline(_0=b"origin")
    assert contents(fork) == inline(_0=b"base", _1=b"origin", _2=b"origin")


def test_a_fork_of_a_fork_brings_all_home(repo: WritableRepository):
    session = repo.writable_session("main")
    parent = sent(forks.fork(session))
    write(parent, b"parent", 2)
    child = sent(forks.fork(parent))
    write(child, b"child", 3)
    assert contents(child) == inline(_0=b"base", _1=b"base", _2=b"parent", _3=b"child")
    forks.merge(parent, [sent(child)])
    forks.merge(session, [sent(parent)])
    session.commit("merged")
    assert contents(repo.readonly_session("main")) == contents(child)


@pytest.mark.parametrize(
    "publish",
    [
        lambda s: s.commit("x"),
        lambda s: s.flush("x"),
        lambda s: s.amend("x", allow_empty=True),
        lambda s: s.rebase(None),
    ],
    ids=["commit", "flush", "amend", "rebase"],
)
def test_a_fork_is_not_published(publish: Change, repo: WritableRepository):
    fork = forks.fork(repo.writable_session("main"))
    write(fork, b"x", 0)
    assert fork.draft.is_fork
    assert fork.branch is None
    with pytest.raises(SessionStateError) as caught:
        publish(fork)
    assert caught.value.kind == "commit-not-allowed"
    assert "merge" in (caught.value.hint or "")
    assert fork.has_uncommitted_changes


def test_what_only_reads_is_not_forked(repo: WritableRepository):
    session = repo.writable_session("main")
    session.commit("nothing", allow_empty=True)
    for reader in (session, repo.readonly_session("main")):
        with pytest.raises(SessionStateError) as caught:
            forks.fork(reader)
        assert caught.value.kind == "cannot-fork-read-only-session"
        with pytest.raises(ReadOnlyError):
            forks.merge(reader, [])


# Pickling.


def test_all_kinds_of_changes_survive_pickling(repo: WritableRepository):
    fork = forks.fork(repo.writable_session("main"))
    refs = {
        (0,): InlineRef(b"inline"),
        (2,): NativeRef(ChunkId.random(), 3, 4),
        (3,): VirtualRef("s3://bucket/a", 1, 2, etag="e"),
        (4,): VirtualRef("s3://bucket/b", 1, 2, last_modified=7),
    }
    for index, ref in refs.items():
        fork.chunks.set_ref("/a", index, ref)
    fork.chunks.set_ref("/a", (1,), None)
    fork.nodes.put("/n", array([2, 3]))
    fork.chunks.set_ref("/n", (1, 2), VirtualRef("s3://bucket/c", 0, 1))
    fork.nodes.put("/scalar", array([]))
    fork.chunks.set_ref("/scalar", (), InlineRef(b"scalar"))
    fork.nodes.put("/g", GROUP + b" ")
    copy = sent(sent(fork))
    assert copy.draft.is_fork
    for path in ("/a", "/n", "/scalar"):
        assert contents(copy, path) == contents(fork, path)
    assert contents(copy) == refs
    assert copy.status() == fork.status()
    assert sorted(copy.draft.nodes(), key=str) == sorted(fork.draft.nodes(), key=str)
    write(copy, b"more", 1)
    assert copy.array_chunks("/a").find((1,)) == InlineRef(b"more")
    assert fork.array_chunks("/a").find((1,)) is None


def test_only_references_are_pickled_and_compactly(repo: WritableRepository):
    session = repo.writable_session("main")
    node = session.nodes.put("/big", array([100_000]))
    fork = forks.fork(session)
    rows = np.arange(100_000)
    locations = [f"s3://b/{row}" for row in rows]
    refs = ArrayRefs.from_columns(node.id, [rows], kinds=ChunkKind.VIRTUAL, lengths=rows + 1, locations=locations)
    fork.chunks.set_refs("/big", refs)
    state = pickle.dumps(session_state(fork))
    per_row = 4 + 1 + 8 + 8  # index, kind, length, offset; no chunk id
    virtual = 8 + 8 + len(locations[-1]) + 1 + 8 + 4
    assert len(state) < (per_row + virtual) * len(rows) + 5000
    restored = sent(fork).draft.changes.chunks[node.id].sets()
    assert restored == refs
    assert restored.nbytes == refs.nbytes
    assert not restored.lengths.flags.writeable


def test_sessions_with_a_branch_are_not_pickled(repo: WritableRepository):
    with pytest.raises(WritableSessionPickledError, match="pickle") as caught:
        session_state(repo.writable_session("main"))
    assert isinstance(caught.value, ValueError)
    assert "fork()" in (caught.value.hint or "")


# Merging.


def test_of_a_chunk_that_several_wrote_the_last_counts(repo: WritableRepository):
    session = repo.writable_session("main")
    write(session, b"own", 4, 5)
    one, two, three = (sent(forks.fork(session)) for _ in range(3))
    write(one, b"one", 0, 2, 3)
    one.chunks.delete("/a", ChunkIndices.from_indices(1, [(4,)]))
    write(two, b"two", 2)
    two.chunks.delete("/a", ChunkIndices.from_indices(1, [(3,), (1,)]))
    write(three, b"three", 1)
    forks.merge(session, [one, two, three])
    expected = inline(_0=b"one", _1=b"three", _2=b"two", _5=b"own")
    assert contents(session) == expected
    assert sorted(session.status().updated_chunks["/a"]) == [(at,) for at in range(6)]
    assert contents(one) == inline(_0=b"one", _1=b"base", _2=b"one", _3=b"one", _5=b"own")  # as it was
    session.commit("merged")
    assert contents(repo.readonly_session("main")) == expected


def test_nodes_that_forks_made_rewrote_and_deleted_come_home(repo: WritableRepository):
    session = repo.writable_session("main")
    session.nodes.put("/mine", array([2]))
    one, two = sent(forks.fork(session)), sent(forks.fork(session))
    one.nodes.put("/x", array([2]))
    write(one, b"x", 1, path="/x")
    one.nodes.put("/a", array([8]))
    write(one, b"longer", 7)
    # New here, and changed there (Divergence 69).
    one.nodes.put("/mine", array([4], unit="m"))
    write(one, b"mine", 3, path="/mine")
    two.nodes.delete("/g")
    write(two, b"two", 0)
    forks.merge(session, [one, two])
    session.commit("merged")
    found = repo.readonly_session("main")
    assert sorted(node.path for node in found.list_nodes()) == ["/", "/a", "/mine", "/x"]
    assert found.node("/a").user_data == array([8])
    assert found.node("/mine").user_data == array([4], unit="m")
    assert contents(found) == inline(_0=b"two", _1=b"base", _7=b"longer")
    assert contents(found, "/x") == inline(_1=b"x")
    assert contents(found, "/mine") == inline(_3=b"mine")


def both(path: str, data: bytes) -> Change:
    return lambda session: session.nodes.put(path, data)


def deleted(path: str) -> Change:
    return lambda session: session.nodes.delete(path)


CONFLICTS: dict[str, tuple[Change, Change]] = {
    "both make an array": (both("/x", array([2])), both("/x", array([2]))),
    "both make a node of another kind": (both("/x", array([2])), both("/x", GROUP)),  # Divergence 70
    "both rewrite an array": (both("/a", array([7])), both("/a", array([8]))),
    "both rewrite a group": (both("/g", GROUP + b" "), both("/g", GROUP + b"  ")),
    "both rewrite what is new": (both("/new", array([7])), both("/new", array([8]))),
    "one deletes what is rewritten": (deleted("/a"), both("/a", array([8]))),
    "one deletes what is written to": (deleted("/a"), lambda session: write(session, b"x", 0)),
    "one deletes what is made anew": (
        deleted("/a"),
        lambda session: (session.nodes.delete("/a"), session.nodes.put("/a", array([9]))),
    ),
}


@pytest.mark.parametrize("name", CONFLICTS)
@pytest.mark.parametrize("turned", [False, True], ids=["", "turned"])
def test_what_excludes_each_other_is_refused_as_a_whole(name: str, turned: bool, repo: WritableRepository):
    session = repo.writable_session("main")
    session.nodes.put("/new", array([2]))
    one, two, third = (sent(forks.fork(session)) for _ in range(3))
    first, second = reversed(CONFLICTS[name]) if turned else CONFLICTS[name]
    write(third, b"third", 5)
    first(one)
    second(two)
    before = session.status()
    clean = [fork for fork in (third, one) if name != "one deletes what is written to" or fork is one]
    with pytest.raises(SessionStateError) as caught:
        forks.merge(session, [*clean, two])
    assert caught.value.kind == "merge-failed"
    assert session.status() == before  # Divergence 72
    forks.merge(session, [one])
    with pytest.raises(SessionStateError):
        forks.merge(session, [two])


def test_the_same_change_twice_is_no_conflict(repo: WritableRepository):
    session = repo.writable_session("main")
    one, two = (sent(forks.fork(session)) for _ in range(2))
    for fork in (one, two):
        fork.nodes.put("/a", array([8]))
        fork.nodes.delete("/g")
    made = sent(one)
    made.nodes.put("/x", GROUP)
    forks.merge(session, [one, two, made, made])
    forks.merge(session, [made, session])
    assert sorted(node.path for node in session.draft.nodes()) == ["/", "/a", "/x"]


def test_sessions_that_cannot_be_merged(repo: WritableRepository):
    session = repo.writable_session("main")
    fork = forks.fork(session)
    elsewhere = WritableRepository.create(MemoryStorage()).writable_session("main")
    forks.merge(session, [repo.readonly_session("main")])  # nothing to add
    for into, other in ((fork, session), (session, forks.fork(elsewhere))):  # the second is Divergence 71
        with pytest.raises(SessionStateError) as caught:
            forks.merge(into, [other])
        assert caught.value.kind == "merge-not-allowed"
    if repo.spec_version == 2:
        moving = repo.rearrange_session("main")
        for into, other in ((session, moving), (moving, fork)):
            with pytest.raises(SessionStateError) as caught:
                forks.merge(into, [other])
            assert caught.value.kind == "rearrange-session-only"


def test_what_a_fork_changed_must_be_there(repo: WritableRepository):
    session = repo.writable_session("main")
    session.nodes.put("/new", array([3]))
    fork, other = forks.fork(session), forks.fork(session)
    write(fork, b"x", 0, path="/new")
    other.nodes.put("/new", array([4]))
    session.draft.discard()
    for lost in (fork, other):
        with pytest.raises(SessionStateError, match="does not have") as caught:
            forks.merge(session, [lost])
        assert caught.value.kind == "merge-failed"
    assert not session.has_uncommitted_changes


def test_chunks_of_another_rank_are_none_of_the_array(repo: WritableRepository):
    session = repo.writable_session("main")
    write(session, b"own", 2)
    one, two = forks.fork(session), forks.fork(session)
    one.nodes.put("/a", array([2, 2]))
    one.chunks.set("/a", (1, 1), b"one")
    write(two, b"two", 0)
    forks.merge(session, [one, two])
    assert contents(session) == {(1, 1): InlineRef(b"one")}
    session.commit("merged")
    assert contents(repo.readonly_session("main")) == {(1, 1): InlineRef(b"one")}


def test_chunks_beyond_a_merged_resize_are_not_committed(repo: WritableRepository):
    session = repo.writable_session("main")
    one, two = forks.fork(session), forks.fork(session)
    one.nodes.put("/a", array([2]))
    write(two, b"two", 0, 5)
    forks.merge(session, [one, two])
    session.commit("merged")
    assert contents(repo.readonly_session("main")) == inline(_0=b"two", _1=b"base")


def test_many_forks_are_merged_in_few_passes(repo: WritableRepository):
    session = repo.writable_session("main")
    session.nodes.put("/big", array([64, 1000]))
    fork = forks.fork(session)
    parts = []
    for number in range(64):
        part = sent(fork)
        columns = [np.full(1000, number), np.arange(1000)]
        ids = np.full((1000, 12), number, np.uint8)
        refs = ArrayRefs.from_columns(
            part.node("/big").id, columns, kinds=ChunkKind.NATIVE, lengths=[9] * 1000, chunk_ids=ids
        )
        part.chunks.set_refs("/big", refs)
        parts.append(part)
    forks.merge(session, parts)
    chunks = session.array_chunks("/big")
    assert chunks.num_chunks == 64_000
    assert all(chunks.find((number, 7)) == NativeRef(ChunkId([number] * 12), 0, 9) for number in range(64))


def test_merging_waits_for_a_commit(repo: WritableRepository):
    session = repo.writable_session("main")
    fork = forks.fork(session)
    write(fork, b"fork", 3)
    outcome: list[BaseException | None] = []

    def merge() -> None:
        try:
            forks.merge(session, [fork])
        except ReadOnlyError as error:
            outcome.append(error)

    write(session, b"own", 2)
    with session.draft.frozen():
        thread = threading.Thread(target=merge)
        thread.start()
        session.commit("own")
    thread.join()
    assert [type(error) for error in outcome] == [ReadOnlyError]
    assert contents(repo.readonly_session("main")) == inline(_0=b"base", _1=b"base", _2=b"own")


# Commits that a fork does not know of.


def set_pair(session: WritableSession, *values: bytes) -> None:
    """Writes an array of two elements as its one chunk."""
    session.chunks.set("/pair", (0,), b"".join(values))


@pytest.fixture
def pair(repo: WritableRepository) -> WritableRepository:
    session = repo.writable_session("main")
    grid = {"name": "regular", "configuration": {"chunk_shape": [2]}}
    document = {"zarr_format": 3, "node_type": "array", "shape": [2], "chunk_grid": grid}
    session.nodes.put("/pair", json.dumps(document).encode())
    set_pair(session, b"0", b"0")
    session.commit("pair")
    return repo


def test_a_fork_does_not_undo_what_its_origin_was_rebased_over(pair: WritableRepository):
    mine = pair.writable_session("main")
    mine.nodes.put("/made", GROUP)
    fork = sent(forks.fork(mine))
    set_pair(fork, b"1", b"0")
    other = pair.writable_session("main")
    set_pair(other, b"0", b"7")
    theirs = other.commit("theirs")
    mine.rebase(ConflictDetector())
    with pytest.raises(SessionStateError, match=f"commit {theirs}.*ChunkDoubleUpdate at /pair") as caught:
        forks.merge(mine, [fork])
    assert caught.value.kind == "merge-failed"
    assert caught.value.facts["snapshot"] == str(theirs)
    mine.commit("mine")
    assert contents(pair.readonly_session("main"), "/pair") == inline(_0=b"07")


def test_a_fork_does_not_undo_what_a_later_session_stands_on(pair: WritableRepository):
    nested = sent(forks.fork(forks.fork(pair.writable_session("main"))))
    set_pair(nested, b"1", b"0")
    other = pair.writable_session("main")
    set_pair(other, b"0", b"7")
    other.commit("theirs")
    later = pair.writable_session("main")
    for into in (later, forks.fork(later)):
        with pytest.raises(SessionStateError, match="does not know"):
            forks.merge(into, [nested])


def test_a_fork_comes_home_to_a_later_session_where_nothing_is_undone(pair: WritableRepository):
    fork = sent(forks.fork(pair.writable_session("main")))
    set_pair(fork, b"1", b"0")
    fork.nodes.put("/x", GROUP)
    other = pair.writable_session("main")
    write(other, b"other", 3)
    other.commit("theirs")
    later = pair.writable_session("main")
    forks.merge(later, [fork])
    later.commit("later")
    found = pair.readonly_session("main")
    assert contents(found, "/pair") == inline(_0=b"10")
    assert contents(found) == inline(_0=b"base", _1=b"base", _3=b"other")
    again = pair.writable_session("main")
    with pytest.raises(SessionStateError, match="NewNodeConflictsWithExistingNode at /x"):
        forks.merge(again, [fork])  # its node is there now


def test_a_step_that_several_forks_append_is_refused(repo: WritableRepository):
    """Divergence 77."""
    session = repo.writable_session("main")
    one, two = (sent(forks.fork(session)) for _ in range(2))
    for fork, data in ((one, b"one"), (two, b"two")):
        fork.nodes.put("/a", array([7]))
        write(fork, data, 6)
    with pytest.raises(SessionStateError, match=r"chunk \[6\] of /a was appended by several sessions") as caught:
        forks.merge(session, [one, two])
    assert caught.value.kind == "merge-failed"
    assert "enlarge the array" in (caught.value.hint or "")
    forks.merge(session, [one, one])
    assert contents(session) == inline(_0=b"base", _1=b"base", _6=b"one")


def test_a_chunk_that_several_forks_wrote_is_mentioned(repo: WritableRepository, caplog: pytest.LogCaptureFixture):
    session = repo.writable_session("main")
    session.nodes.put("/a", array([8]))  # enlarged before the fork: what follows is nothing appended
    one, two = (sent(forks.fork(session)) for _ in range(2))
    write(one, b"one", 1, 2, 7)
    write(two, b"two", 1, 3, 7)
    forks.merge(session, [one, two])
    assert "2 chunks of /a were written by several of the sessions" in caplog.text
    assert contents(session) == inline(_0=b"base", _1=b"two", _2=b"one", _3=b"two", _7=b"two")


def test_a_fork_whose_snapshot_was_collected_says_so_and_what_to_do() -> None:
    repository = WritableRepository.create(MemoryStorage())
    session = repository.writable_session("main")
    session.nodes.put("/", GROUP)
    away = pickle.dumps(session_state(forks.fork(session)))
    collect_garbage(repository, system_clock() + 10_000_000)
    with pytest.raises(SnapshotNotFoundError, match="a garbage collection took it") as raised:
        restore_session(*pickle.loads(away))
    assert raised.value.hint is not None
    assert "fork the session again" in raised.value.hint
    assert session.has_uncommitted_changes


EXCLUDING: dict[str, tuple[Change, Change]] = {
    "deleted and written": (lambda fork: fork.nodes.delete("/a"), lambda fork: write(fork, b"x", 1)),
    "deleted and changed": (lambda fork: fork.nodes.delete("/a"), lambda fork: fork.nodes.put("/a", array([4]))),
    "deleted and made": (lambda fork: fork.nodes.delete("/g"), lambda fork: _make_again(fork, "/g")),
    "made twice": (lambda fork: fork.nodes.put("/x", GROUP), lambda fork: fork.nodes.put("/x", array([3]))),
    "changed twice": (
        lambda fork: fork.nodes.put("/a", array([4])),
        lambda fork: fork.nodes.put("/a", array([5])),
    ),
}


def _make_again(fork: WritableSession, path: str) -> None:
    fork.nodes.delete(path)
    fork.nodes.put(path, array([2]))


@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize("name", EXCLUDING)
def test_a_refused_merge_names_nodes_by_their_paths(repo: WritableRepository, name: str, is_turned: bool):
    session = repo.writable_session("main")
    ids = {str(node.id) for node in session.draft.nodes()}
    pair = [sent(forks.fork(session)) for _ in range(2)]
    for fork, change in zip(pair, EXCLUDING[name], strict=True):
        change(fork)
        ids |= {str(node.id) for node in fork.draft.nodes()}
    with pytest.raises(SessionStateError) as caught:
        forks.merge(session, pair[::-1] if is_turned else pair)
    told = f"{caught.value.message} {caught.value.hint}"
    assert any(f" {path} " in told for path in ("/a", "/g", "/x")), told
    assert not any(one in told for one in ids), told
    assert not session.has_uncommitted_changes
