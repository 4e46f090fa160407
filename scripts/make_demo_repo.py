"""Makes the small repository that `make demo` and some tests read, with the official icechunk library.

    python scripts/make_demo_repo.py [DIRECTORY]

A month of made-up weather on a coarse globe: a group `weather` with coordinates and two float arrays, written in
three commits on `main` (the first of them tagged `v1.0`, the last `v1.1`) and one more on the branch `warmer`.
The numbers are the same on every run; ids and times are new.
"""

import shutil
import sys
from pathlib import Path

import icechunk
import numpy as np
import zarr
from zarr.codecs import ZstdCodec

DEFAULT_TARGET = Path(__file__).resolve().parents[1] / "tests/conformance/data/demo-repo"

TIMES, LATITUDES, LONGITUDES = 31, 36, 72
CHUNKS = (16, 18, 36)


def main() -> None:
    """Replaces the directory given on the command line, or the committed one, with a new repository."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_TARGET
    shutil.rmtree(target, ignore_errors=True)
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(target)))

    session = repo.writable_session("main")
    root = zarr.create_group(session.store, attributes={"title": "A month of made-up weather"})
    weather = root.create_group("weather")
    _add_coordinates(weather)
    _add_field(weather, "temperature", _temperature(), units="degC", standard_name="air_temperature")
    first = session.commit("Add a month of temperature", {"author": "Ada"})
    repo.create_tag("v1.0", snapshot_id=first)

    session = repo.writable_session("main")
    weather = zarr.open_group(session.store, path="weather")
    _add_field(weather, "precipitation", _precipitation(), units="mm/day", standard_name="precipitation_flux")
    session.commit("Add precipitation", {"author": "Ada"})

    session = repo.writable_session("main")
    temperature = zarr.open_array(session.store, path="weather/temperature")
    temperature[10] = _temperature()[9]
    session.commit("Replace a broken day of temperature", {"author": "Grace", "day": 10})
    last = repo.lookup_branch("main")
    repo.create_tag("v1.1", snapshot_id=last)

    repo.create_branch("warmer", last)
    session = repo.writable_session("warmer")
    temperature = zarr.open_array(session.store, path="weather/temperature")
    temperature[:] = temperature[:] + 2
    session.commit("What if it were two degrees warmer?", {"author": "Grace"})

    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 1024:.0f} KiB")


def _add_coordinates(group: zarr.Group) -> None:
    for name, values, attributes in (
        ("time", np.arange(TIMES, dtype="int64"), {"units": "days since 2024-01-01", "calendar": "standard"}),
        ("latitude", np.linspace(-87.5, 87.5, LATITUDES), {"units": "degrees_north"}),
        ("longitude", np.linspace(-177.5, 177.5, LONGITUDES), {"units": "degrees_east"}),
    ):
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=values.shape,
            dtype=values.dtype,
            dimension_names=(name,),
            attributes=attributes,
        )
        array[:] = values


def _add_field(group: zarr.Group, name: str, values: np.ndarray, **attributes: str) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=CHUNKS,
        dtype=values.dtype,
        fill_value=np.nan,
        compressors=ZstdCodec(level=5),
        dimension_names=("time", "latitude", "longitude"),
        attributes=attributes,
    )
    array[:] = values


def _temperature() -> np.ndarray:
    time = np.arange(TIMES)[:, None, None]
    latitude = np.radians(np.linspace(-87.5, 87.5, LATITUDES))[:, None]
    longitude = np.radians(np.linspace(-177.5, 177.5, LONGITUDES))
    field = 28 * np.cos(latitude) ** 2 - 15 + 4 * np.sin(longitude + time / 5) * np.cos(latitude)
    return np.round(field, 1).astype("float32")


def _precipitation() -> np.ndarray:
    rng = np.random.default_rng(42)
    wet = rng.random((TIMES, LATITUDES, LONGITUDES)) > 0.7
    amount = rng.gamma(2.0, 3.0, wet.shape)
    return np.where(wet, np.round(amount, 0), 0).astype("float32")


if __name__ == "__main__":
    main()
