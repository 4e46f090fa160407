"""Updates of `repo` that got lost: published, and overwritten by a writer that had not seen them.

On a file system the official library checks and replaces `repo` in two steps, so that of two writers at once one may
lose, after its commit has succeeded. Its state of `repo` may still be in `overwritten/`, if the other's backup came
after it: a backup with an update that the present ops log does not know.

    effects of known updates   nothing to do
    a lost commit              its snapshots are added again, and a branch `recovered-<branch>-<id>` leads there
    a lost branch or tag       is created again, under its name
    any other                  reported, and left to the user

Source: format notes §7.4, §7.12; spec 2.1 "Updates to the repo info file".
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from icefs.clock import system_clock, to_datetime
from icefs.engine.read.assets import AssetManager
from icefs.engine.write import publish
from icefs.engine.write.repository import WritableRepository
from icefs.errors import (
    FormatError,
    IcefsError,
    InvalidInputError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageError,
    UnsupportedSpecVersionError,
)
from icefs.format.ids import INITIAL_SNAPSHOT_ID, ChunkId, SnapshotId
from icefs.format.layout import OVERWRITTEN, REPO_INFO, SNAPSHOTS, backup_key, backup_name, snapshot_key
from icefs.format.repo import update as edits
from icefs.format.repo.info import RepoInfo, parse_repo_info
from icefs.format.repo.ops_log import (
    BranchCreated,
    CommitAmended,
    NewCommit,
    NewDetachedSnapshot,
    TagCreated,
    UpdateKind,
)
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.format.repo.update import Stamp
from icefs.format.snapshot.reader import Snapshot
from icefs.storage.base import Storage

_DAMAGED: Final = "damaged-"


@dataclass(frozen=True, slots=True)
class LostUpdate:
    """An update that the present state does not know.

    Attributes:
        kind: What it did.
        updated_at: When, in microseconds since the epoch.
        backup_key: The backup that tells of it.
        name: The branch or tag that it was about; empty for none.
        snapshot_id: Where that led afterwards, if it can be brought back.
        added: The snapshots on the way there that the present state lacks, oldest first.
    """

    kind: UpdateKind
    updated_at: int
    backup_key: str
    name: str = ""
    snapshot_id: SnapshotId | None = None
    added: tuple[SnapshotInfo, ...] = ()

    @property
    def is_recoverable(self) -> bool:
        """Whether what it did can be done again."""
        return self.snapshot_id is not None

    def describe(self) -> str:
        """Says what was lost."""
        what = type(self.kind).__name__
        where = f" of {self.name!r}" if self.name else ""
        led = "" if self.snapshot_id is None else f", at snapshot {self.snapshot_id}"
        return (
            f"{what}{where}{led}, of {to_datetime(self.updated_at):%Y-%m-%d %H:%M:%S} UTC, was overwritten by another"
        )

    def to_json(self) -> dict[str, Any]:
        """Describes the update in JSON."""
        return {
            "kind": type(self.kind).__name__,
            "updated_at": to_datetime(self.updated_at).isoformat(),
            "backup": self.backup_key,
            "name": self.name,
            "snapshot": None if self.snapshot_id is None else str(self.snapshot_id),
            "recoverable": self.is_recoverable,
        }


def find_lost_updates(assets: AssetManager, info: RepoInfo) -> tuple[list[LostUpdate], list[tuple[str, IcefsError]]]:
    """Looks through the backups for updates that the present state of `repo` does not know.

    Returns:
        The updates, oldest first; and the backups that cannot be read, by key, with the reason.

    Raises:
        StorageError: the store cannot be listed.
    """
    problems: dict[str, IcefsError] = {}
    known, names = _history(assets, info, problems)
    lost: dict[tuple[int, UpdateKind], LostUpdate] = {}
    for key, backup in _backups(assets.storage, names, problems):
        for update in backup.latest_updates:
            if (update.updated_at, update.kind) not in known:
                found = _lost(assets.storage, info, backup, update.kind, update.updated_at, key)
                earlier = lost.get((update.updated_at, update.kind))
                if found is not None and (earlier is None or not earlier.is_recoverable):
                    lost[update.updated_at, update.kind] = found
    return sorted(lost.values(), key=lambda one: one.updated_at), sorted(problems.items(), key=lambda one: one[0])


def _history(
    assets: AssetManager, info: RepoInfo, problems: dict[str, IcefsError]
) -> tuple[set[tuple[int, UpdateKind]], set[str]]:
    """Returns all updates that led to the present state, and the names of the backups that they tell of."""
    known: set[tuple[int, UpdateKind]] = set()
    names: set[str] = set()
    present: RepoInfo | None = info
    while present is not None:
        for update in present.latest_updates:
            known.add((update.updated_at, update.kind))
            if update.backup_path is not None:
                names.add(update.backup_path)
        before = present.repo_before_updates
        present = None
        if before is not None and before not in names:
            names.add(before)
            try:
                present = assets.fetch_repo_info_backup(before)
            except ObjectNotFoundError:
                present = None  # somebody tidied up; older updates cannot be told from lost ones
            except FormatError as error:
                problems[f"{OVERWRITTEN}/{before}"] = error
    return known, names


def _backups(storage: Storage, known: set[str], problems: dict[str, IcefsError]) -> Iterator[tuple[str, RepoInfo]]:
    """Yields the backups of `repo` that the present ops log does not lead to."""
    for each in storage.iter_objects(f"{OVERWRITTEN}/"):
        name = each.key.removeprefix(f"{OVERWRITTEN}/")
        if not name.startswith(f"{REPO_INFO}.") or name in known:
            continue
        try:
            yield each.key, parse_repo_info(storage.get(each.key).data, name=each.key)
        except (FormatError, ObjectNotFoundError) as error:
            problems[each.key] = error


def _lost(
    storage: Storage, info: RepoInfo, backup: RepoInfo, kind: UpdateKind, updated_at: int, key: str
) -> LostUpdate | None:
    """Describes an update that is not known, unless its effect is there all the same."""
    name, tip = "", None
    match kind:
        case NewCommit(branch, snapshot_id) | CommitAmended(branch, _, snapshot_id):
            name, tip = branch, snapshot_id
        case NewDetachedSnapshot(snapshot_id):
            tip = snapshot_id
        case BranchCreated(created):
            name, tip = created, backup.branches.get(created)
        case TagCreated(created):
            name, tip = created, backup.tags.get(created)
    is_there = {
        BranchCreated: name in info.branches,
        TagCreated: name in info.tags or name in info.deleted_tags,
    }.get(type(kind), tip in info.snapshots)
    named = LostUpdate(kind, updated_at, key, name)
    return None if is_there else _leading(storage, info, backup, named, tip)


def _leading(
    storage: Storage, info: RepoInfo, backup: RepoInfo, named: LostUpdate, tip: SnapshotId | None
) -> LostUpdate:
    """Finds out which snapshots have to be added to lead to a lost tip."""
    if tip is None or tip not in backup.snapshots:
        return named
    added: list[SnapshotInfo] = []
    for each in backup.snapshots.ancestry(tip):
        if each.id in info.snapshots:
            break
        try:
            storage.head(snapshot_key(each.id))
        except ObjectNotFoundError:
            return named
        added.append(each)
    return replace(named, snapshot_id=tip, added=tuple(reversed(added)))


def recover(repository: WritableRepository, lost: list[LostUpdate]) -> list[str]:
    """Does again what lost updates did, as far as that is possible.

    Returns:
        What was done, for people.

    Raises:
        ConflictError, ReadOnlyError, StorageError: `repo` cannot be updated.
    """
    inner = {each.id for update in lost for each in update.added if each.id != update.snapshot_id}
    done: list[str] = []
    for update in lost:
        tip = update.snapshot_id
        if tip is None:
            continue
        if isinstance(update.kind, TagCreated | BranchCreated):
            name = update.name
        elif tip in inner:
            continue  # a later commit that was lost too leads here
        else:
            name = f"recovered-{update.name or 'detached'}-{str(tip)[:8].lower()}"
        if _bring_back(repository, update, name, tip):
            kind = "tag" if isinstance(update.kind, TagCreated) else "branch"
            done.append(f"{kind} {name} leads to snapshot {tip} again")
    return done


def _bring_back(repository: WritableRepository, update: LostUpdate, name: str, tip: SnapshotId) -> bool:
    is_tag = isinstance(update.kind, TagCreated)

    def change(info: RepoInfo, stamp: Stamp) -> RepoInfo:
        if name in (info.tags if is_tag else info.branches) or (is_tag and name in info.deleted_tags):
            return info
        missing = [each for each in update.added if each.id not in info.snapshots]
        grown = replace(info, snapshots=info.snapshots.rewritten(add=missing)) if missing else info
        return (edits.add_tag if is_tag else edits.add_branch)(grown, name, tip, stamp)

    before, _ = repository.assets.fetch_repo_info()
    after = publish.update_repo_info(repository.context, change)
    return after is not before


@dataclass(frozen=True, slots=True)
class Restored:
    """How `repo` was restored.

    Attributes:
        backup_key: The copy that took its place.
        damaged_key: Where the damaged object is kept; None where there was none.
    """

    backup_key: str
    damaged_key: str | None


def restore_repo_info(storage: Storage) -> Restored | None:
    """Puts the newest backup that can be read in the place of a `repo` that is missing or malformed, and keeps that.

    Returns:
        What was done; None if there is no backup.

    Raises:
        UnsupportedSpecVersionError: `repo`, or a backup that is newer than all that can be read, was written by a newer
            Icechunk; nothing was changed.
        StorageError: the store cannot be read or written, or somebody else wrote `repo` meanwhile.
    """
    try:
        present = storage.get(REPO_INFO)
    except ObjectNotFoundError:
        present = None
    problem = None if present is None else _problem(present.data, REPO_INFO)
    if isinstance(problem, UnsupportedSpecVersionError):
        raise problem
    # Their names count down, so that the newest comes first.
    for key in sorted(each.key for each in storage.iter_objects(f"{OVERWRITTEN}/")):
        if not key.startswith(f"{OVERWRITTEN}/{REPO_INFO}."):
            continue
        data = storage.get(key).data
        problem = _problem(data, key)
        if isinstance(problem, UnsupportedSpecVersionError):
            raise problem
        if problem is not None:
            continue  # that one is no better
        version = None if present is None else present.version
        damaged = None
        try:
            if version is not None:
                damaged = backup_key(backup_name(f"{_DAMAGED}{REPO_INFO}", system_clock(), ChunkId.random()))
                storage.copy(REPO_INFO, damaged, if_match=version)
            storage.put(REPO_INFO, data, if_match=version, create_only=version is None)
        except PreconditionFailedError as error:
            raise StorageError(
                f"{REPO_INFO} was written by somebody else while it was being restored", hint="check it again"
            ) from error
        return Restored(key, damaged)
    return None


def _problem(data: bytes, key: str) -> FormatError | None:
    try:
        parse_repo_info(data, name=key)
    except FormatError as error:
        return error
    return None


def bring_back_newer(repository: WritableRepository) -> list[str]:
    """Makes branches for the snapshots that are newer than a restored `repo`, which does not know them.

    Their parents are unknown. Each gets the newest tip of a branch that is older than itself: its
    own content is whole, whatever stands before it in the history.

    Returns:
        What was done, for people.

    Raises:
        ConflictError, ReadOnlyError, StorageError: `repo` cannot be updated.
    """
    info, _ = repository.assets.fetch_repo_info()
    newest = info.latest_updates[0].updated_at if info.latest_updates else 0
    done: list[str] = []
    found: list[Snapshot] = []
    for listed in repository.storage.iter_objects(f"{SNAPSHOTS}/"):
        try:
            snapshot_id = SnapshotId.parse(listed.key.removeprefix(f"{SNAPSHOTS}/"))
            if snapshot_id not in info.snapshots:
                snapshot = repository.assets.fetch_snapshot(snapshot_id)
                repository.assets.fetch_transaction_log(snapshot_id)
                found.append(snapshot)
        except InvalidInputError:
            continue  # something else that lies around
        except (FormatError, ObjectNotFoundError) as error:
            done.append(f"the snapshot {listed.key} is not known any more, and cannot be read: {error.own_message}")
    for snapshot in sorted(found, key=lambda one: one.flushed_at):
        if snapshot.id == INITIAL_SNAPSHOT_ID or snapshot.flushed_at <= newest:
            continue
        name = f"recovered-{str(snapshot.id)[:8].lower()}"
        _add_branch(repository, name, snapshot)
        done.append(
            f"branch {name} leads to snapshot {snapshot.id} ({snapshot.message!r}), which is newer than that copy"
        )
    return done


def _add_branch(repository: WritableRepository, name: str, snapshot: Snapshot) -> None:
    def add(info: RepoInfo, stamp: Stamp) -> RepoInfo:
        if snapshot.id in info.snapshots:
            return info
        tips = [info.snapshots[tip] for tip in {*info.branches.values()}]
        older = [tip for tip in tips if tip.flushed_at < snapshot.flushed_at] or tips
        parent = max(older, key=lambda tip: tip.flushed_at)
        entry = SnapshotInfo(snapshot.id, parent.id, snapshot.flushed_at, snapshot.message, snapshot.metadata, ())
        return edits.add_snapshot(info, entry, stamp, branch=None)

    def name_it(info: RepoInfo, stamp: Stamp) -> RepoInfo:
        return info if name in info.branches else edits.add_branch(info, name, snapshot.id, stamp)

    publish.update_repo_info(repository.context, add)
    publish.update_repo_info(repository.context, name_it)
