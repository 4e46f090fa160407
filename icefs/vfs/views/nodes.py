"""Directories and files of views that the kernel knows, by inode number.

A number is worked out from what it stands for: a directory of a million files has none of them in memory before the
kernel asks for one, and a file that the kernel has forgotten has its old number when it is looked up again.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable
from hashlib import blake2b
from typing import Final, NamedTuple, override

from icefs.errors import InvalidInputError, StaleError
from icefs.inode import Ino
from icefs.paths import TreePath, child
from icefs.vfs.attrs import ABSENT, ABSENT_FOREVER, Attr, Ownership
from icefs.vfs.inodes.table import InodeSpace
from icefs.vfs.interface import Tree
from icefs.vfs.trees.control_dir import CONTROL_NAME
from icefs.vfs.views.versions import Version, View
from icefs.views.formats import FORMAT_NAMES, parse_format
from icefs.views.interface import Layout, ViewDirectory, ViewFile

_NUMBER_BYTES: Final = 7


class Child(NamedTuple):
    """An entry of a directory, for a listing.

    Attributes:
        name: Its name.
        ino: Its inode number.
        is_dir: Whether it is a directory.
    """

    name: str
    ino: Ino
    is_dir: bool


type Children = Callable[[], Iterable[Child]]
"""Yields the entries of a directory, in a worker thread."""


class Node(ABC):
    """A directory or file.

    Attributes:
        key: Tells it from all others, and from others that were at its path.
        ino: Its inode number.
        refs: How many references to it the kernel holds.
        is_pinned: Whether it stays when the kernel has forgotten it.
    """

    __slots__ = ("ino", "is_pinned", "key", "refs")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.ino = Ino(0)
        self.refs = 0
        self.is_pinned = False

    @property
    def view(self) -> View | None:
        """The view that it is in."""
        return None

    @property
    @abstractmethod
    def path(self) -> str:
        """Its path below the mountpoint, without a leading slash."""

    @abstractmethod
    def attr(self, version: Version | None) -> Attr:
        """Returns its attributes.

        Args:
            version: The version that the question began with; None outside of views.

        Raises:
            NotInMemoryError: they have to be worked out.
            StaleError: it is gone.
        """


class DirNode(Node):
    """A directory.

    Attributes:
        parent_ino: The number of the directory that it is in.
    """

    __slots__ = ("parent_ino",)

    def __init__(self, key: Hashable, parent_ino: Ino) -> None:
        super().__init__(key)
        self.parent_ino = parent_ino

    @abstractmethod
    def find(self, name: str, version: Version | None) -> "Node | Attr":
        """Returns the node of an entry, which the table may know, or the answer about a name without one.

        Args:
            name: The name.
            version: The version that the question began with; None outside of views.

        Raises:
            NotInMemoryError: it has to be looked up.
            StaleError: the directory is gone.
        """

    @abstractmethod
    def children(self, version: Version | None) -> Children:
        """Returns what lists the directory; arguments and errors are those of `find`."""


class Look(NamedTuple):
    """What the views of a mount have in common.

    Attributes:
        ownership: Whose the files are.
        started_ns: The time of directories that belong to no view.
        number: Returns the number of a key.
    """

    ownership: Ownership
    started_ns: int
    number: Callable[[Hashable], Ino]

    def directory(self, ino: Ino, time_ns: int) -> Attr:
        """Returns the attributes of a directory."""
        return self.ownership.attr(ino, self.ownership.dir_mode(writable=False), nlink=2, size=0, time_ns=time_ns)


class FormatsNode(DirNode):
    """The directory `views`: a directory for each format."""

    __slots__ = ("_enter", "_look", "_path")

    def __init__(self, look: Look, path: str, parent_ino: Ino, enter: "Callable[[str, DirNode], DirNode]") -> None:
        """Takes its path, and what makes the directory of a format."""
        super().__init__(("formats", path), parent_ino)
        self._look = look
        self._path = path
        self._enter = enter

    @property
    @override
    def path(self) -> str:
        return self._path

    @override
    def attr(self, version: Version | None) -> Attr:
        return self._look.directory(self.ino, self._look.started_ns)

    @override
    def find(self, name: str, version: Version | None) -> Node | Attr:
        try:
            choice = parse_format(name)
        except InvalidInputError:
            return ABSENT_FOREVER
        # One directory must not have two names, so another order of the options leads nowhere.
        return self._enter(name, self) if str(choice) == name else ABSENT_FOREVER

    @override
    def children(self, version: Version | None) -> Children:
        inos = [(name, self._enter(name, self).key) for name in FORMAT_NAMES]
        return lambda: (Child(name, self._look.number(key), is_dir=True) for name, key in inos)


class RootHooks(NamedTuple):
    """What the root of a view has besides the view.

    Attributes:
        entry_timeout_s: How long the kernel may believe that its name leads here; None for as long as anything in it.
        control: Returns the attributes of its `.icefs`, counting a reference; None where it has none.
    """

    entry_timeout_s: float | None = None
    control: Callable[[], Attr] | None = None


class ViewDirNode(DirNode):
    """A directory of a view."""

    __slots__ = ("_hooks", "_look", "_place", "_view", "inner")

    def __init__(
        self, look: Look, view: View, place: str, inner: TreePath, parent_ino: Ino, hooks: RootHooks | None = None
    ) -> None:
        """Takes its path within the view, and that of the view's root below the mountpoint."""
        super().__init__((place, view.key, inner), parent_ino)
        self.inner = inner
        self._look = look
        self._view = view
        self._place = place
        self._hooks = hooks

    @property
    @override
    def view(self) -> View | None:
        return self._view

    @property
    @override
    def path(self) -> str:
        return _joined(self._place, self.inner)

    def directory(self, version: Version) -> ViewDirectory:
        """Returns the directory in a version.

        Raises:
            StaleError: it is not there.
        """
        found = version.find(self.inner)
        if not isinstance(found, ViewDirectory):
            raise StaleError(f"{self.path} is gone", path=self.path)
        return found

    @override
    def attr(self, version: Version | None) -> Attr:
        assert version is not None
        view = self._view
        attr = self._look.directory(self.ino, self.directory(version).time_ns)
        if not view.source.is_immutable:
            attr = attr._replace(entry_timeout_s=0.0, attr_timeout_s=0.0)
        timeout_s = None if self._hooks is None else self._hooks.entry_timeout_s
        return attr if timeout_s is None else attr._replace(entry_timeout_s=timeout_s)

    @override
    def find(self, name: str, version: Version | None) -> Node | Attr:
        assert version is not None
        if name == CONTROL_NAME and self._hooks is not None and self._hooks.control is not None:
            return self._hooks.control()
        self.directory(version)
        inner = child(self.inner, name)
        found = version.find(inner)
        if found is None:
            return ABSENT_FOREVER if self._view.source.is_immutable else ABSENT
        if isinstance(found, ViewDirectory):
            return ViewDirNode(self._look, self._view, self._place, inner, self.ino)
        return ViewFileNode(self._look, version, self._place, inner)

    @override
    def children(self, version: Version | None) -> Children:
        assert version is not None
        directory, view, place, number = self.directory(version), self._view, self._place, self._look.number

        def listed() -> Iterable[Child]:
            for name, entry in directory.list():
                inner = child(self.inner, name)
                if isinstance(entry, ViewDirectory):
                    yield Child(name, number((place, view.key, inner)), is_dir=True)
                else:
                    yield Child(name, number((place, view.key, inner, version.number)), is_dir=False)

        return listed


class ViewFileNode(Node):
    """A file of a view, at one version."""

    __slots__ = ("_attr", "_look", "_number", "_place", "_view", "inner")

    def __init__(self, look: Look, version: Version, place: str, inner: TreePath) -> None:
        """Takes its path within the view, and that of the view's root below the mountpoint."""
        super().__init__((place, version.view.key, inner, version.number))
        self.inner = inner
        self._look = look
        self._view = version.view
        self._number = version.number
        self._place = place
        self._attr: Attr | None = None

    @property
    @override
    def view(self) -> View | None:
        return self._view

    @property
    @override
    def path(self) -> str:
        return _joined(self._place, self.inner)

    @override
    def attr(self, version: Version | None) -> Attr:
        if self._attr is not None:
            return self._attr
        if version is None or version.number != self._number:
            raise StaleError(f"{self.path} has changed", path=self.path)
        found = version.find(self.inner)
        if not isinstance(found, ViewFile):
            raise StaleError(f"{self.path} is gone", path=self.path)
        size = version.layout(self.inner, found).size
        owner = self._look.ownership
        attr = owner.attr(self.ino, owner.file_mode(writable=False), nlink=1, size=size, time_ns=found.time_ns)
        self._attr = attr if self._view.source.is_immutable else attr._replace(entry_timeout_s=0.0)
        return self._attr

    def layout(self, version: Version | None) -> Layout:
        """Returns the file, ready to be read.

        Args:
            version: The present version.

        Raises:
            NotInMemoryError: it has to be worked out.
            StaleError: the tree has changed, and the layout is not in memory.
        """
        layout = self._view.layouts.get((self._view, self._number, self.inner))
        if layout is not None:
            return layout
        found = None if version is None or version.number != self._number else version.find(self.inner)
        if version is None or not isinstance(found, ViewFile):
            raise StaleError(f"{self.path} has changed", path=self.path)
        return version.layout(self.inner, found)


def _joined(place: str, inner: TreePath) -> str:
    return f"{place}/{inner}" if place and inner else place or inner


class NodeTable:
    """The nodes that the kernel knows.

    INVARIANT: a node is here under its number as long as it is pinned, or the kernel may hold references to it.
    """

    def __init__(self, space: InodeSpace, tree: Tree) -> None:
        self._range = space.reserve(1 << 8 * _NUMBER_BYTES, tree, self)
        self._nodes: dict[int, Node] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def number(self, key: Hashable) -> Ino:
        """Returns the number of a key, but where another node has it; from any thread."""
        digest = blake2b(repr(key).encode(errors="surrogatepass"), digest_size=_NUMBER_BYTES).digest()
        return Ino(self._range.start + int.from_bytes(digest))

    def known(self, node: Node) -> Node:
        """Returns the node of the same key, or the same node with a number, not entered yet."""
        ino = self.number(node.key)
        while (other := self._nodes.get(ino)) is not None:
            if other.key == node.key:
                return other
            ino = Ino(ino + 1 if ino + 1 < self._range.end else self._range.start)
        node.ino = ino
        return node

    def enter(self, node: Node) -> None:
        """Takes a node, and counts a reference of the kernel."""
        if node.ino not in self._nodes:
            self._nodes[node.ino] = node
            if node.view is not None:
                node.view.use()
        node.refs += 1

    def pin(self, node: Node, ino: Ino) -> None:
        """Takes a node for ever, under a number of another range."""
        node.ino = ino
        node.is_pinned = True
        self.enter(node)

    def find(self, ino: Ino) -> Node | None:
        """Returns the node of a number; None if there is none."""
        return self._nodes.get(ino)

    def get(self, ino: Ino) -> Node:
        """Returns the node of a number.

        Raises:
            StaleError: there is none.
        """
        node = self._nodes.get(ino)
        if node is None:
            raise StaleError(f"inode {ino} is gone", ino=ino)
        return node

    def forget(self, ino: Ino, count: int) -> View | None:
        """Drops references of the kernel; returns the view of the node where no node of it is left."""
        node = self._nodes.get(ino)
        if node is None or node.is_pinned:
            return None
        node.refs -= count
        if node.refs > 0:
            return None
        del self._nodes[ino]
        view = node.view
        if view is None:
            return None
        view.disuse()
        return None if view.users else view
