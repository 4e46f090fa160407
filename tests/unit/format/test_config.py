"""The configuration: defaults, merging, and its two encodings."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest

from icefs.errors import FormatError, InvalidInputError
from icefs.format.config.codec import encode_config, encode_config_yaml, parse_config, parse_config_yaml
from icefs.format.config.manifest import (
    ManifestConfig,
    ManifestPreloadCondition,
    ManifestPreloadConfig,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    ManifestSplittingConfig,
)
from icefs.format.config.storage import (
    ObjectStoreConfig,
    S3Options,
    StorageRetriesSettings,
    StorageSettings,
    VirtualChunkContainer,
)
from icefs.format.config.values import (
    DEFAULTS,
    CachingConfig,
    CompressionAlgorithm,
    CompressionConfig,
    RepositoryConfig,
)
from icefs.format.config.yaml import MAX_BYTES, Tagged, emit_yaml, load_yaml
from icefs.format.flat.flexbuffer import decode_flexbuffer, encode_flexbuffer
from tests.support.config_samples import sample_config, sample_containers, sample_preload

BOTH = pytest.mark.parametrize(
    ("encode", "parse"),
    [(encode_config, parse_config), (encode_config_yaml, parse_config_yaml)],
    ids=["flexbuffers", "yaml"],
)

type Encode = Callable[[RepositoryConfig], bytes]
type Parse = Callable[[bytes], RepositoryConfig]


@BOTH
@pytest.mark.parametrize("config", [RepositoryConfig(), DEFAULTS, sample_config()], ids=["empty", "defaults", "full"])
def test_round_trip(encode: Encode, parse: Parse, config: RepositoryConfig) -> None:
    assert parse(encode(config)) == config


def test_the_sample_sets_everything() -> None:
    def check(value: Any) -> None:
        if is_dataclass(value) and not isinstance(value, VirtualChunkContainer | type):
            for item in fields(value):
                found = getattr(value, item.name)
                assert found is not None or item.name == "initial_backoff_ms", item.name
                check(found)

    config = sample_config()
    for item in fields(config):
        if item.name not in ("virtual_chunk_containers", "manifest"):
            check(getattr(config, item.name))


def test_the_flexbuffer_is_serdes_map() -> None:
    found = decode_flexbuffer(encode_config(sample_config()))
    assert list(found) == sorted(found)
    assert found["compression"] == {"algorithm": "zstd", "level": 19}
    assert found["manifest"]["splitting"]["split_sizes"] == [
        [
            {"name_matches": {"regex": "x"}},
            [
                {"condition": {"Axis": 0}, "num_chunks": 3},
                {"condition": {"DimensionName": "^t.*"}, "num_chunks": 4},
            ],
        ],
        [
            {"or": [{"path_matches": {"regex": "/a/.*"}}, "any_array"]},
            [{"condition": "Any", "num_chunks": 2**32 - 1}],
        ],
        [{"and": ["any_array", {"or": []}]}, []],
    ]
    assert found["manifest"]["preload"]["preload_if"]["and"][:3] == [
        {"num_refs": {"from": {"Included": 1}, "to": {"Excluded": 10}}},
        {"num_refs": {"from": "Unbounded", "to": "Unbounded"}},
        {"num_refs": {"from": {"Excluded": 0}, "to": {"Included": 2**32 - 1}}},
    ]
    stores = {prefix: item["store"] for prefix, item in found["virtual_chunk_containers"].items()}
    assert stores["file:///data/ü x/"] == {"local_file_system": "/data/ü x"}
    assert stores["http://example.com/"] == {"http": {}}
    assert stores["https://example.com/"] == {
        "http": {"timeout": "5s", "x": "", "headers": {"Authorization": "Bearer: 'x'"}}
    }
    assert stores["gs://bucket/"] == {"gcs": {"a": "b"}}
    assert stores["s3://bucket/prefix/"]["s3"]["checksum_algorithm"] == "crc64_nvme"
    empty = decode_flexbuffer(encode_config(RepositoryConfig()))
    assert set(empty) == {item.name for item in fields(RepositoryConfig)}
    assert set(empty.values()) == {None}


def test_the_yaml_is_serdes() -> None:
    """As the official library writes it, but for indentation and quotes."""
    text = encode_config_yaml(
        RepositoryConfig(
            virtual_chunk_containers={
                "s3://b/": VirtualChunkContainer("s3://b/", ObjectStoreConfig.S3(S3Options(region="no"))),
                "gs://b/": VirtualChunkContainer("gs://b/", ObjectStoreConfig.Gcs()),
            },
            manifest=ManifestConfig(
                preload=ManifestPreloadConfig(
                    preload_if=ManifestPreloadCondition.or_conditions([ManifestPreloadCondition.true()])
                ),
                splitting=ManifestSplittingConfig(
                    [(ManifestSplitCondition.AnyArray(), [(ManifestSplitDimCondition.Axis(1), 2)])]
                ),
            ),
        )
    ).decode()
    assert "store: !gcs {}\n" in text
    assert 'store: !s3\n      region: "no"\n      endpoint_url: null\n      anonymous: false\n' in text
    assert 'preload_if: !or\n      - "true"\n' in text
    assert "condition: !Axis 1\n" in text
    assert text.startswith("inline_chunk_threshold_bytes: null\n")


SERDE_YAML = b"""
inline_chunk_threshold_bytes: 0x10
get_partial_values_concurrency: ~
virtual_chunk_containers:
  s3://my-bucket/:
    name: null
    url_prefix: s3://my-bucket/
    store: !s3
      region: us-east-1
      endpoint_url: null
      anonymous: false
      allow_http: False
      network_stream_timeout_seconds: 60
  https://example.com/data/:
    url_prefix: https://example.com/data/
    store: !http
      allow_http: "true"
manifest:
  preload:
    preload_if: !and
    - !num_refs
      from: !Included 1
      to: Unbounded
    - 'true'
    max_arrays_to_scan: null
  splitting:
    split_sizes:
    - - any_array
      - - condition: !DimensionName no
          num_chunks: 3
storage: {retries: {max_tries: 1, initial_backoff_ms: 0, max_backoff_ms: 0}, storage_class: 123, future: [1, {a: b}]}
previous_file: yes
unknown: {field: !tagged [1, 2]}
"""


def test_yaml_of_another_writer() -> None:
    """Older files lack newer fields; what a scalar is depends on the field."""
    config = parse_config_yaml(SERDE_YAML)
    assert config == RepositoryConfig(
        inline_chunk_threshold_bytes=16,
        virtual_chunk_containers={
            "s3://my-bucket/": VirtualChunkContainer(
                "s3://my-bucket/",
                ObjectStoreConfig.S3(S3Options(region="us-east-1", network_stream_timeout_seconds=60)),
            ),
            "https://example.com/data/": VirtualChunkContainer(
                "https://example.com/data/", ObjectStoreConfig.Http({"allow_http": "true"}, {})
            ),
        },
        manifest=ManifestConfig(
            ManifestPreloadConfig(
                preload_if=ManifestPreloadCondition.and_conditions(
                    [
                        ManifestPreloadCondition("num_refs", from_refs=("included", 1)),
                        ManifestPreloadCondition.true(),
                    ]
                )
            ),
            ManifestSplittingConfig(
                [(ManifestSplitCondition.AnyArray(), [(ManifestSplitDimCondition.DimensionName("no"), 3)])]
            ),
        ),
        storage=StorageSettings(retries=StorageRetriesSettings(1, 0, 0), storage_class="123"),
        previous_file="yes",
    )


@pytest.mark.parametrize(
    "text",
    [
        "", "~", "null", "true", "no", "1", "1.5", "0x1", "-", "- a", "a: b", "a #b", "#", "'", '"', "&a", "*a", "!a",
        "|", ">", "%", "@", "`", "{", "[", ",", "?", ":", " a", "a ", "\n", "a\nb", "\t", "\x00", "\x07", "\x7f",
        "\x85", "\xa0", "\ufeff", "\u2028", "\u2029", "é", "🧊", "s3://bucket/a b", "=", "<<", "2020-01-01", "12:30",
        "\\", "a\\nb", "\uffff", "y", "N", "off",
    ],
)  # fmt: skip
def test_any_text_survives_yaml(text: str) -> None:
    tree = {"key": text, "list": [text, [text]], text: {"nested": text}}
    assert load_yaml(emit_yaml(tree).encode(), name="x") == tree


# What is refused


TREES: list[tuple[Any, str]] = [
    ([], "it must be a map"),
    (5, "it must be a map"),
    ({"inline_chunk_threshold_bytes": 2**16}, "inline_chunk_threshold_bytes must be a number from 0 to 65535"),
    ({"inline_chunk_threshold_bytes": -1}, "a number"),
    ({"inline_chunk_threshold_bytes": "x"}, "a number"),
    ({"inline_chunk_threshold_bytes": []}, "a number"),
    ({"compression": {"level": 256}}, "compression.level"),
    ({"compression": {"algorithm": "lz4"}}, "one of zstd"),
    ({"compression": []}, "compression must be a map"),
    ({"caching": {"num_chunk_refs": -1}}, "caching.num_chunk_refs"),
    ({"storage": {"retries": {"max_tries": 0}}}, "storage.retries.max_tries must be a number from 1"),
    ({"storage": {"unsafe_use_metadata": "maybe"}}, "true or false"),
    ({"virtual_chunk_containers": {"a": {"url_prefix": "a"}}}, "has no store"),
    ({"virtual_chunk_containers": {"a": {"store": Tagged("gcs", {})}}}, "has no url_prefix"),
    ({"virtual_chunk_containers": {"a": {"url_prefix": "a", "store": Tagged("ftp", {})}}}, "store must be one of"),
    ({"virtual_chunk_containers": {"a": {"url_prefix": "a", "store": Tagged("s3", {"anonymous": True})}}}, "http"),
    ({"virtual_chunk_containers": {"a": {"url_prefix": "a", "store": Tagged("gcs", {"a": []})}}}, "must be a string"),
    ({"virtual_chunk_containers": {"a": {"url_prefix": "a", "store": []}}}, "must be a variant"),
    ({"virtual_chunk_containers": []}, "must be a map"),
    ({"manifest": {"preload": {"preload_if": "maybe"}}}, "must be a condition"),
    ({"manifest": {"preload": {"preload_if": Tagged("and", {})}}}, "must be a list"),
    ({"manifest": {"preload": {"preload_if": Tagged("path_matches", {})}}}, "has no regex"),
    ({"manifest": {"preload": {"preload_if": Tagged("num_refs", {"from": "Unbounded"})}}}, "has no to"),
    ({"manifest": {"preload": {"preload_if": Tagged("num_refs", {"from": "x", "to": "y"})}}}, "Included"),
    ({"manifest": {"splitting": {"split_sizes": [["any_array"]]}}}, "must be a pair"),
    ({"manifest": {"splitting": {"split_sizes": [["any_array", [{"condition": "Any"}]]]}}}, "has no num_chunks"),
    ({"manifest": {"splitting": {"split_sizes": [["true", []]]}}}, "must be a condition"),
    ({"manifest": {"splitting": {"split_sizes": {}}}}, "must be a list"),
]  # fmt: skip


def as_maps(tree: Any) -> Any:
    if isinstance(tree, Tagged):
        return {tree.tag: as_maps(tree.content)}
    if isinstance(tree, dict):
        return {key: as_maps(value) for key, value in tree.items()}
    return [as_maps(item) for item in tree] if isinstance(tree, list) else tree


@pytest.mark.parametrize(("tree", "match"), TREES, ids=[str(tree)[:60] for tree, _ in TREES])
def test_malformed(tree: Any, match: str) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        parse_config(encode_flexbuffer(as_maps(tree)), name="repo")
    assert caught.value.kind == "deserialization"
    # In YAML, variants are tags: there is more that can be wrong with maps.
    with pytest.raises(
        FormatError, match=match if "variant" not in str(tree) and '{"' not in match else None
    ) as caught:
        parse_config_yaml(emit_yaml(tree).encode(), name="config.yaml")
    assert caught.value.kind == "config-deserialization"
    assert caught.value.facts["file"] == "config.yaml"


@pytest.mark.parametrize("tree", [{}, {"new field": 1}, {"caching": {}}, {"manifest": {"preload": None}}])
def test_tolerated(tree: Any) -> None:
    expected = RepositoryConfig()
    if "caching" in tree:
        expected.caching = CachingConfig()
    if "manifest" in tree:
        expected.manifest = ManifestConfig()
    assert parse_config(encode_flexbuffer(tree)) == expected
    assert parse_config_yaml(emit_yaml(tree).encode()) == expected


@pytest.mark.parametrize("data", [b"", b"# nothing\n", b"---\n", b"{}", b"!tagged {}"])
def test_empty_yaml(data: bytes) -> None:
    assert parse_config_yaml(data) == RepositoryConfig()


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"\xff", "utf-8"),
        (b"a: [", "expected"),
        (b"a: b: c", "mapping values"),
        (b"a: &x 1\nb: *x", "alias"),
        (b"a: 1\na: 2", "twice"),
        (b"[a]: 1", "no text"),
        (b"--- {}\n--- {}", "several documents"),
        (b'a: "\\Uffffffff"', None),
        (b"%YAML " + b"9" * 5000 + b".1\n--- {}", None),
        (b"\x00", "special characters"),
        (b"- " * 200, "deeper"),
        (b"[" * 3000, "deeper"),
        (b"{a: " * 3000, "deeper"),
        (b"!x " * 3, None),
        (b"manifest: {preload: {preload_if: {and: []}}}", "must be a variant"),
        (b"#" * (MAX_BYTES + 1), "too many"),
        (b"!tagged []", "must be a map"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_malformed_yaml(data: bytes, match: str | None) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        parse_config_yaml(data)
    assert caught.value.kind == "config-deserialization"


def test_malformed_flexbuffers() -> None:
    with pytest.raises(FormatError, match="configuration") as caught:
        parse_config(b"\x00\xa0\x01", name="repo")
    assert caught.value.kind == "deserialization"


def nested_condition(depth: int) -> ManifestPreloadCondition:
    condition = ManifestPreloadCondition.true()
    for _ in range(depth):
        condition = condition | ManifestPreloadCondition.false()
    return condition


@BOTH
def test_conditions_may_nest_as_operators_make_them(encode: Encode, parse: Parse) -> None:
    config = RepositoryConfig(manifest=ManifestConfig(ManifestPreloadConfig(preload_if=nested_condition(100))))
    assert parse(encode(config)) == config


@BOTH
@pytest.mark.parametrize(
    "config",
    [
        RepositoryConfig(virtual_chunk_containers={5: 6}),  # type: ignore[dict-item]
        RepositoryConfig(
            virtual_chunk_containers={"a": VirtualChunkContainer("a", ObjectStoreConfig.Http({"headers": "x"}))}
        ),
        RepositoryConfig(manifest=ManifestConfig(splitting=ManifestSplittingConfig([5]))),  # type: ignore[list-item]
        RepositoryConfig(manifest=ManifestConfig(splitting=ManifestSplittingConfig("abc"))),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_written(encode: Encode, parse: Parse, config: RepositoryConfig) -> None:
    del parse
    with pytest.raises(InvalidInputError) as caught:
        encode(config)
    assert caught.value.kind == "serialization"


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: RepositoryConfig(inline_chunk_threshold_bytes=2**16), OverflowError),
        (lambda: RepositoryConfig(inline_chunk_threshold_bytes=-1), OverflowError),
        (lambda: RepositoryConfig(max_concurrent_requests="x"), TypeError),  # type: ignore[arg-type]
        (lambda: RepositoryConfig(compression={"level": 3}), TypeError),  # type: ignore[arg-type]
        (lambda: RepositoryConfig(virtual_chunk_containers=[]), TypeError),  # type: ignore[arg-type]
        (lambda: CompressionConfig("zstd"), TypeError),  # type: ignore[arg-type]
        (lambda: CompressionConfig(level=256), OverflowError),
        (lambda: CachingConfig(num_chunk_refs=-1), OverflowError),
        (lambda: StorageRetriesSettings(max_tries=0), ValueError),
        (lambda: S3Options(anonymous=1), TypeError),  # type: ignore[arg-type]
        (lambda: VirtualChunkContainer("a", S3Options()), TypeError),  # type: ignore[arg-type]
        (lambda: ManifestPreloadConfig(preload_if="true"), TypeError),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_set(make: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


def test_numbers_of_others_are_numbers() -> None:
    config = RepositoryConfig(inline_chunk_threshold_bytes=np.uint16(5), max_concurrent_requests=True)
    assert (type(config.inline_chunk_threshold_bytes), config.inline_chunk_threshold_bytes) == (int, 5)
    assert (type(config.max_concurrent_requests), config.max_concurrent_requests) == (int, 1)
    config.max_concurrent_requests = None
    with pytest.raises(TypeError):
        config.max_concurrent_requests = 1.5  # type: ignore[assignment]
    assert config.max_concurrent_requests is None


# Merging


def test_merging_goes_field_by_field() -> None:
    full = sample_config()
    assert RepositoryConfig().merge(full) == full == full.merge(RepositoryConfig())
    mine = RepositoryConfig(
        max_concurrent_requests=5,
        caching=CachingConfig(1, 2),
        storage=StorageSettings(retries=StorageRetriesSettings(1, 2)),
        manifest=ManifestConfig(max_concurrent_manifest_fetches_during_commit=3),
    )
    theirs = RepositoryConfig(
        caching=CachingConfig(num_chunk_refs=9),
        storage=StorageSettings(retries=StorageRetriesSettings(initial_backoff_ms=7), storage_class="x"),
        manifest=ManifestConfig(preload=ManifestPreloadConfig(5)),
    )
    assert mine.merge(theirs) == RepositoryConfig(
        max_concurrent_requests=5,
        caching=CachingConfig(1, 9),
        storage=StorageSettings(retries=StorageRetriesSettings(1, 7), storage_class="x"),
        manifest=ManifestConfig(ManifestPreloadConfig(5), max_concurrent_manifest_fetches_during_commit=3),
    )


def test_some_are_replaced_as_wholes() -> None:
    one, two = sample_config(), RepositoryConfig()
    two.clear_virtual_chunk_containers()
    two.manifest = ManifestConfig(ManifestPreloadConfig(1), ManifestSplittingConfig([]))
    merged = one.merge(two)
    assert merged.virtual_chunk_containers == {}
    assert merged.manifest is not None
    assert one.manifest is not None
    assert merged.manifest.preload == ManifestPreloadConfig(1)
    assert merged.manifest.splitting == ManifestSplittingConfig([])
    assert merged.manifest.virtual_chunk_location_compression == one.manifest.virtual_chunk_location_compression


def test_a_merged_value_shares_nothing() -> None:
    one, two = sample_config(), sample_config()
    merged = one.merge(two)
    assert merged.caching is not None
    merged.caching.num_chunk_refs = 77
    merged.clear_virtual_chunk_containers()
    assert one == two == sample_config()


def test_what_holds() -> None:
    before = deepcopy(DEFAULTS)
    assert RepositoryConfig().effective() == DEFAULTS
    found = RepositoryConfig(
        inline_chunk_threshold_bytes=0, manifest=ManifestConfig(ManifestPreloadConfig(max_total_refs=5))
    ).effective()
    assert found.inline_chunk_threshold_bytes == 0
    assert found.compression == CompressionConfig(CompressionAlgorithm.Zstd, 3)
    assert found.manifest is not None
    assert found.manifest.preload is not None
    assert found.manifest.preload.max_total_refs == 5
    assert found.manifest.preload.max_arrays_to_scan == 50
    assert found.manifest.preload.preload_if is not None
    found.manifest.preload.max_arrays_to_scan = 1
    assert before == DEFAULTS


def test_containers() -> None:
    config = RepositoryConfig.default()
    assert config == RepositoryConfig()
    assert config.get_virtual_chunk_container("s3://bucket/prefix/") is None
    for container in sample_containers().values():
        config.set_virtual_chunk_container(container)
    assert config.virtual_chunk_containers == sample_containers()
    renamed = VirtualChunkContainer("s3://new/", ObjectStoreConfig.S3(S3Options()), "named")
    config.set_virtual_chunk_container(renamed)
    assert config.get_virtual_chunk_container("s3://bucket/prefix/") is None
    assert config.get_virtual_chunk_container("s3://new/") is renamed
    again = VirtualChunkContainer("s3://other/", ObjectStoreConfig.S3(S3Options()))
    config.set_virtual_chunk_container(again)
    assert config.get_virtual_chunk_container("s3://other/") is again


def test_headers_are_not_shown() -> None:
    assert "secret" not in repr(ObjectStoreConfig.Http({"a": "b"}, {"Authorization": "secret"}))


def test_conditions_compare_and_combine() -> None:
    one, two = ManifestSplitCondition.name_matches("a"), ManifestSplitCondition.path_matches("b")
    assert one | two == ManifestSplitCondition.or_conditions([one, two])
    assert one & two == ManifestSplitCondition.and_conditions([one, two])
    assert isinstance(ManifestSplitDimCondition.Axis(0), ManifestSplitDimCondition)
    rules = {one: {ManifestSplitDimCondition.Any(): 5}, two: {}}
    assert ManifestSplittingConfig.from_dict(rules).to_dict() == rules
    preload = sample_preload()
    assert preload & preload == ManifestPreloadCondition.and_conditions([preload, preload])
