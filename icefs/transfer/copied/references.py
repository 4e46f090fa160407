"""The values of arrays that references lead to: NetCDF-3, Zarr, TIFF, FITS, GRIB.

A box is read by decoding the chunks that it touches. Chunks that are small parts of a file are read with their
neighbours.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np

from icefs.errors import IcefsError, InvalidInputError
from icefs.transfer.copied.documents import TEXT_BYTES, keeps_codecs, stored_document
from icefs.transfer.copied.model import Box, CopiedArray, CopiedTree, Part, Values
from icefs.transfer.files.documents import fill_value_of, itemsize_of, native_type
from icefs.transfer.files.model import FileTree, chunk_shape_of
from icefs.transfer.files.reading import BlockReader
from icefs.transfer.files.sources import SourceFile
from icefs.transfer.virtual import plain
from icefs.transfer.virtual.model import VirtualArray, VirtualTree
from icefs.transfer.virtual.plain import Index
from icefs.transfer.virtual.splitting import is_plain

_ALONE_BYTES: Final = 256 << 10


def copied_tree(tree: VirtualTree, *, is_zarr: bool) -> CopiedTree:
    """Returns a file's arrays of references as arrays whose values are copied.

    Args:
        tree: The file's.
        is_zarr: Whether the file is Zarr, whose chunks and codecs were chosen for it.
    """
    result: CopiedTree = FileTree(tree.file, tree.groups, left_out=tree.left_out)
    readers = _Readers()
    for path, array in tree.arrays.items():
        itemsize = _itemsize(array)
        document = array.document
        if not (is_zarr and keeps_codecs(document)):
            chunk_shape: tuple[int, ...] | None = array.chunk_shape
            if not is_zarr and chunk_shape == tuple(max(size, 1) for size in array.shape):
                chunk_shape = None
            document = stored_document(document, chunk_shape, itemsize)
            if is_zarr:
                document["chunk_grid"] = array.document["chunk_grid"]
        values = _PlainValues(array, readers) if is_plain(array) else _Values(array, readers)
        result.arrays[path] = CopiedArray(path, document, array.file, itemsize, (Part(array.file, 0, values.read),))
    return result


class _Readers:
    """The readers of files that references lead into small parts of, by the file."""

    def __init__(self) -> None:
        self._readers: dict[int, BlockReader] = {}

    def of(self, file: SourceFile) -> BlockReader:
        return self._readers.setdefault(id(file), BlockReader(file))


class _Values:
    """Reads an array; see `Read`."""

    def __init__(self, array: VirtualArray, readers: _Readers) -> None:
        self._array = array
        self._readers = readers
        self._chunks = chunk_shape_of(array.document)

    @cached_property
    def _rows(self) -> Mapping[Index, int]:
        coords = [column.tolist() for column in self._array.refs.coords]
        count = len(self._array.refs)
        indices: Iterable[Index] = zip(*coords, strict=True) if coords else [()] * count
        return dict(zip(indices, range(count), strict=True))

    def read(self, box: Box) -> Values:
        """Returns the values of a box."""
        array = self._array
        try:
            return self._decode(box)
        except IcefsError:
            raise
        except Exception as error:  # each codec has classes of its own
            raise InvalidInputError(
                f"{array.path} of {array.file} cannot be decoded: {error}",
                kind="damaged-file",
                hint=f"get the file again, or leave the array out with --drop {array.path}",
            ) from error

    def _indices(self, box: Box) -> Iterator[Index]:
        grid = [range(part.start // size, -(-part.stop // size)) for part, size in zip(box, self._chunks, strict=True)]
        return itertools.product(*grid)

    def _decode(self, box: Box) -> Values:
        chunks = {index: data for index in self._indices(box) if (data := self._chunk(index)) is not None}
        return plain.decode(self._array.document, chunks, box)

    def _chunk(self, index: Index) -> bytes | None:
        row = self._rows.get(index)
        return self._array.chunks.get(index) if row is None else self._bytes(row)

    def _bytes(self, row: int, start: int = 0, end: int | None = None) -> bytes:
        """Reads a range of a chunk."""
        refs = self._array.refs
        file, offset, size = refs.files[int(refs.rows[row])], int(refs.offsets[row]), int(refs.lengths[row])
        end = size if end is None else end
        if end - start >= _ALONE_BYTES or size == file.size_bytes:
            return file.read(offset + start, offset + end)
        return self._readers.of(file).read_at(offset + start, offset + end)


class _PlainValues(_Values):
    """Reads an array whose chunks are plain bytes: of each, which may be a whole array, what is needed."""

    def _decode(self, box: Box) -> Values:
        document = self._array.document
        dtype = native_type(document)
        endian = (document["codecs"][0].get("configuration") or {}).get("endian", "little")
        stored = dtype.newbyteorder(">" if endian == "big" else "<")
        found = np.empty([part.stop - part.start for part in box], dtype)
        for index in self._indices(box):
            corner = [number * size for number, size in zip(index, self._chunks, strict=True)]
            inner = [
                slice(max(part.start - at, 0), min(part.stop - at, size))
                for part, at, size in zip(box, corner, self._chunks, strict=True)
            ]
            target = tuple(
                slice(at + one.start - part.start, at + one.stop - part.start)
                for part, at, one in zip(box, corner, inner, strict=True)
            )
            row = self._rows.get(index)
            found[target] = fill_value_of(document) if row is None else self._part(row, inner, stored)
        return found

    def _part(self, row: int, inner: Sequence[slice], dtype: np.dtype[Any]) -> Values:
        """Reads a part of a chunk: the bytes between its ends along the first axis that it has a length of."""
        start, shape = 0, list(self._chunks)
        rest: list[slice] = []
        stride = math.prod(shape) * dtype.itemsize
        for axis, part in enumerate(inner):
            stride //= self._chunks[axis]
            start += part.start * stride
            shape[axis] = part.stop - part.start
            rest.append(slice(0, shape[axis]))
            if shape[axis] > 1:
                rest.extend(inner[axis + 1 :])
                break
        data = self._bytes(row, start, start + math.prod(shape) * dtype.itemsize)
        return np.frombuffer(data, dtype).reshape(shape)[tuple(rest)]


def _itemsize(array: VirtualArray) -> int:
    return TEXT_BYTES if array.document["data_type"] == "string" else itemsize_of(array.document)
