"""What the engine keeps on disk: everything immutable, once, and under no other repository's name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icefs.engine.read.assets import coalesce
from icefs.engine.repository import Repository
from icefs.errors import InvalidObjectSizeError, ObjectNotFoundError
from icefs.format.ids import ChunkId
from icefs.format.layout import chunk_key
from icefs.format.manifest.refs import NativeRef
from icefs.storage.cache.disk import DiskCache
from icefs.storage.memory import MemoryStorage
from tests.support.repo_builder import RepoBuilder, group

PACKED = ChunkId(b"packed......")
DATA = bytes(range(256)) * 400


class Counted(MemoryStorage):
    """Counts what is read."""

    def __init__(self):
        super().__init__("")
        self.reads = []

    def get(self, key, *, start=0, end=None):
        self.reads.append((key, start, end))
        return super().get(key, start=start, end=end)


def built(spec_version=2):
    builder = RepoBuilder(Counted(), spec_version=spec_version)
    builder.storage.put(chunk_key(PACKED), DATA)
    refs = {(at,): NativeRef(PACKED, at * 1000, 1000) for at in range(100)}
    node = builder.array("/a", 1, (100,), refs)
    builder.commit([group("/", 2), node], new_arrays=[1], chunks={1: list(refs)})
    return builder.publish()


def opened(storage, directory):
    return Repository.open(storage, cache=DiskCache(directory, 1 << 30, reserve_bytes=0))


@pytest.mark.parametrize("spec_version", [1, 2])
def test_a_second_reader_asks_for_nothing_that_cannot_change(tmp_path, spec_version):
    storage = built(spec_version)
    for round_number in range(2):
        storage.reads.clear()
        repository = opened(storage, tmp_path / "cache")
        session = repository.readonly_session("main")
        refs = [session.chunk_ref("/a", (at,)) for at in range(100)]
        assert [session.read_chunk(ref) for ref in refs[:50]] == [DATA[at * 1000 :][:1000] for at in range(50)]
        assert session.read_chunks(refs[40:]) == [DATA[at * 1000 :][:1000] for at in range(40, 100)]
        assert session.read_chunk(refs[0], 10, 20) == DATA[10:20]
        if spec_version == 2:
            repository.assets.fetch_transaction_log(session.snapshot_id)
        repository.close()
        kinds = {key.partition("/")[0] for key, _, _ in storage.reads}
        if round_number == 0:
            assert {"chunks", "manifests", "snapshots"} <= kinds
        else:
            # Expiration rewrites the snapshots of spec 1.
            assert not kinds & {"chunks", "manifests", "transactions", *(["snapshots"] if spec_version == 2 else [])}


def test_neighbours_in_one_object_come_together(tmp_path):
    storage = built()
    session = opened(storage, tmp_path / "cache").readonly_session("main")
    refs = [session.chunk_ref("/a", (at,)) for at in range(100)]
    session.read_chunk(refs[10])
    storage.reads.clear()
    assert session.read_chunks(refs) == [DATA[at * 1000 :][:1000] for at in range(100)]
    assert [(start, end) for _, start, end in storage.reads] == [(0, 100_000)]
    session.context.assets.disk_cache.flush()
    storage.reads.clear()
    assert session.read_chunks(refs[::-1]) == [DATA[at * 1000 :][:1000] for at in reversed(range(100))]
    found = session.open_cached(refs[3])
    assert found.read(0, 1000) == DATA[3000:4000]
    found.close()
    assert storage.reads == []
    assert session.context.assets.is_cached(PACKED, 0, 1000)
    assert not session.context.assets.is_cached(PACKED, 0, 1001)
    session.context.close()


def test_an_object_that_is_short_or_gone_is_an_error_and_nothing_is_kept(tmp_path):
    storage = built()
    session = opened(storage, tmp_path / "cache").readonly_session("main")
    refs = [session.chunk_ref("/a", (at,)) for at in range(100)]
    storage.put(chunk_key(PACKED), DATA[:50_500])
    with pytest.raises(InvalidObjectSizeError):
        session.read_chunks(refs)
    storage.delete([chunk_key(PACKED)])
    with pytest.raises(ObjectNotFoundError):
        session.read_chunks(refs[:2])
    session.context.assets.disk_cache.flush()
    assert not any(session.context.assets.is_cached(PACKED, at * 1000, at * 1000 + 1000) for at in range(100))
    session.context.close()


@given(st.lists(st.tuples(st.integers(0, 30_000_000), st.integers(1, 9_000_000)), max_size=30))
def test_runs_hold_every_range_and_nothing_far_apart(pairs):
    ranges = [(start, start + size) for start, size in pairs]
    runs = coalesce(ranges)
    assert sorted(span for run in runs for span in run) == sorted(set(ranges))
    for run in runs:
        assert len(run) == 1 or max(end for _, end in run) - run[0][0] <= 4 << 20
        assert all(start >= run[0][0] for start, _ in run)
