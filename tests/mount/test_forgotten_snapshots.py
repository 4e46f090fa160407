"""Snapshots that somebody once looked into go from a mount, one after another, as others are looked into."""

import icechunk

from icefs.daemon.options import MountOptions
from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.conformance.official import GROUP, commit
from tests.support.mounting import Mount, require_fuse, run_daemon, scratch_directory, unmount, wait_until
from tests.support.soaking import ARRAY

FEW = """
import icefs.vfs.refs.loaded_trees
icefs.vfs.refs.loaded_trees.MAX_LOADED = 3
"""


def ranges(mount: Mount) -> int:
    text = (mount / ".icefs/metrics").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("icefs_inode_ranges")]
    return int(float(line.split()[-1]))


def test_a_snapshot_that_was_looked_into_long_ago_is_forgotten_but_for_what_is_open(tmp_path):
    require_fuse()
    WritableRepository.create(open_storage(str(tmp_path / "repo"))).close()
    official = icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
    ids = [
        commit(official, f"commit {number}", {"zarr.json": GROUP, "a/zarr.json": ARRAY, "a/c/0/0": bytes([number])})
        for number in range(30)
    ]
    with scratch_directory() as scratch:
        place, log = tmp_path / "mnt", tmp_path / "log"
        place.mkdir()
        options = MountOptions(
            repository=str(tmp_path / "repo"), mountpoint=str(place), poll_interval_s=0, state_dir=scratch,
            foreground=True,
        )  # fmt: skip
        daemon = run_daemon(FEW, options, log)
        try:
            mount = Mount(place, daemon.pid, log)
            with open(place / "snapshots" / ids[0] / "a/c/0/0", "rb", buffering=0) as held:
                for number, snapshot in enumerate(ids):
                    assert (place / "snapshots" / snapshot / "a/c/0/0").read_bytes() == bytes([number])
                # Each has some ranges of numbers of its own.
                wait_until(lambda: ranges(mount) < 30, "forgetting snapshots")
                assert held.read() == bytes([0])
            for number, snapshot in enumerate(ids):
                assert (place / "snapshots" / snapshot / "a/c/0/0").read_bytes() == bytes([number])
        finally:
            unmount(place)
            assert daemon.wait(timeout=30) == 0, log.read_text()
