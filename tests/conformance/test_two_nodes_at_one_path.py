"""Snapshots with two nodes at one path, as the official library writes them: all else is read, a commit mends them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr

from icefs.cli.main import main
from icefs.clock import system_clock
from icefs.engine.upkeep.fsck import fsck
from icefs.engine.upkeep.garbage import collect_garbage
from icefs.engine.write.repository import WritableRepository
from icefs.storage.local.store import LocalStorage

icechunk.set_logs_filter("off")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A repository in which two sessions have replaced the array `a`: the attribute tells which one an array is of."""
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "dup")))
    session = repo.writable_session("main")
    for name in "ab":
        zarr.create_array(session.store, name=name, shape=(4,), chunks=(1,), dtype="i4")[:] = 1
    session.commit("base")
    ours, theirs = repo.writable_session("main"), repo.writable_session("main")
    for session, who in ((ours, "ours"), (theirs, "theirs")):
        attributes = {"who": who}
        zarr.create_array(
            session.store, name="a", overwrite=True, shape=(8,), dtype="f8", chunks=(4,), attributes=attributes
        )
    theirs.commit("theirs")
    ours.rebase(icechunk.ConflictDetector())
    ours.commit("ours")
    return tmp_path / "dup"


def official(path: Path) -> icechunk.Repository:
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(path)))


def run(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    assert main(list(arguments)) == code
    return capsys.readouterr().out


def test_all_commands_read_it(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = run(capsys, 0, "ls", str(path)).split()
    assert sorted(name.strip("/") for name in listed) == ["a", "b"]
    shown = json.loads(run(capsys, 0, "cat", str(path), "a/zarr.json"))
    assert shown["attributes"] == {"who": "ours"}
    run(capsys, 0, "stats", str(path))
    run(capsys, 0, "export", str(path), str(tmp_path / "out"))
    assert np.all(zarr.open_array(str(tmp_path / "out" / "b"), mode="r")[:] == 1)
    said = run(capsys, 4, "fsck", str(path))
    assert said.count("several nodes at /a") == 1
    assert "icefs branch reset" in said
    before = len(list((path / "snapshots").iterdir()))
    run(capsys, 0, "gc", str(path), "--older-than", "0s", "--force")
    assert len(list((path / "snapshots").iterdir())) == before


@pytest.mark.parametrize("how", ["any commit", "deleted"])
def test_a_commit_mends_it(path: Path, how: str) -> None:
    repository = WritableRepository.open(LocalStorage(path))
    session = repository.writable_session("main")
    if how == "deleted":
        session.nodes.delete("/a")
    else:
        session.nodes.put("/c", b'{"zarr_format":3,"node_type":"group","attributes":{}}')
    made = session.commit("mended")
    assert not [one for one in fsck(repository.storage).findings if one.key.endswith(str(made))]
    group = zarr.open_group(official(path).readonly_session("main").store, mode="r")
    assert sorted(group.array_keys()) == (["b"] if how == "deleted" else ["a", "b"])
    assert np.all(group["b"][:] == 1)
    if how != "deleted":
        assert group["a"].attrs["who"] == "ours"
    old = official(path).readonly_session(snapshot_id=str(next(iter(repository.ancestry(branch="main"))).parent_id))
    assert zarr.open_array(old.store, path="a", mode="r").attrs["who"] in ("ours", "theirs")


def test_it_can_be_expired_and_collected(path: Path) -> None:
    repository = WritableRepository.open(LocalStorage(path))
    with repository.transaction("main", message="mended") as session:
        session.nodes.delete("/a")
    official(path).expire_snapshots(_soon())
    collect_garbage(repository, system_clock() + 60_000_000)
    assert fsck(repository.storage).status == "clean"


def _soon() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=1)
