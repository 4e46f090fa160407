"""Writing xarray's datasets into a session, also in many processes, under the official name; needs xarray.

Where all runs in one process, xarray's own `to_zarr` does as well.
"""

from collections.abc import Hashable, Mapping, MutableMapping
from typing import Any, Literal

import zarr
from xarray import DataArray, Dataset
from xarray.backends.api import DATAARRAY_NAME, DATAARRAY_VARIABLE
from xarray.backends.common import ArrayWriter
from xarray.backends.writers import dump_to_store, get_writable_zarr_store

from icefs.api.session import Session

__all__ = ["to_icechunk"]

type Region = Mapping[str, slice | Literal["auto"]] | Literal["auto"] | None


def to_icechunk(
    obj: DataArray | Dataset,
    session: Session,
    *,
    group: str | None = None,
    mode: Literal["w", "w-", "a", "a-", "r+"] | None = None,
    safe_chunks: bool = True,
    align_chunks: bool = False,
    append_dim: Hashable | None = None,
    region: Region = None,
    encoding: Mapping[Any, Any] | None = None,
    chunkmanager_store_kwargs: MutableMapping[Any, Any] | None = None,
    split_every: int | None = None,
) -> None:
    """Writes a dataset to a group; the session is not committed.

    Writes metadata and arrays in memory at once. Then writes dask arrays, in a fork of the session, by the scheduler
    that dask is set to.

    Args:
        obj: The dataset; an array becomes one.
        session: Where to; it writes.
        group: The group's path.
        mode: As in `Dataset.to_zarr`, like all arguments after it except the last.
        safe_chunks: See there.
        align_chunks: See there.
        append_dim: See there.
        region: See there.
        encoding: See there.
        chunkmanager_store_kwargs: Further arguments of `dask.array.store`.
        split_every: How many forks are merged at a time.

    Raises:
        ValueError: the session is read-only; and as of `Dataset.to_zarr`.
    """
    target = get_writable_zarr_store(
        session.store,
        mode=mode,
        group=group,
        consolidated=False,
        append_dim=append_dim,
        region=region,
        safe_chunks=safe_chunks,
        align_chunks=align_chunks,
        zarr_format=3,
    )
    dataset = target._validate_and_autodetect_region(_dataset(obj))
    target._validate_encoding(encoding or {})
    writer = ArrayWriter()  # type: ignore[no-untyped-call]
    dump_to_store(dataset, target, writer, encoding=encoding or {})  # type: ignore[no-untyped-call]
    if not writer.sources:
        return
    from icefs.dask import store_dask  # lazy: programs without dask arrays need not have dask

    store = session.fork().store
    session.merge(
        store_dask(
            sources=writer.sources,
            targets=[zarr.open_array(store, path=array.path, mode="r+") for array in writer.targets],
            regions=writer.regions,
            split_every=split_every,
            **(chunkmanager_store_kwargs or {}),
        )
    )


def _dataset(obj: DataArray | Dataset) -> Dataset:
    """Makes a dataset of an array as `DataArray.to_zarr` does, so that `xarray.open_dataarray` reads it as it was."""
    if isinstance(obj, Dataset):
        return obj
    if obj.name is None:
        return obj.to_dataset(name=DATAARRAY_VARIABLE)
    if obj.name not in obj.coords and obj.name not in obj.dims:
        return obj.to_dataset()
    # Two variables of a file cannot have one name.
    dataset = obj.to_dataset(name=DATAARRAY_VARIABLE)
    dataset.attrs[DATAARRAY_NAME] = obj.name
    return dataset
