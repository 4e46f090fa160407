"""Ranges in C order as boxes, pieces of chunks, and blocks: against numpy."""

from math import prod

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from icefs.views.geometry import Geometry, boxes_of_range

SHAPES = st.lists(st.integers(1, 6), max_size=4).map(tuple)


@given(SHAPES, st.data())
def test_boxes_are_the_range_and_few(shape, data):
    numbers = np.arange(prod(shape)).reshape(shape)
    start = data.draw(st.integers(0, numbers.size))
    stop = data.draw(st.integers(start, numbers.size))
    boxes = list(boxes_of_range(shape, start, stop))
    assert len(boxes) <= max(1, 2 * len(shape) - 1)
    found = [numbers[tuple(map(slice, box.low, box.high))] for box in boxes]
    assert [part.shape for part in found] == [box.shape for box in boxes]
    assert [number for part in found for number in part.ravel()] == list(range(start, stop))


@given(SHAPES, st.data())
def test_pieces_cover_each_box_once(shape, data):
    chunk_shape = data.draw(st.tuples(*(st.integers(1, 7) for _ in shape)))
    numbers = np.arange(prod(shape)).reshape(shape)
    geometry = Geometry(shape, chunk_shape)
    start = data.draw(st.integers(0, numbers.size - 1))
    boxes = list(boxes_of_range(shape, start, numbers.size))
    views = [np.zeros(box.shape, int) for box in boxes]
    found = geometry.pieces(boxes)
    assert geometry.count_pieces(boxes) == sum(map(len, found.values()))
    for index, pieces in found.items():
        chunk = np.full(chunk_shape, -1)
        inside = numbers[tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, chunk_shape, strict=True))]
        chunk[tuple(slice(length) for length in inside.shape)] = inside
        for piece in pieces:
            views[piece.box][piece.in_box] += chunk[piece.in_chunk]
    assert [number for view in views for number in view.ravel()] == list(range(start, numbers.size))


@given(SHAPES, st.data())
def test_blocks_follow_each_other_and_need_no_chunk_of_another(shape, data):
    chunk_shape = data.draw(st.tuples(*(st.integers(1, 7) for _ in shape)))
    geometry = Geometry(shape, chunk_shape)
    position, seen = 0, set()
    while position < geometry.size:
        low, high = geometry.block_range(position)
        assert low == position < high
        assert geometry.block_range(high - 1) == (low, high)
        indices = list(geometry.block_indices(position))
        assert indices == list(geometry.block_indices(high - 1)) == sorted(set(indices))
        assert len(indices) <= geometry.block_chunks
        assert high - low <= geometry.block_size
        assert set(indices) == set(geometry.pieces(list(boxes_of_range(shape, low, high))))
        assert not seen & set(indices)
        seen |= set(indices)
        position = high
    assert len(seen) == prod(geometry.grid)


def test_linear_arrays():
    linear = [((10,), (3,)), ((4, 6), (2, 6)), ((4, 6, 2), (1, 3, 2)), ((), ()), ((5, 1), (2, 1))]
    others = [((4, 6), (2, 3)), ((4, 6), (2, 7)), ((4, 6, 2), (1, 3, 1))]
    assert [Geometry(*shapes).is_linear for shapes in linear + others] == [True] * 5 + [False] * 3
    assert Geometry((5, 100, 100), (1, 10, 10)).block_chunks == 10
    assert Geometry((5, 100, 100), (1, 10, 100)).block_chunks == 1
    assert Geometry((5, 100, 100), (2, 10, 100)).block_chunks == 10
