"""The entries of a snapshot's directories."""

from collections.abc import Sequence
from typing import Final

from icefs.errors import StaleError
from icefs.inode import Ino
from icefs.paths import ROOT_NODE, NodePath, child_node
from icefs.vfs.chunks.array_view import ArrayView
from icefs.vfs.inodes.numbers import Prefix
from icefs.vfs.inodes.tree_inodes import TreeInodes
from icefs.vfs.trees.attributes import Attributes
from icefs.vfs.trees.control_dir import CONTROL_NAME
from icefs.vfs.trees.finder import Finder, Target
from icefs.vfs.trees.listing import ChunkEntries, NamedEntries, Section, dots, without
from icefs.zarr.keys import METADATA_NAME

MAX_NAME_BYTES: Final = 255


class Lister:
    """Lists the directories of one snapshot."""

    def __init__(self, finder: Finder, inodes: TreeInodes, attributes: Attributes, parent_ino: Ino) -> None:
        """Takes what finds and describes the entries, and the directory that the tree's root is in."""
        self._finder = finder
        self._inodes = inodes
        self._attributes = attributes
        self._parent_ino = parent_ino

    def sections(self, target: Target) -> Sequence[Section]:
        """Lists a directory, beginning with the two dots."""
        if target.view is not None:
            return self._list_chunk_dir(target.view, target.prefix)
        assert target.dir_path is not None  # it is a directory
        return self._list_node_dir(target.dir_path)

    def _list_node_dir(self, path: NodePath) -> Sequence[Section]:
        info = self._finder.dir_info(path)
        if info is None:
            raise StaleError(f"{path} is gone", path=path)
        own = self._attributes.directory(path)
        above = NodePath(path.rpartition("/")[0] or ROOT_NODE)
        parent_ino = self._parent_ino if path == ROOT_NODE else self._attributes.directory(above).ino
        sections: list[Section] = [dots(own, parent_ino)]
        if info.node is not None:
            attr = self._attributes.metadata(path, info.node)
            sections.append(NamedEntries(attr, [(METADATA_NAME.encode(), attr.ino, attr.size, attr.mtime_ns)]))
        names: list[bytes] = []
        if info.has_children:
            entries = []
            for name in self._finder.require_session().children(path):
                if path == ROOT_NODE and name == CONTROL_NAME:
                    continue  # the kernel takes the number that a listing has for that of the name
                wire_name = name.encode(errors="surrogatepass")
                if len(wire_name) <= MAX_NAME_BYTES and not (name == METADATA_NAME and info.node is not None):
                    attr = self._attributes.directory(child_node(path, name))
                    entries.append((wire_name, attr.ino, 0, attr.mtime_ns))
                    names.append(wire_name)
            sections.append(NamedEntries(own, entries))
        chunks = [section for view, level, prefix in info.sources for section in self._list_chunks(view, level, prefix)]
        if names or len(info.sources) > 1:
            chunks = list(without(chunks, {*names, METADATA_NAME.encode()}))
        return sections + chunks

    def _list_chunk_dir(self, view: ArrayView, prefix: Prefix) -> Sequence[Section]:
        is_topmost = view.level_below(prefix) == 1
        array_dir = NodePath(view.node.path)
        parent_ino = self._attributes.directory(array_dir).ino if is_topmost else view.numbers.dir_number(prefix[:-1])
        own = dots(self._attributes.chunk_directory(view, prefix), parent_ino)
        return [own, *self._list_chunks(view, view.level_below(prefix), prefix)]

    def _list_chunks(self, view: ArrayView, level: int, prefix: Prefix) -> list[Section]:
        parts = view.listing(level, prefix)
        history = self._inodes.history
        if not view.is_file(level):
            template = self._attributes.directories()
            return [ChunkEntries(view, level, prefix, part, template, history) for part in parts]
        epochs = history.chunks(view.node.id)
        is_asked = parts and (epochs is None or not epochs.since)
        first = self._inodes.first_times.chunks(view.node.id) if is_asked else None
        template = self._attributes.chunks(first)
        return [ChunkEntries(view, level, prefix, part, template, history, first) for part in parts]
