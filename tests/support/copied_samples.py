"""Data sets of many types in the kinds of files that an import copies, and how xarray opens these."""

import shutil
from collections.abc import Callable
from pathlib import Path

import icechunk
import numpy as np
import xarray as xr
import zarr

from icefs.engine.write.repository import WritableRepository
from icefs.storage.local.store import LocalStorage
from icefs.transfer.copied.importing import CopyRequest, import_copies
from tests.support.virtual_samples import settled

TIMES = 6
_OLD_TYPES = ("i1", "i2", "i4", "f4", "f8")
_TYPES = (*_OLD_TYPES, "i8", "u1", "u2", "u4", "u8")
KINDS = ("netcdf4", "hdf5", "netcdf3", "netcdf3-64bit", "netcdf4-classic", "zarr2", "zarr3", "zarr3.zip", "zarr2.zip")


def dataset(kind: str, start: int = 0, times: int = TIMES) -> xr.Dataset:
    """Returns a data set of all types that a kind of file has, some hours of it from a day of 2020 on."""
    random = np.random.default_rng(start)
    data = xr.Dataset(attrs={"title": "wörds", "number": 3, "numbers": [1, 2, 3], "single": np.float32(2.5)})
    for name in _OLD_TYPES if kind.startswith("netcdf3") or kind.endswith("classic") else _TYPES:
        values = (random.normal(size=(times, 5, 7)) * 50).astype(name)
        data[name] = ("time", "y", "x"), values, {"units": "K", "valid_range": np.array([0, 9], name)}
    data["filled"] = ("time", "y"), np.where(random.random((times, 5)) < 0.3, np.nan, 1.5)
    data["empty"] = ("time", "y"), np.full((times, 5), np.nan)
    data["packed"] = ("time", "y"), np.round(random.random((times, 5)), 2)
    data["packed"].encoding = {"dtype": "i2", "scale_factor": 0.01, "_FillValue": np.int16(-1)}
    data["text"] = "y", np.array(["a", "bb", "ä€", "", "longer text"], object)
    data["flags"] = "x", np.arange(7) % 3 == 0
    data["scalar"] = (), 3.25
    data["moment"] = (), np.datetime64("2001-02-03T04:05:06", "ns")
    data["lapse"] = "x", np.arange(7).astype("m8[D]").astype("m8[ns]")
    first = np.datetime64("2020-01-01", "ns") + np.timedelta64(start, "D")
    when = first + np.arange(times) * np.timedelta64(6, "h")
    return data.assign_coords(time=when, y=np.arange(5.0), x=np.arange(7, dtype="i4"))


def write(data: xr.Dataset, kind: str, path: Path, encoding: dict[str, dict[str, object]] | None = None) -> Path:
    """Writes a data set as a kind of file; a settled one (see `settled`)."""
    more = {"unlimited_dims": ["time"], "encoding": encoding or {}}
    if kind == "netcdf4":
        data.to_netcdf(path, engine="netcdf4", **more)
    elif kind == "netcdf4-classic":
        data.to_netcdf(path, engine="netcdf4", format="NETCDF4_CLASSIC", **more)
    elif kind == "hdf5":
        data.to_netcdf(path, engine="h5netcdf", **more)
    elif kind.startswith("netcdf3"):
        old = "NETCDF3_64BIT" if kind.endswith("bit") else "NETCDF3_CLASSIC"
        data.to_netcdf(path, engine="netcdf4", format=old, unlimited_dims=["time"])
    else:
        tree = path.with_name(f"{path.name}-tree")
        data.to_zarr(tree, zarr_format=int(kind[4]), encoding=encoding or {}, consolidated=False)
        if kind.endswith("zip"):
            Path(shutil.make_archive(str(tree), "zip", tree)).rename(path)
        else:
            tree.rename(path)
    return settled(path)


def opener(kind: str, path: Path) -> Callable[[], xr.Dataset]:
    """Returns what opens a file of a kind in xarray."""
    if kind.startswith("zarr"):
        store = zarr.storage.ZipStore(path, mode="r") if kind.endswith("zip") else path
        return lambda: xr.open_zarr(store, consolidated=False)
    return lambda: xr.open_dataset(path, engine="h5netcdf" if kind == "hdf5" else "netcdf4")


def copied(root: Path, *names: str) -> zarr.Group:
    """Copies files into a new repository in a directory; returns what the official library reads of it."""
    repository = WritableRepository.create(LocalStorage(root))
    try:
        done = import_copies(repository, CopyRequest(list(names), message="m"), lambda done: None)
    finally:
        repository.close()
    assert not done.left_out
    opened = icechunk.Repository.open(icechunk.local_filesystem_storage(str(root)))
    return zarr.open_group(opened.readonly_session("main").store, mode="r")
