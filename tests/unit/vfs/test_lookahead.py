"""In which order chunks are opened, and which come next."""

import itertools
import random

import pytest
import trio

from icefs.format.ids import ChunkId
from icefs.format.layout import chunk_key
from icefs.format.manifest.refs import NativeRef
from icefs.storage.memory import MemoryStorage
from icefs.vfs.chunks.lookahead import Walks
from tests.support.repo_builder import RepoBuilder
from tests.support.vfs_driver import mounted

GRID = (6, 8, 10)


def foreseen_share(order, grid=GRID, ahead=4):
    """Returns which share of the opens was foreseen, for walks with a step."""
    walks, hits = Walks(), 0
    for index in order:
        hits += index in walks._foreseen
        walk = walks.note(index)
        if walk is not None and walk.step is not None:
            walks.foresee(walk, walk.next_indices(ahead - len(walk.foreseen), grid))
    return hits / len(order)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("step", [1, -1, 2, -3])
def test_a_walk_along_any_axis_is_foreseen(axis, step):
    positions = range(40) if step > 0 else range(39, -1, -1)
    order = [tuple(at if number == axis else 3 for number in range(3)) for at in positions[:: abs(step)]]
    assert foreseen_share(order, (40, 40, 40)) >= 1 - 2.01 / len(order)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_walks_line_by_line_are_foreseen(axes):
    """Through the whole array, with any axis as the innermost: only the first lines and planes surprise."""
    order = []
    for position in itertools.product(*(range(GRID[axis]) for axis in axes)):
        index = [0, 0, 0]
        for axis, at in zip(axes, position, strict=True):
            index[axis] = at
        order.append(tuple(index))
    assert foreseen_share(order) > 0.8


def test_several_walks_at_once():
    lines = [[(at, line) for at in range(50)] for line in (0, 20, 40)]
    order = [index for together in zip(*lines, strict=True) for index in together]
    assert foreseen_share(order, (50, 50)) > 0.9


def test_threads_that_share_the_work():
    """Slightly out of order."""
    chosen = random.Random(1)
    order = [(at,) for at in range(200)]
    for start in range(0, 200, 4):
        part = order[start : start + 4]
        chosen.shuffle(part)
        order[start : start + 4] = part
    assert foreseen_share(order, (200,), ahead=8) > 0.6


def test_random_opens_foresee_little_and_nothing_outside():
    chosen = random.Random(2)
    order = [(chosen.randrange(100), chosen.randrange(100)) for _ in range(500)]
    assert foreseen_share(order, (100, 100)) < 0.02
    walks = Walks()
    walks.note((0,))
    walk = walks.note((1,))
    assert walk.next_indices(10, (4,)) == [(2,), (3,)]


async def reads_of(driver, paths):
    for path in paths:
        await driver.read(path)
    await trio.testing.wait_all_tasks_blocked(0.05)


@pytest.mark.parametrize("axis", [0, 1])
async def test_chunks_are_fetched_ahead_along_both_axes(axis):
    builder = RepoBuilder()
    refs = {(i, j): builder.chunk(bytes([i, j])) for i in range(12) for j in range(12)}
    builder.commit([builder.array("/a", 1, (12, 12), refs)])
    async with mounted(builder.publish(), branch="main") as driver:
        asked = []
        original = driver.mount.repository.assets.read_chunk_object

        def note(chunk_id, start, end):
            asked.append(chunk_id)
            return original(chunk_id, start, end)

        driver.mount.repository.assets.read_chunk_object = note
        line = [(at, 5) if axis == 0 else (5, at) for at in range(12)]
        for index in line[:5]:
            assert await driver.read(f"a/c/{index[0]}/{index[1]}") == bytes(index)
        await trio.testing.wait_all_tasks_blocked(0.05)
        ids = [refs[index].chunk_id for index in line]
        assert set(asked) >= set(ids[:9])
        assert len(asked) == len(set(asked))
        for index in line:
            assert await driver.read(f"a/c/{index[0]}/{index[1]}") == bytes(index)
        assert len(asked) == len(set(asked))


class Counted(MemoryStorage):
    """Counts requests for chunks."""

    def __init__(self):
        super().__init__("")
        self.reads = []

    def get(self, key, *, start=0, end=None):
        if key.startswith("chunks/"):
            self.reads.append((start, end))
        return super().get(key, start=start, end=end)


async def test_neighbours_that_share_an_object_come_in_few_requests():
    builder, packed = RepoBuilder(Counted()), ChunkId(b"packed......")
    data = random.Random(3).randbytes(2000 * 1024)
    builder.storage.put(chunk_key(packed), data)
    refs = {(at,): NativeRef(packed, at * 1024, 1024) for at in range(2000)}
    builder.commit([builder.array("/a", 1, (2000,), refs)])
    storage = builder.publish()
    async with mounted(storage, branch="main") as driver:
        for at in range(2000):
            assert await driver.read(f"a/c/{at}") == data[at * 1024 :][:1024]
        assert len(storage.reads) <= 20
        assert sum(end - start for start, end in storage.reads) == len(data)
        driver.mount.fetcher.check_invariants()


async def test_a_failure_ahead_is_a_failure_of_those_chunks_alone():
    builder, packed = RepoBuilder(Counted()), ChunkId(b"packed......")
    data = random.Random(3).randbytes(100 * 1024)
    builder.storage.put(chunk_key(packed), data)
    refs = {(at,): NativeRef(packed, at * 1024, 1024) for at in range(200)}
    builder.commit([builder.array("/a", 1, (200,), refs)])
    async with mounted(builder.publish(), branch="main") as driver:
        for at in range(100):
            assert await driver.read(f"a/c/{at}") == data[at * 1024 :][:1024]
        with pytest.raises(Exception, match="bytes"):
            await driver.read("a/c/100")
