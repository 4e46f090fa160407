"""Numbers of files that were replaced long ago are forgotten, and stay stale; those in use stay as they are."""

from types import SimpleNamespace

import numpy as np
import pytest

from icefs.format.ids import NodeId
from icefs.vfs.inodes.history import ChunkEpochs
from icefs.vfs.inodes.numbers import ArrayNumbers, ChunkRange, NodeKey, NodeNumbers
from icefs.vfs.inodes.table import BitLayout, InodeSpace

TREE = SimpleNamespace()
OTHER = SimpleNamespace()


def columns(*index: int) -> tuple[np.ndarray, ...]:
    return tuple(np.array([one], np.uint32) for one in index)


def test_ranges_are_dropped_one_by_one_and_never_given_again() -> None:
    space = InodeSpace()
    ranges = [space.reserve(10, TREE, number) for number in range(20)]
    kept = space.reserve(10, OTHER, "other")
    space.drop_ranges(TREE, ranges[::2])
    space.check_invariants()
    assert len(space) == 11
    assert all(space.find(one.start) is None for one in ranges[::2])
    assert [space.find(one.start + 9).content for one in ranges[1::2]] == list(range(1, 20, 2))
    assert space.ranges_of(TREE) == ranges[1::2]
    space.drop_ranges(TREE, [kept])  # which is another tree's
    assert space.find(kept.start) is kept
    assert space.reserve(10, TREE, None).start >= kept.end
    space.drop(TREE)
    space.check_invariants()
    assert len(space) == 1
    assert space.ranges_of(TREE) == []


def test_metadata_files_of_old_epochs_are_forgotten_unless_used() -> None:
    numbers = NodeNumbers(InodeSpace(), TREE)
    inos = [numbers.number(NodeKey("/a", epoch)) for epoch in range(5)]
    directory = numbers.number(NodeKey("/a", None))
    numbers.forget(lambda key: key.epoch != 4, {inos[1]})
    numbers.check_invariants()
    assert [numbers.key(ino) is None for ino in inos] == [True, False, True, True, False]
    assert numbers.key(directory) == NodeKey("/a", None)
    assert numbers.number(NodeKey("/a", 5)) not in {*inos, directory}
    assert numbers.number(NodeKey("/a", 0)) not in {*inos, directory}
    numbers.check_invariants()


def test_epochs_that_no_chunk_is_of_are_not_live() -> None:
    epochs = ChunkEpochs()
    epochs.change(columns(0, 0), 1)
    epochs.change(columns(0, 1), 2)
    assert epochs.live() == {0, 1, 2}
    epochs.change(columns(0, 0), 3)
    assert epochs.live() == {0, 2, 3}
    epochs.change_all(4)
    assert epochs.live() == {0, 4}


def test_an_array_whose_range_was_dropped_gets_another() -> None:
    space = InodeSpace()
    numbers = ArrayNumbers(space, TREE, "/a", NodeId(bytes(8)), may_grow=True)
    numbers.fit((4, 4))
    first = numbers.number((1, 1), 1)
    [one] = [one for one in space.ranges_of(TREE) if isinstance(one.content, ChunkRange)]
    assert isinstance(one.content.layout, BitLayout)
    numbers.forget(1)
    assert numbers.is_unused
    space.drop_ranges(TREE, [one])
    assert space.find(first) is None
    assert numbers.number((1, 1), 1) != first


@pytest.mark.parametrize("count", [1, 100])
def test_finding_goes_on_while_ranges_come_and_go(count: int) -> None:
    space = InodeSpace()
    root = space.reserve_root(TREE, "root")
    for _ in range(count):
        ranges = [space.reserve(4, OTHER, None) for _ in range(8)]
        space.drop_ranges(OTHER, ranges)
        assert space.find(1) is root
    space.check_invariants()
    assert len(space) == 1
