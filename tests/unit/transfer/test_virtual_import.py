"""Files of ten kinds are referred to, and read back equal, by icefs and by the official library."""

import json
import os
from pathlib import Path

import h5py
import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr

from icefs.api.repository import Repository
from icefs.api.storage import local_filesystem_storage
from icefs.engine.write.repository import WritableRepository
from icefs.errors import (
    AlreadyExistsError,
    EntryNotFoundError,
    InvalidInputError,
    ObjectModifiedError,
    StorageError,
    UnsupportedError,
)
from icefs.format.config.storage import (
    AzureStore,
    GcsStore,
    LocalFileSystemStore,
    S3Options,
    S3Store,
    VirtualChunkContainer,
)
from icefs.storage.local.ranges import LocalRanges
from icefs.storage.local.store import LocalStorage
from icefs.transfer.files.sources import SourceFile
from icefs.transfer.virtual.containers import common_prefixes, containers_for
from icefs.transfer.virtual.importing import VirtualRequest, import_virtual
from tests.support.virtual_samples import PACKED, SAMPLES, days, make, series, settled

# zarr-python warns of codecs and types that the specification lacks.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def place(tmp_path):
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


class Target:
    """A repository that is imported into."""

    def __init__(self, root):
        self.root = root
        WritableRepository.create(LocalStorage(root)).close()
        self.allow = []

    def add(self, *files, **more):
        repository = WritableRepository.open(LocalStorage(self.root))
        try:
            done = import_virtual(repository, VirtualRequest([str(file) for file in files], message="m", **more))
        finally:
            repository.close()
        self.allow = sorted({*self.allow, *done.allow})
        return done

    def ours(self):
        opened = Repository.open(local_filesystem_storage(self.root), authorize_virtual_chunk_access=self._authorized())
        return opened.readonly_session("main").store

    def official(self):
        opened = icechunk.Repository.open(
            icechunk.local_filesystem_storage(str(self.root)),
            authorize_virtual_chunk_access={
                prefix: icechunk.Credentials.LocalFileSystemAccess() for prefix in self.allow
            }
            if hasattr(icechunk, "Credentials") and hasattr(icechunk.Credentials, "LocalFileSystemAccess")
            else self._authorized(),
        )
        return opened.readonly_session("main").store

    def _authorized(self):
        return dict.fromkeys(self.allow)

    def stores(self):
        return [self.ours(), self.official()]

    def containers(self):
        found = WritableRepository.fetch_config(LocalStorage(self.root))
        return sorted((found.virtual_chunk_containers or {}) if found else ())


@pytest.fixture
def target(tmp_path):
    return Target(tmp_path / "repo")


def values_of(group, path):
    if path:
        return group[path][...]
    [array] = [array for _, array in group.members(max_depth=None) if isinstance(array, zarr.Array) and array.ndim >= 2]
    return np.squeeze(array[...])


@pytest.mark.parametrize("kind", SAMPLES)
def test_what_was_referred_to_is_read_back_equal(place, target, kind):
    path, expected = make(kind, place)
    done = target.add(path)
    assert not done.left_out
    assert sum(array.references for array in done.arrays)
    for store in target.stores():
        group = zarr.open_group(store, mode="r")
        for name, values in expected.items():
            found = values_of(group, name)
            assert found.shape == values.shape
            np.testing.assert_array_equal(found, values)


def test_files_are_joined_and_more_appended_and_xarray_reads_them_as_the_originals(place, target):
    paths = series(place)
    done = target.add(*paths[:2], concat="time")
    assert {array.path: array.references for array in done.arrays} == {"/t2m": 8, "/time": 0, "/x": 0, "/y": 0}
    assert done.codecs == ["numcodecs.shuffle", "numcodecs.zlib"]
    again = target.add(paths[2], concat="time", append=True)
    assert {array.path: array.shape for array in again.arrays} == {"/t2m": (12, 10, 12), "/time": (12,)}
    assert again.containers == []
    assert again.allow == done.allow == [f"file://{place}/"]
    with xr.open_mfdataset(paths, combine="by_coords") as originals:
        for store in target.stores():
            with xr.open_zarr(store, consolidated=False) as found:
                xr.testing.assert_identical(found.load(), originals.load())


def test_a_dry_run_changes_nothing(place, target):
    before = sorted(target.root.rglob("*"))
    done = target.add(*series(place, 2), concat="time", dry_run=True)
    assert done.snapshot_id is None
    assert [container.url_prefix for container in done.containers] == [f"file://{place}/"]
    assert {array.path: array.bytes > 0 for array in done.arrays}["/t2m"]
    assert sorted(target.root.rglob("*")) == before


def differing(path, **changes):
    data = days(4)
    encoding = json.loads(json.dumps(PACKED))
    encoding["t2m"].update(changes.pop("t2m", {}))
    encoding["time"].update(changes.pop("time", {}))
    if "x" in changes:
        data = data.assign_coords(x=data["x"] + changes.pop("x"))
    data.to_netcdf(path, engine="netcdf4", encoding=encoding)
    return settled(path)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"t2m": {"dtype": "i4"}}, "types"),
        ({"t2m": {"zlib": False}}, "codecs"),
        ({"t2m": {"chunksizes": (4, 5, 12)}}, "chunks"),
        ({"t2m": {"scale_factor": 0.1}}, "scale_factor"),
        ({"time": {"units": "hours since 2020-01-01"}}, "units"),
        ({"x": 1}, "values of x"),
    ],
)
def test_files_that_do_not_fit_are_both_named(place, target, changes, word):
    [first] = series(place, 1)
    other = differing(place / "other.nc", **changes)
    for arguments in ({"concat": "time"}, {"concat": "time", "append": True}):
        if "append" in arguments:
            target.add(first, concat="time")
        with pytest.raises(InvalidInputError, match=word) as caught:
            target.add(*([other] if "append" in arguments else [first, other]), **arguments)
        assert "other.nc" in str(caught.value)
        assert ("part0.nc" if "append" not in arguments else "the repository") in str(caught.value)


def test_chunks_that_are_not_full_end_a_dimension(place, target):
    odd = place / "odd.nc"
    days(0, 3).to_netcdf(odd, engine="netcdf4", encoding=PACKED)
    settled(odd)
    following = series(place, 2)[1]
    with pytest.raises(InvalidInputError, match="do not fill its chunks of 2"):
        target.add(odd, following, concat="time")
    target.add(odd, concat="time")
    with pytest.raises(InvalidInputError, match="do not fill its chunks of 2"):
        target.add(following, concat="time", append=True)


def test_files_side_by_side_share_equal_coordinates(place, target):
    one, two = place / "one.nc", place / "two.nc"
    days(0).to_netcdf(one, encoding=PACKED)
    days(0).rename(t2m="d2m").to_netcdf(two, encoding={"d2m": PACKED["t2m"], "time": PACKED["time"]})
    target.add(settled(one), settled(two), path="/both")
    group = zarr.open_group(target.ours(), path="both", mode="r")
    np.testing.assert_array_equal(group["t2m"][...], group["d2m"][...])


def test_only_wanted_arrays_are_referred_to_and_named_ones_are_copied(place, target):
    path, expected = make("hdf5", place)
    done = target.add(path, drop=["never", "scalar"], loadable=["packed"])
    assert {array.path for array in done.arrays} == {"/top/in/packed", "/top/big", "/plain", "/compact"}
    assert {array.path for array in done.arrays if array.copied_chunks} == {"/top/in/packed", "/compact"}
    target.add(path, variables=["plain"], path="/again")
    group = zarr.open_group(target.official(), mode="r")
    np.testing.assert_array_equal(group["top/in/packed"][...], expected["top/in/packed"])
    assert list(group["again"]) == ["plain"]
    with pytest.raises(InvalidInputError, match="no file has an array 'plaintext'"):
        target.add(path, variables=["plaintext"], path="/third")


def test_what_cannot_be_referred_to_is_named_with_the_reason(place, target):
    path = place / "hard.h5"
    with h5py.File(path, "w") as file:
        file["good"] = np.arange(5)
        file["compound"] = np.zeros(3, [("x", "i4"), ("y", "f8")])
        file["away"] = h5py.ExternalLink("other.h5", "/x")
        file["nowhere"] = h5py.SoftLink("/none")
        file.create_dataset("vlen", (2,), h5py.vlen_dtype("i4"))
        file.create_dataset("outside", (4,), "i4", external=[("raw.bin", 0, 16)])
        layout = h5py.VirtualLayout((5,), "i8")
        layout[:] = h5py.VirtualSource(".", "good", (5,))
        file.create_virtual_dataset("assembled", layout)
        unfiltered = file.create_dataset("unfiltered", (4,), "i4", chunks=(4,), compression="gzip")
        unfiltered.id.write_direct_chunk((0,), np.arange(4, dtype="i4").tobytes(), filter_mask=1)
        file.create_dataset("szip", data=np.arange(64, dtype="i4"), chunks=(32,), compression="lzf")
    done = target.add(settled(path))
    reasons = {one.path: one.reason for one in done.left_out}
    assert {"compound", "away", "nowhere", "vlen", "outside", "assembled", "unfiltered"} <= set(reasons)
    assert "without one of its filters" in reasons["unfiltered"]
    assert "/good" in [array.path for array in done.arrays]


def test_a_file_that_changes_is_not_read(place, target):
    path, _ = make("netcdf4", place)
    target.add(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for store in target.stores():
        with pytest.raises((StorageError, icechunk.IcechunkError)):
            zarr.open_group(store, mode="r")["t2m"][...]


def test_a_file_that_changes_during_the_import_ends_it(place, target):
    path, _ = make("netcdf4", place)
    repository = WritableRepository.open(LocalStorage(target.root))

    def change(done):
        if done.files:
            path.write_bytes(path.read_bytes() + b"more")

    with pytest.raises(ObjectModifiedError):
        import_virtual(repository, VirtualRequest([str(path)]), change)
    assert len(list(repository.ancestry(branch="main"))) == 1
    repository.close()


def test_what_exists_is_replaced_only_if_told(place, target):
    path, _ = make("netcdf4", place)
    target.add(path)
    with pytest.raises(AlreadyExistsError, match="exists already"):
        target.add(path)
    assert target.add(path, overwrite=True).replaced


def test_a_link_is_followed_once_and_patterns_are_sorted(place, target):
    paths = series(place, 2)
    (place / "links").mkdir()
    for number, path in enumerate(paths):
        (place / "links" / f"{1 - number}.nc").symlink_to(path)
    target.add(place / "links" / "*.nc", concat="time")
    assert target.containers() == [f"file://{place}/"]
    time = zarr.open_group(target.official(), mode="r")["time"][...]
    assert list(time) == [4, 5, 6, 7, 0, 1, 2, 3]


def test_a_container_that_is_there_is_used(place, target):
    parent = f"file://{place.parent}/"
    repository = WritableRepository.open(LocalStorage(target.root))
    config = repository.config
    config.set_virtual_chunk_container(VirtualChunkContainer(parent, LocalFileSystemStore(str(place.parent))))
    repository.save_config()
    repository.close()
    done = target.add(make("netcdf4", place)[0])
    assert (done.containers, done.allow) == ([], [parent])


def test_a_container_of_another_store_is_refused(place, target):
    repository = WritableRepository.open(LocalStorage(target.root))
    repository.config.set_virtual_chunk_container(VirtualChunkContainer(f"file://{place}/", S3Store(S3Options())))
    repository.save_config()
    repository.close()
    with pytest.raises(InvalidInputError, match="another store"):
        target.add(make("netcdf4", place)[0])


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        (S3Store(S3Options()), S3Store(S3Options(endpoint_url="https://store.example"))),
        (AzureStore({"account": "one"}), AzureStore({"account": "two"})),
        (GcsStore(), GcsStore({"google_base_url": "https://store.example"})),
    ],
)
@pytest.mark.parametrize("below", ["", "other/"])
def test_one_bucket_in_two_stores_is_refused(mine, other, below):
    def file(key, store):
        return SourceFile(key, f"x://bucket/{key}", 1, None, 0, store, LocalRanges("/"), key)

    files = [file("one.nc", mine), file("two.nc", mine)]
    [container], _ = containers_for(files, [])
    assert container.store == mine
    with pytest.raises(InvalidInputError, match=r"two\.nc and one\.nc lie in one bucket.*two stores"):
        containers_for([files[0], file(f"{below}two.nc", other)], [])


@pytest.mark.parametrize(
    ("parents", "expected"),
    [
        (["a/b"], ["a/b"]),
        (["a/b/c", "a/b/d"], ["a/b"]),
        (["a/b", "c/d"], ["a/b", "c/d"]),
        (["a/b/c", "a/d/e", "a/d/f"], ["a/b/c", "a/d"]),
        (["a", "a/b"], ["a"]),
    ],
)
def test_prefixes_are_short_and_never_a_top_level_directory_without_need(parents, expected):
    assert ["/".join(names) for names in common_prefixes([tuple(one.split("/")) for one in parents], 2)] == expected


def test_what_is_not_there_or_no_known_format_is_refused(place, target):
    (place / "text.nc").write_text("hello")
    for name, error in (
        (place / "none.nc", EntryNotFoundError),
        (place / "*.tif", EntryNotFoundError),
        (place / "text.nc", InvalidInputError),
        (place, InvalidInputError),
        ("memory:x", EntryNotFoundError),
        ("gs://bucket/x.nc?user_project=payer&anonymous=true", UnsupportedError),
    ):
        with pytest.raises(error):
            target.add(name)


def test_a_damaged_file_is_one_error(place, target):
    for kind, left in (("netcdf4", 300), ("netcdf3", 150), ("tiff", 300), ("fits", 3000), ("grib", 40)):
        path, _ = make(kind, place)
        os.truncate(path, left)
        with pytest.raises((UnsupportedError, InvalidInputError)):
            target.add(path)


def test_times_of_fresh_files_are_past_when_the_import_ends(place, target):
    path, _ = make("netcdf3", place)
    Path(path).touch()
    target.add(path)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(StorageError):
        zarr.open_group(target.ours(), mode="r")["rows"][...]
