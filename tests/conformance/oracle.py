"""Records what the official library answers about a repository, as plain values.

The `*_facts` functions read objects through the official attribute names only, so they take icefs's objects just as
well: a test compares `diff_facts(official)` with `diff_facts(ours)`.
"""

import asyncio
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

import icechunk as ic
from zarr.core.buffer import Buffer, default_buffer_prototype

from tests.conformance.official import GeneratedRepo, open_official

type Facts = dict[str, Any]

CONFIG_FIELDS: dict[str, tuple[str, ...]] = {
    "RepositoryConfig": (
        "inline_chunk_threshold_bytes",
        "get_partial_values_concurrency",
        "compression",
        "max_concurrent_requests",
        "max_concurrent_decodes",
        "caching",
        "storage",
        "manifest",
        "virtual_chunk_containers",
        "repo_update_retries",
        "num_updates_per_repo_info_file",
    ),
    "CompressionConfig": ("algorithm", "level"),
    "CachingConfig": (
        "num_snapshot_nodes",
        "num_chunk_refs",
        "num_transaction_changes",
        "num_bytes_attributes",
        "num_bytes_chunks",
    ),
    "StorageSettings": (
        "concurrency",
        "retries",
        "timeouts",
        "unsafe_use_conditional_create",
        "unsafe_use_conditional_update",
        "unsafe_use_metadata",
        "storage_class",
        "metadata_storage_class",
        "chunks_storage_class",
        "minimum_size_for_multipart_upload",
    ),
    "StorageConcurrencySettings": ("max_concurrent_requests_for_object", "ideal_concurrent_request_size"),
    "StorageRetriesSettings": ("max_tries", "initial_backoff_ms", "max_backoff_ms"),
    "StorageTimeoutSettings": (
        "connect_timeout_ms",
        "read_timeout_ms",
        "operation_timeout_ms",
        "operation_attempt_timeout_ms",
    ),
    "RepoUpdateRetryConfig": ("default",),
    "ManifestConfig": (
        "preload",
        "splitting",
        "virtual_chunk_location_compression",
        "max_concurrent_manifest_fetches_during_commit",
    ),
    "ManifestPreloadConfig": ("max_total_refs", "max_arrays_to_scan"),
    "ManifestVirtualChunkLocationCompressionConfig": (
        "min_num_chunks",
        "dictionary_max_training_samples",
        "dictionary_max_size_bytes",
        "compression_level",
    ),
    "VirtualChunkContainer": ("name", "url_prefix"),
}

UPDATE_FIELDS: dict[str, tuple[str, ...]] = {
    "BranchCreated": ("name",),
    "BranchDeleted": ("name", "previous_snap_id"),
    "BranchReset": ("name", "previous_snap_id"),
    "CommitAmended": ("branch", "previous_snap_id", "new_snap_id"),
    "ConfigChanged": (),
    "ExpirationRan": (),
    "FeatureFlagChanged": ("id", "new_value"),
    "GCRan": (),
    "MetadataChanged": (),
    "NewCommit": ("branch", "new_snap_id"),
    "NewDetachedSnapshot": ("new_snap_id",),
    "RepoInitialized": (),
    "RepoMigrated": ("from_version", "to_version"),
    "RepoStatusChanged": ("status",),
    "TagCreated": ("name",),
    "TagDeleted": ("name", "previous_snap_id"),
}

_DIFF_SETS = ("new_groups", "new_arrays", "deleted_groups", "deleted_arrays", "updated_groups", "updated_arrays")


def config_facts(value: Any) -> Any:
    """Reads a configuration object, or any part of one, into plain values."""
    name = type(value).__name__
    if name == "CompressionAlgorithm":
        return str(value).rpartition(".")[2].lower()
    if name == "ManifestSplittingConfig":
        # The conditions have no attributes; the number of rules and their sizes can be seen.
        return [sorted(size for _, size in rule) for _, rule in value.split_sizes]
    if name == "dict":
        return {key: config_facts(item) for key, item in value.items()}
    fields = CONFIG_FIELDS.get(name)
    return value if fields is None else {field: config_facts(getattr(value, field)) for field in fields}


def info_facts(info: Any) -> Facts:
    """Reads a SnapshotInfo."""
    return {
        "id": info.id,
        "parent_id": info.parent_id,
        "written_at": info.written_at,
        "message": info.message,
        "metadata": info.metadata,
    }


def diff_facts(diff: Any) -> Facts:
    """Reads a Diff; the order of sets and of unordered lists is dropped."""
    facts: Facts = {name: set(getattr(diff, name)) for name in _DIFF_SETS}
    facts["updated_chunks"] = {path: sorted(map(tuple, chunks)) for path, chunks in diff.updated_chunks.items()}
    facts["moved_nodes"] = sorted(map(tuple, diff.moved_nodes))
    return facts


def status_facts(status: Any) -> Facts:
    """Reads a RepoStatus."""
    return {
        "availability": str(status.availability),
        "set_at": status.set_at,
        "reason": status.limited_availability_reason,
    }


def update_facts(update: Any) -> Facts:
    """Reads one entry of the ops log."""
    name = type(update.kind).__name__.rpartition(".")[2]
    facts: Facts = {"kind": name, "updated_at": update.updated_at, "backup_path": update.backup_path}
    for attribute in UPDATE_FIELDS[name]:
        value = getattr(update.kind, attribute)
        facts[attribute] = status_facts(value) if attribute == "status" else value
    return facts


def flag_facts(flags: Iterable[Any]) -> dict[str, tuple[Any, ...]]:
    """Reads feature flags."""
    return {flag.name: (flag.id, flag.default_enabled, flag.setting, flag.enabled) for flag in flags}


def error_facts(error: BaseException) -> tuple[str, str | None]:
    """Names an exception by its class (that of the official tree) and kind."""
    cls = next((base.__name__ for base in type(error).__mro__ if hasattr(ic, base.__name__)), type(error).__name__)
    return cls, getattr(error, "kind", None)


@dataclass(slots=True)
class SnapshotContent:
    """What one snapshot holds.

    Attributes:
        info: Its id, parent, time, message and metadata.
        values: The bytes of every key that can be read, under the array's own chunk key encoding.
        failing: The keys of chunks whose bytes cannot be read, with the error's class and kind.
        ragged: The bytes of chunks whose index has another rank than their array, under their official keys.
        official_keys: The key in the official store of each key above that has another one there.
        list_dir: The official store's `list_dir` of every node's path.
        refs: For each array's path and chunk index: (chunk type, location, offset, length).
        node_ids: Each node's id by its path.
        inspected: `inspect_snapshot`, and each manifest's `inspect_manifest` under its id.
        transaction_log: `inspect_transaction_log`; None for a snapshot that has none.
    """

    info: Facts
    values: dict[str, bytes] = field(default_factory=dict)
    failing: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    ragged: dict[str, bytes] = field(default_factory=dict)
    official_keys: dict[str, str] = field(default_factory=dict)
    list_dir: dict[str, set[str]] = field(default_factory=dict)
    refs: dict[str, dict[tuple[int, ...], tuple[int, str, int, int]]] = field(default_factory=dict)
    node_ids: dict[str, str] = field(default_factory=dict)
    virtual_locations: list[str] = field(default_factory=list)
    manifest_files: list[tuple[str, int, int]] = field(default_factory=list)
    inspected: Facts = field(default_factory=dict)
    manifests: dict[str, Facts] = field(default_factory=dict)
    transaction_log: Facts | None = None

    def official_key(self, key: str) -> str:
        """Returns the name of `key` in the official store."""
        return self.official_keys.get(key, key)


@dataclass(slots=True)
class RepoContent:
    """What the official library says of a repository.

    Attributes:
        contents: Every snapshot that is reachable from a ref or kept in the repository, by its id.
        branches: The tip of each branch.
        tags: The snapshot of each tag.
        ancestry: The ids from each branch's or tag's snapshot to the first one; keys are `branch:NAME`, `tag:NAME`.
        diffs: Each snapshot's Diff from its parent, and from the first snapshot, by (from, to).
        repo_info: `inspect_repo_info`; None in version 1, as are the members after it.
    """

    name: str
    spec_version: int
    branches: dict[str, str]
    tags: dict[str, str]
    ancestry: dict[str, list[str]]
    contents: dict[str, SnapshotContent]
    diffs: dict[tuple[str, str], Facts | tuple[str, str | None]]
    config: Facts
    persisted_config: Facts | None
    storage_stats: tuple[int, int, int] | None
    repo_info: Facts | None = None
    ops_log: list[Facts] | None = None
    metadata: Facts | None = None
    status: Facts | None = None
    feature_flags: dict[str, tuple[Any, ...]] | None = None

    @property
    def snapshots(self) -> dict[str, dict[str, bytes]]:
        """The readable keys and their bytes, by snapshot."""
        return {snapshot_id: content.values for snapshot_id, content in self.contents.items()}


def icefs_key(array_prefix: str, metadata: Facts, index: tuple[int, ...]) -> str:
    """Writes a chunk's key as the array's metadata says, by other means than icefs itself."""
    encoding = metadata.get("chunk_key_encoding") or {"name": "default"}
    version2 = encoding["name"] == "v2"
    separator = (encoding.get("configuration") or {}).get("separator", "." if version2 else "/")
    digits = [str(coordinate) for coordinate in index]
    return array_prefix + separator.join(digits or ["0"] if version2 else ["c", *digits])


def directories(keys: Iterable[str]) -> dict[str, set[str]]:
    """Builds the directory tree of keys: for each directory (`""` is the root) the names in it."""
    tree: dict[str, set[str]] = {"": set()}
    for key in keys:
        parent, _, name = key.rpartition("/")
        while name not in tree.setdefault(parent, set()):
            tree[parent].add(name)
            if not parent:
                break
            parent, _, name = parent.rpartition("/")
    return tree


async def _collect(iterator: Any) -> list[Any]:
    return [item async for item in iterator]


def _chunk_indices(prefix: str, listed: set[str]) -> dict[tuple[int, ...], str]:
    """Returns the chunk keys of the array below `prefix`, as the official store names them, by chunk index."""
    start = f"{prefix}c"
    keys = {}
    for key in listed:
        digits = key[len(start) :].split("/")[1:] if key.startswith(start) else None
        if key == start or (digits and key[len(start)] == "/" and all(map(str.isdecimal, digits))):
            keys[tuple(map(int, digits or ()))] = key
    return keys


async def _read_chunks(
    store: ic.IcechunkStore, path: str, metadata: Facts, listed: set[str], content: SnapshotContent
) -> None:
    prefix = path[1:] + "/" if path != "/" else ""
    official = _chunk_indices(prefix, listed)
    refs = content.refs.setdefault(path, {})
    async for coordinates, kinds, locations, offsets, lengths, _ in store.array_chunk_iterator(path):
        for row, index in enumerate(map(tuple, coordinates.tolist())):
            # The iterator cuts or pads the indices of references of another rank.
            if index in official:
                refs[index] = (int(kinds[row]), locations[row], int(offsets[row]), int(lengths[row]))
    prototype = default_buffer_prototype()
    results = await asyncio.gather(*(store.get(key, prototype) for key in official.values()), return_exceptions=True)
    for (index, official_key), result in zip(official.items(), results, strict=True):
        key = icefs_key(prefix, metadata, index)
        if len(index) != len(metadata["shape"]):
            assert isinstance(result, Buffer)
            content.ragged[official_key] = result.to_bytes()
            continue
        if key != official_key:
            content.official_keys[key] = official_key
        if isinstance(result, BaseException):
            content.failing[key] = error_facts(result)
        else:
            assert result is not None, f"{key} is listed but missing"
            content.values[key] = result.to_bytes()


async def _read_snapshot(session: ic.Session, content: SnapshotContent) -> None:
    store = session.store
    listed = set(await _collect(store.list()))
    prototype = default_buffer_prototype()
    for key in listed:
        if key.rpartition("/")[2] != "zarr.json":
            continue
        path = f"/{key.removesuffix('zarr.json')}".rstrip("/") or "/"
        value = await store.get(key, prototype)
        assert value is not None
        content.values[key] = value.to_bytes()
        content.node_ids[path] = session.get_node_id(path)
        content.list_dir[path[1:]] = set(await _collect(store.list_dir(path[1:])))
        document = json.loads(content.values[key])
        if document["node_type"] == "array":
            await _read_chunks(store, path, document, listed, content)
    known = {
        content.official_key(key) for key in content.values.keys() | content.failing.keys()
    } | content.ragged.keys()
    assert listed == known, "the official library's listing and its references differ"


def _fetch_transaction_log(repo: ic.Repository, snapshot_id: str) -> Facts | None:
    try:
        return repo.inspect_transaction_log(snapshot_id)
    except ic.StorageError:
        return None  # version 1 has none for the first snapshot; collection may have removed it


def snapshot_of(repo: ic.Repository, snapshot_id: str) -> SnapshotContent:
    """Reads one snapshot through the official library."""
    session = repo.readonly_session(snapshot_id=snapshot_id)
    content = SnapshotContent(info_facts(repo.lookup_snapshot(snapshot_id)))
    asyncio.run(_read_snapshot(session, content))
    content.virtual_locations = sorted(session.all_virtual_chunk_locations())
    files = repo.list_manifest_files(snapshot_id)
    content.manifest_files = sorted((file.id, file.size_bytes, file.num_chunk_refs) for file in files)
    content.inspected = repo.inspect_snapshot(snapshot_id)
    content.manifests = {file.id: repo.inspect_manifest(file.id) for file in files}
    content.transaction_log = _fetch_transaction_log(repo, snapshot_id)
    return content


def _branch_names(repo: ic.Repository) -> list[str]:
    """Lists the branches by the names they were created with.

    In version 1 a local repository's listing has the percent-encoded names of files, which cannot be looked up.
    """
    names = repo.list_branches()
    return sorted(map(unquote, names) if repo.spec_version == 1 else names)


def _diff(repo: ic.Repository, old: str, new: str) -> Facts | tuple[str, str | None]:
    try:
        return diff_facts(repo.diff(from_snapshot_id=old, to_snapshot_id=new))
    except ic.IcechunkError as error:
        return error_facts(error)


def _storage_stats(repo: ic.Repository) -> tuple[int, int, int] | None:
    try:
        stats = repo.chunk_storage_stats()
    except ic.RefNotFoundError:
        return None  # version 1, a ref with a percent-encoded name
    return stats.native_bytes, stats.virtual_bytes, stats.inlined_bytes


def _diff_pairs(ancestry: Iterable[list[str]]) -> Iterator[tuple[str, str]]:
    for ids in ancestry:
        for new, old in pairwise(ids):
            yield old, new
        if len(ids) > 2:
            yield ids[-1], ids[0]
            yield ids[len(ids) // 2], ids[0]
        yield ids[0], ids[-1]


def oracle_of(generated: GeneratedRepo) -> RepoContent:
    """Reads a whole repository through the official library."""
    repo = open_official(generated)
    branches = {name: repo.lookup_branch(name) for name in _branch_names(repo)}
    tags = {name: repo.lookup_tag(name) for name in sorted({*repo.list_tags(), *generated.unlisted_tags})}
    ancestry = {f"branch:{name}": [info.id for info in repo.ancestry(branch=name)] for name in branches}
    ancestry |= {f"tag:{name}": [info.id for info in repo.ancestry(tag=name)] for name in tags}
    ids = {snapshot_id for each in ancestry.values() for snapshot_id in each} | set(generated.snapshots)
    repo_info = repo.inspect_repo_info() if generated.spec_version > 1 else None
    if repo_info is not None:
        ids |= {snapshot["id"] for snapshot in repo_info["snapshots"]}
    persisted = repo.fetch_config(repo.storage)
    content = RepoContent(
        name=generated.name,
        spec_version=int(repo.spec_version),
        branches=branches,
        tags=tags,
        ancestry=ancestry,
        contents={snapshot_id: snapshot_of(repo, snapshot_id) for snapshot_id in sorted(ids)},
        diffs={pair: _diff(repo, *pair) for pair in dict.fromkeys(_diff_pairs(ancestry.values()))},
        config=config_facts(repo.config),
        persisted_config=None if persisted is None else config_facts(persisted),
        storage_stats=_storage_stats(repo),
        repo_info=repo_info,
    )
    if generated.spec_version > 1:
        content.ops_log = [update_facts(update) for update in repo.ops_log()]
        content.metadata = repo.metadata
        content.status = status_facts(repo.status)
        content.feature_flags = flag_facts(repo.feature_flags())
    return content
