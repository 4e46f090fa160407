"""The hierarchy of a snapshot: nodes, times, chunks and ranges of bytes."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from icefs.clock import NS_PER_US
from icefs.engine.history.lineage import Lineages
from icefs.engine.repository import Repository
from icefs.errors import NodeNotFoundError
from icefs.views.hierarchy import SessionHierarchy, times_of_history
from tests.support.repo_builder import RepoBuilder, group, inline
from tests.support.viewed import commit_arrays, hierarchy_of, repository_of


def small_tree(root):
    root.create_array("a", shape=(4, 6), chunks=(2, 2), dtype="i4", compressors=None)[:] = np.arange(24).reshape(4, 6)
    root.create_group("g").create_array("b", shape=(), dtype="f8")[...] = 1.5
    root.create_array("g/sparse", shape=(10,), chunks=(1,), dtype="u1")[7] = 1


def test_nodes_are_ordered_and_have_their_documents():
    hierarchy = hierarchy_of(small_tree)
    nodes = hierarchy.nodes()
    assert [node.path for node in nodes] == ["/", "/a", "/g", "/g/b", "/g/sparse"]
    assert all(node.document == hierarchy.read(f"{node.path.lstrip('/')}/zarr.json".lstrip("/")) for node in nodes)
    assert hierarchy.nodes() is nodes


def test_facts_and_version():
    repository = repository_of(small_tree)
    tip = repository.lookup_branch("main")
    hierarchy = SessionHierarchy(repository.readonly_session("main"), branch="main")
    assert (hierarchy.facts.snapshot, hierarchy.facts.branch, hierarchy.facts.is_staged) == (str(tip), "main", False)
    assert hierarchy.version == SessionHierarchy(repository.session_at(tip)).version
    commit_arrays(repository, lambda root: root.create_group("more"))
    assert hierarchy.version != SessionHierarchy(repository.readonly_session("main")).version


RANGES = [(0, None), (0, 4), (3, 9), (10, 100), (100, None), (100, 200), (-4, None), (-100, None), (-100, 5), (5, 2)]


@pytest.mark.parametrize(("start", "stop"), RANGES)
@pytest.mark.parametrize("size", [5, 5000])
def test_ranges_are_those_of_slices(start, stop, size):
    """Inline and native chunks alike."""
    data = bytes(itertools.islice(itertools.cycle(range(1, 251)), size))

    def write(root):
        root.create_array("a", shape=(size,), chunks=(size,), dtype="u1", compressors=None)[:] = list(data)

    hierarchy = hierarchy_of(write)
    document = hierarchy.nodes()[1].document
    assert hierarchy.read("a/c/0", start, stop) == data[start:stop]
    assert hierarchy.read("a/zarr.json", start, stop) == document[start:stop]
    assert hierarchy.read("a/c/1", start, stop) is None


def test_chunks_that_exist():
    hierarchy = hierarchy_of(small_tree)
    assert list(hierarchy.chunk_indices("/a")) == list(itertools.product(range(2), range(3)))
    assert list(hierarchy.chunk_indices("/g/b")) == [()]
    assert list(hierarchy.chunk_indices("/g/sparse")) == [(7,)]
    assert hierarchy.has_chunk("/g/sparse", (7,))
    assert not hierarchy.has_chunk("/g/sparse", (6,))
    for path in ("/g", "/none"):
        with pytest.raises(NodeNotFoundError, match=f"no array at {path} in snapshot"):
            hierarchy.has_chunk(path, (0,))


def test_chunks_of_several_manifests_are_in_order():
    builder = RepoBuilder()
    indices = list(itertools.product(range(4), range(3)))
    boxes = [((0, 4), (2, 3)), ((2, 4), (0, 2)), ((0, 2), (0, 2))]
    builder.commit([group("/", 1), builder.array("/a", 2, (4, 3), inline(*indices), boxes=boxes)])
    hierarchy = SessionHierarchy(Repository.open(builder.publish()).readonly_session("main"))
    assert list(hierarchy.chunk_indices("/a")) == indices


def test_times_are_those_of_the_newest_change():
    repository = repository_of(small_tree)
    first = repository.lookup_snapshot(repository.lookup_branch("main")).flushed_at * NS_PER_US

    def change(root):
        root["a"][0, 0] = 99
        root["g"].attrs["said"] = "so"

    commit_arrays(repository, change)
    second = repository.lookup_snapshot(repository.lookup_branch("main")).flushed_at * NS_PER_US
    session = repository.readonly_session("main")
    assert {node.time_ns for node in SessionHierarchy(session).nodes()} == {second}
    times = times_of_history(Lineages(repository.context), session)
    found = {node.path: node.time_ns for node in SessionHierarchy(session, times=times).nodes()}
    assert found == {"/": first, "/a": second, "/g": second, "/g/b": first, "/g/sparse": first}


def test_neither_interface_nor_hierarchy_imports_zarr_python():
    script = (
        "import icefs.views.interface, icefs.views.hierarchy, icefs.views.extents, sys; "
        "assert not {'zarr', 'numcodecs', 'h5py'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_sizes_are_known_without_the_bytes():
    hierarchy = hierarchy_of(small_tree)
    assert hierarchy.size("a/c/0/1") == 16
    assert hierarchy.size("zarr.json") == len(hierarchy.nodes()[0].document)
    assert hierarchy.size("g/sparse/c/0") is None
