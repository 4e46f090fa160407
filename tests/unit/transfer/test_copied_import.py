"""Files of many kinds are copied, and read back equal, by icefs and by the official library."""

import json
import os
import tracemalloc
import zipfile

import h5py
import icechunk
import numpy as np
import pytest
import scipy.io
import xarray as xr
import zarr

from icefs.api.repository import Repository
from icefs.api.storage import local_filesystem_storage
from icefs.engine.write.repository import WritableRepository
from icefs.errors import AlreadyExistsError, IcefsError, InvalidInputError, ObjectModifiedError, UnsupportedError
from icefs.storage.local.store import LocalStorage
from icefs.transfer.copied.documents import good_chunks
from icefs.transfer.copied.importing import CopyRequest, import_copies
from icefs.transfer.virtual.importing import VirtualRequest, import_virtual
from tests.support.copied_samples import KINDS, dataset, opener, write
from tests.support.virtual_samples import SAMPLES, make, settled

# zarr-python and xarray warn of codecs and types that the specification lacks.
pytestmark = pytest.mark.filterwarnings("ignore")


class Target:
    """A repository that is imported into."""

    def __init__(self, root):
        self.root = root
        WritableRepository.create(LocalStorage(root)).close()

    def add(self, *files, progress=lambda done: None, **more):
        repository = WritableRepository.open(LocalStorage(self.root))
        try:
            request = CopyRequest([str(file) for file in files], message="m", **more)
            return import_copies(repository, request, progress)
        finally:
            repository.close()

    def refuses(self, error, *files, match="", **more):
        """Imports what must fail, and commits nothing then."""
        before = self.commits()
        with pytest.raises(error, match=match) as caught:
            self.add(*files, **more)
        assert self.commits() == before
        return caught.value

    def commits(self):
        repository = WritableRepository.open(LocalStorage(self.root))
        try:
            return [info.id for info in repository.ancestry(branch="main")]
        finally:
            repository.close()

    def stores(self):
        ours = Repository.open(local_filesystem_storage(self.root))
        official = icechunk.Repository.open(icechunk.local_filesystem_storage(str(self.root)))
        return [opened.readonly_session("main").store for opened in (ours, official)]

    def datasets(self, group=None):
        return [xr.open_zarr(store, group=group, consolidated=False) for store in self.stores()]

    def group(self):
        return zarr.open_group(self.stores()[0], mode="r")


@pytest.fixture
def target(tmp_path):
    return Target(tmp_path / "repo")


@pytest.fixture
def place(tmp_path):
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


@pytest.mark.parametrize("kind", SAMPLES)
def test_what_can_be_referred_to_can_be_copied(place, target, kind):
    path, expected = make(kind, place)
    assert not target.add(path).left_out
    for store in target.stores():
        group = zarr.open_group(store, mode="r")
        for name, values in expected.items():
            if name:
                found = group[name][...]
            else:
                [array] = [
                    one for _, one in group.members(max_depth=None) if isinstance(one, zarr.Array) and one.ndim > 1
                ]
                found = np.squeeze(array[...])
            assert found.shape == values.shape
            np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("kind", KINDS)
def test_xarray_reads_a_copy_as_the_original(place, target, kind):
    path = write(dataset(kind), kind, place / "file")
    done = target.add(path)
    assert not done.left_out
    with opener(kind, path)() as original:
        for copy in target.datasets():
            xr.testing.assert_identical(copy.load(), original.load())
            assert {name: copy[name].dtype.kind for name in copy.variables if name != "text"} == {
                name: original[name].dtype.kind for name in original.variables if name != "text"
            }


CHUNKS = {"one": (1, 5, 7), "some": (4, 2, 3), "all": (6, 5, 7)}
PACKINGS = {
    "none": {},
    "zlib": {"zlib": True, "shuffle": False},
    "shuffle": {"zlib": True, "shuffle": True},
    "fletcher32": {"zlib": True, "fletcher32": True},
}


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("chunks", CHUNKS)
def test_any_chunks_and_filters_of_netcdf_are_decoded(place, target, chunks, packing):
    data = dataset("netcdf4")
    sizes = {3: CHUNKS[chunks], 2: CHUNKS[chunks][:2], 1: CHUNKS[chunks][:1]}
    encoding = {
        name: {**PACKINGS[packing], "chunksizes": sizes[variable.ndim]}
        for name, variable in data.data_vars.items()
        if variable.ndim > 1
    }
    path = write(data, "netcdf4", place / "file", encoding)
    done = target.add(path)
    assert not done.left_out
    codecs = {array.path: array.codecs for array in done.arrays}
    assert codecs["/f8"] == (("bytes", "blosc") if packing in ("shuffle", "fletcher32") else ("bytes", "zstd"))
    with opener("netcdf4", path)() as original:
        for copy in target.datasets():
            xr.testing.assert_identical(copy.load(), original.load())


@pytest.mark.parametrize("dtype", ["i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "S3", "?"])
@pytest.mark.parametrize("endian", "<>")
def test_any_type_and_byte_order_of_hdf5_is_copied(place, target, dtype, endian):
    values = (np.arange(12).reshape(3, 4) % 5).astype(np.dtype(dtype).newbyteorder(endian))
    path = place / "types.h5"
    with h5py.File(path, "w") as file:
        file["contiguous"] = values
        file["scalar"] = values[1, 2]
        file.create_dataset(
            "chunked", data=values, chunks=(2, 3), maxshape=(None, None), compression="lzf", shuffle=True
        )
        file.create_dataset("never", shape=(4,), dtype=values.dtype, fillvalue=values[1, 3])
    target.add(settled(path))
    for store in target.stores():
        group = zarr.open_group(store, mode="r")
        np.testing.assert_array_equal(group["contiguous"][...], values)
        np.testing.assert_array_equal(group["chunked"][...], values)
        np.testing.assert_array_equal(group["scalar"][...], values[1, 2])
        np.testing.assert_array_equal(group["never"][...], np.full(4, values[1, 3]))
        assert group["chunked"].dtype == values.dtype.newbyteorder("=")


@pytest.mark.parametrize(
    "compressor", [None, zarr.codecs.ZstdCodec(), zarr.codecs.GzipCodec(), zarr.codecs.BloscCodec(cname="lz4")]
)
@pytest.mark.parametrize("shards", [None, (8, 8)])
def test_chunks_and_codecs_of_zarr_are_kept(place, target, compressor, shards):
    values = np.arange(17 * 9, dtype=">i4").reshape(17, 9)
    array = zarr.create_array(
        place / "a.zarr", shape=values.shape, chunks=(4, 4), shards=shards, dtype=">i4", compressors=compressor
    )
    array[...] = values
    [done] = target.add(settled(place / "a.zarr")).arrays
    assert done.chunk_shape == (shards or (4, 4))
    for store in target.stores():
        found = zarr.open_array(store, path="a.zarr", mode="r")
        assert found.compressors == array.compressors
        np.testing.assert_array_equal(found[...], values)


def test_groups_enumerations_and_names_of_hdf5_are_kept(place, target):
    path = place / "deep.h5"
    with h5py.File(path, "w") as file:
        file.attrs["title"] = b"bytes"
        inner = file.create_group("a/b c")
        inner.attrs["note"] = np.array(["x", "y"], h5py.string_dtype())
        kinds = inner.create_dataset(
            "kinds", data=np.array([0, 2, 1], "u1"), dtype=h5py.enum_dtype({"no": 0, "yes": 2})
        )
        kinds.attrs["long_name"] = "k"
        inner["complex"] = np.array([1 + 2j, 3], "c8")
        inner["fixed"] = np.array([b"ab", b"c"], "S4")
        file["square"] = np.zeros((3, 3))
        file["oblong"] = np.zeros((3, 4))
        file["alias"] = h5py.SoftLink("/a/b c/complex")
    target.add(settled(path))
    for store in target.stores():
        group = zarr.open_group(store, mode="r")
        assert dict(group.attrs) == {"title": "bytes"}
        assert dict(group["a/b c"].attrs) == {"note": ["x", "y"]}
        assert group["a/b c/kinds"].attrs["flag_meanings"] == "no yes"
        assert group["a/b c/kinds"].attrs["flag_values"] == [0, 2]
        assert list(group["a/b c/kinds"][...]) == [0, 2, 1]
        assert list(group["a/b c/complex"][...]) == list(group["alias"][...]) == [1 + 2j, 3]
        assert list(group["a/b c/fixed"][...]) == [b"ab", b"c"]
    for copy in target.datasets():
        assert copy["square"].dims[0] == copy["oblong"].dims[0] != copy["square"].dims[1]


def test_a_dimension_without_coordinate_and_a_variable_of_its_name_are_told_apart(place, target):
    import netCDF4

    path = place / "dims.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("x", 3)
        file.createDimension("n", 2)
        file.createDimension("late", None)
        file.createVariable("v", "f4", ("x", "n"))[:] = 1
        file.createVariable("x", "i4", ("n",))[:] = [7, 8]
        file.createVariable("late", "f8", ("late",))
    target.add(settled(path))
    group = target.group()
    assert sorted(group) == ["late", "v", "x"]
    assert group["v"].metadata.dimension_names == ("x", "n")
    assert group["x"].metadata.dimension_names == ("n",)
    assert group["late"].shape == (0,)


def test_what_cannot_be_copied_is_named_with_the_reason(place, target):
    path = place / "hard.h5"
    with h5py.File(path, "w") as file:
        file["good"] = np.arange(5)
        file["compound"] = np.zeros(3, [("x", "i4"), ("y", "f8")])
        file["away"] = h5py.ExternalLink("other.h5", "/x")
        file["nowhere"] = h5py.SoftLink("/none")
        file["nothing"] = h5py.Empty("f4")
        file.create_dataset("vlen", (2,), h5py.vlen_dtype("i4"))
        file.create_dataset("opaque", data=np.zeros(2, "V3"))
        file.create_dataset("outside", (4,), "i4", external=[("raw.bin", 0, 16)])
        other = h5py.VirtualLayout((5,), "i8")
        other[:] = h5py.VirtualSource("other.h5", "good", (5,))
        file.create_virtual_dataset("assembled", other)
        own = h5py.VirtualLayout((5,), "i8")
        own[:] = h5py.VirtualSource(".", "good", (5,))
        file.create_virtual_dataset("own", own)
        unfiltered = file.create_dataset("unfiltered", (4,), "i4", chunks=(4,), compression="gzip")
        unfiltered.id.write_direct_chunk((0,), np.arange(4, dtype="i4").tobytes(), filter_mask=1)
        file.create_dataset("lzf", data=np.arange(64, dtype="i4"), chunks=(32,), compression="lzf")
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_chunk((4,))
        create.set_filter(40000, h5py.h5z.FLAG_OPTIONAL, (9,))
        h5py.h5d.create(file.id, b"unknown", h5py.h5t.NATIVE_INT32, h5py.h5s.create_simple((4,)), create)
    done = target.add(settled(path))
    reasons = {one.path: one.reason for one in done.left_out}
    assert set(reasons) == {
        *("compound", "away", "nowhere", "nothing", "vlen", "opaque", "outside", "assembled", "unknown")
    }
    assert "pip install hdf5plugin" in reasons["unknown"]
    group = target.group()
    np.testing.assert_array_equal(group["own"][...], np.arange(5))
    np.testing.assert_array_equal(group["unfiltered"][...], np.arange(4))
    np.testing.assert_array_equal(group["lzf"][...], np.arange(64))


def parts(kind, place, lengths=(6, 3, 4), **encoding):
    """Writes files that follow each other, each with its own chunks, and its times since its own first."""
    paths, day = [], 0
    for number, times in enumerate(lengths):
        data = dataset(kind, day, times).drop_vars(["text", "flags", "scalar", "moment", "lapse"])
        own = {}
        if kind in ("netcdf4", "hdf5"):
            own["f8"] = {"chunksizes": (min(number + 1, times), 5, 7), "zlib": number == 1}
        own["time"] = {"units": f"{'hours' if number else 'minutes'} since 2020-01-{day + 1:02}", "dtype": "i4"}
        paths.append(write(data, kind, place / f"part{number}", {**own, **encoding}))
        day += 3
    return paths


@pytest.mark.parametrize("kind", ["netcdf4", "hdf5", "zarr2", "zarr3"])
def test_files_of_any_chunks_and_units_are_joined_and_appended(place, target, kind):
    paths = parts(kind, place)
    target.add(*paths[:2], concat="time")
    done = target.add(paths[2], concat="time", append=True)
    assert {array.path: array.shape for array in done.arrays}["/f8"] == (13, 5, 7)
    assert "/x" not in {array.path for array in done.arrays}
    opened = [opener(kind, path)().load() for path in paths]
    originals = xr.concat(opened, "time", data_vars="minimal", combine_attrs="override")
    for copy in target.datasets():
        xr.testing.assert_identical(copy.load(), originals)
        assert copy["time"].encoding["units"] == "minutes since 2020-01-01"


def test_bounds_are_translated_with_their_coordinate(place, target):
    paths = []
    for number in range(2):
        data = xr.Dataset(
            {"time_bnds": (("time", "two"), np.arange(6, dtype="f8").reshape(3, 2)), "v": ("time", np.zeros(3))},
            {"time": ("time", np.arange(3.0) + 0.5, {"units": f"days since 200{number}-01-01", "bounds": "time_bnds"})},
        )
        data.to_netcdf(place / f"{number}.nc", encoding={name: {"_FillValue": None} for name in data.variables})
        paths.append(settled(place / f"{number}.nc"))
    target.add(paths[0], concat="time")
    target.add(paths[1], concat="time", append=True)
    group = target.group()
    assert list(group["time"][...]) == [0.5, 1.5, 2.5, 366.5, 367.5, 368.5]
    assert group["time_bnds"][3:].tolist() == [[366, 367], [368, 369], [370, 371]]


@pytest.mark.parametrize(
    ("units", "why"),
    [
        ("months since 2020-01-01", "no fixed length"),
        ("days since the beginning", "not understood"),
        ("seconds since 2020-01-01T00:00:01", "no int32 numbers"),
    ],
)
@pytest.mark.parametrize("is_appended", [False, True])
def test_times_that_cannot_be_translated_are_refused(place, target, units, why, is_appended):
    paths = []
    for number, own in enumerate(["days since 2020-01-01", units]):
        data = xr.Dataset(coords={"time": ("time", np.arange(3, dtype="i4"), {"units": own})})
        data.to_netcdf(place / f"{number}.nc")
        paths.append(settled(place / f"{number}.nc"))
    if is_appended:
        target.add(paths[0], concat="time")
        error = target.refuses(InvalidInputError, paths[1], concat="time", append=True, match=why)
    else:
        error = target.refuses(InvalidInputError, *paths, concat="time", match=why)
    assert "1.nc" in str(error)
    assert "same units" in error.hint


def test_references_advise_to_copy_other_units(place, target):
    paths = parts("netcdf4", place)
    repository = WritableRepository.open(LocalStorage(target.root))
    request = VirtualRequest([str(path) for path in paths], concat="time", variables=("time",))
    with pytest.raises(InvalidInputError, match="units of time differ") as caught:
        import_virtual(repository, request)
    assert "--copy translates" in caught.value.hint
    repository.close()


@pytest.mark.parametrize("is_appended", [False, True])
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda data: data.assign_coords(x=data["x"] + 1), "values of x"),
        (lambda data: data.isel(x=slice(3)), "sizes of"),
        (lambda data: data.assign(f8=data["f8"].astype("f4")), "types of f8"),
        (lambda data: data.drop_vars("f8"), "f8"),
    ],
)
def test_files_that_do_not_fit_are_refused(place, target, change, match, is_appended):
    first = write(dataset("zarr3"), "zarr3", place / "one.zarr")
    other = write(change(dataset("zarr3", 2)), "zarr3", place / "two.zarr")
    if is_appended:
        target.add(first, concat="time")
        target.refuses(InvalidInputError, other, concat="time", append=True, match=match)
    else:
        target.refuses(InvalidInputError, first, other, concat="time", match=match)


def test_a_dry_run_changes_nothing(place, target):
    path = write(dataset("netcdf4"), "netcdf4", place / "a.nc")
    before = sorted(target.root.rglob("*"))
    done = target.add(path, dry_run=True)
    assert done.snapshot_id is None
    found = {array.path: (array.chunks, array.bytes) for array in done.arrays}
    assert found["/f8"] == (1, 6 * 5 * 7 * 8)
    assert sorted(target.root.rglob("*")) == before


def test_arrays_are_chosen_and_existing_ones_kept(place, target):
    path = write(dataset("hdf5"), "hdf5", place / "a.h5")
    target.add(path, variables=["f8", "time"], path="/some")
    assert sorted(target.group()["some"]) == ["f8", "time"]
    target.refuses(AlreadyExistsError, path, path="/some")
    done = target.add(path, path="/some", drop=["f8"], overwrite=True)
    assert done.replaced == ["/some/time"]
    assert "f8" in target.group()["some"]
    target.refuses(InvalidInputError, path, variables=["f9"], match="no file has an array 'f9'")


def test_progress_is_told_and_may_end_the_work(place, target):
    path = write(dataset("netcdf4"), "netcdf4", place / "a.nc")
    seen = []
    target.add(path, progress=lambda done: seen.append((done.bytes, done.total_bytes, done.files)))
    assert seen[-1][0] == seen[-1][1] > 0
    assert seen[-1][2] == 1

    def stop(done):
        raise KeyboardInterrupt

    target.refuses(KeyboardInterrupt, path, path="/again", progress=stop)


@pytest.mark.parametrize("kind", ["netcdf4", "netcdf3", "zarr2"])
def test_a_file_that_changes_during_the_import_ends_it(place, target, kind):
    path = write(dataset(kind), kind, place / "file")

    def change(done):
        for each in [path] if path.is_file() else list(path.rglob("0.0.0")):
            each.write_bytes(each.read_bytes() + b"more")

    target.refuses(ObjectModifiedError, path, progress=change)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_one_error_and_no_commit(place, target, kind):
    path = write(dataset(kind), kind, place / "file")
    if path.is_dir():
        chunk = next(one for one in (path / "f8").rglob("*") if one.name[-1] == "0" and one.is_file())
        chunk.write_bytes(b"no chunk")
        settled(path)
    else:
        os.truncate(path, path.stat().st_size * 2 // 3)
    error = target.refuses(IcefsError, path)
    assert isinstance(error, InvalidInputError | UnsupportedError)
    assert str(path.name) in str(error)


def test_a_damaged_chunk_names_the_array_and_the_file(place, target):
    path = place / "sum.h5"
    with h5py.File(path, "w") as file:
        array = file.create_dataset("v", data=np.arange(4000), chunks=(1000,), fletcher32=True)
        at = array.id.get_chunk_info(2).byte_offset
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    error = target.refuses(InvalidInputError, settled(path), match=r"v of .*sum\.h5 cannot be read")
    assert "--drop v" in error.hint


def test_no_known_format_and_zips_of_other_things_are_refused(place, target):
    (place / "text.nc").write_text("hello")
    with zipfile.ZipFile(place / "some.zip", "w") as archive:
        archive.writestr("a/b.txt", "hello")
    (place / "bad.zip").write_bytes(b"PK\x03\x04" + bytes(40))
    target.refuses(InvalidInputError, place / "text.nc", match="neither NetCDF")
    target.refuses(InvalidInputError, place / "some.zip", match="without Zarr metadata")
    target.refuses(InvalidInputError, place / "bad.zip", match="no zip file")


def test_a_zarr_in_a_directory_of_a_zip_is_found(place, target):
    tree = write(dataset("zarr3"), "zarr3", place / "inner.zarr")
    with zipfile.ZipFile(place / "outer.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for each in tree.rglob("*"):
            archive.write(each, each.relative_to(place))
    target.add(settled(place / "outer.zip"))
    for copy in target.datasets():
        xr.testing.assert_identical(copy.load(), opener("zarr3", tree)().load())


@pytest.mark.parametrize("kind", ["netcdf3", "hdf5"])
def test_memory_is_bounded_by_chunks_not_by_the_file(place, target, kind):
    shape = (40, 1024, 512)  # 160 MiB
    path = place / "large"
    if kind == "netcdf3":
        with scipy.io.netcdf_file(path, "w", version=2) as file:
            for name, size in zip("zyx", shape, strict=True):
                file.createDimension(name, size)
            file.createVariable("v", "f8", ("z", "y", "x"))[:] = np.arange(shape[0])[:, None, None]
    else:
        with h5py.File(path, "w") as file:
            file["v"] = np.broadcast_to(np.arange(shape[0], dtype="f8")[:, None, None], shape)
    settled(path)
    tracemalloc.start()
    try:
        target.add(path)
        assert tracemalloc.get_traced_memory()[1] < 96 << 20
    finally:
        tracemalloc.stop()
    array = target.group()["v"]
    assert array[:, 5, 7].tolist() == list(range(shape[0]))
    assert array.chunks == (1, 1024, 512)


@pytest.mark.parametrize(
    ("shape", "chunks", "itemsize", "expected"),
    [
        ((1000,), (1,), 8, (1000,)),
        ((10**9,), (512,), 8, (131072,)),
        ((5,), (512,), 8, (512,)),
        ((100, 1000, 1000), (1, 1000, 1000), 4, (1, 1000, 1000)),
        ((100, 10, 10), (1, 10, 10), 4, (100, 10, 10)),
        ((100000, 10, 10), (1, 10, 10), 4, (2621, 10, 10)),
        ((6, 5), None, 8, (6, 5)),
        ((0, 5), None, 8, (1, 5)),
        ((1000, 1000, 10), None, 8, (13, 1000, 10)),
        ((2, 10_000, 10_000), None, 8, (1, 13, 10_000)),
        ((10**9,), None, 1, (1 << 20,)),
        ((), None, 8, ()),
        ((), (), 8, ()),
    ],
)
def test_chunks_are_of_a_good_size(shape, chunks, itemsize, expected):
    assert good_chunks(shape, chunks, itemsize) == expected


def test_the_request_is_checked(place, target):
    path = write(dataset("netcdf4"), "netcdf4", place / "a.nc")
    target.refuses(InvalidInputError, path, append=True, match="needs the dimension")
    target.refuses(InvalidInputError, path, append=True, concat="time", overwrite=True, match="exclude")
    target.refuses(InvalidInputError, path, concat="height", match="no array of .* has the dimension 'height'")
    target.refuses(InvalidInputError, path, path="relative", match="not the absolute path")
    target.refuses(InvalidInputError, path, concat="time", append=True, match="is not in the repository")


def test_json_of_a_copy_is_valid_zarr(place, target):
    target.add(write(dataset("netcdf4"), "netcdf4", place / "a.nc"))
    repository = WritableRepository.open(LocalStorage(target.root))
    session = repository.session_at(repository.lookup_branch("main"))
    for node in session.list_nodes("/"):
        assert json.loads(node.user_data)["zarr_format"] == 3
    repository.close()
