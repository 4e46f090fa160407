"""Upkeep of a repository under its official names: expiration, garbage collection, sizes, manifests."""

import warnings
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from icefs.api.aio import asynchronous
from icefs.arguments import U64, check_time, checked_integer
from icefs.clock import to_micros
from icefs.engine.upkeep.expiration import ExpirationRequest, expire
from icefs.engine.upkeep.garbage import GarbageSummary as GCSummary
from icefs.engine.upkeep.garbage import collect_garbage
from icefs.engine.upkeep.storage_stats import history_stats
from icefs.engine.write.repository import WritableRepository
from icefs.errors import InvalidInputError

__all__ = ["ChunkStorageStats", "CommitMethod", "GCSummary"]

_COUNT: Final = (1, 2**16 - 1)

type CommitMethod = Literal["new_commit", "amend"]


@dataclass(frozen=True, slots=True)
class ChunkStorageStats:
    """How many bytes chunks take.

    Attributes:
        native_bytes: In objects of the repository.
        virtual_bytes: In objects elsewhere.
        inlined_bytes: In manifests.
    """

    native_bytes: int
    virtual_bytes: int
    inlined_bytes: int

    def non_virtual_bytes(self) -> int:
        """Returns the size of the repository's own objects."""
        return self.native_bytes + self.inlined_bytes

    def total_bytes(self) -> int:
        """Returns all of it."""
        return self.non_virtual_bytes() + self.virtual_bytes


class Upkeep:
    """The part of a repository that looks after it.

    The official limits on memory and concurrency (`max_…`) are accepted; icefs reads through bounded caches anyway.
    """

    _engine: WritableRepository

    def expire_snapshots(
        self, older_than: datetime, *, delete_expired_branches: bool = False, delete_expired_tags: bool = False
    ) -> set[str]:
        """Takes snapshots older than a time out of the history; returns their ids."""
        check_time(older_than, "older_than")
        request = ExpirationRequest(to_micros(older_than), delete_expired_branches, delete_expired_tags)
        return {str(snapshot_id) for snapshot_id in expire(self._engine, request).released}

    def garbage_collect(
        self,
        delete_object_older_than: datetime,
        *,
        dry_run: bool = False,
        max_snapshots_in_memory: int = 50,
        max_compressed_manifest_mem_bytes: int = 512 << 20,
        max_decoded_manifest_mem_bytes: int = 4 << 30,
        max_concurrent_manifest_fetches: int = 500,
        max_concurrent_deletes: int = 10,
        max_consecutive_delete_failures: int = 50,
        max_concurrent_listings: int | None = None,
    ) -> GCSummary:
        """Deletes objects that nothing needs any more and that were stored before a time."""
        check_time(delete_object_older_than, "delete_object_older_than")
        checked_integer(max_snapshots_in_memory, _COUNT, "max_snapshots_in_memory")
        checked_integer(max_compressed_manifest_mem_bytes, U64, "max_compressed_manifest_mem_bytes")
        checked_integer(max_decoded_manifest_mem_bytes, U64, "max_decoded_manifest_mem_bytes")
        checked_integer(max_concurrent_manifest_fetches, _COUNT, "max_concurrent_manifest_fetches")
        checked_integer(max_concurrent_deletes, _COUNT, "max_concurrent_deletes")
        return collect_garbage(self._engine, to_micros(delete_object_older_than), dry_run=dry_run)

    def chunk_storage_stats(
        self,
        *,
        max_snapshots_in_memory: int = 50,
        max_compressed_manifest_mem_bytes: int = 512 << 20,
        max_decoded_manifest_mem_bytes: int = 4 << 30,
        max_concurrent_manifest_fetches: int = 500,
    ) -> ChunkStorageStats:
        """Counts the bytes of all chunks that branches and tags lead to."""
        stats = history_stats(self._engine)
        return ChunkStorageStats(stats.native_bytes, stats.virtual_bytes, stats.inlined_bytes)

    def total_chunks_storage(
        self,
        *,
        max_snapshots_in_memory: int = 50,
        max_compressed_manifest_mem_bytes: int = 512 << 20,
        max_decoded_manifest_mem_bytes: int = 4 << 30,
        max_concurrent_manifest_fetches: int = 500,
    ) -> int:
        """Returns the bytes of all native chunks; deprecated: `chunk_storage_stats().native_bytes` is the same."""
        warnings.warn(
            "total_chunks_storage is deprecated: take chunk_storage_stats().native_bytes",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.chunk_storage_stats().native_bytes

    def rewrite_manifests(
        self,
        message: str,
        *,
        branch: str,
        metadata: dict[str, Any] | None = None,
        commit_method: CommitMethod = "new_commit",
    ) -> str:
        """Rewrites a branch's manifests in one commit, split as the configuration says; returns the new snapshot's id.

        Raises:
            InvalidInputError: there is no such way to commit.
        """
        if commit_method not in ("new_commit", "amend"):
            raise InvalidInputError(
                f"Invalid commit method: {commit_method!r}",
                kind="invalid-commit-configuration",
                hint="Expected 'new_commit' or 'amend'",
            )
        return str(
            self._engine.rewrite_manifests(
                message, branch=branch, metadata=metadata, replace_tip=commit_method == "amend"
            )
        )

    expire_snapshots_async = asynchronous(expire_snapshots)
    garbage_collect_async = asynchronous(garbage_collect)
    chunk_storage_stats_async = asynchronous(chunk_storage_stats)

    async def total_chunks_storage_async(
        self,
        *,
        max_snapshots_in_memory: int = 50,
        max_compressed_manifest_mem_bytes: int = 512 << 20,
        max_decoded_manifest_mem_bytes: int = 4 << 30,
        max_concurrent_manifest_fetches: int = 500,
    ) -> int:
        """Does what `total_chunks_storage` does, without blocking the event loop; deprecated as that is."""
        warnings.warn(
            "total_chunks_storage_async is deprecated: take (await chunk_storage_stats_async()).native_bytes",
            DeprecationWarning,
            stacklevel=2,
        )
        return (await self.chunk_storage_stats_async()).native_bytes

    rewrite_manifests_async = asynchronous(rewrite_manifests)
