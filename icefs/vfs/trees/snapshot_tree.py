"""A snapshot as a tree of directories and files.

    immutable (`SnapshotTree`)  a tag, or a snapshot: nothing ever changes, so the kernel remembers everything
    following (`branches`)      a branch without uncommitted changes, which moves when its tip does

What a number or name stands for is found in `places`; here is what the kernel asks for.
"""

import os
from collections.abc import Sequence
from typing import Any, Final

from icefs.clock import NS_PER_US
from icefs.errors import IsADirectoryTreeError, ReadOnlyError, StaleError, TreeError
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.vfs import xattrs
from icefs.vfs.attrs import Attr, EntryRun
from icefs.vfs.chunks.array_view import ArrayView
from icefs.vfs.handles import BytesHandle
from icefs.vfs.inodes.numbers import CONTROL_SLOT, ChunkRange, NodeNumbers, Prefix
from icefs.vfs.interface import DirHandle, FileHandle, NotInMemoryError, not_a_directory
from icefs.vfs.trees.control_dir import CONTROL_NAME, ControlDir
from icefs.vfs.trees.listing import ChunkEntries, Listing, NamedEntries, Section
from icefs.vfs.trees.places import Place, PlacedTree, join
from icefs.zarr.keys import METADATA_NAME

MAX_NAME_BYTES: Final = 255
_REMEMBERED: Final = 1024
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_TRUNC


class SessionTree(PlacedTree):
    """A tree over one session at a time; immutable ones keep theirs, a branch's is replaced."""

    @property
    def control(self) -> ControlDir:
        """The control directory."""
        if self._control is None:
            self._control = self._context.make_control(self)
        return self._control

    def _note_loaded(self) -> None:
        self._context.on_loaded(self)

    # The interface.

    def path_of(self, ino: int) -> str:
        """Returns the path of an inode below the tree's root, for log lines."""
        try:
            place = self.locate(ino)
        except (NotInMemoryError, StaleError):
            return f"inode {ino}"
        if place.dir_path is not None:
            return place.dir_path
        if place.file_path is not None:
            return join(place.file_path, METADATA_NAME)
        if place.view is not None:
            return join(place.view.node.path, place.view.path_of(place.prefix))
        return self.control.path_of(place.slot)

    def lookup(self, parent: int, name: str) -> Attr:
        """Finds a name in a directory."""
        place = self._chunk_dirs.get(parent) or self.locate(parent)
        if place.view is not None:
            self._remember_dir(parent, place.view, place)
            attr = self._lookup_chunk(place.view, place.view.level_below(place.prefix), place.prefix, name)
        elif place.dir_path is not None:
            attr = self._lookup_node(place.dir_path, name)
        elif place.slot == CONTROL_SLOT:
            attr = self.control.lookup(name)
        else:
            raise not_a_directory(self.path_of(parent))
        if attr.ino:
            self.kernel_refs += 1
        return attr

    def _remember_dir(self, ino: int, view: ArrayView, place: Place) -> None:
        if ino in self._chunk_dirs:
            return
        if len(place.prefix) == view.chunks.ndim:
            raise not_a_directory(self.path_of(ino))
        if len(self._chunk_dirs) >= _REMEMBERED:
            self._chunk_dirs.clear()
        self._chunk_dirs[ino] = place

    def _lookup_node(self, path: str, name: str) -> Attr:
        if path == "/" and name == CONTROL_NAME:
            return self.control.dir_attr()
        info = self.dir_info(path)
        if info is None:
            raise StaleError(f"{self._label}{path} is gone", path=path)
        if name == METADATA_NAME and info.node is not None:
            return self._file_attr(path, info.node)
        if info.has_children:
            child = join(path, name)
            if self.is_node_dir(child):
                return self.dir_attr(child)
        for view, level, prefix in info.sources:
            attr = self._lookup_chunk(view, level, prefix, name)
            if attr.ino:
                return attr
        return self._absent

    def _lookup_chunk(self, view: ArrayView, level: int, prefix: Prefix, name: str) -> Attr:
        index = view.parse(level, prefix, name)
        if index is None:
            return self._absent
        if view.is_file(level):
            ref = view.find(index)
            if ref is None:
                return self._absent
            attr = self._chunk_attr(view, index, ref)
            if len(self._recent) >= _REMEMBERED:
                self._recent.clear()
            self._recent[attr.ino] = view, index, ref
            return attr
        return self._chunk_dir_attr(view, index) if view.has_dir(index) else self._absent

    def getattr(self, ino: int) -> Attr:
        """Returns attributes."""
        recent = self._recent.get(ino)
        if recent is not None and not self.is_gone:
            return self._chunk_attr(*recent)
        place = self.locate(ino)
        if place.view is not None:
            view, prefix = place.view, place.prefix
            if len(prefix) == view.chunks.ndim:
                ref = view.find(prefix)
                if ref is not None:
                    return self._chunk_attr(view, prefix, ref)
            elif view.has_dir(prefix):
                return self._chunk_dir_attr(view, prefix)
            raise self._stale(ino)
        if place.dir_path is not None:
            if place.dir_path == "/" or self.is_node_dir(place.dir_path):
                return self.dir_attr(place.dir_path)
            raise self._stale(ino)
        if place.file_path is not None:
            return self._file_attr(place.file_path, self._require_node(place.file_path, ino))
        return self.control.getattr(place.slot)

    def getattr_open(self, file: FileHandle) -> Attr:
        """Returns the attributes of an open file that has been replaced: what they were in its epoch."""
        found = self._context.space.find(file.ino)
        content = None if found is None else found.content
        epoch: int | None = None
        first_ns: int | None = None
        if isinstance(content, ChunkRange):
            epoch = content.epoch
            if not epoch and found is not None and content.layout is not None:
                chunk_index = content.layout.unpack(file.ino - found.start)
                first_ns = self.first_times.known_chunk_ns(content.numbers.node_id, chunk_index)
        elif isinstance(content, NodeNumbers):
            key = content.key(file.ino)
            epoch = None if key is None else key.epoch
            first_ns = None if key is None else self._file_times.get(key)
        if epoch is None:
            raise self._stale(file.ino)
        return self._attr(file.ino, self._file_mode, 1, file.size, epoch, first_ns)

    def _require_node(self, path: str, ino: int) -> NodeSnapshot:
        info = self.dir_info(path)
        if info is None or info.node is None:
            raise self._stale(ino)
        return info.node

    def forget(self, ino: int, count: int) -> None:
        """Counts the kernel's references down; a tree that it knows nothing of any more keeps nothing either."""
        self.kernel_refs -= count
        if self.kernel_refs <= 0 and self.is_immutable:
            self._context.on_unused(self)

    def readlink(self, ino: int) -> str:
        """Returns where a link in the control directory leads."""
        place = self.locate(ino)
        if place.slot:
            return self.control.readlink(place.slot)
        raise TreeError("not a symbolic link", ino=ino)

    def open(self, ino: int, flags: int) -> FileHandle:
        """Opens a file for reading."""
        recent = self._recent.get(ino)
        if recent is not None and not flags & _WRITING and not self.is_gone:
            return self._context.opener.open(*recent, ino)
        place = self.locate(ino)
        if place.view is not None and len(place.prefix) == place.view.chunks.ndim:
            if flags & _WRITING:
                raise self._refuse_write(ino)
            ref = place.view.find(place.prefix)
            if ref is None:
                raise self._stale(ino)
            return self._context.opener.open(place.view, place.prefix, ref, ino)
        if place.file_path is not None:
            if flags & _WRITING:
                raise self._refuse_write(ino)
            return BytesHandle(ino, self._require_node(place.file_path, ino).user_data)
        if place.slot > CONTROL_SLOT:
            return self.control.open(place.slot, flags)
        raise IsADirectoryTreeError(f"{self._label}{self.path_of(ino)} is a directory", ino=ino)

    def _refuse_write(self, ino: int) -> ReadOnlyError:
        return ReadOnlyError(f"{self._label}{self.path_of(ino)} cannot be written", kind="read-only-store")

    # Listing.

    def opendir(self, ino: int) -> DirHandle:
        """Opens a directory."""
        place = self.locate(ino)
        is_chunk_dir = place.view is not None and len(place.prefix) < place.view.chunks.ndim
        if not is_chunk_dir and place.dir_path is None and place.slot != CONTROL_SLOT:
            raise not_a_directory(f"{self._label}{self.path_of(ino)}")
        return Listing(ino, lambda: self._list(ino), self._note_entered)

    def _list(self, ino: int) -> Sequence[Section]:
        """Lists a directory as it is now."""
        place = self.locate(ino)
        if place.view is not None:
            return self._list_chunk_dir(place.view, place.prefix)
        return self._list_control() if place.dir_path is None else self._list_node_dir(place.dir_path)

    def _note_entered(self, run: EntryRun, first: int, end: int) -> None:
        dots = sum(name in (b".", b"..") for name in run.names[first : min(end, 2)]) if run.start == 0 else 0
        self.kernel_refs += end - first - dots

    def _list_node_dir(self, path: str) -> Sequence[Section]:
        info = self.dir_info(path)
        if info is None:
            raise StaleError(f"{self._label}{path} is gone", path=path)
        own = self.dir_attr(path)
        parent = self._parent_ino if path == "/" else self.dir_attr(path.rpartition("/")[0] or "/").ino
        sections: list[Section] = [_dots(own, parent)]
        if info.node is not None:
            attr = self._file_attr(path, info.node)
            sections.append(NamedEntries(attr, [(METADATA_NAME.encode(), attr.ino, attr.size, attr.mtime_ns)]))
        names: list[bytes] = []
        if info.has_children:
            entries = []
            for name in self._require_session().children(path):
                if path == "/" and name == CONTROL_NAME:
                    continue  # the kernel takes the number that a listing has for that of the name
                wire_name = name.encode(errors="surrogatepass")
                if len(wire_name) <= MAX_NAME_BYTES and not (name == METADATA_NAME and info.node is not None):
                    attr = self.dir_attr(join(path, name))
                    entries.append((wire_name, attr.ino, 0, attr.mtime_ns))
                    names.append(wire_name)
            sections.append(NamedEntries(own, entries))
        chunks = [section for view, level, prefix in info.sources for section in self._list_chunks(view, level, prefix)]
        if names or len(info.sources) > 1:
            chunks = list(_without(chunks, {*names, METADATA_NAME.encode()}))
        return sections + chunks

    def _list_chunk_dir(self, view: ArrayView, prefix: Prefix) -> Sequence[Section]:
        is_topmost = view.level_below(prefix) == 1
        parent = self.dir_attr(view.node.path).ino if is_topmost else view.numbers.dir_number(prefix[:-1])
        dots = _dots(self._chunk_dir_attr(view, prefix), parent)
        return [dots, *self._list_chunks(view, view.level_below(prefix), prefix)]

    def _list_chunks(self, view: ArrayView, level: int, prefix: Prefix) -> list[Section]:
        parts = view.listing(level, prefix)
        if not view.is_file(level):
            template = self._attr(0, self._dir_mode, 2, 0, 0)
            return [ChunkEntries(view, level, prefix, part, template, self.history) for part in parts]
        epochs = self.history.chunks(view.node.id)
        first = self.first_times.chunks(view.node.id) if parts and (epochs is None or not epochs.since) else None
        first_ns = None if first is None else first.uniform * NS_PER_US
        template = self._attr(0, self._file_mode, 1, 0, 0, first_ns)
        return [ChunkEntries(view, level, prefix, part, template, self.history, first) for part in parts]

    def _list_control(self) -> Sequence[Section]:
        control = self.control
        return [_dots(control.dir_attr(), self.root_ino), *control.sections()]

    # Extended attributes.

    def listxattr(self, ino: int) -> Sequence[str]:
        """Lists no extended attribute: what icefs tells of a file is none that a copy of it should have."""
        self.getattr(ino)
        return []

    def getxattr(self, ino: int, name: str) -> bytes | None:
        """Returns an extended attribute."""
        return self._xattrs(ino).get(name) if name.startswith(xattrs.PREFIX) else None

    def _xattrs(self, ino: int) -> dict[str, bytes]:
        place = self.locate(ino)
        if place.slot:
            return {}
        ref = None
        if place.view is not None and len(place.prefix) == place.view.chunks.ndim:
            ref = place.view.find(place.prefix)
        return xattrs.describe(self._context.repository, self.snapshot_id, ref)


class SnapshotTree(SessionTree):
    """A tag or a snapshot."""

    def unload(self) -> None:
        """Drops what can be loaded again, times among it: the kernel remembers trees that nobody looks at any more."""
        super().unload()
        if not self.is_gone:  # what is open of one that is gone keeps its time
            self._begin_history(self.snapshot_id, self.history.time_ns(0) // NS_PER_US)


def tree_facts(tree: SessionTree) -> dict[str, Any]:
    """Returns what a tree knows of itself without asking anybody."""
    tip = getattr(tree, "tip", None)
    return {
        "kind": tree.kind,
        "name": tree.name,
        "tip": None if tip is None else str(tip),
        "tip_moved": tip is not None and tip != tree.snapshot_id,
        "problem": getattr(tree, "problem", None),
    }


def _dots(own: Attr, parent: int) -> NamedEntries:
    """Makes the entries `.` and `..`."""
    return NamedEntries(own, [(b".", own.ino, 0, own.mtime_ns), (b"..", parent, 0, own.mtime_ns)])


def _without(sections: Sequence[Section], taken: set[bytes]) -> Sequence[Section]:
    """Drops the entries whose names are taken, by a node or by an earlier section; for the rare clash."""
    kept: list[Section] = []
    for section in sections:
        run = section.run(0, len(section), 0)
        sizes = run.sizes or [0] * len(run.names)
        times = run.mtimes_ns or [run.template.mtime_ns] * len(run.names)
        rows = [row for row in zip(run.names, run.inos, sizes, times, strict=True) if row[0] not in taken]
        taken.update(run.names)
        kept.append(NamedEntries(run.template, rows))
    return kept
