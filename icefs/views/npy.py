"""The format `npy`: each array as a file that numpy maps, and any program reads that knows `.npy`.

    ARRAY.npy      the elements, in C order, in numpy's own types
    ARRAY.json     the array's zarr.json: attributes, names of dimensions
    GROUP/         a group
    icefs_view.json, in the root: the version, the groups' attributes, and what is left out, with the reason

Texts of any length, which numpy cannot map, become texts of the length of the longest, where the array is small.

Source: NEP 1, "A simple file format for NumPy arrays"; versions 1.0 and 2.0 are all that is written.
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, override

import numpy as np

from icefs.errors import FormatError, NotShownError
from icefs.format.zarr_json import document_of
from icefs.paths import ROOT_NODE, NodePath
from icefs.views.extents import ElementSource, ExtentLayout, Literal
from icefs.views.interface import (
    Decoder,
    Elements,
    Extent,
    Format,
    Hierarchy,
    Layout,
    LeftOut,
    Source,
    ViewDirectory,
    ViewedNode,
    ViewFile,
)
from icefs.views.left_out import LeftOutLog
from icefs.views.names import MAX_DEPTH, Names

_ABOUT: Final = "icefs_view.json"
_ENDINGS: Final = (".npy", ".json")
_LONGEST: Final = 255 - len(".json")
_MAX_TEXTS: Final = 1 << 16
_MAX_TEXT_BYTES: Final = 64 << 20
_MAX_DIMENSIONS: Final = 32
_ALIGNMENT: Final = 64


class NpyFormat(Format):
    """numpy's files."""

    name = "npy"

    @override
    def root(self, hierarchy: Hierarchy, decoder: Decoder) -> ViewDirectory:
        return _Root(hierarchy, decoder)


class _Directory(ViewDirectory):
    """A group, or an array with nodes below it: the entries of the nodes in it.

    Its own node and those in it are added before the first of its methods is called.
    """

    def __init__(self, decoder: Decoder, log: LeftOutLog) -> None:
        self.time_ns = 0
        self._decoder = decoder
        self._log = log
        self._arrays: dict[str, ViewedNode] = {}
        self._below: dict[str, _Directory] = {}
        self._opened: dict[NodePath, Elements | str] = {}
        self._names: dict[str, str] = {}
        self._nodes: dict[str, str] = {}

    def add_array(self, name: str, node: ViewedNode) -> None:
        """Adds an array."""
        self._arrays[name] = node

    def directory(self, name: str) -> "_Directory":
        """Returns the directory of a group, made where it is not there yet."""
        return self._below.setdefault(name, _Directory(self._decoder, self._log))

    def name_entries(self, reserved: Iterable[str] = ()) -> None:
        """Gives the nodes their names: those that can keep theirs do.

        An array's name has to be free with each ending, and a group's without.
        """
        names = Names(max_bytes=_LONGEST)
        taken = set(reserved)
        for name in sorted(self._below):
            self._name(name, names, taken, [""] if name not in self._arrays else ["", *_ENDINGS])
        for name in sorted(self._arrays.keys() - self._below.keys()):
            self._name(name, names, taken, _ENDINGS)
        self._nodes = {name: node for node, name in self._names.items()}
        for directory in self._below.values():
            directory.name_entries()

    def _name(self, name: str, names: Names, taken: set[str], endings: Iterable[str]) -> None:
        given = names.give(name)
        while any(given + ending in taken for ending in endings):
            given = names.give(name)
        taken.update(given + ending for ending in endings)
        self._names[name] = given

    @override
    def find(self, name: str) -> ViewFile | ViewDirectory | None:
        named = self._nodes.get(name)
        if named is not None and named in self._below:
            return self._below[named]
        for ending in _ENDINGS:
            named = self._nodes.get(name.removesuffix(ending)) if name.endswith(ending) else None
            node = None if named is None else self._arrays.get(named)
            if node is not None:
                if ending == ".json":
                    return _BytesFile(partial(bytes, node.document), node.time_ns)
                elements = self._elements(node)
                return None if isinstance(elements, str) else _ArrayFile(elements, node.time_ns)
        return None

    @override
    def list(self) -> Iterable[tuple[str, ViewFile | ViewDirectory]]:
        return self._all(())

    def _all(self, more: Sequence[str]) -> Iterator[tuple[str, ViewFile | ViewDirectory]]:
        names = [self._names[name] for name in self._below]
        names += [self._names[name] + ending for name in self._arrays for ending in _ENDINGS]
        for name in sorted((*names, *more)):
            found = self.find(name)
            if found is not None:
                yield name, found

    @override
    def left_out(self) -> Iterator[LeftOut]:
        for node in self._arrays.values():
            elements = self._elements(node)
            if isinstance(elements, str):
                yield LeftOut(node.path, elements)
        for directory in self._below.values():
            yield from directory.left_out()

    def renamed(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Yields the paths of the nodes that have other names in the view, here and below, and their paths in it."""
        for name, given in self._names.items():
            node = self._arrays.get(name)
            if name != given:
                yield f"{prefix}{given}", name if node is None else node.path
        for name, directory in self._below.items():
            yield from directory.renamed(f"{prefix}{self._names[name]}/")

    def _elements(self, node: ViewedNode) -> Elements | str:
        """Opens an array, once; returns the reason where it is not shown."""
        found = self._opened.get(node.path)
        if found is None:
            try:
                found = self._decoder.open(node.path)
                _check(found)
            except (NotShownError, FormatError) as error:
                found = error.own_message
                self._log.note(node.path, found)
            self._opened[node.path] = found
        return found


class _Root(_Directory):
    """The root, with the file about the view."""

    def __init__(self, hierarchy: Hierarchy, decoder: Decoder) -> None:
        super().__init__(decoder, LeftOutLog(NpyFormat.name, hierarchy.facts))
        self._facts = hierarchy.facts
        self._attributes: dict[NodePath, Any] = {}
        self._too_deep: list[NodePath] = []
        for node in hierarchy.nodes():
            document = document_of(node.document) or {}
            *above, name = node.path.split("/")[1:]
            if len(above) > MAX_DEPTH:
                self._too_deep.append(node.path)
                continue
            place: _Directory = self
            self.time_ns = max(self.time_ns, node.time_ns)
            is_group = document.get("node_type") == "group"
            for part in (*above, name) if is_group and node.path != ROOT_NODE else above:
                place = place.directory(part)
                place.time_ns = max(place.time_ns, node.time_ns)
            if not is_group:
                place.add_array(name or "root", node)
            elif document.get("attributes"):
                self._attributes[node.path] = document["attributes"]
        self.name_entries([_ABOUT])

    @override
    def find(self, name: str) -> ViewFile | ViewDirectory | None:
        return _BytesFile(self._about, self.time_ns) if name == _ABOUT else super().find(name)

    @override
    def list(self) -> Iterable[tuple[str, ViewFile | ViewDirectory]]:
        return self._all([_ABOUT])

    @override
    def left_out(self) -> Iterator[LeftOut]:
        yield from super().left_out()
        yield from (LeftOut(path, f"it is in more than {MAX_DEPTH} groups") for path in self._too_deep)

    def _about(self) -> bytes:
        about: Mapping[str, Any] = {
            "icefs_repository": self._facts.repository,
            "icefs_snapshot": self._facts.snapshot,
            "icefs_branch": self._facts.branch,
            "icefs_left_out": {one.path: one.reason for one in self.left_out()},
            "icefs_renamed": dict(self.renamed()),
            "attributes": self._attributes,
        }
        return json.dumps(about, ensure_ascii=False, indent=2).encode(errors="replace")


class _BytesFile(ViewFile):
    def __init__(self, make: Callable[[], bytes], time_ns: int) -> None:
        self._make = make
        self.time_ns = time_ns

    @override
    def layout(self) -> Layout:
        data = self._make()
        return ExtentLayout([Extent(0, len(data), Literal(data))])


class _ArrayFile(ViewFile):
    def __init__(self, elements: Elements, time_ns: int) -> None:
        self._elements = elements
        self.time_ns = time_ns

    @override
    def layout(self) -> Layout:
        elements = self._elements
        if elements.dtype.kind in ("O", "T"):
            texts = _of_equal_length(elements.read(0, _count(elements)).tolist())
            source: Source = Literal(texts.tobytes())
            dtype, size = texts.dtype, texts.nbytes
        else:
            made = ElementSource(elements)
            source, dtype, size = made, elements.dtype, made.size
        header = npy_header(elements.shape, dtype)
        return ExtentLayout([Extent(0, len(header), Literal(header)), Extent(len(header), size, source)])


def _of_equal_length(values: list[Any]) -> np.ndarray:
    """Returns texts, or bytes, as an array of those of the length of the longest."""
    longest = max((len(value) for value in values if isinstance(value, str | bytes)), default=0)
    if not all(isinstance(value, str) for value in values) and not all(isinstance(value, bytes) for value in values):
        raise FormatError("its elements are not texts, nor bytes", reason="objects")
    if longest * len(values) * 4 > _MAX_TEXT_BYTES:
        raise FormatError("its longest text is too long for all to have that length", reason="texts too long")
    is_bytes = bool(values) and isinstance(values[0], bytes)
    return np.array(values, f"S{longest or 1}" if is_bytes else f"<U{longest or 1}")


def npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """Writes the magic number and the header of a file in C order; the elements begin at a multiple of 64 bytes."""
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    file = io.BytesIO()
    try:
        np.lib.format.write_array_header_1_0(file, described)
    except ValueError:  # more than 64 KiB: the fields of a structure
        file = io.BytesIO()
        np.lib.format.write_array_header_2_0(file, described)
    assert file.tell() % _ALIGNMENT == 0
    return file.getvalue()


def _check(elements: Elements) -> None:
    """Raises NotShownError if numpy cannot map an array."""
    dtype = elements.dtype
    if dtype.kind in ("O", "T"):
        if _count(elements) > _MAX_TEXTS:
            raise NotShownError("it has too many texts of any length, which numpy cannot map")
    elif dtype.hasobject or dtype.kind not in "biufcmMSUV" or not _comes_back(dtype):
        raise NotShownError(f"numpy's files have no name for the data type {dtype}"[:200])
    if len(elements.shape) > _MAX_DIMENSIONS:
        raise NotShownError(f"it has more than {_MAX_DIMENSIONS} dimensions")


def _comes_back(dtype: np.dtype) -> bool:
    """Tells whether numpy reads a type as it was; types of other libraries become raw bits."""
    return dtype.names is not None or bool(np.dtype(dtype.str) == dtype)


def _count(elements: Elements) -> int:
    count = 1
    for length in elements.shape:
        count *= length
    return count
