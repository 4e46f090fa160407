"""A new repository, made of another: its refs, with all that they need, its configuration and its metadata.

Objects are copied first, and the repository is there with the last write: `repo` (spec 2), or the branch `main`
(spec 1). A clone that was interrupted has left objects and no repository; the next one takes them over.
"""

from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from icefs.clock import Clock, system_clock
from icefs.engine.exchange.copying import Copier
from icefs.engine.exchange.histories import NewHistory, new_history, write_cut_v1
from icefs.engine.exchange.needs import Needs
from icefs.engine.exchange.plan import RefChange, TargetRefs, plan_refs
from icefs.engine.exchange.pull import Exchanged, Request
from icefs.engine.history.ancestry import walk
from icefs.engine.read.workers import Workers
from icefs.engine.repository import Repository
from icefs.engine.write.store_probe import TRUSTED
from icefs.errors import (
    ConflictError,
    InvalidInputError,
    PreconditionFailedError,
)
from icefs.format.config.codec import encode_config, encode_config_yaml
from icefs.format.config.values import RepositoryConfig
from icefs.format.ids import ObjectId, SnapshotId
from icefs.format.layout import CHUNKS, CONFIG_V1, MANIFESTS, REFS_V1, REPO_INFO, SNAPSHOTS, TRANSACTIONS
from icefs.format.repo.info import MAIN_BRANCH, RepoInfo, encode_repo_info
from icefs.format.repo.ops_log import OpsLog, RepoAvailability, RepoInitialized, RepoStatus, Update
from icefs.format.repo.refs_v1 import branch_key, encode_ref, tag_key
from icefs.format.repo.snapshot_table import SnapshotTable
from icefs.storage.base import ObjectInfo, Storage

_DIRECTORIES: Final = frozenset((CHUNKS, MANIFESTS, TRANSACTIONS, SNAPSHOTS))


def clone(source: Repository, target: Storage, request: Request, *, clock: Clock = system_clock) -> Exchanged:
    """Makes a repository of the branches and tags of another one.

    Args:
        source: The other one.
        target: Where to; nothing is there, or what an interrupted clone has left.
        request: See `pull.Request`.
        clock: Where to read the time.

    Raises:
        InvalidInputError: something else is there (kind `parent-directory-not-clean`); or a ref that was named is not
            in the source.
        UnsupportedError: the store ignores the conditions of writes.
        ConflictError: the source has an object no more (kind `object-gone`), or somebody else made a repository there
            at the same moment (kind `repo-info-updated`).
        FormatError: with `verify`: an object is not the same at both ends.
        StorageError: something cannot be read or written; there is no repository then.
    """
    _check_target(target, source.spec_version)
    config = _config_for(source, target)
    plan = plan_refs(
        request.wanted,
        source.refs(),
        TargetRefs({}, {}, lambda name: False),
        lambda tip: walk(source.context, tip),
        lambda tip: iter(()),
    )
    if not plan:
        raise InvalidInputError("the source has no such branch or tag")
    if not request.dry_run:
        TRUSTED.check_new(target, None if config is None else config.storage)
    history = new_history(
        lambda tip: walk(source.context, tip),
        [each.snapshot_id for each in plan],
        frozenset(),
        request.wanted.depth,
        spec_version=source.spec_version,
    )
    workers = Workers(max(source.storage.capabilities.concurrency, target.capabilities.concurrency), "icefs-clone")
    try:
        needs = Needs.of(source.assets, history)
        there = needs.present(target, workers)
        copier = Copier(source.storage, target, workers, request.progress)
        copier.begin(len(needs), len(there))
        if request.dry_run:
            return Exchanged(plan, len(history.snapshots), copier.done, True)
        cut = history.cut if source.spec_version == 1 else ()
        copier.copy(needs, there, cut=cut, verify=request.verify)
    finally:
        workers.close()
    if cut:
        write_cut_v1(source.assets, target, history)
    target.sync()
    try:
        if source.spec_version == 1:
            _write_refs_v1(target, plan, history, config)
        else:
            info = _repo_info(source, plan, history, config, clock())
            target.put(REPO_INFO, encode_repo_info(info), create_only=True)
    except PreconditionFailedError as error:
        raise _made_already(target) from error
    return Exchanged(plan, len(history.snapshots), copier.done, False)


def _check_target(storage: Storage, spec_version: int) -> None:
    """Refuses a location that holds anything but what an interrupted clone left.

    Raises:
        InvalidInputError: it does (kind `parent-directory-not-clean`).
    """
    if next(iter(storage.list_dir()), None) is None:
        return
    is_made = Repository.exists(storage)
    others = (each for each in storage.iter_objects() if not _may_be_left(each, spec_version))
    if is_made or next(others, None) is not None:
        raise InvalidInputError(
            f"{storage.url} is not empty",
            kind="parent-directory-not-clean",
            hint="'icefs pull' brings histories to the repository that is there"
            if is_made
            else "choose another location",
        )


def _may_be_left(info: ObjectInfo, spec_version: int) -> bool:
    directory, _, name = info.key.partition("/")
    if directory not in _DIRECTORIES:
        return spec_version == 1 and directory in (CONFIG_V1, REFS_V1)
    try:
        ObjectId.parse(name)
    except InvalidInputError:
        return False
    return True


def _config_for(source: Repository, target: Storage) -> RepositoryConfig | None:
    """Returns the saved configuration; settings of a store stay with its kind."""
    config = Repository.fetch_config(source.storage)
    if config is None or _kind(source.storage) == _kind(target):
        return config
    return replace(config, storage=None)


def _kind(storage: Storage) -> str:
    return "file" if storage.local_root is not None else storage.url.partition(":")[0]


def _repo_info(
    source: Repository, plan: Iterable[RefChange], history: NewHistory, config: RepositoryConfig | None, now: int
) -> RepoInfo:
    theirs, _ = source.assets.fetch_repo_info(refresh=False)
    refs: dict[str, dict[str, SnapshotId]] = {"branch": {}, "tag": {}}
    for each in plan:
        refs[each.kind][each.spec.target] = each.snapshot_id
    # Official readers need the branch main; where it was not asked for, it is as in a new repository.
    refs["branch"].setdefault(MAIN_BRANCH, _first(history))
    return RepoInfo(
        snapshots=SnapshotTable.of(history.snapshots.values()),
        branches=MappingProxyType(refs["branch"]),
        tags=MappingProxyType(refs["tag"]),
        deleted_tags=theirs.deleted_tags - refs["tag"].keys(),
        status=RepoStatus(RepoAvailability.online, now),
        ops_log=OpsLog([Update(RepoInitialized(), now)]),
        config=None if config is None else encode_config(config),
        metadata_items=theirs.metadata_items,
        enabled_feature_flags=theirs.enabled_feature_flags,
        disabled_feature_flags=theirs.disabled_feature_flags,
        extra=theirs.extra,
    )


def _first(history: NewHistory) -> SnapshotId:
    return min(each.id for each in history.snapshots.values() if each.parent_id is None)


def _write_refs_v1(
    target: Storage, plan: Iterable[RefChange], history: NewHistory, config: RepositoryConfig | None
) -> None:
    """Writes configuration and refs; `main` last, with which there is a repository."""
    if config is not None:
        target.put(CONFIG_V1, encode_config_yaml(config))
    main = _first(history)
    for each in plan:
        if each.kind == "branch" and each.spec.target == MAIN_BRANCH:
            main = each.snapshot_id
        else:
            key = (tag_key if each.kind == "tag" else branch_key)(each.spec.target)
            target.put(key, encode_ref(each.snapshot_id))
    target.sync()
    target.put(branch_key(MAIN_BRANCH), encode_ref(main), create_only=True)


def _made_already(storage: Storage) -> ConflictError:
    return ConflictError(
        f"somebody else made a repository at {storage.url}",
        kind="repo-info-updated",
        hint="'icefs pull' brings histories to it",
    )
