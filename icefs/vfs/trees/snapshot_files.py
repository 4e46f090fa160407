"""The directories and files of one snapshot: their attributes, their entries, their bytes."""

from collections.abc import Sequence
from typing import Final

from icefs.engine.read.session import Session
from icefs.errors import StaleError
from icefs.format.manifest.refs import ChunkRef
from icefs.inode import Ino
from icefs.paths import ROOT_NODE, NodePath, TreePath, child_node
from icefs.vfs.attrs import Attr
from icefs.vfs.chunks.array_view import ArrayView
from icefs.vfs.chunks.reader import ChunkOpener
from icefs.vfs.handles import BytesHandle
from icefs.vfs.inodes.numbers import Prefix
from icefs.vfs.inodes.tree_inodes import TreeInodes
from icefs.vfs.interface import FileHandle, not_a_directory
from icefs.vfs.trees.attributes import Attributes, Look
from icefs.vfs.trees.finder import Finder, Target, stale, target_path
from icefs.vfs.trees.listing import Section
from icefs.vfs.trees.snapshot_listing import Lister
from icefs.zarr.keys import METADATA_NAME

_REMEMBERED: Final = 1024


class SnapshotFiles:
    """The directories and files of one snapshot; all methods raise `NotInMemoryError` where something is to be fetched.

    Attributes:
        finder: Finds them.
        attributes: Describes them.
    """

    def __init__(self, finder: Finder, inodes: TreeInodes, look: Look, opener: ChunkOpener) -> None:
        self.finder = finder
        self.attributes = Attributes(inodes, look)
        self._inodes = inodes
        self._look = look
        self._lister = Lister(finder, inodes, self.attributes, look.parent_ino)
        self._opener = opener
        # What was looked up last, because it is opened next; and the directories above chunks that it was looked up
        # in, with the level of what is in them.
        self._recent: dict[Ino, tuple[ArrayView, Prefix, ChunkRef]] = {}
        self._chunk_dirs: dict[Ino, tuple[ArrayView, int, Prefix]] = {}

    @property
    def session(self) -> Session | None:
        """The snapshot, if it is loaded."""
        return self.finder.session

    def locate(self, ino: Ino) -> Target:
        """Returns what a number stands for.

        Raises:
            StaleError: nothing any more.
        """
        target = self.finder.locate(ino)
        if target is None:
            raise self._stale(ino)
        return target

    def _stale(self, ino: Ino) -> StaleError:
        return stale(ino, self._look.label)

    # Attributes.

    def _attr_of(self, target: Target) -> Attr | None:
        """Returns the attributes of a target; None if it is not there."""
        view = target.view
        if view is not None:
            if target.is_dir:
                return self.attributes.chunk_directory(view, target.prefix) if view.has_dir(target.prefix) else None
            ref = view.find(target.prefix) if target.ref is None else target.ref
            return None if ref is None else self.attributes.chunk(view, target.prefix, ref)
        if target.dir_path is not None:
            is_there = target.dir_path == ROOT_NODE or self.finder.is_node_dir(target.dir_path)
            return self.attributes.directory(target.dir_path) if is_there else None
        assert target.file_path is not None  # one of the three is there
        node = self.finder.node(target.file_path)
        return None if node is None else self.attributes.metadata(target.file_path, node)

    def getattr(self, ino: Ino) -> Attr:
        """Returns the attributes of an inode.

        Raises:
            StaleError: it is gone.
        """
        recent = self._recent.get(ino)
        if recent is not None:
            return self.attributes.chunk(*recent)
        attr = self._attr_of(self.locate(ino))
        if attr is None:
            raise self._stale(ino)
        return attr

    def attr_at(self, path: TreePath) -> Attr | None:
        """Returns the attributes of what is at a path; None if nothing is."""
        target = self.finder.find(path)
        if target is None:
            return None
        if target.view is not None and target.is_dir:  # it was found, so there are chunks in it
            return self.attributes.chunk_directory(target.view, target.prefix)
        return self._attr_of(target)

    def attr_of_open(self, file: FileHandle) -> Attr:
        """Returns the attributes that an open file has, also if it was replaced since.

        Raises:
            StaleError: they are not known.
        """
        time_ns = self._inodes.time_of_open_ns(file.ino)
        if time_ns is None:
            raise self._stale(file.ino)
        return self.attributes.file(file.ino, file.size, time_ns)

    # Names.

    def lookup(self, parent: Ino, name: str) -> Attr:
        """Finds a name in a directory; see `Tree.lookup`."""
        known = self._chunk_dirs.get(parent)
        if known is not None:
            return self._lookup_chunk(*known, name)
        target = self.locate(parent)
        if target.dir_path is not None:
            return self._lookup_node(target.dir_path, name)
        view = target.view
        if view is None or not target.is_dir:
            raise not_a_directory(f"/{target_path(target)}")
        if len(self._chunk_dirs) >= _REMEMBERED:
            self._chunk_dirs.clear()
        known = self._chunk_dirs[parent] = view, view.level_below(target.prefix), target.prefix
        return self._lookup_chunk(*known, name)

    def _lookup_node(self, path: NodePath, name: str) -> Attr:
        info = self.finder.dir_info(path)
        if info is None:
            raise self._gone(path)
        if name == METADATA_NAME and info.node is not None:
            return self.attributes.metadata(path, info.node)
        if info.has_children:
            below = child_node(path, name)
            if self.finder.is_node_dir(below):
                return self.attributes.directory(below)
        for view, level, prefix in info.sources:
            attr = self._lookup_chunk(view, level, prefix, name)
            if attr.ino:
                return attr
        return self._look.absent

    def _gone(self, path: NodePath) -> StaleError:
        return StaleError(f"{self._look.label}{path} is gone", path=path)

    def _lookup_chunk(self, view: ArrayView, level: int, prefix: Prefix, name: str) -> Attr:
        index = view.parse(level, prefix, name)
        if index is None:
            return self._look.absent
        if view.is_file(level):
            ref = view.find(index)
            if ref is None:
                return self._look.absent
            attr = self.attributes.chunk(view, index, ref)
            if len(self._recent) >= _REMEMBERED:
                self._recent.clear()
            self._recent[attr.ino] = view, index, ref
            return attr
        return self.attributes.chunk_directory(view, index) if view.has_dir(index) else self._look.absent

    # Bytes.

    def open(self, ino: Ino) -> FileHandle | None:
        """Opens a file to be read; None if the inode is a directory.

        Raises:
            StaleError: the inode is gone.
            ObjectNotFoundError, InvalidObjectSizeError, StorageError: as `ChunkOpener.open`.
        """
        recent = self._recent.get(ino)
        if recent is not None:
            return self._opener.open(*recent, ino)
        target = self.locate(ino)
        if target.is_dir:
            return None
        if target.view is not None:
            ref = target.view.find(target.prefix)
            if ref is None:
                raise self._stale(ino)
            return self._opener.open(target.view, target.prefix, ref, ino)
        assert target.file_path is not None  # it is no directory and no chunk
        node = self.finder.node(target.file_path)
        if node is None:
            raise self._stale(ino)
        return BytesHandle(ino, node.user_data)

    def open_at(self, path: TreePath) -> FileHandle | None:
        """Opens the file at a path; None where there is a directory, or nothing. Raises as `open`."""
        attr = self.attr_at(path)
        return None if attr is None or attr.is_dir else self.open(attr.ino)

    def reference(self, ino: Ino) -> ChunkRef | None:
        """Returns the reference of a chunk; None for what is no chunk, or has none.

        Raises:
            StaleError: the inode is gone.
        """
        target = self.locate(ino)
        return None if target.view is None or target.is_dir else target.view.find(target.prefix)

    # Listing.

    def sections(self, target: Target) -> Sequence[Section]:
        """Lists a directory, beginning with the two dots."""
        return self._lister.sections(target)

    def sections_at(self, path: TreePath) -> list[Section]:
        """Lists the directory at a path, without the two dots; nothing where there is none."""
        target = self.finder.find(path)
        if target is None or not target.is_dir:
            return []
        return [section for section in self.sections(target)[1:] if len(section)]
