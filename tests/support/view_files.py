"""Views as real files, for the programs and libraries that judge them; and hierarchies that are sketched."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import override

import numpy as np
import zarr

from icefs.engine.write.repository import WritableRepository
from icefs.paths import NodePath
from icefs.views.decoder import Decoding, ZarrDecoder
from icefs.views.hierarchy import SessionHierarchy
from icefs.views.interface import (
    Decoder,
    Elements,
    Format,
    Hierarchy,
    HierarchyFacts,
    ViewDirectory,
    ViewedNode,
    ViewFile,
)
from icefs.zarr.keys import ChunkIndex
from tests.support.viewed import repository_of

PIECE = 1000
"""How many bytes are read at once: no multiple of anything."""


def regular(chunk_shape: Sequence[int]) -> dict[str, object]:
    """Makes a chunk grid."""
    return {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}}


def array_document(**members: object) -> bytes:
    """Makes the zarr.json of an array of six numbers in chunks of two, with other members on request."""
    document = {
        "node_type": "array",
        "zarr_format": 3,
        "shape": [6],
        "data_type": "int32",
        "chunk_grid": regular([2]),
        "chunk_key_encoding": {"name": "default"},
        "codecs": [{"name": "sharding_indexed", "configuration": {"chunk_shape": [2]}}],
        "fill_value": 0,
    }
    return json.dumps(document | members).encode()


class SketchedHierarchy(Hierarchy):
    """Nodes that are nowhere, without chunks."""

    version = 1
    facts = HierarchyFacts("memory:", "SNAPSHOT")

    def __init__(self, documents: Mapping[str, bytes]) -> None:
        self._nodes = [ViewedNode(NodePath(path), data, 10**18) for path, data in sorted(documents.items())]

    @override
    def nodes(self) -> Sequence[ViewedNode]:
        return self._nodes

    @override
    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        return None

    @override
    def chunk_indices(self, array: NodePath) -> Iterator[ChunkIndex]:
        return iter(())

    @override
    def has_chunk(self, array: NodePath, index: ChunkIndex) -> bool:
        return False


class SketchedElements(Elements):
    """Elements that are all zero."""

    def __init__(self, shape: tuple[int, ...], chunk_shape: tuple[int, ...], dtype: str) -> None:
        self.shape, self.chunk_shape, self.dtype = shape, chunk_shape, np.dtype(dtype)

    @override
    def read(self, start: int, stop: int) -> np.ndarray:
        return np.zeros(stop - start, self.dtype)

    @override
    def chunk(self, index: ChunkIndex) -> np.ndarray:
        return np.zeros(self.chunk_shape, self.dtype)


class SketchedDecoder(Decoder):
    """Opens every array as one of some shape."""

    def __init__(self, shape: tuple[int, ...] = (6,), chunk_shape: tuple[int, ...] = (2,), dtype: str = "<i4") -> None:
        self._elements = SketchedElements(shape, chunk_shape, dtype)

    @override
    def open(self, array: NodePath) -> Elements:
        return self._elements


def view_of(repository: WritableRepository, made: Format) -> ViewDirectory:
    """Makes the view of `main`."""
    hierarchy = SessionHierarchy(repository.readonly_session("main"), branch="main")
    return made.root(hierarchy, ZarrDecoder(hierarchy, Decoding()))


def write_out(directory: ViewDirectory, target: Path) -> Path:
    """Writes a view as files; checks that listing and finding agree, and that names are ordered."""
    target.mkdir()
    names = []
    for name, entry in directory.list():
        names.append(name)
        found = directory.find(name)
        assert type(found) is type(entry)
        if isinstance(entry, ViewFile):
            (target / name).write_bytes(content(entry))
            os.utime(target / name, ns=(entry.time_ns, entry.time_ns))
        else:
            write_out(entry, target / name)
    assert names == sorted(names)
    assert len(set(names)) == len(names)
    return target


def content(file: ViewFile) -> bytes:
    """Reads a file of a view in pieces; checks that its size is right."""
    layout = file.layout()
    pieces = [bytes(layout.read(start, PIECE)) for start in range(0, layout.size, PIECE)]
    data = b"".join(pieces)
    assert len(data) == layout.size
    assert bytes(layout.read(0, layout.size + 1)) == data
    assert bytes(layout.read(layout.size, 10)) == b""
    return data


def shown(write: Callable[[zarr.Group], object], made: Format, target: Path) -> Path:
    """Writes the view of what a function writes below a root group."""
    return write_out(view_of(repository_of(write), made), target)
