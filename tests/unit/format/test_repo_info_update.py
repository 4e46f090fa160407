"""Updates of the repo info: what each changes, what each refuses, and the ops log that they leave behind."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from icefs.errors import (
    AlreadyExistsError,
    ConflictError,
    FormatError,
    IcefsError,
    InvalidInputError,
    RefNotFoundError,
    SessionStateError,
    SnapshotNotFoundError,
)
from icefs.format.ids import INITIAL_SNAPSHOT_ID, SnapshotId
from icefs.format.repo.info import RepoInfo, encode_repo_info, parse_repo_info
from icefs.format.repo.ops_log import (
    BranchCreated,
    BranchDeleted,
    BranchReset,
    CommitAmended,
    ConfigChanged,
    ExpirationRan,
    FeatureFlagChanged,
    GCRan,
    MetadataChanged,
    NewCommit,
    NewDetachedSnapshot,
    OpsLog,
    RepoAvailability,
    RepoInitialized,
    RepoMigrated,
    RepoStatus,
    RepoStatusChanged,
    TagCreated,
    TagDeleted,
    Update,
    UpdateKind,
)
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.format.repo.update import (
    Stamp,
    add_branch,
    add_snapshot,
    add_tag,
    delete_branch,
    delete_tag,
    initial_repo_info,
    next_timestamp,
    record_update,
    rewrite_snapshots,
    set_config,
    set_feature_flag,
    set_metadata,
    set_status,
    update_branch,
)
from tests.support.repo_samples import NOW, snapshot_id

STAMP = Stamp(NOW + 1_000, "repo.2.Y")
FIRST = SnapshotInfo(INITIAL_SNAPSHOT_ID, None, NOW, "Repository initialized", {})
S1, S2, S3 = snapshot_id(1), snapshot_id(2), snapshot_id(3)


def info(own_id: SnapshotId, parent_id: SnapshotId | None) -> SnapshotInfo:
    return SnapshotInfo(own_id, parent_id, NOW + 5, f"commit {own_id}", {"a": 1})


def initial() -> RepoInfo:
    return initial_repo_info(FIRST, now=NOW)


def history() -> RepoInfo:
    """`main` at S2 after S1, `dev` at S1, tag `v1` at S1, deleted tag `old`; as if read from a file."""
    repo = initial()
    steps: list[Callable[[RepoInfo, Stamp], RepoInfo]] = [
        lambda r, s: add_snapshot(r, info(S1, INITIAL_SNAPSHOT_ID), s, branch="main"),
        lambda r, s: add_branch(r, "dev", S1, s),
        lambda r, s: add_tag(r, "v1", S1, s),
        lambda r, s: add_tag(r, "old", S1, s),
        lambda r, s: delete_tag(r, "old", s),
        lambda r, s: add_snapshot(r, info(S2, S1), s, branch="main"),
    ]
    for number, step in enumerate(steps, 1):
        repo = step(repo, Stamp(NOW + number, f"repo.{number}.X"))
    return parse_repo_info(encode_repo_info(repo), name="repo")


def check(before: RepoInfo, after: RepoInfo, kind: UpdateKind, *changed: str) -> None:
    """Checks the new entry of the log, and that nothing but `changed` is different; also after writing and reading."""
    for found in (after, parse_repo_info(encode_repo_info(after), name="repo")):
        assert found.latest_updates == (
            Update(kind, STAMP.updated_at),
            replace(before.latest_updates[0], backup_path=STAMP.backup_name),
            *before.latest_updates[1:],
        )
        for field in (
            "branches", "tags", "deleted_tags", "status", "repo_before_updates", "config", "metadata",
            "enabled_feature_flags", "disabled_feature_flags", "extra", "snapshots",
        ):  # fmt: skip
            old, new = getattr(before, field), getattr(found, field)
            if field == "snapshots":
                old, new = dict(old), dict(new)
            assert (old != new) == (field in changed), field


def raises(error: type[IcefsError], kind: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    with pytest.raises(error) as caught:
        call(*args, **kwargs)
    assert caught.value.kind == kind


def test_a_new_repository() -> None:
    repo = initial_repo_info(FIRST, now=NOW, config=b"x")
    assert repo.branches == {"main": INITIAL_SNAPSHOT_ID}
    assert repo.status == RepoStatus(RepoAvailability.online, NOW)
    assert repo.latest_updates == (Update(RepoInitialized(), NOW),)
    assert repo.config == b"x"
    assert dict(parse_repo_info(encode_repo_info(repo), name="repo").snapshots) == {FIRST.id: FIRST}


def test_commit() -> None:
    before = history()
    after = add_snapshot(before, info(S3, S2), STAMP, branch="main")
    check(before, after, NewCommit("main", S3), "branches", "snapshots")
    assert after.branches == {"main": S3, "dev": S1}
    assert after.snapshots[S3] == info(S3, S2)
    assert [found.id for found in after.ancestry(S3)] == [S3, S2, S1, INITIAL_SNAPSHOT_ID]


def test_amend() -> None:
    before = history()
    kind = CommitAmended("main", S2, S3)
    after = add_snapshot(before, info(S3, S1), STAMP, branch="main", kind=kind)
    check(before, after, kind, "branches", "snapshots")
    assert S2 in after.snapshots


def test_a_detached_snapshot() -> None:
    before = history()
    after = add_snapshot(before, info(S3, S2), STAMP, branch=None)
    check(before, after, NewDetachedSnapshot(S3), "snapshots")


def test_commits_that_are_refused() -> None:
    repo = history()
    raises(FormatError, "duplicate-snapshot-id", add_snapshot, repo, info(S1, None), STAMP, branch="main")
    raises(
        SnapshotNotFoundError, "snapshot-not-found", add_snapshot, repo, info(S3, snapshot_id(9)), STAMP, branch="main"
    )
    raises(RefNotFoundError, "branch-not-found", add_snapshot, repo, info(S3, S2), STAMP, branch="nothing")


def test_branches() -> None:
    before = history()
    check(before, add_branch(before, "ü/x", S1, STAMP), BranchCreated("ü/x"), "branches")
    check(before, add_branch(before, "", S1, STAMP), BranchCreated(""), "branches")
    check(before, update_branch(before, "dev", S2, STAMP), BranchReset("dev", S1), "branches")
    check(before, update_branch(before, "dev", S2, STAMP, expected=S1), BranchReset("dev", S1), "branches")
    check(before, delete_branch(before, "dev", STAMP), BranchDeleted("dev", S1), "branches")
    assert update_branch(before, "main", S1, STAMP).branches == {"main": S1, "dev": S1}
    assert delete_branch(before, "dev", STAMP).branches == {"main": S2}


def test_branches_that_are_refused() -> None:
    repo = history()
    missing = snapshot_id(9)
    raises(AlreadyExistsError, "branch-already-exists", add_branch, repo, "dev", S1, STAMP)
    raises(SnapshotNotFoundError, "snapshot-not-found", add_branch, repo, "new", missing, STAMP)
    raises(InvalidInputError, "serialization", add_branch, repo, "\udcff", S1, STAMP)
    raises(RefNotFoundError, "branch-not-found", update_branch, repo, "new", S1, STAMP)
    raises(SnapshotNotFoundError, "snapshot-not-found", update_branch, repo, "dev", missing, STAMP)
    raises(ConflictError, "branch-update-conflict", update_branch, repo, "dev", S1, STAMP, expected=S2)
    raises(RefNotFoundError, "branch-not-found", delete_branch, repo, "new", STAMP)
    raises(SessionStateError, "cannot-delete-main", delete_branch, repo, "main", STAMP)


def test_tags() -> None:
    before = history()
    check(before, add_tag(before, "v2", S2, STAMP), TagCreated("v2"), "tags")
    check(before, delete_tag(before, "v1", STAMP), TagDeleted("v1", S1), "tags", "deleted_tags")
    assert delete_tag(before, "v1", STAMP).deleted_tags == {"old", "v1"}


def test_tags_that_are_refused() -> None:
    repo = history()
    raises(AlreadyExistsError, "tag-already-exists", add_tag, repo, "v1", S1, STAMP)
    raises(AlreadyExistsError, "tag-previously-deleted", add_tag, repo, "old", S1, STAMP)
    raises(SnapshotNotFoundError, "snapshot-not-found", add_tag, repo, "v2", snapshot_id(9), STAMP)
    raises(InvalidInputError, "serialization", add_tag, repo, "\ud800", S1, STAMP)
    raises(RefNotFoundError, "tag-not-found", delete_tag, repo, "old", STAMP)


def test_metadata_and_configuration() -> None:
    before = history()
    after = set_metadata(before, {"b": (1, 2), "a": None}, STAMP)
    check(before, after, MetadataChanged(), "metadata")
    assert after.metadata == {"a": None, "b": [1, 2]}
    check(before, set_config(before, b"\x01", STAMP), ConfigChanged(), "config")
    with pytest.raises(TypeError):
        set_metadata(before, {"a": object()}, STAMP)


def test_status() -> None:
    before = history()
    status = RepoStatus(RepoAvailability.read_only, NOW + 7, "why")
    check(before, set_status(before, status, STAMP), RepoStatusChanged(status), "status")
    silent = set_status(before, status, None)
    assert silent.status == status
    assert silent.latest_updates == before.latest_updates


def test_feature_flags() -> None:
    repo = history()
    on = set_feature_flag(repo, 4, True, STAMP)
    check(repo, on, FeatureFlagChanged(4, True), "enabled_feature_flags")
    check(repo, set_feature_flag(repo, 4, False, STAMP), FeatureFlagChanged(4, False), "disabled_feature_flags")
    check(repo, set_feature_flag(repo, 4, None, STAMP), FeatureFlagChanged(4, None))
    off = set_feature_flag(on, 4, False, replace(STAMP, updated_at=NOW + 2_000))
    assert (off.enabled_feature_flags, off.disabled_feature_flags) == ((), (4,))
    both = set_feature_flag(off, 3, False, replace(STAMP, updated_at=NOW + 3_000))
    assert both.disabled_feature_flags == (3, 4)
    assert set_feature_flag(both, 4, None, replace(STAMP, updated_at=NOW + 4_000)).disabled_feature_flags == (3,)


def test_expiration_and_garbage_collection() -> None:
    before = history()
    # S1 goes: S2 gets the first snapshot as its parent, and what pointed at S1 goes too.
    orphan = replace(before.snapshots[S2], parent_id=INITIAL_SNAPSHOT_ID, pruned_ancestor_tx_logs=(S1,))
    after = rewrite_snapshots(
        before, ExpirationRan(), STAMP, drop=[S1], replacements=[orphan], drop_branches=["dev"], drop_tags=["v1"]
    )
    check(before, after, ExpirationRan(), "snapshots", "branches", "tags", "deleted_tags")
    assert set(after.snapshots) == {INITIAL_SNAPSHOT_ID, S2}
    assert after.snapshots[S2] == orphan
    assert after.deleted_tags == {"old", "v1"}
    assert after.branches == {"main": S2}
    check(before, rewrite_snapshots(before, GCRan(), STAMP), GCRan())


def test_rewriting_that_is_refused() -> None:
    repo = history()
    orphan = replace(repo.snapshots[S2], parent_id=INITIAL_SNAPSHOT_ID)
    raises(SnapshotNotFoundError, "snapshot-not-found", rewrite_snapshots, repo, GCRan(), STAMP, drop=[S1])
    raises(
        ConflictError, "repo-info-updated", rewrite_snapshots, repo, GCRan(), STAMP, drop=[S1], replacements=[orphan]
    )
    raises(RefNotFoundError, "tag-not-found", rewrite_snapshots, repo, GCRan(), STAMP, drop_tags=["old"])
    raises(RefNotFoundError, "branch-not-found", rewrite_snapshots, repo, GCRan(), STAMP, drop_branches=["x"])
    raises(SessionStateError, "cannot-delete-main", rewrite_snapshots, repo, GCRan(), STAMP, drop_branches=["main"])


# The ops log


def test_times_must_grow() -> None:
    repo = initial()
    for updated_at in (NOW, NOW - 1, 0):
        raises(FormatError, "snapshot-timestamp", record_update, repo, GCRan(), Stamp(updated_at, "x"))
    assert next_timestamp(repo, NOW - 10) == next_timestamp(repo, NOW) == NOW + 1
    assert next_timestamp(repo, NOW + 10) == NOW + 10
    assert record_update(repo, GCRan(), Stamp(next_timestamp(repo, 0), "x")).latest_updates[0].updated_at == NOW + 1


def test_a_log_that_is_malformed_is_not_continued() -> None:
    for updates in ([], [Update(GCRan(), NOW, "names.itself")]):
        repo = replace(initial(), ops_log=OpsLog(updates))
        raises(FormatError, "invalid-file-format", record_update, repo, GCRan(), STAMP)


@pytest.mark.parametrize("num_updates", [0, 1, 2, 3, 5, 100])
def test_the_log_spills_into_the_backups(num_updates: int) -> None:
    """Following `repo_before_updates` through the backups, every update is found once, and in order."""
    backups: dict[str, RepoInfo] = {}
    repo = initial()
    for number in range(1, 30):
        name = f"repo.{number}.X"
        backups[name] = repo
        repo = record_update(repo, BranchCreated(str(number)), Stamp(NOW + number, name, num_updates))
        repo = parse_repo_info(encode_repo_info(repo), name="repo")
        assert len(repo.latest_updates) <= max(1, num_updates)
        assert repo.latest_updates[0].backup_path is None
        found: list[Update] = []
        at: RepoInfo | None = repo
        while at is not None:
            found += at.latest_updates
            before = at.repo_before_updates
            at = None if before is None else backups[before]
        assert [update.updated_at for update in found] == [NOW + back for back in range(number, -1, -1)]
        for update in found[1:]:
            if update.backup_path is not None:
                # The named copy is the state in which the update is the latest.
                assert backups[update.backup_path].latest_updates[0].updated_at == update.updated_at


def test_entries_without_backup_do_not_spill() -> None:
    """A migration makes such entries; they stay in the file however many there are."""
    made = [Update(RepoMigrated(1, 2), NOW)] + [Update(NewCommit("main", S1), NOW - row) for row in range(1, 10)]
    repo = replace(initial(), ops_log=OpsLog(made), repo_before_updates=None)
    one = record_update(repo, GCRan(), Stamp(NOW + 1, "repo.1.X", 3))
    assert len(one.latest_updates) == 11
    assert one.repo_before_updates is None
    two = record_update(one, GCRan(), Stamp(NOW + 2, "repo.2.X", 3))
    assert [update.backup_path for update in two.latest_updates[:4]] == [None, "repo.2.X", "repo.1.X", None]
    assert len(two.latest_updates) == 12
    three = record_update(two, GCRan(), Stamp(NOW + 3, "repo.3.X", 3))
    # The fourth entry is the newest of the migration; it has got a backup by now.
    assert len(three.latest_updates) == 3
    assert three.repo_before_updates == "repo.1.X"


def test_the_chain_is_kept_while_nothing_spills() -> None:
    repo = replace(initial(), repo_before_updates="repo.0.X")
    assert record_update(repo, GCRan(), STAMP).repo_before_updates == "repo.0.X"
    assert record_update(repo, GCRan(), replace(STAMP, num_updates=1)).repo_before_updates == STAMP.backup_name
