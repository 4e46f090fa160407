"""How a configuration is written: a tree of maps, lists and scalars, as FlexBuffers in spec 2 or as YAML in spec 1.

Enumerations follow serde: a variant without content is a string, another one is a tag with its content, which is a map
of one entry in FlexBuffers and a YAML tag in YAML (`{"Axis": 0}`, `!Axis 0`). Missing fields and nulls are unset,
unknown fields are ignored, numbers are checked against the width of the official library's fields, since a number
that is too large would keep that library from opening the repository.

Each class is a table of its fields in the official order; a field's type is a pair of functions.

Source: format notes §7.7; upstream icechunk/src/config.rs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from icefs.errors import FormatError, InvalidInputError
from icefs.format.config.manifest import (
    ManifestConfig,
    ManifestPreloadCondition,
    ManifestPreloadConfig,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    ManifestSplittingConfig,
    ManifestVirtualChunkLocationCompressionConfig,
    SplitAny,
    SplitAxis,
    SplitDimensionName,
)
from icefs.format.config.storage import (
    AzureStore,
    ChecksumAlgorithm,
    GcsStore,
    HttpStore,
    InMemoryStore,
    LocalFileSystemStore,
    ObjectStoreConfig,
    S3CompatibleStore,
    S3Options,
    S3Store,
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
    TigrisStore,
    VirtualChunkContainer,
)
from icefs.format.config.types import (
    BOOL,
    I32,
    TEXT,
    U8,
    U16,
    U16_POSITIVE,
    U32,
    U64,
    U64_POSITIVE,
    Field,
    FieldType,
    Invalid,
    check_text,
    enum_of,
    invalid,
    list_of,
    map_of,
    optional,
    optionals,
    record,
    split_variant,
    variants,
)
from icefs.format.config.values import (
    CachingConfig,
    CompressionAlgorithm,
    CompressionConfig,
    RepositoryConfig,
    RepoUpdateRetryConfig,
)
from icefs.format.config.yaml import Tagged, emit_yaml, load_yaml
from icefs.format.flat.flexbuffer import decode_flexbuffer, encode_flexbuffer


def parse_config(data: bytes | memoryview, *, name: str = "repo") -> RepositoryConfig:
    """Reads the configuration inside a repo info.

    Raises:
        FormatError: it is malformed (kind `deserialization`).
    """
    return _read(decode_flexbuffer(data, name=f"{name} (configuration)"), name, "deserialization")


def encode_config(config: RepositoryConfig) -> bytes:
    """Writes a configuration for a repo info.

    Raises:
        InvalidInputError: a value has the wrong type or is out of range.
    """
    return encode_flexbuffer(_as_maps(_write(config)))


def splitting_to_json(splitting: ManifestSplittingConfig) -> Any:
    """Returns how manifests are split as JSON, in the shape in which official commits tell it."""
    tree = _as_maps(_write(RepositoryConfig(manifest=ManifestConfig(splitting=splitting))))
    return tree["manifest"]["splitting"]


def parse_config_yaml(data: bytes | memoryview, *, name: str = "config.yaml") -> RepositoryConfig:
    """Reads the configuration file of a repository of spec version 1.

    Raises:
        FormatError: it is malformed (kind `config-deserialization`).
    """
    return _read(load_yaml(data, name=name), name, "config-deserialization")


def encode_config_yaml(config: RepositoryConfig) -> bytes:
    """Writes a configuration file for a repository of spec version 1.

    Raises:
        InvalidInputError: a value has the wrong type or is out of range.
    """
    return emit_yaml(_write(config)).encode()


def _read(tree: Any, name: str, kind: str) -> RepositoryConfig:
    try:
        config: RepositoryConfig = _CONFIG.read(tree, "")
    except Invalid as error:
        raise FormatError(
            f"{name} is malformed: its configuration: {error}", kind=kind, file=name, reason=str(error)
        ) from None
    return config


def _write(config: RepositoryConfig) -> Any:
    try:
        return _CONFIG.write(config, "")
    except Invalid as error:
        raise InvalidInputError(f"the configuration cannot be written: {error}", kind="serialization") from None


def _as_maps(tree: Any) -> Any:
    if isinstance(tree, Tagged):
        return {tree.tag: _as_maps(tree.content)}
    if isinstance(tree, dict):
        return {key: _as_maps(value) for key, value in tree.items()}
    return [_as_maps(item) for item in tree] if isinstance(tree, list) else tree


def _options_of_http() -> FieldType:
    """The options of an HTTP store stand next to its headers."""
    texts = map_of(TEXT)

    def read(value: Any, where: str) -> HttpStore:
        if not isinstance(value, dict):
            raise invalid(where, "a map", value)
        headers = value.get("headers")
        opts = texts.read({key: item for key, item in value.items() if key != "headers"}, where)
        return HttpStore(opts, {} if headers is None else texts.read(headers, f"{where}.headers"))

    def write(value: HttpStore, where: str) -> dict[str, Any]:
        if "headers" in (value.opts or {}):
            raise invalid(where, "without an option called headers", value.opts)
        found = texts.write(value.opts or {}, where)
        return {**found, "headers": texts.write(value.headers, where)} if value.headers else found

    return FieldType(read, write)


def _bounds() -> FieldType:
    def read(value: Any, where: str) -> tuple[str, int] | None:
        tag, content = split_variant(value, where)
        if tag == "Unbounded":
            return None
        if tag not in ("Included", "Excluded"):
            raise invalid(where, "Included, Excluded or Unbounded", tag)
        return tag.lower(), U32.read(content, where)

    def write(value: tuple[str, int] | None, where: str) -> Any:
        return "Unbounded" if value is None else Tagged(value[0].capitalize(), U32.write(value[1], where))

    return FieldType(read, write)


def _condition(cls: type[Any], units: tuple[str, ...], *, has_refs: bool) -> FieldType:
    """Conditions of manifests: they nest, and the reader of a hostile file must not; the decoders limit the depth."""
    bounds = _bounds()
    regex = record(dict, Field("regex", TEXT, is_required=True))
    limits = record(dict, Field("from", bounds, is_required=True), Field("to", bounds, is_required=True))

    def read(value: Any, where: str) -> Any:
        tag, content = split_variant(value, where)
        if tag in units:
            return cls(tag)
        if tag in ("or", "and"):
            return cls(tag, conditions=tuple(list_of(FieldType(read, write)).read(content, f"{where}.{tag}")))
        if tag in ("path_matches", "name_matches"):
            return cls(tag, regex=regex.read(content, f"{where}.{tag}")["regex"])
        if has_refs and tag == "num_refs":
            found = limits.read(content, f"{where}.{tag}")
            return cls(tag, from_refs=found["from"], to_refs=found["to"])
        raise invalid(where, "a condition", tag)

    def write(value: Any, where: str) -> Any:
        if not isinstance(value, cls):
            raise invalid(where, f"a {cls.__name__}", value)
        if value.kind in units:
            return value.kind
        if value.kind in ("or", "and"):
            return Tagged(value.kind, list_of(FieldType(read, write)).write(value.conditions, f"{where}.{value.kind}"))
        if value.kind == "num_refs":
            found = {"from": bounds.write(value.from_refs, where), "to": bounds.write(value.to_refs, where)}
            return Tagged("num_refs", found)
        return Tagged(value.kind, {"regex": check_text(value.regex, where)})

    return FieldType(read, write)


def _present(inner: FieldType) -> FieldType:
    """A map that is written as an empty one where it is None."""
    return FieldType(inner.read, lambda value, where: inner.write(value or {}, where))


def _pair(first: FieldType, second: FieldType) -> FieldType:
    def convert(functions: tuple[Callable[[Any, str], Any], ...], value: Any, where: str) -> list[Any]:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise invalid(where, "a pair", value)
        return [function(item, where) for function, item in zip(functions, value, strict=True)]

    read = partial(convert, (first.read, second.read))
    return FieldType(lambda value, where: tuple(read(value, where)), partial(convert, (first.write, second.write)))


def _split_size(condition: FieldType) -> FieldType:
    """A dimension and its number of chunks: a pair in the configuration, a map where it is written."""
    entry = record(dict, Field("condition", condition, is_required=True), Field("num_chunks", U32, is_required=True))

    def write(value: Any, where: str) -> dict[str, Any]:
        dimension, num_chunks = _pair(condition, U32).write(value, where)
        return {"condition": dimension, "num_chunks": num_chunks}

    return FieldType(lambda value, where: tuple(entry.read(value, where).values()), write)


_RETRIES = record(
    StorageRetriesSettings,
    Field("max_tries", optional(U16_POSITIVE)),
    *optionals(U32, "initial_backoff_ms", "max_backoff_ms"),
)
_S3 = record(
    S3Options,
    *optionals(TEXT, "region", "endpoint_url"),
    Field("anonymous", BOOL, is_required=True),
    Field("allow_http", BOOL, is_required=True),
    Field("force_path_style", BOOL, False),
    Field("network_stream_timeout_seconds", optional(U32)),
    Field("requester_pays", BOOL, False),
    Field(
        "checksum_algorithm",
        optional(
            enum_of(
                {
                    "crc32": ChecksumAlgorithm.Crc32,
                    "crc32c": ChecksumAlgorithm.Crc32c,
                    "crc64_nvme": ChecksumAlgorithm.Crc64Nvme,
                    "sha1": ChecksumAlgorithm.Sha1,
                    "sha256": ChecksumAlgorithm.Sha256,
                }
            )
        ),
    ),
)
_TEXTS = _present(map_of(TEXT))
_STORE = variants(
    ObjectStoreConfig,
    {
        "in_memory": (InMemoryStore, None, None),
        "local_file_system": (LocalFileSystemStore, "path", TEXT),
        "http": (HttpStore, None, _options_of_http()),
        "s3_compatible": (S3CompatibleStore, "options", _S3),
        "s3": (S3Store, "options", _S3),
        "gcs": (GcsStore, "opts", _TEXTS),
        "azure": (AzureStore, "opts", _TEXTS),
        "tigris": (TigrisStore, "options", _S3),
    },
)
_CONTAINER = record(
    VirtualChunkContainer,
    Field("name", optional(TEXT)),
    Field("url_prefix", TEXT, is_required=True),
    Field("store", _STORE, is_required=True),
)
_STORAGE = record(
    StorageSettings,
    Field(
        "concurrency",
        optional(
            record(
                StorageConcurrencySettings,
                Field("max_concurrent_requests_for_object", optional(U16_POSITIVE)),
                Field("ideal_concurrent_request_size", optional(U64_POSITIVE)),
            )
        ),
    ),
    Field("retries", optional(_RETRIES)),
    Field(
        "timeouts",
        optional(
            record(
                StorageTimeoutSettings,
                *optionals(
                    U32,
                    "connect_timeout_ms",
                    "read_timeout_ms",
                    "operation_timeout_ms",
                    "operation_attempt_timeout_ms",
                ),
            )
        ),
    ),
    *optionals(BOOL, "unsafe_use_conditional_update", "unsafe_use_conditional_create", "unsafe_use_metadata"),
    *optionals(TEXT, "storage_class", "metadata_storage_class", "chunks_storage_class"),
    Field("minimum_size_for_multipart_upload", optional(U64)),
)
_SPLIT_DIMENSION = variants(
    ManifestSplitDimCondition,
    {
        "Axis": (SplitAxis, "axis", U64),
        "DimensionName": (SplitDimensionName, "regex", TEXT),
        "Any": (SplitAny, None, None),
    },
)
_MANIFEST = record(
    ManifestConfig,
    Field(
        "preload",
        optional(
            record(
                ManifestPreloadConfig,
                Field("max_total_refs", optional(U32)),
                Field("preload_if", optional(_condition(ManifestPreloadCondition, ("true", "false"), has_refs=True))),
                Field("max_arrays_to_scan", optional(U32)),
            )
        ),
    ),
    Field(
        "splitting",
        optional(
            record(
                ManifestSplittingConfig,
                Field(
                    "split_sizes",
                    optional(
                        list_of(
                            _pair(
                                _condition(ManifestSplitCondition, ("any_array",), has_refs=False),
                                list_of(_split_size(_SPLIT_DIMENSION)),
                            )
                        )
                    ),
                ),
            )
        ),
    ),
    Field(
        "virtual_chunk_location_compression",
        optional(
            record(
                ManifestVirtualChunkLocationCompressionConfig,
                *optionals(U16, "min_num_chunks", "dictionary_max_training_samples"),
                Field("dictionary_max_size_bytes", optional(U32)),
                Field("compression_level", optional(I32)),
            )
        ),
    ),
    Field("max_concurrent_manifest_fetches_during_commit", optional(U16)),
)
_CONFIG: Final = record(
    RepositoryConfig,
    *optionals(U16, "inline_chunk_threshold_bytes", "get_partial_values_concurrency"),
    Field(
        "compression",
        optional(
            record(
                CompressionConfig,
                Field("algorithm", optional(enum_of({"zstd": CompressionAlgorithm.Zstd}))),
                Field("level", optional(U8)),
            )
        ),
    ),
    *optionals(U16, "max_concurrent_requests", "max_concurrent_decodes"),
    Field(
        "caching",
        optional(
            record(
                CachingConfig,
                *optionals(
                    U64,
                    "num_snapshot_nodes",
                    "num_chunk_refs",
                    "num_transaction_changes",
                    "num_bytes_attributes",
                    "num_bytes_chunks",
                ),
            )
        ),
    ),
    Field("storage", optional(_STORAGE)),
    Field("virtual_chunk_containers", optional(map_of(_CONTAINER))),
    Field("manifest", optional(_MANIFEST)),
    Field("previous_file", optional(TEXT)),
    Field("repo_update_retries", optional(record(RepoUpdateRetryConfig, Field("default", optional(_RETRIES))))),
    Field("num_updates_per_repo_info_file", optional(U16)),
)
