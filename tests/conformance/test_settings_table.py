"""For each field of the official configuration and each kind of store: obeyed, refused, or named as without an effect.

The table names the test that sees a field obeyed, so that no field of a later official library goes without one.
"""

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import icechunk
import pytest
from icechunk import _icechunk_python

from icefs.cli.main import main
from icefs.engine.read.store_settings import unheeded_fields
from icefs.engine.write.repository import WritableRepository
from icefs.format.config.codec import parse_config
from icefs.format.config.values import RepositoryConfig
from icefs.format.flat.flexbuffer import encode_flexbuffer
from icefs.storage.base import Storage
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from tests.support.mounting import mounted
from tests.support.setting_cases import CASES, leaves

ROOT = Path(__file__).parents[2]
KINDS = ("s3", "gcs", "azure", "http", "local", "memory")
CLASSES: dict[str, Any] = {
    "": icechunk.RepositoryConfig,
    "compression": icechunk.CompressionConfig,
    "caching": icechunk.CachingConfig,
    "storage": icechunk.StorageSettings,
    "storage.concurrency": icechunk.StorageConcurrencySettings,
    "storage.retries": icechunk.StorageRetriesSettings,
    "storage.timeouts": icechunk.StorageTimeoutSettings,
    "manifest": icechunk.ManifestConfig,
    "manifest.preload": icechunk.ManifestPreloadConfig,
    "manifest.splitting": icechunk.ManifestSplittingConfig,
    "manifest.virtual_chunk_location_compression": icechunk.ManifestVirtualChunkLocationCompressionConfig,
    "repo_update_retries": _icechunk_python.RepoUpdateRetryConfig,
    "repo_update_retries.default": icechunk.StorageRetriesSettings,
}
"""The official classes by the fields that hold them."""


@dataclass(frozen=True)
class Obeyed:
    """The field does what it says; `test` sees it."""

    test: str


@dataclass(frozen=True)
class Refused:
    """Nothing can be done that the field is about, and trying it is an error; `test` sees it."""

    test: str


@dataclass(frozen=True)
class Without:
    """The field has no effect, for `reason`; opening, `config set` and `doctor` name it. `value` is one to try."""

    reason: str
    value: Any


type Verdict = Obeyed | Refused | Without

_WIRES = {
    "s3": "tests/s3/test_settings_s3.py",
    "gcs": "tests/gcs/test_settings_gcs.py",
    "azure": "tests/azure/test_settings_azure.py",
}
_HTTP = "tests/unit/storage/test_settings_http.py"
_READING = "tests/unit/engine/test_configured_reading.py"
_WRITING = "tests/unit/engine/test_configured_writing.py"
_COMMITS = "tests/conformance/test_commit_configuration.py"
_NO_NETWORK = "no request goes over a network, and one call either succeeds or fails"
_NO_CONDITIONS = "a lock, and not a condition of a request, makes writes safe"
_PARTS = "concurrency."


def on_the_wire(name: str, value: Any) -> dict[str, Verdict]:
    """Returns the verdicts of a field of `storage`, which the services' own tests see in their requests."""
    is_about_reads = name.startswith(("retries.", "timeouts.", _PARTS))
    found: dict[str, Verdict] = {kind: Obeyed(f"{path}::test_a_field_is_obeyed") for kind, path in _WIRES.items()}
    found["http"] = (
        Obeyed(f"{_HTTP}::test_a_field_is_obeyed")
        if is_about_reads
        else Refused(f"{_HTTP}::test_a_field_is_about_writes_and_these_are_refused")
    )
    found["local"] = found["memory"] = Without(_NO_CONDITIONS if name.startswith("unsafe_use") else _NO_NETWORK, value)
    if name.startswith(_PARTS):
        found["local"] = Without("a file is read at once, by one call", value)
        found["memory"] = Obeyed(
            f"{_READING}::test_ideal_concurrent_request_size_and_max_concurrent_requests_for_object"
        )
    return found


def everywhere(verdict: Verdict) -> dict[str, Verdict]:
    """Returns one verdict for all stores: of a field that the engine obeys, above them."""
    return dict.fromkeys(KINDS, verdict)


VALUES: dict[str, Any] = {
    "concurrency.max_concurrent_requests_for_object": 3,
    "concurrency.ideal_concurrent_request_size": 1 << 20,
    "retries.max_tries": 3,
    "retries.initial_backoff_ms": 7,
    "retries.max_backoff_ms": 7,
    "timeouts.connect_timeout_ms": 100,
    "timeouts.read_timeout_ms": 100,
    "timeouts.operation_timeout_ms": 100,
    "timeouts.operation_attempt_timeout_ms": 100,
    "storage_class": "STANDARD_IA",
    "metadata_storage_class": "STANDARD_IA",
    "chunks_storage_class": "STANDARD_IA",
    "unsafe_use_conditional_create": False,
    "unsafe_use_conditional_update": False,
    "unsafe_use_metadata": False,
    "minimum_size_for_multipart_upload": 1 << 20,
}
# What the official library saves with each repository in a directory or in memory, so that it asks for nothing there.
SAVED_UNASKED = {"unsafe_use_conditional_update", "unsafe_use_metadata"}

TABLE: dict[str, dict[str, Verdict]] = {
    **{f"storage.{name}": on_the_wire(name, value) for name, value in VALUES.items()},
    "inline_chunk_threshold_bytes": everywhere(Obeyed(f"{_COMMITS}::test_small_chunks_are_inline_alike")),
    "get_partial_values_concurrency": everywhere(Obeyed(f"{_READING}::test_get_partial_values_concurrency")),
    "compression.algorithm": everywhere(Refused("tests/unit/format/test_config.py::test_what_cannot_be_written")),
    "compression.level": everywhere(Obeyed(f"{_WRITING}::test_compression_level")),
    "max_concurrent_requests": everywhere(Obeyed(f"{_READING}::test_max_concurrent_requests")),
    "max_concurrent_decodes": everywhere(Obeyed(f"{_READING}::test_max_concurrent_decodes")),
    **{
        f"caching.{name}": everywhere(Obeyed(f"{_READING}::test_{name}"))
        for name in ("num_snapshot_nodes", "num_chunk_refs", "num_transaction_changes", "num_bytes_chunks")
    },
    "caching.num_bytes_attributes": everywhere(Without("attributes are part of a snapshot, cached whole", 1 << 20)),
    **{
        f"manifest.preload.{name}": everywhere(Obeyed(f"{_READING}::test_preload"))
        for name in ("max_total_refs", "preload_if", "max_arrays_to_scan")
    },
    "manifest.splitting.split_sizes": everywhere(Obeyed(f"{_COMMITS}::test_manifests_are_split_alike")),
    **{
        f"manifest.virtual_chunk_location_compression.{name}": everywhere(
            Obeyed(f"{_WRITING}::test_virtual_chunk_location_compression")
        )
        for name in (
            "min_num_chunks",
            "dictionary_max_training_samples",
            "dictionary_max_size_bytes",
            "compression_level",
        )
    },
    "manifest.max_concurrent_manifest_fetches_during_commit": everywhere(
        Obeyed(f"{_READING}::test_max_concurrent_manifest_fetches_during_commit")
    ),
    "repo_update_retries.default.max_tries": everywhere(Obeyed(f"{_WRITING}::test_repo_update_retries_max_tries")),
    "repo_update_retries.default.initial_backoff_ms": everywhere(
        Obeyed(f"{_WRITING}::test_repo_update_retries_backoffs")
    ),
    "repo_update_retries.default.max_backoff_ms": everywhere(Obeyed(f"{_WRITING}::test_repo_update_retries_backoffs")),
    "num_updates_per_repo_info_file": everywhere(Obeyed(f"{_COMMITS}::test_the_ops_log_turns_its_pages_alike")),
    "virtual_chunk_containers": everywhere(
        Obeyed("tests/unit/engine/test_session.py::test_virtual_chunks_are_read_where_that_was_allowed")
    ),
}


def official_fields(cls: Any = icechunk.RepositoryConfig, above: str = "") -> Iterator[str]:
    """Yields the names of all fields that the official constructors take, as `config set` spells them."""
    for name in inspect.signature(cls).parameters:
        inner = CLASSES.get(f"{above}{name}")
        if inner is None:
            yield f"{above}{name}"
        else:
            yield from official_fields(inner, f"{above}{name}.")


def test_each_field_has_a_row():
    assert sorted(official_fields()) == sorted(TABLE)
    assert {f"storage.{name}" for name in leaves()} == {name for name in TABLE if name.startswith("storage.")}
    assert all(tuple(row) == KINDS or set(row) == set(KINDS) for row in TABLE.values())


@cache
def functions_of(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("name", sorted(TABLE))
def test_the_tests_of_a_row_exist(name: str):
    for verdict in TABLE[name].values():
        if isinstance(verdict, Without):
            continue
        path, _, function = verdict.test.partition("::")
        assert function in functions_of(path), verdict.test
        if function == "test_a_field_is_obeyed":
            assert name.removeprefix("storage.") in CASES


WITHOUT = sorted(
    (name, kind) for name, row in TABLE.items() for kind, verdict in row.items() if isinstance(verdict, Without)
)


def config_of(name: str, value: Any) -> RepositoryConfig:
    """Returns a configuration with one field."""
    tree: Any = value
    for part in reversed(name.split(".")):
        tree = {part: tree}
    return parse_config(encode_flexbuffer(tree))


def value_of(name: str, kind: str) -> Any:
    verdict = TABLE[name][kind]
    assert isinstance(verdict, Without)
    return verdict.value


def storage_of(kind: str, path: Path) -> Storage:
    return MemoryStorage() if kind == "memory" else LocalStorage(path)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kind in WITHOUT if kind in ("local", "memory")])
def test_a_field_without_an_effect_is_named_at_open(
    name: str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    storage = storage_of(kind, tmp_path / "repo")
    config = config_of(name, value_of(name, kind))
    expected = [] if name.removeprefix("storage.") in SAVED_UNASKED else [name]
    assert unheeded_fields(storage, config) == expected
    with WritableRepository.create(storage, config) as repository:
        repository.save_config()
    caplog.clear()
    with WritableRepository.open(storage):
        assert [name in record.getMessage() for record in caplog.records] == [True] * len(expected)


def test_what_the_official_library_saves_by_itself_is_no_reason_to_warn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    icechunk.set_logs_filter("off")
    icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path))).save_config()
    with WritableRepository.open(LocalStorage(tmp_path)) as repository:
        assert repository.config.storage is not None
    assert not caplog.records


def test_commands_and_mounts_name_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    repo = str(tmp_path / "repo")
    assert main(["init", repo]) == 0
    assert main(["config", "set", "storage.retries.max_tries=3", "--repo", repo]) == 0
    assert "storage.retries.max_tries has no effect" in capsys.readouterr().err
    main(["doctor", repo])
    assert "storage.retries.max_tries: no effect in icefs" in capsys.readouterr().out
    program = Path(sys.executable).with_name("icefs")
    done = subprocess.run([program, "ls", repo], capture_output=True, text=True, check=True)
    assert "storage.retries.max_tries has no effect" in done.stderr
    with mounted(repo, branch="main", may_complain=True) as mount:
        assert "storage.retries.max_tries has no effect" in mount.log.read_text()
