"""Every field of a configuration that is about commits is seen in the objects that they write, or in their number."""

import pytest

from icefs.engine.write import publish
from icefs.engine.write.repository import WritableRepository
from icefs.errors import ConflictError, PreconditionFailedError
from icefs.format.config.manifest import ManifestConfig, ManifestVirtualChunkLocationCompressionConfig
from icefs.format.config.storage import StorageRetriesSettings
from icefs.format.config.values import CompressionConfig, RepositoryConfig, RepoUpdateRetryConfig
from icefs.format.flat.reader import FlatBuffer
from icefs.format.header import FileType, decode_file
from icefs.format.manifest.refs import VirtualRef
from icefs.storage.memory import MemoryStorage
from tests.conformance.official import array_json


class Overtaken(MemoryStorage):
    """A store in which another writer is always faster."""

    puts = 0
    is_on = False

    def put(self, key, data, *, if_match=None, create_only=False):
        if self.is_on and if_match is not None:
            self.puts += 1
            raise PreconditionFailedError("another writer was faster")
        return super().put(key, data, if_match=if_match, create_only=create_only)


def update(retries):
    """Has an update of `repo` overtaken; returns how often it was tried."""
    storage = Overtaken()
    config = RepositoryConfig(repo_update_retries=RepoUpdateRetryConfig(StorageRetriesSettings(*retries)))
    with WritableRepository.create(storage, config) as repository:
        storage.is_on = True
        with pytest.raises(ConflictError):
            repository.create_tag("t", repository.lookup_branch("main"))
    return storage.puts


@pytest.mark.parametrize("tries", [1, 3, 9])
def test_repo_update_retries_max_tries(tries):
    assert update((tries, 0, 0)) == tries


@pytest.mark.parametrize(
    ("first_ms", "longest_ms", "expected"), [(100, 10_000, [100, 200, 400, 800]), (100, 150, [100, 150, 150, 150])]
)
def test_repo_update_retries_backoffs(monkeypatch, first_ms, longest_ms, expected):
    waits = []
    monkeypatch.setattr("icefs.engine.write.publish.time.sleep", lambda seconds: waits.append(seconds * 1000))
    tries = publish._IMMEDIATE_TRIES + len(expected) + 1
    assert update((tries, first_ms, longest_ms)) == tries
    assert len(waits) == len(expected)
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, expected, strict=True))


def test_compression_level():
    found = []
    for level in (1, 19):
        storage = MemoryStorage()
        config = RepositoryConfig(compression=CompressionConfig(level=level))
        with (
            WritableRepository.create(storage, config) as repository,
            repository.transaction("main", message="nodes") as session,
        ):
            for number in range(50):
                session.nodes.put(f"/{number}", array_json((1,), (1,)))
            session.chunks.set("/1", (0,), bytes(range(100)) * 4)
        newest = max(storage.iter_objects("snapshots/"), key=lambda info: info.size_bytes)
        found.append({"snapshot": newest.size_bytes, "repo": storage.head("repo").size_bytes})
    assert all(found[0][kind] > found[1][kind] for kind in found[0])


@pytest.mark.parametrize(
    ("settings", "is_compressed"),
    [
        ({}, False),
        ({"min_num_chunks": 10}, True),
        ({"min_num_chunks": 11}, False),
        ({"min_num_chunks": 10, "dictionary_max_training_samples": 0}, False),
        ({"min_num_chunks": 10, "dictionary_max_size_bytes": 10}, False),
        ({"min_num_chunks": 10, "compression_level": 19}, True),
    ],
)
def test_virtual_chunk_location_compression(settings, is_compressed):
    storage = MemoryStorage()
    manifest = ManifestConfig(
        virtual_chunk_location_compression=ManifestVirtualChunkLocationCompressionConfig(**settings)
    )
    with (
        WritableRepository.create(storage, RepositoryConfig(manifest=manifest)) as repository,
        repository.transaction("main", message="references") as session,
    ):
        session.nodes.put("/a", array_json((10,), (1,)))
        for number in range(10):
            session.chunks.set_ref("/a", (number,), VirtualRef(f"s3://bucket/a/long/prefix/{number:09}", 0, 1))
    [info] = storage.iter_objects("manifests/")
    body = decode_file(storage.get(info.key).data, file_type=FileType.MANIFEST, name=info.key)[1]
    assert FlatBuffer(body, name=info.key).root().has(2) == is_compressed
