"""What the error of a session's rebase tells to do works when it is done, for each kind of conflict and each solver."""

import re

import pytest

from icefs.engine.write.conflicts import BasicConflictSolver, ConflictDetector, ConflictType, VersionSelection, way_out
from icefs.engine.write.conflicts import Conflict as C
from icefs.engine.write.repository import WritableRepository
from icefs.errors import RebaseFailedError
from icefs.storage.memory import MemoryStorage
from tests.support.staging_bench import array, group

A = array((4,), (2,))
TITLED = A.replace(b'"attributes": {}', b'"attributes": {"title": "x"}')
TITLED_GROUP = group().replace(b"{}", b'{"title": "x"}')


def put(path, data):
    return lambda session: session.nodes.put(path, data)


def chunk(path, data):
    return lambda session: session.chunks.set(path, (0,), data)


def delete(path):
    return lambda session: session.nodes.delete_each([path])


def replace(path, data):
    return lambda session: (session.nodes.delete_each([path]), session.nodes.put(path, data))


# What the session changes, what others commit, and whether the same change makes sense on top of theirs.
CASES = {
    1: (put("/n", A), put("/n", TITLED), True),
    2: (put("/g/n", A), replace("/g", A), False),
    3: (put("/g", TITLED_GROUP), put("/g", TITLED_GROUP.replace(b"x", b"y")), True),
    4: (put("/a", TITLED), delete("/a"), True),
    5: (put("/g", TITLED_GROUP), delete("/g"), True),
    6: (chunk("/a", b"o"), chunk("/a", b"t"), True),
    7: (chunk("/a", b"o"), delete("/a"), False),
    8: (chunk("/a", b"o"), put("/a", TITLED), True),
    9: (delete("/a"), chunk("/a", b"t"), True),
    10: (delete("/g"), put("/g", TITLED_GROUP), True),
    11: (chunk("/a", b"o"), lambda session: session.nodes.move_each({"/g": "/k"}), True),
}
SOLVERS = {
    "detector": ConflictDetector(),
    "ours": BasicConflictSolver(VersionSelection.UseOurs),
    "strict": BasicConflictSolver(VersionSelection.Fail, True, True),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", list(ConflictType), ids=str)
def test_the_way_out_that_is_told_works(kind, solver):
    repository = WritableRepository.create(MemoryStorage())
    session = repository.writable_session("main")
    for path, data in (("/", group()), ("/a", A), ("/g", group())):
        session.nodes.put(path, data)
    session.chunks.set("/a", (0,), b"base")
    session.commit("base")
    ours, theirs, can_be_made_again = CASES[kind.value]
    base = repository.lookup_branch("main")
    others = repository.writable_session_at(
        "main", base, is_rearrange=kind is ConflictType.MoveOperationCannotBeRebased
    )
    session = repository.writable_session("main")
    ours(session)
    theirs(others)
    others.commit("theirs")
    if solver == "ours" and kind.value in (6, 9, 10):
        session.rebase(SOLVERS[solver])
        session.commit("ours")
        return
    with pytest.raises(RebaseFailedError) as caught:
        session.rebase(SOLVERS[solver])
    assert {conflict.conflict_type for conflict in caught.value.conflicts} == {kind}
    hint = caught.value.hint
    assert "--ours" not in hint
    if hint.startswith("choose a side"):
        words = dict(re.findall(r"(\w+)=(\S+)", hint.replace("VersionSelection.", "")))
        side = VersionSelection[words.pop("on_chunk_conflict", "Fail")]
        session.rebase(BasicConflictSolver(side, **{word: value == "True" for word, value in words.items()}))
    else:
        assert "open a new session on the branch, and make the changes again" in hint
        session = repository.writable_session("main")
        if not can_be_made_again:
            return
        ours(session)
    session.commit("ours")
    assert repository.lookup_branch("main") == session.snapshot_id


def test_the_hint_names_the_nodes_whose_conflicts_have_no_side():
    hint = way_out([C(ConflictType.ChunkDoubleUpdate, "/a"), C(ConflictType.ZarrMetadataDoubleUpdate, "/g")])
    assert "over /g:" in hint
    assert "/a" not in hint
