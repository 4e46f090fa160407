import itertools
import random
import threading

import numpy as np
import pytest

from icefs.engine.read.assets import AssetManager
from icefs.engine.read.boxes import Boxes
from icefs.engine.read.chunks import ArrayChunks
from icefs.errors import FormatError, InvalidInputError, ObjectNotFoundError
from icefs.format.ids import ManifestId
from icefs.format.layout import manifest_key
from icefs.format.manifest.refs import ArrayRefs, ChunkKind, InlineRef, NativeRef, VirtualRef
from icefs.format.snapshot.nodes import ManifestRef, NodeSnapshot
from tests.support.repo_builder import Index, RepoBuilder, group, inline, node_id


def chunks_of(builder: RepoBuilder, node: NodeSnapshot) -> ArrayChunks:
    return ArrayChunks(AssetManager(builder.storage), node)


def listed(chunks: ArrayChunks) -> list[Index]:
    """All indices, by walking down through `children` and `leaves` as a directory lister does."""

    def walk(prefix: Index) -> list[Index]:
        if len(prefix) == chunks.ndim - 1:
            return [(*prefix, int(last)) for last in chunks.leaves(prefix)[0]]
        return [found for child in chunks.children(prefix) for found in walk((*prefix, int(child)))]

    return walk(())


def batched(chunks: ArrayChunks) -> list[Index]:
    return [tuple(row) for batch in chunks.iter_batches(7) for row in batch.indices().tolist()]


def many(chunks: ArrayChunks, indices: list[Index]) -> list[int | None]:
    """The lengths of chunks, looked up together; sees to it that they are those of looking each up alone."""
    rows = np.array(indices, np.uint32).reshape(len(indices), chunks.ndim)
    is_there, lengths = chunks.lengths(rows)
    found = [length if there else None for there, length in zip(is_there.tolist(), lengths.tolist(), strict=True)]
    assert found == [chunks.length(index) for index in indices]
    return found


def test_every_kind_of_reference_is_found():
    builder = RepoBuilder()
    native = builder.chunk(b"0123456789")
    virtual = VirtualRef("s3://b/k", 3, 4, "etag", 0)
    node = builder.array("/a", 1, (3, 3), {(0, 0): native, (1, 2): InlineRef(b"abc"), (2, 1): virtual})
    chunks = chunks_of(builder, node)
    assert chunks.find((0, 0)) == native
    assert chunks.find((1, 2)) == InlineRef(b"abc")
    assert chunks.find((2, 1)) == virtual
    assert chunks.find((1, 1)) is None
    assert [chunks.length(index) for index in ((0, 0), (1, 2), (2, 1), (0, 1))] == [10, 3, 4, None]
    assert many(chunks, [(2, 1), (0, 1), (0, 0), (1, 2), (0, 0), (7, 7)]) == [4, None, 10, 3, 10, None]
    assert many(chunks, []) == []
    kinds = [chunks.kind(index) for index in ((0, 0), (1, 2), (2, 1), (0, 1))]
    assert kinds == [ChunkKind.NATIVE, ChunkKind.INLINE, ChunkKind.VIRTUAL, ChunkKind.UNINITIALIZED]
    assert chunks.num_chunks == 3


def test_a_scalar_array_has_one_chunk_with_an_empty_index():
    builder = RepoBuilder()
    chunks = chunks_of(builder, builder.array("/s", 1, (), {(): InlineRef(b"42")}))
    assert chunks.find(()) == InlineRef(b"42")
    assert chunks.length(()) == 2
    assert many(chunks, [(), ()]) == [2, 2]
    assert chunks.has_prefix(())
    assert chunks.find((0,)) is None
    assert chunks.children(()).tolist() == []
    assert chunks.leaves(())[0].tolist() == []
    assert [batch.indices().shape for batch in chunks.iter_batches()] == [(1, 0)]
    empty = chunks_of(builder, builder.array("/t", 2, ()))
    assert empty.find(()) is None
    assert many(empty, [()]) == [None]
    assert not empty.has_prefix(())
    assert empty.num_chunks == 0


def test_an_array_without_chunks():
    builder = RepoBuilder()
    chunks = chunks_of(builder, builder.array("/a", 1, (5, 5)))
    assert chunks.find((0, 0)) is None
    assert many(chunks, [(0, 0), (4, 4)]) == [None, None]
    assert not chunks.has_prefix(())
    assert chunks.children(()).tolist() == []
    assert chunks.leaves((0,))[0].tolist() == []
    assert chunks.num_chunks == 0


@pytest.mark.parametrize("index", [(), (0,), (0, 0, 0), (4, 0), (0, 4), (-1, 0), (1 << 40, 0), (0, 1 << 70)])
def test_indices_that_the_array_cannot_have_have_no_chunk(index):
    builder = RepoBuilder()
    refs = inline(*itertools.product(range(4), range(4)))
    for boxes in (None, [((row, row + 1), (left, left + 2)) for row in range(4) for left in (0, 2)]):
        chunks = chunks_of(builder, builder.array("/a", 1, (4, 4), refs, boxes=boxes))
        assert chunks.find(index) is None
        assert chunks.length(index) is None


def test_a_group_has_no_chunks():
    with pytest.raises(InvalidInputError) as caught:
        ArrayChunks(AssetManager(RepoBuilder().storage), group("/g", 1))
    assert caught.value.kind == "not-an-array"


@pytest.mark.parametrize("split", [1, 2, 3, 8])
def test_split_manifests_read_as_one(split):
    builder = RepoBuilder()
    rng = random.Random(split)
    present = {index for index in itertools.product(range(8), range(6), range(5)) if rng.random() < 0.4}
    edges = list(range(0, 8, split))
    boxes = [((low, min(low + split, 8)), (left, min(left + 3, 6)), (0, 5)) for low in edges for left in range(0, 6, 3)]
    rng.shuffle(boxes)
    chunks = chunks_of(builder, builder.array("/a", 1, (8, 6, 5), inline(*present), boxes=boxes))
    for index in itertools.product(range(8), range(6), range(5)):
        expected = InlineRef(str(index).encode()) if index in present else None
        assert chunks.find(index) == expected
        assert chunks.has_prefix(index) == (index in present)
    asked = list(itertools.product(range(9), range(7), range(6)))
    rng.shuffle(asked)
    assert sum(length is not None for length in many(chunks, asked)) == len(present)
    for few in (asked[:1], asked[:3]):
        many(chunks, few)
    assert listed(chunks) == sorted(present)
    assert sorted(batched(chunks)) == sorted(present)
    assert chunks.num_chunks == len(present)
    for prefix in itertools.product(range(8), range(6)):
        below = sorted(index for index in present if index[:2] == prefix)
        positions, lengths = chunks.leaves(prefix)
        assert positions.tolist() == [index[2] for index in below]
        assert lengths.tolist() == [len(str(index)) for index in below]
        assert chunks.has_prefix(prefix) == bool(below)


def test_only_the_manifest_that_answers_for_an_index_is_read():
    builder = RepoBuilder()
    boxes = [((row, row + 1), (0, 4)) for row in range(8)]
    refs = inline(*itertools.product(range(8), range(4)))
    node = builder.array("/a", 1, (8, 4), refs, boxes=boxes)
    assets = AssetManager(builder.storage)
    chunks = ArrayChunks(assets, node)
    assert len(assets.manifests) == 0
    chunks.find((3, 1))
    chunks.leaves((3,))
    assert many(chunks, [(3, 3), (9, 0), (3, 0)]) == [6, None, 6]
    assert len(assets.manifests) == 1
    assert chunks.is_loaded((3, 3))
    assert not chunks.is_loaded((4, 3))
    assert chunks.children((5,)).tolist() == [0, 1, 2, 3]
    assert len(assets.manifests) == 2
    assert chunks.children(()).tolist() == list(range(8))
    assert len(assets.manifests) == 8


def test_a_broken_manifest_breaks_what_needs_it_and_nothing_else():
    builder = RepoBuilder()
    boxes = [((0, 2),), ((2, 4),), ((4, 6),)]
    node = builder.array("/a", 1, (6,), inline((0,), (2,), (4,)), boxes=boxes)
    missing, malformed = (ref.manifest_id for ref in node.array.manifests[:2])
    builder.storage.delete([manifest_key(missing)])
    builder.storage.put(manifest_key(malformed), b"nonsense")
    chunks = chunks_of(builder, node)
    assert chunks.find((4,)) == InlineRef(b"(4,)")
    assert chunks.find((5,)) is None
    with pytest.raises(ObjectNotFoundError):
        chunks.find((1,))
    with pytest.raises(FormatError, match=str(malformed)):
        chunks.find((2,))
    many(chunks, [(5,), (4,)])
    for asked in ([(4,), (1,)], [(2,)]):
        with pytest.raises((FormatError, ObjectNotFoundError)):
            chunks.lengths(np.array(asked, np.uint32))
    for listing in (lambda: chunks.leaves(()), lambda: chunks.children(()), lambda: chunks.num_chunks):
        with pytest.raises((FormatError, ObjectNotFoundError)):
            listing()
    # Nothing remembers the error.
    refs = ArrayRefs.from_refs(node_id(1), 1, inline((2,)).items())
    repaired = builder.manifest(refs)
    builder.storage.copy(manifest_key(repaired), manifest_key(malformed))
    assert chunks.find((2,)) == InlineRef(b"(2,)")


def test_chunks_outside_of_the_grid_do_not_exist():
    builder = RepoBuilder()
    refs = inline(*itertools.product(range(6), range(6)))
    whole = builder.array("/a", 1, (6, 6), refs)
    shrunk = builder.array_of("/a", 1, (3, 6), whole.array.manifests)
    chunks = chunks_of(builder, shrunk)
    assert chunks.find((3, 0)) is None
    assert chunks.find((2, 5)) == InlineRef(b"(2, 5)")
    assert chunks.children(()).tolist() == [0, 1, 2]
    assert not chunks.has_prefix((3,))
    many(chunks, list(refs))
    assert listed(chunks) == sorted(index for index in refs if index[0] < 3)
    assert chunks.num_chunks == 18
    empty = chunks_of(builder, builder.array_of("/a", 1, (0, 6), whole.array.manifests))
    assert empty.num_chunks == 0
    assert empty.find((0, 0)) is None
    assert not empty.has_prefix(())


def test_references_outside_of_their_manifests_extents_do_not_exist():
    builder = RepoBuilder()
    manifest = builder.manifest(ArrayRefs.from_refs(node_id(1), 1, inline((0,), (1,), (2,), (3,)).items()))
    chunks = chunks_of(builder, builder.array_of("/a", 1, (9,), [ManifestRef(manifest, ((1, 3),))]))
    assert [index for index in range(9) if chunks.find((index,))] == [1, 2]
    many(chunks, [(index,) for index in range(9)])
    assert chunks.leaves(())[0].tolist() == [1, 2]
    assert chunks.num_chunks == 2


@pytest.mark.parametrize("extra", [0, 7])
def test_where_extents_overlap_the_first_manifest_answers_alone(extra):
    builder = RepoBuilder()
    first = builder.manifest(ArrayRefs.from_refs(node_id(1), 1, inline((1,), (3,), tag="first").items()))
    second = builder.manifest(ArrayRefs.from_refs(node_id(1), 1, inline((2,), (3,), (5,), tag="second").items()))
    apart = [ManifestRef(second, ((100 + number, 101 + number),)) for number in range(extra)]
    refs = [ManifestRef(first, ((1, 4),)), *apart, ManifestRef(second, ((0, 9),))]
    chunks = chunks_of(builder, builder.array_of("/a", 1, (200,), refs))
    assert chunks.find((2,)) is None, "the first manifest answers for 2, and has nothing"
    assert chunks.find((3,)) == InlineRef(b"first(3,)")
    assert chunks.find((5,)) == InlineRef(b"second(5,)")
    assert many(chunks, [(index,) for index in (5, 3, 2, 1)]) == [10, 9, None, 9]
    assert chunks.leaves(())[0].tolist() == [1, 3, 5]
    assert sorted(batched(chunks)) == [(1,), (3,), (5,)]


def test_what_one_snapshot_hides_another_may_show():
    builder = RepoBuilder()
    first = builder.manifest(ArrayRefs.from_refs(node_id(1), 1, inline((1,)).items()))
    second = builder.manifest(ArrayRefs.from_refs(node_id(1), 1, inline((2,), (5,), (8,)).items()))
    assets = AssetManager(builder.storage)
    for hidden in (2, 5, 8, None):
        claims = [] if hidden is None else [ManifestRef(first, ((hidden, hidden + 1),))]
        node = builder.array_of("/a", 1, (9,), [*claims, ManifestRef(second, ((0, 9),))])
        assert ArrayChunks(assets, node).leaves(())[0].tolist() == [at for at in (2, 5, 8) if at != hidden]


def test_another_number_of_dimensions_is_an_error_of_the_array():
    builder = RepoBuilder()
    flat = builder.manifest(ArrayRefs.from_refs(node_id(1), 1, inline((0,)).items()))
    in_manifest = chunks_of(builder, builder.array_of("/a", 1, (2, 2), [ManifestRef(flat, ((0, 1), (0, 1)))]))
    in_extents = chunks_of(builder, builder.array_of("/a", 1, (2, 2), [ManifestRef(flat, ((0, 1),))]))
    for chunks in (in_manifest, in_extents):
        for call in (
            lambda chunks=chunks: chunks.find((0, 0)),
            lambda chunks=chunks: chunks.children(()),
            lambda chunks=chunks: chunks.leaves((0,)),
            lambda chunks=chunks: list(chunks.iter_batches()),
            lambda chunks=chunks: chunks.has_prefix((0,)),
            lambda chunks=chunks: chunks.lengths(np.zeros((1, 2), np.uint32)),
        ):
            with pytest.raises(FormatError):
                call()


def test_a_manifest_without_the_array_has_no_chunks_of_it():
    builder = RepoBuilder()
    other = builder.manifest(ArrayRefs.from_refs(node_id(2), 2, inline((0, 0)).items()))
    chunks = chunks_of(builder, builder.array_of("/a", 1, (2,), [ManifestRef(other, ((0, 1),))]))
    assert chunks.find((0,)) is None
    assert many(chunks, [(0,), (1,)]) == [None, None]
    assert chunks.num_chunks == 0


def test_manifests_may_hold_several_arrays():
    builder = RepoBuilder()
    one = ArrayRefs.from_refs(node_id(1), 1, inline((0,), tag="one").items())
    two = ArrayRefs.from_refs(node_id(2), 2, inline((0, 0), (1, 1), tag="two").items())
    manifest = builder.manifest(one, two)
    assets = AssetManager(builder.storage)
    first = ArrayChunks(assets, builder.array_of("/a", 1, (1,), [ManifestRef(manifest, ((0, 1),))]))
    second = ArrayChunks(assets, builder.array_of("/b", 2, (2, 2), [ManifestRef(manifest, ((0, 2), (0, 2)))]))
    assert first.find((0,)) == InlineRef(b"one(0,)")
    assert second.find((1, 1)) == InlineRef(b"two(1, 1)")
    assert len(assets.manifests) == 1


def test_a_huge_grid_costs_nothing():
    builder = RepoBuilder()
    top = 2**32 - 1
    refs = inline((0,) * 8, (top - 1,) * 8)
    chunks = chunks_of(builder, builder.array("/a", 1, (top,) * 8, refs))
    assert chunks.find((top - 1,) * 8) == InlineRef(str((top - 1,) * 8).encode())
    assert chunks.find((5,) * 8) is None
    assert many(chunks, [(top - 1,) * 8, (5,) * 8, (0,) * 8]) == [len(str((top - 1,) * 8)), None, 24]
    assert chunks.children(()).tolist() == [0, top - 1]
    assert chunks.leaves((0,) * 7)[0].tolist() == [0]
    assert chunks.num_chunks == 2


def test_manifests_that_all_claim_everything_are_refused():
    builder = RepoBuilder()
    top = 2**32 - 1
    manifest = builder.manifest(ArrayRefs.from_refs(node_id(1), 3, inline((0, 0, 0)).items()))
    claims = [ManifestRef(manifest, ((0, top),) * 3)] * 5000
    chunks = chunks_of(builder, builder.array_of("/a", 1, (top,) * 3, claims))
    for call in (lambda: chunks.find((0, 0, 0)), lambda: chunks.children(()), lambda: chunks.num_chunks):
        with pytest.raises(FormatError, match="overlap"):
            call()


@pytest.mark.parametrize("seed", range(5))
def test_overlaps_are_found_whatever_the_layout(seed):
    rng = random.Random(seed)
    boxes = []
    for _ in range(rng.choice([3, 40])):
        corner = [rng.randrange(30) for _ in range(2)]
        boxes.append(tuple((low, low + rng.randrange(0, 4)) for low in corner))
    found = Boxes((25, 25), boxes, name="/a")
    cut = [{(i, j) for i in range(*box[0]) for j in range(*box[1])} for box in found.boxes]
    expected = {}
    for number, cells in enumerate(cut):
        earlier = tuple(found.boxes[other] for other in range(number) if cells & cut[other])
        if earlier:
            expected[number] = earlier
    assert found.overlaps == expected
    for index in itertools.product(range(25), range(25)):
        assert found.find(index) == next((number for number, cells in enumerate(cut) if index in cells), None)
    cells = rng.sample(list(itertools.product(range(25), range(25))), 200)
    columns = [np.array(column, np.uint32) for column in zip(*cells, strict=True)]
    numbers = [number if number >= 0 else None for number in found.find_many(columns).tolist()]
    assert numbers == [found.find(index) for index in cells]
    for row in range(25):
        holding = [number for number, box in enumerate(found.boxes) if box[0][0] <= row < box[0][1]]
        assert found.below((row,)) == holding


@pytest.mark.slow
def test_many_manifests_in_a_sound_layout_are_compared_fast():
    side = 100
    boxes = [((i, i + 1), (j, j + 1)) for i in range(side) for j in range(side)]
    random.Random(0).shuffle(boxes)
    found = Boxes((side, side), boxes, name="/a")
    assert found.overlaps == {}
    assert found.boxes[found.find((99, 0))] == ((99, 100), (0, 1))


def test_batches_are_columns():
    builder = RepoBuilder()
    native = NativeRef(builder.chunk(b"xyz").chunk_id, 1, 2)
    chunks = chunks_of(builder, builder.array("/a", 1, (4, 4), {(0, 1): native, (2, 3): InlineRef(b"abc")}))
    (batch,) = chunks.iter_batches()
    assert len(batch) == 2
    assert [column.tolist() for column in batch.coords] == [[0, 2], [1, 3]]
    assert batch.indices().dtype == np.uint32
    assert batch.kinds.tolist() == [ChunkKind.NATIVE, ChunkKind.INLINE]
    assert batch.lengths.tolist() == [2, 3]
    assert batch.offsets.tolist() == [1, 0]
    assert batch.ref(0) == native
    assert [len(batch) for batch in chunks.iter_batches(1)] == [1, 1]


def test_a_manifest_is_decoded_once_for_all_threads_that_want_it_at_once():
    builder = RepoBuilder()
    node = builder.array("/a", 1, (64,), inline(*((number,) for number in range(64))))
    reads = []
    gate = threading.Event()
    real = builder.storage.get

    def slow(key, **range_):
        reads.append(key)
        gate.wait(10)
        return real(key, **range_)

    builder.storage.get = slow
    chunks = chunks_of(builder, node)
    found = []
    threads = [threading.Thread(target=lambda n=n: found.append(chunks.length((n,)))) for n in range(8)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(10)
    assert found == [4] * 8
    assert len(reads) == 1


def test_an_unknown_manifest_id_is_an_error_of_the_array():
    builder = RepoBuilder()
    node = builder.array_of("/a", 1, (2,), [ManifestRef(ManifestId(bytes(12)), ((0, 2),))])
    with pytest.raises(ObjectNotFoundError):
        chunks_of(builder, node).find((0,))
