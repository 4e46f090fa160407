"""What a diff says of a path at which several arrays were, one after the other."""

import itertools
import json

import pytest

from icefs.engine.history.diff import diff_snapshots
from icefs.engine.write.repository import WritableRepository
from icefs.storage.memory import MemoryStorage

GROUP = b'{"zarr_format":3,"node_type":"group","attributes":{}}'


def array(rank):
    grid = {"name": "regular", "configuration": {"chunk_shape": [1] * rank}}
    document = {"zarr_format": 3, "node_type": "array", "shape": [4] * rank, "chunk_grid": grid, "attributes": {}}
    return json.dumps(document).encode()


def index(rank, number):
    return (number,) + (0,) * (rank - 1)


@pytest.fixture
def repo():
    return WritableRepository.create(MemoryStorage())


def make(session, rank, numbers):
    session.nodes.put("/b", array(rank))
    for number in numbers:
        session.chunks.set("/b", index(rank, number), b"%d" % number)


def start(repo, rank):
    with repo.transaction("main", message="first") as session:
        session.nodes.put("/", GROUP)
        make(session, rank, range(4))
    return repo.lookup_branch("main")


def chunks(diff):
    return {path: [tuple(found) for found in indices] for path, indices in diff.updated_chunks.items()}


@pytest.mark.parametrize("ranks", list(itertools.product([1, 2], repeat=2)))
@pytest.mark.parametrize("written", [(), (1,), (0, 1, 2, 3)])
def test_a_node_that_replaced_another_one(repo, ranks, written):
    old, new = ranks
    first = start(repo, old)
    with repo.transaction("main", message="second") as session:
        session.chunks.set("/b", index(old, 0), b"9")
    with repo.transaction("main", message="third") as session:
        session.nodes.delete("/b")
        make(session, new, written)
    expected = {index(new, number) for number in written}
    if old == new:
        expected.add(index(old, 0))
    found = chunks(diff_snapshots(repo.context, first, repo.lookup_branch("main")))
    assert found == ({"/b": sorted(expected)} if expected else {})


def test_uncommitted_changes(repo):
    start(repo, 1)
    session = repo.writable_session("main")
    session.chunks.set("/b", (0,), b"9")
    session.nodes.delete("/b")
    make(session, 1, range(4))
    assert chunks(session.status()) == {"/b": [(number,) for number in range(4)]}


def test_nodes_that_are_all_gone(repo):
    first = start(repo, 1)
    for number in (1, 2):
        with repo.transaction("main", message="again") as session:
            session.nodes.delete("/b")
            make(session, 1, [number])
    with repo.transaction("main", message="gone") as session:
        session.nodes.delete("/b")
    diff = diff_snapshots(repo.context, first, repo.lookup_branch("main"))
    assert "/b" in diff.deleted_arrays
    assert set(chunks(diff)) <= {"/b"}
