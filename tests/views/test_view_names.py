"""Names and types that a format lacks, and tags whose names have odd characters, on a real mount."""

import os

import netCDF4
import numpy as np
import pytest

from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from icefs.vfs.names import encode_ref
from icefs.views.cf.names import original_name, shown_name
from tests.support import view_judges as judges
from tests.support.mounting import mounted
from tests.support.viewed import commit_arrays

NAMES = (
    "plain",
    "-minus",
    "100%",
    "a b",
    "tail ",
    "é",
    "e\u0301",
    "Ω:x",
    "CLASS",
    "q'\"uote",
    "_%",
    "two\nlines",
    "n" * 220,
)
TAGS = ("v1 final", "100%", "ünï", "a:b@c", "-dash", "q'\"uote", "back\\slash", "two\nlines", "*?[x]", "views", "#1")
VALUES = list(range(1, len(NAMES) + 1))
STRUCTURE = np.dtype([("x", "i4"), ("y", "f8")])
MOUNTED_FORMATS = ("netcdf", "netcdf3", "zarr2", "npy")


def write(root):
    for name, value in zip(NAMES, VALUES, strict=True):
        root.create_array(name, shape=(2,), chunks=(1,), dtype="i4", fill_value=0)[:] = value
    root.create_array("struct", shape=(2,), chunks=(1,), dtype=STRUCTURE)[:] = np.array([(1, 2.5), (3, 4.5)], STRUCTURE)


@pytest.fixture(scope="module")
def mount(tmp_path_factory):
    """Mounts a repository of such names, with tags of such names."""
    place = str(tmp_path_factory.mktemp("names") / "repository")
    with WritableRepository.create(open_storage(place)) as repository:
        commit_arrays(repository, write)
        for name in TAGS:
            repository.create_tag(name, repository.lookup_branch("main"))
    with mounted(place) as mount:
        yield mount


@pytest.mark.parametrize("view", ["netcdf", "netcdf3"])
def test_forbidden_names_are_shown_as_others_that_lead_back(mount, view):
    """Each name is one that the library and a program take, none stands for two, and the values are its own."""
    with netCDF4.Dataset(mount / ".icefs/views" / view / "branches/main/root.nc") as root:
        root.set_auto_mask(False)
        found = {name: variable[:].tolist() for name, variable in root.variables.items()}
        assert found == {shown_name(name): [value] * 2 for name, value in zip(NAMES, VALUES, strict=True)}
        assert {original_name(name) for name in found} == {*NAMES[:-1], None}
        assert "/struct" in root.getncattr("icefs_left_out")
    for name in ("a b", "é", "_%2Dminus", "100%25"):
        assert name in found


def test_a_structure_is_left_out_of_netcdf_and_shown_by_numpy(mount):
    views = mount / ".icefs/views"
    for view in ("netcdf", "netcdf3"):
        with netCDF4.Dataset(views / view / "branches/main/root.nc") as root:
            assert "struct" not in root.variables
            [line] = root.getncattr("icefs_left_out").splitlines()
            assert line.startswith("/struct: ")
    read = np.load(views / "npy/branches/main/struct.npy")
    assert read.dtype == STRUCTURE
    assert read.tolist() == [(1, 2.5), (3, 4.5)]


@pytest.mark.parametrize("view", MOUNTED_FORMATS)
def test_tags_of_any_characters_are_found_below_the_views_of_a_repository(mount, view):
    above = mount / ".icefs/views" / view / "tags"
    assert sorted(os.listdir(above)) == sorted(str(encode_ref(name)) for name in TAGS)
    inside = sorted(os.listdir(mount / ".icefs/views" / view / "branches/main"))
    for name in os.listdir(above):
        assert sorted(os.listdir(above / name)) == inside
        assert sorted(os.listdir(mount / "tags" / name / ".icefs/views" / view)) == inside


def test_programs_read_from_tags_of_odd_characters(mount):
    views = mount / ".icefs/views"
    for name in TAGS:
        assert np.load(views / "npy/tags" / str(encode_ref(name)) / "plain.npy").tolist() == [1, 1]
        # The NetCDF library does not open plain files below such a directory, either.
        if "\\" not in name:
            [found] = judges.ncdump(views / "netcdf/tags" / str(encode_ref(name)) / "root.nc", ["plain"]).values()
            assert found.tolist() == [1, 1]
