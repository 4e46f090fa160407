"""Metadata values, configurations, zarr.json and damaged files: what both make of them, and what both refuse."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import icechunk as ic
import pytest

from icefs.errors import FormatError, InvalidMetadataError
from icefs.format.config.codec import encode_config, encode_config_yaml, parse_config, parse_config_yaml
from icefs.format.config.manifest import ManifestPreloadCondition
from icefs.format.config.values import DEFAULTS, RepositoryConfig
from icefs.format.flat.flexbuffer import MAX_DEPTH, encode_flexbuffer
from icefs.format.layout import CONFIG_V1, REPO_INFO, SNAPSHOTS
from icefs.format.repo.info import encode_repo_info
from icefs.format.repo.update import (
    set_metadata,
)
from icefs.format.snapshot.reader import parse_snapshot
from icefs.format.snapshot.writer import encode_snapshot
from icefs.format.zarr_json import parse_zarr_json
from tests.conformance.made import Made, local, read_repo, read_snapshot
from tests.conformance.official import GROUP, commit, put
from tests.conformance.oracle import config_facts
from tests.support.config_samples import sample_config
from tests.support.repo_samples import snapshot_id
from tests.support.zarr_documents import DOCUMENTS, Verdict


@pytest.fixture(name="made")
def made_fixture(tmp_path: Path) -> Made:
    return Made(tmp_path / "repo")


# Metadata


METADATA: list[dict[str, Any]] = [
    {"a": 2**64 - 1, "b": -(2**63), "c": 0, "d": 2**63},
    {"a": 2**64, "b": -(2**63) - 1},
    {"a": float("nan"), "b": float("inf"), "c": -0.0, "d": 5e-324, "e": 0.1},
    {"a": (1, (2, [])), "b": b"bytes", "c": bytearray(b"x")},
    {"": "", "ü": {"": None, "🧊": [True, False, None]}},
    {"text with nul": "a\0b", "long": "x" * 70_000},
    {"list": list(range(300)), "floats": [0.5, 1e300], "bools": [True] * 3, "mixed": [1, "a", 1.5, -1]},
    {"deep": [[[[[[[[{"a": [[[[1]]]]}]]]]]]]]},
]


@pytest.mark.parametrize("spec_version", [1, 2])
def test_metadata_become_what_the_official_library_makes_of_them(spec_version: int, tmp_path: Path) -> None:
    for number, metadata in enumerate(METADATA):
        path = tmp_path / str(number)
        repo = ic.Repository.create(local(path), spec_version=spec_version)
        theirs = repo.writable_session("main").commit("m", metadata, allow_empty=True)
        expected = repo.lookup_snapshot(theirs).metadata
        file = path / SNAPSHOTS / theirs
        snapshot = read_snapshot(file)
        # As text, 1 and 1.0 and True differ, and so do 0.0 and -0.0.
        assert json.dumps(snapshot.metadata, sort_keys=True) == json.dumps(expected, sort_keys=True)
        # What icefs writes for the same values reads the same there.
        data = encode_snapshot(
            snapshot_id=snapshot.id,
            parent_id=snapshot.parent_id,
            flushed_at=snapshot.flushed_at,
            message="m",
            metadata=metadata,
            nodes=[],
            manifest_files=[],
            spec_version=spec_version,
        )
        assert read_snapshot_metadata(data) == snapshot.metadata
        file.write_bytes(data)
        if spec_version == 1:
            found = ic.Repository.open(local(path)).lookup_snapshot(theirs).metadata
            assert found == expected


def read_snapshot_metadata(data: bytes) -> dict[str, Any]:
    return parse_snapshot(data, name="x").metadata


def test_metadata_in_the_repo_info_are_read_by_the_official_library(made: Made) -> None:
    for metadata in METADATA:
        ours = made.update(lambda repo, stamp, m=metadata: set_metadata(repo, m, stamp))
        assert made.official().metadata == ours.metadata


@pytest.mark.parametrize("wrong", [{"a": {1: 2}}, {"a": {1, 2}}, {"a": 10**400}, {"a": object()}])
def test_both_refuse_what_is_no_json(wrong: dict[str, Any], tmp_path: Path) -> None:
    session = ic.Repository.create(local(tmp_path / "repo")).writable_session("main")
    with pytest.raises(TypeError):
        session.commit("m", wrong, allow_empty=True)
    with pytest.raises(TypeError):
        encode_snapshot(
            snapshot_id=snapshot_id(1),
            flushed_at=0,
            message="",
            metadata=wrong,
            nodes=[],
            manifest_files=[],
            spec_version=2,
        )


def test_divergence_6_depth_of_metadata(tmp_path: Path) -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH + 10):
        value = [value]
    repo = ic.Repository.create(local(tmp_path / "repo"))
    theirs = repo.writable_session("main").commit("m", {"deep": value}, allow_empty=True)
    assert repo.lookup_snapshot(theirs).metadata == {"deep": value}
    snapshot = read_snapshot(tmp_path / "repo" / SNAPSHOTS / theirs)
    with pytest.raises(FormatError, match="deeper"):
        _ = snapshot.metadata


# Configuration


CONFIGS = {"empty": RepositoryConfig(), "defaults": DEFAULTS, "full": sample_config()}


@pytest.mark.parametrize("spec_version", [1, 2])
@pytest.mark.parametrize("name", list(CONFIGS))
def test_configurations_of_icefs_are_read_and_written_back(name: str, spec_version: int, tmp_path: Path) -> None:
    """The official library opens with ours, says the same of it, and what it then saves reads as the same again."""
    config, path = CONFIGS[name], tmp_path / "repo"
    ic.Repository.create(local(path), spec_version=spec_version)
    install(path, config, spec_version)
    theirs = ic.Repository.fetch_config(local(path))
    assert theirs is not None
    assert config_facts(theirs) == config_facts(config)
    # It saves what it has read; the local file system has settings of its own, and cannot do with others.
    config = replace(config, storage=None)
    install(path, config, spec_version)
    theirs = ic.Repository.fetch_config(local(path))
    ic.Repository.create(local(tmp_path / "other"), config=theirs, spec_version=spec_version)
    found = installed(tmp_path / "other", spec_version)
    if found is None:
        assert config == RepositoryConfig()
    else:
        assert replace(found, storage=None) == as_the_binding_has_it(config)


def as_the_binding_has_it(config: RepositoryConfig) -> RepositoryConfig:
    """The official library's Python classes know half-open ranges of reference counts only (and wrap at 2**32)."""

    def convert(condition: ManifestPreloadCondition) -> ManifestPreloadCondition:
        low, high = condition.from_refs, condition.to_refs
        if low is not None and low[0] == "excluded":
            low = ("included", low[1] + 1)
        if high is not None and high[0] == "included":
            high = ("excluded", (high[1] + 1) % 2**32)
        return replace(condition, conditions=tuple(map(convert, condition.conditions)), from_refs=low, to_refs=high)

    if config.manifest is None or config.manifest.preload is None or config.manifest.preload.preload_if is None:
        return config
    preload = replace(config.manifest.preload, preload_if=convert(config.manifest.preload.preload_if))
    return replace(config, manifest=replace(config.manifest, preload=preload))


def install(path: Path, config: RepositoryConfig, spec_version: int) -> None:
    if spec_version == 1:
        (path / CONFIG_V1).write_bytes(encode_config_yaml(config))
    else:
        changed = replace(read_repo(path / REPO_INFO), config=encode_config(config))
        (path / REPO_INFO).write_bytes(encode_repo_info(changed))


def installed(path: Path, spec_version: int) -> RepositoryConfig | None:
    if spec_version == 1:
        file = path / CONFIG_V1
        return parse_config_yaml(file.read_bytes()) if file.exists() else None
    config = read_repo(path / REPO_INFO).config
    return None if config is None else parse_config(config)


def test_defaults_are_the_official_ones(tmp_path: Path) -> None:
    """As the official library prints them for a configuration in which nothing is set."""
    text = str(ic.RepositoryConfig.default())
    caching, compression = DEFAULTS.caching, DEFAULTS.compression
    manifest, retries = DEFAULTS.manifest, DEFAULTS.repo_update_retries
    assert caching is not None
    assert compression is not None
    assert manifest is not None
    assert manifest.preload is not None
    assert manifest.virtual_chunk_location_compression is not None
    assert retries is not None
    assert retries.default is not None
    for value in (
        DEFAULTS,
        caching,
        compression,
        manifest,
        manifest.preload,
        manifest.virtual_chunk_location_compression,
    ):
        for name in value.__dataclass_fields__:
            found = getattr(value, name)
            if isinstance(found, int):
                assert f"{name}: {found} (default)" in text, name
    for name in ("max_tries", "initial_backoff_ms", "max_backoff_ms"):
        assert f"{name}: {getattr(retries.default, name)}\n" in text
    assert 'path_matches(".*"), [(icechunk.config.ManifestSplitDimCondition.any(), 4294967295)])' in text


def test_wrong_configurations_are_refused_by_both(tmp_path: Path) -> None:
    path = tmp_path / "repo"
    ic.Repository.create(local(path))
    info = read_repo(path / REPO_INFO)
    trees: list[tuple[Any, bool]] = [
        ({}, True),
        ({"unknown": {"a": [1]}}, True),
        ({"caching": {}}, True),
        ({"inline_chunk_threshold_bytes": 2**16}, False),
        ({"inline_chunk_threshold_bytes": -1}, False),
        ({"inline_chunk_threshold_bytes": "5"}, False),
        ({"compression": {"algorithm": "lz4"}}, False),
        ({"compression": {"level": 256}}, False),
        ({"storage": {"retries": {"max_tries": 0}}}, False),
        ({"virtual_chunk_containers": {"s3://a/": {"url_prefix": "s3://a/"}}}, False),
        ({"virtual_chunk_containers": {"s3://a/": {"url_prefix": "s3://a/", "store": {"ftp": {}}}}}, False),
        ({"virtual_chunk_containers": {"x": {"url_prefix": "no url", "store": {"gcs": {}}}}}, True),
        ({"manifest": {"preload": {"preload_if": {"num_refs": {"from": "Unbounded"}}}}}, False),
        ({"manifest": {"splitting": {"split_sizes": [["any_array"]]}}}, False),
        ({"manifest": {"splitting": {"split_sizes": None}}}, True),
    ]
    for tree, is_valid in trees:
        data = encode_flexbuffer(tree)
        (path / REPO_INFO).write_bytes(encode_repo_info(replace(info, config=data)))
        if is_valid:
            ic.Repository.open(local(path))
            parse_config(data)
        else:
            with pytest.raises(ic.IcechunkError) as theirs:
                ic.Repository.open(local(path))
            with pytest.raises(FormatError) as ours:
                parse_config(data)
            assert ours.value.kind == theirs.value.kind == "deserialization", tree


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [
        ("{}", True),
        ("inline_chunk_threshold_bytes: 0x10", True),
        ("inline_chunk_threshold_bytes: 70000", False),
        ("inline_chunk_threshold_bytes: '5'", False),
        ("previous_file: yes", True),
        ("previous_file: 12", True),
        ("caching: {num_chunk_refs: 5, other: 6}", True),
        ("manifest: {preload: {preload_if: !maybe 5}}", False),
        ("manifest: {preload: {preload_if: !num_refs {from: !Included 1, to: Unbounded}}}", True),
        (
            "manifest: {splitting: {split_sizes: [[!name_matches {regex: x}, [{condition: !Axis 0, num_chunks: 1}]]]}}",
            True,
        ),
        (
            "manifest: {splitting: {split_sizes: [[any_array, [{condition: !Axis '0', num_chunks: 1}]]]}}",
            False,
        ),
        ("", True),
        ("---", True),
        ("null", False),
        ("[]", False),
        ("caching: !x {}", True),
        ("previous_file: !x y", True),
        ("manifest: {preload: {preload_if: {and: []}}}", False),
        ("virtual_chunk_containers: {a: {url_prefix: a, store: {gcs: {}}}}", False),
        ("storage: {unsafe_use_metadata: yes}", False),
        ("storage: {unsafe_use_metadata: TRUE}", True),
        ("inline_chunk_threshold_bytes: 007", False),
        ("inline_chunk_threshold_bytes: +5", True),
        ("inline_chunk_threshold_bytes: 5.0", False),
        ("virtual_chunk_containers: {5: {url_prefix: a, store: !gcs {}}}", True),
        ("a: [", False),
        ("caching: {}\ncaching: {}", False),
    ],
)
def test_yaml_is_read_as_the_official_library_does(text: str, is_valid: bool, tmp_path: Path) -> None:
    path = tmp_path / "repo"
    ic.Repository.create(local(path), spec_version=1)
    (path / CONFIG_V1).write_text(text)
    if is_valid:
        ic.Repository.open(local(path))
        parse_config_yaml(text.encode())
    else:
        with pytest.raises(ic.IcechunkError) as theirs:
            ic.Repository.open(local(path))
        with pytest.raises(FormatError) as ours:
            parse_config_yaml(text.encode())
        assert ours.value.kind == theirs.value.kind == "config-deserialization"


def test_divergence_38_aliases(tmp_path: Path) -> None:
    path = tmp_path / "repo"
    ic.Repository.create(local(path), spec_version=1)
    text = "virtual_chunk_containers: &a {}\ncaching: *a"
    (path / CONFIG_V1).write_text(text)
    ic.Repository.open(local(path))
    with pytest.raises(FormatError, match="alias"):
        parse_config_yaml(text.encode())


# zarr.json


def test_verdicts_about_zarr_json() -> None:
    """Each document is accepted or refused as by the official library, but for Divergence 1."""
    stores = {
        version: ic.Repository.create(ic.in_memory_storage(), spec_version=version).writable_session("main").store
        for version in (1, 2)
    }
    for number, (name, (data, verdict)) in enumerate(DOCUMENTS.items()):
        for version, store in stores.items():
            accepted = verdict is Verdict.ACCEPTED or (verdict is Verdict.V2_ONLY and version == 2)
            if accepted:
                put(store, f"node{number}/zarr.json", data)
                parse_zarr_json(data, name=name, spec_version=version)
                continue
            with pytest.raises(ic.IcechunkError) as theirs:
                put(store, f"node{number}/zarr.json", data)
            assert theirs.value.kind == "bad-metadata"
            if verdict is Verdict.OURS_V2_ONLY and version == 2:
                parse_zarr_json(data, name=name, spec_version=version)
                continue
            with pytest.raises(InvalidMetadataError):
                parse_zarr_json(data, name=name, spec_version=version)


def test_shapes_and_grids_are_those_that_the_official_library_stores(tmp_path: Path) -> None:
    for spec_version in (1, 2):
        path = tmp_path / str(spec_version)
        repo = ic.Repository.create(local(path), spec_version=spec_version)
        documents = {
            f"node{number}/zarr.json": data
            for number, (name, (data, verdict)) in enumerate(DOCUMENTS.items())
            if (verdict is Verdict.ACCEPTED or (verdict is Verdict.V2_ONLY and spec_version == 2))
            # Version 1 cannot say that there are no chunks (its file is unreadable), nor either more than 32 bits.
            # The official library stores names that are too few or too many, and panics at the next look.
            and name not in ("chunks of size 0", "very many chunks", "shape of 64 bits", "no names", "too many names")
        }
        new = commit(repo, "all", documents)
        nodes = list(read_snapshot(path / SNAPSHOTS / new).nodes())
        assert len(nodes) == len(documents)
        for node in nodes:
            metadata = parse_zarr_json(node.user_data, name=node.path, spec_version=spec_version)
            assert node.user_data == documents[f"{node.path[1:]}/zarr.json"]
            if node.array is not None:
                assert metadata.dimensions() == node.array.shape
                assert metadata.dimension_names == node.array.dimension_names


# Malformed files


def test_both_refuse_damaged_snapshots_and_repo_infos(tmp_path: Path) -> None:
    repo = ic.Repository.create(local(tmp_path / "repo"))
    new = commit(repo, "m", {"zarr.json": GROUP})
    path = tmp_path / "repo" / SNAPSHOTS / new
    data = path.read_bytes()
    damaged = [data[:-1], data[:39], data[:20], b"", data[:36] + b"\x03" + data[37:], data[:37] + b"\x02" + data[38:],
               data[:38] + b"\x00" + data[39:], b"X" + data[1:], data + data[39:]]  # fmt: skip
    for wrong in damaged:
        path.write_bytes(wrong)
        theirs = ic.Repository.open(local(tmp_path / "repo"))
        with pytest.raises(ic.IcechunkError):
            theirs.list_manifest_files(new)
        with pytest.raises(FormatError):
            read_snapshot(path)
