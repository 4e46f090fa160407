"""The format `netcdf`."""

from typing import override

from icefs.errors import UnsupportedError
from icefs.views.cf.model import Dataset
from icefs.views.cf.tree import FileWriter, NestedFile, NetCdfDirectory, NetCdfView, RootFileDirectory
from icefs.views.cf.types import Rules
from icefs.views.interface import Decoder, Format, Hierarchy, Layout, ViewDirectory


class NetCdf4Writer(FileWriter):
    """Lays NetCDF-4 files out; h5py is imported with the first one."""

    format_name = "netcdf"

    def __init__(self, *, keeps_half: bool = False) -> None:
        self.rules = Rules(
            has_wide_integers=True, has_unsigned=True, has_half=keeps_half, has_texts=True, is_big_endian=False
        )

    @override
    def layout(self, dataset: Dataset) -> Layout:
        try:
            from icefs.views.netcdf4.template import layout_of
        except ImportError as error:
            raise UnsupportedError(
                f"NetCDF-4 files need h5py, which cannot be imported: {error}",
                kind="needs-h5py",
                hint="pip install 'icefs[views]'",
            ) from error
        return layout_of(dataset)


class NetCdf4Format(Format):
    """NetCDF-4: a file for each group with arrays, or one file with groups inside."""

    name = "netcdf"

    def __init__(self, *, has_groups: bool = False, keeps_half: bool = False) -> None:
        """Takes the options.

        Args:
            has_groups: Whether one file has all groups inside.
            keeps_half: Whether floats of 16 bits stay as they are; NetCDF has no such type, HDF5 has one.
        """
        self._has_groups = has_groups
        self._writer = NetCdf4Writer(keeps_half=keeps_half)

    @override
    def root(self, hierarchy: Hierarchy, decoder: Decoder) -> ViewDirectory:
        view = NetCdfView(hierarchy, decoder, self._writer)
        return RootFileDirectory(NestedFile(view)) if self._has_groups else NetCdfDirectory(view)
