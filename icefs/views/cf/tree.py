"""Directories and files of a NetCDF view.

    root.nc            the arrays of the root
    surface.nc         the arrays of the group surface
    surface/           groups and arrays below it, unless it is too deep
        t.nc           an array of surface that gives a dimension another size than the others do
        deep.nc        the arrays of surface/deep

With groups inside, `root.nc` alone has everything.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, override

from icefs.errors import FormatError, NotShownError
from icefs.paths import ROOT_NODE, NodePath
from icefs.views.cf.dataset import DatasetBuilder, tell_origin
from icefs.views.cf.model import Dataset
from icefs.views.cf.names import shown_name
from icefs.views.cf.nodes import ArrayNode, GroupNode, Nodes
from icefs.views.cf.placement import place
from icefs.views.cf.types import Rules
from icefs.views.interface import Decoder, Hierarchy, HierarchyFacts, Layout, LeftOut, ViewDirectory, ViewFile
from icefs.views.left_out import LeftOutLog
from icefs.views.names import MAX_DEPTH, entry_names, safe_name
from icefs.words import quoted

SUFFIX: Final = ".nc"
_ROOT_NAME: Final = "root"
# A number and the suffix fit behind it.
_MAX_STEM_BYTES: Final = 240


class FileWriter(ABC):
    """Makes files of descriptions, in one format.

    Attributes:
        format_name: The format.
        rules: What the format has.
    """

    format_name: str
    rules: Rules

    def left_out(self, dataset: Dataset) -> Sequence[LeftOut]:
        """Returns the arrays of a dataset for which a file has no room."""
        return ()

    @abstractmethod
    def layout(self, dataset: Dataset) -> Layout:
        """Lays a file out, without what it has no room for.

        Raises:
            NotShownError: it is larger than the format allows.
            UnsupportedError: a library is not installed.
        """


class DatasetFile(ViewFile):
    """A file that shows a description, and knows what it leaves out."""

    def __init__(self, view: "NetCdfView", time_ns: int, elsewhere: Sequence[str] = ()) -> None:
        self._view = view
        self._elsewhere = elsewhere
        self._left_out: Sequence[LeftOut] | None = None
        self.time_ns = time_ns

    @abstractmethod
    def describe(self, builder: DatasetBuilder) -> Dataset:
        """Describes what the file shows.

        Raises:
            NotShownError: it would be too large.
            DecodeError, StorageError, FormatError: what the layout depends on cannot be read.
        """

    @override
    def layout(self) -> Layout:
        dataset, left_out = self._described()
        for one in left_out:
            self._view.log.note(one.path, one.reason)
        tell_origin(dataset, self._view.facts, left_out, self._elsewhere)
        return self._view.writer.layout(dataset)

    def left_out(self) -> Sequence[LeftOut]:
        """Returns what it leaves out; nothing if it cannot be described, which readers of the file meet."""
        if self._left_out is None:
            try:
                self._described()
            except (FormatError, NotShownError):
                return ()
        return self._left_out or ()

    def _described(self) -> tuple[Dataset, list[LeftOut]]:
        builder = DatasetBuilder(self._view.decoder, self._view.writer.rules)
        dataset = self.describe(builder)
        left_out = [*builder.left_out, *self._view.writer.left_out(dataset)]
        self._left_out = left_out
        return dataset, left_out


class GroupFile(DatasetFile):
    """Arrays of one group as a file."""

    def __init__(
        self, view: "NetCdfView", group: GroupNode, arrays: Sequence[ArrayNode], elsewhere: Sequence[str] = ()
    ) -> None:
        super().__init__(view, group.time_ns, elsewhere)
        self._group = group
        self._arrays = arrays

    @override
    def describe(self, builder: DatasetBuilder) -> Dataset:
        return builder.group(self._group, self._arrays)


class NestedFile(DatasetFile):
    """A group as a file, with all groups inside."""

    def __init__(self, view: "NetCdfView") -> None:
        super().__init__(view, view.nodes.newest(ROOT_NODE))

    @override
    def describe(self, builder: DatasetBuilder) -> Dataset:
        return self._dataset(builder, ROOT_NODE, 0)

    def _dataset(self, builder: DatasetBuilder, path: NodePath, depth: int) -> Dataset:
        if depth > MAX_DEPTH:
            raise NotShownError(
                f"{quoted(path)} is more than {MAX_DEPTH} groups deep, too deep for one NetCDF file of a view",
                hint="read the view netcdf, with a file for each group",
            )
        group = self._view.nodes.group(path)
        inner = {shown_name(child.rpartition("/")[2]): child for child in group.groups}
        dataset = builder.group(group, group.arrays, [*inner])
        for name, child in inner.items():
            dataset.groups[name] = self._dataset(builder, child, depth + 1)
        return dataset


class NetCdfDirectory(ViewDirectory):
    """What is below a group: a file and a directory for each group in it, and arrays with files of their own."""

    def __init__(self, view: "NetCdfView", path: NodePath = ROOT_NODE, depth: int = 0) -> None:
        self._view = view
        self._path = path
        self._depth = depth
        self._lock = threading.Lock()
        self._entries: Mapping[str, ViewFile | ViewDirectory] | None = None
        self.time_ns = view.nodes.newest(path)

    @override
    def find(self, name: str) -> ViewFile | ViewDirectory | None:
        return self._all().get(name)

    @override
    def list(self) -> Iterable[tuple[str, ViewFile | ViewDirectory]]:
        return iter(sorted(self._all().items()))

    @override
    def left_out(self) -> Iterator[LeftOut]:
        for entry in self._all().values():
            if isinstance(entry, NetCdfDirectory | DatasetFile):
                yield from entry.left_out()
        yield from self._view.without_file(self._path, self._depth)

    def _all(self) -> Mapping[str, ViewFile | ViewDirectory]:
        with self._lock:
            if self._entries is None:
                self._entries = self._view.entries(self._path, self._depth)
            return self._entries


class RootFileDirectory(ViewDirectory):
    """The directory of a view that is one file."""

    def __init__(self, file: DatasetFile) -> None:
        self._file = file
        self.time_ns = file.time_ns

    @override
    def find(self, name: str) -> ViewFile | ViewDirectory | None:
        return self._file if name == _ROOT_NAME + SUFFIX else None

    @override
    def list(self) -> Iterable[tuple[str, ViewFile | ViewDirectory]]:
        yield _ROOT_NAME + SUFFIX, self._file

    @override
    def left_out(self) -> Iterable[LeftOut]:
        return self._file.left_out()


class NetCdfView:
    """The view of one hierarchy.

    Attributes:
        nodes: The hierarchy's groups and arrays.
        decoder: Opens its arrays.
        facts: Where it comes from.
        writer: Makes the files.
        log: Gets what they leave out.
    """

    def __init__(self, hierarchy: Hierarchy, decoder: Decoder, writer: FileWriter) -> None:
        self.nodes = Nodes(hierarchy)
        self.facts: HierarchyFacts = hierarchy.facts
        self.log = LeftOutLog(writer.format_name, hierarchy.facts)
        self.decoder = decoder
        self.writer = writer

    def entries(self, path: NodePath, depth: int) -> dict[str, ViewFile | ViewDirectory]:
        """Returns the entries of the directory of a group that is in so many directories."""
        own = self.nodes.group(path)
        groups = {child: self.nodes.group(child) for child in own.groups}
        entries: dict[str, ViewFile | ViewDirectory] = {}
        placed = place(own.arrays)
        others = replace(own, unread={})  # the file of the group names them
        if depth < MAX_DEPTH:
            with_directory = {
                group.name: child for child, group in groups.items() if group.groups or place(group.arrays).apart
            }
            for name, entry in entry_names(with_directory, ()).items():
                entries[entry] = NetCdfDirectory(self, with_directory[name], depth + 1)
        if path == ROOT_NODE and own.arrays:
            entries[_file_name(_ROOT_NAME, entries)] = self._file(own)
        for array, coordinates in placed.apart:
            entries[_file_name(array.name, entries)] = GroupFile(self, others, [*coordinates, array])
        for group in groups.values():
            if group.arrays:
                entries[_file_name(group.name, entries)] = self._file(group)
        return entries

    def without_file(self, path: NodePath, depth: int) -> Iterator[LeftOut]:
        """Yields what no file of a group's directory names: groups that are too deep, and groups that show nothing."""
        own = self.nodes.group(path)
        for group in (*([own] if path == ROOT_NODE else []), *map(self.nodes.group, own.groups)):
            if not group.arrays:
                yield from (LeftOut(array, reason) for array, reason in group.unread.items())
            if group is not own and depth >= MAX_DEPTH and group.groups:
                yield LeftOut(group.path, f"groups in it are in more than {MAX_DEPTH} groups")

    def _file(self, group: GroupNode) -> ViewFile:
        placed = place(group.arrays)
        elsewhere = [
            f"{quoted(array.name)}: a file of its own, in the directory of the group" for array, _ in placed.apart
        ]
        return GroupFile(self, group, placed.together, elsewhere)


def _file_name(stem: str, taken: Container[str]) -> str:
    """Returns the name of a file; it gets a number where a directory or another file has its name."""
    safe = safe_name(stem, _MAX_STEM_BYTES)
    name, number = safe + SUFFIX, 1
    while name in taken:
        number += 1
        name = f"{safe}~{number}{SUFFIX}"
    return name
