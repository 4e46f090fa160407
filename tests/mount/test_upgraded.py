"""A mounted repository of spec version 1 that somebody upgrades: nothing is committed unseen, and nothing is lost."""

import errno
import json
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr

from icefs.daemon.options import MountOptions
from icefs.daemon.spawn import spawn
from icefs.engine.upkeep.migrate import upgrade
from icefs.engine.write.repository import WritableRepository
from icefs.storage.local.store import LocalStorage
from tests.support.mounting import Mount, mounted, require_fuse


def make(path: Path) -> None:
    repository = WritableRepository.create(LocalStorage(path), spec_version=1)
    with repository.transaction("main", message="base") as session:
        session.nodes.put("/", b'{"zarr_format":3,"node_type":"group","attributes":{}}')


def write(mount: Path, value: int) -> None:
    group = zarr.open_group(str(mount), mode="a")
    group.create_array("a", shape=(4,), chunks=(2,), dtype="i4", compressors=None, fill_value=0)[:] = value


@pytest.mark.parametrize("keep", [False, True], ids=["deleted", "kept"])
def test_a_mount_says_so_and_keeps_its_changes(tmp_path: Path, keep: bool) -> None:
    require_fuse()
    repo, state = tmp_path / "repo", str(tmp_path / "state")
    make(repo)
    with mounted(repo, branch="main", state_dir=state, may_complain=True) as mount:
        write(mount.path, 7)
        upgrade(WritableRepository.open(LocalStorage(repo)), delete_unused_v1_files=not keep)
        before = {path.relative_to(repo) for path in repo.glob("refs/**/*")}
        with pytest.raises(OSError) as failure:
            (mount.path / ".icefs/commit").write_text("hours of work")
        assert failure.value.errno == errno.ESTALE
        said = json.loads((mount.path / ".icefs/commit").read_text())
        assert "was upgraded to spec version 2" in said["message"]
        assert "mount it again" in said["hint"]
        [refused] = mount.rpc({"op": "refresh"})
        assert "was upgraded to spec version 2" in refused["message"]
        assert "was upgraded to spec version 2" in (mount.path / ".icefs/status").read_text()
        assert {path.relative_to(repo) for path in repo.glob("refs/**/*")} == before
        assert mount.unmount() == 0
        options = MountOptions(
            repository=str(repo),
            mountpoint=str(mount.path),
            branch="main",
            state_dir=state,
            log_file=str(mount.log),
            poll_interval_s=0.0,
        )
        again = Mount(mount.path, spawn(options), mount.log)
        try:
            assert np.all(zarr.open_array(str(again.path / "a"))[:] == 7)
            (again.path / ".icefs/commit").write_text("hours of work")
        finally:
            assert again.unmount() == 0
    official = icechunk.Repository.open(icechunk.local_filesystem_storage(str(repo)))
    assert np.all(zarr.open_group(official.readonly_session("main").store, mode="r")["a"][:] == 7)
    assert [each.message for each in official.ancestry(branch="main")][:2] == ["hours of work", "base"]
