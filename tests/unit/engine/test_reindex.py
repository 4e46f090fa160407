"""Moving the chunks of an array by their references, compared with a loop over a dictionary."""

import itertools
import json
import random
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest

from icefs.engine.write.reindex import reindex_array, shift_array
from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.session import WritableSession
from icefs.errors import InvalidInputError, NodeNotFoundError, ReadOnlyError, SessionStateError, UnsupportedError
from icefs.format.config.manifest import (
    ManifestConfig,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    ManifestSplittingConfig,
)
from icefs.format.config.values import RepositoryConfig
from icefs.format.ids import ChunkId
from icefs.format.manifest.refs import ArrayRefs, ChunkKind, InlineRef, NativeRef, VirtualRef
from icefs.storage.memory import MemoryStorage

type Index = tuple[int, ...]
type Chunks = dict[Index, object]


def array(shape: Sequence[int], **more: object) -> bytes:
    grid = {"name": "regular", "configuration": {"chunk_shape": [1] * len(shape)}}
    document = {"zarr_format": 3, "node_type": "array", "shape": list(shape), "chunk_grid": grid, **more}
    return json.dumps(document).encode()


def repository() -> WritableRepository:
    """Makes a repository whose manifests hold few chunks each."""
    condition = (ManifestSplitDimCondition.Any(), 3)
    splitting = ManifestSplittingConfig.from_dict({ManifestSplitCondition.AnyArray(): dict([condition])})
    return WritableRepository.create(MemoryStorage(), RepositoryConfig(manifest=ManifestConfig(splitting=splitting)))


def some_ref(number: int) -> InlineRef | NativeRef | VirtualRef:
    match number % 3:
        case 0:
            return InlineRef(b"inline %d" % number)
        case 1:
            return NativeRef(ChunkId.random(), number, number + 1)
        case _:
            return VirtualRef(f"s3://bucket/{number}", number, 5, etag=f"e{number}")


def contents(session: WritableSession) -> Chunks:
    chunks = session.array_chunks("/a")
    found: Chunks = {}
    for batch in chunks.iter_batches():
        found |= {tuple(index): batch.ref(row) for row, index in enumerate(batch.indices().tolist())}
    assert all(chunks.find(index) == ref for index, ref in found.items())
    return found


@pytest.fixture(params=[(7,), (5, 4), (3, 2, 4)], ids=str)
def session(request: pytest.FixtureRequest) -> WritableSession:
    """A session with chunks of all kinds in several manifests, and with changes to them."""
    shape: Index = request.param
    repo = repository()
    session = repo.writable_session("main")
    session.nodes.put("/a", array(shape))
    places = list(itertools.product(*map(range, shape)))
    for number, place in enumerate(places):
        if number % 4:
            session.chunks.set_ref("/a", place, some_ref(number))
    session.commit("base")
    session = repo.writable_session("main")
    session.chunks.set_ref("/a", places[1], None)
    session.chunks.set_ref("/a", places[0], some_ref(1000))
    return session


def grid_of(session: WritableSession) -> Index:
    return session.array_chunks("/a").grid_shape


@pytest.mark.parametrize("steps", [(1, 0, -1), (-2, 1, 0), (0, 0, 0), (100, 0, 1), (-(2**70), 1, 1), (2**64, 0, 0)])
def test_a_shift_moves_what_stays_inside(session: WritableSession, steps: Index):
    before, grid = contents(session), grid_of(session)
    offset = steps[: len(grid)]
    moved = {tuple(map(int.__add__, place, offset)): ref for place, ref in before.items()}
    shift_array(session, "/a", offset)
    expected = {
        place: ref for place, ref in moved.items() if all(0 <= at < size for at, size in zip(place, grid, strict=True))
    }
    assert contents(session) == expected
    session.commit("shifted")
    assert contents(WritableRepository(session.context).writable_session("main")) == expected


def test_what_a_shift_touches_is_committed_as_changed(session: WritableSession):
    changed = [*session.status().updated_chunks["/a"], *contents(session)]
    shift_array(session, "/a", [1] * len(grid_of(session)))
    changed += contents(session)
    assert sorted(map(tuple, session.status().updated_chunks["/a"])) == sorted(set(map(tuple, changed)))


def test_a_reindex_without_a_way_back_leaves_what_moved(session: WritableSession):
    before, grid = contents(session), grid_of(session)
    asked: list[Index] = []

    def forward(index: list[int]) -> list[int] | None:
        asked.append(tuple(index))
        return [size - 1 - at for at, size in zip(index, grid, strict=True)] if index[0] else None

    reindex_array(session, "/a", forward)
    moved = {tuple(size - 1 - at for at, size in zip(p, grid, strict=True)): r for p, r in before.items() if p[0]}
    assert contents(session) == before | moved
    assert sorted(asked) == sorted(before)


def test_a_reindex_with_a_way_back_is_a_permutation(session: WritableSession):
    before, grid = contents(session), grid_of(session)
    places = list(itertools.product(*map(range, grid)))
    shuffled = random.Random(1).sample(places, len(places))
    to = dict(zip(places, shuffled, strict=True))
    back = dict(zip(shuffled, places, strict=True))
    reindex_array(session, "/a", lambda index: to[tuple(index)], lambda index: back[tuple(index)])
    assert contents(session) == {to[place]: ref for place, ref in before.items()}
    session.commit("permuted")
    assert contents(WritableRepository(session.context).writable_session("main")) == {
        to[p]: ref for p, ref in before.items()
    }


def test_the_way_back_empties_what_nothing_takes(session: WritableSession):
    before = contents(session)
    kept = max(before)
    reindex_array(session, "/a", lambda _: None, lambda index: index if tuple(index) == kept else None)
    assert contents(session) == {kept: before[kept]}


def test_of_several_chunks_for_one_place_the_last_stays(session: WritableSession):
    before = contents(session)
    reindex_array(session, "/a", lambda index: [0] * len(index))
    assert contents(session) == before | {(0,) * len(grid_of(session)): before[max(before)]}


@pytest.mark.parametrize(
    "bad",
    [lambda i: [-1] * len(i), lambda i: [7] * len(i), lambda i: [*i, 0], lambda i: i[1:], lambda i: 3, lambda i: "x",
     lambda i: [0.5] * len(i), lambda i: [2**32] * len(i)],
)  # fmt: skip
def test_a_function_that_returns_no_index_changes_nothing(session: WritableSession, bad):
    before = contents(session)
    last = max(before)

    def forward(index: list[int]):
        return bad(index) if tuple(index) == last else index

    with pytest.raises(InvalidInputError) as caught:  # Divergence 68
        reindex_array(session, "/a", forward)
    assert caught.value.kind == "invalid-chunk-index"
    assert contents(session) == before


def test_what_a_function_raises_comes_out(session: WritableSession):
    before = contents(session)
    with pytest.raises(ZeroDivisionError):
        reindex_array(session, "/a", lambda index: [1 // 0])
    with pytest.raises(ZeroDivisionError):
        reindex_array(session, "/a", lambda index: None, lambda index: [1 // 0])
    assert contents(session) == before
    with pytest.raises(SessionStateError):  # the session is in use
        reindex_array(session, "/a", lambda index: session.chunks.set_ref("/a", index, None))


@pytest.mark.parametrize("offset", [[], [1] * 4])
def test_an_offset_of_another_rank_is_refused(session: WritableSession, offset: list[int]):
    with pytest.raises(InvalidInputError, match="dimensions"):  # Divergence 67
        shift_array(session, "/a", offset)


def test_a_scalar_stays_where_it_is():
    session = repository().writable_session("main")
    session.nodes.put("/a", array([]))
    shift_array(session, "/a", [])
    assert not session.draft.changes.chunks
    session.chunks.set_ref("/a", (), InlineRef(b"x"))
    shift_array(session, "/a", [])
    reindex_array(session, "/a", lambda index: index, lambda index: index)
    reindex_array(session, "/a", lambda index: None)
    assert contents(session) == {(): InlineRef(b"x")}
    reindex_array(session, "/a", lambda index: None, lambda index: None)
    assert contents(session) == {}


def test_sessions_and_nodes_that_cannot_be_shifted():
    repo = repository()
    session = repo.writable_session("main")
    session.nodes.put("/", b'{"zarr_format":3,"node_type":"group"}')
    grid = {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": [[1, 3]]}}
    session.nodes.put("/r", array([4], chunk_grid=grid))
    session.nodes.put("/a", array([4]))
    for path, error in (("/", InvalidInputError), ("/no", NodeNotFoundError), ("/r", UnsupportedError)):
        with pytest.raises(error):
            shift_array(session, path, [1])
        with pytest.raises(error):
            reindex_array(session, path, lambda index: index)
    session.commit("base")
    for other, refusal in ((session, ReadOnlyError), (repo.rearrange_session("main"), SessionStateError)):
        with pytest.raises(refusal):
            shift_array(other, "/a", [1])


@pytest.mark.slow
def test_a_million_chunks_are_shifted_as_columns():
    session = repository().writable_session("main")
    node = session.nodes.put("/a", array([1000, 1000]))
    rows = np.arange(10**6)
    ids = rows.repeat(12).reshape(-1, 12).astype(np.uint8)
    columns = [rows // 1000, rows % 1000]
    refs = ArrayRefs.from_columns(node.id, columns, kinds=ChunkKind.NATIVE, lengths=rows + 1, chunk_ids=ids)
    session.chunks.set_refs("/a", refs)
    tracemalloc.start()
    shift_array(session, "/a", [1, -2])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert session.array_chunks("/a").num_chunks == 999 * 998
    assert session.array_chunks("/a").find((5, 7)).length_bytes == 4 * 1000 + 9 + 1
    assert peak < 400 * len(refs)  # an object per chunk would take more
