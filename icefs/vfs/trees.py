"""A snapshot as a tree of directories and files, and what all mounted trees share.

    immutable (`SnapshotTree`)  a tag, or a snapshot: nothing ever changes, so the kernel remembers everything
    following (`branches`)      a branch without uncommitted changes, which moves when its tip does

A directory is a node, or lies above a node, or lies above a chunk. Where an array has a node below itself whose
path reads like a chunk's, the node's directory wins, and shows the chunks of that path as well.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from icefs.engine.repository import Repository
from icefs.engine.session import Session
from icefs.errors import (
    FormatError,
    IsADirectoryTreeError,
    ObjectNotFoundError,
    ReadOnlyError,
    SnapshotNotFoundError,
    StaleError,
    TreeError,
)
from icefs.format.ids import SnapshotId
from icefs.format.manifest import ChunkRef
from icefs.format.snapshot import NodeSnapshot
from icefs.vfs import xattrs
from icefs.vfs.attrs import ABSENT, ABSENT_FOREVER, FOREVER_S, Attr, EntryRun, Ownership
from icefs.vfs.control import CONTROL_NAME, ControlDir
from icefs.vfs.handles import BytesHandle
from icefs.vfs.history import History
from icefs.vfs.inodes import InodeSpace
from icefs.vfs.interface import DirHandle, FileHandle, NotInMemoryError, Tree, not_a_directory
from icefs.vfs.listing import MAX_SIZE, ChunkEntries, Listing, NamedEntries, Section
from icefs.vfs.numbers import (
    CONTROL_SLOT,
    ROOT_SLOT,
    ArrayNumbers,
    ChunkRange,
    ChunkTable,
    FixedNumbers,
    NodeKey,
    NodeNumbers,
    Prefix,
    reserve_fixed,
)
from icefs.vfs.reading import ChunkOpener
from icefs.vfs.views import ArrayView
from icefs.zarr.keys import METADATA_NAME

if TYPE_CHECKING:
    from icefs.vfs.branches import BranchTree

MAX_NAME_BYTES: Final = 255
_REMEMBERED: Final = 1024
_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_TRUNC


@dataclass(frozen=True, slots=True)
class TreeContext:
    """What all trees of a mount share.

    Attributes:
        space: Where inode numbers come from.
        ownership: Whose the files are.
        repository: Where sessions come from.
        opener: Opens chunks.
        make_control: Makes a tree's control directory.
        on_unused: Is told of an immutable tree that the kernel has forgotten altogether.
        on_loaded: Is told of an immutable tree whose session was loaded.
        make_branch: Makes the tree of a branch that can be written to; None where none can be.
    """

    space: InodeSpace
    ownership: Ownership
    repository: Repository
    opener: ChunkOpener
    make_control: "Callable[[SessionTree], ControlDir]"
    on_unused: "Callable[[SessionTree], None]"
    on_loaded: "Callable[[SessionTree], None]"
    make_branch: "Callable[..., BranchTree] | None" = None


class DirInfo(NamedTuple):
    """A directory that is a node, or lies above one.

    Attributes:
        node: The node at its path, if there is one.
        has_children: Whether nodes lie below it.
        sources: Where chunks in it come from: the view of an array with the level and prefix of this directory.
    """

    node: NodeSnapshot | None
    has_children: bool
    sources: tuple[tuple[ArrayView, int, Prefix], ...]


class Place(NamedTuple):
    """What an inode number of a tree stands for; exactly one of the alternatives.

    Attributes:
        dir_path: The path of a directory of nodes.
        file_path: The path of the node whose metadata file it is.
        view: The array whose chunk, or directory above chunks, it is.
        prefix: The coordinates; all of them for a chunk.
        slot: The slot of the control directory or of a file in it.
    """

    dir_path: str | None = None
    file_path: str | None = None
    view: ArrayView | None = None
    prefix: Prefix = ()
    slot: int = 0


def join(path: str, name: str) -> str:
    """Returns the path of a name in a directory of nodes."""
    return f"/{name}" if path == "/" else f"{path}/{name}"


class SessionTree(Tree):
    """A tree over one session at a time; immutable ones keep theirs, a branch's is replaced.

    Attributes:
        kind: `branch`, `tag` or `snapshot`.
        name: The name of the ref; empty for a snapshot.
        snapshot_id: What is shown.
        history: When what changed.
        root_ino: The number of the root directory.
        kernel_refs: How many references to inodes of this tree the kernel holds.
        is_gone: Whether the ref that led here is no more; everything in the tree is stale then.

    INVARIANT: whatever is handed out by number never changes its content; what changes gets another number.
    """

    is_immutable = True

    def __init__(
        self,
        context: TreeContext,
        kind: str,
        name: str,
        snapshot_id: SnapshotId,
        flushed_at: int,
        *,
        label: str,
        parent_ino: int,
        is_root: bool = False,
    ) -> None:
        self.kind = kind
        self.name = name
        self.snapshot_id = snapshot_id
        self.history = History(flushed_at)
        self.kernel_refs = 0
        self.is_gone = False
        self.session: Session | None = None
        self._context = context
        self._label = label
        self._fixed = reserve_fixed(context.space, self, is_root=is_root)
        self.root_ino = self._fixed.root_ino
        self._parent_ino = self.root_ino if is_root else parent_ino
        self._nodes = NodeNumbers(context.space, self)
        self._numbers: dict[tuple[str, bytes], ArrayNumbers] = {}
        self._infos: dict[str, DirInfo] = {}
        # What was looked up last, because it is opened next; and the directories that it was looked up in.
        self._recent: dict[int, tuple[ArrayView, Prefix, ChunkRef]] = {}
        self._chunk_dirs: dict[int, Place] = {}
        self._views: dict[str, ArrayView] = {}
        self._control: ControlDir | None = None
        writable = not self.is_immutable
        self._file_mode = context.ownership.file_mode(writable=writable)
        self._dir_mode = context.ownership.dir_mode(writable=writable)
        self._absent = ABSENT_FOREVER if self.is_immutable else ABSENT

    @property
    def label(self) -> str:
        """The tree's place in the mount."""
        return self._label

    @property
    def fixed(self) -> FixedNumbers:
        """The numbers of the root and of the control directory."""
        return self._fixed

    @property
    def control(self) -> ControlDir:
        """The control directory."""
        if self._control is None:
            self._control = self._context.make_control(self)
        return self._control

    # The session.

    def _require_session(self) -> Session:
        if self.session is not None:
            return self.session
        if self.is_gone:
            raise StaleError(f"{self._label} is gone", path=self._label)
        repository, snapshot_id = self._context.repository, self.snapshot_id
        raise NotInMemoryError(
            (id(self), snapshot_id), lambda: open_session(repository, snapshot_id), self._take_session
        )

    def _take_session(self, session: Session) -> None:
        # Another load may have been quicker, or a branch has moved on meanwhile.
        if self.session is None and session.snapshot_id == self.snapshot_id:
            self.session = session
            self._context.on_loaded(self)

    def retire(self) -> None:
        """Ends the tree: what led here is no more."""
        self.is_gone = True
        self.unload()

    def unload(self) -> None:
        """Drops what can be loaded again; numbers stay."""
        self.session = None
        self._infos.clear()
        self._views.clear()
        self._recent.clear()
        self._chunk_dirs.clear()

    # Finding things.

    def dir_info(self, path: str) -> DirInfo | None:
        """Returns what is known of a directory of nodes, or None if the path is none."""
        info = self._infos.get(path)
        if info is None:
            session = self._require_session()
            node = session.get_node(path)
            has_children = session.has_children(path)
            if node is None and not has_children and path != "/":
                return None
            info = self._infos[path] = DirInfo(node, has_children, self._sources(session, path, node))
        return info

    def is_node_dir(self, path: str) -> bool:
        """Tells whether a path is a node's, or lies above one."""
        return path in self._infos or self.dir_info(path) is not None

    def _sources(
        self, session: Session, path: str, node: NodeSnapshot | None
    ) -> tuple[tuple[ArrayView, int, Prefix], ...]:
        sources: list[tuple[ArrayView, int, Prefix]] = []
        if node is not None and node.array is not None:
            sources.append((self.view(node), 0, ()))
        names = path.split("/")[1:] if path != "/" else []
        for depth in range(len(names) - 1, -1, -1):
            above = None
            with suppress(FormatError):  # what stands above and cannot be read concerns only itself
                above = session.get_node("/" + "/".join(names[:depth]))
            if above is None or above.array is None:
                continue
            view = self.view(above)
            relative = names[depth:]
            if view.layout is not None and len(relative) < view.depth:
                prefix = view.layout.parse_prefix(relative)
                if prefix is not None:
                    sources.append((view, len(relative), prefix))
        return tuple(sources)

    def view(self, node: NodeSnapshot) -> ArrayView:
        """Returns the view of an array of the present session."""
        view = self._views.get(node.path)
        if view is None:
            key = node.path, bytes(node.id)
            numbers = self._numbers.get(key)
            if numbers is None:
                numbers = self._numbers[key] = ArrayNumbers(
                    self._context.space, self, node.path, node.id, may_grow=not self.is_immutable
                )
            view = self._views[node.path] = ArrayView(self._require_session(), node, numbers)
        return view

    def known_numbers(self, path: str, node: NodeSnapshot) -> ArrayNumbers | None:
        """Returns the numbers of an array if any was ever asked for."""
        return self._numbers.get((path, bytes(node.id)))

    def known_dir(self, path: str) -> int | None:
        """Returns the number of a directory of nodes if it was ever asked for."""
        return self.root_ino if path == "/" else self._nodes.known(NodeKey(path, None))

    def locate(self, ino: int) -> Place:
        """Returns what a number stands for.

        Raises:
            StaleError: nothing any more.
        """
        found = self._context.space.find(ino)
        if self.is_gone or found is None:
            raise self._stale(ino)
        content = found.content
        if type(content) is ChunkRange and content.layout is not None:
            return self._locate_chunk(content, content.layout.unpack(ino - found.start), ino)
        if type(content) is NodeNumbers:
            key = content.key(ino)
            if key is None:
                raise self._stale(ino)
            return Place(dir_path=key.path) if key.epoch is None else self._locate_file(key, ino)
        if type(content) is FixedNumbers:
            slot = ino - content.start
            return Place(dir_path="/") if slot == ROOT_SLOT else Place(slot=slot)
        if type(content) is ChunkTable:
            packed = content.key(ino)
            if packed is None:
                raise self._stale(ino)
            prefix, epoch = packed
            return self._locate_chunk(ChunkRange(content.numbers, None, epoch), prefix, ino)
        raise self._stale(ino)

    def _locate_file(self, key: NodeKey, ino: int) -> Place:
        if key.epoch != self.history.file_epoch(key.path):
            raise self._stale(ino)
        return Place(file_path=key.path)

    def _locate_chunk(self, range_: ChunkRange, prefix: Prefix, ino: int) -> Place:
        numbers = range_.numbers
        view = self._views.get(numbers.path)
        if view is None:
            info = self.dir_info(numbers.path)
            if info is None or info.node is None or info.node.array is None:
                raise self._stale(ino)
            view = self.view(info.node)
        if view.numbers is not numbers:
            raise self._stale(ino)
        if len(prefix) == view.chunks.ndim and range_.epoch != self._chunk_epoch(view, prefix):
            raise self._stale(ino)
        return Place(view=view, prefix=prefix)

    def _stale(self, ino: int) -> StaleError:
        return StaleError(f"inode {ino} of {self._label or 'the mount'} is gone", ino=ino)

    def _chunk_epoch(self, view: ArrayView, chunk_index: Prefix) -> int:
        epochs = self.history.chunks(view.node.id)
        return 0 if epochs is None else epochs.of(chunk_index)

    # Attributes.

    def _attr(self, ino: int, mode: int, nlink: int, size: int, epoch: int) -> Attr:
        owner = self._context.ownership
        time_ns = self.history.time_ns(epoch)
        return Attr(ino, mode, nlink, owner.uid, owner.gid, size, time_ns, time_ns, time_ns, FOREVER_S, FOREVER_S)

    def dir_attr(self, path: str) -> Attr:
        """Returns the attributes of a directory of nodes, which must be one."""
        ino = self.root_ino if path == "/" else self._nodes.number(NodeKey(path, None))
        return self._attr(ino, self._dir_mode, 2, 0, self.history.dir_epoch(path))

    def _file_attr(self, path: str, node: NodeSnapshot) -> Attr:
        epoch = self.history.file_epoch(path)
        ino = self._nodes.number(NodeKey(path, epoch))
        return self._attr(ino, self._file_mode, 1, len(node.user_data), epoch)

    def _chunk_attr(self, view: ArrayView, chunk_index: Prefix, ref: ChunkRef) -> Attr:
        epoch = self._chunk_epoch(view, chunk_index)
        ino = view.numbers.number(chunk_index, epoch)
        return self._attr(ino, self._file_mode, 1, min(ref.length_bytes, MAX_SIZE), epoch)

    def _chunk_dir_attr(self, view: ArrayView, prefix: Prefix) -> Attr:
        epochs = self.history.chunks(view.node.id)
        epoch = 0 if epochs is None else epochs.newest_below(prefix)
        return self._attr(view.numbers.number(prefix, 0), self._dir_mode, 2, 0, epoch)

    def root_attr(self) -> Attr:
        """Returns the attributes of the root directory; needs no session."""
        return self.dir_attr("/")

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
        if isinstance(content, ChunkRange):
            epoch = content.epoch
        elif isinstance(content, NodeNumbers):
            key = content.key(file.ino)
            epoch = None if key is None else key.epoch
        if epoch is None:
            raise self._stale(file.ino)
        return self._attr(file.ino, self._file_mode, 1, file.size, epoch)

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
        parent = self.dir_attr(view.node.path).ino if is_topmost else view.numbers.number(prefix[:-1], 0)
        dots = _dots(self._chunk_dir_attr(view, prefix), parent)
        return [dots, *self._list_chunks(view, view.level_below(prefix), prefix)]

    def _list_chunks(self, view: ArrayView, level: int, prefix: Prefix) -> list[Section]:
        parts = view.listing(level, prefix)
        is_file = view.is_file(level)
        template = self._attr(0, self._file_mode if is_file else self._dir_mode, 1 if is_file else 2, 0, 0)
        return [ChunkEntries(view, level, prefix, part, template, self.history) for part in parts]

    def _list_control(self) -> Sequence[Section]:
        control = self.control
        return [_dots(control.dir_attr(), self.root_ino), *control.sections()]

    # Extended attributes.

    def listxattr(self, ino: int) -> Sequence[str]:
        """Returns the names of the inode's extended attributes."""
        return list(self._xattrs(ino))

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


def open_session(repository: Repository, snapshot_id: SnapshotId) -> Session:
    """Opens a snapshot that something refers to, so that its absence is damage and not a wrong name.

    Raises:
        ObjectNotFoundError: it is missing.
        FormatError, StorageError: it cannot be read.
    """
    try:
        return repository.session_at(snapshot_id)
    except SnapshotNotFoundError as error:
        raise ObjectNotFoundError(f"snapshot {snapshot_id} is missing", snapshot_id=str(snapshot_id)) from error


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
