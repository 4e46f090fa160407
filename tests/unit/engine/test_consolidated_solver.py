"""Rebases where both sides changed a group's consolidated metadata: which versions are settled."""

import json

import pytest

from icefs.engine.write.conflicts import BasicConflictSolver, ConflictDetector
from icefs.engine.write.consolidated import ConsolidatedMetadataSolver
from icefs.engine.write.repository import WritableRepository
from icefs.errors import RebaseFailedError
from icefs.storage.memory import MemoryStorage
from tests.support.staging_bench import array


def group(copy=None, /, **members):
    document = {"zarr_format": 3, "node_type": "group", "attributes": {"n": 1}, **members}
    if copy is not None:
        document["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": copy}
    return json.dumps(document).encode()


SETTLED = {
    "both list another node": (group({}), group({"o": {}}), group({"t": {}})),
    "the first copies of a group": (group(), group({"o": {}}), group({"t": {}})),
    "one copy is removed": (group({}), group({"o": {}}), group()),
    "another order": (group({}), group({"o": {}}), json.dumps(dict(reversed(json.loads(group({})).items()))).encode()),
}  # fmt: skip
CONFLICTS = {
    "their attributes": (group({}), group({"o": {}}), group({"t": {}}, attributes={"n": 2})),
    "our attributes": (group({}), group({"o": {}}, attributes={"n": 2}), group({"t": {}})),
    "the same other attributes": (group({}), group({"o": {}}, attributes={}), group({"t": {}}, attributes={})),
    "a number of another type": (group({}), group({"o": {}}, attributes={"n": 1.0}), group({"t": {}})),
    "true for one": (group({}), group({"o": {}}), group({"t": {}}, attributes={"n": True})),
    "numbers of many digits": tuple(
        group({"x": n}).replace(b'"n": 1', b'"n": ' + b"9" * 30 + digit) for n, digit in enumerate((b"1", b"1", b"2"))
    ),
    "no copy at all": (group(), group() + b" ", group() + b"  "),
    "another member": (group({}), group({"o": {}}), group({"t": {}}, extra=1)),
}


def rebase(versions, solver, steps=1):
    base, ours, theirs = versions
    repository = WritableRepository.create(MemoryStorage())
    session = repository.writable_session("main")
    session.nodes.put("/g", base)
    session.commit("base")
    session = repository.writable_session("main")
    session.nodes.put("/g", ours)
    session.nodes.put("/g/o", array((4,), (2,)))
    for step in range(steps):
        others = repository.writable_session("main")
        others.nodes.put("/g", theirs + b" " * step)
        others.nodes.put(f"/g/t{step}", array((4,), (2,)))
        others.commit("theirs")
    session.rebase(solver)
    session.commit("ours")
    return repository.session_at(repository.lookup_branch("main"))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("case", SETTLED)
def test_versions_that_differ_in_consolidated_metadata_alone_are_settled(case, steps):
    tip = rebase(SETTLED[case], ConsolidatedMetadataSolver(ConflictDetector()), steps)
    assert tip.node("/g").user_data == SETTLED[case][1]
    assert {node.path for node in tip.list_nodes()} >= {"/g/o", *(f"/g/t{step}" for step in range(steps))}


@pytest.mark.parametrize("case", CONFLICTS)
def test_all_other_versions_conflict(case):
    with pytest.raises(RebaseFailedError) as caught:
        rebase(CONFLICTS[case], ConsolidatedMetadataSolver(ConflictDetector()))
    assert [str(conflict) for conflict in caught.value.conflicts] == ["ZarrMetadataDoubleUpdate at /g"]


@pytest.mark.parametrize("solver", [ConflictDetector(), BasicConflictSolver()], ids=str)
def test_the_official_solvers_fail_as_they_do_officially(solver):
    with pytest.raises(RebaseFailedError):
        rebase(SETTLED["both list another node"], solver)
