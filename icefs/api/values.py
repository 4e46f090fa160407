"""The values that the API answers with, under their official names, with ids as text and times as datetimes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import IntEnum
from typing import Any, ClassVar, Self, override

from icefs.api.display import DIFF_TITLES, diff_text, fields_text
from icefs.api.notebook import as_html
from icefs.arguments import U32, U64, check_instance, checked_integer
from icefs.clock import to_datetime, to_micros
from icefs.engine.history.diff import Diff as EngineDiff
from icefs.format.ids import ObjectId
from icefs.format.repo import ops_log as formats
from icefs.format.repo.snapshot_table import SnapshotInfo as FormatSnapshotInfo
from icefs.format.snapshot.nodes import ManifestFileInfo as FormatManifestFileInfo


class _NamedInt(IntEnum):
    """An integer that is written as a name."""

    @override
    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    __repr__ = __str__


class ChunkType(_NamedInt):
    """Where a chunk's bytes are."""

    uninitialized = 0
    native = 1
    virtual = 2
    inline = 3


class SessionMode(_NamedInt):
    """The changes that a session allows: none, data, or the paths of nodes."""

    readonly = 0
    writable = 1
    rearrange = 2


class SpecVersion(_NamedInt):
    """A version of the format."""

    v1 = 1
    v2 = 2

    @staticmethod
    def current() -> "SpecVersion":
        """Returns the version that new repositories get."""
        return SpecVersion.v2


class RepoAvailability(_NamedInt):
    """Whether a repository may be written to."""

    online = 0
    read_only = 1


@dataclass(repr=False, frozen=True, slots=True)
class RepoStatus:
    """A repository's availability, since when, and why it is limited."""

    availability: RepoAvailability
    set_at: datetime | None = None
    limited_availability_reason: str | None = None

    def __post_init__(self) -> None:
        check_instance(self.availability, RepoAvailability)

    def __repr__(self) -> str:
        name = "".join(part.capitalize() for part in self.availability.name.split("_"))
        return fields_text(self, availability=name)

    _repr_html_ = as_html

    @classmethod
    def of(cls, status: formats.RepoStatus) -> Self:
        """Converts the value in the repository's file."""
        availability = RepoAvailability(int(status.availability))
        return cls(availability, to_datetime(status.set_at), status.limited_availability_reason)

    def stored(self, now: int) -> formats.RepoStatus:
        """Converts to the value in the repository's file; `now`, in microseconds, is the time if none was given."""
        set_at = now if self.set_at is None else to_micros(self.set_at)
        availability = formats.RepoAvailability(int(self.availability))
        return formats.RepoStatus(availability, set_at, self.limited_availability_reason)


@dataclass(repr=False, frozen=True, slots=True)
class SnapshotInfo:
    """A snapshot without its nodes."""

    id: str
    parent_id: str | None
    written_at: datetime
    message: str
    metadata: dict[str, Any]

    __repr__ = fields_text
    _repr_html_ = as_html

    @property
    def commit_message(self) -> str:
        """The message, under another name."""
        return self.message

    @classmethod
    def of(cls, info: FormatSnapshotInfo) -> Self:
        """Converts the engine's description of a snapshot."""
        parent = None if info.parent_id is None else str(info.parent_id)
        return cls(str(info.id), parent, to_datetime(info.flushed_at), info.message, dict(info.metadata))


@dataclass(frozen=True, slots=True)
class ManifestFileInfo:
    """A manifest that a snapshot uses."""

    id: str
    size_bytes: int
    num_chunk_refs: int

    @classmethod
    def of(cls, info: FormatManifestFileInfo) -> Self:
        """Converts the values in the snapshot's file."""
        return cls(str(info.id), info.size_bytes, info.num_chunk_refs)


@dataclass(frozen=True, slots=True)
class VirtualChunkSpec:
    """A virtual chunk: its index in the array's grid, and the bytes of another object that it is.

    At most one of the checksums says which version of the object is meant: its entity tag, or a time after which it
    was not modified.
    """

    index: Sequence[int]
    location: str
    offset: int
    length: int
    etag_checksum: str | None = None
    last_updated_at_checksum: datetime | None = None

    def __post_init__(self) -> None:
        # Programs make millions of these: what fits is not looked at twice.
        for coordinate in self.index:
            if not 0 <= coordinate < 1 << 32:
                checked_integer(coordinate, U32, "a chunk coordinate")
        if not (0 <= self.offset < 1 << 64 and 0 <= self.length < 1 << 64):
            checked_integer(self.offset, U64, "offset")
            checked_integer(self.length, U64, "length")


@dataclass(frozen=True, slots=True)
class FeatureFlag:
    """A switch of a repository; `setting` is None where it was never set."""

    id: int
    name: str
    default_enabled: bool
    setting: bool | None

    @property
    def enabled(self) -> bool:
        """Whether it is on."""
        return self.default_enabled if self.setting is None else self.setting


@dataclass(repr=False, frozen=True, slots=True)
class Diff:
    """The changes between two snapshots, or in a session, by absolute path."""

    new_groups: set[str] = field(default_factory=set)
    new_arrays: set[str] = field(default_factory=set)
    deleted_groups: set[str] = field(default_factory=set)
    deleted_arrays: set[str] = field(default_factory=set)
    updated_groups: set[str] = field(default_factory=set)
    updated_arrays: set[str] = field(default_factory=set)
    updated_chunks: dict[str, list[list[int]]] = field(default_factory=dict)
    moved_nodes: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, diff: EngineDiff) -> Self:
        """Converts the engine's result."""
        return cls(
            **{name: set(getattr(diff, name)) for name in DIFF_TITLES},
            updated_chunks={path: [list(index) for index in indices] for path, indices in diff.updated_chunks.items()},
            moved_nodes=[(move.from_path, move.to_path) for move in diff.moved_nodes],
        )

    def is_empty(self) -> bool:
        """Tells whether nothing changed."""
        return not any(getattr(self, each.name) for each in fields(self))

    __repr__ = diff_text
    _repr_html_ = as_html


class UpdateType:
    """An update of a repository; each kind is a subclass, as in `UpdateType.NewCommit`."""

    RepoInitialized: ClassVar[type["RepoInitialized"]]
    RepoMigrated: ClassVar[type["RepoMigrated"]]
    RepoStatusChanged: ClassVar[type["RepoStatusChanged"]]
    ConfigChanged: ClassVar[type["ConfigChanged"]]
    MetadataChanged: ClassVar[type["MetadataChanged"]]
    TagCreated: ClassVar[type["TagCreated"]]
    TagDeleted: ClassVar[type["TagDeleted"]]
    BranchCreated: ClassVar[type["BranchCreated"]]
    BranchDeleted: ClassVar[type["BranchDeleted"]]
    BranchReset: ClassVar[type["BranchReset"]]
    NewCommit: ClassVar[type["NewCommit"]]
    CommitAmended: ClassVar[type["CommitAmended"]]
    NewDetachedSnapshot: ClassVar[type["NewDetachedSnapshot"]]
    GCRan: ClassVar[type["GCRan"]]
    ExpirationRan: ClassVar[type["ExpirationRan"]]
    FeatureFlagChanged: ClassVar[type["FeatureFlagChanged"]]


@dataclass(frozen=True)
class RepoInitialized(UpdateType):
    """The repository was created."""


@dataclass(frozen=True)
class RepoMigrated(UpdateType):
    """The repository was upgraded."""

    from_version: int
    to_version: int


@dataclass(frozen=True)
class RepoStatusChanged(UpdateType):
    """The status was set."""

    status: RepoStatus


@dataclass(frozen=True)
class ConfigChanged(UpdateType):
    """The configuration was saved."""


@dataclass(frozen=True)
class MetadataChanged(UpdateType):
    """The repository's metadata were set."""


@dataclass(frozen=True)
class TagCreated(UpdateType):
    """A tag was created."""

    name: str


@dataclass(frozen=True)
class TagDeleted(UpdateType):
    """A tag was deleted."""

    name: str
    previous_snap_id: str


@dataclass(frozen=True)
class BranchCreated(UpdateType):
    """A branch was created."""

    name: str


@dataclass(frozen=True)
class BranchDeleted(UpdateType):
    """A branch was deleted."""

    name: str
    previous_snap_id: str


@dataclass(frozen=True)
class BranchReset(UpdateType):
    """A branch was pointed at another snapshot."""

    name: str
    previous_snap_id: str


@dataclass(frozen=True)
class NewCommit(UpdateType):
    """A commit on a branch."""

    branch: str
    new_snap_id: str


@dataclass(frozen=True)
class CommitAmended(UpdateType):
    """The last commit of a branch was replaced."""

    branch: str
    previous_snap_id: str
    new_snap_id: str


@dataclass(frozen=True)
class NewDetachedSnapshot(UpdateType):
    """A snapshot was made that no branch points at."""

    new_snap_id: str


@dataclass(frozen=True)
class GCRan(UpdateType):
    """Garbage was collected."""


@dataclass(frozen=True)
class ExpirationRan(UpdateType):
    """Old snapshots were expired."""


@dataclass(frozen=True)
class FeatureFlagChanged(UpdateType):
    """A feature flag was set, or put back to its default (None)."""

    id: int
    new_value: bool | None


_UPDATE_TYPES: Mapping[str, type[UpdateType]] = {kind.__name__: kind for kind in UpdateType.__subclasses__()}
for _name, _kind in _UPDATE_TYPES.items():
    setattr(UpdateType, _name, _kind)


def _official(value: Any) -> Any:
    if isinstance(value, ObjectId):
        return str(value)
    return RepoStatus.of(value) if isinstance(value, formats.RepoStatus) else value


@dataclass(frozen=True, slots=True)
class Update:
    """An entry of the ops log."""

    kind: UpdateType
    updated_at: datetime
    backup_path: str | None

    @classmethod
    def of(cls, update: formats.Update) -> Self:
        """Converts an entry of the repository's file."""
        values = {each.name: _official(getattr(update.kind, each.name)) for each in fields(update.kind)}
        kind = _UPDATE_TYPES[type(update.kind).__name__](**values)
        return cls(kind, to_datetime(update.updated_at), update.backup_path)


__all__ = [
    "ChunkType",
    "Diff",
    "FeatureFlag",
    "ManifestFileInfo",
    "RepoAvailability",
    "RepoStatus",
    "SessionMode",
    "SnapshotInfo",
    "SpecVersion",
    "Update",
    "UpdateType",
    "VirtualChunkSpec",
]
