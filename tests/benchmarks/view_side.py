"""What is measured of views: decoding while reading, against zarr-python and against plain files of the same data."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.benchmarks import clients, mounts, repos
from tests.benchmarks.read_side import on_icefs
from tests.benchmarks.rows import Row, compare, limit

NPY, NETCDF = ("--view", "npy"), ("--view", "netcdf")


@cache
def plain(view: str, path: str) -> Path:
    """Returns a real file with the bytes of one of a view, made on first use."""
    target = repos.cache_root() / "view-files" / view / path
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with mounts.icefs_mount(repos.repository("views"), "--view", view) as mountpoint:
            partial = target.with_name(f"{target.name}.partial")
            shutil.copyfile(mountpoint / path, partial)
            partial.rename(target)
    return target


def on_file(client: str, view: str, path: str) -> Callable[[], float]:
    """Returns a measurement: the client on a real file of the same bytes, which the page cache holds."""

    def measure() -> float:
        clients.run("whole_file", plain(view, path))
        return clients.run(client, plain(view, path))

    return measure


def _front_to_back(group: str) -> Callable[[str, int], Row]:
    ours, theirs = (
        on_icefs("whole_file", "views", f"{group}/a.npy", *NPY),
        on_icefs("whole_array", "views", f"{group}/a"),
    )
    return lambda what, n: compare(what, ours, theirs, round(1 / 1.2, 2), n)


VIEW_SIDE: dict[str, Callable[[str, int], Row]] = {
    "view npy, 256 MiB front to back, square chunks, of zarr-python": _front_to_back("square"),
    "view npy, 256 MiB front to back, rows of chunks, of zarr-python": _front_to_back("rows"),
    "view npy, mapped and read again, of a plain file": lambda what, n: compare(
        what,
        on_icefs("mapped_again", "views", "rows/a.npy", *NPY),
        on_file("mapped_again", "npy", "rows/a.npy"),
        round(1 / 1.1, 2),
        n,
    ),
    "view netcdf, a whole variable, of a plain file": lambda what, n: compare(
        what,
        on_icefs("whole_variable", "views", "square.nc", *NETCDF),
        on_file("whole_variable", "netcdf", "square.nc"),
        round(1 / 2.5, 2),
        n,
    ),
    "view netcdf, a whole variable again, of a plain file": lambda what, n: compare(
        what,
        on_icefs("whole_variable_again", "views", "square.nc", *NETCDF),
        on_file("whole_variable_again", "netcdf", "square.nc"),
        round(1 / 1.5, 2),
        n,
    ),
    "view netcdf, opening a file of 200 variables": lambda what, n: limit(
        what, on_icefs("open_netcdf", "views", "many.nc", *NETCDF), 0.2, "s", n
    ),
}
