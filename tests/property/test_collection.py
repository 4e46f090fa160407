"""Collection and the programs at work: a commit can be read, or it is refused and keeps its changes.

The interleavings are drawn by seed (`tests/support/collecting.py`). `ICEFS_SOAK=1` runs many more of them.
"""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import icechunk
import pytest

from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from tests.support.collecting import World, run_uploads
from tests.support.soak import depth

SEEDS = range(depth(8, 400))
STEPS = 40

icechunk.set_logs_filter("off")


def official(path: Path):
    def collect(cutoff: int) -> None:
        when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=cutoff)
        icechunk.Repository.open(icechunk.local_filesystem_storage(str(path))).garbage_collect(when)

    return collect


def official_expire(path: Path):
    def expire(cutoff: int) -> None:
        when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=cutoff)
        icechunk.Repository.open(icechunk.local_filesystem_storage(str(path))).expire_snapshots(when)

    return expire


@pytest.mark.parametrize("spec_version", [2, 1])
@pytest.mark.parametrize("seed", SEEDS)
def test_commits_can_be_read_with_any_collector(tmp_path: Path, seed: int, spec_version: int) -> None:
    path = tmp_path / "repo"
    storage = LocalStorage(path, durable=False)
    world = World(
        storage,
        random.Random(seed),
        tmp_path,
        spec_version=spec_version,
        collect_officially=official(path),
        expire_officially=official_expire(path),
    )
    world.run(STEPS)
    storage.close()


@pytest.mark.parametrize("spec_version", [2, 1])
@pytest.mark.parametrize("seed", SEEDS)
def test_commits_can_be_read_in_a_store_of_objects(tmp_path: Path, seed: int, spec_version: int) -> None:
    world = World(MemoryStorage(), random.Random(seed), tmp_path, spec_version=spec_version)
    world.run(STEPS)


def test_the_cases_have_refusals(tmp_path: Path) -> None:
    refused = 0
    for seed in range(10):
        world = World(MemoryStorage(), random.Random(seed), tmp_path / str(seed))
        world.run(STEPS)
        refused += world.refused
    assert refused


def test_the_cases_have_stale_handles(tmp_path: Path) -> None:
    upgraded = stale = 0
    for seed in range(10):
        world = World(MemoryStorage(), random.Random(seed), tmp_path / str(seed), spec_version=1)
        world.run(STEPS)
        upgraded += world.upgraded
        stale += world.stale
    assert upgraded
    assert stale > 6 * upgraded


@pytest.mark.parametrize("spec_version", [2, 1])
@pytest.mark.parametrize("seed", SEEDS)
def test_uploads_in_the_background_are_made_again(tmp_path: Path, seed: int, spec_version: int) -> None:
    run_uploads(MemoryStorage(), random.Random(seed), tmp_path / "state", STEPS, spec_version=spec_version)
