"""Configurations with a bit of everything."""

from icefs.format.config.manifest import (
    ManifestConfig,
    ManifestPreloadCondition,
    ManifestPreloadConfig,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    ManifestSplittingConfig,
    ManifestVirtualChunkLocationCompressionConfig,
)
from icefs.format.config.storage import (
    ChecksumAlgorithm,
    ObjectStoreConfig,
    S3Options,
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
    VirtualChunkContainer,
)
from icefs.format.config.values import (
    CachingConfig,
    CompressionAlgorithm,
    CompressionConfig,
    RepositoryConfig,
    RepoUpdateRetryConfig,
)


def sample_containers() -> dict[str, VirtualChunkContainer]:
    """A container of each kind of store, with names and without."""
    s3 = S3Options(
        region="us-east-1",
        endpoint_url="http://localhost:9000",
        allow_http=True,
        anonymous=True,
        force_path_style=True,
        network_stream_timeout_seconds=2**32 - 1,
        requester_pays=True,
        checksum_algorithm=ChecksumAlgorithm.Crc64Nvme,
    )
    containers = [
        VirtualChunkContainer("s3://bucket/prefix/", ObjectStoreConfig.S3(s3), "named"),
        VirtualChunkContainer("s3://other/", ObjectStoreConfig.S3Compatible(S3Options())),
        VirtualChunkContainer("tigris://t/", ObjectStoreConfig.Tigris(S3Options(region="auto"))),
        VirtualChunkContainer("file:///data/ü x/", ObjectStoreConfig.LocalFileSystem("/data/ü x")),
        VirtualChunkContainer(
            "https://example.com/", ObjectStoreConfig.Http({"timeout": "5s", "x": ""}, {"Authorization": "Bearer: 'x'"})
        ),
        VirtualChunkContainer("http://example.com/", ObjectStoreConfig.Http({}, {})),
        VirtualChunkContainer("gs://bucket/", ObjectStoreConfig.Gcs({"a": "b"})),
        VirtualChunkContainer("az://container/", ObjectStoreConfig.Azure({"account": "no"})),
    ]
    return {container.url_prefix: container for container in containers}


def sample_preload() -> ManifestPreloadCondition:
    """All kinds of conditions."""
    make = ManifestPreloadCondition
    return make.and_conditions(
        [
            make.num_refs(1, 10),
            make.num_refs(None, None),
            ManifestPreloadCondition("num_refs", from_refs=("excluded", 0), to_refs=("included", 2**32 - 1)),
            make.true(),
            make.false(),
            make.or_conditions([make.name_matches(r"^(a|b)\s\"'#: $"), make.path_matches("")]),
            make.and_conditions([]),
        ]
    )


def sample_splitting() -> ManifestSplittingConfig:
    """All kinds of rules."""
    make, dimension = ManifestSplitCondition, ManifestSplitDimCondition
    return ManifestSplittingConfig(
        [
            (make.name_matches("x"), [(dimension.Axis(0), 3), (dimension.DimensionName("^t.*"), 4)]),
            (make.path_matches("/a/.*") | make.AnyArray(), [(dimension.Any(), 2**32 - 1)]),
            (make.and_conditions([make.AnyArray(), make.or_conditions([])]), []),
        ]
    )


def sample_config() -> RepositoryConfig:
    """A configuration in which everything is set."""
    return RepositoryConfig(
        inline_chunk_threshold_bytes=2**16 - 1,
        get_partial_values_concurrency=1,
        compression=CompressionConfig(CompressionAlgorithm.Zstd, 19),
        max_concurrent_requests=7,
        caching=CachingConfig(0, 1, 2**64 - 1, 300, 70_000),
        storage=StorageSettings(
            StorageConcurrencySettings(5, 2**40),
            StorageRetriesSettings(3, 0, 2**32 - 1),
            False,
            True,
            False,
            "STANDARD",
            "yes",
            "1e3",
            5 * 2**20,
            StorageTimeoutSettings(1, 2, 3, 4),
        ),
        virtual_chunk_containers=sample_containers(),
        manifest=ManifestConfig(
            ManifestPreloadConfig(5, sample_preload(), 6),
            sample_splitting(),
            ManifestVirtualChunkLocationCompressionConfig(10, 20, 30, -5),
            8,
        ),
        repo_update_retries=RepoUpdateRetryConfig(StorageRetriesSettings(1, None, 5)),
        num_updates_per_repo_info_file=10,
        max_concurrent_decodes=2,
        previous_file="null",
    )
