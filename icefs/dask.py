"""Writing dask arrays into forks of a session, under the official name; needs dask."""

from typing import Any, Final

import dask.array
from dask.base import compute
from dask.delayed import delayed

from icefs.api.session import ForkSession
from icefs.distributed import extract_session, merge_sessions

__all__ = ["session_merge_reduction", "store_dask"]

_SPLIT_EVERY: Final = 8


def store_dask(
    *,
    sources: list[Any],
    targets: list[Any],
    regions: list[tuple[slice, ...]] | None = None,
    split_every: int | None = None,
    **store_kwargs: Any,
) -> ForkSession:
    """Writes dask arrays to zarr arrays in the store of a fork, at once, on any scheduler.

    Each task writes to a copy of the fork, if it runs in another process, and brings it back; the copies are merged
    as a tree, where the tasks run.

    Args:
        sources: The dask arrays.
        targets: The zarr arrays that they go to, opened in `fork.store`; they have to exist.
        regions: The part of each target to write.
        split_every: How many forks are merged at a time.
        store_kwargs: Further arguments of `dask.array.store`, but for `compute`, `return_stored`, `load_stored` and
            `lock`.

    Returns:
        A fork with all that was written, for `Session.merge`.
    """
    stored = dask.array.store(
        sources,
        targets,
        regions=regions,
        compute=False,
        return_stored=True,
        load_stored=False,
        lock=False,
        **store_kwargs,
    )
    return session_merge_reduction(stored, split_every=split_every)


def session_merge_reduction(arrays: Any, *, split_every: int | None, **store_kwargs: Any) -> ForkSession:
    """Computes dask arrays that `dask.array.store` returned, and merges the forks that their blocks were written to.

    Args:
        arrays: An array, or a list of arrays, made with `compute=False, return_stored=True, load_stored=False`.
        split_every: How many forks are merged at a time.
        store_kwargs: Accepted, for callers that hand on those of `dask.array.store`.

    Returns:
        A fork with all that was written, for `Session.merge`.

    Raises:
        TypeError: something is no dask array.
    """
    arrays = list(arrays) if isinstance(arrays, list | tuple) else [arrays]
    for array in arrays:
        if not hasattr(array, "to_delayed"):
            raise TypeError(f"Expected a dask array, received {type(array)!r}")
    width = max(2, split_every or _SPLIT_EVERY)
    written = [block for array in arrays for block in array.to_delayed().ravel()]
    forks = [delayed(extract_session)(block) for block in written]
    while len(forks) > 1:
        forks = [delayed(merge_sessions)(*forks[at : at + width]) for at in range(0, len(forks), width)]
    merged: ForkSession = compute(forks[0])[0]  # type: ignore[no-untyped-call]
    return merged
