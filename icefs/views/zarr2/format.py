"""The format `zarr2`: the groups of a hierarchy, and the arrays in them.

Each group has `.zgroup` and `.zattrs`, the root `.zmetadata` too, with all of them: a program that reads it opens the
view with one file. An array that is not shown is named in its group's attribute `icefs_left_out`, with the reason.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, override

from icefs.errors import NotShownError
from icefs.paths import ROOT_NODE, NodePath, node_and_ancestors
from icefs.views.interface import (
    Decoder,
    Format,
    Hierarchy,
    HierarchyFacts,
    LeftOut,
    ViewDirectory,
    ViewedNode,
    ViewFile,
)
from icefs.views.left_out import LeftOutLog
from icefs.views.names import MAX_DEPTH, Dimensions, entry_names
from icefs.views.zarr2.arrays import ArrayDirectory, open_native, open_plain
from icefs.views.zarr2.attributes import dump, harmless
from icefs.views.zarr2.documents import ArrayDocument, attributes_of, read_array, read_document
from icefs.views.zarr2.files import MetadataFile
from icefs.words import some
from icefs.zarr.keys import V2_METADATA_NAMES

_ZGROUP: Final = {"zarr_format": 2}
_NAMED: Final = 100
"""How many arrays that are not shown an attribute names."""
_PARTS: Final = ("_imag", "_real")
_SCALAR: Final = "icefs_scalar"
_ROOT: Final = "root"
"""The name of an array that is the root."""


class Zarr2Format(Format):
    """Zarr v2."""

    def __init__(self, *, keeps_compressed: bool = False) -> None:
        """Takes whether chunks keep their bytes, and elements their types, where Zarr v2 has names for them."""
        self.name = "zarr2,compressed" if keeps_compressed else "zarr2"
        self._keeps_compressed = keeps_compressed

    @override
    def root(self, hierarchy: Hierarchy, decoder: Decoder) -> ViewDirectory:
        log = LeftOutLog(self.name, hierarchy.facts)
        groups: dict[NodePath, GroupDirectory] = {}
        arrays: dict[NodePath, _Array] = {}
        dimensions: dict[NodePath, Dimensions] = {}

        def group(path: NodePath) -> GroupDirectory:
            if path not in groups:
                groups[path] = GroupDirectory(log, hierarchy.facts if path == ROOT_NODE else None)
                if path != ROOT_NODE:
                    group(_parent(path)).add_group(path, groups[path])
            return groups[path]

        root = group(ROOT_NODE)
        for node in hierarchy.nodes():
            document = read_document(node.document)
            above = next((path for path in node_and_ancestors(node.path) if path in arrays), None)
            if node.path.count("/") > MAX_DEPTH:
                root.add_left_out(node.path, f"it is in more than {MAX_DEPTH} groups")
                continue
            if above is not None:
                root.add_left_out(node.path, f"it is below the array {above}")
            elif document.get("node_type") != "array":
                group(node.path).attributes = attributes_of(document)
                if document.get("node_type") != "group":
                    root.add_left_out(node.path, "its zarr.json is that of no group or array")
            else:
                parent = _parent(node.path)
                known = dimensions.setdefault(parent if self._keeps_compressed else ROOT_NODE, Dimensions())
                array = _Array(node, document, hierarchy, decoder, known, log, keeps_compressed=self._keeps_compressed)
                arrays[node.path] = array
                group(parent).add_array(node.path, array)
            for path in node_and_ancestors(node.path):
                if path in groups:
                    groups[path].time_ns = max(groups[path].time_ns, node.time_ns)
        for made in groups.values():
            made.name_entries()
        return root


class _Array:
    """An array of the hierarchy, opened when it is asked for first."""

    def __init__(
        self,
        node: ViewedNode,
        document: Mapping[str, Any],
        hierarchy: Hierarchy,
        decoder: Decoder,
        dimensions: Dimensions,
        log: LeftOutLog,
        *,
        keeps_compressed: bool,
    ) -> None:
        self._node = node
        self._hierarchy = hierarchy
        self._decoder = decoder
        self._log = log
        self._is_native = keeps_compressed
        self._directories: list[ArrayDirectory] | None = None
        self._document: ArrayDocument | None = None
        self._names: list[str] = []
        self.reason: str | None = None
        try:
            self._document = read_array(document)
        except NotShownError as error:
            self._leave_out(error)
        else:
            is_one = not self._document.shape and not keeps_compressed
            names, shape = ([_SCALAR], [1]) if is_one else (self._document.names, self._document.shape)
            self._names = dimensions.name(names, shape)

    def directories(self) -> list[ArrayDirectory]:
        """Returns the arrays of the view that show it; none, and `reason` set, where it is not shown."""
        if self._directories is None:
            made: list[ArrayDirectory] = []
            if self._document is not None:
                open_array = open_native if self._is_native else open_plain
                try:
                    made = open_array(self._node, self._hierarchy, self._decoder, self._document, self._names)
                except NotShownError as error:
                    self._leave_out(error)
            self._directories = made
        return self._directories

    def _leave_out(self, error: NotShownError) -> None:
        self.reason = error.own_message
        self._log.note(self._node.path, error.own_message)


class GroupDirectory(ViewDirectory):
    """The directory of a group."""

    def __init__(self, log: LeftOutLog, facts: HierarchyFacts | None = None) -> None:
        """Takes the log of what is left out, and what a root says of where it comes from."""
        self.time_ns = 0
        self.attributes: Mapping[str, Any] = {}
        self._facts = facts
        self._nodes: dict[str, tuple[NodePath, GroupDirectory | _Array]] = {}
        self._entries: dict[str, tuple[NodePath, GroupDirectory | _Array]] = {}
        self._log = log
        self._left_out: list[LeftOut] = []

    def add_group(self, path: NodePath, group: "GroupDirectory") -> None:
        """Adds a group."""
        self._nodes[_base_name(path)] = path, group

    def add_array(self, path: NodePath, array: _Array) -> None:
        """Adds an array."""
        self._nodes[_base_name(path)] = path, array

    def add_left_out(self, path: NodePath, reason: str) -> None:
        """Notes something that has no place in the view."""
        self._left_out.append(LeftOut(path, reason))
        self._log.note(path, reason)

    def name_entries(self) -> None:
        """Gives its groups and arrays the names that they have in the view."""
        self._entries = {name: self._nodes[node] for node, name in entry_names(self._nodes, V2_METADATA_NAMES).items()}

    @override
    def find(self, name: str) -> ViewFile | ViewDirectory | None:
        metadata = self._metadata_names()
        if name in metadata:
            return MetadataFile(lambda: dump(metadata[name]()), self.time_ns)
        _, found = self._entries.get(name, (None, None))
        if isinstance(found, GroupDirectory):
            return found
        suffix = ""
        if found is None and name.endswith(_PARTS):
            suffix = name[-len(_PARTS[0]) :]
            _, found = self._entries.get(name.removesuffix(suffix), (None, None))
        if not isinstance(found, _Array):
            return None
        return next((directory for directory in found.directories() if directory.suffix == suffix), None)

    @override
    def list(self) -> Iterable[tuple[str, ViewFile | ViewDirectory]]:
        for name in sorted([*self._metadata_names(), *(name for name, _, _ in self._children())]):
            found = self.find(name)
            if found is not None:
                yield name, found

    @override
    def left_out(self) -> Iterator[LeftOut]:
        yield from self._left_out_here()
        for _, found in self._entries.values():
            if isinstance(found, GroupDirectory):
                yield from found.left_out()

    def all_metadata(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Yields the paths and documents of the metadata here and below."""
        yield f"{prefix}.zgroup", _ZGROUP
        yield f"{prefix}.zattrs", self._zattrs()
        for name, _, child in self._children():
            if isinstance(child, GroupDirectory):
                yield from child.all_metadata(f"{prefix}{name}/")
            else:
                yield f"{prefix}{name}/.zarray", child.zarray()
                yield f"{prefix}{name}/.zattrs", child.zattrs()

    def _metadata_names(self) -> Mapping[str, Any]:
        own = {".zgroup": lambda: _ZGROUP, ".zattrs": self._zattrs}
        return own | ({".zmetadata": self._zmetadata} if self._facts is not None else {})

    def _children(self) -> Iterator[tuple[str, NodePath, "GroupDirectory | ArrayDirectory"]]:
        """Yields the entries that are shown: groups, and the arrays that show arrays, with the nodes that they show."""
        for name, (path, found) in self._entries.items():
            if isinstance(found, GroupDirectory):
                yield name, path, found
            else:
                for directory in found.directories():
                    if not self._is_taken(name, directory):
                        yield name + directory.suffix, path, directory

    def _is_taken(self, name: str, directory: ArrayDirectory) -> bool:
        return directory.suffix != "" and name + directory.suffix in self._entries

    def _left_out_here(self) -> Iterator[LeftOut]:
        yield from self._left_out
        for name, (path, found) in self._entries.items():
            if not isinstance(found, _Array):
                continue
            for directory in found.directories():
                if self._is_taken(name, directory):
                    yield LeftOut(path, f"there is another array {name}{directory.suffix}")
            if found.reason is not None:
                yield LeftOut(path, found.reason)

    def _zattrs(self) -> Mapping[str, Any]:
        own = {} if self._facts is None else _told(self._facts)
        left_out = [f"{_base_name(one.path)}: {one.reason}" for one in self._left_out_here()]
        if left_out:
            own["icefs_left_out"] = some(left_out, _NAMED, "; ")
        return {**harmless(self.attributes), **own}

    def _zmetadata(self) -> Mapping[str, Any]:
        return {"zarr_consolidated_format": 1, "metadata": dict(self.all_metadata())}


def _told(facts: HierarchyFacts) -> dict[str, Any]:
    told = {"icefs_repository": facts.repository, "icefs_snapshot": facts.snapshot}
    if facts.branch:
        told["icefs_branch"] = facts.branch
    return told


def _parent(path: NodePath) -> NodePath:
    return NodePath(path.rpartition("/")[0] or ROOT_NODE)


def _base_name(path: NodePath) -> str:
    return path.rpartition("/")[2] or _ROOT
