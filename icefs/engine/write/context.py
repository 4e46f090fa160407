"""What every writer to an open repository needs, beyond what readers do."""

import copy
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

from icefs.clock import Clock, system_clock
from icefs.engine.read.assets import AssetManager
from icefs.engine.read.context import ReadContext
from icefs.engine.read.virtual import Authorizations
from icefs.engine.write.store_probe import CREATE, TRUSTED, UPDATE
from icefs.engine.write.turns import Turns
from icefs.errors import ReadOnlyError
from icefs.format.config.manifest import ManifestSplittingConfig
from icefs.format.config.storage import StorageRetriesSettings
from icefs.format.config.values import RepositoryConfig
from icefs.format.manifest.locations import LocationCompression
from icefs.format.repo import update as edits
from icefs.format.repo.info import RepoInfo
from icefs.format.repo.ops_log import RepoAvailability
from icefs.storage.base import Storage


class WriteContext(ReadContext):
    """An open repository, as commits and other updates of it need it.

    Attributes:
        clock: Returns the time of this machine, in microseconds since the epoch.
        default_commit_metadata: Joined with the metadata of every commit.
        turns: When this process committed, for fairness among processes that commit to one branch.
        compression_level: The zstd level of metadata files.
        inline_threshold_bytes: The size up to which a chunk is kept in its manifest.
        num_updates: How many updates one `repo` file lists.
        update_retries: How often to try an update of `repo` that others were faster with; None for the default.
        splitting: How chunk references are divided among manifests; None for not at all.
        manifest_fetches: Held while a commit fetches the manifests that it rewrites.
        location_compression: When the locations of virtual chunks are compressed.
    """

    def __init__(
        self,
        storage: Storage,
        spec_version: int,
        config: RepositoryConfig,
        assets: AssetManager,
        authorizations: Authorizations | None = None,
        *,
        named_endpoints: frozenset[str] = frozenset(),
        opened_as: Storage | None = None,
    ) -> None:
        super().__init__(
            storage,
            spec_version,
            config,
            assets,
            authorizations,
            named_endpoints=named_endpoints,
            opened_as=opened_as,
        )
        self.clock: Clock = system_clock
        self.default_commit_metadata: dict[str, Any] = {}
        self.turns = Turns()
        self._shares_with: WriteContext | None = None
        effective = config.effective()
        compression, manifest = effective.compression, effective.manifest
        threshold, retries = effective.inline_chunk_threshold_bytes, effective.repo_update_retries
        self.compression_level: int = 3 if compression is None or compression.level is None else compression.level
        self.inline_threshold_bytes: int = 512 if threshold is None else threshold
        self.num_updates: int = effective.num_updates_per_repo_info_file or edits.DEFAULT_NUM_UPDATES
        self.update_retries: StorageRetriesSettings | None = None if retries is None else retries.default
        self.splitting: ManifestSplittingConfig | None = None if manifest is None else manifest.splitting
        # Manifests that a commit rewrites are fetched one at a time by each worker, or by so many workers as this says.
        fetches = None if config.manifest is None else config.manifest.max_concurrent_manifest_fetches_during_commit
        self.manifest_fetches: AbstractContextManager[object] = (
            nullcontext() if fetches is None else threading.Semaphore(max(1, fetches))
        )
        self.location_compression = _location_compression(effective)

    def with_commit_metadata(self, metadata: Mapping[str, Any]) -> Self:
        """Returns a context of the same repository, with the same files and connections, and other commit metadata."""
        twin = copy.copy(self)
        twin.default_commit_metadata = dict(metadata)
        twin._shares_with = self  # which lives as long, so that more of them are made of it and nothing is opened again
        return twin

    def check_store(self) -> None:
        """Refuses a store that ignores the conditions that this repository's updates depend on.

        Raises:
            UnsupportedError: it does.
            StorageError: the store cannot be tried.
        """
        needed = frozenset((UPDATE,)) if self.spec_version == 2 else frozenset((CREATE, UPDATE))
        TRUSTED.check(self.storage, self.config.storage, needed)

    def check_online(self, info: RepoInfo | None = None, *, refresh: bool = True) -> None:
        """Refuses to write to a repository whose status does not allow it.

        Args:
            info: The repository's state, where the caller has just read it.
            refresh: Ask the store for the state. Without, the state as last read will do.

        Raises:
            ReadOnlyError: the status is not online (kind `read-only-repository`).
        """
        if self.spec_version == 1:
            return
        status = (info or self.assets.fetch_repo_info(refresh=refresh)[0]).status
        if status.availability is not RepoAvailability.online:
            reason = status.limited_availability_reason
            raise ReadOnlyError(
                f"{self.storage.url} is {status.availability.name.replace('_', '-')}"
                + (f": {reason}" if reason else ""),
                kind="read-only-repository",
                hint="set its status to online first",
            )


def _location_compression(effective: RepositoryConfig) -> LocationCompression:
    settings = None if effective.manifest is None else effective.manifest.virtual_chunk_location_compression
    if settings is None:
        return LocationCompression()
    given = {name: getattr(settings, name) for name in LocationCompression.__dataclass_fields__}
    return LocationCompression(**{name: value for name, value in given.items() if value is not None})
