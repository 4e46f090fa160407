"""Any arrays, as Zarr v2 and npy, have the values that zarr-python reads from the repository."""

import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from icefs.views.formats import parse_format
from icefs.zarr.store import IcechunkStore
from tests.support.soak import depth
from tests.support.view_files import view_of, write_out
from tests.support.viewed import repository_of

_CASES = depth(12, 300)
_NUMBERS = ("bool", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "M8[s]", "m8[ms]")
_OTHERS = ("S3", "U2", "V4")

sizes = st.integers(1, 5)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
attributes = st.dictionaries(st.text(max_size=6), values, max_size=4)


@st.composite
def arrays(draw):
    ndim = draw(st.integers(0, 3))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(ndim))
    chunks = tuple(draw(sizes) for _ in range(ndim))
    is_sharded = ndim > 0 and draw(st.booleans())
    shards = tuple(size * draw(st.integers(1, 3)) for size in chunks) if is_sharded else None
    return {
        "shape": shape,
        "chunks": chunks,
        "shards": shards,
        "dtype": draw(st.sampled_from((*_NUMBERS, *_OTHERS))),
        "serializer": draw(st.sampled_from(("little", "big"))),
        "compressor": draw(st.sampled_from((None, zarr.codecs.ZstdCodec(), zarr.codecs.GzipCodec()))),
        "names": draw(st.none() | st.tuples(*[st.none() | st.sampled_from("xyz") for _ in range(ndim)])),
        "attributes": draw(attributes),
        "written": draw(st.integers(0, shape[0])) if ndim else draw(st.integers(0, 1)),
    }


def create(root, name, drawn):
    dtype = np.dtype(drawn["dtype"])
    multiple = dtype.itemsize > 1 and dtype.kind not in "SV"
    made = root.create_array(
        name,
        shape=drawn["shape"],
        chunks=drawn["chunks"],
        shards=drawn["shards"],
        dtype=dtype,
        serializer=zarr.codecs.BytesCodec(endian=drawn["serializer"] if multiple else None),
        compressors=drawn["compressor"],
        dimension_names=drawn["names"],
        attributes=drawn["attributes"],
    )
    numbers = np.arange(1, made.size + 1).reshape(made.shape)
    data = numbers.astype("S4").astype(dtype) if dtype.kind == "V" else numbers.astype(dtype)
    if not made.ndim:
        if drawn["written"]:
            made[...] = data
    elif drawn["written"]:
        made[: drawn["written"]] = data[: drawn["written"]]


def as_shown(found, name, values):
    """Returns what the decoded view shows of an array, in the array's own type."""
    if values.dtype.kind == "c":
        return (found[f"{name}_real"][...] + 1j * found[f"{name}_imag"][...]).reshape(values.shape)
    shown = found[name][...].reshape(values.shape)
    return shown.view(values.dtype) if values.dtype.kind in "Mm" else shown


@settings(max_examples=_CASES, deadline=None)
@given(st.lists(arrays(), min_size=1, max_size=3))
def test_values_are_those_of_the_repository(drawn):
    def write(root):
        for number, one in enumerate(drawn):
            create(root if number < 2 else root.require_group("g"), f"a{number}", one)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr-python warns of data types without a specification
        repository = repository_of(write)
        stored = zarr.open_group(IcechunkStore(repository.readonly_session("main")), mode="r")
        place = Path(tempfile.mkdtemp())
        try:
            targets = {
                text: write_out(view_of(repository, parse_format(text).make()), place / text)
                for text in ("zarr2", "zarr2,compressed", "npy")
            }
            plain = zarr.open_group(targets["zarr2"], mode="r", zarr_format=2)
            native = zarr.open_group(targets["zarr2,compressed"], mode="r", zarr_format=2)
            for number in range(len(drawn)):
                name = f"a{number}" if number < 2 else f"g/a{number}"
                values = stored[name][...]
                np.testing.assert_array_equal(native[name][...], values)
                np.testing.assert_array_equal(np.load(targets["npy"] / f"{name}.npy", mmap_mode="r"), values)
                if values.dtype.kind in "SUV":
                    assert name not in plain
                else:
                    np.testing.assert_array_equal(as_shown(plain, name, values), values)
        finally:
            shutil.rmtree(place)
