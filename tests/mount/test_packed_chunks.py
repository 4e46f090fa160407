"""Small chunks of a commit share objects; the official library reads them, and collects no object that is in use."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr

from icefs.clock import to_micros
from icefs.engine.upkeep.expiration import ExpirationRequest, expire
from icefs.engine.upkeep.garbage import collect_garbage
from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.support.mounting import mounted

SHAPE, CHUNKS = (100, 1280), (1, 640)  # 200 chunks of 5 KiB
DATA = np.random.default_rng(7).random(SHAPE)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    WritableRepository.create(open_storage(str(tmp_path / "repo"))).close()
    return tmp_path / "repo"


def objects(repo: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in (repo / "chunks").iterdir()}


def official(repo: Path) -> icechunk.Repository:
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(repo)))


def read(repo: Path, name: str = "a") -> np.ndarray:
    return zarr.open_group(official(repo).readonly_session("main").store, mode="r")[name][:]


def write_and_commit(repo: Path, state: Path, names: tuple[str, ...] = ("a",), **options: object) -> None:
    with mounted(repo, branch="main", state_dir=str(state), **options) as mount:
        group = zarr.open_group(str(mount.path), mode="a")
        for name in names:
            array = group.create_array(
                name, shape=SHAPE, chunks=CHUNKS, dtype="f8", compressors=None, filters=None, fill_value=0
            )
            array[:] = DATA
        (mount.path / ".icefs/commit").write_text("packed")
        np.testing.assert_array_equal(zarr.open_array(str(mount.path / names[0]))[:], DATA)


def test_the_official_library_reads_packed_chunks(repo: Path, tmp_path: Path) -> None:
    write_and_commit(repo, tmp_path / "state", ("a", "b"), pack_size=256 << 10)
    sizes = objects(repo)
    assert len(sizes) == -(-400 // 51)  # 51 chunks of 5120 bytes fit into 256 KiB
    assert sum(sizes.values()) == 2 * DATA.nbytes
    np.testing.assert_array_equal(read(repo, "a"), DATA)
    np.testing.assert_array_equal(read(repo, "b"), DATA)
    # It commits on top.
    session = official(repo).writable_session("main")
    zarr.open_group(session.store)["a"][50] = 5.0
    session.commit("one row")
    expected = DATA.copy()
    expected[50] = 5.0
    np.testing.assert_array_equal(read(repo), expected)
    np.testing.assert_array_equal(read(repo, "b"), DATA)


def test_packing_can_be_turned_off(repo: Path, tmp_path: Path) -> None:
    write_and_commit(repo, tmp_path / "state", pack_size=0)
    assert list(objects(repo).values()) == [5120] * 200
    np.testing.assert_array_equal(read(repo), DATA)


@pytest.mark.parametrize("collector", ["official", "icefs"])
def test_objects_are_collected_when_none_of_their_chunks_is_referred_to(
    repo: Path, tmp_path: Path, collector: str
) -> None:
    write_and_commit(repo, tmp_path / "state", pack_size=256 << 10)
    packed = set(objects(repo))
    assert len(packed) == 4

    def rewrite(rows: slice) -> None:
        session = official(repo).writable_session("main")
        zarr.open_group(session.store)["a"][rows] = 5.0
        session.commit("rewritten")

    def collect() -> set[str]:
        """Forgets history, collects, and returns what is left of the packed objects."""
        later = datetime.now(UTC) + timedelta(seconds=5)
        if collector == "official":
            official(repo).expire_snapshots(later)
            official(repo).garbage_collect(later)
        else:
            ours = WritableRepository.open(open_storage(str(repo)))
            expire(ours, ExpirationRequest(to_micros(later)))
            collect_garbage(ours, to_micros(later))
            ours.close()
        return packed & set(objects(repo))

    # All but one chunk of each object is rewritten, one way or another; each object stays.
    expected = DATA.copy()
    for rows in (slice(1, 26), slice(27, 52), slice(53, 78), slice(79, 100)):
        rewrite(rows)
        expected[rows] = 5.0
    assert collect() == packed
    np.testing.assert_array_equal(read(repo), expected)
    # Row 0 holds the last of the first object.
    rewrite(slice(0, 1))
    expected[0] = 5.0
    assert len(collect()) == 3
    np.testing.assert_array_equal(read(repo), expected)
    rewrite(slice(0, 100))
    assert collect() == set()
    np.testing.assert_array_equal(read(repo), np.full(SHAPE, 5.0))
