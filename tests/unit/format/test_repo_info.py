"""The repo info: everything it can say, its columns of snapshots, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest

from icefs.errors import (
    FormatError,
    InvalidInputError,
    RefNotFoundError,
    SnapshotNotFoundError,
    UnsupportedSpecVersionError,
)
from icefs.format.flat.reader import FlatBuffer
from icefs.format.flat.writer import OFFSET, FlatBuilder
from icefs.format.header import FileType, decode_file, encode_file
from icefs.format.ids import INITIAL_SNAPSHOT_ID, SnapshotId
from icefs.format.repo.info import RepoInfo, encode_repo_info, parse_repo_info
from icefs.format.repo.ops_log import OpsLog, RepoAvailability, RepoInitialized, RepoStatus, Update
from icefs.format.repo.snapshot_table import SnapshotInfo, SnapshotTable
from tests.support.repo_samples import NOW, sample_infos, sample_repo, sample_updates, snapshot_id

NAME = "repo"
FIELDS = (
    "branches", "tags", "deleted_tags", "status", "latest_updates", "repo_before_updates", "config", "metadata",
    "enabled_feature_flags", "disabled_feature_flags", "spec_version", "extra",
)  # fmt: skip


def parse(data: bytes) -> RepoInfo:
    return parse_repo_info(data, name=NAME)


def assert_same(found: RepoInfo, expected: RepoInfo) -> None:
    for field in FIELDS:
        assert getattr(found, field) == getattr(expected, field), field
    assert dict(found.snapshots) == dict(expected.snapshots)
    assert list(found.snapshots) == sorted(found.snapshots)


def small(**changes: Any) -> RepoInfo:
    info = SnapshotInfo(INITIAL_SNAPSHOT_ID, None, NOW, "m", {})
    repo = RepoInfo(
        SnapshotTable.of([info]),
        {"main": INITIAL_SNAPSHOT_ID},
        {},
        frozenset(),
        RepoStatus(RepoAvailability.online, NOW),
        OpsLog([Update(RepoInitialized(), NOW)]),
    )
    return replace(repo, **changes)


def test_everything_round_trips() -> None:
    repo = sample_repo()
    found = parse(encode_repo_info(repo))
    assert_same(found, repo)
    assert found.metadata == {"a": "text", "b": [1, 2]}
    # From a file that was read, records are copied out of it.
    assert_same(parse(encode_repo_info(found)), repo)
    assert encode_repo_info(found) == encode_repo_info(repo)


def test_a_new_repository() -> None:
    found = parse(encode_repo_info(small()))
    assert_same(found, small())
    assert (found.config, found.extra, found.metadata, found.repo_before_updates) == (None, None, {}, None)
    assert found.feature_flag(3) is None


def test_snapshots() -> None:
    infos = sample_infos()
    snapshots = parse(encode_repo_info(sample_repo())).snapshots
    assert len(snapshots) == len(infos)
    for info in infos:
        assert info.id in snapshots
        assert snapshots[info.id] == info
        assert snapshots.id_at(snapshots.row(info.id)) == info.id
        assert snapshots.parent_of(info.id) == info.parent_id
    assert all(isinstance(found, SnapshotId) for found in snapshots)
    missing = snapshot_id(999)
    assert missing not in snapshots
    assert snapshots.get(missing) is None
    with pytest.raises(KeyError):
        snapshots[missing]
    with pytest.raises(SnapshotNotFoundError):
        snapshots.row(missing)


def test_ancestry() -> None:
    infos = {info.id: info for info in sample_infos()}
    repo = parse(encode_repo_info(sample_repo()))
    for info in infos.values():
        expected, at = [], info
        while True:
            expected.append(at)
            if at.parent_id is None:
                break
            at = infos[at.parent_id]
        assert list(repo.ancestry(info.id)) == expected
        assert list(repo.ancestry_ids(info.id)) == [found.id for found in expected]
    for walk in (repo.ancestry, repo.ancestry_ids):
        with pytest.raises(SnapshotNotFoundError):
            walk(snapshot_id(999))


def test_feature_flags() -> None:
    repo = parse(encode_repo_info(sample_repo()))
    assert [repo.feature_flag(flag) for flag in (3, 4, 5, 9)] == [True, False, None, True]


def test_all_updates_round_trip() -> None:
    updates = sample_updates()
    assert parse(encode_repo_info(small(ops_log=OpsLog(updates)))).latest_updates == tuple(updates)


def test_what_is_absent_is_not_written() -> None:
    body = decode_file(encode_repo_info(small()), file_type=FileType.REPO_INFO, name=NAME)[1]
    root = FlatBuffer(body, name=NAME).root()
    assert [slot for slot in range(13) if root.has(slot)] == list(range(8))
    [record] = root.tables(4) or []
    assert [slot for slot in range(6) if record.has(slot)] == [0, 1, 2, 3, 4]


def test_names_are_written_in_the_order_of_their_bytes() -> None:
    names = ["", "a", "a-b", "a/b", "main", "é", "\ue000", "🧊"]
    refs = dict.fromkeys(reversed(names), INITIAL_SNAPSHOT_ID)
    repo = small(branches=refs, tags=refs, deleted_tags=frozenset(names))
    body = decode_file(encode_repo_info(repo), file_type=FileType.REPO_INFO, name=NAME)[1]
    root = FlatBuffer(body, name=NAME).root()
    for slot in (1, 2):
        tables = root.tables(slot)
        assert tables is not None
        assert tables.strings(0) == names
    assert root.string_vector(3) == names
    assert [name.encode() for name in names] == sorted(name.encode() for name in names)


# What is refused when writing


def test_main_is_needed() -> None:
    with pytest.raises(RefNotFoundError) as caught:
        encode_repo_info(small(branches={"other": INITIAL_SNAPSHOT_ID}))
    assert caught.value.kind == "branch-not-found"


def test_a_ref_to_a_missing_snapshot() -> None:
    with pytest.raises(SnapshotNotFoundError):
        encode_repo_info(small(tags={"v1": snapshot_id(5)}))


def test_no_updates() -> None:
    with pytest.raises(FormatError):
        encode_repo_info(small(ops_log=OpsLog([])))


@pytest.mark.parametrize(
    "changes",
    [{"branches": {"main": INITIAL_SNAPSHOT_ID, "\udcff": INITIAL_SNAPSHOT_ID}}, {"repo_before_updates": "\ud800"}],
)
def test_texts_that_are_no_unicode(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        encode_repo_info(small(**changes))


# The table of snapshots


def test_rewriting_the_table() -> None:
    infos = sample_infos(40)
    table = SnapshotTable.of(infos)
    new = SnapshotInfo(snapshot_id(77), infos[7].id, NOW + 99, "new", {"x": 1})
    assert dict(table.rewritten(add=[new])) == {**{info.id: info for info in infos}, new.id: new}
    # The children of what goes get other parents.
    drop = {infos[5].id, infos[6].id}
    children = [info for info in infos if info.parent_id in drop and info.id not in drop]
    moved = [replace(info, parent_id=infos[4].id, pruned_ancestor_tx_logs=tuple(drop)) for info in children]
    rest = table.rewritten(drop=drop, replace=moved)
    expected = {info.id: info for info in infos if info.id not in drop} | {info.id: info for info in moved}
    assert dict(rest) == expected
    # It all holds for rows that come from a file, too.
    repo = replace(small(), snapshots=table)
    from_file = parse(encode_repo_info(repo)).snapshots
    assert dict(from_file.rewritten(drop=drop, replace=moved)) == expected
    again = parse(encode_repo_info(replace(small(), snapshots=from_file.rewritten(drop=drop, replace=moved))))
    assert dict(again.snapshots) == expected
    assert dict(table) == {info.id: info for info in infos}


def test_rewriting_checks() -> None:
    infos = sample_infos()
    table = SnapshotTable.of(infos)
    with pytest.raises(FormatError) as caught:
        table.rewritten(add=[infos[3]])
    assert caught.value.kind == "duplicate-snapshot-id"
    for wrong in (
        {"drop": [infos[1].id]},
        {"drop": [snapshot_id(999)]},
        {"replace": [replace(infos[3], id=snapshot_id(999))]},
        {"replace": [replace(infos[3], parent_id=snapshot_id(999))]},
        {"add": [SnapshotInfo(snapshot_id(999), snapshot_id(998), 0, "", {})]},
    ):
        with pytest.raises(SnapshotNotFoundError):
            table.rewritten(**wrong)  # type: ignore[arg-type]
    with pytest.raises(SnapshotNotFoundError):
        SnapshotTable.of(infos[1:])


def test_an_empty_table() -> None:
    assert dict(SnapshotTable.of([])) == {}


def test_metadata_must_be_json() -> None:
    with pytest.raises(TypeError):
        SnapshotTable.of([SnapshotInfo(INITIAL_SNAPSHOT_ID, None, 0, "", {"a": object()})])


# What is refused when reading

REPO = ("B", *[OFFSET] * 12)
RECORD = ("12s", "i", "Q", OFFSET, OFFSET, OFFSET)


class Parts:
    """A repo info with two snapshots, of which single fields can be replaced or left out."""

    def __init__(self) -> None:
        builder = self.builder = FlatBuilder()
        self.message = builder.string("m")
        self.records: list[dict[int, Any]] = [
            {0: b"a" * 12, 1: -1, 2: NOW, 3: self.message},
            {0: b"b" * 12, 1: 0, 2: NOW, 3: self.message},
        ]
        self.refs = [(builder.string("main"), 1)]
        initialized = builder.table((), ())
        self.root: dict[int, Any] = {
            0: 2,
            1: builder.offsets([]),
            3: builder.offsets([]),
            5: builder.table(("B", "Q"), (0, NOW)),
            7: builder.offsets([builder.table(("B", OFFSET, "Q"), (1, initialized, NOW))]),
        }

    def parse(self, spec_version: int = 2) -> RepoInfo:
        builder = self.builder
        records = [builder.table(RECORD, [record.get(slot) for slot in range(6)]) for record in self.records]
        self.root.setdefault(4, builder.offsets(records))
        self.root.setdefault(2, builder.offsets([builder.table((OFFSET, "I"), ref) for ref in self.refs]))
        body = builder.finish(builder.table(REPO, [self.root.get(slot) for slot in range(13)]))
        return parse(encode_file(body, file_type=FileType.REPO_INFO, spec_version=spec_version))


A, B = SnapshotId(b"a" * 12), SnapshotId(b"b" * 12)


def refused(parts: Parts, match: str) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        parts.parse()
    assert caught.value.facts["file"] == NAME


def test_the_parts_are_right() -> None:
    repo = Parts().parse()
    assert repo.branches == {"main": B}
    assert repo.snapshots[B] == SnapshotInfo(B, A, NOW, "m", {})
    assert repo.snapshots[A] == SnapshotInfo(A, None, NOW, "m", {})
    assert repo.latest_updates == (Update(RepoInitialized(), NOW),)


@pytest.mark.parametrize("slot", [1, 2, 3, 4, 5, 7])
def test_a_required_field_is_missing(slot: int) -> None:
    parts = Parts()
    parts.root[slot] = None
    refused(parts, "required field")


@pytest.mark.parametrize("slot", [0, 3])
def test_a_snapshot_lacks_its_id_or_message(slot: int) -> None:
    parts = Parts()
    parts.records[1][slot] = None
    refused(parts, "lacks its id or message")


def test_what_a_snapshot_may_lack() -> None:
    parts = Parts()
    parts.records[0] = {0: bytes(A), 3: parts.message, 1: -7}
    parts.records[1][1] = None
    assert parts.parse().snapshots[A] == SnapshotInfo(A, None, 0, "m", {})
    # The first row is the default.
    assert parts.parse().snapshots[B].parent_id == A


def test_two_snapshots_of_one_id() -> None:
    parts = Parts()
    parts.records[1][0] = bytes(A)
    refused(parts, "same id")


@pytest.mark.parametrize("parent", [2, 3, 2**31 - 1])
def test_a_parent_outside_of_the_list(parent: int) -> None:
    parts = Parts()
    parts.records[1][1] = parent
    refused(parts, "parent is number")


@pytest.mark.parametrize("index", [2, 2**32 - 1])
def test_a_ref_outside_of_the_list(index: int) -> None:
    parts = Parts()
    parts.refs.append((parts.builder.string("x"), index))
    refused(parts, "points at number")


def test_refs_of_one_name() -> None:
    parts = Parts()
    parts.refs.append((parts.builder.string("main"), 0))
    refused(parts, "same name")


def test_a_ref_without_name() -> None:
    parts = Parts()
    parts.refs.append((None, 0))  # type: ignore[arg-type]
    refused(parts, "no name")


def test_parents_that_go_round_in_a_circle() -> None:
    for parents in ((0, 0), (1, 0)):
        parts = Parts()
        for record, parent in zip(parts.records, parents, strict=True):
            record[1] = parent
        repo = parts.parse()
        for walk in (repo.ancestry(B), repo.ancestry_ids(B)):
            with pytest.raises(FormatError, match="circle"):
                list(walk)


def test_snapshots_and_refs_in_any_order() -> None:
    parts = Parts()
    parts.records = [
        {0: b"c" * 12, 1: 2, 2: NOW, 3: parts.message},
        {0: b"a" * 12, 1: -1, 2: NOW, 3: parts.message},
        {0: b"b" * 12, 1: 1, 2: NOW, 3: parts.message},
    ]
    parts.refs = [(parts.builder.string("z"), 2), (parts.builder.string("main"), 0)]
    repo = parts.parse()
    assert repo.branches == {"z": B, "main": SnapshotId(b"c" * 12)}
    assert [info.id for info in repo.ancestry(SnapshotId(b"c" * 12))] == [b"c" * 12, b"b" * 12, b"a" * 12]
    assert_same(parse(encode_repo_info(repo)), repo)


@pytest.mark.parametrize(("header", "stated"), [(1, 2), (2, 1), (2, 3), (2, 0), (2, None)])
def test_other_spec_versions(header: int, stated: int | None) -> None:
    parts = Parts()
    parts.root[0] = stated
    with pytest.raises(UnsupportedSpecVersionError) as caught:
        parts.parse(header)
    assert caught.value.kind == "unsupported-spec-version"


@pytest.mark.parametrize(
    ("code", "availability"), [(None, "online"), (0, "online"), (1, "read_only"), (2, "online"), (255, "online")]
)
def test_unknown_availabilities_are_online(code: int | None, availability: str) -> None:
    parts = Parts()
    parts.root[5] = parts.builder.table(("B", "Q"), (code, NOW))
    assert parts.parse().status == RepoStatus(RepoAvailability[availability], NOW)


def test_a_time_beyond_the_year_9999_is_an_error_of_that_snapshot() -> None:
    parts = Parts()
    parts.records[1][2] = 2**64 - 1
    repo = parts.parse()
    assert repo.snapshots[A].flushed_at == NOW
    with pytest.raises(FormatError, match="9999"):
        repo.snapshots[B]
    assert list(repo.ancestry_ids(B)) == [B, A]


UPDATE = ("B", OFFSET, "Q", OFFSET)


@pytest.mark.parametrize(
    ("code", "table", "match"),
    [
        (17, (), "unknown type 17"),
        (255, (), "unknown type 255"),
        (0, (), "without a type"),
        (1, None, "unknown type|without"),
        (5, (), "required field name"),
        (10, ("name",), "required field snapshot id"),
        (16, (), "required field status"),
    ],
)
def test_a_malformed_update_is_an_error_of_the_log(code: int, table: tuple[str, ...] | None, match: str) -> None:
    parts = Parts()
    builder = parts.builder
    kind = None if table is None else builder.table((OFFSET,) * len(table), [builder.string(text) for text in table])
    parts.root[7] = builder.offsets([builder.table(UPDATE, (code, kind, NOW, None))])
    repo = parts.parse()
    assert repo.branches
    with pytest.raises(FormatError, match=match):
        _ = repo.latest_updates
    with pytest.raises(FormatError, match=match):
        encode_repo_info(repo)


def test_an_update_beyond_the_year_9999() -> None:
    parts = Parts()
    builder = parts.builder
    parts.root[7] = builder.offsets([builder.table(UPDATE, (1, builder.table((), ()), 2**63, None))])
    with pytest.raises(FormatError, match="9999"):
        _ = parts.parse().latest_updates


def test_snapshots_that_share_a_long_message_cannot_multiply() -> None:
    parts = Parts()
    message = parts.builder.string("x" * (1 << 20))
    parts.records = [{0: number.to_bytes(12, "big"), 1: number - 1, 2: NOW, 3: message} for number in range(2000)]
    repo = parts.parse()
    assert len(repo.snapshots[SnapshotId((7).to_bytes(12, "big"))].message) == 1 << 20
    with pytest.raises(FormatError, match="overlap"):
        encode_repo_info(repo)


def test_errors_name_the_backup_that_was_read() -> None:
    data = encode_repo_info(sample_repo())
    with pytest.raises(FormatError) as caught:
        parse_repo_info(data[:-5], name="overwritten/repo.1.X")
    assert caught.value.facts["file"] == "overwritten/repo.1.X"
