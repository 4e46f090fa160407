"""The configuration of a repository: the official library's names, fields and defaults, as plain values.

Each field is None until it is set. The persisted configuration overrides the defaults, and the caller's
overrides both: `merge` goes field by field, but `virtual_chunk_containers`, `manifest.preload` and
`manifest.splitting` are replaced as wholes. `effective` fills in the defaults. As in the official library, the values
can be changed after they were made; an owner that keeps one makes a copy. How they are written: `config_codec`.

Source: format notes §4 and §7.7; upstream icechunk/src/config.rs.
"""

from dataclasses import dataclass
from typing import ClassVar, Final

from icefs.arguments import U8, U16
from icefs.format.config.checked import Limits, NumberedEnum
from icefs.format.config.manifest import (
    ManifestConfig,
    ManifestPreloadCondition,
    ManifestPreloadConfig,
    ManifestSplitCondition,
    ManifestSplittingConfig,
    ManifestVirtualChunkLocationCompressionConfig,
    SplitAny,
)
from icefs.format.config.merge import Mergeable
from icefs.format.config.storage import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
    VirtualChunkContainer,
)


class CompressionAlgorithm(NumberedEnum):
    """How metadata files are compressed."""

    Zstd = 0

    @staticmethod
    def default() -> "CompressionAlgorithm":
        """Returns the only one."""
        return CompressionAlgorithm.Zstd


@dataclass(slots=True)
class CompressionConfig(Mergeable):
    """Compression of metadata files: zstd, level 3."""

    _limits: ClassVar[Limits] = {"level": U8}

    algorithm: CompressionAlgorithm | None = None
    level: int | None = None

    @staticmethod
    def default() -> "CompressionConfig":
        """Returns a configuration in which nothing is set."""
        return CompressionConfig()


@dataclass(slots=True)
class CachingConfig(Mergeable):
    """Limits of the memory caches: nodes of snapshots, chunk references of manifests, changes of transaction logs."""

    num_snapshot_nodes: int | None = None
    num_chunk_refs: int | None = None
    num_transaction_changes: int | None = None
    num_bytes_attributes: int | None = None
    num_bytes_chunks: int | None = None

    @staticmethod
    def default() -> "CachingConfig":
        """Returns a configuration in which nothing is set."""
        return CachingConfig()


@dataclass(slots=True)
class RepoUpdateRetryConfig(Mergeable):
    """How often an update of the repo info is tried again that met another one."""

    default: StorageRetriesSettings | None = None


@dataclass(slots=True)
class RepositoryConfig(Mergeable):
    """The configuration of a repository.

    Attributes:
        inline_chunk_threshold_bytes: Chunks up to this size are stored in manifests.
        get_partial_values_concurrency: Requests at once, for one call that reads several ranges.
        compression: Of metadata files.
        max_concurrent_requests: Requests at once, for the repository.
        caching: The limits of the memory caches.
        storage: How the object store is used; None leaves that to the store.
        virtual_chunk_containers: By their URL prefixes.
        manifest: Everything about manifests.
        repo_update_retries: How often an update of the repo info is tried again.
        num_updates_per_repo_info_file: How many updates the repo info lists.
        max_concurrent_decodes: Metadata files that are decoded at once; by default as many as there are CPUs.
        previous_file: Not used any more.
    """

    _limits: ClassVar[Limits] = dict.fromkeys(
        (
            *("inline_chunk_threshold_bytes", "get_partial_values_concurrency", "max_concurrent_requests"),
            *("num_updates_per_repo_info_file", "max_concurrent_decodes"),
        ),
        U16,
    )

    inline_chunk_threshold_bytes: int | None = None
    get_partial_values_concurrency: int | None = None
    compression: CompressionConfig | None = None
    max_concurrent_requests: int | None = None
    caching: CachingConfig | None = None
    storage: StorageSettings | None = None
    virtual_chunk_containers: dict[str, VirtualChunkContainer] | None = None
    manifest: ManifestConfig | None = None
    repo_update_retries: RepoUpdateRetryConfig | None = None
    num_updates_per_repo_info_file: int | None = None
    max_concurrent_decodes: int | None = None
    previous_file: str | None = None

    @staticmethod
    def default() -> "RepositoryConfig":
        """Returns a configuration in which nothing is set."""
        return RepositoryConfig()

    def effective(self) -> "RepositoryConfig":
        """Returns the effective configuration: this one, with `DEFAULTS` where it sets nothing."""
        merged = DEFAULTS.merge(self)
        manifest = self.manifest
        # Here the defaults do reach into it, though another configuration's preload would be replaced.
        if manifest is not None and manifest.preload is not None and merged.manifest is not None:
            merged.manifest.preload = _DEFAULT_PRELOAD.merge(manifest.preload)
        return merged

    def get_virtual_chunk_container(self, name: str) -> VirtualChunkContainer | None:
        """Returns the container of a URL prefix."""
        return (self.virtual_chunk_containers or {}).get(name)

    def set_virtual_chunk_container(self, cont: VirtualChunkContainer) -> None:
        """Adds a container, in the place of one with the same URL prefix or the same name."""
        kept = {
            prefix: other
            for prefix, other in (self.virtual_chunk_containers or {}).items()
            if cont.name is None or other.name != cont.name
        }
        self.virtual_chunk_containers = {**kept, cont.url_prefix: cont}

    def clear_virtual_chunk_containers(self) -> None:
        """Removes all containers."""
        self.virtual_chunk_containers = {}


# Names that coordinate arrays usually have, one expression for each kind of coordinate (after cf-xarray's criteria).
_COORDINATE_NAMES = (
    r"^\bt\b$|^(time|min|hour|day|week|month|year)[0-9]*$",
    r"^(z|nav_lev|gdep|lv_|[o]*lev|bottom_top|sigma|h(ei)?ght|altitude|depth"
    r"|isobaric|pres|isotherm)[a-z_]*[0-9]*$",  # codespell:ignore pres
    r"^(y|j|nlat|rlat|nj)$",
    r"^y?(nav_lat|lat|gphi)[a-z0-9]*$",
    r"^x?(nav_lon|lon|glam)[a-z0-9]*$",
    r"^(x|i|nlon|rlon|ni)$",
)

_DEFAULT_PRELOAD: Final = ManifestPreloadConfig(
    max_total_refs=10_000,
    preload_if=ManifestPreloadCondition.and_conditions(
        [
            ManifestPreloadCondition.or_conditions(list(map(ManifestPreloadCondition.name_matches, _COORDINATE_NAMES))),
            ManifestPreloadCondition("num_refs", to_refs=("included", 1000)),
        ]
    ),
    max_arrays_to_scan=50,
)

DEFAULTS: Final = RepositoryConfig(
    inline_chunk_threshold_bytes=512,
    get_partial_values_concurrency=10,
    compression=CompressionConfig(CompressionAlgorithm.Zstd, 3),
    max_concurrent_requests=256,
    caching=CachingConfig(500_000, 15_000_000, 0, 0, 0),
    storage=StorageSettings(
        concurrency=StorageConcurrencySettings(18, 12 << 20),
        retries=StorageRetriesSettings(10, 100, 180_000),
        unsafe_use_conditional_create=True,
        unsafe_use_conditional_update=True,
        unsafe_use_metadata=True,
        minimum_size_for_multipart_upload=100 << 20,
        timeouts=StorageTimeoutSettings(),
    ),
    virtual_chunk_containers={},
    manifest=ManifestConfig(
        preload=_DEFAULT_PRELOAD,
        splitting=ManifestSplittingConfig([(ManifestSplitCondition.path_matches(".*"), [(SplitAny(), 2**32 - 1)])]),
        virtual_chunk_location_compression=ManifestVirtualChunkLocationCompressionConfig(1000, 100, 2048, 3),
        max_concurrent_manifest_fetches_during_commit=1,
    ),
    repo_update_retries=RepoUpdateRetryConfig(StorageRetriesSettings(100, 50, 30_000)),
    num_updates_per_repo_info_file=1000,
)
"""The values of fields that are not set; the number of CPUs, for `max_concurrent_decodes`, is not known here."""
