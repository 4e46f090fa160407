"""The formats that views have, by the names that `--view`, `.icefs/views` and `--format` of `icefs export` take.

    netcdf            NetCDF-4, a file for each group
    netcdf,groups     one file, with groups inside
    netcdf,half       NetCDF-4 with floats of 16 bits, which HDF5 has and NetCDF has not
    netcdf3           classic NetCDF, for programs without HDF5
    zarr2             Zarr v2, decoded
    zarr2,compressed  Zarr v2, with the chunks' own bytes where v2 has a name for how they are encoded
    npy               numpy's files

Parsing a name imports no format; making the format imports its module, and that nothing that only reading needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

from icefs.errors import InvalidInputError, UnsupportedError
from icefs.views.interface import Format

_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "netcdf": ("groups", "half"),
    "netcdf3": (),
    "zarr2": ("compressed",),
    "npy": (),
}

_LIBRARIES: Final = {"netcdf": "h5py"}
"""Modules that a format needs and that icefs alone does not bring."""

FORMAT_NAMES: Final = tuple(_OPTIONS)
"""The names, without options."""

FORMAT_TEXTS: Final = tuple(
    text for name, options in _OPTIONS.items() for text in (name, *(f"{name},{option}" for option in options))
)
"""The names, each without options and with each of its options."""


@dataclass(frozen=True, slots=True)
class FormatChoice:
    """A format and its options, as a user chose them.

    Attributes:
        name: One of `FORMAT_NAMES`.
        options: The options, in alphabetical order.
    """

    name: str
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ",".join((self.name, *self.options))

    def check(self) -> None:
        """Checks, without importing anything, that the format can be made here.

        Raises:
            UnsupportedError: a library that it needs is not installed (kind `no-library`).
        """
        library = _LIBRARIES.get(self.name)
        if library is not None and find_spec(library) is None:
            raise UnsupportedError(
                f"the format {self.name} needs {library}, which is not installed",
                kind="no-library",
                hint="pip install 'icefs[views]'",
            )

    def make(self) -> Format:
        """Makes the format; imports its module.

        Raises:
            UnsupportedError: as `check`.
        """
        self.check()
        match self.name:
            case "netcdf":
                from icefs.views.netcdf4.format import NetCdf4Format

                return NetCdf4Format(has_groups="groups" in self.options, keeps_half="half" in self.options)
            case "netcdf3":
                from icefs.views.netcdf3.format import NetCdf3Format

                return NetCdf3Format()
            case "zarr2":
                from icefs.views.zarr2.format import Zarr2Format

                return Zarr2Format(keeps_compressed="compressed" in self.options)
            case _:
                from icefs.views.npy import NpyFormat

                return NpyFormat()


def parse_format(text: str) -> FormatChoice:
    """Reads a format's name with its options after commas: `netcdf`, `zarr2,compressed`.

    Raises:
        InvalidInputError: there is no such format, or it has no such option (kind `unknown-format`).
    """
    name, *options = text.split(",")
    known = _OPTIONS.get(name)
    if known is None:
        raise _error(f"there is no format {name!r}", f"the formats are {', '.join(FORMAT_NAMES)}", text)
    unknown = [option for option in options if option not in known]
    if unknown:
        hint = f"write {' or '.join((name, *(f'{name},{option}' for option in known)))}"
        raise _error(f"the format {name} has no option {unknown[0]!r}", hint, text)
    return FormatChoice(name, tuple(sorted(set(options))))


def _error(what: str, hint: str, text: str) -> InvalidInputError:
    return InvalidInputError(what, kind="unknown-format", hint=hint, format=text)
