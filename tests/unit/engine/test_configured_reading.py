"""Every field of a configuration that the engine obeys is seen at the storage, by its requests."""

import asyncio
import contextlib
import threading
from dataclasses import fields

import pytest
from zarr.core.buffer import default_buffer_prototype

from icefs.engine.read.limits import ReadLimits
from icefs.engine.read.preload import chosen_manifests
from icefs.engine.read.requests import ReadRequests
from icefs.engine.read.workers import Workers
from icefs.engine.repository import Repository
from icefs.engine.write.repository import WritableRepository
from icefs.format.config.manifest import ManifestConfig, ManifestPreloadCondition, ManifestPreloadConfig
from icefs.format.config.storage import StorageConcurrencySettings, StorageSettings
from icefs.format.config.values import CachingConfig, RepositoryConfig
from icefs.storage.memory import MemoryStorage
from icefs.zarr.store import IcechunkStore
from tests.support.repo_builder import RepoBuilder, group

MIB = 1 << 20
MANY = 6


class Recording(MemoryStorage):
    """Records the reads of objects, and how many of them are under way at once.

    Attributes:
        crowd: How many reads wait for each other, for a moment, so that those that may run at once do.
    """

    def __init__(self):
        super().__init__("")
        self.reads = []
        self.crowd, self.peak, self.now = 1, 0, 0
        self.changed = threading.Condition()

    def get(self, key, *, start=0, end=None):
        with self.changed:
            self.reads.append((key, start, end))
            self.now += 1
            self.peak = max(self.peak, self.now)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.now >= self.crowd, 0.1)
        try:
            return super().get(key, start=start, end=end)
        finally:
            with self.changed:
                self.now -= 1

    def kinds(self):
        return [key.partition("/")[0] for key, _, _ in self.reads]


def built(*, chunk_bytes=100, arrays=MANY):
    builder = RepoBuilder(Recording())
    nodes = [group("/", 99)]
    for number in range(1, arrays + 1):
        ref = builder.chunk(bytes([number]) * chunk_bytes)
        nodes.append(builder.array(f"/a{number}", number, (1,), {(0,): ref}))
    builder.commit(nodes, new_arrays=range(1, arrays + 1))
    builder.commit([*nodes, group("/g", 98)], new_groups=[98])
    storage = builder.publish()
    storage.reads.clear()
    return storage


@contextlib.contextmanager
def opened(storage, config):
    with Repository.open(storage, config) as repository:
        yield repository, repository.readonly_session("main")


def refs_of(session):
    return [session.chunk_ref(f"/a{number}", (0,)) for number in range(1, MANY + 1)]


def peak(storage, config, *, read):
    with opened(storage, config) as (repository, session):
        storage.crowd = 3
        read(repository, session)
    return storage.peak


# Caches.


@pytest.mark.parametrize(("limit", "requests"), [(0, 3), (1, 3), (None, 2)])
def test_num_chunk_refs(limit, requests):
    storage = built()
    with opened(storage, RepositoryConfig(caching=CachingConfig(num_chunk_refs=limit))) as (_, session):
        for path in ("/a1", "/a2", "/a1"):
            assert session.chunk_ref(path, (0,)) is not None
    assert storage.kinds().count("manifests") == requests


@pytest.mark.parametrize(("limit", "requests"), [(0, 3), (1, 3), (None, 2)])
def test_num_snapshot_nodes(limit, requests):
    storage = built()
    with Repository.open(storage, RepositoryConfig(caching=CachingConfig(num_snapshot_nodes=limit))) as repository:
        new, old, _ = [info.id for info in repository.ancestry(branch="main")]
        for snapshot_id in (new, old, new):
            repository.session_at(snapshot_id)
    assert storage.kinds().count("snapshots") == requests


@pytest.mark.parametrize(("limit", "requests"), [(0, 3), (1, 3), (None, 2)])
def test_num_transaction_changes(limit, requests):
    storage = built()
    config = RepositoryConfig(caching=CachingConfig(num_transaction_changes=limit))
    with Repository.open(storage, config) as repository:
        new, old, _ = [info.id for info in repository.ancestry(branch="main")]
        for snapshot_id in (new, old, new):
            repository.assets.fetch_transaction_log(snapshot_id)
    assert storage.kinds().count("transactions") == requests


@pytest.mark.parametrize(("limit", "requests"), [(0, 3), (None, 3), (99, 3), (100, 3), (200, 2)])
def test_num_bytes_chunks(limit, requests):
    storage = built()
    with opened(storage, RepositoryConfig(caching=CachingConfig(num_bytes_chunks=limit))) as (_, session):
        first, second, *_ = refs_of(session)
        for ref, number in ((first, 1), (second, 2), (first, 1)):
            assert session.read_chunk(ref) == bytes([number]) * 100
    assert storage.kinds().count("chunks") == requests


# Concurrency.


@pytest.mark.parametrize(("limit", "most"), [(1, 1), (2, 2), (None, MANY)])
def test_max_concurrent_requests(limit, most):
    storage = built()

    def read(repository, session):
        refs = refs_of(session)
        threads = [threading.Thread(target=session.read_chunk, args=[ref]) for ref in refs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert peak(storage, RepositoryConfig(max_concurrent_requests=limit), read=read) <= most
    assert storage.kinds().count("chunks") == MANY


@pytest.mark.parametrize("limit", [1, 2])
def test_get_partial_values_concurrency(limit):
    storage = built()

    def read(repository, session):
        keys = [(f"a{number}/c/0", None) for number in range(1, MANY + 1)]
        found = asyncio.run(IcechunkStore(session).get_partial_values(default_buffer_prototype(), keys))
        assert [value.to_bytes()[0] for value in found] == list(range(1, MANY + 1))

    assert peak(storage, RepositoryConfig(get_partial_values_concurrency=limit), read=read) <= limit


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_max_concurrent_decodes(limit):
    workers, crowd = Workers(MANY), Recording()
    crowd.put("chunks/a", b"a")
    requests = ReadRequests(crowd, workers)
    requests.obey(ReadLimits.of(RepositoryConfig(max_concurrent_decodes=limit)))
    crowd.crowd = 3

    def parse(data, name):
        return crowd.get(name).data == data

    assert all(workers.map(lambda _: requests.decode(parse, b"a", "chunks/a"), range(MANY)))
    assert crowd.peak <= max(1, limit)
    workers.close()


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_max_concurrent_manifest_fetches_during_commit(limit):
    storage = built()
    config = RepositoryConfig(
        manifest=ManifestConfig(max_concurrent_manifest_fetches_during_commit=limit), inline_chunk_threshold_bytes=512
    )
    with WritableRepository.open(storage, config) as repository:
        storage.reads.clear()
        storage.crowd, storage.peak = 3, 0
        tip = repository.rewrite_manifests("all again", branch="main")
        assert storage.kinds().count("manifests") == MANY
        assert storage.peak <= max(1, limit)
        assert None not in refs_of(repository.session_at(tip))


# Large objects.


@pytest.mark.parametrize(
    ("ideal", "most", "requests"),
    [(None, None, 3), (MIB, None, 9), (MIB, 4, 4), (None, 2, 2), (None, 1, 1), (5 * MIB, 18, 2), (16 * MIB, None, 1)],
)
def test_ideal_concurrent_request_size_and_max_concurrent_requests_for_object(ideal, most, requests):
    storage = built(chunk_bytes=9 * MIB, arrays=MANY)
    concurrency = StorageConcurrencySettings(most, ideal)
    with opened(storage, RepositoryConfig(storage=StorageSettings(concurrency=concurrency))) as (_, session):
        assert session.read_chunk(refs_of(session)[1]) == b"\2" * (9 * MIB)
    spans = sorted((start, end) for key, start, end in storage.reads if key.startswith("chunks/"))
    assert len(spans) == requests
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]


# Preloading.


@pytest.mark.parametrize(
    ("config", "paths"),
    [
        (ManifestPreloadConfig(10, ManifestPreloadCondition.true(), 50), "123456"),
        (ManifestPreloadConfig(10, ManifestPreloadCondition.false(), 50), ""),
        (ManifestPreloadConfig(2, ManifestPreloadCondition.true(), 50), "12"),
        (ManifestPreloadConfig(0, ManifestPreloadCondition.true(), 50), ""),
        (ManifestPreloadConfig(10, ManifestPreloadCondition.true(), 3), "123"),
        (ManifestPreloadConfig(10, ManifestPreloadCondition.true(), 0), ""),
        (ManifestPreloadConfig(10, ManifestPreloadCondition.name_matches("^a[45]$"), 50), "45"),
        (ManifestPreloadConfig(10, ManifestPreloadCondition.path_matches("^/a6"), 50), "6"),
        (ManifestPreloadConfig(10, ManifestPreloadCondition.name_matches("("), 50), ""),
        (ManifestPreloadConfig(10, ManifestPreloadCondition.num_refs(1, 2), 50), "123456"),
        (ManifestPreloadConfig(10, ManifestPreloadCondition.num_refs(2, None), 50), ""),
        (
            ManifestPreloadConfig(
                10, ManifestPreloadCondition.true() & ManifestPreloadCondition.name_matches("2|3"), 50
            ),
            "23",
        ),
    ],
)
def test_preload(config, paths):
    storage = built()
    with Repository.open(storage) as repository:
        session = repository.readonly_session("main")
        expected = [session.array_chunks(f"/a{number}").manifest_ids[0] for number in paths]
        assert list(chosen_manifests(session.snapshot, config)) == expected
    storage.reads.clear()
    with opened(storage, RepositoryConfig(manifest=ManifestConfig(preload=config))) as (repository, session):
        repository.assets.workers.submit(bool).result()
        wait_until_idle(repository)
        assert storage.kinds().count("manifests") == len(paths)
        refs_of(session)
        assert storage.kinds().count("manifests") == MANY


def wait_until_idle(repository):
    """Waits for the end of what runs on the workers: closing them waits, and they start again when they are used."""
    workers = repository.assets.workers
    done = threading.Event()
    while workers.pending:
        done.wait(0.001)


def test_a_preload_that_fails_leaves_the_session_as_it_is():
    storage = built()
    everything = ManifestPreloadConfig(10, ManifestPreloadCondition.true(), 50)
    lost = next(iter(storage.iter_objects("manifests/"))).key
    storage.delete([lost])
    with opened(storage, RepositoryConfig(manifest=ManifestConfig(preload=everything))) as (repository, session):
        wait_until_idle(repository)
        assert len(list(session.list_nodes())) == MANY + 2


def test_nothing_is_fetched_ahead_unless_the_configuration_says_so():
    storage = built()
    with opened(storage, None) as (repository, _):
        wait_until_idle(repository)
    assert "manifests" not in storage.kinds()


# Fields.

HERE = {
    CachingConfig: {"num_snapshot_nodes", "num_chunk_refs", "num_transaction_changes", "num_bytes_chunks"},
    StorageConcurrencySettings: {"max_concurrent_requests_for_object", "ideal_concurrent_request_size"},
    ManifestConfig: {"preload", "max_concurrent_manifest_fetches_during_commit"},
    RepositoryConfig: {"get_partial_values_concurrency", "max_concurrent_requests", "max_concurrent_decodes"},
}
ELSEWHERE = {
    # There are no files of attributes: `zarr.json` is part of the snapshot, which has a limit of its own.
    CachingConfig: {"num_bytes_attributes"},
    StorageConcurrencySettings: set(),
    ManifestConfig: {"splitting", "virtual_chunk_location_compression"},
    RepositoryConfig: {
        "inline_chunk_threshold_bytes", "compression", "caching", "storage", "virtual_chunk_containers", "manifest",
        "repo_update_retries", "num_updates_per_repo_info_file", "previous_file",
    },
}  # fmt: skip


@pytest.mark.parametrize("cls", HERE, ids=lambda cls: cls.__name__)
def test_each_field_has_a_test(cls):
    assert {field.name for field in fields(cls)} == HERE[cls] | ELSEWHERE[cls]
    for name in HERE[cls]:
        assert any(name in known for known in globals() if known.startswith("test_")), name
