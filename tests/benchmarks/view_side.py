"""What is measured of views: decoding while reading, against zarr-python and against plain files of the same data."""

import shutil
from collections.abc import Callable
from dataclasses import replace
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


def on_null_file(client: str, view: str, path: str) -> Callable[[], float]:
    """Returns a measurement: the client on the same bytes in a fresh do-nothing mount, which has them in memory.

    That is what the way through the kernel to another process takes, with no chunk to read or to decode.
    """

    def measure() -> float:
        with mounts.null_mount(1, 1, plain(view, path)) as mountpoint:
            return clients.run(client, mountpoint / "0/0")

    return measure


def on_view_cold(client: str, path: str) -> Callable[[], float]:
    """Returns a measurement: the client on a file of a fresh mount with NetCDF views, the chunks not in memory.

    Another file of the mount has been looked at, so that the daemon has imported what makes views.
    """

    def measure() -> float:
        repository = repos.repository("views")
        with mounts.icefs_mount(repository, *NETCDF) as mountpoint:
            (mountpoint / "rows.nc").stat()
            repos.drop_pages(repository)
            return clients.run(client, mountpoint / path)

    return measure


def on_file_cold(client: str, path: str) -> Callable[[], float]:
    """Returns a measurement: the client on a real NetCDF file of the same bytes, which is not in memory."""

    def measure() -> float:
        repos.drop_pages(plain("netcdf", path))
        return clients.run(client, plain("netcdf", path))

    return measure


def _cold(client: str) -> Callable[[str, int], Row]:
    ours, theirs = on_view_cold(client, "square.nc"), on_file_cold(client, "square.nc")
    return lambda what, n: compare(what, ours, theirs, round(1 / 2.5, 2), n)


def _again(client: str) -> Callable[[str, int], Row]:
    ours, theirs = on_icefs(client, "views", "square.nc", *NETCDF), on_file(client, "netcdf", "square.nc")
    return lambda what, n: compare(what, ours, theirs, round(1 / 1.5, 2), n)


def _ceiling(client: str, view: str, path: str, other: Callable[[], float]) -> Callable[[str, int], Row]:
    """Measures the do-nothing file system, in place of icefs, in the row of a view; that has no aim."""
    null = on_null_file(client, view, path)
    return lambda what, n: replace(compare(what, null, other, 0, n), target="")


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
    "view netcdf, ncks --chk_nan, cold, of a plain file": _cold("ncks"),
    "view netcdf, ncks --chk_nan again, of a plain file": _again("ncks_again"),
    "view netcdf, cdo infon, cold, of a plain file": _cold("cdo"),
    "view netcdf, cdo infon again, of a plain file": _again("cdo_again"),
    "view netcdf, netCDF4-python, a whole variable, cold, of a plain file": _cold("whole_variable"),
    "view netcdf, netCDF4-python, a whole variable again, of a plain file": _again("whole_variable_again"),
    "view ceiling, do-nothing, npy mapped and read again, of a plain file": _ceiling(
        "mapped_again", "npy", "rows/a.npy", on_file("mapped_again", "npy", "rows/a.npy")
    ),
    **{
        f"view ceiling, do-nothing, {client}, cold, of a plain file": _ceiling(
            client, "netcdf", "square.nc", on_file_cold(client, "square.nc")
        )
        for client in ("ncks", "cdo", "whole_variable")
    },
    **{
        f"view ceiling, do-nothing, {client}, of a plain file": _ceiling(
            client, "netcdf", "square.nc", on_file(client, "netcdf", "square.nc")
        )
        for client in ("ncks_again", "cdo_again", "whole_variable_again")
    },
    "view netcdf, opening a file of 200 variables": lambda what, n: limit(
        what, on_icefs("open_netcdf", "views", "many.nc", *NETCDF), 0.2, "s", n
    ),
}
