"""What worker processes do with the forks that programs send them; imported there, where pytest is not."""

import warnings
from typing import Any

import numpy as np
import zarr


def write_rows(task: tuple[Any, int]) -> Any:
    """Fills the two rows of the array `data` that a worker is for, makes a node of its own, and returns the fork."""
    warnings.simplefilter("ignore")
    fork, number = task
    group = zarr.open_group(fork.store, mode="r+")
    assert group["data"][0, 0] == 7  # what the origin had written before
    group["data"][2 * number : 2 * number + 2] = np.arange(8).reshape(2, 4) + number
    group.create_array(f"worker-{number}", shape=(3,), chunks=(3,), dtype="i2")[...] = number
    return fork


def write_through_store(task: tuple[Any, int]) -> Any:
    """Does the same with the fork's store, and returns that."""
    store, number = task
    write_rows((store.session, number))
    return store
