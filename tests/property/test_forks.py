"""Chunks written, deleted and shifted in a session and its forks, merged in any order, against dictionaries."""

import json
import pickle
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from icefs.engine.read.session import Session
from icefs.engine.write import forks
from icefs.engine.write.pickling import restore_session, session_state
from icefs.engine.write.reindex import reindex_array, shift_array
from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.session import WritableSession
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.config.manifest import (
    ManifestConfig,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    ManifestSplittingConfig,
)
from icefs.format.config.values import RepositoryConfig
from icefs.storage.memory import MemoryStorage

type Index = tuple[int, ...]
type Chunks = dict[Index, bytes]

GRID = (4, 3)
ALL = list(product(*map(range, GRID)))
SPLITTING = ManifestSplittingConfig.from_dict({ManifestSplitCondition.AnyArray(): {ManifestSplitDimCondition.Any(): 2}})
ZARR_JSON = json.dumps(
    {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(GRID),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 1]}},
    }
).encode()

PLACES = st.sampled_from(ALL)
OPERATIONS = st.one_of(
    st.tuples(st.just("set"), PLACES),
    st.tuples(st.just("delete"), st.lists(PLACES, max_size=3)),
    st.tuples(st.just("shift"), st.tuples(st.integers(-2, 2), st.integers(-2, 2))),
    st.tuples(st.just("roll"), st.integers(0, 3)),
)
# The actor: the origin before it is forked, or one of its forks.
STEPS = st.lists(st.tuples(st.integers(0, 3), OPERATIONS), max_size=14)


class Writer:
    """A session and what it should hold.

    Attributes:
        chunks: All of its chunks.
        changes: What it has changed; None for a chunk that was deleted.
    """

    def __init__(self, session: WritableSession, chunks: Chunks) -> None:
        self.session = session
        self.chunks = dict(chunks)
        self.changes: dict[Index, bytes | None] = {}

    def do(self, kind: str, argument: object, data: bytes) -> None:
        before = dict(self.chunks)
        match kind, argument:
            case "set", tuple(place):
                self.session.chunks.set("/a", place, data)
                self.chunks[place] = data
                self.changes[place] = data
                return
            case "delete", list(places):
                self.session.chunks.delete("/a", ChunkIndices.from_indices(2, places))
                self.chunks = {place: value for place, value in before.items() if place not in places}
                self.changes |= dict.fromkeys(places)
                return
            case "shift", (int(down), int(right)):
                shift_array(self.session, "/a", (down, right))
                moved = {(row + down, column + right): value for (row, column), value in before.items()}
            case "roll", int(rows):
                size = GRID[0]
                reindex_array(
                    self.session,
                    "/a",
                    lambda index: ((index[0] + rows) % size, index[1]),
                    lambda index: ((index[0] - rows) % size, index[1]),
                )
                moved = {((row + rows) % size, column): value for (row, column), value in before.items()}
        self.chunks = {place: value for place, value in moved.items() if place in ALL}
        self.changes |= dict.fromkeys(before) | self.chunks

    def check(self) -> None:
        assert read(self.session) == self.chunks


def read(session: Session) -> Chunks:
    chunks = session.array_chunks("/a")
    return {
        tuple(index): session.read_chunk(batch.ref(row))
        for batch in chunks.iter_batches(3)
        for row, index in enumerate(batch.indices().tolist())
    }


def sent(session: WritableSession) -> WritableSession:
    restored = restore_session(*pickle.loads(pickle.dumps(session_state(session))))
    assert isinstance(restored, WritableSession)
    return restored


@given(committed=st.lists(PLACES, unique=True), steps=STEPS, order=st.permutations([1, 2, 3]), together=st.booleans())
def test_what_forks_wrote_is_what_their_origin_commits(
    committed: list[Index], steps: list[tuple[int, tuple[str, object]]], order: list[int], together: bool
):
    config = RepositoryConfig(inline_chunk_threshold_bytes=4, manifest=ManifestConfig(splitting=SPLITTING))
    repo = WritableRepository.create(MemoryStorage(), config)
    session = repo.writable_session("main")
    session.nodes.put("/a", ZARR_JSON)
    base = {place: b"base %d%d" % place for place in committed}
    for place, data in base.items():
        session.chunks.set("/a", place, data)
    session.commit("base")

    origin = Writer(repo.writable_session("main"), base)
    for number, (who, (kind, argument)) in enumerate(steps):
        if who == 0:
            origin.do(kind, argument, b"%d" % number)
    origin.check()
    writers = [Writer(sent(forks.fork(origin.session)), origin.chunks) for _ in range(3)]
    for number, (who, (kind, argument)) in enumerate(steps):
        if who:
            writers[who - 1].do(kind, argument, b"fork %d" % number if number % 2 else b"%d" % number)
    expected: dict[Index, bytes | None] = dict(origin.chunks)
    back = []
    for which in order:
        writers[which - 1].check()
        expected |= writers[which - 1].changes
        back.append(sent(writers[which - 1].session))
    for some in [back] if together else [[each] for each in back]:
        forks.merge(origin.session, some)
    origin.chunks = {place: data for place, data in expected.items() if data is not None}
    origin.check()
    origin.session.commit("merged", allow_empty=True)
    assert read(repo.readonly_session("main")) == origin.chunks
