"""The repo info file, `repo`: branches, tags, snapshots, status, configuration and ops log of a repository (spec 2).

    Repo        0 spec_version  1 tags  2 branches  3 deleted_tags  4 snapshots  5 status  6 metadata
                7 latest_updates  8 repo_before_updates  9 config (FlexBuffers)  10 enabled_feature_flags
                11 disabled_feature_flags  12 extra
    Ref         0 name  1 snapshot_index

It is the one object that changes, so all of it is read and written often: snapshots are columns (`snapshot_table`),
the ops log, metadata and configuration stay encoded until they are asked for. A value of it is never changed;
`repo_info_update` makes new ones.

Lists that official readers search are written in their order: refs by the bytes of their names, snapshots by id, flags
by number. The reader here relies on no order. Feature flags are absent until one is set, `extra` is kept as it is.

Source: spec 2.1 "Repository Info File"; format notes §7.3 and §7.4; upstream icechunk-format/src/repo_info.rs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from icefs.errors import FormatError, RefNotFoundError, UnsupportedSpecVersionError
from icefs.format.flat.reader import FlatBuffer, Table
from icefs.format.flat.writer import OFFSET, FlatBuilder
from icefs.format.header import FileType, decode_file, encode_file
from icefs.format.ids import SnapshotId
from icefs.format.metadata_items import Items, add_items, decode_items, encode_items, read_items
from icefs.format.repo.ops_log import (
    OpsLog,
    RepoStatus,
    Update,
    add_status,
    add_updates,
    parse_status,
)
from icefs.format.repo.snapshot_table import SnapshotInfo, SnapshotTable

MAIN_BRANCH: Final = "main"
"""The branch that every repository has."""

_REPO = ("B", *[OFFSET] * 12)
_REF = (OFFSET, "I")
_LATEST_UPDATES = 7


@dataclass(frozen=True, slots=True)
class RepoInfo:
    """The state of a repository.

    Attributes:
        snapshots: All snapshots that the repository knows, also those that nothing refers to.
        branches: Branches and their tips.
        tags: Tags and their snapshots.
        deleted_tags: Names that no tag can have again.
        status: Whether the repository may be written to.
        ops_log: The latest updates.
        repo_before_updates: The copy of `repo`, below `overwritten/`, whose ops log continues this one.
        config: The saved configuration, encoded; None where it is the default.
        metadata_items: The repository's own metadata, encoded.
        enabled_feature_flags: Flags that were switched on, as opposed to left at their default.
        disabled_feature_flags: Flags that were switched off.
        spec_version: 2.
        extra: Reserved by the format; kept.
        name: The file's key, for errors.
    """

    snapshots: SnapshotTable
    branches: Mapping[str, SnapshotId]
    tags: Mapping[str, SnapshotId]
    deleted_tags: frozenset[str]
    status: RepoStatus
    ops_log: OpsLog
    repo_before_updates: str | None = None
    config: bytes | None = None
    metadata_items: Items = ()
    enabled_feature_flags: tuple[int, ...] = ()
    disabled_feature_flags: tuple[int, ...] = ()
    spec_version: int = 2
    extra: bytes | None = None
    name: str = field(default="repo", compare=False)

    @property
    def latest_updates(self) -> tuple[Update, ...]:
        """The updates that this file lists, newest first.

        Raises:
            FormatError: one is malformed, or of a kind that is not known.
        """
        return self.ops_log.updates

    @property
    def metadata(self) -> dict[str, Any]:
        """The repository's own metadata: JSON values by name.

        Raises:
            FormatError: a value is malformed.
        """
        return decode_items(self.metadata_items, 2, self.name)

    def ancestry(self, snapshot_id: SnapshotId) -> Iterator[SnapshotInfo]:
        """Iterates over a snapshot and its ancestors, newest first.

        Raises:
            SnapshotNotFoundError: there is none of that id (at once).
            FormatError: the ancestors go round in a circle, or one of them is malformed.
        """
        return self.snapshots.ancestry(snapshot_id)

    def ancestry_ids(self, snapshot_id: SnapshotId) -> Iterator[SnapshotId]:
        """Iterates over the ids of a snapshot and its ancestors, newest first, without decoding anything else.

        Raises:
            SnapshotNotFoundError: there is none of that id (at once).
            FormatError: the ancestors go round in a circle.
        """
        return map(self.snapshots.id_at, self.snapshots.ancestry_rows(snapshot_id))

    def feature_flag(self, flag: int) -> bool | None:
        """Returns whether a feature flag was switched on or off; None where it has its default."""
        if flag in self.enabled_feature_flags:
            return True
        return False if flag in self.disabled_feature_flags else None


def parse_repo_info(data: bytes | memoryview, *, name: str) -> RepoInfo:
    """Reads a repo info file.

    Args:
        data: The whole file.
        name: Its key, for errors: `repo`, or that of a backup.

    Raises:
        FormatError: it is malformed.
        UnsupportedSpecVersionError: its spec version is not 2.
    """
    spec_version, body = decode_file(data, file_type=FileType.REPO_INFO, name=name)
    buffer = FlatBuffer(body, name=name)
    root = buffer.root()
    stated = root.u8(0)
    if spec_version != 2 or stated != 2:
        reason = f"a repo info of spec version {stated if spec_version == 2 else spec_version}, not 2"
        raise UnsupportedSpecVersionError(f"{name}: {reason}", file=name, reason=reason)
    snapshots, rank = SnapshotTable.from_tables(buffer.require(root.tables(4), "snapshots"))
    buffer.require(root.vector(_LATEST_UPDATES, 4), "latest_updates")
    return RepoInfo(
        snapshots=snapshots,
        branches=_parse_refs(root, 2, "branches", snapshots, rank),
        tags=_parse_refs(root, 1, "tags", snapshots, rank),
        deleted_tags=frozenset(buffer.require(root.string_vector(3), "deleted_tags")),
        status=parse_status(buffer.require(root.table(5), "status")),
        ops_log=OpsLog(None, source=(buffer, _LATEST_UPDATES)),
        repo_before_updates=root.string(8),
        config=_bytes(root, 9),
        metadata_items=read_items(root, 6) or (),
        enabled_feature_flags=_parse_flags(root, 10),
        disabled_feature_flags=_parse_flags(root, 11),
        spec_version=stated,
        extra=_bytes(root, 12),
        name=name,
    )


def _bytes(root: Table, slot: int) -> bytes | None:
    found = root.byte_vector(slot)
    return None if found is None else bytes(found)


def _parse_flags(root: Table, slot: int) -> tuple[int, ...]:
    flags = root.scalar_vector(slot, "<u2")
    return () if flags is None else tuple(sorted(set(flags.tolist())))


def _parse_refs(
    root: Table, slot: int, field_name: str, snapshots: SnapshotTable, rank: np.ndarray[Any, np.dtype[np.int64]]
) -> Mapping[str, SnapshotId]:
    buffer = root.buffer
    tables = buffer.require(root.tables(slot), field_name)
    names = tables.strings(0, "a name")
    indices = tables.column(1, "<u4").astype(np.int64)
    if None in names:
        raise buffer.error(f"one of its {field_name} has no name")
    if len(names) and int(indices.max()) >= len(snapshots):
        raise buffer.error(f"one of its {field_name} points at number {int(indices.max())} of {len(snapshots)}")
    refs = {
        name: snapshots.id_at(row) for name, row in zip(names, rank[indices].tolist(), strict=True) if name is not None
    }
    if len(refs) < len(names):
        raise buffer.error(f"two of its {field_name} have the same name")
    return MappingProxyType(refs)


def encode_repo_info(repo: RepoInfo, *, level: int = 3) -> bytes:
    """Writes a repo info file.

    Raises:
        RefNotFoundError: there is no `main` branch, which official readers need (kind `branch-not-found`).
        SnapshotNotFoundError: a branch or tag points at a snapshot that is not in the repository.
        FormatError: an update or snapshot of the file that `repo` was read from is malformed.
        InvalidInputError: a text cannot be written as UTF-8.
    """
    if MAIN_BRANCH not in repo.branches:
        raise RefNotFoundError(f"{repo.name} has no branch {MAIN_BRANCH}", kind="branch-not-found", name=MAIN_BRANCH)
    if not repo.latest_updates:
        raise FormatError(f"{repo.name} has no updates", file=repo.name, reason="no updates")
    builder = FlatBuilder()
    before = repo.repo_before_updates
    values = (
        repo.spec_version,
        _add_refs(builder, repo.tags, repo.snapshots),
        _add_refs(builder, repo.branches, repo.snapshots),
        builder.offsets([builder.string(name) for name in sorted(repo.deleted_tags)]),
        repo.snapshots.add_to(builder),
        add_status(builder, repo.status),
        add_items(builder, repo.metadata_items),
        add_updates(builder, repo.latest_updates),
        None if before is None else builder.string(before),
        None if repo.config is None else builder.byte_vector(repo.config),
        _add_flags(builder, repo.enabled_feature_flags),
        _add_flags(builder, repo.disabled_feature_flags),
        None if repo.extra is None else builder.byte_vector(repo.extra),
    )
    body = builder.finish(builder.table(_REPO, values))
    return encode_file(body, file_type=FileType.REPO_INFO, spec_version=2, level=level)


def _add_refs(builder: FlatBuilder, refs: Mapping[str, SnapshotId], snapshots: SnapshotTable) -> int:
    return builder.offsets(
        [builder.table(_REF, (builder.string(name), snapshots.row(refs[name]))) for name in sorted(refs)]
    )


def _add_flags(builder: FlatBuilder, flags: tuple[int, ...]) -> int | None:
    if not flags:
        return None
    return builder.vector(np.array(sorted(set(flags)), "<u2").tobytes(), len(set(flags)))


def encode_metadata(metadata: Mapping[str, Any]) -> Items:
    """Encodes the repository's own metadata, for `RepoInfo.metadata_items`.

    Raises:
        TypeError: a value is no JSON value.
        InvalidInputError: a value cannot be encoded.
    """
    return encode_items(metadata, 2)
