"""Data for tests of views: a climate, a pyramid, a large array of few chunks, odd types and names."""

from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, TransposeCodec, ZstdCodec

DTYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]
LAT, LON = 6, 8
ERA = {"units": "hours since 2020-01-01 00:00:00", "calendar": "proleptic_gregorian", "standard_name": "time"}


def _array(group: zarr.Group, name: str, values: Any, dimensions: tuple[str, ...], **options: Any) -> None:
    data = np.asarray(values)
    chosen = {"chunks": tuple(min(4, size) for size in data.shape) or (), **options}
    attributes = chosen.pop("attributes", {})
    made = group.create_array(
        name, shape=data.shape, dtype=data.dtype, dimension_names=dimensions, attributes=attributes, **chosen
    )
    made[...] = data


def packed(first: int, count: int) -> np.ndarray:
    """Returns packed temperatures of some hours; every seventh is missing."""
    numbers = np.arange(first * LAT * LON, (first + count) * LAT * LON, dtype="i8")
    values = (numbers * 37 % 2000 - 1000).astype("i2")
    values[numbers % 7 == 0] = -32768
    return values.reshape(count, LAT, LON)


def write_climate(root: zarr.Group) -> None:
    """Writes 24 hours of a climate."""
    lat, lon = np.linspace(-50, 50, LAT), np.linspace(0, 315, LON, dtype="f4")
    _array(root, "time", np.arange(24.0), ("time",), attributes=ERA)
    latitude = {"units": "degrees_north", "standard_name": "latitude", "bounds": "lat_bnds"}
    _array(root, "lat", lat, ("lat",), attributes=latitude)
    _array(root, "lon", lon, ("lon",), attributes={"units": "degrees_east", "standard_name": "longitude"})
    _array(root, "lat_bnds", np.stack([lat - 10, lat + 10], 1), ("lat", "bnds"))
    temperature = {
        "units": "K", "long_name": "2 metre temperature", "scale_factor": 0.01, "add_offset": 273.15,
        "_FillValue": -32768,
    }  # fmt: skip
    _array(root, "t2m", packed(0, 24), ("time", "lat", "lon"), fill_value=-32768, attributes=temperature)
    # Few of its chunks exist.
    sparse = root.create_array(
        "sparse", shape=(LAT, LON), chunks=(2, 2), dtype="f4", fill_value=np.nan, dimension_names=("lat", "lon")
    )
    sparse[2:4, 2:4] = 5
    root.attrs.update({"Conventions": "CF-1.8", "title": "Tempé", "history": "made for tests"})


def write_kinds(group: zarr.Group) -> None:
    """Writes what NetCDF has no type for, or another one in each of its versions."""
    _array(group, "texts", np.array(["a", "Tempé", "three words here", "", "x1"], "T"), ("n",))
    _array(group, "fixed", np.array(["a", "été", "ccccc", "d", "e"], "U5"), ("n",))
    _array(group, "bytes", np.array([b"ab", b"c", b"def", b"g", b"h"], "S3"), ("n",))
    when = np.array(["2020-01-01T00:00:01", "1969-12-31T23:59:59", "NaT", "2262-01-01", "1800-03-04"], "M8[s]")
    _array(group, "when", when, ("n",))
    _array(group, "lag", np.array([0, -5, 7, 10**12, 1], "m8[ms]"), ("n",))
    _array(group, "half", np.array([0, -1.5, 65504, 0.125, 0.0625], "f2"), ("n",))
    numbers = np.array([1 + 2j, -3.25j, 4, -(2.0**18) + 0.125j, 0.5 - 0.5j])
    _array(group, "c8", numbers.astype("c8"), ("n",))
    _array(group, "c16", numbers, ("n",))


def write_others(root: zarr.Group) -> None:
    """Writes what else there is: types, byte orders, shards, groups in groups, odd names, a large array."""
    types = root.create_group("types")
    for code in DTYPES:
        _array(types, code, np.arange(10).astype(code), ("n",))
    _array(types, "flag", np.arange(10) % 3 == 0, ("n",))
    big = types.create_array(
        "big", shape=(10,), chunks=(4,), dtype="i4", dimension_names=("n",), serializer=BytesCodec(endian="big")
    )
    big[:] = np.arange(10) * 1000
    transposed = types.create_array(
        "transposed", shape=(10, 6), chunks=(4, 4), dtype="f8", dimension_names=("n", "m"),
        filters=[TransposeCodec(order=(1, 0))], compressors=[ZstdCodec()],
    )  # fmt: skip
    transposed[...] = np.arange(60).reshape(10, 6) / 8
    _array(types, "scalar", np.float64(2.5), ())
    write_kinds(root.create_group("kinds"))
    pyramid = root.create_group("pyramid")
    for level in range(3):
        size = 32 >> level
        _array(
            pyramid, f"l{level}", np.arange(size * size, dtype="u2").reshape(size, size), (f"y{level}", f"x{level}"),
            chunks=(4, 4), shards=(8, 8),
        )  # fmt: skip
    inner = root.create_group("outer").create_group("inner")
    _array(inner, "deep", np.arange(5, dtype="i4"), ("k",))
    odd = root.create_group("odd names")
    _array(odd, "1st & last", np.arange(3, dtype="i4"), ("a b",))
    # Too large to be part of a manifest.
    _array(root.create_group("noise"), "values", np.random.default_rng(1).random(1000), ("m",), chunks=(500,))
    huge = root.create_array(
        "huge/cube", shape=(50, 10_000, 10_000), chunks=(1, 1000, 1000), dtype="f4", fill_value=1.5
    )
    huge[7, 2000:2003, 5000:5004] = np.arange(12).reshape(3, 4)


def append_hours(root: zarr.Group, count: int) -> None:
    """Appends hours to the climate."""
    first = root["time"].shape[0]
    for name in ("time", "t2m"):
        array = root[name]
        array.resize((first + count, *array.shape[1:]))
    root["time"][first:] = np.arange(first, first + count)
    root["t2m"][first:] = packed(first, count)
