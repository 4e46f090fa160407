"""Writing a snapshot: everything a commit consists of, but for the write that makes it visible.

The order, and what a crash after each step leaves behind:

1. chunks: stored when they were set; nothing refers to them yet;
2. manifests, and at the same time the transaction log; 3. the snapshot: complete, but known to nobody;
4. a sync, where the storage is a disk: from here on all of it survives a power loss;
5. `publish`: one conditional write of `repo` (spec 2) or of the branch (spec 1).

Up to 4 a crash leaves garbage, which collection removes; 5 is atomic. Nothing is ever undone. Steps
that need not wait for each other do not: a store may be a hundred milliseconds away, and each step of a small commit
takes as long.

Source: spec 2.1 "Algorithms"; format notes §7.9 to §7.12.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from icefs.engine.read.chunks import ArrayChunks
from icefs.engine.write.changeset import ChangeSet
from icefs.engine.write.chunk_guard import CollectionRanError
from icefs.engine.write.clocks import check_clock
from icefs.engine.write.context import WriteContext
from icefs.engine.write.manifest_split import plan, split_sizes
from icefs.errors import InternalError, ObjectNotFoundError
from icefs.format.ids import ManifestId, SnapshotId
from icefs.format.layout import manifest_key, snapshot_key, transaction_log_key
from icefs.format.manifest.refs import ArrayRefs
from icefs.format.manifest.writer import encode_manifest
from icefs.format.metadata_items import encode_items
from icefs.format.snapshot.nodes import ManifestFileInfo, ManifestRef, NodeSnapshot
from icefs.format.snapshot.reader import Snapshot, parse_snapshot
from icefs.format.snapshot.writer import encode_snapshot
from icefs.format.transaction_log import encode_transaction_log, merge
from icefs.storage.base import Storage


@dataclass(frozen=True, slots=True)
class NewSnapshot:
    """A snapshot that is written, and that no ref leads to yet."""

    id: SnapshotId
    flushed_at: int
    message: str
    metadata: dict[str, Any]
    data: bytes

    def parse(self) -> Snapshot:
        """Returns the snapshot, from the bytes that were written."""
        return parse_snapshot(self.data, name=snapshot_key(self.id))


def write_snapshot(
    context: WriteContext,
    base: Snapshot,
    changes: ChangeSet,
    *,
    message: str,
    metadata: dict[str, Any],
    merge_log_of: SnapshotId | None = None,
    rewrite_manifests: bool = False,
) -> NewSnapshot:
    """Writes manifests, transaction log and snapshot of changes to a base.

    Args:
        context: The context.
        base: The snapshot that the changes are to.
        changes: What changed; not modified, and not to be modified meanwhile.
        message: The commit message.
        metadata: The commit's metadata.
        merge_log_of: A snapshot that the new one replaces (amend): its log is joined with the changes.
        rewrite_manifests: Write all manifests again, under the present splitting.

    Raises:
        StorageError: something cannot be written; nothing is visible.
        SessionStateError: the clocks of this machine and of the store differ too much (kind `snapshot-timestamp`).
        CollectionRanError: a garbage collection took the first files before the last one was written.
        TypeError: the metadata hold something that is no JSON value.
    """
    encode_items(metadata, context.spec_version)  # before anything is written
    storage, level = context.storage, context.compression_level
    snapshot_id = SnapshotId.random()
    log = changes.transaction_log(snapshot_id)
    if merge_log_of is not None:
        log = merge(snapshot_id, [context.assets.fetch_transaction_log(merge_log_of), log])
    log_key = transaction_log_key(snapshot_id)
    log_data = encode_transaction_log(log, spec_version=context.spec_version, level=level)
    began_at = context.clock()
    nodes, files = _write_manifests(
        context,
        base,
        changes,
        rewrite=rewrite_manifests,
        beside=lambda: context.assets.put_immutable(log_key, log_data),
    )
    now = context.clock()
    # A clock that was set back must not put a snapshot before its parent: readers refuse that.
    flushed_at = max(now, base.flushed_at + 1)
    data = encode_snapshot(
        snapshot_id=snapshot_id,
        flushed_at=flushed_at,
        message=message,
        metadata=metadata,
        nodes=nodes,
        manifest_files=files,
        spec_version=context.spec_version,
        parent_id=base.id if context.spec_version == 1 else None,
        level=level,
    )
    steps: list[Callable[[], object]] = [lambda: storage.put(snapshot_key(snapshot_id), data)]
    if not storage.capabilities.local_files:
        # The log was stored just after the work began; the snapshot may be ahead of the clock.
        own_time = began_at + flushed_at - now
        steps.append(lambda: check_clock(storage, _stored_at(storage, log_key), own_time))
    context.assets.workers.map(_call, steps)
    storage.sync()
    return NewSnapshot(snapshot_id, flushed_at, message, metadata, data)


def _stored_at(storage: Storage, key: str) -> int:
    """Returns when an object was stored, a moment ago."""
    try:
        return storage.head(key).last_modified
    except ObjectNotFoundError as error:
        raise CollectionRanError(
            f"a garbage collection took {key} from {storage.url} as soon as it was written",
            hint="try again; collect with a cutoff that is earlier than any commit under way",
        ) from error


# Manifests.


def _write_manifests(
    context: WriteContext,
    base: Snapshot,
    changes: ChangeSet,
    *,
    rewrite: bool,
    beside: Callable[[], object],
) -> tuple[list[NodeSnapshot], list[ManifestFileInfo]]:
    """Writes the manifests of all arrays that changed, and calls `beside` at the same time.

    Only a few are in memory at a time: each is planned when a worker gets to it.

    Returns:
        All nodes of the new snapshot, and the manifest files that they refer to.
    """
    nodes = list(changes.nodes(base.nodes()))
    manifests: dict[int, list[ManifestRef]] = {}
    kept: dict[ManifestId, None] = {}

    def also() -> None:
        beside()

    def planned() -> Iterator[Callable[[], _Written | None]]:
        yield also
        for position, node in enumerate(nodes):
            if node.array is None:
                continue
            if not (rewrite or node.id in changes.updated or changes.chunks.get(node.id)):
                kept.update(dict.fromkeys(ref.manifest_id for ref in node.array.manifests))
                continue
            refs, rewrites = _plan_array(context, node, base, changes, rewrite=rewrite)
            kept.update(dict.fromkeys(ref.manifest_id for ref in refs))
            manifests[position] = refs
            yield from (partial(_rewrite, context, position, load) for load in rewrites)

    files: list[ManifestFileInfo] = []
    for written in context.assets.workers.map_ahead(_call, planned()):
        if written is not None:
            manifests[written.position].append(written.ref)
            files.append(written.file)
    for position, refs in manifests.items():
        array = nodes[position].array
        assert array is not None  # only arrays have manifests
        nodes[position] = replace(nodes[position], array=replace(array, manifests=tuple(refs)))
    for manifest_id in kept:
        known = base.manifest_files.get(manifest_id)
        if known is None:
            raise InternalError(f"snapshot {base.id} refers to manifest {manifest_id}, but does not list it")
        files.append(known)
    return nodes, files


class _Written(NamedTuple):
    """A manifest that was written, and the node that it is for, by position."""

    position: int
    ref: ManifestRef
    file: ManifestFileInfo


def _call[T](task: Callable[[], T]) -> T:
    return task()


def _plan_array(
    context: WriteContext, node: NodeSnapshot, base: Snapshot, changes: ChangeSet, *, rewrite: bool
) -> tuple[list[ManifestRef], list[Callable[[], ArrayRefs]]]:
    """Returns the manifests that an array keeps, and for each new one what fetches its references."""
    assert node.array is not None  # for arrays only
    grid_shape = tuple(dimension.num_chunks for dimension in node.array.shape)
    before = base.node_by_id(node.id)
    chunks = None
    refs: Sequence[ManifestRef] = ()
    if before is not None and before.array is not None and len(before.array.shape) == len(grid_shape):
        chunks, refs = ArrayChunks(context.assets, before), before.array.manifests
    load = chunks.manifest_refs if chunks is not None else _no_manifests
    layout = plan(
        [ref.extents for ref in refs],
        load,
        changes.chunks.get(node.id),
        grid_shape,
        split_sizes(context.splitting, node.path, len(grid_shape), node.array.dimension_names),
        empty=ArrayRefs.empty(node.id, len(grid_shape)),
        rewrite=rewrite or (chunks is not None and chunks.has_overlaps),
    )
    return [refs[position] for position in layout.kept], [partial(box.refs, load) for box in layout.rewrites]


def _no_manifests(_which: Sequence[int]) -> Iterator[ArrayRefs | None]:
    return iter(())


def _rewrite(context: WriteContext, position: int, load: Callable[[], ArrayRefs]) -> _Written | None:
    with context.manifest_fetches:
        refs = load()
    if not len(refs):
        return None
    manifest_id = ManifestId.random()
    data = encode_manifest(
        manifest_id,
        [refs],
        spec_version=context.spec_version,
        level=context.compression_level,
        location_compression=context.location_compression,
    )
    context.assets.put_immutable(manifest_key(manifest_id), data)
    info = ManifestFileInfo(manifest_id, len(data), len(refs))
    return _Written(position, ManifestRef(manifest_id, refs.bounding_box()), info)
