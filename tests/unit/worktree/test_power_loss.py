"""Power is lost after an fsync: synced files are there with their bytes, and nothing keeps the tree from opening."""

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from icefs.errors import StorageError
from icefs.worktree.tree import WorkTree
from tests.support.dict_base import Snapshots
from tests.support.killing_power import PowerDisk
from tests.support.tree_driver import Driver, open_tree, options

BASE = {"zarr.json": b"root", "a/zarr.json": b"{}", "a/c/0": b"chunk 0", "a/c/1": b"chunk 1"}


def write(driver: Driver, path: str, data: bytes, *, is_synced: bool) -> None:
    handle = driver.open(path, os.O_WRONLY | os.O_CREAT)
    driver.tree.files.write(handle, 0, data)
    if is_synced:
        driver.tree.files.fsync(handle)
    driver.close(handle)


def check(image: Path, synced: dict[str, bytes | None], closed: dict[str, set[bytes]]) -> None:
    """Opens what is left, and compares it with what was synced (None: removed) and what was only closed."""
    driver = open_tree(image, Snapshots(BASE))
    driver.tree.check_invariants()
    recovery = driver.tree.recovery
    flagged = {*recovery.lost, *recovery.rewritten, *recovery.cut, *recovery.changed}
    for path, data in synced.items():
        if data is None:
            assert not driver.exists(path), path
        else:
            assert driver.read(path) == data, path
            assert path not in flagged
    for path, versions in closed.items():
        try:
            found = driver.read(path) if driver.exists(path) else b""
        except StorageError:
            assert path in driver.tree.recovery.lost
            continue
        assert found in versions or path in flagged, (path, found)
    driver.tree.close()


@pytest.mark.parametrize("seed", range(3))
def test_what_was_synced_survives_power_loss(tmp_path: Path, seed: int) -> None:
    """After each sync, several images of what the disk may hold then are opened."""
    rng = random.Random(seed)
    disk = PowerDisk()
    driver = Driver(
        WorkTree(tmp_path / "state", replace(options(Snapshots(BASE)), io=disk, open_journal=disk.open_journal))
    )
    synced: dict[str, bytes | None] = {}
    closed: dict[str, set[bytes]] = {}
    images = 0
    for number in range(30):
        path = rng.choice(["a/c/0", "a/c/1", "a/c/2", "new", "other"])
        data = b"%d " % number * rng.randrange(1, 400)
        is_synced = rng.random() < 0.5
        kind = rng.random()
        if kind < 0.6:
            # A new file each time: of one written in place, old and new bytes may be mixed.
            temporary = f"{path}.{number}"
            write(driver, temporary, data, is_synced=is_synced)
            driver.rename(temporary, path)
            before = closed.pop(path, {b"", BASE.get(path, b"")}) | {synced.pop(path, None) or b"", data}
            if is_synced:
                driver.tree.names.fsync()
                synced[path] = data
            else:
                closed[path] = before
        elif kind < 0.8 and driver.exists(path):
            driver.unlink(path)
            driver.tree.names.fsync()
            closed.pop(path, None)
            synced[path] = None
        else:
            write(driver, f"seen {number}", data, is_synced=True)
            synced[f"seen {number}"] = data
        driver.tree.check_invariants()
        for _ in range(3):
            images += 1
            disk.lose_power(tmp_path / "state", tmp_path / f"image {images}", rng)
            check(tmp_path / f"image {images}", synced, closed)
    driver.tree.close()
