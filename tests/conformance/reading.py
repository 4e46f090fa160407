"""What the tests of reading share."""

from collections.abc import AsyncIterable, Iterator

import icefs
from icefs.api import Repository
from icefs.engine.read.session import Session
from icefs.format.ids import SnapshotId
from icefs.zarr.reader import KeyReader
from tests.conformance.official import GeneratedRepo


def open_icefs(generated: GeneratedRepo) -> Repository:
    """Opens a generated repository with icefs."""
    access = icefs.containers_credentials(
        dict.fromkeys(generated.virtual_prefixes, icefs.credentials.LocalFileSystemAccess)
    )
    return icefs.Repository.open(icefs.local_filesystem_storage(generated.path), authorize_virtual_chunk_access=access)


def session_at(repo: Repository, snapshot_id: str) -> Session:
    """Opens any snapshot, also one that no ref reaches, in the engine."""
    return repo._engine.session_at(SnapshotId.parse(snapshot_id))


def readers(repo: Repository, snapshot_ids: list[str] | dict[str, object]) -> Iterator[tuple[str, KeyReader]]:
    """Yields a reader of each snapshot."""
    for snapshot_id in snapshot_ids:
        yield snapshot_id, KeyReader(session_at(repo, snapshot_id))


async def collect[T](items: AsyncIterable[T]) -> list[T]:
    """Returns all items."""
    return [item async for item in items]
