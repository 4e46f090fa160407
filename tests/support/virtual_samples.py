"""Small files of many formats, with the values that they hold, for imports that refer to them."""

import os
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import tifffile
import xarray as xr
import zarr

type Expected = dict[str, np.ndarray]

PACKED = {
    "t2m": {
        "dtype": "i2",
        "scale_factor": 0.01,
        "add_offset": 280.0,
        "_FillValue": -32768,
        "zlib": True,
        "shuffle": True,
        "chunksizes": (2, 5, 12),
    },
    "time": {"units": "days since 2020-01-01", "dtype": "i8"},
}


def settled(path: Path) -> Path:
    """Gives a file, or all of a tree, a time that is past, so that nobody waits for it."""
    for each in [path, *path.rglob("*")]:
        os.utime(each, (1_700_000_000.25, 1_700_000_000.25))
    return path


def days(start: int, count: int = 4) -> xr.Dataset:
    """Returns a few days of a field."""
    field = np.random.default_rng(start).normal(280, 5, (count, 10, 12)).astype("f4")
    field[0, 0, 0] = np.nan
    time = np.datetime64("2020-01-01", "ns") + np.arange(start, start + count) * np.timedelta64(1, "D")
    coords = {"time": time, "y": np.arange(10.0), "x": np.arange(12.0)}
    return xr.Dataset({"t2m": (("time", "y", "x"), field, {"standard_name": "air_temperature"})}, coords=coords)


def series(directory: Path, count: int = 3) -> list[Path]:
    """Writes packed NetCDF-4 files that follow each other in time."""
    paths = [directory / f"part{number}.nc" for number in range(count)]
    for number, path in enumerate(paths):
        days(4 * number).to_netcdf(path, engine="netcdf4", encoding=PACKED)
        settled(path)
    return paths


def _netcdf4(path: Path) -> Expected:
    data = days(0)
    data.to_netcdf(path, engine="netcdf4", encoding={"t2m": {"zlib": True, "shuffle": True, "chunksizes": (3, 4, 5)}})
    return {"t2m": data["t2m"].values, "x": data["x"].values}


def _contiguous(path: Path) -> Expected:
    data = days(1)
    data.to_netcdf(path, engine="netcdf4", encoding={"t2m": {"contiguous": True}})
    return {"t2m": data["t2m"].values}


def _netcdf3(path: Path) -> Expected:
    rows = np.arange(15, dtype="f4").reshape(3, 5)
    with scipy.io.netcdf_file(path, "w", version=2) as file:
        file.createDimension("t", None)
        file.createDimension("x", 5)
        file.createVariable("rows", "f4", ("t", "x"))[:] = rows
        file.createVariable("x", "i2", ("x",))[:] = np.arange(5)
    return {"rows": rows, "x": np.arange(5, dtype="i2")}


def _hdf5(path: Path) -> Expected:
    values = np.random.default_rng(1).normal(size=(20, 30))
    big = np.arange(9, dtype=">i4")
    with h5py.File(path, "w") as file:
        file.create_dataset("top/in/packed", data=values, chunks=(7, 11), compression="gzip", shuffle=True)
        file["top/big"] = big
        file["plain"] = values.astype("f4")
        file["scalar"] = 3.5
        file.create_dataset("never", shape=(3, 4), dtype="i2", fillvalue=7)
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((4,))
        compact = h5py.h5d.create(file.id, b"compact", h5py.h5t.NATIVE_INT32, space, create)
        compact.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(4, dtype="i4"))
    return {
        "top/in/packed": values,
        "top/big": big,
        "plain": values.astype("f4"),
        "scalar": np.array(3.5),
        "never": np.full((3, 4), 7, "i2"),
        "compact": np.arange(4, dtype="i4"),
    }


def _zarr2(path: Path) -> Expected:
    numbers = np.arange(100, dtype=">i4").reshape(10, 10)
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("g/raw", shape=(10, 10), chunks=(4, 4), dtype=">i4", compressors=None)[...] = numbers
    group.create_array("packed", shape=(10, 10), chunks=(5, 5), dtype="f8")[...] = numbers
    return {"g/raw": numbers, "packed": numbers.astype("f8")}


def _zarr3(path: Path) -> Expected:
    group = zarr.open_group(path, mode="w", zarr_format=3)
    array = group.create_array("sharded", shape=(16, 16), chunks=(4, 4), shards=(8, 8), dtype="f4")
    array[:8] = np.arange(128).reshape(8, 16)
    return {"sharded": array[...]}


def _tiff(path: Path) -> Expected:
    image = np.random.default_rng(2).integers(0, 60000, (100, 130)).astype("u2")
    tifffile.imwrite(path, image, tile=(32, 32), compression="zlib")
    return {"0": image}


def _sparse_tiff(path: Path) -> Expected:
    import rasterio
    from rasterio.windows import Window

    shape = {"width": 128, "height": 64, "count": 1, "dtype": "uint8"}
    options = {"driver": "GTiff", "tiled": True, "blockxsize": 32, "blockysize": 32, "compress": "deflate"}
    image = np.zeros((64, 128), "u1")
    image[32:, 64:96] = np.random.default_rng(3).integers(1, 255, (32, 32))
    with rasterio.open(path, "w", SPARSE_OK=True, **shape, **options) as file:
        file.write(image[32:, 64:96], 1, window=Window(64, 32, 32, 32))
    return {"0": image}


def _fits(path: Path) -> Expected:
    with warnings.catch_warnings(action="ignore"):  # it has no place for its configuration
        from astropy.io import fits

    image = np.random.default_rng(4).normal(size=(6, 7)).astype(">f4")
    science = np.arange(12, dtype=">i2").reshape(3, 4)
    fits.HDUList([fits.PrimaryHDU(image), fits.ImageHDU(science, name="SCI")]).writeto(path)
    return {"PRIMARY": image, "SCI": science}


def grib_message(values: np.ndarray) -> bytes:
    """Returns a GRIB2 message of a regular grid, packed simply: 200 and up to 255 more.

    Source: WMO-No. 306, FM 92 GRIB edition 2, templates 3.0, 4.0 and 5.0.
    """
    rows, columns = values.shape
    packed = (values - 200).astype("u1").tobytes()
    identification = struct.pack(">IBHHBBBHBBBBBBB", 21, 1, 7, 0, 2, 0, 1, 2020, 1, 1, 0, 0, 0, 0, 1)
    grid = struct.pack(">IBBIBBH", 72, 3, 0, values.size, 0, 0, 0) + bytes([6]) + bytes(15)
    grid += struct.pack(">IIII", columns, rows, 0, 0xFFFFFFFF)
    north, east = (rows - 1) * 1_000_000, (columns - 1) * 1_000_000
    grid += struct.pack(">IIBIIIIB", north, 0, 0x30, 0, east, 1_000_000, 1_000_000, 0)
    product = struct.pack(">IBHHBBBBBHBBIBBIBBI", 34, 4, 0, 0, 0, 0, 2, 0, 96, 0, 0, 1, 0, 1, 0, 0, 255, 0, 0)
    packing = struct.pack(">IBIHfHHBB", 21, 5, values.size, 0, 200.0, 0, 0, 8, 0)
    body = identification + grid + product + packing + struct.pack(">IBB", 6, 6, 255)
    body += struct.pack(">IB", 5 + len(packed), 7) + packed + b"7777"
    return b"GRIB" + bytes([0, 0, 0, 2]) + struct.pack(">Q", 16 + len(body)) + body


def _grib(path: Path) -> Expected:
    values = np.random.default_rng(5).integers(200, 255, (6, 8)).astype("f8")
    path.write_bytes(grib_message(values))
    return {"": values}


SAMPLES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "netcdf4": ("a.nc", _netcdf4),
    "contiguous": ("b.nc", _contiguous),
    "netcdf3": ("c.nc", _netcdf3),
    "hdf5": ("odd #1 100% ä.h5", _hdf5),
    "zarr2": ("d.zarr", _zarr2),
    "zarr3": ("e.zarr", _zarr3),
    "tiff": ("f.tif", _tiff),
    "sparse-tiff": ("g.tif", _sparse_tiff),
    "fits": ("h.fits", _fits),
    "grib": ("i.grib2", _grib),
}
"""By the kind: the file's name, and what writes it and returns its values by the arrays' paths."""


def make(kind: str, directory: Path) -> tuple[Path, Expected]:
    """Writes a file, and returns it and what it holds."""
    name, write = SAMPLES[kind]
    expected = write(directory / name)
    return settled(directory / name), expected
