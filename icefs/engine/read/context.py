"""What every reader of an open repository needs: its storage, configuration, files and virtual chunks."""

from icefs.engine.read.assets import AssetManager
from icefs.engine.read.preload import Preloading
from icefs.engine.read.refs import Refs, RefsV1, check_not_upgraded
from icefs.engine.read.virtual import Authorizations, VirtualResolver
from icefs.format.config.values import RepositoryConfig
from icefs.storage.base import Storage
from icefs.storage.metered import MeteredStorage


class ReadContext:
    """An open repository, as sessions and histories need it.

    Safe to use from any thread.

    Attributes:
        storage: Where the repository is; it obeys the configuration.
        opened_as: The storage that the opener gave, and closes.
        spec_version: 1 or 2.
        config: The configuration that is in force.
        assets: The repository's files.
        authorizations: The URL prefixes that virtual chunks may be followed into, with their credentials.
        named_endpoints: The S3 endpoints that the user has named.
        virtual: Reads virtual chunks.
        preloading: Fetches manifests ahead.
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
        self.storage = storage
        self.opened_as = storage if opened_as is None else opened_as
        self.spec_version = spec_version
        self.config = config
        self.assets = assets
        self.authorizations: Authorizations = dict(authorizations or {})
        self.named_endpoints = named_endpoints
        self.virtual = VirtualResolver(
            (config.virtual_chunk_containers or {}).values(),
            self.authorizations,
            assets.workers,
            storage.meter if isinstance(storage, MeteredStorage) else None,
            assets.disk_cache,
            storage=storage,
            named_endpoints=named_endpoints,
        )
        self.preloading = Preloading(assets, config)
        self._refs_v1 = RefsV1(assets) if spec_version == 1 else None

    def refs(self, *, refresh: bool = True) -> Refs:
        """Returns all branches and tags.

        Args:
            refresh: Ask the store whether they changed. Without, the refs as last read will do.
        """
        if self._refs_v1 is not None:
            return self._refs_v1.fetch(refresh=refresh)
        info, version = self.assets.fetch_repo_info(refresh=refresh)
        return Refs(info.branches, info.tags, version)

    def check_not_upgraded(self) -> None:
        """Refuses a repository that was opened as spec 1, and was upgraded since; raises StaleError."""
        if self.spec_version == 1:
            check_not_upgraded(self.storage)

    def close(self) -> None:
        """Ends the repository's threads and connections; the opener's own storage stays open."""
        self.virtual.close()
        self.assets.close()
        if self.storage is not self.opened_as:
            self.storage.close()
