"""What a view leaves out is in the log, too."""

import logging

import pytest

from icefs.paths import NodePath
from icefs.views.formats import parse_format
from icefs.views.interface import HierarchyFacts
from icefs.views.left_out import LeftOutLog
from tests.support.view_files import view_of
from tests.support.viewed import repository_of

MEMORY = HierarchyFacts("memory:", "SNAPSHOT")


def write(root):
    root.create_array("shown", shape=(2,), dtype="i4")
    root.create_array("inside/raw", shape=(2,), dtype="V3")


@pytest.mark.parametrize(
    ("view_format", "reason"),
    [
        ("netcdf", "NetCDF has no type for raw bits"),
        ("netcdf,groups", "NetCDF has no type for raw bits"),
        ("netcdf3", "NetCDF has no type for raw bits"),
        ("zarr2", "programs that read Zarr v2 as NetCDF know no arrays of raw bits"),
    ],
)
def test_each_array_is_named_once(view_format, reason, caplog):
    view = view_of(repository_of(write), parse_format(view_format).make())
    with caplog.at_level(logging.INFO, "icefs.views"):
        for _ in range(2):
            walked(view)
    [message] = caplog.messages
    assert message.startswith(f"the view {view_format.partition(',')[0]} of memory:")
    assert message.endswith(f" leaves out /inside/raw: {reason}")


def walked(directory):
    for _, entry in directory.list():
        if hasattr(entry, "list"):
            walked(entry)
        else:
            entry.layout()


def test_of_very_many_the_first_are_named(caplog):
    log = LeftOutLog("npy", MEMORY)
    with caplog.at_level(logging.INFO, "icefs.views"):
        for _ in range(2):
            for number in range(5000):
                log.note(NodePath(f"/a{number}"), "it is odd")
    assert len(caplog.messages) == 101
    assert caplog.messages[0] == "the view npy of memory: at SNAPSHOT leaves out /a0: it is odd"
    assert caplog.messages[-1] == "the view npy of memory: at SNAPSHOT leaves out more"


def test_lines_stay_lines(caplog):
    with caplog.at_level(logging.INFO, "icefs.views"):
        LeftOutLog("npy", MEMORY).note(NodePath("/a\nERROR"), "it is odd")
    assert "\n" not in caplog.text.rstrip("\n")
