"""The editors of a draft's nodes and chunks, by themselves: no session, no commit."""

import numpy as np
import pytest

from icefs.engine.write.chunk_editor import ChunkEditor, check_chunk, check_chunks
from icefs.engine.write.draft import Draft
from icefs.engine.write.edited_chunks import EditedArrays
from icefs.engine.write.node_editor import NodeEditor, array_data
from icefs.engine.write.repository import WritableRepository
from icefs.errors import InvalidInputError, InvalidMetadataError, NodeNotFoundError, ReadOnlyError, SessionStateError
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.ids import NodeId
from icefs.format.manifest.refs import InlineRef, NativeRef
from icefs.format.snapshot.nodes import ArrayData, DimensionShape, NodeSnapshot
from icefs.format.zarr_json import parse_zarr_json
from icefs.storage.memory import MemoryStorage
from tests.support.transactions import GROUP, array

GRID = (3, 2)


class Bench:
    """A draft on a snapshot with the array /a, of 3 × 2 chunks, and the groups /, /g and /g/h."""

    def __init__(self, *, is_rearrange=False):
        self.storage = MemoryStorage()
        repository = WritableRepository.create(self.storage)
        with repository.transaction("main", message="base") as session:
            for path in ("/", "/g", "/g/h"):
                session.nodes.put(path, GROUP)
            session.nodes.put("/a", array(list(GRID), [1, 1]))
        self.context = repository.context
        base = repository.readonly_session("main").snapshot
        self.draft = Draft(base, "main", 0, is_rearrange=is_rearrange)
        self.nodes = NodeEditor(self.draft, 2)
        self.arrays = EditedArrays(self.draft, self.context.assets)
        self.chunks = ChunkEditor(self.draft, self.arrays, self.storage, 4)

    def paths(self):
        return sorted(node.path for node in self.draft.nodes())

    def there(self):
        """Returns the indices of the chunks of /a, with the changes."""
        chunks = self.arrays.chunks(self.draft.node("/a"))
        return [tuple(index) for batch in chunks.iter_batches() for index in batch.indices().tolist()]

    def stored(self):
        return [info.key for info in self.storage.iter_objects("chunks/")]


@pytest.fixture
def bench():
    return Bench()


def test_a_node_is_made_once_and_rewritten_with_its_id(bench):
    made = bench.nodes.put("/new", GROUP)
    assert bench.nodes.put("/new", GROUP) == made
    rewritten = bench.nodes.put("/new", GROUP + b" ")
    assert (rewritten.id, rewritten.user_data) == (made.id, GROUP + b" ")
    assert bench.nodes.put("/new", GROUP, overwrite=False) == rewritten


def test_deleting_takes_what_is_below_and_deleting_each_does_not(bench):
    bench.nodes.delete_each(["/g", "/nothing"])
    assert bench.paths() == ["/", "/a", "/g/h"]
    bench.nodes.delete("/g")
    assert bench.paths() == ["/", "/a"]
    bench.nodes.delete("/")
    assert bench.paths() == []


def test_a_name_that_begins_like_a_group_is_not_below_it(bench):
    bench.nodes.put("/g-other", GROUP)
    assert [node.path for node in bench.draft.nodes_below("/g")] == ["/g", "/g/h"]
    bench.nodes.delete("/g")
    assert bench.paths() == ["/", "/a", "/g-other"]


def test_nodes_that_change_places_are_moved_at_once():
    bench = Bench(is_rearrange=True)
    before = {path: bench.draft.node(path).id for path in ("/a", "/g")}
    bench.nodes.move_each({"/a": "/g", "/g": "/a"})
    assert {path: bench.draft.node(path).id for path in ("/a", "/g")} == {"/a": before["/g"], "/g": before["/a"]}


def test_a_draft_of_moves_takes_nothing_else():
    bench = Bench(is_rearrange=True)
    for edit in (
        lambda: bench.nodes.put("/new", GROUP),
        lambda: bench.nodes.delete("/g"),
        lambda: bench.chunks.set("/a", (0, 0), b"x"),
        lambda: bench.chunks.delete_below("/a", ()),
    ):
        with pytest.raises(SessionStateError, match="moves nodes and does nothing else"):
            edit()
    assert bench.draft.changes.is_empty()


def test_a_committed_draft_takes_no_chunk_and_nothing_is_stored_for_it(bench):
    bench.draft.committed(bench.draft.snapshot)
    with pytest.raises(ReadOnlyError):
        bench.chunks.set("/a", (0, 0), b"a large chunk")
    assert bench.stored() == []


def test_small_chunks_are_inline_and_others_become_objects(bench):
    assert bench.chunks.store(b"1234") == InlineRef(b"1234")
    ref = bench.chunks.store(b"12345")
    assert isinstance(ref, NativeRef)
    assert bench.stored() == [f"chunks/{ref.chunk_id}"]


def test_chunks_are_set_and_deleted(bench):
    for index in np.ndindex(GRID):
        bench.chunks.set("/a", index, b"x")
    bench.chunks.delete("/a", ChunkIndices.from_indices(2, [(0, 0), (2, 1)]))
    bench.chunks.delete_below("/a", (1,))
    assert bench.there() == [(0, 1), (2, 0)]
    bench.chunks.set_ref("/a", (0, 1), InlineRef(b"other"), overwrite=False)
    assert bench.arrays.chunks(bench.draft.node("/a")).find((0, 1)) == InlineRef(b"x")
    bench.chunks.set_ref("/a", (0, 1), None)
    assert bench.there() == [(2, 0)]


def test_a_group_has_no_chunks_and_a_missing_array_neither(bench):
    for path, error in (("/g", InvalidInputError), ("/nothing", NodeNotFoundError)):
        with pytest.raises(error):
            bench.chunks.set(path, (0,), b"x")
        with pytest.raises(error):
            bench.chunks.delete_below(path, ())


def test_the_chunks_of_an_array_are_put_together_once(bench):
    node = bench.draft.node("/a")
    assert bench.arrays.chunks(node) is bench.arrays.chunks(node)
    bench.chunks.set("/a", (0, 0), b"x")
    edited = bench.arrays.chunks(node)
    assert edited.find((0, 0)) == InlineRef(b"x")
    bench.chunks.set("/a", (1, 0), b"y")
    assert bench.arrays.chunks(node) is edited
    assert edited.find((1, 0)) == InlineRef(b"y")
    bench.arrays.forget()
    assert bench.arrays.chunks(node) is not edited


ARRAY = NodeSnapshot(NodeId.random(), "/a", b"", ArrayData((DimensionShape(30, 3), DimensionShape(20, 2)), None, ()))
SCALAR = NodeSnapshot(NodeId.random(), "/s", b"", ArrayData((), None, ()))


def test_chunks_inside_of_the_grid_fit():
    check_chunk(ARRAY, (2, 1), 1)
    check_chunk(SCALAR, (), 1)
    check_chunks(ARRAY, ChunkIndices.from_indices(2, [(0, 0), (2, 1)]), np.array([1, 5], np.uint64))
    check_chunks(SCALAR, ChunkIndices.from_indices(0, [()]), None)


@pytest.mark.parametrize(
    ("node", "index", "length_bytes", "kind"),
    [
        (ARRAY, (3, 0), 1, "invalid-chunk-index"),
        (ARRAY, (-1, 0), 1, "invalid-chunk-index"),
        (ARRAY, (0,), 1, "invalid-chunk-index"),
        (SCALAR, (0,), 1, "invalid-chunk-index"),
        (ARRAY, (0, 0), 0, "zero-length-chunk"),
    ],
)
def test_other_chunks_do_not(node, index, length_bytes, kind):
    with pytest.raises(InvalidInputError) as caught:
        check_chunk(node, index, length_bytes)
    assert (caught.value.kind, caught.value.facts["path"]) == (kind, node.path)
    if min(index, default=0) < 0:
        return  # no column holds it
    with pytest.raises(InvalidInputError) as caught:
        check_chunks(node, ChunkIndices.from_indices(len(index), [index]), np.array([length_bytes], np.uint64))
    assert caught.value.kind == kind


def test_the_first_of_many_wrong_chunks_is_named():
    indices = ChunkIndices.from_indices(2, [(0, 0), (0, 7), (8, 0)])
    with pytest.raises(InvalidInputError, match=r"chunk \[0, 7\] is outside of the grid \[3, 2\] of /a"):
        check_chunks(ARRAY, indices, None)


def test_a_group_has_no_array_data_and_too_many_chunks_are_refused():
    assert array_data(parse_zarr_json(GROUP, name="zarr.json", spec_version=2), "zarr.json") is None
    huge = parse_zarr_json(array([2**40], [1]), name="a/zarr.json", spec_version=2)
    with pytest.raises(InvalidMetadataError, match=r"a/zarr\.json"):
        array_data(huge, "a/zarr.json")
