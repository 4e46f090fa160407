import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icefs.errors import InternalError, StaleError
from icefs.vfs.inodes.table import BitLayout, InodeSpace

TREE = object()


def test_ranges_are_disjoint_and_found_again():
    space = InodeSpace()
    space.reserve_root(TREE, "root")
    ranges = [space.reserve(size, TREE, size) for size in (1, 5, 1 << 40)]
    for one in ranges:
        assert space.find(one.start) is one
        assert space.find(one.end - 1) is one
    assert space.find(1).content == "root"
    assert space.find(ranges[-1].end) is None
    assert space.find(0) is None
    assert space.tree_of(1) is space.find(1).tree
    for nobodys in (ranges[-1].end, 0):
        with pytest.raises(StaleError):
            space.tree_of(nobodys)
    space.check_invariants()


def test_dropped_numbers_are_nobodys_and_are_not_handed_out_again():
    space = InodeSpace()
    other = object()
    kept = space.reserve(10, TREE, None)
    dropped = space.reserve(10, other, None)
    space.drop(other)
    assert space.find(dropped.start) is None
    assert space.find(kept.start) is kept
    assert space.reserve(1, TREE, None).start >= dropped.end
    space.check_invariants()


def test_running_out_is_an_error_and_not_a_wrap_around():
    space = InodeSpace()
    space.reserve(1 << 62, TREE, None)
    with pytest.raises(InternalError):
        space.reserve(1 << 62, TREE, None)


def test_a_small_array_has_room_to_double():
    layout = BitLayout.for_grid((10, 1), may_grow=True)
    assert layout.fits_grid((32, 4))
    assert not layout.fits_grid((33, 4))
    assert BitLayout.for_grid((10, 1), may_grow=False).fits_grid((16, 2))


def test_a_huge_grid_has_no_layout():
    assert BitLayout.for_grid((2**32 - 1, 2**32 - 1), may_grow=False) is None


def test_a_scalar_has_a_layout():
    layout = BitLayout.for_grid((), may_grow=True)
    assert layout.unpack(layout.pack(())) == ()
    assert layout.pack_columns([]).tolist() == [layout.pack(())]


@given(st.data())
def test_packing_is_a_bijection_over_all_depths(data):
    shape = data.draw(st.lists(st.integers(1, 2**12), min_size=0, max_size=4))
    layout = BitLayout.for_grid(shape, may_grow=data.draw(st.booleans()))
    depth = data.draw(st.integers(0, len(shape)))
    prefix = tuple(data.draw(st.integers(0, size - 1)) for size in shape[:depth])
    assert layout.fits(prefix)
    number = layout.pack(prefix)
    assert 0 <= number < layout.size
    assert layout.unpack(number) == prefix


@given(st.data())
def test_columns_pack_like_single_indices(data):
    shape = data.draw(st.lists(st.integers(1, 2**12), min_size=1, max_size=4))
    layout = BitLayout.for_grid(shape, may_grow=True)
    rows = data.draw(st.lists(st.tuples(*(st.integers(0, size - 1) for size in shape)), min_size=1, max_size=8))
    columns = [np.array(column, np.uint32) for column in zip(*rows, strict=True)]
    assert layout.pack_columns(columns).tolist() == [layout.pack(row) for row in rows]
    parents = [layout.pack(row[:-1]) for row in rows]
    assert layout.pack_columns(columns[:-1]).tolist() == (parents if len(shape) > 1 else parents[:1])
