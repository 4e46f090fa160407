import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from icefs.format.ids import NodeId
from icefs.vfs.inodes.history import ChunkEpochs, History

INDICES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), max_size=12)
WIDE = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)), min_size=1, max_size=3)


def columns(indices):
    rows = np.array(indices, np.uint32).reshape(-1, 2)
    return [rows[:, 0].copy(), rows[:, 1].copy()]


@given(st.lists(INDICES, max_size=5), st.lists(st.tuples(st.integers(0, 50), st.integers(0, 12)), min_size=1))
def test_chunk_epochs_agree_with_a_dictionary(changes, questions):
    account, model = ChunkEpochs(), {}
    for epoch, indices in enumerate(changes, start=1):
        account.change(columns(indices), epoch)
        model.update(dict.fromkeys(indices, epoch))
        account.check_invariants()
    assert [account.of(index) for index in questions] == [model.get(index, 0) for index in questions]
    everywhere = account.of_all(columns(questions))
    assert (everywhere is None and not model) or everywhere.tolist() == [model.get(i, 0) for i in questions]
    for first in {index[0] for index in questions}:
        expected = max((epoch for index, epoch in model.items() if index[0] == first), default=0)
        assert account.newest_below((first,)) == expected
    assert account.newest_below(()) == max(model.values(), default=0)


@given(WIDE)
def test_a_grid_too_wide_to_pack_counts_as_changed_whole(indices):
    account = ChunkEpochs()
    account.change(columns([*indices, (2**32 - 1, 2**32 - 1)]), 3)
    assert account.of((0, 0)) == 3
    assert account.of_all(columns([(0, 0)])) is None
    assert account.newest_below((7,)) == 3


def test_a_scalar_changes_as_a_whole():
    account = ChunkEpochs()
    account.change([], 2)
    assert account.of(()) == 2


def test_change_all_forgets_the_details():
    account = ChunkEpochs()
    account.change(columns([(1, 2)]), 1)
    account.change_all(2)
    assert (account.of((1, 2)), account.of((5, 5)), len(account)) == (2, 2, 0)
    account.change(columns([(1, 2)]), 3)
    assert (account.of((1, 2)), account.of((5, 5))) == (3, 2)


def test_times_are_distinct_even_if_a_branch_returns_to_an_old_snapshot():
    history = History(1_000_000)
    assert history.begin(2_000_000) == 1
    assert history.begin(1_000_000) == 2
    assert len({history.time_ns(epoch) for epoch in range(3)}) == 3
    assert history.time_ns(2) == 1_000_001_000


def test_paths_without_changes_are_of_the_first_epoch():
    history = History(5)
    epoch = history.begin(6)
    history.change_files(["/a"], epoch)
    history.change_dirs(["/a", "/"], epoch)
    assert (history.file_epoch("/a"), history.file_epoch("/b")) == (1, 0)
    assert (history.dir_epoch("/"), history.dir_epoch("/b")) == (1, 0)
    node = NodeId(bytes(8))
    assert history.chunks(node) is None
    history.change_chunks(node).change_all(epoch)
    assert history.chunks(node).of((1,)) == 1
    history.forget_array(node)
    assert history.chunks(node) is None
