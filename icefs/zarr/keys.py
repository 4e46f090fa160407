"""Zarr keys ↔ node paths and chunk indices, for every chunk key encoding of Zarr v3.

A key of a hierarchy is `zarr.json` below a node's path, or a chunk key below an array's path:

    encoding        scalar   index (1, 20)   path components below the array
    default, "/"    c        c/1/20          "c", then one coordinate each
    default, "."    c        c.1.20          one, with all coordinates
    v2, "/"         0        1/20            one coordinate each
    v2, "."         0        1.20            one, with all coordinates

Only canonical text is a key: coordinates are ASCII decimals without sign or leading zeros, below 2**32, and as
many as the array has dimensions. Everything here is pure: no I/O, no repository.

Source: Zarr v3 "Chunk key encodings"; format notes §3.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from icefs.errors import InvalidInputError
from icefs.format.zarr_json import ChunkKeyEncoding, chunk_key_encoding_of
from icefs.paths import ROOT_NODE, NodePath, TreePath

METADATA_NAME = "zarr.json"
"""The file of a node's metadata."""

V2_METADATA_NAMES = frozenset({".zgroup", ".zarray", ".zattrs", ".zmetadata"})
"""The metadata files of Zarr v2, which no Icechunk repository holds."""

MAX_COORDINATE = 2**32 - 1

type ChunkIndex = tuple[int, ...]
type Column = npt.NDArray[np.uint32]


def parse_coordinate(text: str) -> int | None:
    """Reads one chunk coordinate; None if `text` is not the canonical decimal of a uint32."""
    # The length is checked before int(), which would accept and convert any number of digits.
    if not text.isascii() or not text.isdigit() or len(text) > 10 or (text[0] == "0" and len(text) > 1):
        return None
    value = int(text)
    return value if value <= MAX_COORDINATE else None


@dataclass(frozen=True, slots=True)
class ChunkKeyLayout:
    """How the chunk keys of one array split into path components, for walking them like directories.

    A chunk key has `depth` components; component `level` (from 0) carries `widths[level]` coordinates: 0 for the
    constant `c`, 1, or all of them. The last component names the file, those before it directories.

    Attributes:
        ndim: The array's number of dimensions.
        prefix: What stands before the coordinates: `c` (encoding `default`) or nothing (`v2`).
        separator: `/` or `.`.
        widths: The number of coordinates in each component.
    """

    ndim: int
    prefix: str
    separator: str
    widths: tuple[int, ...]

    @classmethod
    def of(cls, encoding: ChunkKeyEncoding, ndim: int) -> "ChunkKeyLayout":
        """Returns the layout of an array of `ndim` dimensions.

        Raises:
            InvalidInputError: the encoding or its separator is unknown.
        """
        name, separator = encoding.name, encoding.separator
        if name not in {"default", "v2"} or separator not in {"/", "."}:
            raise InvalidInputError(
                f"unknown chunk key encoding {name!r} with separator {separator!r}",
                kind="bad-metadata",
                name=name,
                separator=separator,
            )
        prefix = "c" if name == "default" else ""
        if ndim == 0:
            widths: tuple[int, ...] = (0,)
        elif separator == ".":
            widths = (ndim,)
        else:
            widths = (0,) * len(prefix) + (1,) * ndim
        return cls(ndim, prefix, separator, widths)

    @classmethod
    def of_metadata(cls, zarr_json: bytes | memoryview, ndim: int) -> "ChunkKeyLayout":
        """Returns the layout that an array's `zarr.json` names.

        An encoding that nobody knows is read as the default one, which is how the official library reads all of
        them: chunks that are stored can be reached.
        """
        try:
            return cls.of(chunk_key_encoding_of(zarr_json), ndim)
        except InvalidInputError:
            return cls.of(ChunkKeyEncoding(), ndim)

    @property
    def depth(self) -> int:
        """The number of path components of a chunk key; all but the last are directories."""
        return len(self.widths)

    def coordinates_before(self, level: int) -> int:
        """Returns how many coordinates the components before `level` carry."""
        return sum(self.widths[:level])

    def parse_component(self, level: int, name: str) -> ChunkIndex | None:
        """Reads the coordinates in the component at `level`; None if no chunk key has this name there.

        Returns:
            `widths[level]` coordinates, so `()` for the constant component.
        """
        width = self.widths[level]
        if width == 0:
            return () if name == (self.prefix or "0") else None
        if width == 1 and (level or not self.prefix):
            value = parse_coordinate(name)
            return None if value is None else (value,)
        parts = name.split(".")
        if self.prefix and parts.pop(0) != self.prefix:
            return None
        if len(parts) != width:
            return None
        values = tuple(value for part in parts if (value := parse_coordinate(part)) is not None)
        return values if len(values) == width else None

    def format_component(self, level: int, coordinates: Sequence[int]) -> str:
        """Writes the component at `level` from its `widths[level]` coordinates.

        Raises:
            InvalidInputError: another number of coordinates (kind `invalid-chunk-index`).
        """
        width = self.widths[level]
        if len(coordinates) != width:
            raise InvalidInputError(
                f"component {level} holds {width} coordinates, not {len(coordinates)}", kind="invalid-chunk-index"
            )
        if width == 0:
            return self.prefix or "0"
        text = ".".join(map(str, coordinates))
        return f"{self.prefix}.{text}" if self.prefix and self.separator == "." else text

    def format_names(self, level: int, columns: Sequence[Column]) -> list[bytes]:
        """Writes the components at `level` of many chunks at once, as directory entry names.

        Args:
            level: The component's position.
            columns: `widths[level]` columns of coordinates, of equal length.

        Returns:
            One name for each row, ASCII; for the constant component its one name.

        Raises:
            InvalidInputError: another number of columns (kind `invalid-chunk-index`).
        """
        if len(columns) != self.widths[level]:
            raise InvalidInputError(
                f"component {level} holds {self.widths[level]} coordinates, not {len(columns)}",
                kind="invalid-chunk-index",
            )
        if not columns:
            return [self.format_component(level, ()).encode()]
        if not len(columns[0]):
            return []
        # One C loop over all rows (the list's own repr, or one join) is several times faster than a Python one.
        if len(columns) == 1:
            texts = repr(columns[0].tolist())[1:-1].encode().split(b", ")
        else:
            pattern = ".".join(["%d"] * len(columns))
            texts = (
                "\n".join(map(pattern.__mod__, zip(*(column.tolist() for column in columns), strict=True)))
                .encode()
                .split(b"\n")
            )
        if self.prefix and self.separator == ".":
            start = self.prefix.encode() + b"."
            return [start + text for text in texts]
        return texts

    def parse_prefix(self, components: Sequence[str]) -> ChunkIndex | None:
        """Reads the leading components of a chunk key: the coordinates that all chunks below share.

        Returns:
            The coordinates so far (the whole chunk index if `len(components) == depth`); None if no chunk key
            starts like this, also if there are more components than `depth`.
        """
        if len(components) > len(self.widths):
            return None
        index: ChunkIndex = ()
        for level, name in enumerate(components):
            part = self.parse_component(level, name)
            if part is None:
                return None
            index += part
        return index

    def parse(self, relative: str) -> ChunkIndex | None:
        """Reads a whole chunk key, relative to the array; None if it is not one of this array's."""
        components = relative.split("/")
        return self.parse_prefix(components) if len(components) == len(self.widths) else None

    def format(self, index: Sequence[int]) -> str:
        """Writes the chunk key of `index`, relative to the array.

        Raises:
            InvalidInputError: wrong number of coordinates, or one outside uint32.
        """
        if len(index) != self.ndim or not all(0 <= value <= MAX_COORDINATE for value in index):
            raise InvalidInputError(
                f"{tuple(index)} is not a chunk index of {self.ndim} dimensions", kind="invalid-chunk-index"
            )
        if not self.ndim:
            return self.prefix or "0"
        text = self.separator.join(map(str, index))
        return f"{self.prefix}{self.separator}{text}" if self.prefix else text


def chunk_key(encoding: ChunkKeyEncoding, index: Sequence[int]) -> str:
    """Writes the key of a chunk, relative to its array."""
    return ChunkKeyLayout.of(encoding, len(index)).format(index)


def parse_chunk_key(encoding: ChunkKeyEncoding, ndim: int, relative: str) -> ChunkIndex | None:
    """Reads a key relative to an array of `ndim` dimensions; None if it is none of its chunk keys."""
    return ChunkKeyLayout.of(encoding, ndim).parse(relative)


def node_prefix(path: NodePath) -> str:
    """Returns what the keys below a node start with: `""` for `/`, `a/b/` for `/a/b`."""
    return "" if path == "/" else f"{path[1:]}/"


def metadata_key(path: NodePath) -> TreePath:
    """Returns the key of a node's metadata: `a/b/zarr.json` for `/a/b`."""
    return TreePath(node_prefix(path) + METADATA_NAME)


def parse_metadata_key(key: TreePath) -> NodePath | None:
    """Returns the path of the node whose metadata `key` names; None if it names no metadata."""
    if key == METADATA_NAME:
        return ROOT_NODE
    return NodePath(f"/{key[: -len(METADATA_NAME) - 1]}") if key.endswith(f"/{METADATA_NAME}") else None


def split_candidates(key: TreePath) -> Iterator[tuple[NodePath, str]]:
    """Yields each way to read `key` as a node's path and a key relative to it, the longest path first.

    Which one holds depends on the nodes that exist: `a/c/0/0` is a chunk of `/a`, or (encoding v2) of `/a/c`.
    """
    end = key.rfind("/")
    while end > 0:
        yield NodePath(f"/{key[:end]}"), key[end + 1 :]
        end = key.rfind("/", 0, end)
    yield ROOT_NODE, key


def normalize_key(key: str) -> TreePath:
    """Drops leading, trailing and doubled slashes, as the official library does.

    Raises:
        InvalidInputError: a segment is `.` or `..`.
    """
    if not key or (key[0] != "/" and key[-1] != "/" and "//" not in key and "./" not in key and key[-1] != "."):
        return TreePath(key)
    segments = [segment for segment in key.split("/") if segment]
    if "." in segments or ".." in segments:
        raise InvalidInputError(f"{key!r} is not a Zarr key: it has a '.' or '..' segment", kind="invalid-key", key=key)
    return TreePath("/".join(segments))


def lies_in_hidden(key: str) -> bool:
    """Tells whether a key lies in a directory whose name begins with a dot: no writer's node, but a program's own."""
    return any(part.startswith(".") for part in key.split("/")[:-1])


def is_zarr_key(key: str) -> bool:
    """Tells whether a (normalised) key can be metadata or a chunk's, in some encoding, of some hierarchy."""
    name = key[key.rfind("/") + 1 :]
    if name in {METADATA_NAME, "c"}:
        return True
    return all(parse_coordinate(part) is not None for part in name.removeprefix("c.").split("."))
