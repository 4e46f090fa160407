"""For tests of NetCDF views: hierarchies in memory that zarr-python writes and decodes, and files of their layouts."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from icefs.errors import NotShownError
from icefs.paths import NodePath, tree_path
from icefs.views.interface import (
    Decoder,
    Elements,
    Format,
    Hierarchy,
    HierarchyFacts,
    Layout,
    ViewDirectory,
    ViewedNode,
    ViewFile,
)

FACTS = HierarchyFacts("memory://", "1CECHNKREP0F1RSTCMT0", "main")


class WrittenHierarchy(Hierarchy):
    """What a function wrote below a root group."""

    def __init__(self, write: Callable[[zarr.Group], object], facts: HierarchyFacts = FACTS) -> None:
        self.store = MemoryStore()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # data types without a specification
            write(zarr.create_group(self.store))
        self._facts = facts
        self._nodes: list[ViewedNode] = []

    def put(self, key: str, document: bytes) -> None:
        """Writes a `zarr.json` that zarr-python would not write."""
        sync(self.store.set(key, default_buffer_prototype().buffer.from_bytes(document)))

    @property
    def facts(self):
        return self._facts

    @property
    def version(self):
        return 1

    def nodes(self):
        if not self._nodes:
            keys = sorted(key for key in self.store._store_dict if key.endswith("zarr.json"))
            found = [ViewedNode(NodePath("/" + key[:-10]), self.read(key), 10**18 + at) for at, key in enumerate(keys)]
            self._nodes = sorted(found, key=lambda node: node.path)
        return self._nodes

    def read(self, key, start=0, stop=None):
        data = self.store._store_dict.get(key)
        return None if data is None else data.to_bytes()[start:stop]

    def chunk_indices(self, array):
        raise NotImplementedError

    def has_chunk(self, array, index):
        raise NotImplementedError


class WrittenElements(Elements):
    """An array, read with zarr-python; whole, unless it has no chunks."""

    def __init__(self, array: zarr.Array) -> None:
        self._array = array
        self.shape = array.shape
        self.dtype = np.dtype(array.dtype)
        self.chunk_shape = array.chunks
        self._whole: np.ndarray | None = None
        self.reads = 0

    def read(self, start, stop):
        self.reads += 1
        if self._array.size > 10**7:
            return np.full(stop - start, self._array.fill_value, self.dtype)
        if self._whole is None:
            self._whole = np.asarray(self._array[...]).reshape(-1)
        return self._whole[start:stop]

    def chunk(self, index):
        raise NotImplementedError


class WrittenDecoder(Decoder):
    """Opens the arrays of a `WrittenHierarchy`."""

    def __init__(self, hierarchy: WrittenHierarchy) -> None:
        self._store = hierarchy.store
        self.opened: dict[NodePath, WrittenElements] = {}

    def open(self, array):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = zarr.open_array(self._store, path=tree_path(array), mode="r")
            except Exception as error:
                raise NotShownError(f"zarr-python does not open it: {error}") from error
        return self.opened.setdefault(array, WrittenElements(found))


def read_whole(layout: Layout, piece: int = 4099) -> bytes:
    """Reads a layout from front to back, in pieces whose size divides nothing."""
    parts, offset = [], 0
    while offset < layout.size:
        part = bytes(layout.read(offset, piece))
        assert len(part) == min(piece, layout.size - offset)
        parts.append(part)
        offset += len(part)
    assert layout.read(offset, piece) == b""
    return b"".join(parts)


def files_of(directory: ViewDirectory, prefix: str = "") -> Iterator[tuple[str, ViewFile]]:
    """Yields the files of a view by path."""
    for name, entry in directory.list():
        assert directory.find(name) is entry
        if isinstance(entry, ViewFile):
            yield prefix + name, entry
        else:
            yield from files_of(entry, f"{prefix}{name}/")


def view_of(form: Format, hierarchy: WrittenHierarchy) -> dict[str, ViewFile]:
    """Returns the files of a view by path."""
    return dict(files_of(form.root(hierarchy, WrittenDecoder(hierarchy))))


def write_view(form: Format, hierarchy: WrittenHierarchy, directory: Path, piece: int = 4099) -> dict[str, Path]:
    """Writes the files of a view below a directory; returns their places by path."""
    written = {}
    for path, file in view_of(form, hierarchy).items():
        place = directory / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(read_whole(file.layout(), piece))
        written[path] = place
    return written
