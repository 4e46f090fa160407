"""What names and numbers lead to in one snapshot: directories of nodes, metadata files, chunks.

A directory is a node, or lies above a node, or lies above a chunk. Where an array has a node below itself whose
path reads like a chunk's, the node's directory wins, and shows the chunks of that path as well.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from icefs.engine.read.session import Session
from icefs.engine.repository import Repository
from icefs.errors import FormatError, ObjectNotFoundError, SnapshotNotFoundError, StaleError
from icefs.format.ids import SnapshotId
from icefs.format.manifest.refs import ChunkRef
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.inode import Ino
from icefs.paths import ROOT_DIRECTORY, ROOT_NODE, NodePath, TreePath, child, tree_path
from icefs.vfs.chunks.array_view import ArrayView
from icefs.vfs.inodes.numbers import ROOT_SLOT, ChunkRange, ChunkTable, FixedNumbers, NodeNumbers, Prefix
from icefs.vfs.inodes.tree_inodes import TreeInodes
from icefs.vfs.interface import NotInMemoryError
from icefs.zarr.keys import METADATA_NAME, metadata_key


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


class Target(NamedTuple):
    """What an inode number of a tree stands for; exactly one of the alternatives.

    Attributes:
        dir_path: The path of a directory of nodes.
        file_path: The path of the node whose metadata file it is.
        view: The array whose chunk, or directory above chunks, it is.
        prefix: The coordinates; all of them for a chunk.
        ref: The reference of a chunk that was found by its path; None for anything else, and where it has to be asked
            for.
    """

    dir_path: NodePath | None = None
    file_path: NodePath | None = None
    view: ArrayView | None = None
    prefix: Prefix = ()
    ref: ChunkRef | None = None

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory, of nodes or above chunks."""
        return self.dir_path is not None or (self.view is not None and len(self.prefix) < self.view.chunks.ndim)


ROOT: Final = Target(dir_path=ROOT_NODE)


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


class Finder:
    """Finds things in one snapshot, which is loaded when something is first looked for.

    Attributes:
        session: The snapshot; None until it is loaded.
    """

    def __init__(
        self,
        inodes: TreeInodes,
        repository: Repository,
        snapshot_id: SnapshotId,
        session: Session | None,
        on_loaded: Callable[[], None],
    ) -> None:
        """Takes the tree's numbers, where the snapshot is, and what is called when it has been loaded."""
        self.session = session
        self._inodes = inodes
        self._repository = repository
        self._snapshot_id = snapshot_id
        self._on_loaded = on_loaded
        self._infos: dict[str, DirInfo] = {}
        self._views: dict[str, ArrayView] = {}

    def require_session(self) -> Session:
        """Returns the snapshot.

        Raises:
            NotInMemoryError: it has to be loaded.
        """
        if self.session is not None:
            return self.session
        repository, snapshot_id = self._repository, self._snapshot_id
        raise NotInMemoryError((id(self), snapshot_id), lambda: open_session(repository, snapshot_id), self.take)

    def take(self, session: Session) -> None:
        """Takes the snapshot that was loaded; another load may have been quicker."""
        if self.session is None:
            self.session = session
            self._on_loaded()

    # Nodes and arrays.

    def dir_info(self, path: NodePath) -> DirInfo | None:
        """Returns what is known of a directory of nodes, or None if the path is none."""
        info = self._infos.get(path)
        if info is None:
            session = self.require_session()
            node = session.get_node(path)
            has_children = session.has_children(path)
            if node is None and not has_children and path != ROOT_NODE:
                return None
            info = self._infos[path] = DirInfo(node, has_children, self._sources(session, path, node))
        return info

    def is_node_dir(self, path: NodePath) -> bool:
        """Tells whether a path is a node's, or lies above one."""
        return path in self._infos or self.dir_info(path) is not None

    def _sources(
        self, session: Session, path: NodePath, node: NodeSnapshot | None
    ) -> tuple[tuple[ArrayView, int, Prefix], ...]:
        sources: list[tuple[ArrayView, int, Prefix]] = []
        if node is not None and node.array is not None:
            sources.append((self.view(node), 0, ()))
        names = path.split("/")[1:] if path != ROOT_NODE else []
        for depth in range(len(names) - 1, -1, -1):
            above = None
            with suppress(FormatError):  # what stands above and cannot be read concerns only itself
                above = session.get_node(NodePath("/" + "/".join(names[:depth])))
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
        """Returns the view of an array of the snapshot."""
        view = self._views.get(node.path)
        if view is None:
            numbers = self._inodes.array(node.path, node.id)
            view = self._views[node.path] = ArrayView(self.require_session(), node, numbers)
        return view

    def node(self, path: NodePath) -> NodeSnapshot | None:
        """Returns a node; None where there is none."""
        info = self.dir_info(path)
        return None if info is None else info.node

    # By number.

    def locate(self, ino: Ino) -> Target | None:
        """Returns what a number stands for; None if nothing any more, or something else than a snapshot's file."""
        found = self._inodes.space.find(ino)
        if found is None:
            return None
        content = found.content
        if type(content) is ChunkRange and content.layout is not None:
            return self._locate_chunk(content, content.layout.unpack(ino - found.start))
        if type(content) is NodeNumbers:
            key = content.key(ino)
            if key is None:
                return None
            if key.epoch is None:
                return Target(dir_path=NodePath(key.path))
            return Target(file_path=NodePath(key.path)) if self._inodes.is_current(key) else None
        if type(content) is FixedNumbers:
            return ROOT if ino - content.start == ROOT_SLOT else None
        if type(content) is ChunkTable:
            packed = content.key(ino)
            if packed is not None:
                prefix, epoch = packed
                return self._locate_chunk(ChunkRange(content.numbers, None, epoch), prefix)
        return None

    def _locate_chunk(self, range_: ChunkRange, prefix: Prefix) -> Target | None:
        numbers = range_.numbers
        view = self._views.get(numbers.path)
        if view is None:
            node = self.node(NodePath(numbers.path))
            if node is None or node.array is None:
                return None
            view = self.view(node)
        if view.numbers is not numbers:
            return None
        is_chunk = len(prefix) == view.chunks.ndim
        epoch = self._inodes.chunk_epoch(view.node.id, prefix) if is_chunk else numbers.dir_epoch(prefix)
        return Target(view=view, prefix=prefix) if range_.epoch == epoch else None

    # By path.

    def find(self, path: TreePath) -> Target | None:
        """Returns what is at a path of the tree; None if nothing is."""
        if path == ROOT_DIRECTORY:
            return ROOT
        above, _, name = path.rpartition("/")
        directory = NodePath(f"/{above}")
        if name == METADATA_NAME and self.node(directory) is not None:
            return Target(file_path=directory)
        if self.is_node_dir(own := NodePath(f"/{path}")):
            return Target(dir_path=own)
        names = [name]
        while True:
            node = self.node(directory)
            if node is not None and node.array is not None:
                view = self.view(node)
                prefix = None if view.layout is None else view.layout.parse_prefix(names)
                if prefix is not None:
                    if len(names) == view.depth:
                        ref = view.find(prefix)
                        if ref is not None:
                            return Target(view=view, prefix=prefix, ref=ref)
                    elif view.has_dir(prefix):
                        return Target(view=view, prefix=prefix)
            if not above:
                return None
            above, _, name = above.rpartition("/")
            directory = NodePath(f"/{above}")
            names.insert(0, name)


def target_path(target: Target) -> TreePath:
    """Returns the path of a target in the tree."""
    if target.dir_path is not None:
        return tree_path(target.dir_path)
    if target.file_path is not None:
        return TreePath(metadata_key(target.file_path))
    view = target.view
    assert view is not None  # one of the three is there
    return child(tree_path(NodePath(view.node.path)), view.path_of(target.prefix))


def stale(ino: Ino, label: str) -> StaleError:
    """Makes the error for a number that stands for nothing any more."""
    return StaleError(f"inode {ino} of {label or 'the mount'} is gone", ino=ino)
