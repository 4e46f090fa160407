"""`icefs import --copy` holds a few chunks in memory, however large the file is: the process's own peak tells."""

import itertools
import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import zarr

from icefs.cli.main import main
from tests.support.virtual_samples import settled

SHAPE = (256, 1024, 512)  # 1 GiB of values
BOUND_KIB = 128 << 10

PROGRAM = """
import json, re, sys
import h5py, numpy, virtualizarr, xarray, zarr  # their own memory is none of the copy's
from icefs.cli.main import main
import icefs.transfer.copied.importing

def kib(name):
    return int(re.search(name + r":\\s*(\\d+) kB", open("/proc/self/status").read())[1])

before = kib("VmRSS")
code = main(["import", "--copy", sys.argv[1], sys.argv[2]])
print(json.dumps([code, kib("VmHWM") - before]))
"""


def netcdf3(path: Path) -> None:
    with scipy.io.netcdf_file(path, "w", version=2) as file:
        file.createDimension("z", None)
        file.createDimension("y", SHAPE[1])
        file.createDimension("x", SHAPE[2])
        file.createVariable("v", "f8", ("z", "y", "x"))[0] = np.zeros(SHAPE[1:])
        file.createVariable("w", "f8", ("z",))[0] = 0
    # As many records as there are to be, of which the file system has the first alone.
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(4)
        file.write(SHAPE[0].to_bytes(4, "big"))
        file.truncate(len(data) + (SHAPE[0] - 1) * (SHAPE[1] * SHAPE[2] * 8 + 8))


def netcdf4(path: Path) -> None:
    chunk = zlib.compress(np.full((8, 128, 256), 5.0).tobytes(), 1)
    with h5py.File(path, "w") as file:
        array = file.create_dataset("v", SHAPE, "f8", chunks=(8, 128, 256), compression="gzip")
        for at in itertools.product(range(0, SHAPE[0], 8), range(0, SHAPE[1], 128), [0, 256]):
            array.id.write_direct_chunk(at, chunk)


def contiguous(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("v", SHAPE, "f8", chunks=None)[-1] = 7


@pytest.mark.parametrize("make", [netcdf3, netcdf4, contiguous], ids=lambda make: make.__name__)
def test_the_peak_is_bounded(make, tmp_path):
    path, repo = tmp_path / "large.nc", tmp_path / "repo"
    make(path)
    settled(path)
    assert main(["init", str(repo)]) == 0
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, path, repo],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "XDG_STATE_HOME": str(tmp_path / "state")},
        capture_output=True,
        text=True,
        check=True,
    )
    code, peak_kib = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    assert peak_kib < BOUND_KIB, f"{peak_kib >> 10} MiB"
    import icefs

    opened = icefs.Repository.open(icefs.local_filesystem_storage(repo))
    array = zarr.open_group(opened.readonly_session("main").store, mode="r")["v"]
    assert array.shape == SHAPE
    assert array[-1, 0, 0] == {netcdf3: 0, netcdf4: 5, contiguous: 7}[make]
