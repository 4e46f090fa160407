"""Programs that nobody here wrote, and that read views: each returns the values of variables, flat.

Numbers come as float64: those that are stored, where a program can show them; missing ones may be NaN. Texts come as
texts. Programs that take long to start are started once for many files.
"""

import json
import re
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import numpy as np
import rasterio
import rasterio.errors
import xarray
import z5py
import zarr

from tests.support.ci import require

type Values = Mapping[str, np.ndarray]
type Place = Path | str
type Question = tuple[Place, Sequence[str]]
type Judge = Callable[[Sequence[Question]], list[Values]]
type Reader = Callable[[Place, Sequence[str]], Values]

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


def each(read: Reader) -> Judge:
    """Has a program answer one question after the other."""
    return lambda questions: [read(place, names) for place, names in questions]


def _flat(values: Any) -> np.ndarray:
    """Returns numbers as float64, and texts as texts; rows of single characters are texts."""
    array = np.ma.getdata(np.asanyarray(values))
    if array.dtype.kind in "mM":
        array = array.view("i8")
    if array.dtype.kind in "bif" + "u":
        return array.astype("f8").ravel()
    if array.dtype == "S1" and array.ndim:
        array = np.array([b"".join(row) for row in array])
    return np.array([one.decode() if isinstance(one, bytes) else str(one) for one in array.ravel().tolist()])


def _printed(text: str) -> np.ndarray:
    """Reads numbers, or texts in quotation marks; ncdump prints the empty text, which is NetCDF's fill value, as _."""
    if '"' not in text:
        return _numbers(text)
    texts = re.findall(r'"([^"]*)"|(?<!\w)_(?!\w)', text)
    return np.array([re.sub(r"(?:\\\d{3})+", _unescaped, one) for one in texts])


def _unescaped(octal: re.Match[str]) -> str:
    return bytes(int(code, 8) for code in octal[0].split("\\")[1:]).decode()


def _numbers(text: str) -> np.ndarray:
    texts = text.replace(",", " ").split()
    return np.array([np.nan if one.startswith(("_", "NaN", "NA")) else float(one) for one in texts])


def ncdump(file: Place, names: Sequence[str]) -> Values:
    """Reads with netCDF-C's ncdump."""
    text = output_of("/usr/bin/ncdump", "-p", "9,17", "-v", ",".join(names), str(file)).partition("\ndata:\n")[2]
    return {name: _printed(re.search(rf"^ {re.escape(name)} = ?(.*?);", text, re.M | re.S)[1]) for name in names}


def ncks(file: Place, names: Sequence[str]) -> Values:
    """Reads with NCO."""
    printed = output_of("/usr/bin/ncks", "--trd", "-H", "-C", "-v", ",".join(names), str(file))
    found = {}
    for name in names:
        start = rf"(?:^|\s){re.escape(name)}(?:\[[-\d]+\])? ?= ?"
        try:
            # A line has the coordinates of a value before it.
            found[name] = _numbers(" ".join(re.findall(rf"{start}(\S+)\s*$", printed, re.M)))
        except ValueError:  # texts; those of characters are in quotation marks
            texts = re.findall(rf"{start}(.*?) ?$", printed, re.M)
            found[name] = np.array([re.sub(r"""^(["'])(.*)\1$""", r"\2", text) for text in texts])
    return found


def netcdf4(file: Place, names: Sequence[str]) -> Values:
    """Reads with netCDF4-python."""
    with netCDF4.Dataset(file) as dataset:
        dataset.set_auto_maskandscale(False)
        return {name: _flat(dataset[name][...]) for name in names}


def xarray_with(engine: str) -> Reader:
    """Reads with xarray and one of its engines."""

    def read(file: Place, names: Sequence[str]) -> Values:
        with xarray.open_dataset(file, engine=engine, decode_cf=False) as dataset:
            return {name: _flat(dataset[name].values) for name in names}

    return read


def hdf5(file: Place, names: Sequence[str]) -> Values:
    """Reads with h5py, which knows nothing of NetCDF."""
    with h5py.File(file) as opened:
        return {name: _flat(opened[name][...]) for name in names}


def rasterio_netcdf(file: Place, names: Sequence[str]) -> Values:
    """Reads with rasterio's GDAL, which turns variables of NetCDF upside down."""
    return {name: _raster(f'netcdf:"{file}":{name}')[:, ::-1].ravel() for name in names}


def rasterio_zarr(place: Place, names: Sequence[str]) -> Values:
    """Reads with rasterio's GDAL, as Zarr v2."""
    return {name: _raster(f'ZARR:"{place}/{name}"').ravel() for name in names}


def gdal_translate(file: Place, names: Sequence[str]) -> Values:
    """Has Debian's GDAL make TIFF files of variables, which rasterio reads."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            made = f"{scratch}/{name}.tif"
            output_of("/usr/bin/gdal_translate", "-q", f'NETCDF:"{file}":{name}', made)
            found[name] = _raster(made)[:, ::-1].ravel()
    return found


def _raster(name: str) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(name) as dataset:
            return np.asarray(dataset.read(), "f8")


_GDAL = """
import json, sys
from osgeo import gdal
gdal.UseExceptions()
def values(array):
    if array.GetDataType().GetClass() == gdal.GEDTC_STRING:
        return list(array.Read())
    return array.ReadAsArray().astype("f8").ravel().tolist()
def answer(place, names):
    root = gdal.OpenEx(place, gdal.OF_MULTIDIM_RASTER).GetRootGroup()
    return {name: values(root.OpenMDArray(name)) for name in names}
print(json.dumps([answer(*question) for question in json.loads(sys.argv[1])]))
"""

_ZARR_2 = """
import json, sys, zarr
assert zarr.__version__.startswith("2."), zarr.__version__
def values(array):
    if array.dtype.kind in "mM":
        array = array.view("i8")
    if array.dtype.kind in "US":
        return array.astype("U").tolist() if array.dtype.kind == "U" else [one.decode() for one in array.tolist()]
    return array.astype("f8").ravel().tolist()
def answer(place, names):
    root = zarr.open_group(place, mode="r")
    return {name: values(root[name][...]) for name in names}
print(json.dumps([answer(*question) for question in json.loads(sys.argv[1])]))
"""

_R = """
library(ncdf4)
arguments <- commandArgs(trailingOnly = TRUE)
for (at in seq(1, length(arguments), 2)) {
    file <- nc_open(arguments[at])
    for (name in strsplit(arguments[at + 1], ",")[[1]]) {
        values <- ncvar_get(file, name, raw_datavals = TRUE)
        texts <- if (is.character(values)) dQuote(values, FALSE) else sprintf("%.17g", as.double(values))
        cat("=", texts, "\\n", sep = " ")
    }
    nc_close(file)
}
"""

_OCTAVE = """
pkg load netcdf;
import_netcdf;
for question = {%s}
    file = netcdf.open(question{1}{1}, "NOWRITE");
    for name = question{1}{2}
        values = netcdf.getVar(file, netcdf.inqVarID(file, name{1}));
        printf("= ");
        if iscell(values)
            printf("\\"%%s\\" ", values{:});
        elseif ischar(values)
            printf("\\"%%s\\" ", cellfun(@(row) strrep(row, char(0), ""), cellstr(values'), "UniformOutput", false){:});
        else
            printf("%%.17g ", double(values(:)));
        end
        printf("\\n");
    end
    netcdf.close(file);
end
"""


def _of_json(text: str) -> list[Values]:
    return [{name: _flat(values) for name, values in answer.items()} for answer in json.loads(text)]


def _to_json(questions: Sequence[Question]) -> str:
    return json.dumps([(str(place), list(names)) for place, names in questions])


def gdal(questions: Sequence[Question]) -> list[Values]:
    """Reads with Debian's GDAL, as arrays of many dimensions."""
    return _of_json(output_of(DEBIAN_PYTHON, "-c", _GDAL, _to_json(questions)))


def zarr_python_2(questions: Sequence[Question]) -> list[Values]:
    """Reads with Debian's zarr-python."""
    return _of_json(output_of(DEBIAN_PYTHON, "-c", _ZARR_2, _to_json(questions)))


def zarr_python_3(place: Place, names: Sequence[str]) -> Values:
    """Reads with zarr-python as Zarr v2."""
    root = zarr.open_group(place, mode="r", zarr_format=2)
    return {name: _flat(root[name][...]) for name in names}


def z5(place: Place, names: Sequence[str]) -> Values:
    """Reads with z5, of C++."""
    root = z5py.File(str(place), mode="r", use_zarr_format=True)
    return {name: _flat(root[name][...]) for name in names}


def as_zarr(judge: Reader) -> Reader:
    """Has a program of netCDF-C's read a directory as Zarr v2."""

    def read(place: Place, names: Sequence[str]) -> Values:
        return judge(f"file://{place}#mode=zarr,file", names)

    return read


def _lines(questions: Sequence[Question], text: str) -> list[Values]:
    # R prints warnings among them.
    lines = iter([line[2:] for line in text.splitlines() if line.startswith("= ")])
    answers = [{name: _printed(next(lines)) for name in names} for _, names in questions]
    assert next(lines, None) is None, text
    return answers


def ncdf4_of_r(questions: Sequence[Question]) -> list[Values]:
    """Reads with R's ncdf4."""
    arguments = [text for place, names in questions for text in (str(place), ",".join(names))]
    return _lines(questions, output_of("/usr/bin/Rscript", "--vanilla", "-e", _R, *arguments))


def octave(questions: Sequence[Question]) -> list[Values]:
    """Reads with Octave's netcdf package."""
    asked = ("{" + f'"{place}", {{' + ", ".join(f'"{name}"' for name in names) + "}}" for place, names in questions)
    code = _OCTAVE % ", ".join(asked)
    return _lines(questions, output_of("/usr/bin/octave-cli", "--norc", "--no-history", "--eval", code))


def cdo(file: Place, names: Sequence[str]) -> Values:
    """Reads with CDO, which unpacks, and prints the fill value for missing values."""
    return {
        name: _numbers(output_of("/usr/bin/cdo", "-s", "outputf,%.9g,1", f"-selname,{name}", str(file)))
        for name in names
    }
