"""The repository's ops log: the latest updates of `repo`, as tables inside it.

    Update          0 + 1 update_type  2 updated_at  3 backup_path
    update_type     a union; the tables of its members are listed in `_MEMBERS`, in the order of their codes
    RepoStatus      0 availability  1 set_at  2 limited_availability_reason

An update's `backup_path` names (without `overwritten/`) the copy of `repo` in which that update is the latest; the
latest update of all has none (format notes §7.4).

Source: spec 2.1 "Update"; upstream icechunk-format/src/repo_info.rs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from icefs.format.flat.reader import FlatBuffer, Table, TableArray
from icefs.format.flat.writer import OFFSET, FlatBuilder
from icefs.format.ids import SnapshotId
from icefs.format.metadata_items import checked_timestamp


class RepoAvailability(IntEnum):
    """Whether a repository may be written to; a code that is not known reads as online."""

    online = 0
    read_only = 1


@dataclass(frozen=True, slots=True)
class RepoStatus:
    """The repository's availability.

    Attributes:
        availability: Whether it may be written to.
        set_at: When that was set, in microseconds since the epoch.
        limited_availability_reason: Why it may not.
    """

    availability: RepoAvailability
    set_at: int
    limited_availability_reason: str | None = None


@dataclass(frozen=True, slots=True)
class RepoInitialized:
    """The repository was created."""


@dataclass(frozen=True, slots=True)
class RepoMigrated:
    """The repository was upgraded from one spec version to another."""

    from_version: int
    to_version: int


@dataclass(frozen=True, slots=True)
class ConfigChanged:
    """The configuration was saved."""


@dataclass(frozen=True, slots=True)
class MetadataChanged:
    """The repository's metadata were set."""


@dataclass(frozen=True, slots=True)
class TagCreated:
    """A tag was created."""

    name: str


@dataclass(frozen=True, slots=True)
class TagDeleted:
    """A tag was deleted; it pointed at `previous_snap_id`."""

    name: str
    previous_snap_id: SnapshotId


@dataclass(frozen=True, slots=True)
class BranchCreated:
    """A branch was created."""

    name: str


@dataclass(frozen=True, slots=True)
class BranchDeleted:
    """A branch was deleted; it pointed at `previous_snap_id`."""

    name: str
    previous_snap_id: SnapshotId


@dataclass(frozen=True, slots=True)
class BranchReset:
    """A branch was pointed at another snapshot; it pointed at `previous_snap_id`."""

    name: str
    previous_snap_id: SnapshotId


@dataclass(frozen=True, slots=True)
class NewCommit:
    """A commit on a branch."""

    branch: str
    new_snap_id: SnapshotId


@dataclass(frozen=True, slots=True)
class CommitAmended:
    """The last commit of a branch was replaced."""

    branch: str
    previous_snap_id: SnapshotId
    new_snap_id: SnapshotId


@dataclass(frozen=True, slots=True)
class NewDetachedSnapshot:
    """A snapshot that no branch points at."""

    new_snap_id: SnapshotId


@dataclass(frozen=True, slots=True)
class GCRan:
    """Garbage was collected."""


@dataclass(frozen=True, slots=True)
class ExpirationRan:
    """Old snapshots were expired."""


@dataclass(frozen=True, slots=True)
class FeatureFlagChanged:
    """A feature flag was set, or put back to its default (None)."""

    id: int
    new_value: bool | None


@dataclass(frozen=True, slots=True)
class RepoStatusChanged:
    """The repository's status was set."""

    status: RepoStatus


type UpdateKind = (
    RepoInitialized | RepoMigrated | ConfigChanged | MetadataChanged | TagCreated | TagDeleted | BranchCreated
    | BranchDeleted | BranchReset | NewCommit | CommitAmended | NewDetachedSnapshot | GCRan | ExpirationRan
    | FeatureFlagChanged | RepoStatusChanged
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Update:
    """An entry of the ops log.

    Attributes:
        kind: The kind of update.
        updated_at: When, in microseconds since the epoch.
        backup_path: The copy of `repo` in which this is the latest update, below `overwritten/`; None for the
            latest of all.
    """

    kind: UpdateKind
    updated_at: int
    backup_path: str | None = None


_ID, _BYTE = "12s", "B"
# Members of the union by code, from 1, each with the codes of its table's fields in their order.
_MEMBERS: Final[tuple[tuple[type[Any], tuple[str, ...]], ...]] = (
    (RepoInitialized, ()),
    (RepoMigrated, (_BYTE, _BYTE)),
    (ConfigChanged, ()),
    (MetadataChanged, ()),
    (TagCreated, (OFFSET,)),
    (TagDeleted, (OFFSET, _ID)),
    (BranchCreated, (OFFSET,)),
    (BranchDeleted, (OFFSET, _ID)),
    (BranchReset, (OFFSET, _ID)),
    (NewCommit, (OFFSET, _ID)),
    (CommitAmended, (OFFSET, _ID, _ID)),
    (NewDetachedSnapshot, (_ID,)),
    (GCRan, ()),
    (ExpirationRan, ()),
    (FeatureFlagChanged, ("H", _BYTE, _BYTE)),
    (RepoStatusChanged, (OFFSET,)),
)
_CODES: Final = {member: code for code, (member, _) in enumerate(_MEMBERS, 1)}

_UPDATE = (_BYTE, OFFSET, "Q", OFFSET)
_STATUS = (_BYTE, "Q", OFFSET)


def parse_updates(tables: TableArray) -> tuple[Update, ...]:
    """Reads the updates, newest first.

    Raises:
        FormatError: one is malformed, or of a kind that is not known.
    """
    buffer = tables.buffer
    times = tables.column(2, "<u8").tolist()
    paths = tables.strings(3, "a backup path")
    return tuple(
        Update(_parse_kind(table), checked_timestamp(buffer, updated_at), path)
        for table, updated_at, path in zip(tables, times, paths, strict=True)
    )


def _parse_kind(update: Table) -> UpdateKind:
    buffer = update.buffer
    code, table = update.union(0, 1)
    if table is None or code > len(_MEMBERS):
        raise buffer.error(f"an update of unknown type {code}" if code else "an update without a type")
    member, codes = _MEMBERS[code - 1]
    if member is FeatureFlagChanged:
        return FeatureFlagChanged(table.u16(0), bool(table.u8(1)) if table.u8(2) else None)
    if member is RepoStatusChanged:
        return RepoStatusChanged(parse_status(buffer.require(table.table(0), "status")))
    values: list[Any] = []
    for slot, field in enumerate(codes):
        if field == OFFSET:
            values.append(buffer.require(_charged_string(table, slot), "name"))
        elif field == _ID:
            values.append(SnapshotId(buffer.require(table.struct(slot, 12), "snapshot id")))
        else:
            values.append(table.u8(slot))
    kind: UpdateKind = member(*values)
    return kind


def _charged_string(table: Table, slot: int) -> str | None:
    found = table.vector(slot, 1)
    if found is None:
        return None
    table.buffer.charge(found[1])
    return table.buffer.text(*found, "a name")


def parse_status(table: Table) -> RepoStatus:
    """Reads a repository's status.

    Raises:
        FormatError: it is malformed.
    """
    code = table.u8(0)
    availability = RepoAvailability(code) if code in RepoAvailability else RepoAvailability.online
    return RepoStatus(availability, checked_timestamp(table.buffer, table.u64(1)), _charged_string(table, 2))


def add_updates(builder: FlatBuilder, updates: Sequence[Update]) -> int:
    """Adds the vector of updates."""
    refs = []
    for update in updates:
        kind = update.kind
        code = _CODES[type(kind)]
        data = _add_kind(builder, kind, _MEMBERS[code - 1][1])
        path = None if update.backup_path is None else builder.string(update.backup_path)
        refs.append(builder.table(_UPDATE, (code, data, update.updated_at, path)))
    return builder.offsets(refs)


def _add_kind(builder: FlatBuilder, kind: UpdateKind, codes: tuple[str, ...]) -> int:
    if isinstance(kind, FeatureFlagChanged):
        return builder.table(codes, (kind.id, int(bool(kind.new_value)), int(kind.new_value is not None)))
    if isinstance(kind, RepoStatusChanged):
        return builder.table(codes, (add_status(builder, kind.status),))
    values = [getattr(kind, field) for field in kind.__dataclass_fields__]
    return builder.table(codes, [builder.string(value) if isinstance(value, str) else value for value in values])


def add_status(builder: FlatBuilder, status: RepoStatus) -> int:
    """Adds a repository's status."""
    reason = status.limited_availability_reason
    values = (int(status.availability), status.set_at, None if reason is None else builder.string(reason))
    return builder.table(_STATUS, values)


class OpsLog:
    """The updates that one `repo` file lists, newest first; decoded when they are asked for.

    An update of an unknown kind must not prevent reading the repository.
    """

    __slots__ = ("_source", "_updates")

    def __init__(self, updates: Sequence[Update] | None, *, source: tuple[FlatBuffer, int] | None = None) -> None:
        """Takes the updates, or (with None) the file that holds them and the slot of its root table."""
        self._updates = None if updates is None else tuple(updates)
        self._source = source

    @property
    def updates(self) -> tuple[Update, ...]:
        """The updates.

        Raises:
            FormatError: one is malformed, or of a kind that is not known.
        """
        if self._updates is None:
            assert self._source is not None  # one of the two is given
            file, slot = self._source
            buffer = FlatBuffer(file.data, name=file.name)
            self._updates = parse_updates(buffer.require(buffer.root().tables(slot), "latest_updates"))
        return self._updates
