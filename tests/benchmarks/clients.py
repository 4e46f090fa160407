"""What is timed, each in a process of its own: `python -m tests.benchmarks.clients NAME ARGUMENT…` prints seconds.

A client sees a directory and nothing else, so that the same one measures icefs, the do-nothing file system and
plain files; the `official_…` ones use the official library instead.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks import write_clients


def _shuffled_files(directory: str) -> list[str]:
    """Goes to a directory; returns the paths i/j of the small-chunk grid in a fixed random order, without listing.

    Relative ones, as the two sides' directories lie differently deep.
    """
    from tests.benchmarks.repos import SMALL_GRID

    os.chdir(directory)
    paths = [f"{i}/{j}" for i in range(SMALL_GRID[0]) for j in range(SMALL_GRID[1])]
    random.Random(1).shuffle(paths)
    return paths


def open_read_close(directory: str) -> float:
    """Opens, reads and closes every small chunk once."""
    paths = _shuffled_files(directory)
    start = time.perf_counter()
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.read(fd, 1 << 16)
        os.close(fd)
    return time.perf_counter() - start


def warm_stat(directory: str) -> float:
    """Stats every small chunk four times, after once untimed."""
    paths = _shuffled_files(directory)
    for path in paths:
        os.stat(path)
    start = time.perf_counter()
    for _ in range(4):
        for path in paths:
            os.stat(path)
    return time.perf_counter() - start


def cold_stat(directory: str) -> float:
    """Stats every small chunk once."""
    paths = _shuffled_files(directory)
    start = time.perf_counter()
    for path in paths:
        os.stat(path)
    return time.perf_counter() - start


def _big_files(directory: str) -> list[str]:
    from tests.benchmarks.repos import BIG_CHUNKS

    os.chdir(directory)
    return [str(i) for i in range(BIG_CHUNKS)]


def _read_all(paths: list[str]) -> None:
    buffer = bytearray(1 << 20)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def sequential_read(directory: str) -> float:
    """Reads every 1 MiB chunk once, in order."""
    paths = _big_files(directory)
    start = time.perf_counter()
    _read_all(paths)
    return time.perf_counter() - start


def warm_read(directory: str) -> float:
    """Reads the first 256 chunks of 1 MiB twice, after once untimed."""
    paths = _big_files(directory)[:256]
    _read_all(paths)
    start = time.perf_counter()
    _read_all(paths + paths)
    return time.perf_counter() - start


def find(directory: str) -> float:
    """Runs find(1) over a directory of a million chunks."""
    start = time.perf_counter()
    out = subprocess.run(["find", directory, "-type", "f"], check=True, stdout=subprocess.PIPE).stdout
    seconds = time.perf_counter() - start
    count = out.count(b"\n")
    if count < 1_000_000:
        raise SystemExit(f"find saw {count} files only")
    return seconds


def zarr_read(directory: str) -> float:
    """Reads a whole 1 GiB array with zarr-python's LocalStore."""
    import zarr

    start = time.perf_counter()
    array = zarr.open_array(zarr.storage.LocalStore(directory, read_only=True), path="a", mode="r")
    total = int(array[:].nbytes)
    seconds = time.perf_counter() - start
    if total != 1 << 30:
        raise SystemExit(f"read {total} bytes")
    return seconds


def official_zarr_read(repository: str) -> float:
    """Reads the same array with zarr-python through the official library's store."""
    import icechunk
    import zarr

    repo = icechunk.Repository.open(icechunk.local_filesystem_storage(repository))
    start = time.perf_counter()
    array = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
    total = int(array[:].nbytes)
    seconds = time.perf_counter() - start
    if total != 1 << 30:
        raise SystemExit(f"read {total} bytes")
    return seconds


def official_list_prefix(repository: str) -> float:
    """Lists a million keys with the official library's `list_prefix`."""
    import asyncio

    import icechunk

    store = icechunk.Repository.open(icechunk.local_filesystem_storage(repository)).readonly_session("main").store

    async def count() -> int:
        return sum([1 async for _ in store.list_prefix("")])

    start = time.perf_counter()
    total = asyncio.run(count())
    seconds = time.perf_counter() - start
    if total < 1_000_000:
        raise SystemExit(f"list_prefix gave {total} keys only")
    return seconds


def whole_file(path: str) -> float:
    """Reads a file from front to back, in pieces of 1 MiB."""
    with Path(path).open("rb", buffering=0) as file:
        size, total, buffer = os.fstat(file.fileno()).st_size, 0, bytearray(1 << 20)
        start = time.perf_counter()
        while count := file.readinto(buffer):
            total += count
        seconds = time.perf_counter() - start
    if total != size:
        raise SystemExit(f"read {total} bytes of {size}")
    return seconds


def whole_file_again(path: str) -> float:
    """Reads a file from front to back once, and measures the second time."""
    whole_file(path)
    return whole_file(path)


def whole_array(directory: str) -> float:
    """Reads a whole array with zarr-python's LocalStore."""
    import zarr

    array = zarr.open_array(zarr.storage.LocalStore(directory, read_only=True), mode="r")
    start = time.perf_counter()
    array[:]
    return time.perf_counter() - start


def mapped_again(path: str) -> float:
    """Maps an array of numpy's, adds it up, and measures the second time."""
    import numpy as np

    array = np.load(path, mmap_mode="r")
    array.sum()
    start = time.perf_counter()
    array.sum()
    return time.perf_counter() - start


def whole_variable(path: str) -> float:
    """Reads a variable of a NetCDF file with the NetCDF library."""
    import netCDF4

    with netCDF4.Dataset(path) as dataset:
        dataset.set_auto_mask(False)
        variable = dataset["a"]
        start = time.perf_counter()
        variable[:]
        return time.perf_counter() - start


def whole_variable_again(path: str) -> float:
    """Reads a variable once, and measures the second time."""
    whole_variable(path)
    return whole_variable(path)


def command_seconds(*command: str) -> float:
    """Runs a program from its start to its end."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def ncks(path: str) -> float:
    """Has NCO look for NaN in all variables of a NetCDF file, which writes nothing."""
    return command_seconds("ncks", "--chk_nan", path)


def ncks_again(path: str) -> float:
    """Does the same twice, and measures the second time."""
    ncks(path)
    return ncks(path)


def cdo(path: str) -> float:
    """Has CDO work out minimum, mean and maximum of all variables of a NetCDF file."""
    return command_seconds("cdo", "-s", "infon", path)


def cdo_again(path: str) -> float:
    """Does the same twice, and measures the second time."""
    cdo(path)
    return cdo(path)


def open_netcdf(path: str) -> float:
    """Opens a NetCDF file, after another one of the same mount, and looks at all variables."""
    import netCDF4

    netCDF4.Dataset(Path(path).with_name("square.nc")).close()
    start = time.perf_counter()
    with netCDF4.Dataset(path) as dataset:
        shapes = {variable.shape for variable in dataset.variables.values()}
    seconds = time.perf_counter() - start
    if (64, 64) not in shapes:
        raise SystemExit(f"the variables have the shapes {shapes}")
    return seconds


CLIENTS: dict[str, Callable[[str], float]] = {
    function.__name__: function
    for function in (
        open_read_close, warm_stat, cold_stat, sequential_read, warm_read, find, zarr_read, official_zarr_read,
        official_list_prefix, whole_file, whole_file_again, whole_array, mapped_again, whole_variable,
        whole_variable_again, open_netcdf, ncks, ncks_again, cdo, cdo_again,
    )
} | write_clients.CLIENTS  # fmt: skip


def run_all(name: str, argument: Path | str) -> list[float]:
    """Runs a client in a process of its own; returns the figures that it printed, its seconds last."""
    command = [sys.executable, "-m", "tests.benchmarks.clients", name, str(argument)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    *others, seconds = done.stdout.splitlines()
    return [*(figure for line in others for figure in json.loads(line).values()), float(seconds)]


def run(name: str, argument: Path | str) -> float:
    """Runs a client in a process of its own and returns its seconds."""
    return run_all(name, argument)[-1]


if __name__ == "__main__":
    print(CLIENTS[sys.argv[1]](sys.argv[2]))
