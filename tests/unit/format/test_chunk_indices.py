"""Sorted chunk indices: many are found as each alone is."""

import itertools
import random

import numpy as np
import pytest

from icefs.format.chunk_indices import MAX_COORDINATE, ChunkIndices


@pytest.mark.parametrize("top", [9, MAX_COORDINATE])
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 7, 400])
def test_many_indices_are_found_as_each_alone(top: int, ndim: int, count: int) -> None:
    rng = random.Random(f"{top} {ndim} {count}")
    values = sorted({0, 1, top - 1, top, *(rng.randint(0, top) for _ in range(400 if ndim == 1 else 8))})
    every = list(itertools.product(values, repeat=ndim))
    indices = ChunkIndices.from_indices(ndim, rng.sample(every, min(count, len(every) // 2)))
    for asked_for in (0, 1, 5, 300):
        asked = [rng.choice(every) for _ in range(asked_for)]
        columns = [np.array([index[axis] for index in asked], np.uint32) for axis in range(ndim)]
        assert indices.find_many(columns).tolist() == [indices.find(index) for index in asked]
    assert indices.find_many(indices.coords).tolist() == list(range(len(indices)))
