"""How many bytes the codecs of an array allow for each of its chunks.

An array of which the codecs keep sizes (`bytes`, `crc32c`, `transpose`) has chunks of exactly one size each, that of
their elements. Others bound the size from below: a shard is at least its index, a chunk of texts at least their
lengths, a gzip file at least its header and trailer. For an unknown codec, any size of at least one byte is
possible; so is it where a `zarr.json` cannot be understood.

    array → transpose → bytes, vlen-utf8, vlen-bytes, sharding_indexed → crc32c, blosc, gzip, zstd, … → chunk

Chunks at the edge of an array are encoded as wholes. A chunk of no bytes is possible nowhere: Icechunk has no such
chunks, and no codec that is known makes them.

Source: Zarr v3 "Codecs" and the specifications of each; zarr-extensions for data types.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from icefs.format.zarr_json import document_of

type BoolArray = npt.NDArray[np.bool_]

_MAX_U64: Final = 2**64 - 1
_MAX_DEPTH: Final = 16

_ITEM_BYTES: Final[Mapping[str, int]] = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "uint16": 2,
    "float16": 2,
    "bfloat16": 2,
    "int32": 4,
    "uint32": 4,
    "float32": 4,
    "int64": 8,
    "uint64": 8,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
    "numpy.datetime64": 8,
    "numpy.timedelta64": 8,
}
_ENCODING_MEMBERS: Final = ("data_type", "chunk_grid", "chunk_key_encoding", "codecs")
_OF_SOME_LENGTH: Final = frozenset({"fixed_length_utf32", "null_terminated_bytes", "raw_bytes"})
# Codecs that append so many bytes, and change nothing else.
_ADDED_BYTES: Final[Mapping[str, int]] = {
    "crc32c": 4,
    "numcodecs.crc32": 4,
    "numcodecs.crc32c": 4,
    "numcodecs.adler32": 4,
    "numcodecs.fletcher32": 4,
    "numcodecs.shuffle": 0,
}
# The smallest output that a compressor has for anything.
_SMALLEST_BYTES: Final[Mapping[str, int]] = {"gzip": 18, "blosc": 16, "zstd": 4}


class Bounds(NamedTuple):
    """The sizes that a chunk may have, in bytes.

    Attributes:
        smallest: The smallest, at least 1.
        largest: The largest; None where any size from the smallest on may be.
    """

    smallest: int
    largest: int | None

    def reason(self, size_bytes: int) -> str | None:
        """Says why a size is impossible; None if it is possible."""
        if size_bytes == 0:
            return "is empty; no chunk of an Icechunk array is"
        if size_bytes < self.smallest:
            bound = "" if self.largest == self.smallest else " at least"
            return f"has {size_bytes} bytes; a chunk of this array has{bound} {self.smallest}"
        if self.largest is not None and size_bytes > self.largest:
            bound = "" if self.largest == self.smallest else " at most"
            return f"has {size_bytes} bytes; a chunk of this array has{bound} {self.largest}"
        return None


ANY_SIZE: Final = Bounds(1, None)
"""The sizes of a chunk of which nothing is known."""


class _Axis(NamedTuple):
    """The chunk lengths along an axis: runs of equal ones, by the index at which each ends."""

    ends: npt.NDArray[np.int64]
    lengths: tuple[int, ...]

    def length(self, position: int) -> int:
        run = int(np.searchsorted(self.ends, position, side="right"))
        return self.lengths[min(run, len(self.lengths) - 1)]


class _Size(NamedTuple):
    """The size in bytes of a codec's output: exactly that if `fixed`, otherwise at least that."""

    bytes: int
    fixed: bool


@dataclass(frozen=True, slots=True)
class ChunkSizes:
    """The sizes that the chunks of one array may have.

    Attributes:
        uniform: The size that all chunks share; None where chunks differ in shape.
    """

    uniform: Bounds | None
    _axes: tuple[_Axis | int, ...] = ()
    _codecs: tuple[Any, ...] = ()
    _item_bytes: int | None = None

    def bounds(self, index: Sequence[int]) -> Bounds:
        """Returns the sizes that one chunk may have; its index is one of the grid's."""
        if self.uniform is not None:
            return self.uniform
        pairs = zip(self._axes, index, strict=True)
        shape = tuple(axis if isinstance(axis, int) else axis.length(position) for axis, position in pairs)
        return _bounds(shape, self._item_bytes, self._codecs)

    def reason(self, index: Sequence[int], size_bytes: int) -> str | None:
        """Says why a chunk cannot have a size; None if it can."""
        return self.bounds(index).reason(size_bytes)

    def impossible(self, coords: Sequence[npt.NDArray[np.uint32]], lengths: npt.NDArray[np.uint64]) -> BoolArray:
        """Returns which of many chunks have a size that they cannot have.

        Args:
            coords: The chunk indices, one column for each dimension; inside the grid.
            lengths: The sizes in bytes.
        """
        if self.uniform is not None:
            return _outside(lengths, self.uniform)
        rows = np.zeros(len(lengths), np.bool_)
        # Chunks of one shape have one size; along an axis there are few different lengths, or few chunks.
        runs = [
            np.zeros(len(lengths), np.int64)
            if isinstance(axis, int)
            else np.searchsorted(axis.ends, column, side="right")
            for axis, column in zip(self._axes, coords, strict=True)
        ]
        shapes, which = np.unique(np.stack(runs, axis=1), axis=0, return_inverse=True)
        order = np.argsort(which.ravel(), kind="stable")
        starts = np.searchsorted(which.ravel()[order], np.arange(len(shapes) + 1))
        for number, runs_of in enumerate(shapes.tolist()):
            chosen = order[starts[number] : starts[number + 1]]
            shape = tuple(
                axis if isinstance(axis, int) else axis.lengths[min(run, len(axis.lengths) - 1)]
                for axis, run in zip(self._axes, runs_of, strict=True)
            )
            rows[chosen] = _outside(lengths[chosen], _bounds(shape, self._item_bytes, self._codecs))
        return rows


_UNKNOWN: Final = ChunkSizes(ANY_SIZE)


def chunk_sizes(zarr_json: bytes | memoryview) -> ChunkSizes:
    """Reads from an array's `zarr.json` which sizes its chunks may have. Never fails."""
    document = document_of(zarr_json)
    if document is None or not isinstance(document.get("codecs"), list):
        return _UNKNOWN
    axes = _axes(document.get("chunk_grid"), document.get("shape"))
    if axes is None:
        return _UNKNOWN
    codecs, item_bytes = tuple(document["codecs"]), _item_bytes(document.get("data_type"))
    lengths = [axis if isinstance(axis, int) else axis.lengths[0] for axis in axes]
    bounds = _bounds(tuple(lengths), item_bytes, codecs)
    if bounds == ANY_SIZE or all(isinstance(axis, int) for axis in axes):
        return ChunkSizes(bounds)
    return ChunkSizes(None, axes, codecs, item_bytes)


def encodes_alike(one: bytes | memoryview, other: bytes | memoryview) -> bool:
    """Tells whether two arrays' `zarr.json` files surely say the same of how a chunk is encoded."""
    first, second = document_of(one), document_of(other)
    if first is None or second is None:
        return False
    return all(first.get(member) == second.get(member) for member in _ENCODING_MEMBERS)


def _outside(lengths: npt.NDArray[np.uint64], bounds: Bounds) -> BoolArray:
    if bounds.smallest > _MAX_U64:
        return np.ones(len(lengths), np.bool_)
    rows = lengths < np.uint64(bounds.smallest)
    if bounds.largest is not None and bounds.largest <= _MAX_U64:
        rows |= lengths > np.uint64(bounds.largest)
    return rows


# The shape of a chunk.


def _axes(grid: Any, shape: Any) -> tuple[_Axis | int, ...] | None:
    """Returns the chunk lengths along each axis, None where they are not known."""
    kind, configuration = _named(grid)
    if not isinstance(shape, list):
        return None
    if kind == "regular":
        sizes = configuration.get("chunk_shape")
        if not isinstance(sizes, list) or len(sizes) < len(shape) or not all(map(_is_size, sizes)):
            return None
        return tuple(sizes[: len(shape)])
    listed = configuration.get("chunk_shapes")
    if kind != "rectilinear" or not isinstance(listed, list) or len(listed) != len(shape):
        return None
    axes = [_axis(axis) for axis in listed]
    known = tuple(axis for axis in axes if axis is not None)
    return known if len(known) == len(axes) else None


def _axis(axis: Any) -> _Axis | int | None:
    if _is_size(axis):
        return int(axis)
    if not isinstance(axis, list) or not axis:
        return None
    ends, lengths, end = [], [], 0
    for item in axis:
        length, count = item if isinstance(item, list) and len(item) == 2 else (item, 1)
        if not (_is_size(length) and _is_size(count)):
            return None
        end = min(end + count, 2**63 - 1)
        ends.append(end)
        lengths.append(int(length))
    return _Axis(np.array(ends, np.int64), tuple(lengths))


# What codecs make of it.


def _bounds(shape: tuple[int, ...], item_bytes: int | None, codecs: Sequence[Any]) -> Bounds:
    size = _encoded(shape, item_bytes, codecs, 0)
    if size is None or size.bytes < 1:
        return ANY_SIZE
    return Bounds(size.bytes, size.bytes if size.fixed else None)


def _encoded(shape: tuple[int, ...], item_bytes: int | None, codecs: Sequence[Any], depth: int) -> _Size | None:
    """Returns how many bytes a chain of codecs makes of an array; None if that is not known."""
    size: _Size | None = None
    is_bytes = False
    for codec in codecs:
        name, configuration = _named(codec)
        if not is_bytes:
            if name == "transpose":
                continue  # as many elements
            is_bytes = True
            if name == "bytes":
                size = None if item_bytes is None else _Size(prod(shape) * item_bytes, fixed=True)
            elif name in ("vlen-utf8", "vlen-bytes"):
                size = _Size(4 + 4 * prod(shape), fixed=False)
            elif name == "sharding_indexed":
                size = _index_size(shape, configuration, depth)
            else:
                return None
        elif name in _ADDED_BYTES:
            size = None if size is None else _Size(size.bytes + _ADDED_BYTES[name], size.fixed)
        else:
            size = _Size(_SMALLEST_BYTES.get(name, 1), fixed=False)
    return size if is_bytes else None


def _index_size(shape: tuple[int, ...], configuration: Mapping[str, Any], depth: int) -> _Size | None:
    """Returns the least that a shard has: an index of 16 bytes for each of its chunks, as its codecs make it."""
    inner, codecs = configuration.get("chunk_shape"), configuration.get("index_codecs")
    if not isinstance(inner, list) or len(inner) != len(shape) or not isinstance(codecs, list) or depth > _MAX_DEPTH:
        return None
    if not all(_is_size(size) and size for size in inner):
        return None
    counts = tuple(-(-length // size) for length, size in zip(shape, inner, strict=True))
    index = _encoded((*counts, 2), 8, codecs, depth + 1)
    return None if index is None else _Size(index.bytes, fixed=False)


def _named(found: Any) -> tuple[str, Mapping[str, Any]]:
    """Reads an extension point of Zarr: a name alone, or an object with a name and a configuration."""
    if isinstance(found, str):
        return found, {}
    name = found.get("name") if isinstance(found, dict) else None
    configuration = found.get("configuration") if isinstance(found, dict) else None
    return (name if isinstance(name, str) else ""), (configuration if isinstance(configuration, dict) else {})


def _item_bytes(data_type: Any, depth: int = 0) -> int | None:
    """Returns the size of an element in bytes; None where it has none, or is not known."""
    name, configuration = _named(data_type)
    if name in _ITEM_BYTES:
        return _ITEM_BYTES[name]
    if name in _OF_SOME_LENGTH:
        length = configuration.get("length_bytes")
        return length if _is_size(length) else None
    if name[:1] == "r" and name[1:].isascii() and name[1:].isdigit() and len(name) < 12:
        bits = int(name[1:])
        return bits // 8 if bits % 8 == 0 else None
    if name in ("struct", "structured") and depth < _MAX_DEPTH:
        fields = configuration.get("fields")
        sizes = [_field_bytes(one, depth) for one in fields] if isinstance(fields, list) else [None]
        known = [size for size in sizes if size is not None]
        return sum(known) if known and len(known) == len(sizes) else None
    return None


def _field_bytes(field: Any, depth: int) -> int | None:
    if isinstance(field, dict):
        return _item_bytes(field.get("data_type"), depth + 1)
    return _item_bytes(field[1], depth + 1) if isinstance(field, list) and len(field) == 2 else None


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_U64
