"""Upgrading a repository from spec version 1 to 2: one new file, `repo`, and the refs' files are gone.

Snapshots, manifests, transaction logs and chunks stay the files of version 1 that they are; each says in its header
what it is. `repo` needs, besides the refs and the graph of snapshots, an ops log, which version 1 did not keep:
it is made up from the snapshots' times (format notes §7.8).

The order, and what a crash after each step leaves behind:

1. everything is read: nothing has changed;
2. `repo` is written, on condition that there is none: from here on the repository is of version 2, whatever else lies
   there. If refs changed meanwhile, it is replaced, on condition that nobody has written to it yet;
3. `refs/branch.main/ref.json` is deleted, so that programs that know version 1 only stop writing; then the other refs,
   and `config.yaml`. A file that cannot be deleted is in nobody's way; upgrading again deletes it.

Source: format notes §1 and §7.8; upstream icechunk/src/migrations/mod.rs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from icefs.engine.history.ancestry import snapshot_info_v1
from icefs.engine.read.assets import AssetManager, snapshot_not_found
from icefs.engine.write.repository import WritableRepository
from icefs.errors import (
    ConflictError,
    FormatError,
    ObjectNotFoundError,
    PreconditionFailedError,
    SessionStateError,
    StorageError,
)
from icefs.format.config.codec import encode_config, parse_config_yaml
from icefs.format.ids import SnapshotId
from icefs.format.layout import CONFIG_V1, REFS_V1, REPO_INFO, SNAPSHOTS
from icefs.format.repo.info import MAIN_BRANCH, RepoInfo, encode_repo_info
from icefs.format.repo.ops_log import (
    BranchCreated,
    NewCommit,
    OpsLog,
    RepoAvailability,
    RepoInitialized,
    RepoMigrated,
    RepoStatus,
    TagCreated,
    TagDeleted,
    Update,
    UpdateKind,
)
from icefs.format.repo.refs_v1 import branch_key, parse_ref, parse_ref_key, tag_key
from icefs.format.repo.snapshot_table import SnapshotInfo, SnapshotTable
from icefs.storage.base import Version

_EVENT_OFFSET: Final = 1000
"""How much later than its snapshot, in microseconds, a branch or tag is said to have been made."""
_MAX_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class RefsState:
    """The refs of a repository of version 1 at one moment.

    Attributes:
        branches: The tips.
        tags: The snapshots of tags that exist.
        deleted_tags: The names of deleted tags, each with its snapshot if that is still known.
        keys: The objects that hold them.
    """

    branches: Mapping[str, SnapshotId]
    tags: Mapping[str, SnapshotId]
    deleted_tags: Mapping[str, SnapshotId | None]
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What an upgrade did, or would do.

    Attributes:
        info: The new repo info; None where the repository was of version 2 already, and only files were left over.
        unused_keys: The objects of version 1 that nobody needs any more.
        undeleted_keys: Those of them that are still there.
        is_dry_run: Whether nothing was written.
    """

    info: RepoInfo | None
    unused_keys: tuple[str, ...]
    undeleted_keys: tuple[str, ...]
    is_dry_run: bool


def upgrade(repository: WritableRepository, *, dry_run: bool = False, delete_unused_v1_files: bool = True) -> Upgrade:
    """Upgrades a repository to version 2; the handle is of no use afterwards.

    Args:
        repository: Opened as version 1; or as version 2 with files of version 1 left over, which are deleted.
        dry_run: Read everything that is needed, and write nothing.
        delete_unused_v1_files: Delete the refs' files and `config.yaml`, which nobody needs any more.

    Raises:
        SessionStateError: the repository is of version 2 (kind `invalid-repository-migration`).
        UnsupportedError: the store ignores the conditions of writes, so that an update could be lost.
        ConflictError: somebody wrote to the new `repo` while refs of version 1 were still being changed.
        FormatError, SnapshotNotFoundError: a ref, or a snapshot that one leads to, is damaged or missing.
        StorageError: something cannot be read; or `repo` cannot be written, and all is as it was.
    """
    storage = repository.storage
    if repository.spec_version > 1:
        keys = _unused_keys(repository, _list_refs(repository.assets).keys) if delete_unused_v1_files else ()
        if not keys:
            raise SessionStateError(
                f"{storage.url} is of spec version {repository.spec_version} already",
                kind="invalid-repository-migration",
                hint="there is nothing to upgrade",
            )
        return Upgrade(None, keys, keys if dry_run else tuple(storage.delete(keys)), dry_run)

    refs = _list_refs(repository.assets)
    info = _repo_info(repository, refs)
    if not dry_run:
        refs, info = _publish(repository, refs, info)
    keys = _unused_keys(repository, refs.keys)
    undeleted = keys
    if delete_unused_v1_files and not dry_run:
        undeleted = _delete(repository, keys)
    return Upgrade(info, keys, undeleted, dry_run)


def _publish(repository: WritableRepository, refs: RefsState, info: RepoInfo) -> tuple[RefsState, RepoInfo]:
    """Writes `repo`, and again where refs changed while it was being made."""
    storage = repository.storage
    repository.context.check_store()
    version: Version | None = None
    for _ in range(_MAX_TRIES):
        data = encode_repo_info(info, level=repository.context.compression_level)
        storage.sync()
        try:
            # The publishing write: before it the repository is of version 1, after it of version 2.
            version = storage.put(REPO_INFO, data, if_match=version, create_only=version is None)
        except PreconditionFailedError as error:
            if not error.facts.get("maybe_written") or storage.get(REPO_INFO).data != data:
                raise ConflictError(
                    f"somebody else writes {REPO_INFO} of {storage.url} at the same moment",
                    kind="repo-info-updated",
                    hint="see that nobody uses the repository while it is being upgraded, then upgrade it again",
                ) from error
            version = storage.head(REPO_INFO).version
        now = _list_refs(repository.assets)
        if now == refs:
            return refs, info
        refs, info = now, _repo_info(repository, now)
    raise ConflictError(
        f"the refs of {storage.url} do not stop changing",
        kind="update-attempts-exhausted",
        hint="see that nobody uses the repository while it is being upgraded",
    )


def _unused_keys(repository: WritableRepository, ref_keys: Sequence[str]) -> tuple[str, ...]:
    """Returns what version 2 has no use for, in the order of deleting it."""
    main = branch_key(MAIN_BRANCH)
    keys = sorted(ref_keys, key=lambda key: (key != main, key))
    try:
        repository.storage.head(CONFIG_V1)
    except ObjectNotFoundError:
        return tuple(keys)
    return (*keys, CONFIG_V1)


def _delete(repository: WritableRepository, keys: Sequence[str]) -> tuple[str, ...]:
    """Deletes what nobody needs, as far as possible, and returns what is left."""
    left: list[str] = []
    try:
        left += repository.storage.delete(keys[:1])
        left += repository.storage.delete(keys[1:])
    except StorageError:
        # The repository is upgraded; what lies around can be deleted another time.
        return tuple(keys)
    return tuple(left)


# Reading version 1.


def _list_refs(assets: AssetManager) -> RefsState:
    found = {}
    for listed in assets.storage.iter_objects(f"{REFS_V1}/"):
        file = parse_ref_key(listed.key)
        if file is not None:
            found[file] = listed.key
    names = sorted({(file.kind, file.name) for file in found})
    targets = assets.workers.map(lambda name: _target(assets, *name), names)
    branches: dict[str, SnapshotId] = {}
    tags: dict[str, SnapshotId] = {}
    deleted: dict[str, SnapshotId | None] = {}
    deleted_names = {file.name for file in found if file.is_tombstone}
    for (kind, name), target in zip(names, targets, strict=True):
        if kind == "tag" and name in deleted_names:
            deleted[name] = target if isinstance(target, SnapshotId) else None
        elif isinstance(target, FormatError):
            raise target
        elif target is not None:
            (branches if kind == "branch" else tags)[name] = target
    return RefsState(branches, tags, deleted, tuple(sorted(found.values())))


def _target(assets: AssetManager, kind: str, name: str) -> SnapshotId | FormatError | None:
    key = branch_key(name) if kind == "branch" else tag_key(name)
    try:
        return parse_ref(assets.storage.get(key).data, name=key)
    except ObjectNotFoundError:
        return None
    except FormatError as error:
        return error


def _fetch_snapshots(assets: AssetManager, refs: RefsState) -> dict[SnapshotId, SnapshotInfo]:
    """Returns all snapshots that refs lead to.

    Each names its parent only, so they would be fetched one after the other; all that there are are fetched ahead.
    """
    ids = []
    for listed in assets.storage.iter_objects(f"{SNAPSHOTS}/"):
        try:
            ids.append(SnapshotId.parse(listed.key.rpartition("/")[2]))
        except ValueError:
            continue  # something else that lies around

    def fetch(snapshot_id: SnapshotId) -> SnapshotInfo | None:
        try:
            return snapshot_info_v1(assets.fetch_snapshot(snapshot_id))
        except (FormatError, StorageError):
            return None  # if it is needed, it will be asked for again

    known = {info.id: info for info in assets.workers.map_ahead(fetch, ids) if info is not None}
    reached: dict[SnapshotId, SnapshotInfo] = {}
    for tip in (*refs.branches.values(), *refs.tags.values()):
        current: SnapshotId | None = tip
        while current is not None and current not in reached:
            info = known.get(current)
            if info is None:
                try:
                    info = snapshot_info_v1(assets.fetch_snapshot(current))
                except ObjectNotFoundError as error:
                    raise snapshot_not_found(current) from error
            reached[current] = info
            current = info.parent_id
    return reached


# Writing version 2.


def _repo_info(repository: WritableRepository, refs: RefsState) -> RepoInfo:
    if MAIN_BRANCH not in refs.branches:
        raise ConflictError(f"the branch {MAIN_BRANCH} is gone: somebody else upgrades the repository")
    snapshots = _fetch_snapshots(repository.assets, refs)
    *_, root = _ancestry(snapshots, refs.branches[MAIN_BRANCH])
    updates = _ops_log(refs, snapshots)
    now = max(repository.context.clock(), updates[0].updated_at + 1)
    return RepoInfo(
        snapshots=SnapshotTable.of(snapshots.values()),
        branches=MappingProxyType(dict(refs.branches)),
        tags=MappingProxyType(dict(refs.tags)),
        deleted_tags=frozenset(refs.deleted_tags),
        status=RepoStatus(RepoAvailability.online, root.flushed_at),
        ops_log=OpsLog([Update(RepoMigrated(1, 2), now), *updates]),
        config=_config(repository),
    )


def _config(repository: WritableRepository) -> bytes | None:
    """Returns what is persisted; what the opener overrode is nobody else's business."""
    try:
        data = repository.storage.get(CONFIG_V1).data
    except ObjectNotFoundError:
        return None
    return encode_config(parse_config_yaml(data, name=CONFIG_V1))


def _ancestry(snapshots: Mapping[SnapshotId, SnapshotInfo], tip: SnapshotId) -> Iterator[SnapshotInfo]:
    seen: set[SnapshotId] = set()
    current: SnapshotId | None = tip
    while current is not None:
        if current in seen:
            reason = f"snapshot {current} is an ancestor of itself"
            raise FormatError(reason, file=SNAPSHOTS, reason=reason)
        seen.add(current)
        yield snapshots[current]
        current = snapshots[current].parent_id


def _ops_log(refs: RefsState, snapshots: Mapping[SnapshotId, SnapshotInfo]) -> list[Update]:
    """Makes up what may have happened, newest first, as the official library does.

    Commits were made when their snapshots were written, branches and tags right after the snapshots that they point
    at. A commit is ascribed to the first branch that has it: `main`, then the others by name. No entry has a backup.
    """
    main = list(_ancestry(snapshots, refs.branches[MAIN_BRANCH]))[::-1]
    events: list[tuple[int, UpdateKind]] = [(main[0].flushed_at, RepoInitialized())]
    events += [(info.flushed_at, NewCommit(MAIN_BRANCH, info.id)) for info in main[1:]]
    seen = {info.id for info in main}
    for name, tip in sorted(refs.branches.items()):
        if name == MAIN_BRANCH:
            continue
        events.append((snapshots[tip].flushed_at + _EVENT_OFFSET, BranchCreated(name)))
        for info in list(_ancestry(snapshots, tip))[::-1]:
            if info.id not in seen:
                seen.add(info.id)
                events.append((info.flushed_at, NewCommit(name, info.id)))
    for name, target in sorted(refs.tags.items()):
        events.append((snapshots[target].flushed_at + _EVENT_OFFSET, TagCreated(name)))
    for name, deleted_target in sorted(refs.deleted_tags.items()):
        if deleted_target is None:
            continue
        known = snapshots.get(deleted_target)
        made_at = (main[0] if known is None else known).flushed_at + _EVENT_OFFSET
        events.append((made_at, TagCreated(name)))
        events.append((made_at + _EVENT_OFFSET, TagDeleted(name, deleted_target)))
    events.sort(key=lambda event: event[0])
    updates: list[Update] = []
    for updated_at, kind in events:
        later = max(updated_at, updates[-1].updated_at + 1) if updates else updated_at
        updates.append(Update(kind, later))
    return updates[::-1]
