"""An array's directory in Zarr v2: `.zarray`, `.zattrs`, and its chunks.

A fill value is two things in Zarr v2: what a missing chunk is full of, and for many programs (xarray, GDAL) what marks
missing data. In v3 it is the former alone, and 0 almost everywhere. So where all chunks are there, the v2 fill value is
the attribute `_FillValue`, or null; where chunks are missing it is that of v3, so that their values are right.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, override

import numpy as np

from icefs.errors import FormatError, NotShownError
from icefs.format.zarr_json import chunk_key_encoding_of
from icefs.views.cf.attributes import value_of
from icefs.views.interface import Decoder, Elements, Hierarchy, ViewDirectory, ViewedNode, ViewFile
from icefs.views.zarr2.attributes import dump, harmless
from icefs.views.zarr2.codecs import Kept, kept, kept_dtype
from icefs.views.zarr2.documents import ArrayDocument
from icefs.views.zarr2.files import ChunkFile, ChunkSource, KeptFile, MetadataFile
from icefs.views.zarr2.grids import Grid
from icefs.views.zarr2.types import Shown, dtype_name, native, plain, spelled
from icefs.zarr.keys import ChunkIndex, ChunkKeyLayout, node_prefix

_DIMENSIONS: Final = "_ARRAY_DIMENSIONS"
_FILL: Final = "_FillValue"


class ArrayDirectory(ViewDirectory):
    """The directory of one array of the view.

    Attributes:
        suffix: What its name has besides the array's.
    """

    def __init__(
        self,
        node: ViewedNode,
        hierarchy: Hierarchy,
        elements: Elements,
        document: ArrayDocument,
        shown: Shown,
        *,
        dimensions: Sequence[str],
        grid: Grid,
        chunks: Kept | None = None,
        is_scalar_shown_as_one: bool = False,
    ) -> None:
        """Takes the array, how it is shown, and how its chunks are described where their bytes are kept."""
        self.time_ns = node.time_ns
        self.suffix = shown.suffix
        self._node = node
        self._hierarchy = hierarchy
        self._elements = elements
        self._document = document
        self._shown = shown
        self._dimensions = dimensions
        self._grid = grid
        self._chunks = chunks
        self._has_one = is_scalar_shown_as_one
        self._layout = ChunkKeyLayout.of(chunk_key_encoding_of(node.document), len(document.shape))
        self._dense: bool | None = None

    # What its metadata say.

    def zarray(self) -> Mapping[str, Any]:
        """Returns its `.zarray`."""
        chunks, shown = self._chunks, self._shown
        dtype = shown.dtype if chunks is None else kept_dtype(self._elements.dtype, chunks)
        return {
            "zarr_format": 2,
            "shape": [1] if self._has_one else list(self._grid.shape),
            "chunks": [1] if self._has_one else list(self._grid.chunks),
            "dtype": dtype_name(dtype),
            "fill_value": self._fill_value(),
            "order": "C" if chunks is None else chunks.order,
            "filters": None if chunks is None else chunks.filters,
            "compressor": None if chunks is None else chunks.compressor,
            "dimension_separator": ".",
        }

    def zattrs(self) -> Mapping[str, Any]:
        """Returns its `.zattrs`."""
        attributes = dict(self._document.attributes)
        marked = self._marked()
        if marked is None:
            own: dict[str, Any] = {}
            if isinstance(attributes.get(_FILL), float) or _is_coded(attributes.get(_FILL)):
                del attributes[_FILL]  # NaN, which `fill_value` says
        else:
            own = {_FILL: marked}
        return {**harmless(attributes), **own, **self._shown.attributes, _DIMENSIONS: list(self._dimensions)}

    def _marked(self) -> int | float | None:
        """Returns the number in the attribute `_FillValue`, in the array's own type; None where it is none or NaN."""
        value = self._document.attributes.get(_FILL)
        if value is None or self._shown.attributes or self._shown.dtype.kind not in "iuf":
            return None
        found = value_of(_FILL, value)
        if not isinstance(found, np.ndarray) or found.size != 1 or not np.isfinite(found[0]):
            return None
        number = found[0].item()
        if self._shown.dtype.kind == "f":
            return float(number)
        limits = np.iinfo(self._shown.dtype)
        return int(number) if number == int(number) and limits.min <= number <= limits.max else None

    def _fill_value(self) -> Any:
        marked = self._marked()
        if not self._is_dense():
            return self._shown.fill_value
        if marked is not None:
            return marked
        if self._shown.dtype.kind != "f" or _FILL not in self._document.attributes:
            return None
        found = value_of(_FILL, self._document.attributes[_FILL])
        return spelled(found[0]) if isinstance(found, np.ndarray) and found.size == 1 else None

    def _is_dense(self) -> bool:
        """Tells whether all of its chunks exist."""
        if self._dense is None:
            found = self._hierarchy.chunk_indices(self._node.path)
            self._dense = sum(map(self._grid.is_stored, found)) == self._grid.stored_size
        return self._dense

    # Its entries.

    @override
    def find(self, name: str) -> ViewFile | ViewDirectory | None:
        if name == ".zarray":
            return MetadataFile(lambda: dump(self.zarray()), self.time_ns)
        if name == ".zattrs":
            return MetadataFile(lambda: dump(self.zattrs()), self.time_ns)
        index = self._parse(name)
        if index is None or not self._hierarchy.has_chunk(self._node.path, self._grid.stored_index(index)):
            return None
        return self._chunk(index)

    def _parse(self, name: str) -> ChunkIndex | None:
        if self._has_one:
            return () if name == "0" else None
        return self._grid.parse(name)

    @override
    def list(self) -> Iterable[tuple[str, ViewFile | ViewDirectory]]:
        return self._all()

    def _all(self) -> Iterator[tuple[str, ViewFile | ViewDirectory]]:
        for name in (".zarray", ".zattrs"):
            found = self.find(name)
            assert found is not None
            yield name, found
        for name, index in self._grid.names(self._hierarchy.chunk_indices(self._node.path)):
            yield name, self._chunk(index)

    def _chunk(self, index: ChunkIndex) -> ViewFile:
        if self._chunks is not None:
            key = node_prefix(self._node.path) + self._layout.format(index)
            return KeptFile(self._hierarchy, self._node.path, index, key, self.time_ns)
        shape = self._grid.chunks
        source = ChunkSource(self._elements, index, shape, self._shown.dtype, self._shown.convert)
        return ChunkFile(source, self.time_ns)


def open_plain(
    node: ViewedNode, hierarchy: Hierarchy, decoder: Decoder, document: ArrayDocument, dimensions: Sequence[str]
) -> list[ArrayDirectory]:
    """Opens an array for programs that know numbers only.

    Raises:
        NotShownError: it is not shown.
        StorageError: it cannot be opened now.
    """
    if 0 in document.shape:
        raise NotShownError("it has no elements, and netCDF-C opens no Zarr v2 with such an array in it")
    elements = _open(decoder, node)
    grid = Grid(document.shape, document.stored_chunks, elements.chunk_shape, may_cut=True)
    return [
        ArrayDirectory(
            node,
            hierarchy,
            elements,
            document,
            shown,
            dimensions=dimensions,
            grid=grid,
            is_scalar_shown_as_one=not document.shape,
        )
        for shown in plain(elements.dtype, document.fill_value)
    ]


def open_native(
    node: ViewedNode, hierarchy: Hierarchy, decoder: Decoder, document: ArrayDocument, dimensions: Sequence[str]
) -> list[ArrayDirectory]:
    """Opens an array for libraries of Zarr v2, with the chunks' own bytes where that version can describe them.

    Raises:
        NotShownError: it is not shown.
        StorageError: it cannot be opened now.
    """
    elements = _open(decoder, node)
    chunks = kept(document.codecs, len(document.shape))
    if chunks is not None and chunks.filters:
        fill = document.fill_value if isinstance(document.fill_value, str) else ""
        shown = Shown(np.dtype(object), lambda values: values, fill)
    else:
        shown = native(elements.dtype, document.fill_value)
    inner = elements.chunk_shape if chunks is None else document.stored_chunks
    grid = Grid(document.shape, document.stored_chunks, inner, may_cut=False)
    return [ArrayDirectory(node, hierarchy, elements, document, shown, dimensions=dimensions, grid=grid, chunks=chunks)]


def _open(decoder: Decoder, node: ViewedNode) -> Elements:
    try:
        return decoder.open(node.path)
    except FormatError as error:
        raise NotShownError(error.own_message) from error


def _is_coded(value: Any) -> bool:
    """Tells whether an attribute is a number that xarray has written in base64, or one that is not finite."""
    return isinstance(value, str) and isinstance(value_of(_FILL, value), np.ndarray)
