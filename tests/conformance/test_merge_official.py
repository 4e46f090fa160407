"""The official library reads histories with merges, picked, reverted and restored commits, and collects nothing."""

from datetime import UTC, datetime
from pathlib import Path

import icechunk
import pytest
import zarr

from icefs.engine.history.origins import merge_bases
from icefs.engine.merge.operations import Way, cherry_pick, merge, restore, revert
from icefs.engine.merge.restoration import Wanted
from icefs.engine.upkeep.expiration import ExpirationRequest, expire
from icefs.engine.write.repository import WritableRepository
from icefs.format.ids import SnapshotId
from icefs.paths import NodePath
from icefs.storage.local.store import LocalStorage
from tests.conformance.official import GROUP, array_json
from tests.support.exchanging import is_whole

A = NodePath("/a")
MAIN = Way("main")


def write(repository: WritableRepository, branch: str, index: int, value: int) -> SnapshotId:
    session = repository.writable_session(branch)
    session.chunks.set(A, (index,), bytes([value]) * 600)
    return session.commit(f"{value} at {index}")


@pytest.mark.parametrize("spec_version", [2, 1])
def test_a_history_with_merges_is_read(tmp_path: Path, spec_version: int):
    with WritableRepository.create(LocalStorage(tmp_path), spec_version=spec_version) as repository:
        with repository.transaction("main", message="start") as session:
            session.nodes.put("/", GROUP)
            session.nodes.put("/a", array_json((5 * 600,), (600,)))
        repository.create_branch("dev", repository.lookup_branch("main"))
        write(repository, "dev", 1, 10)
        write(repository, "main", 2, 20)
        assert merge(repository, "dev", MAIN).chunks == 1
        picked = write(repository, "dev", 3, 30)
        write(repository, "dev", 4, 40)
        cherry_pick(repository, picked, MAIN)
        good = repository.lookup_branch("main")
        revert(repository, write(repository, "main", 1, 50), MAIN)
        with repository.transaction("main", message="gone") as session:
            session.nodes.delete("/a")
        restore(repository, str(good), Wanted(A, None, "a"), MAIN)
    official = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path)))
    assert [info.message for info in official.ancestry(branch="main")] == [
        f"Restore a from {good}", "gone", 'Revert "50 at 1"', "50 at 1", "30 at 3", "Merge dev into main", "20 at 2",
        "start", "Repository initialized",
    ]  # fmt: skip
    summary = official.garbage_collect(datetime.now(UTC))
    assert (summary.chunks_deleted, summary.manifests_deleted, summary.snapshots_deleted) == (0, 0, 0)
    for branch, values in (("main", [0, 10, 20, 30, 0]), ("dev", [0, 10, 0, 30, 40])):
        array = zarr.open_group(official.readonly_session(branch).store, mode="r")["a"]
        assert array[::600].tolist() == values


@pytest.mark.parametrize("expire_with", ["official", "icefs"])
@pytest.mark.parametrize("spec_version", [2, 1])
def test_expiration_over_a_history_with_merges(tmp_path: Path, spec_version: int, expire_with: str):
    """Both expire the same, and what a merge brought stays: the branch refers to it itself."""
    with WritableRepository.create(LocalStorage(tmp_path), spec_version=spec_version) as repository:
        with repository.transaction("main", message="start") as session:
            session.nodes.put("/", GROUP)
            session.nodes.put("/a", array_json((5 * 600,), (600,)))
        repository.create_branch("dev", repository.lookup_branch("main"))
        write(repository, "dev", 1, 10)
        write(repository, "main", 2, 20)
        merge(repository, "dev", MAIN)
        repository.delete_branch("dev")
        tip = write(repository, "main", 3, 30)
        cutoff = repository.lookup_snapshot(tip).flushed_at
    official = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path)))
    if expire_with == "official":
        official.expire_snapshots(datetime.fromtimestamp(cutoff / 1_000_000, UTC))
    else:
        with WritableRepository.open(LocalStorage(tmp_path)) as repository:
            expire(repository, ExpirationRequest(cutoff))
    official = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path)))
    assert [info.message for info in official.ancestry(branch="main")] == ["30 at 3", "Repository initialized"]
    official.garbage_collect(datetime.now(UTC))
    array = zarr.open_group(official.readonly_session("main").store, mode="r")["a"]
    assert array[::600].tolist() == [0, 10, 20, 30, 0]
    assert is_whole(LocalStorage(tmp_path))
    with WritableRepository.open(LocalStorage(tmp_path)) as repository:
        # The merge is no part of the history any more, and nothing looks for it.
        assert merge_bases(repository.context, tip, tip) == [tip]
        write(repository, "main", 4, 40)
