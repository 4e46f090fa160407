"""The arrays of HDF5 and NetCDF-4 files, read through h5py.

NetCDF-4 keeps dimensions as HDF5's dimension scales, and facts of its own in attributes. Names and attributes become
what NetCDF's own library shows.

Source: NetCDF-4 file format, "The NetCDF-4 Format" in the NetCDF C library's documentation (appendix C).
"""

import contextlib
import importlib
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from typing import Any, Final

import numpy as np

from icefs.errors import IcefsError, InvalidInputError
from icefs.transfer.copied.documents import TEXT_BYTES, stored_document
from icefs.transfer.copied.model import Box, CopiedArray, CopiedTree, Part, Values
from icefs.transfer.files.documents import as_json, document_of
from icefs.transfer.files.fill_values import encode_fill_value
from icefs.transfer.files.hdf5_links import address_of, members
from icefs.transfer.files.model import Document, FileTree, LeftOut
from icefs.transfer.files.reading import BlockReader
from icefs.transfer.files.sources import SourceFile

_HIDDEN: Final = frozenset(
    {
        "CLASS",
        "NAME",
        "DIMENSION_LIST",
        "REFERENCE_LIST",
        "_Netcdf4Dimid",
        "_Netcdf4Coordinates",
        "_nc3_strict",
        "_NCProperties",
    }
)
_NO_VARIABLE: Final = b"This is a netCDF dimension but not a netCDF variable"
# A variable of a dimension's name that is not its coordinate has this before its name.
_PREFIX: Final = "_nc4_non_coord_"
_SHUFFLE: Final = 2  # H5Z_FILTER_SHUFFLE
_CANNOT: Final = (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError, OSError)


def parse_hdf5(source: SourceFile, skip: Callable[[str], bool], opened: ExitStack) -> CopiedTree:
    """Finds the arrays of a file.

    Args:
        source: The file.
        skip: Tells of an array's path whether the user does not want it.
        opened: Closes the file.

    Raises:
        InvalidInputError: it is damaged.
        ObjectModifiedError, StorageError: it changed, or cannot be read.
    """
    import h5py

    # It brings filters such as Blosc and Zstandard, where it is installed.
    with contextlib.suppress(ImportError):
        importlib.import_module("hdf5plugin")
    reader = BlockReader(source)
    tree: CopiedTree = FileTree(source.name)
    try:
        file = opened.enter_context(h5py.File(reader, "r"))
        _File(source, reader, tree, skip, file).take(file, "", frozenset())
    except IcefsError:
        raise
    except Exception as error:  # h5py has no classes of its own
        if reader.failure is not None:
            raise reader.failure from error
        source.check()  # a file that changed is the better reason
        raise InvalidInputError(
            f"{source.name} is no HDF5 file that can be read: {error}", kind="damaged-file", hint="get the file again"
        ) from error
    return tree


class _File:
    """One file, while its arrays are found."""

    def __init__(
        self, source: SourceFile, reader: BlockReader, tree: CopiedTree, skip: Callable[[str], bool], file: Any
    ) -> None:
        self._source = source
        self._reader = reader
        self._tree = tree
        self._skip = skip
        self._dimension_names: dict[int, str] = {}
        self._phony_dimensions: dict[int, list[str]] = {}
        file.visititems(self._note_dimension)

    def _note_dimension(self, name: str, item: Any) -> None:
        import h5py

        # Other variables have such a number, too: that of their first dimension.
        if isinstance(item, h5py.Dataset) and h5py.h5ds.is_scale(item.id) and "_Netcdf4Dimid" in item.attrs:
            self._dimension_names[int(np.asarray(item.attrs["_Netcdf4Dimid"]).reshape(-1)[0])] = _name(name)

    def _leave_out(self, path: str, reason: str) -> None:
        if not self._skip(path):
            self._tree.left_out.append(LeftOut(self._tree.file, path, reason))

    def take(self, group: Any, path: str, above: frozenset[Any]) -> None:
        """Takes the groups and arrays of a group, and of those below it."""
        import h5py

        above |= {address_of(group)}
        self._tree.groups[path] = _attributes(group)
        for name, whole, item in members(group, path, above, self._leave_out):
            if isinstance(item, h5py.Group):
                self.take(item, whole, above)
                continue
            if bytes(np.asarray(item.attrs.get("NAME", b"")).astype("S")).startswith(_NO_VARIABLE):
                continue
            own = f"{path}/{name.removeprefix(_PREFIX)}".lstrip("/")
            if self._skip(own):
                continue
            reason = _cannot_be_copied(item)
            if reason:
                self._leave_out(own, reason)
                continue
            try:
                document = self._document(item)
            except _CANNOT as error:
                if self._reader.failure is not None:
                    raise
                self._leave_out(own, str(error))
                continue
            values = _Values(item, own, self._source, self._reader)
            self._tree.arrays[own] = CopiedArray(
                own, document, self._tree.file, _itemsize(item), (Part(self._tree.file, 0, values.read),)
            )

    def _document(self, dataset: Any) -> Document:
        import zarr

        dtype = _stored_type(dataset)
        array: Any = zarr.create_array(
            zarr.storage.MemoryStore(),
            shape=dataset.shape,
            chunks=tuple(max(size, 1) for size in dataset.shape),
            dtype=str if dtype.kind == "O" else dtype,
            fill_value=_fill_value(dataset, dtype),
            dimension_names=self._dimensions(dataset),
            attributes=_attributes(dataset, dtype),
            compressors=None,
            zarr_format=3,
        )
        create = dataset.id.get_create_plist()
        return stored_document(
            document_of(array.metadata),
            dataset.chunks,
            _itemsize(dataset),
            is_shuffled=any(create.get_filter(at)[0] == _SHUFFLE for at in range(create.get_nfilters())),
        )

    def _dimensions(self, dataset: Any) -> list[str]:
        import h5py

        if h5py.h5ds.is_scale(dataset.id):
            ids = dataset.attrs.get("_Netcdf4Coordinates")
            if ids is not None and all(int(one) in self._dimension_names for one in ids):
                return [self._dimension_names[int(one)] for one in ids]
            if dataset.ndim == 1:
                return [_name(dataset.name)]
        names: list[str] = []
        for axis, size in enumerate(dataset.shape):
            scales = dataset.dims[axis]
            names.append(_name(scales[0].name) if len(scales) else self._phony_dimension(size, names))
        return names

    def _phony_dimension(self, size: int, others: Collection[str]) -> str:
        """Returns the name of an axis that the file gives none, as NetCDF has them: one for each size."""
        known = self._phony_dimensions.setdefault(size, [])
        free = next((name for name in known if name not in others), None)
        if free is None:
            free = f"phony_dim_{sum(map(len, self._phony_dimensions.values()))}"
            known.append(free)
        return free


class _Values:
    """Reads a dataset; see `Read`. h5py lets one thread in at a time."""

    def __init__(self, dataset: Any, path: str, source: SourceFile, reader: BlockReader) -> None:
        self._dataset = dataset
        self._path = path
        self._source = source
        self._reader = reader

    def read(self, box: Box) -> Values:
        dtype = _stored_type(self._dataset)
        try:
            if dtype.kind == "O":
                return np.asarray(self._dataset.asstr()[box], object)
            return np.asarray(self._dataset[box]).astype(dtype, copy=False)
        except Exception as error:  # h5py has no classes of its own
            if self._reader.failure is not None:
                raise self._reader.failure from error
            self._source.check()  # a file that changed is the better reason
            raise InvalidInputError(
                f"{self._path} of {self._source.name} cannot be read: {error}",
                kind="damaged-file",
                hint=f"get the file again, or leave the array out with --drop {self._path}",
            ) from error


def _cannot_be_copied(dataset: Any) -> str:
    """Returns why a dataset cannot be copied; empty if it can."""
    import h5py

    dtype = dataset.dtype
    if dataset.shape is None:
        return "it has no values"
    if dataset.external:
        return "its data are in another file"
    if dataset.is_virtual and any(one.file_name != "." for one in dataset.virtual_sources()):
        return "it is a virtual dataset of HDF5, whose data are in other files"
    if dtype.names is not None:
        return "it has a compound type"
    if dtype.kind == "V":
        return "it has an opaque or array type"
    if dtype.kind == "O" and h5py.check_string_dtype(dtype) is None:
        return "it has a type of variable length, or of references"
    create = dataset.id.get_create_plist()
    for at in range(create.get_nfilters()):
        number, _, _, name = create.get_filter(at)
        if not h5py.h5z.filter_avail(number):
            called = name.decode("utf-8", "replace") or str(number)
            return f"its filter {called!r} is not installed: pip install hdf5plugin"
    return ""


def _itemsize(dataset: Any) -> int:
    return TEXT_BYTES if dataset.dtype.kind == "O" else int(dataset.dtype.itemsize)


def _stored_type(dataset: Any) -> np.dtype[Any]:
    """Returns the type that values are stored with: without the names of an enumeration, in the machine's order."""
    dtype: np.dtype[Any] = dataset.dtype
    return dtype if dtype.kind == "O" else np.dtype(dtype.str).newbyteorder("=")


def _fill_value(dataset: Any, dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "O":
        value = dataset.fillvalue
        return value.decode() if isinstance(value, bytes) else value or ""
    return dtype.type(dataset.fillvalue)


def _attributes(item: Any, dtype: np.dtype[Any] | None = None) -> dict[str, Any]:
    """Returns the attributes of a group, or of a dataset of a type."""
    import h5py

    found = {}
    for name in item.attrs:
        if name in _HIDDEN:
            continue
        value = item.attrs[name]
        if name == "_FillValue" and dtype is not None:
            found[name] = encode_fill_value(value, dtype)
        elif not isinstance(value, h5py.Reference | h5py.RegionReference):
            found[name] = _plain(value)
    names: Mapping[str, int] | None = h5py.check_enum_dtype(item.dtype) if dtype is not None else None
    if names and "flag_values" not in found:
        found["flag_values"], found["flag_meanings"] = list(names.values()), " ".join(names)
    return as_json(found)


def _plain(value: Any) -> Any:
    import h5py

    if isinstance(value, h5py.Empty):
        return ""
    if isinstance(value, bytes | np.bytes_):
        return value.decode("utf-8", "replace")
    if not isinstance(value, np.ndarray):
        return value
    parts = [_plain(one) for one in value.reshape(-1).tolist()]
    return parts[0] if len(parts) == 1 else parts


def _name(path: str) -> str:
    return path.rpartition("/")[2].removeprefix(_PREFIX)
