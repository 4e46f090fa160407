"""NetCDF views of a repository, with the decoder that mounts use."""

import netCDF4
import numpy as np
import pytest

from icefs.views.decoder import Decoding, ZarrDecoder
from icefs.views.netcdf3.format import NetCdf3Format
from icefs.views.netcdf4.format import NetCdf4Format
from tests.support.netcdf_samples import climate, every_number, every_other_type
from tests.support.netcdf_views import WrittenDecoder, WrittenHierarchy, files_of, read_whole
from tests.support.viewed import hierarchy_of


@pytest.fixture
def decoding():
    made = Decoding()
    yield made
    made.close()


def variables_of(root, directory):
    """Returns the values and attributes of all variables of a view, by file and name."""
    found = {}
    for path, file in files_of(root):
        place = directory / path.replace("/", "_")
        place.write_bytes(read_whole(file.layout()))
        with netCDF4.Dataset(place) as dataset:
            dataset.set_auto_maskandscale(False)
            for name, variable in dataset.variables.items():
                attributes = {key: variable.getncattr(key) for key in variable.ncattrs()}
                found[path, name] = (variable.dimensions, variable[...], attributes)
    return found


# Classic files refuse 64-bit integers that floats do not hold, so that `every_number` is not for them.
CASES = [
    (NetCdf4Format(), climate),
    (NetCdf4Format(), every_number),
    (NetCdf4Format(), every_other_type),
    (NetCdf3Format(), climate),
    (NetCdf3Format(), every_other_type),
]


@pytest.mark.parametrize(("form", "tree"), CASES)
def test_a_repository_is_shown_as_zarr_python_reads_it(tmp_path, decoding, form, tree):
    hierarchy, written = hierarchy_of(tree), WrittenHierarchy(tree)
    found = variables_of(form.root(hierarchy, ZarrDecoder(hierarchy, decoding)), tmp_path)
    expected = variables_of(form.root(written, WrittenDecoder(written)), tmp_path)
    assert found.keys() == expected.keys()
    assert len(found) >= 9
    for key, (dimensions, values, attributes) in expected.items():
        assert found[key][0] == dimensions
        np.testing.assert_array_equal(found[key][1], values)
        np.testing.assert_equal(found[key][2], attributes)
