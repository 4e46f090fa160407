"""The limits that a configuration sets for reading; a limit that nothing sets is the engine's own.

Source: format notes §4; upstream icechunk/src/config.rs.
"""

from dataclasses import dataclass
from typing import Final, Self

from icefs.errors import InvalidInputError
from icefs.format.config.values import RepositoryConfig

# An object larger than two of these is fetched in several requests side by side, where requests go over a network.
_PART_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """How much is read at once, and how much of it stays in memory.

    Attributes:
        requests: The requests of the repository that may be under way at once; None for as many as there are workers.
        decodes: The files that may be decoded at once; None for no limit.
        chunk_bytes: The bytes of native chunks that stay in memory.
        snapshot_nodes: The nodes of the snapshots that stay in memory; None for the default.
        chunk_refs: The references of the manifests that stay in memory; None for the default.
        changes: The changes of the transaction logs that stay in memory; None for the default.
        part_bytes: The size of the requests that a larger read is divided into; None for the default.
        parts: The largest number of requests for one object; None for no limit.
    """

    requests: int | None = None
    decodes: int | None = None
    chunk_bytes: int = 0
    snapshot_nodes: int | None = None
    chunk_refs: int | None = None
    changes: int | None = None
    part_bytes: int | None = None
    parts: int | None = None

    @classmethod
    def of(cls, config: RepositoryConfig) -> Self:
        """Returns the limits that a configuration sets itself; 0 requests or decodes are one.

        Raises:
            InvalidInputError: a read would be divided into requests of no bytes, or into none.
        """
        caching, storage = config.caching, config.storage
        concurrency = None if storage is None else storage.concurrency
        return cls(
            requests=_at_least_one(config.max_concurrent_requests),
            decodes=_at_least_one(config.max_concurrent_decodes),
            chunk_bytes=0 if caching is None else caching.num_bytes_chunks or 0,
            snapshot_nodes=None if caching is None else caching.num_snapshot_nodes,
            chunk_refs=None if caching is None else caching.num_chunk_refs,
            changes=None if caching is None else caching.num_transaction_changes,
            part_bytes=None if concurrency is None else _positive(concurrency.ideal_concurrent_request_size),
            parts=None if concurrency is None else _positive(concurrency.max_concurrent_requests_for_object),
        )

    @property
    def undivided_bytes(self) -> int:
        """The largest range that takes one request whatever `parts` says."""
        return 2 * _PART_BYTES if self.part_bytes is None else self.part_bytes

    def cuts(self, start: int, end: int) -> range:
        """Returns where the parts of a range `[start, end)` start, with their size as the step."""
        size = end - start
        if size <= self.undivided_bytes or self.parts == 1:
            return range(start, end, max(1, size))
        step = self.part_bytes or _PART_BYTES
        return range(start, end, step if self.parts is None else max(step, -(-size // self.parts)))


def _at_least_one(number: int | None) -> int | None:
    return None if number is None else max(1, number)


def _positive(value: int | None) -> int | None:
    if value is not None and not 1 <= value < 1 << 63:
        raise InvalidInputError(
            f"the configuration's storage.concurrency has {value}, which is no number of requests or bytes",
            hint="change it with `icefs config`",
        )
    return value
