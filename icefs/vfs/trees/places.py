"""How the inode numbers and names of a tree lead to what it shows: directories of nodes, metadata files, chunks.

A directory is a node, or lies above a node, or lies above a chunk. Where an array has a node below itself whose
path reads like a chunk's, the node's directory wins, and shows the chunks of that path as well.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from icefs.clock import NS_PER_US
from icefs.engine.history.lineage import Lineages
from icefs.engine.read.session import Session
from icefs.engine.repository import Repository
from icefs.errors import FormatError, ObjectNotFoundError, SnapshotNotFoundError, StaleError
from icefs.format.ids import SnapshotId
from icefs.format.manifest.refs import ChunkRef
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.vfs.attrs import ABSENT, ABSENT_FOREVER, Attr, Ownership
from icefs.vfs.chunks.array_view import ArrayView
from icefs.vfs.chunks.reader import ChunkOpener
from icefs.vfs.inodes.first_times import FirstTimes
from icefs.vfs.inodes.history import History
from icefs.vfs.inodes.numbers import (
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
from icefs.vfs.inodes.table import InodeSpace
from icefs.vfs.interface import NotInMemoryError, Tree
from icefs.vfs.trees.control_dir import ControlDir
from icefs.vfs.trees.listing import MAX_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from icefs.vfs.trees.branch_tree import BranchTree
    from icefs.vfs.trees.snapshot_tree import SessionTree


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
        lineages: Tells when keys changed last; None gives them the times of their snapshots.
    """

    space: InodeSpace
    ownership: Ownership
    repository: Repository
    opener: ChunkOpener
    make_control: "Callable[[SessionTree], ControlDir]"
    on_unused: "Callable[[SessionTree], None]"
    on_loaded: "Callable[[SessionTree], None]"
    make_branch: "Callable[..., BranchTree] | None" = None
    lineages: Lineages | None = None


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


class PlacedTree(Tree):
    """The part of a tree that finds things in its session.

    Attributes:
        kind: `branch`, `tag` or `snapshot`.
        name: The name of the ref; empty for a snapshot.
        snapshot_id: What is shown.
        history: When what changed.
        first_times: When it had changed before that.
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
        self.kernel_refs = 0
        self.is_gone = False
        self.session: Session | None = None
        self._context = context
        self._begin_history(snapshot_id, flushed_at)
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
        writable = not self.is_immutable and context.make_branch is not None
        self._file_mode = context.ownership.file_mode(writable=writable)
        self._dir_mode = context.ownership.dir_mode(writable=writable)
        self._absent = ABSENT_FOREVER if self.is_immutable else ABSENT

    @property
    def label(self) -> str:
        """The tree's place in the mount."""
        return self._label

    @property
    def space(self) -> InodeSpace:
        """Where the tree's numbers come from."""
        return self._context.space

    @property
    def fixed(self) -> FixedNumbers:
        """The numbers of the root and of the control directory."""
        return self._fixed

    def _begin_history(self, snapshot_id: SnapshotId, flushed_at: int) -> None:
        """Begins with a snapshot: nobody has looked at the tree yet."""
        self.history = History(flushed_at)
        self.first_times = FirstTimes(self._context.lineages, snapshot_id, flushed_at)
        # Of files that have not changed since the mount looks, or were renamed with the directory they are in.
        self._file_times: dict[NodeKey, int] = {}

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
            self._note_loaded()

    def _note_loaded(self) -> None:
        """Is told that the session is there."""

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

    def known_arrays(self) -> dict[tuple[str, bytes], ArrayNumbers]:
        """Returns the numbers of all arrays that were looked at, by path and id."""
        return dict(self._numbers)

    def known_nodes(self) -> list[NodeKey]:
        """Returns the directories and metadata files that have numbers, but for the root."""
        return self._nodes.keys()

    def told_time(self, key: NodeKey) -> int | None:
        """Returns the time of a metadata file; None if it was never told."""
        if self._nodes.known(key) is None:
            return None
        return self._file_times.get(key) or (self.history.time_ns(key.epoch) if key.epoch else None)

    def rename_arrays(self, left: Sequence[NodeSnapshot], moves: Sequence[tuple[NodeSnapshot, NodeSnapshot]]) -> None:
        """Lets the numbers and first times of arrays go along to others, all at once.

        Args:
            left: The arrays that will be numbered anew.
            moves: Of some of them, the arrays that get their numbers.
        """
        taken = {node.id: self._numbers.pop((node.path, bytes(node.id)), None) for node in left}
        for before, after in moves:
            numbers = taken[before.id]
            if numbers is not None and after.array is not None:
                numbers.fit([dimension.num_chunks for dimension in after.array.shape])
                numbers.path, numbers.node_id = after.path, after.id
                self._numbers[after.path, bytes(after.id)] = numbers
        self.first_times.rename({after.id: before.id for before, after in moves})

    def rename_nodes(
        self, dirs: Mapping[NodeKey, NodeKey | None], files: Mapping[NodeKey, tuple[NodeKey, int]]
    ) -> None:
        """Lets the numbers of directories, and the numbers and times of metadata files, go along to others."""
        self._nodes.rename({**dirs, **{old: new for old, (new, _) in files.items()}})
        for old in files:
            self._file_times.pop(old, None)
        self._file_times |= dict(files.values())

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
        is_chunk = len(prefix) == view.chunks.ndim
        if range_.epoch != (self._chunk_epoch(view, prefix) if is_chunk else numbers.dir_epoch(prefix)):
            raise self._stale(ino)
        return Place(view=view, prefix=prefix)

    def _stale(self, ino: int) -> StaleError:
        return StaleError(f"inode {ino} of {self._label or 'the mount'} is gone", ino=ino)

    def _chunk_epoch(self, view: ArrayView, chunk_index: Prefix) -> int:
        epochs = self.history.chunks(view.node.id)
        return 0 if epochs is None else epochs.of(chunk_index)

    # Attributes.

    def _attr(self, ino: int, mode: int, nlink: int, size: int, epoch: int, first_ns: int | None = None) -> Attr:
        """Makes attributes; `first_ns` is the time of a file that has not changed since the mount looks."""
        time_ns = self.history.time_ns(epoch) if first_ns is None else first_ns
        return self._context.ownership.attr(ino, mode, nlink=nlink, size=size, time_ns=time_ns)

    def dir_attr(self, path: str) -> Attr:
        """Returns the attributes of a directory of nodes, which must be one."""
        ino = self.root_ino if path == "/" else self._nodes.number(NodeKey(path, None))
        return self._attr(ino, self._dir_mode, 2, 0, self.history.dir_epoch(path))

    def _file_attr(self, path: str, node: NodeSnapshot) -> Attr:
        epoch = self.history.file_epoch(path)
        key = NodeKey(path, epoch)
        ino = self._nodes.number(key)
        first_ns = self._file_times.get(key)
        if first_ns is None and not epoch:
            first_ns = self._file_times[key] = self.first_times.metadata_ns(node.id)
        return self._attr(ino, self._file_mode, 1, len(node.user_data), epoch, first_ns)

    def _chunk_attr(self, view: ArrayView, chunk_index: Prefix, ref: ChunkRef) -> Attr:
        epoch = self._chunk_epoch(view, chunk_index)
        ino = view.numbers.number(chunk_index, epoch)
        first_ns = None if epoch else self.first_times.chunks(view.node.id).of(chunk_index) * NS_PER_US
        return self._attr(ino, self._file_mode, 1, min(ref.length_bytes, MAX_SIZE), epoch, first_ns)

    def _chunk_dir_attr(self, view: ArrayView, prefix: Prefix) -> Attr:
        epochs = self.history.chunks(view.node.id)
        epoch = 0 if epochs is None else epochs.newest_below(prefix)
        return self._attr(view.numbers.dir_number(prefix), self._dir_mode, 2, 0, epoch)

    def root_attr(self) -> Attr:
        """Returns the attributes of the root directory; needs no session."""
        return self.dir_attr("/")
