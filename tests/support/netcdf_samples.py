"""Trees for tests of NetCDF views."""

import numpy as np


def climate(root):
    """A climate set as CF has it: packed values, times, bounds, texts, a scalar."""
    root.attrs.update(Conventions="CF-1.8", title="tëst", levels=[1, 2], names=["a", "b"], nested={"a": [1]})
    surface = root.create_group("surface", attributes={"history": "made"})
    time = surface.create_array("time", shape=(6,), dtype="M8[ns]", dimension_names=["time"])
    time[:] = np.datetime64("2020-02-28T00", "ns") + np.arange(6) * np.timedelta64(6, "h")
    latitude = {"units": "degrees_north", "standard_name": "latitude", "bounds": "lat_bnds"}
    surface.create_array("lat", shape=(4,), dtype="f8", dimension_names=["lat"], attributes=latitude)[:] = np.arange(4)
    longitude = {"units": "degrees_east", "standard_name": "longitude"}
    lon = surface.create_array("lon", shape=(5,), dtype="i8", dimension_names=["lon"], attributes=longitude)
    lon[:] = np.arange(5) * 10
    bounds = surface.create_array("lat_bnds", shape=(4, 2), dtype="f8", dimension_names=["lat", "nv"])
    bounds[:] = np.arange(8).reshape(4, 2) - 0.5
    packed = {"scale_factor": 0.01, "add_offset": 273, "_FillValue": -9999, "units": "K", "valid_range": [-9000, 30000]}
    t2m = surface.create_array(
        "t2m",
        shape=(6, 4, 5),
        chunks=(2, 3, 3),
        dtype="i2",
        fill_value=-9999,
        dimension_names=["time", "lat", "lon"],
        attributes=packed,
    )
    t2m[:5] = np.arange(100).reshape(5, 4, 5)
    rain = surface.create_array(
        "rain", shape=(6, 4, 5), dtype="f4", fill_value=np.nan, dimension_names=["time", "lat", "lon"]
    )
    rain[2:] = np.linspace(0, 1, 80).reshape(4, 4, 5)
    surface.create_array("station", shape=(4,), dtype="str", dimension_names=["lat"])[:] = np.array(
        ["a", "", "ünï", "long name"], dtype=object
    )
    surface.create_array("height", shape=(), dtype="f4", attributes={"units": "m"})[...] = 2
    surface.create_group("deep").create_array("x", shape=(2, 3), dtype="f8")[:] = [[1, 2, 3], [4, 5, 6]]


NUMBERS = [f"{order}{kind}" for order in "<>" for kind in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")]


def number_name(dtype):
    """Returns the name of the array of a type: `big_i4`."""
    return f"{'big' if dtype[0] == '>' else 'little'}_{dtype[1:]}"


def every_number(root):
    """All integers and floats in either byte order, with their largest and smallest values."""
    for dtype in NUMBERS:
        limits = np.finfo(dtype) if dtype[1] == "f" else np.iinfo(dtype)
        array = root.create_array(
            number_name(dtype), shape=(2, 5), chunks=(1, 3), dtype=dtype, dimension_names=["y", "x"]
        )
        array[0] = np.array([limits.min, limits.max, 0, 1, 2], dtype)


def every_other_type(root):
    """Types that NetCDF has under other names, or not at all."""
    along = {"dimension_names": ["x"]}
    root.create_array("flags", shape=(3,), dtype="bool", **along)[:] = [True, False, True]
    root.create_array("half", shape=(3,), dtype="f2", fill_value=np.nan, **along)[:2] = [0.5, 65504]
    root.create_array("c8", shape=(3,), dtype="c8", **along)[:] = [1 + 2j, 0, -1j]
    root.create_array("c16", shape=(3,), dtype="c16", fill_value=complex(np.nan, np.nan), **along)[1] = 1 + 2j
    root.create_array("days", shape=(3,), dtype="M8[D]", **along)[:] = np.array(
        ["1970-01-02", "NaT", "1700-01-01"], "M8"
    )
    root.create_array("months", shape=(3,), dtype="M8[M]", **along)[:] = np.array(
        ["1970-02", "NaT", "2020-03"], "M8[M]"
    )
    root.create_array("tens", shape=(3,), dtype="M8[10s]", **along)[:] = np.array([1, 2, 3], "M8[10s]")
    root.create_array("fine", shape=(3,), dtype="M8[ps]", **along)[:] = np.array([1, 2, 3], "M8[ps]")
    root.create_array("spans", shape=(3,), dtype="m8[ms]", **along)[:] = np.array([1, "NaT", -3], "m8[ms]")
    root.create_array("years", shape=(3,), dtype="m8[Y]", **along)
    root.create_array("texts", shape=(3,), dtype="str", **along)[:] = np.array(["a", "", "ünï"], dtype=object)
    root.create_array("wide", shape=(3,), dtype="U4", **along)[:] = ["a", "", "ünïx"]
    root.create_array("narrow", shape=(3,), dtype="S4", **along)[:] = [b"a", b"", b"wxyz"]
    root.create_array("struct", shape=(3,), dtype=[("a", "i4"), ("b", "f8")], **along)
    root.create_array("raw", shape=(3,), dtype="V3", **along)
