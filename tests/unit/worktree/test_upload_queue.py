"""The queue of uploads by itself: packs of neighbours, each file once, and batches that fail."""

from icefs.paths import TreePath
from icefs.worktree.upload.queue import Upload, UploadQueue

PACK = 10_000
SMALL = 1000


def upload(number: int, size: int = SMALL, path: str | None = None) -> Upload:
    return Upload(number, 1, size, TreePath(path or f"a/c/0/{number}"), f"/spool/{number}")


def drained(queue: UploadQueue) -> list[list[int]]:
    """Begins and ends every batch that waits; returns their spool ids."""
    found = []
    while (batch := queue.begin()) is not None:
        found.append([one.spool_id for one in batch])
        queue.end(batch)
    return found


def test_a_large_file_is_a_batch_of_its_own() -> None:
    queue = UploadQueue(PACK)
    queue.add([upload(1, PACK), upload(2, PACK)])
    assert (queue.num_waiting, queue.num_running) == (2, 0)
    assert drained(queue) == [[1], [2]]


def test_without_packs_every_file_is_a_batch() -> None:
    queue = UploadQueue(0)
    queue.add([upload(1, 1), upload(2, 1)])
    assert drained(queue) == [[1], [2]]


def test_small_files_wait_until_they_fill_an_object_and_more() -> None:
    queue = UploadQueue(PACK)
    queue.add(map(upload, range(19)))
    assert queue.begin() is None
    assert len(list(queue)) == 19
    queue.add([upload(19)])
    assert drained(queue) == [list(range(10))]
    assert sorted(one.spool_id for one in queue) == list(range(10, 20))


def test_neighbours_are_those_of_the_chunk_grid() -> None:
    queue = UploadQueue(PACK)
    queue.add(upload(number, path=f"a/c/{number // 3}/{number}") for number in reversed(range(20)))
    assert drained(queue) == [list(range(10))]


def test_arrays_do_not_share_objects() -> None:
    queue = UploadQueue(PACK)
    queue.add(upload(number, path=f"{'ab'[number % 2]}/c/{number}") for number in range(38))
    assert drained(queue) == []
    queue.add([upload(38, path="a/c/38")])
    assert drained(queue) == [list(range(0, 20, 2))]


def test_a_file_is_queued_once() -> None:
    queue = UploadQueue(PACK)
    queue.add([upload(1), upload(1), upload(2, PACK), upload(2, PACK)])
    queue.add([upload(1), upload(2, PACK)])
    assert sorted(one.spool_id for one in queue) == [1, 2]
    batch = queue.begin()
    assert batch is not None
    queue.add([upload(2, PACK)])
    assert (queue.num_waiting, queue.num_running) == (0, 1)
    queue.end(batch)
    queue.add([upload(2, PACK)])  # once it is neither waiting nor under way, its owner decides
    assert queue.num_waiting == 1


def test_a_batch_that_failed_waits_again_without_files_that_are_gone() -> None:
    queue = UploadQueue(PACK)
    queue.add(map(upload, range(20)))
    batch = queue.begin()
    assert batch is not None
    queue.put_back(batch, lambda one: one.spool_id != 3)
    assert queue.num_running == 0
    queue.add([upload(4)])  # waits already
    queue.add([upload(3)])  # was dropped, and is there again
    assert drained(queue) == [[0, 1, 2, 4, 5, 6, 7, 8, 9]]
    again = UploadQueue(PACK)
    again.add([upload(1, PACK)])
    batch = again.begin()
    assert batch is not None
    again.put_back(batch, lambda one: False)
    assert (again.num_waiting, list(again)) == (0, [])


def test_unwanted_files_are_dropped_wherever_they_wait() -> None:
    queue = UploadQueue(PACK)
    queue.add([upload(1), upload(2), upload(3, path="b/c/0"), upload(4, PACK), upload(5, PACK)])
    queue.keep(lambda one: one.spool_id in {2, 5})
    assert sorted(one.spool_id for one in queue) == [2, 5]
    queue.add([upload(4, PACK)])
    assert drained(queue) == [[5], [4]]
