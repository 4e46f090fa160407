"""Programs that nobody here wrote, and that read views: each returns the values of variables, flat and as float64.

Values are those that are stored, where a program can show them; missing ones may be NaN.
"""

import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import rasterio
import xarray
import z5py
import zarr

from tests.support.ci import require

type Values = Mapping[str, np.ndarray]
type Judge = Callable[[Path | str, Sequence[str]], Values]

DEBIAN_PYTHON = "/usr/bin/python3"
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", "OMP_NUM_THREADS": "1"}


def output_of(*command: str, deadline_s: float = 60) -> str:
    """Runs a program that must succeed, and returns what it prints."""
    require(Path(command[0]).exists(), command[0])
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=deadline_s, check=False, env=_ENVIRONMENT, cwd="/"
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def _numbers(text: str) -> np.ndarray:
    texts = text.replace(",", " ").split()
    return np.array([np.nan if one.startswith(("_", "NaN", "NA")) else float(one) for one in texts])


def ncdump(file: Path | str, names: Sequence[str]) -> Values:
    """Reads with netCDF-C's ncdump."""
    text = output_of("/usr/bin/ncdump", "-p", "9,17", "-v", ",".join(names), str(file)).partition("\ndata:\n")[2]
    return {name: _numbers(re.search(rf"^ {re.escape(name)} = ?(.*?);", text, re.M | re.S)[1]) for name in names}


def ncks(file: Path | str, names: Sequence[str]) -> Values:
    """Reads with NCO."""
    printed = output_of("/usr/bin/ncks", "--trd", "-H", "-C", "-v", ",".join(names), str(file))
    # A line has the coordinates of a value before it.
    return {
        name: _numbers(" ".join(re.findall(rf"(?<!\S){re.escape(name)}(?:\[\d+\])? ?= ?(\S+)\s*$", printed, re.M)))
        for name in names
    }


def netcdf4(file: Path | str, names: Sequence[str]) -> Values:
    """Reads with netCDF4-python."""
    with netCDF4.Dataset(file) as dataset:
        dataset.set_auto_maskandscale(False)
        return {name: np.asarray(dataset[name][...], "f8").ravel() for name in names}


def xarray_with(engine: str) -> Judge:
    """Reads with xarray and one of its engines."""

    def read(file: Path | str, names: Sequence[str]) -> Values:
        with xarray.open_dataset(file, engine=engine, decode_cf=False) as dataset:
            return {name: np.asarray(dataset[name].values, "f8").ravel() for name in names}

    return read


def hdf5(file: Path | str, names: Sequence[str]) -> Values:
    """Reads with h5py, which knows nothing of NetCDF."""
    with h5py.File(file) as opened:
        return {name: np.asarray(opened[name][...], "f8").ravel() for name in names}


def rasterio_netcdf(file: Path | str, names: Sequence[str]) -> Values:
    """Reads with rasterio's GDAL variables with latitudes from south to north, which GDAL turns round."""
    found = {}
    for name in names:
        with rasterio.open(f'netcdf:"{file}":{name}') as dataset:
            found[name] = np.asarray(dataset.read()[:, ::-1], "f8").ravel()
    return found


_GDAL = """
import json, sys, numpy
from osgeo import gdal
gdal.UseExceptions()
root = gdal.OpenEx(sys.argv[1], gdal.OF_MULTIDIM_RASTER).GetRootGroup()
print(json.dumps({name: root.OpenMDArray(name).ReadAsArray().astype("f8").ravel().tolist() for name in sys.argv[2:]}))
"""

_ZARR_2 = """
import json, sys, zarr
assert zarr.__version__.startswith("2."), zarr.__version__
root = zarr.open_group(sys.argv[1], mode="r")
print(json.dumps({name: root[name][...].astype("f8").ravel().tolist() for name in sys.argv[2:]}))
"""

_R = """
library(ncdf4)
arguments <- commandArgs(trailingOnly = TRUE)
file <- nc_open(arguments[1])
for (name in arguments[-1]) {
    values <- ncvar_get(file, name, raw_datavals = TRUE)
    cat(sprintf("%.17g", as.double(values)), "\n", sep = " ")
}
"""

_OCTAVE = """
pkg load netcdf;
import_netcdf;
file = netcdf.open("%s", "NOWRITE");
for name = {%s}
    values = netcdf.getVar(file, netcdf.inqVarID(file, name{1}));
    printf("%%.17g ", double(values(:)));
    printf("\\n");
end
"""


def _of_json(text: str) -> Values:
    return {name: np.array(values, "f8") for name, values in json.loads(text).items()}


def gdal(place: Path | str, names: Sequence[str]) -> Values:
    """Reads with Debian's GDAL, as arrays of many dimensions."""
    return _of_json(output_of(DEBIAN_PYTHON, "-c", _GDAL, str(place), *names))


def zarr_python_2(place: Path | str, names: Sequence[str]) -> Values:
    """Reads with Debian's zarr-python."""
    return _of_json(output_of(DEBIAN_PYTHON, "-c", _ZARR_2, str(place), *names))


def zarr_python_3(place: Path | str, names: Sequence[str]) -> Values:
    """Reads with zarr-python as Zarr v2."""
    root = zarr.open_group(place, mode="r", zarr_format=2)
    return {name: np.asarray(root[name][...], "f8").ravel() for name in names}


def z5(place: Path | str, names: Sequence[str]) -> Values:
    """Reads with z5, of C++."""
    root = z5py.File(str(place), mode="r", use_zarr_format=True)
    return {name: np.asarray(root[name][...], "f8").ravel() for name in names}


def as_zarr(judge: Judge) -> Judge:
    """Has a program of netCDF-C's read a directory as Zarr v2."""

    def read(place: Path | str, names: Sequence[str]) -> Values:
        return judge(f"file://{place}#mode=zarr,file", names)

    return read


def _lines(names: Sequence[str], text: str) -> Values:
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) == len(names), text
    return {name: _numbers(line) for name, line in zip(names, lines, strict=True)}


def ncdf4_of_r(file: Path | str, names: Sequence[str]) -> Values:
    """Reads with R's ncdf4."""
    return _lines(names, output_of("/usr/bin/Rscript", "--vanilla", "-e", _R, str(file), *names))


def octave(file: Path | str, names: Sequence[str]) -> Values:
    """Reads with Octave's netcdf package."""
    code = _OCTAVE % (file, ", ".join(f'"{name}"' for name in names))
    return _lines(names, output_of("/usr/bin/octave-cli", "--norc", "--no-history", "--eval", code))


def cdo(file: Path | str, names: Sequence[str]) -> Values:
    """Reads with CDO, which unpacks, and prints the fill value for missing values."""
    return {
        name: _numbers(output_of("/usr/bin/cdo", "-s", "outputf,%.9g,1", f"-selname,{name}", str(file)))
        for name in names
    }
