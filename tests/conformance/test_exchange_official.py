"""The official library reads clones and what was pulled, its collection takes nothing, and its commits come over."""

from datetime import UTC, datetime
from pathlib import Path

import icechunk
import pytest
import zarr

from icefs.engine.exchange.clone import clone
from icefs.engine.exchange.pull import Request, pull
from icefs.engine.exchange.wanted import Wanted
from icefs.engine.repository import Repository
from icefs.engine.write.repository import WritableRepository
from icefs.storage.local.store import LocalStorage
from tests.support.exchanging import is_whole, seen

icechunk.set_logs_filter("off")

GONE = ("chunks_deleted", "manifests_deleted", "snapshots_deleted", "transaction_logs_deleted")


def official(path: Path) -> icechunk.Repository:
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(path)))


def make(path: Path, spec_version: int) -> icechunk.Repository:
    made = icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)), spec_version=spec_version)
    session = made.writable_session("main")
    group = zarr.create_group(session.store)
    group.create_array("a", shape=(4000,), chunks=(1000,), dtype="f8")[:] = 1
    session.commit("start")
    made.create_branch("dev", made.lookup_branch("main"))
    made.create_tag("v1", commit(made, "dev", 2))
    commit(made, "main", 3)
    return made


def commit(repository: icechunk.Repository, branch: str, value: int) -> str:
    session = repository.writable_session(branch)
    zarr.open_group(session.store)["a"][value * 100 : value * 1000] = value
    return session.commit(str(value))


def facts(repository: icechunk.Repository) -> dict[str, list[object]]:
    found: dict[str, list[object]] = {}
    for branch in sorted(repository.list_branches()):
        values = zarr.open_group(repository.readonly_session(branch).store, mode="r")["a"][:].tolist()
        found[branch] = [
            [(each.id, each.message, each.written_at) for each in repository.ancestry(branch=branch)],
            values,
        ]
    for tag in repository.list_tags():
        found[f"tag {tag}"] = [each.id for each in repository.ancestry(tag=tag)]
    return found


def check_nothing_goes(path: Path) -> None:
    """Has the official library collect all that it finds unused, and expire nothing."""
    before = facts(official(path))
    summary = official(path).garbage_collect(datetime.now(UTC))
    assert {name: getattr(summary, name) for name in GONE} == dict.fromkeys(GONE, 0)
    assert facts(official(path)) == before
    assert is_whole(LocalStorage(path))


@pytest.mark.parametrize("spec_version", [2, 1])
def test_a_clone_and_a_pull(tmp_path: Path, spec_version: int) -> None:
    theirs = make(tmp_path / "theirs", spec_version)
    with Repository.open(LocalStorage(tmp_path / "theirs")) as source:
        clone(source, LocalStorage(tmp_path / "ours"), Request(verify=True))
    assert facts(official(tmp_path / "ours")) == facts(theirs)
    check_nothing_goes(tmp_path / "ours")

    commit(theirs, "main", 4)
    theirs.create_tag("v2", theirs.lookup_branch("main"))
    commit(official(tmp_path / "ours"), "dev", 1)
    with (
        WritableRepository.open(LocalStorage(tmp_path / "theirs")) as source,
        WritableRepository.open(LocalStorage(tmp_path / "ours")) as target,
    ):
        assert not pull(source, target, Request()).refused
        assert not pull(target, source, Request()).refused
    assert facts(official(tmp_path / "ours")) == facts(official(tmp_path / "theirs"))
    for name in ("ours", "theirs"):
        check_nothing_goes(tmp_path / name)
        commit(official(tmp_path / name), "main", 2)


@pytest.mark.parametrize("spec_version", [2, 1])
def test_a_history_that_is_cut_is_what_an_expiration_leaves(tmp_path: Path, spec_version: int) -> None:
    theirs = make(tmp_path / "theirs", spec_version)
    last = theirs.lookup_snapshot(theirs.lookup_branch("main")).written_at
    with Repository.open(LocalStorage(tmp_path / "theirs")) as source:
        clone(source, LocalStorage(tmp_path / "ours"), Request(Wanted(depth=1)))
        clone(source, LocalStorage(tmp_path / "expired"), Request())
    official(tmp_path / "expired").expire_snapshots(last)
    ours, expired = seen(LocalStorage(tmp_path / "ours")), seen(LocalStorage(tmp_path / "expired"))
    assert ours["branch", "main"] == expired["branch", "main"]
    assert [each[1] for each in ours["branch", "dev"]] == ["2", "Repository initialized"]
    check_nothing_goes(tmp_path / "ours")
    changed = official(tmp_path / "ours").diff(from_snapshot_id=ours["branch", "main"][-1][0], to_branch="main")
    assert (
        changed.new_arrays
        == official(tmp_path / "expired")
        .diff(from_snapshot_id=ours["branch", "main"][-1][0], to_branch="main")
        .new_arrays
    )
