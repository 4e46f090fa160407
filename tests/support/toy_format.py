"""A format for tests of what shows views: a directory for each group, with a file for each node.

`NAME.json` has the node's document, `NAME.bin` the stored bytes of an array's chunks, one after the other; the root's
node is called `root`.
"""

import json
import threading
from collections.abc import Iterable
from typing import override

from icefs.errors import DecodeError, NotShownError
from icefs.paths import NodePath
from icefs.vfs.views.versions import ViewTools
from icefs.views.interface import (
    Decoder,
    Elements,
    Format,
    Hierarchy,
    Layout,
    ViewDirectory,
    ViewedNode,
    ViewFile,
)
from icefs.zarr.keys import ChunkKeyLayout, node_prefix


class ToyDecoder(Decoder):
    """Opens nothing: the format reads bytes as they are stored."""

    @override
    def open(self, array: NodePath) -> Elements:
        raise NotShownError("nothing is decoded here")


class ToyLayout(Layout):
    """Bytes of an array's chunks, read when they are asked for."""

    def __init__(self, toy: "ToyFormat", hierarchy: Hierarchy, keys: list[tuple[str, int]]) -> None:
        self.size = sum(size for _, size in keys)
        self._toy = toy
        self._hierarchy = hierarchy
        self._keys = keys

    @override
    def read(self, offset: int, size: int) -> bytes:
        self._toy.reads += 1
        assert self._toy.may_read.wait(30)
        parts, start = [], 0
        for key, length in self._keys:
            if start < offset + size and start + length > offset:
                data = self._hierarchy.read(key)
                if data is None or len(data) != length or data == b"broken":
                    raise DecodeError(f"{key} does not decode")
                parts.append(data[max(0, offset - start) : offset + size - start])
            start += length
        return b"".join(parts)


class TextLayout(Layout):
    """A document."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = data

    @override
    def read(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]


class ToyFile(ViewFile):
    """A file of a node."""

    def __init__(self, toy: "ToyFormat", hierarchy: Hierarchy, node: ViewedNode, suffix: str) -> None:
        self.time_ns = node.time_ns
        self._toy, self._hierarchy, self._node, self._suffix = toy, hierarchy, node, suffix

    @override
    def layout(self) -> Layout:
        self._toy.layouts += 1
        assert threading.current_thread().name.startswith("icefs-views")
        if self._suffix == ".json":
            if b"not shown" in self._node.document:
                raise NotShownError("this cannot be shown")
            return TextLayout(self._node.document)
        path, document = self._node.path, json.loads(self._node.document)
        layout = ChunkKeyLayout.of_metadata(self._node.document, len(document["shape"]))
        keys = []
        for index in self._hierarchy.chunk_indices(path):
            key = node_prefix(path) + layout.format(index)
            data = self._hierarchy.read(key)
            assert data is not None
            keys.append((key, len(data)))
        return ToyLayout(self._toy, self._hierarchy, keys)


class ToyDirectory(ViewDirectory):
    """A group."""

    def __init__(self, toy: "ToyFormat", hierarchy: Hierarchy, path: str) -> None:
        self._toy, self._hierarchy, self._path = toy, hierarchy, path
        self.time_ns = max((node.time_ns for node in self._below()), default=0)

    def _below(self) -> list[ViewedNode]:
        return [one for one in self._hierarchy.nodes() if f"{one.path}/".startswith(f"{self._path}/")]

    def _entries(self) -> dict[str, ViewFile | ViewDirectory]:
        entries: dict[str, ViewFile | ViewDirectory] = {}
        for node in self._hierarchy.nodes():
            above, _, name = node.path.rpartition("/")
            if above != self._path:
                continue
            is_array = json.loads(node.document)["node_type"] == "array"
            entries[f"{name or 'root'}.json"] = ToyFile(self._toy, self._hierarchy, node, ".json")
            if is_array:
                entries[f"{name}.bin"] = ToyFile(self._toy, self._hierarchy, node, ".bin")
            elif name:
                entries[name] = ToyDirectory(self._toy, self._hierarchy, node.path)
        return dict(sorted(entries.items()))

    @override
    def find(self, name: str) -> ViewFile | ViewDirectory | None:
        assert threading.current_thread().name.startswith("icefs-views")
        return self._entries().get(name)

    @override
    def list(self) -> Iterable[tuple[str, ViewFile | ViewDirectory]]:
        yield from self._entries().items()
        for number in range(self._toy.more):
            yield f"~{number:07}", ToyFile(self._toy, self._hierarchy, self._hierarchy.nodes()[0], ".json")


class ToyFormat(Format):
    """The format.

    Attributes:
        roots: How many roots were made.
        layouts: How many layouts were worked out.
        reads: How many reads there were.
        more: How many more files each directory lists.
        may_read: Whether reads go on.
    """

    name = "npy"

    def __init__(self) -> None:
        self.roots = self.layouts = self.reads = self.more = 0
        self.may_read = threading.Event()
        self.may_read.set()

    @override
    def root(self, hierarchy: Hierarchy, decoder: Decoder) -> ViewDirectory:
        self.roots += 1
        return ToyDirectory(self, hierarchy, "")

    def tools(self) -> ViewTools:
        """Returns what makes views in this format, whatever its name."""
        return ViewTools(lambda text: self, lambda hierarchy: ToyDecoder(), lambda: None)
