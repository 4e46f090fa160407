"""The chunk writer stores each chunk once, where its size says, and tells its source of it, whatever fails."""

import threading
import time

import pytest

from icefs.engine.write.chunk_writer import ChunkColumns, ChunkWriter, Row
from icefs.errors import StorageError
from icefs.format.ids import NodeId
from icefs.format.layout import chunk_key
from icefs.format.manifest.refs import ChunkKind, InlineRef, NativeRef, VirtualRef
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from tests.support.faulty import FaultyStorage

INLINE = 100
PACK = 8000  # so that chunks below 1000 bytes share objects


class Chunks(ChunkColumns):
    """Chunks of one dimension, in memory."""

    def __init__(self, data):
        super().__init__([range(len(data))], [len(each) for each in data])
        self.data = data

    def rows(self):
        return [Row(self, number) for number in range(len(self.data))]


class Source:
    """Gives bytes out of memory, and writes down its calls."""

    def __init__(self, storage):
        self.storage = storage
        self.is_stored, self.is_done, self.beats = [], [], 0
        self.end_at = None
        self.lock = threading.Lock()

    def read(self, row):
        return row.columns.data[row.number]

    def store(self, row, key):
        self.storage.put(key, self.read(row))

    def stored(self, rows, offsets, chunk_id):
        with self.lock:
            self.is_stored += [(row.number, chunk_id, offset) for row, offset in zip(rows, offsets, strict=True)]

    def done(self, rows):
        self.is_done += [row.number for row in rows]

    def beat(self):
        self.beats += 1
        if self.beats == self.end_at:
            raise KeyboardInterrupt


def chunks_of(sizes):
    return Chunks([bytes([1 + number % 250]) * size for number, size in enumerate(sizes)])


def contents(storage, chunks):
    """Reads each chunk by its reference."""
    found = []
    refs = chunks.refs(NodeId.random())
    for row in range(len(refs)):
        ref = refs.ref(row)
        if isinstance(ref, InlineRef):
            found.append(ref.data)
        else:
            start, end = ref.offset_bytes, ref.offset_bytes + ref.length_bytes
            found.append(storage.get(chunk_key(ref.chunk_id), start=start, end=end).data)
    return found


@pytest.fixture(params=["memory", "local"])
def storage(request, tmp_path):
    return MemoryStorage() if request.param == "memory" else LocalStorage(tmp_path / "repo")


def test_each_chunk_goes_where_its_size_says(storage):
    source, chunks = Source(storage), chunks_of([1, 100, 101, 999, 1000, 5000] * 40)
    ChunkWriter(storage, INLINE, PACK, source).run(chunks.rows())
    assert contents(storage, chunks) == chunks.data
    kinds = [ChunkKind(kind) for kind in chunks.kinds]
    assert [kind is ChunkKind.INLINE for kind in kinds] == [size <= INLINE for size in chunks.sizes]
    shared = {}
    for number, chunk_id, offset in source.is_stored:
        shared.setdefault(chunk_id, []).append((number, offset))
    for rows in shared.values():
        assert len(rows) == 1 or all(INLINE < chunks.sizes[number] < 1000 for number, _ in rows)
        assert len(rows) > 1 or chunks.sizes[rows[0][0]] >= 1000
        assert sum(chunks.sizes[number] for number, _ in rows) <= PACK
    assert sorted(number for number, _, _ in source.is_stored) == [
        number for number, size in enumerate(chunks.sizes) if size > INLINE
    ]
    assert sorted(source.is_done) == list(range(len(chunks.data)))
    assert len(list(storage.iter_objects("chunks/"))) == len(shared)


def test_several_arrays_share_an_object(storage):
    source, one, other = Source(storage), chunks_of([500] * 3), chunks_of([700] * 3)
    ChunkWriter(storage, INLINE, PACK, source).run([*one.rows(), *other.rows()])
    assert (contents(storage, one), contents(storage, other)) == (one.data, other.data)
    assert len(list(storage.iter_objects("chunks/"))) == 1


def test_without_a_pack_size_each_chunk_has_an_object(storage):
    source, chunks = Source(storage), chunks_of([INLINE + 1] * 20)
    ChunkWriter(storage, INLINE, 0, source).run(chunks.rows())
    assert contents(storage, chunks) == chunks.data
    assert len(list(storage.iter_objects("chunks/"))) == 20


def test_references_that_there_are_stand_next_to_new_ones(storage):
    source, chunks = Source(storage), chunks_of([500] * 4)
    kept = VirtualRef("s3://bucket/key", 7, 30, None, 0)
    chunks.set(1, InlineRef(b"known"))
    chunks.set(2, kept)
    ChunkWriter(storage, INLINE, PACK, source).run([Row(chunks, 0), Row(chunks, 3)])
    refs = chunks.refs(NodeId.random())
    assert refs.ref(1) == InlineRef(b"known")
    assert (refs.ref(2).location, refs.ref(2).offset_bytes, refs.ref(2).length_bytes) == ("s3://bucket/key", 7, 30)
    assert all(isinstance(refs.ref(row), NativeRef) for row in (0, 3))
    assert sorted(source.is_done) == [0, 3]


def test_nothing_to_store_is_one_beat(storage):
    source = Source(storage)
    ChunkWriter(storage, INLINE, PACK, source).run([])
    assert (source.beats, source.is_done) == (1, [])


@pytest.mark.parametrize("at", [1, 2, 9, 30])
@pytest.mark.parametrize("answer_lost", [False, True])
def test_an_error_ends_it_and_what_is_stored_is_told(at, answer_lost):
    storage = FaultyStorage(MemoryStorage())
    source, chunks = Source(storage), chunks_of([2000] * 40)
    (storage.lose_answer if answer_lost else storage.fail)(methods="put", at=at)
    with pytest.raises(StorageError):
        ChunkWriter(storage, INLINE, PACK, source).run(chunks.rows())
    # The source knows of chunks that were under way, too: an object that it knows nothing of is one that failed.
    keys = {info.key for info in storage.iter_objects("chunks/")}
    told = {chunk_key(chunk_id) for number, chunk_id, _ in source.is_stored}
    assert told <= keys
    assert len(keys - told) == int(answer_lost)
    assert sorted(source.is_done) == sorted(number for number, _, _ in source.is_stored)


def test_the_source_can_end_it():
    storage = MemoryStorage()
    source, chunks = Source(storage), chunks_of([2000] * 400)
    source.end_at = 3
    with pytest.raises(KeyboardInterrupt):
        ChunkWriter(storage, INLINE, PACK, source).run(chunks.rows())
    assert 0 < len(source.is_done) < 400
    assert sorted(source.is_done) == sorted(number for number, _, _ in source.is_stored)


def test_the_source_hears_a_beat_while_a_store_is_slow():
    storage = FaultyStorage(MemoryStorage())
    storage.interfere(lambda: time.sleep(0.7), methods="put", keys="chunks/")
    source, chunks = Source(storage), chunks_of([2000])
    ChunkWriter(storage, INLINE, PACK, source).run(chunks.rows())
    assert source.beats >= 4


@pytest.mark.parametrize("is_slow", [False, True])
def test_more_threads_store_where_the_disk_is_slow(tmp_path, is_slow):
    storage = FaultyStorage(LocalStorage(tmp_path / "repo"))
    running: set[int] = set()
    most = 0

    def store():
        nonlocal most
        running.add(threading.get_ident())
        most = max(most, len(running))
        time.sleep(0.2 if is_slow else 0)
        running.discard(threading.get_ident())

    storage.interfere(store, methods="put", keys="chunks/", times=None)
    source, chunks = Source(storage), chunks_of([20_000] * 60)
    limit = 0 if is_slow else float("inf")
    ChunkWriter(storage, INLINE, 200_000, source, slow_chunk_s=limit).run(chunks.rows())
    storage.clear()
    assert contents(storage, chunks) == chunks.data
    assert most > 2 if is_slow else 1 <= most <= 2
