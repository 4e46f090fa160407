"""A store whose requests are counted is the same store."""

import threading

import pytest

from icefs.errors import ObjectNotFoundError, PreconditionFailedError
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from icefs.storage.metered import MeteredRanges, MeteredStorage, StoreMeter
from tests.support.storage_contract import StorageContract


class TestMeteredMemory(StorageContract):
    @pytest.fixture
    def storage(self):
        return MeteredStorage(MemoryStorage(), StoreMeter())


class TestMeteredLocal(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path):
        return MeteredStorage(LocalStorage(tmp_path), StoreMeter())


@pytest.fixture
def storage():
    return MeteredStorage(MemoryStorage(), StoreMeter())


def test_each_kind_of_request_is_counted(storage, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    version = storage.put("chunks/A", b"123")
    storage.put_file("chunks/B", str(file))
    storage.get("chunks/A", start=1)
    storage.get_if_changed("chunks/A", version)
    storage.head("chunks/B")
    storage.copy("chunks/A", "manifests/C")
    assert len(list(storage.iter_objects("chunks/"))) == 2
    assert len(list(storage.list_dir())) == 2
    storage.delete(["chunks/A", "chunks/B"])
    counts = storage.meter.counts()
    assert {op: timing.count for op, timing in counts.timings.items()} == {
        "get": 2,
        "head": 1,
        "read_range": 0,
        "put": 2,
        "copy": 1,
        "list": 2,
        "delete": 1,
    }
    assert counts.objects[("put", "chunks")] == 2
    assert counts.objects[("copy", "manifests")] == 1
    assert (counts.written_bytes, counts.read_bytes, counts.in_flight) == (8, 2, 0)
    assert counts.errors == {}
    assert all(timing.total_ns > 0 for timing in counts.timings.values() if timing.count)


class Beginning(MemoryStorage):
    """Reads at once what is there, and begins nothing for what is named so."""

    def start_read(self, key, start, end, done):
        if key == "chunks/never":
            return False
        try:
            done(self.get(key, start=start, end=end).data)
        except ObjectNotFoundError:
            done(None)
        return True


def test_what_is_begun_is_counted_once_it_is_there():
    storage = MeteredStorage(Beginning(), StoreMeter())
    storage.put("chunks/A", b"123")
    got = []
    assert storage.start_read("chunks/A", 1, 3, got.append)
    assert storage.start_read("chunks/gone", 1, 3, got.append)
    assert not storage.start_read("chunks/never", 1, 3, got.append)
    assert got == [b"23", None]
    counts = storage.meter.counts()
    assert (counts.timings["get"].count, counts.read_bytes, counts.in_flight, counts.errors) == (1, 2, 0, {})
    assert counts.objects[("get", "chunks")] == 1


def test_failures_are_counted_by_kind(storage):
    for _ in range(2):
        with pytest.raises(ObjectNotFoundError):
            storage.get("chunks/A")
    storage.put("repo", b"")
    with pytest.raises(PreconditionFailedError):
        storage.put("repo", b"x", create_only=True)
    counts = storage.meter.counts()
    assert sum(counts.errors.values()) == 3
    assert {op for op, _ in counts.errors} == {"get", "put"}
    assert counts.timings["get"].count == 2
    assert (counts.written_bytes, counts.in_flight) == (0, 0)


def test_a_listing_that_is_not_finished_is_counted_when_it_is_let_go(storage):
    for name in "abc":
        storage.put(name, b"")
    listing = storage.iter_objects()
    next(listing)
    assert storage.meter.counts().in_flight == 1
    listing.close()
    counts = storage.meter.counts()
    assert (counts.in_flight, counts.timings["list"].count) == (0, 1)


def test_the_kinds_of_objects_are_bounded(storage):
    for number in range(1000):
        storage.put(f"{number}/x", b"")
    assert len(storage.meter.counts().objects) <= 32 * 7 + 1


def test_threads_count_together(storage):
    def write():
        for _ in range(300):
            storage.put("a", b"12")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = storage.meter.counts()
    assert (counts.timings["put"].count, counts.written_bytes, counts.in_flight) == (1200, 2400, 0)


class Retrying(MemoryStorage):
    """Says that it tries again, as stores do that are far away."""

    def watch_retries(self, tell):
        self.tell = tell


def test_tries_are_counted_besides_requests():
    inner, seen = Retrying(), []
    storage = MeteredStorage(inner, StoreMeter())
    inner.tell("read", "throttled")
    storage.watch_retries(lambda *what: seen.append(what))
    inner.tell("read", "throttled")
    inner.tell("write", "unreachable")
    assert storage.meter.counts().retries == {("read", "throttled"): 2, ("write", "unreachable"): 1}
    assert seen == [("read", "throttled"), ("write", "unreachable")]


def test_ranges_of_foreign_objects_are_counted_as_what_they_are():
    inner, meter = MemoryStorage(), StoreMeter()
    inner.put("data/file", b"0123456789")
    reader = MeteredRanges(inner, meter, "virtual")
    assert reader.read_range("data/file", 1, 3) == b"12"
    with pytest.raises(ObjectNotFoundError):
        reader.read_range("data/missing", 1, 3)
    counts = meter.counts()
    assert counts.objects == {("read_range", "virtual"): 2}
    assert (counts.read_bytes, sum(counts.errors.values())) == (2, 1)
