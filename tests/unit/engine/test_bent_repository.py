"""A repository is read rightly or not at all, whatever answers in its store's place; and nothing of that is kept.

The answers are those of `tests/support/bent_store.py`, to each kind of object: `repo` or the refs, snapshots,
manifests, transaction logs, chunks and parts of them. `ICEFS_SOAK=1` runs many more.
"""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from icefs.engine.repository import Repository
from icefs.engine.write.repository import WritableRepository
from icefs.errors import IcefsError, NotFoundError, ObjectNotFoundError
from icefs.format.config.values import RepositoryConfig
from icefs.storage.base import Storage
from icefs.storage.cache.disk import DiskCache
from icefs.storage.http import HttpStorage
from icefs.storage.http_client import HttpOptions
from icefs.storage.memory import MemoryStorage
from icefs.storage.retry import RetryPolicy
from icefs.storage.s3.options import S3Credentials, S3Options
from icefs.storage.s3.store import S3Storage
from tests.conformance.official import GROUP, array_json
from tests.support.bent_store import BODIES, HEADERS, STATUSES, Bend, BentStore, Stored
from tests.support.soak import depth

CASES: Final = depth(50, 12000)
CHUNKS: Final = {(number,): random.Random(number).randbytes(700) for number in range(6)}
ONCE: Final = RetryPolicy(max_tries=1, first_contact_tries=1, initial_backoff_s=0.0, max_backoff_s=0.0)
# As many other bytes of a chunk, in an answer that is right in every way, cannot be told from its own.
CREDIBLE: Final = "other range"


def built(spec_version: int) -> dict[str, Stored]:
    storage = MemoryStorage()
    config = RepositoryConfig(inline_chunk_threshold_bytes=0)
    repository = WritableRepository.create(storage, config, spec_version=spec_version)
    for chunk, data in CHUNKS.items():
        with repository.transaction("main", message=f"commit {chunk[0]}") as session:
            if chunk == (0,):
                session.nodes.put("/", GROUP)
                session.nodes.put("/a", array_json((6 * 700,), (700,)))
            session.chunks.set("/a", chunk, data)
    repository.close()
    return {f"bucket/pre/{info.key}": Stored(storage.get(info.key).data) for info in storage.iter_objects()}


def opened(kind: str, store: BentStore) -> Storage:
    if kind == "web":
        return HttpStorage(f"{store.url}/bucket/pre", HttpOptions(retry=ONCE))
    keys = S3Credentials("id", "secret")
    options: dict[str, Any] = {"anonymous": True} if kind == "anonymous" else {"credentials": keys}
    return S3Storage("bucket", "pre", S3Options(endpoint_url=store.url, region="r", retry=ONCE, **options))


def read_all(repository: Repository) -> None:
    session = repository.readonly_session("main")
    assert session.get_node("/a") is not None
    for chunk, data in CHUNKS.items():
        reference = session.chunk_ref("/a", chunk)
        assert session.read_chunk(reference) == data
        assert session.read_chunk(reference, 100, 200) == data[100:200]
    if repository.spec_version == 2:
        assert [info.message for info in repository.log("main")][:6] == [f"commit {n}" for n in reversed(range(6))]
        repository.assets.fetch_transaction_log(session.snapshot_id)


def bends(kind: str) -> Iterator[tuple[Bend, bool]]:
    draw = random.Random(kind)
    sizes = ((None, *STATUSES), BODIES, HEADERS)
    chosen = [Bend(status, body) for status, body in itertools.product((200, 206, 404), ("page", "xhtml", "json"))]
    while len(chosen) < CASES:
        chosen.append(Bend(*(draw.choice(choices) for choices in sizes)))
    for bend in chosen:
        yield bend, draw.random() < 0.5


def is_missing_in_earnest(store: BentStore, kind: str) -> bool:
    """Tells whether the store itself has said that an object is not there."""
    if kind == "web":
        return any(answer.status in (404, 410) for _, answer in store.answered)
    return store.answered[-1][1].says_missing


@pytest.mark.parametrize(("kind", "spec_version"), [("signed", 2), ("signed", 1), ("anonymous", 2), ("web", 2)])
def test_a_repository_is_read_rightly_or_not_at_all(
    kind: str, spec_version: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", logger="icefs")
    objects = built(spec_version)
    wrong: list[str] = []
    with BentStore() as store:
        store.objects = objects
        for number, (bend, is_open) in enumerate(bends(kind)):
            directory = tmp_path / f"cache{number}"
            storage = opened(kind, store)
            store.set_bend(None if is_open else bend)
            cache = DiskCache(directory, 1 << 30, reserve_bytes=0)
            try:
                with Repository.open(storage, cache=cache) as repository:
                    if is_open:
                        repository.readonly_session("main")
                        store.set_bend(bend)
                    read_all(repository)
            except (NotFoundError, ObjectNotFoundError) as error:
                if not is_missing_in_earnest(store, kind):
                    wrong.append(f"{bend}: {error!r}")
            except IcefsError:
                pass
            except AssertionError as error:
                if bend.body != CREDIBLE:
                    wrong.append(f"{bend}: {str(error)[:200]}")
            except Exception as error:
                wrong.append(f"{bend}: {error!r}")
            cache.close()  # also where there was no repository to close it
            storage.close()
            # The store answers for itself again: the cached answers are right.
            store.set_bend(None)
            storage = opened(kind, store)
            with Repository.open(storage, cache=DiskCache(directory, 1 << 30, reserve_bytes=0)) as repository:
                try:
                    read_all(repository)
                except (AssertionError, IcefsError) as error:
                    if bend.body != CREDIBLE:
                        wrong.append(f"{bend}: kept: {str(error)[:200]}")
            storage.close()
    assert not wrong, "\n".join([f"{len(wrong)} wrong:", *wrong[:5]])
