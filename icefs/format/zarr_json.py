"""The fields of `zarr.json` that Icechunk needs: the type; for arrays the shape, the chunk grid and the chunk keys.

The bytes are stored as they are and given back as they are; this module looks at what the official library looks at
(shape, chunk grid, dimension names), and the chunk key encoding. It accepts anything else: unknown members, another
`zarr_format`, missing codecs, an unknown `chunk_key_encoding`, texts that are not UTF-8.

    chunk grid    regular      `chunk_shape`: one size per axis; a size of 0 makes no chunks
                  rectilinear  `chunk_shapes`: per axis a list of sizes and of runs `[size, count]` (spec 2 only)

Reading what is stored must not fail where the official library would not; for that there is `chunk_key_encoding_of`,
which never fails, and the shape of the grid, which the snapshot holds.

Divergence 1: an axis of a rectilinear grid may be a bare number (all chunks of that size), as zarr 3.4.2 writes it;
the official library refuses that.
Divergence 2: `grid_shape` is exact; the official library keeps the lowest 32 bits. `encode_snapshot` refuses more.

Source: Zarr v3 "Array metadata"; format notes §3 and §7.8; upstream icechunk/src/store.rs.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn

from icefs.errors import InvalidMetadataError
from icefs.format.snapshot.nodes import DimensionShape, NodeType
from icefs.words import plural

_MAX_U64: Final = 2**64 - 1
# The official library's parser refuses these twice; elsewhere the last of two equal names wins.
_NODE_MEMBERS: Final = frozenset({"node_type"})
_ARRAY_MEMBERS: Final = frozenset({"node_type", "shape", "chunk_grid", "dimension_names"})
_GRID_MEMBERS: Final = frozenset({"name", "configuration"})


@dataclass(frozen=True, slots=True)
class ChunkKeyEncoding:
    """How an array's chunk keys are written; `name` and `separator` may be unknown ones."""

    name: str = "default"
    separator: str = "/"


@dataclass(frozen=True, slots=True)
class ZarrMetadata:
    """The contents of a `zarr.json`.

    Attributes:
        node_type: Group or array; all that follows is for arrays.
        zarr_format: The value of that member, None where it is missing; should be 3.
        shape: Number of elements along each axis.
        chunk_grid: Kind of the chunk grid.
        grid_shape: Number of chunks along each axis.
        dimension_names: None where the member is missing or null; an unnamed dimension is None. Not necessarily one
            per axis.
        chunk_key_encoding: How chunk keys are written.
    """

    node_type: NodeType
    zarr_format: Any = 3
    shape: tuple[int, ...] = ()
    chunk_grid: Literal["regular", "rectilinear"] = "regular"
    grid_shape: tuple[int, ...] = ()
    dimension_names: tuple[str | None, ...] | None = None
    chunk_key_encoding: ChunkKeyEncoding = ChunkKeyEncoding()

    def dimensions(self) -> tuple[DimensionShape, ...]:
        """Returns the shape as a snapshot holds it."""
        return tuple(map(DimensionShape, self.shape, self.grid_shape))


class _Repeated(dict[str, Any]):
    """An object in which `names` occur more than once."""

    names: frozenset[str]


def parse_zarr_json(data: bytes | memoryview, *, name: str, spec_version: int = 2) -> ZarrMetadata:
    """Reads the metadata of a node.

    Args:
        data: The file.
        name: Its key, for errors.
        spec_version: Of the repository: version 1 cannot hold rectilinear chunk grids.

    Raises:
        InvalidMetadataError: the official library would not accept it either (kind `bad-metadata`).
    """
    return _Parser(name, spec_version).parse(data)


def chunk_key_encoding_of(data: bytes | memoryview) -> ChunkKeyEncoding:
    """Reads an array's chunk key encoding and nothing else; the default where there is none, or no valid JSON."""
    return _chunk_key_encoding(document_of(data))


def document_of(data: bytes | memoryview) -> dict[str, Any] | None:
    """Parses a `zarr.json` without validating it; None where it is no JSON object. Never fails.

    A whole number beyond 64 bits becomes a float, so that a number of very many digits does no harm.
    """
    try:
        document = _document(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _document(data: bytes | memoryview) -> Any:
    # Only texts that are looked at have to be UTF-8; the others do not matter here.
    text = bytes(data).decode(errors="surrogateescape")
    return json.loads(text, object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    repeated = _Repeated(found)
    counts = Counter(key for key, _ in pairs)
    repeated.names = frozenset(key for key, count in counts.items() if count > 1)
    return repeated


def _integer(digits: str) -> int | float:
    # Beyond 64 bits it is no shape anyway, and int() of very many digits is slow and may be forbidden.
    return int(digits) if len(digits) <= 20 else float(digits)


class _ConstantError(ValueError):
    """The text has a number that JSON does not have."""


def _constant(text: str) -> NoReturn:
    raise _ConstantError(text)


def _place_of_constant(data: bytes | memoryview) -> str:
    """Returns where the first NaN or Infinity of a document is: `attributes.valid_min`, `attributes.range[1]`."""
    mark = object()
    text = bytes(data).decode(errors="surrogateescape")
    try:
        document = json.loads(text, parse_int=_integer, parse_constant=lambda _: mark)
    except (ValueError, RecursionError):  # behind it there is something worse
        return "a place that cannot be named"
    waiting: list[tuple[str, Any]] = [("", document)]
    while waiting:
        path, value = waiting.pop()
        if value is mark:
            return path.removeprefix(".") or "the top"
        if isinstance(value, dict):
            waiting += [(f"{path}.{key}", below) for key, below in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(f"{path}[{index}]", below) for index, below in reversed([*enumerate(value)])]
    return "a member that is repeated"


def _chunk_key_encoding(document: Any) -> ChunkKeyEncoding:
    found = document.get("chunk_key_encoding") if isinstance(document, dict) else None
    if isinstance(found, str):
        found = {"name": found}
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return ChunkKeyEncoding()
    name: str = found["name"]
    configuration = found.get("configuration")
    separator = configuration.get("separator") if isinstance(configuration, dict) else None
    if not isinstance(separator, str):
        separator = "." if name == "v2" else "/"
    return ChunkKeyEncoding(name, separator)


class _Parser:
    __slots__ = ("_name", "_spec_version")

    def __init__(self, name: str, spec_version: int) -> None:
        self._name = name
        self._spec_version = spec_version

    def _error(self, reason: str) -> InvalidMetadataError:
        return InvalidMetadataError(f"{self._name}: {reason}", file=self._name, reason=reason)

    def parse(self, data: bytes | memoryview) -> ZarrMetadata:
        try:
            document = _document(data)
        except RecursionError:
            raise self._error("its JSON nests too deep") from None
        except _ConstantError as error:
            raise self._error(f"it is no JSON: {error} at {_place_of_constant(data)}") from None
        except ValueError as error:
            raise self._error(f"it is no JSON: {error}") from None
        if not isinstance(document, dict):
            raise self._error("it is no JSON object")
        node_type = self._member(document, "node_type", _NODE_MEMBERS)
        zarr_format = document.get("zarr_format")
        if node_type == NodeType.GROUP:
            return ZarrMetadata(NodeType.GROUP, zarr_format)
        if node_type != NodeType.ARRAY:
            raise self._error(f"its node_type is {node_type!r}, neither array nor group")
        shape = self._sizes(self._member(document, "shape", _ARRAY_MEMBERS), "shape")
        grid = self._member(document, "chunk_grid", _ARRAY_MEMBERS)
        if not isinstance(grid, dict):
            raise self._error("its chunk_grid is no object")
        kind, grid_shape = self._grid(grid, shape)
        if len(grid_shape) != len(shape):
            raise self._error(f"its shape has {plural(len(shape), 'dimension')}, its chunk grid {len(grid_shape)}")
        return ZarrMetadata(
            NodeType.ARRAY, zarr_format, shape, kind, grid_shape, self._names(document), _chunk_key_encoding(document)
        )

    def _member(self, found: Mapping[str, Any], member: str, known: frozenset[str]) -> Any:
        twice = sorted(known & found.names) if isinstance(found, _Repeated) else []
        if twice:
            raise self._error(f"it has {twice[0]} twice")
        if member not in found:
            raise self._error(f"it has no {member}")
        return found[member]

    def _sizes(self, found: Any, member: str) -> tuple[int, ...]:
        if not isinstance(found, list) or not all(_is_size(size) for size in found):
            raise self._error(f"its {member} is no list of sizes")
        return tuple(found)

    def _names(self, document: Mapping[str, Any]) -> tuple[str | None, ...] | None:
        names = document.get("dimension_names")
        if names is None:
            return None
        if not isinstance(names, list) or not all(name is None or _is_text(name) for name in names):
            raise self._error("its dimension_names are no list of strings and nulls")
        return tuple(name or None for name in names)

    def _grid(
        self, grid: Mapping[str, Any], shape: tuple[int, ...]
    ) -> tuple[Literal["regular", "rectilinear"], tuple[int, ...]]:
        kind = self._member(grid, "name", _GRID_MEMBERS)
        configuration = self._member(grid, "configuration", _GRID_MEMBERS)
        if not isinstance(configuration, dict):
            raise self._error("the configuration of its chunk_grid is no object")
        if kind == "regular":
            sizes = self._sizes(configuration.get("chunk_shape"), "chunk_shape")
            # Further sizes than the shape has are ignored, as in the official library.
            return kind, tuple(_count(length, size) for length, size in zip(shape, sizes, strict=False))
        if kind == "rectilinear" and self._spec_version > 1:
            axes = configuration.get("chunk_shapes")
            if not isinstance(axes, list):
                raise self._error("its chunk_shapes are no list")
            lengths = (*shape, *[0] * (len(axes) - len(shape)))
            return kind, tuple(self._axis(axis, length) for axis, length in zip(axes, lengths, strict=False))
        versions = " in spec version 1" if kind == "rectilinear" else ""
        raise self._error(f"its chunk grid {kind!r} is not supported{versions}")

    def _axis(self, axis: Any, length: int) -> int:
        if _is_size(axis):
            return _count(length, axis)
        if not isinstance(axis, list):
            raise self._error("its chunk_shapes are no lists of sizes")
        count = 0
        for item in axis:
            if _is_number(item):
                count += 1
            elif isinstance(item, list) and len(item) > 1 and _is_size(item[1]):
                count += item[1]
            else:
                raise self._error("its chunk_shapes hold something that is neither a size nor a run")
        return count


def _count(length: int, size: int) -> int:
    return -(-length // size) if size else 0


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_U64


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)
