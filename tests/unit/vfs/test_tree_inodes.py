"""The numbers and times of a tree, whichever snapshot it shows; no snapshot is read."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from icefs.format.ids import NodeId, SnapshotId
from icefs.paths import ROOT_NODE, NodePath
from icefs.vfs.inodes.numbers import NodeKey
from icefs.vfs.inodes.table import InodeSpace
from icefs.vfs.inodes.tree_inodes import TreeInodes

OWNER: Any = SimpleNamespace()
SNAPSHOT = SnapshotId(bytes(12))
NODE = NodeId(b"\1" * 8)
A = NodePath("/a")


def inodes_at(flushed_at: int = 5, space: InodeSpace | None = None) -> TreeInodes:
    return TreeInodes(
        InodeSpace() if space is None else space, OWNER, None, SNAPSHOT, flushed_at, is_root=False, may_grow=True
    )


def column(*indices: int) -> tuple[Any]:
    return (np.array(indices, np.uint32),)


def test_what_did_not_change_keeps_number_and_time_and_what_did_gets_others() -> None:
    inodes = inodes_at()
    before = inodes.directory(A), inodes.metadata_file(A, NODE)
    assert [time_ns for _, time_ns in before] == [5000, 5000]
    epoch = inodes.history.begin(9)
    inodes.history.change_dirs([ROOT_NODE, A], epoch)
    assert inodes.metadata_file(A, NODE) == before[1]
    directory = inodes.directory(A)
    assert directory == (before[0][0], 9000)
    inodes.history.change_files([A], epoch)
    changed = inodes.metadata_file(A, NODE)
    assert changed[0] != before[1][0]
    assert changed[1] == 9000
    key = inodes.nodes.key(before[1][0])
    assert key is not None
    assert not inodes.is_current(key)
    # A file that was opened before has the time that it had.
    assert inodes.time_of_open_ns(before[1][0]) == 5000
    inodes.check_invariants()


def test_a_chunk_that_changed_has_another_number() -> None:
    inodes = inodes_at()
    numbers = inodes.array(A, NODE)
    numbers.fit((8,))
    before = [inodes.chunk(numbers, NODE, (index,)) for index in range(3)]
    epoch = inodes.history.begin(9)
    inodes.history.change_chunks(NODE).change(column(1), epoch)
    after = [inodes.chunk(numbers, NODE, (index,)) for index in range(3)]
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1][0] != before[1][0]
    assert after[1][1] == 9000
    assert inodes.chunk_epoch(NODE, (1,)) == epoch
    assert inodes.time_of_open_ns(before[1][0]) == 5000
    assert inodes.time_of_open_ns(after[1][0]) == 9000


def test_numbers_outlive_the_history_that_is_begun_again() -> None:
    inodes = inodes_at()
    before = inodes.directory(A)
    inodes.begin(SNAPSHOT, 7)
    assert inodes.directory(A) == (before[0], 7000)
    assert inodes.known_directory("/b") is None
    assert inodes.known_directory("/") == inodes.root_ino


def test_a_tree_is_untouched_until_something_below_its_root_has_a_number() -> None:
    inodes = inodes_at()
    inodes.directory(ROOT_NODE)
    assert inodes.is_untouched
    inodes.directory(A)
    assert not inodes.is_untouched


def test_a_renamed_node_takes_its_numbers_and_times_along() -> None:
    inodes = inodes_at()
    directory, file = inodes.directory(A), inodes.metadata_file(A, NODE)
    epoch = inodes.history.begin(9)
    inodes.history.change_files(["/a", "/b"], epoch)
    key = NodeKey("/b", epoch)
    inodes.rename_nodes({NodeKey("/a", None): NodeKey("/b", None)}, {NodeKey("/a", 0): (key, file[1])})
    assert inodes.directory(NodePath("/b"))[0] == directory[0]
    assert inodes.metadata_file(NodePath("/b"), NODE) == file
    assert inodes.known_time_ns(key) == file[1]
    assert inodes.directory(A)[0] != directory[0]
    inodes.check_invariants()


def test_ranges_of_replaced_chunks_are_forgotten_but_for_those_in_use() -> None:
    space = InodeSpace()
    inodes = inodes_at(space=space)
    numbers = inodes.array(A, NODE)
    numbers.fit((4,))
    replaced = []
    for moment in range(300):
        epoch = inodes.history.begin(10 + moment)
        inodes.history.change_chunks(NODE).change(column(0), epoch)
        replaced.append(inodes.chunk(numbers, NODE, (0,))[0])
    present = replaced.pop()
    inodes.tidy(lambda: None, lambda path, node_id: True)
    assert all(space.find(ino) is not None for ino in replaced)
    inodes.tidy(lambda: [replaced[7]], lambda path, node_id: True)
    assert [ino for ino in replaced if space.find(ino) is not None] == [replaced[7]]
    assert inodes.chunk(numbers, NODE, (0,))[0] == present
    inodes.check_invariants()
