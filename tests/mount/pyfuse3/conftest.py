"""The tests of what programs get, once more through pyfuse3: each module here is one of `tests/mount`."""

import pytest

from icefs.daemon.options import NATIVE, PYFUSE3, MountOptions


@pytest.fixture(scope="module", autouse=True)
def fuse_library():
    """Makes pyfuse3 what a mount takes unless it names another way."""
    defaults = MountOptions.__init__.__kwdefaults__
    assert defaults["fuse_library"] == NATIVE
    defaults["fuse_library"] = PYFUSE3
    yield
    defaults["fuse_library"] = NATIVE
