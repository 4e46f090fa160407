"""What a directory of Zarr v3 holds: nodes, and the chunk files of each array as columns.

    scan_directory(root)  →  Scanned: nodes, arrays, what is invalid, what is untracked

A file counts as what the commit of a mounted branch would make of it: `zarr.json` is a node's metadata, a name under
the chunk keys of the nearest array above is a chunk, any other name is untracked; a name that looks like a chunk's
and is none, a chunk of a size that the array's codecs rule out and one outside of the grid are invalid. A million
chunk files take some tens of megabytes: their paths follow from their indices.
"""

import hashlib
import os
import stat
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from icefs.engine.write.node_editor import array_data
from icefs.errors import EntryNotFoundError, InvalidInputError, InvalidMetadataError, UnsupportedError
from icefs.format.chunk_sizes import ChunkSizes, chunk_sizes
from icefs.format.snapshot.nodes import NodeType
from icefs.format.zarr_json import parse_zarr_json
from icefs.paths import ROOT_DIRECTORY, ROOT_NODE, NodePath, TreePath, child, node_path, parent_node
from icefs.transfer.disk_errors import disk_error
from icefs.zarr.invalid import Invalid, metadata_reason, no_chunk_reason, unfit_reason
from icefs.zarr.keys import (
    METADATA_NAME,
    V2_METADATA_NAMES,
    ChunkIndex,
    ChunkKeyLayout,
    is_zarr_key,
    lies_in_hidden,
    metadata_key,
)

type I64 = npt.NDArray[np.int64]
type U32 = npt.NDArray[np.uint32]

CONTROL_NAME: Final = ".icefs"
MARKER_NAME: Final = ".icefs-export.json"
"""The file in which an export says what it is an export of; an import passes it by."""
_MAX_METADATA_BYTES: Final = 256 << 20


@dataclass(slots=True)
class ArrayFiles:
    """The chunk files of one array.

    Attributes:
        path: The array's node path below the directory.
        directory: Where its files are.
        layout: How its keys are written.
        grid_shape: How many chunks it has room for along each dimension.
        coords: The chunk indices, one column for each dimension; sorted.
        sizes: The files' lengths in bytes.
        mtimes: Their `st_mtime_ns`.
        ctimes: Their `st_ctime_ns`, which no program can set.
    """

    path: NodePath
    directory: str
    layout: ChunkKeyLayout
    grid_shape: tuple[int, ...]
    coords: tuple[U32, ...] = ()
    sizes: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    mtimes: I64 = field(default_factory=lambda: np.zeros(0, np.int64))
    ctimes: I64 = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.sizes)

    def index(self, row: int) -> ChunkIndex:
        """Returns the chunk index of a row."""
        return tuple(int(column[row]) for column in self.coords)

    def file(self, row: int) -> str:
        """Returns the path of the file of a row."""
        return os.path.join(self.directory, self.layout.format(self.index(row)))


@dataclass(slots=True)
class Scanned:
    """What was found in a directory.

    Attributes:
        root: The directory.
        nodes: The bytes of each node's zarr.json, by its path below the directory; parents first.
        arrays: The chunk files of each array, by its path.
        invalid: Files that cannot be imported.
        untracked: Files that are no Zarr keys.
    """

    root: str
    nodes: dict[NodePath, bytes] = field(default_factory=dict)
    arrays: dict[NodePath, ArrayFiles] = field(default_factory=dict)
    invalid: list[Invalid] = field(default_factory=list)
    untracked: list[str] = field(default_factory=list)

    @property
    def num_chunks(self) -> int:
        """How many chunk files there are."""
        return sum(map(len, self.arrays.values()))

    @property
    def chunk_bytes(self) -> int:
        """How many bytes they have."""
        return sum(int(files.sizes.sum()) for files in self.arrays.values())

    def fingerprint(self) -> str:
        """Returns what is the same as long as no file has changed."""
        digest = hashlib.sha256()
        for path in sorted(self.nodes):
            digest.update(f"{path}\0{len(self.nodes[path])}\0".encode(errors="surrogateescape") + self.nodes[path])
            files = self.arrays.get(path)
            for column in () if files is None else (*files.coords, files.sizes, files.mtimes, files.ctimes):
                digest.update(np.ascontiguousarray(column))
        return digest.hexdigest()


class _Place(NamedTuple):
    """A directory in the key space of an array: how many components deep it is, and the coordinates in them."""

    files: "_Growing"
    level: int
    prefix: ChunkIndex


class _Growing:
    """The chunk files of an array while they are found."""

    def __init__(
        self, path: NodePath, directory: str, layout: ChunkKeyLayout, grid_shape: tuple[int, ...], allowed: ChunkSizes
    ) -> None:
        self.path, self.directory, self.layout, self.grid_shape = path, directory, layout, grid_shape
        self.allowed = allowed
        self.coords = [array("I") for _ in grid_shape]
        self.sizes, self.mtimes, self.ctimes = array("q"), array("q"), array("q")

    def add(self, index: ChunkIndex, status: os.stat_result) -> None:
        for column, position in zip(self.coords, index, strict=True):
            column.append(position)
        self.sizes.append(status.st_size)
        self.mtimes.append(status.st_mtime_ns)
        self.ctimes.append(status.st_ctime_ns)

    def result(self) -> ArrayFiles:
        coords = [np.array(column, np.uint32) for column in self.coords]
        order = np.lexsort(coords[::-1]) if coords else np.arange(len(self.sizes))
        sizes, mtimes, ctimes = (np.array(column, np.int64)[order] for column in (self.sizes, self.mtimes, self.ctimes))
        columns = tuple(column[order] for column in coords)
        return ArrayFiles(
            self.path, self.directory, self.layout, self.grid_shape, columns, sizes, mtimes, ctimes
        )  # fmt: skip


def scan_directory(root: str, *, spec_version: int = 2) -> Scanned:
    """Finds out what a directory of Zarr v3 holds.

    Args:
        root: The directory.
        spec_version: Of the repository that it is for: version 1 cannot hold rectilinear chunk grids.

    Raises:
        EntryNotFoundError: there is no such directory.
        UnsupportedError: it holds Zarr v2.
        InvalidInputError: it holds no Zarr at all.
        StorageError: it cannot be read.
    """
    if not os.path.isdir(root):
        raise EntryNotFoundError(f"no such directory: {root}", path=root)
    scan = _Scan(root, spec_version)
    scan.run()
    if not scan.found.nodes and not scan.found.invalid:
        raise InvalidInputError(
            f"there is no zarr.json in {root}", hint="give the directory of a Zarr v3 group or array", path=root
        )
    return scan.found


class _Scan:
    def __init__(self, root: str, spec_version: int) -> None:
        self.found = Scanned(root)
        self._spec_version = spec_version
        self._layouts: dict[NodePath, ChunkKeyLayout] = {}

    def run(self) -> None:
        waiting: list[tuple[TreePath, list[_Place]]] = [(ROOT_DIRECTORY, [])]
        arrays: list[_Growing] = []
        while waiting:
            relative, places = waiting.pop()
            waiting.extend(self._scan(relative, places, arrays))
        found = self.found
        found.nodes = dict(sorted(found.nodes.items(), key=lambda item: (item[0].count("/"), item[0])))
        found.arrays = {files.path: files.result() for files in sorted(arrays, key=lambda files: files.path)}
        found.invalid.sort()
        found.untracked.sort()

    def _scan(
        self, relative: TreePath, places: list[_Place], arrays: list[_Growing]
    ) -> Iterator[tuple[TreePath, list[_Place]]]:
        directory = os.path.join(self.found.root, relative) if relative else self.found.root
        files, directories = self._entries(directory, relative)
        path = node_path(relative)
        if METADATA_NAME in files:
            growing = self._node(path, directory)
            if growing is not None:
                arrays.append(growing)
                self._layouts[path] = growing.layout
                places = [_Place(growing, 0, ()), *places]
        elif not V2_METADATA_NAMES.isdisjoint(files):
            name = min(V2_METADATA_NAMES.intersection(files))
            raise UnsupportedError(
                f"{directory} is Zarr v2 (it has {name}), and Icechunk holds Zarr v3 only",
                hint="'icefs import --copy' copies it, and 'icefs import --virtual' refers to its chunks",
                path=directory,
            )
        leaves = [place for place in places if place.level + 1 == place.files.layout.depth]
        for name, status in files.items():
            if name != METADATA_NAME and not (name == MARKER_NAME and not relative):
                self._file(leaves, relative, name, status)
        for name in directories:
            if name == CONTROL_NAME and not relative:
                self._refuse(relative, name, "has the name of the control directory of mounted trees; rename it")
                continue
            if name in V2_METADATA_NAMES:
                self._refuse(
                    relative, name, "has the name of Zarr v2 metadata, which no mounted tree can make; rename it"
                )
                continue
            below = [
                _Place(place.files, place.level + 1, place.prefix + part)
                for place in places
                if place.level + 1 < place.files.layout.depth
                and (part := place.files.layout.parse_component(place.level, name)) is not None
            ]
            yield child(relative, name), below

    def _entries(self, directory: str, relative: TreePath) -> tuple[dict[str, os.stat_result], list[str]]:
        files: dict[str, os.stat_result] = {}
        directories: list[str] = []
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(entry.name)
                        continue
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        self._refuse(relative, entry.name, "was just removed")
                        continue
                    if stat.S_ISREG(status.st_mode):
                        files[entry.name] = status
                    elif stat.S_ISLNK(status.st_mode):
                        self._refuse(relative, entry.name, "is a symbolic link; put a copy of what it leads to there")
                    else:
                        self.found.untracked.append(child(relative, entry.name))
        except OSError as error:
            raise disk_error("read", directory, error) from error
        return files, directories

    def _node(self, path: NodePath, directory: str) -> _Growing | None:
        """Reads a node's metadata; returns where its chunks go if it is an array."""
        key = metadata_key(path)
        file = os.path.join(directory, METADATA_NAME)
        try:
            path.encode()
            with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
                data = opened.read(_MAX_METADATA_BYTES + 1)
        except UnicodeEncodeError:
            self.found.invalid.append(Invalid(key, "lies under a name that is not UTF-8"))
            return None
        except OSError as error:
            raise disk_error("read", file, error) from error
        try:
            if len(data) > _MAX_METADATA_BYTES:
                raise InvalidMetadataError("is too long", file=key, reason="is too long")
            metadata = parse_zarr_json(data, name=key, spec_version=self._spec_version)
            array_data(metadata, key)  # refuses a grid that no snapshot can hold
            growing = None
            if metadata.node_type is NodeType.ARRAY:
                layout = ChunkKeyLayout.of_metadata(data, len(metadata.grid_shape))
                growing = _Growing(path, directory, layout, metadata.grid_shape, chunk_sizes(data))
        except InvalidMetadataError as error:
            self.found.invalid.append(Invalid(key, metadata_reason(error)))
            return None
        self.found.nodes[path] = data
        return growing

    def _file(self, leaves: list[_Place], relative: TreePath, name: str, status: os.stat_result) -> None:
        for place in leaves:
            part = place.files.layout.parse_component(place.level, name)
            if part is None:
                continue
            index, grid = place.prefix + part, place.files.grid_shape
            if any(position >= count for position, count in zip(index, grid, strict=True)):
                self._refuse(relative, name, f"is outside of the grid {list(grid)} of {place.files.path}")
            elif reason := unfit_reason(place.files.allowed, place.files.path, index, status.st_size):
                self._refuse(relative, name, reason)
            else:
                place.files.add(index, status)
            return
        if is_zarr_key(name) and not lies_in_hidden(child(relative, name)):
            self._refuse(relative, name, no_chunk_reason(self._array_above(relative)))
        else:
            self.found.untracked.append(child(relative, name))

    def _array_above(self, relative: TreePath) -> tuple[NodePath, ChunkKeyLayout] | None:
        """Returns the nearest array above a file, and how its chunks' keys are written; None if there is none."""
        path = node_path(relative)
        while path not in self._layouts and path != ROOT_NODE:
            path = parent_node(path)
        layout = self._layouts.get(path)
        return None if layout is None else (path, layout)

    def _refuse(self, relative: TreePath, name: str, reason: str) -> None:
        self.found.invalid.append(Invalid(child(relative, name), reason))
