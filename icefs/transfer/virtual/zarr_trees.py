"""The arrays of a tree of Zarr v2 or v3, whose chunks are whole files.

The metadata are read by zarr-python, and turned into those of Zarr v3 by VirtualiZarr; which chunks there are is known
from the listing.
"""

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from icefs.errors import InvalidInputError, StorageError
from icefs.transfer.files.documents import document_of
from icefs.transfer.files.fill_values import encode_fill_value
from icefs.transfer.files.model import FileTree, LeftOut
from icefs.transfer.files.sources import SourceFile, SourceTree
from icefs.transfer.virtual.model import References, VirtualArray, VirtualTree

_METADATA: Final = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
_MAX_METADATA_BYTES: Final = 64 << 20
_CANNOT: Final = (ValueError, TypeError, KeyError, NotImplementedError)


def parse_tree(source: SourceTree, skip: Callable[[str], bool]) -> VirtualTree:
    """Finds the arrays of a tree; see `parsers.parse`.

    Raises:
        InvalidInputError: its metadata are not valid.
        ObjectModifiedError, StorageError: a file changed, or cannot be read.
    """
    import zarr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    make = default_buffer_prototype().buffer.from_bytes
    documents = {path: file for path, file in source.files.items() if path.rpartition("/")[2] in _METADATA}
    if sum(file.size_bytes for file in documents.values()) > _MAX_METADATA_BYTES:
        raise InvalidInputError(f"{source.name} has more metadata than {_MAX_METADATA_BYTES:,} bytes")
    stored = {path: make(file.read(0, file.size_bytes)) for path, file in documents.items()}
    tree: VirtualTree = FileTree(source.name)
    try:
        opened = zarr.open(MemoryStore(stored), mode="r", use_consolidated=False)
        members: list[tuple[str, Any]] = [("", opened)]
        if isinstance(opened, zarr.Group):
            members += list(opened.members(max_depth=None, use_consolidated_for_children=False))
    except StorageError:
        raise
    except (*_CANNOT, FileNotFoundError) as error:
        raise InvalidInputError(f"{source.name} is no Zarr that can be read: {error}") from error
    keys = _Keys(source.files)
    for path, member in members:
        if isinstance(member, zarr.Group):
            tree.groups[path] = dict(member.attrs)
            continue
        name = path or source.name.rstrip("/").rpartition("/")[2]
        if skip(name):
            continue
        try:
            tree.arrays[name] = _array(member, path, name, source, keys)
        except _CANNOT as error:
            tree.left_out.append(LeftOut(source.name, name, str(error)))
    tree.groups.setdefault("", {})
    return tree


class _Keys:
    """The files of a tree by the directory of their array, which is found by its metadata."""

    def __init__(self, files: dict[str, SourceFile]) -> None:
        arrays = {path.rpartition("/")[0] for path in files if path.rpartition("/")[2] in (".zarray", "zarr.json")}
        self._below: dict[str, list[tuple[str, SourceFile]]] = {path: [] for path in arrays}
        for path, file in files.items():
            above = path.rpartition("/")[0]
            while above not in arrays and above:
                above = above.rpartition("/")[0]
            if above in arrays:
                self._below[above].append((path[len(above) + 1 if above else 0 :], file))

    def of(self, array: str) -> list[tuple[str, SourceFile]]:
        """Returns the names below an array, and their files."""
        return self._below.get(array, [])


def _array(member: Any, path: str, name: str, source: SourceTree, keys: _Keys) -> VirtualArray:
    from virtualizarr.parsers.zarr.common import parse_array_layout

    old = member.metadata
    is_text = old.zarr_format == 2 and old.to_dict()["dtype"] == "|O"
    layout: Any = SimpleNamespace(metadata=_as_bytes(old) if is_text else old, path=path)
    metadata, zarr_format, separator, grid = parse_array_layout(layout)
    prefix = zarr_format.chunks_prefix(separator) if grid else ""
    number = re.escape(separator).join([r"(0|[1-9]\d*)"] * len(grid))
    pattern = re.compile(re.escape(prefix) + number if grid else re.escape(zarr_format.scalar_chunk_key_name))
    coords: list[tuple[int, ...]] = []
    files: list[SourceFile] = []
    for key, file in keys.of(path):
        match = pattern.fullmatch(key)
        index = tuple(map(int, match.groups())) if match else ()
        if match and file.size_bytes and all(at < size for at, size in zip(index, grid, strict=True)):
            coords.append(index)
            files.append(file)
    columns = np.array(coords, np.int64).reshape(len(files), len(grid))
    refs = References(
        [columns[:, axis] for axis in range(len(grid))],
        files,
        np.arange(len(files)),
        np.zeros(len(files), np.uint64),
        np.array([file.size_bytes for file in files], np.uint64),
    )
    document = document_of(metadata)
    if is_text:
        codecs = [{"name": "vlen-utf8"} if one["name"] == "bytes" else one for one in document["codecs"]]
        document |= {"data_type": "string", "fill_value": old.fill_value or "", "codecs": codecs}
    if old.zarr_format == 2 and old.fill_value is not None and "_FillValue" not in document["attributes"]:
        # What the fill value of Zarr v2 means to xarray, that of v3 does not: missing values.
        dtype = old.dtype.to_native_dtype()
        document["attributes"]["_FillValue"] = encode_fill_value(old.fill_value, dtype)
    return VirtualArray(name, document, source.name, refs)


def _as_bytes(metadata: Any) -> Any:
    """Returns the metadata of an array of text in Zarr v2 as those of one of bytes, which can be turned into v3.

    The chunks of both versions are the same: the filter of v2 is the codec `vlen-utf8` of v3.

    Raises:
        ValueError: the text is filtered in another way.
    """
    filters = [one.codec_id for one in metadata.filters or ()]
    if filters != ["vlen-utf8"]:
        raise ValueError(f"its objects have the filters {', '.join(filters)}, and text alone can be in Zarr v3")
    document = {**metadata.to_dict(), "dtype": "|u1", "fill_value": 0, "filters": None}
    return type(metadata).from_dict(document)
