"""The names of formats, with options after commas."""

import subprocess
import sys

import pytest

from icefs.errors import InvalidInputError, UnsupportedError
from icefs.views.formats import FORMAT_NAMES, FormatChoice, parse_format


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_each_name_is_a_format(name):
    assert parse_format(name) == FormatChoice(name)


def test_options_follow_after_commas():
    assert parse_format("zarr2,compressed") == FormatChoice("zarr2", ("compressed",))
    assert str(parse_format("netcdf,groups,groups")) == "netcdf,groups"


@pytest.mark.parametrize("text", ["", "nc", "NETCDF", "zarr2 ", ",zarr2", "netcdf4"])
def test_an_unknown_format_is_refused_with_those_that_there_are(text):
    with pytest.raises(InvalidInputError, match="there is no format") as caught:
        parse_format(text)
    assert caught.value.hint == "the formats are netcdf, netcdf3, zarr2, npy"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("zarr2,groups", "write zarr2 or zarr2,compressed"),
        ("npy,", "write npy"),
        ("netcdf,groups,x", "write netcdf or netcdf,groups or netcdf,half"),
    ],
)
def test_an_unknown_option_is_refused_with_those_that_there_are(text, hint):
    with pytest.raises(InvalidInputError, match="has no option") as caught:
        parse_format(text)
    assert caught.value.hint == hint


def test_names_are_known_without_any_format():
    code = (
        "import sys, icefs.views.formats as formats; formats.parse_format('netcdf,groups');"
        "print([name for name in ('zarr', 'h5py', 'icefs.views.npy', 'icefs.views.zarr2') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_library_that_is_not_installed_is_named_before_anything_is_made(monkeypatch):
    monkeypatch.setattr("icefs.views.formats.find_spec", lambda name: None)
    for choice in (parse_format("netcdf"), parse_format("netcdf,groups")):
        with pytest.raises(UnsupportedError, match="needs h5py, which is not installed") as caught:
            choice.check()
        assert caught.value.hint == "pip install 'icefs[views]'"
        with pytest.raises(UnsupportedError):
            choice.make()
    parse_format("npy").check()


@pytest.mark.parametrize("text", ["netcdf", "netcdf,groups", "netcdf3", "zarr2", "zarr2,compressed", "npy"])
def test_each_format_is_made(text):
    made = parse_format(text).make()
    assert text.startswith(made.name.partition(",")[0])
