"""A draft: a base, changes to it, and what they may still be."""

import threading

import pytest

from icefs.engine.write.changeset import ChangeSet, NodeMove
from icefs.engine.write.draft import Draft, InDoubt
from icefs.engine.write.repository import WritableRepository
from icefs.errors import NodeNotFoundError, ReadOnlyError, SessionStateError
from icefs.format.ids import NodeId, SnapshotId
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.storage.memory import MemoryStorage

GROUP = b'{"zarr_format": 3, "node_type": "group"}'


@pytest.fixture
def base():
    repository = WritableRepository.create(MemoryStorage())
    with repository.transaction("main", message="base") as session:
        for path in ("/", "/a", "/a/b"):
            session.nodes.put(path, GROUP)
    return repository.readonly_session("main").snapshot


def group(path):
    return NodeSnapshot(NodeId.random(), path, GROUP, None)


def paths(draft):
    return sorted(node.path for node in draft.nodes())


def test_nodes_are_those_of_the_base_with_the_changes(base):
    draft = Draft(base, "main", 0)
    draft.changes.put_node(group("/new"), None)
    draft.changes.delete_node(draft.node("/a/b"), base.node("/a/b"))
    assert paths(draft) == ["/", "/a", "/new"]
    assert draft.get_node("/a/b") is None
    with pytest.raises(NodeNotFoundError):
        draft.node("/a/b")


def test_discarding_forgets_the_changes_and_counts_as_one(base):
    draft = Draft(base, "main", 0)
    draft.changes.put_node(group("/new"), None)
    revision, node_revision = draft.revision, draft.node_revision
    draft.discard()
    assert paths(draft) == ["/", "/a", "/a/b"]
    assert (draft.revision, draft.node_revision) == (revision + 1, node_revision + 1)


def test_a_commit_ends_it(base):
    draft = Draft(base, "main", 0)
    draft.in_doubt.append(InDoubt(SnapshotId.random(), 0))
    draft.changes.put_node(group("/new"), None)
    draft.committed(base)
    assert (draft.branch, draft.read_only, draft.is_fork, draft.in_doubt) == (None, True, False, [])
    assert draft.changes.is_empty()
    for refused in (draft.check_edits, draft.check_writable, draft.check_rearranges, draft.discard):
        with pytest.raises(ReadOnlyError):
            refused()


def test_a_draft_moves_nodes_or_changes_them(base):
    edits, moves = Draft(base, "main", 0), Draft(base, "main", 0, is_rearrange=True)
    edits.check_edits()
    moves.check_rearranges()
    with pytest.raises(SessionStateError) as caught:
        edits.check_rearranges()
    assert caught.value.kind == "non-rearrange-session"
    with pytest.raises(SessionStateError) as caught:
        moves.check_edits()
    assert caught.value.kind == "rearrange-session-only"
    moves.changes.move_nodes([NodeMove(base.node("/a/b"), "/b")])
    assert paths(moves) == ["/", "/a", "/b"]
    moves.discard()
    moves.check_rearranges()


def test_a_fork_knows_what_its_origin_stood_on(base):
    origin = SnapshotId.random()
    fork, session = Draft(base, None, 7, origin_id=origin), Draft(base, "main", 7)
    assert (fork.is_fork, fork.published_base) == (True, origin)
    assert (session.is_fork, session.published_base) == (False, base.id)


def test_the_oldest_chunk_counts(base):
    draft = Draft(base, "main", 50)
    draft.holds_chunks_since([70, 60])
    assert draft.opened_at == 50
    draft.holds_chunks_since([70, 40])
    draft.holds_chunks_since([])
    assert draft.opened_at == 40


def test_a_frozen_draft_is_read_and_not_changed(base):
    draft = Draft(base, "main", 0)
    changed = threading.Event()

    def change():
        with draft.gate:
            draft.replace_changes(ChangeSet())
            changed.set()

    with draft.frozen():
        thread = threading.Thread(target=change)
        thread.start()
        assert paths(draft) == ["/", "/a", "/a/b"]
        assert not changed.wait(0.05)
        assert draft.gate.is_frozen
    thread.join(10)
    assert changed.is_set()
