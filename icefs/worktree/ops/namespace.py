"""Names: looking up, creating, removing, renaming, linking, listing.

Every operation checks first and changes then; what it changes it changes inside one `Change`, so that it is in the
database when it returns (a created file when it is first flushed). The order of the checks is Linux's.
"""

import os
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from icefs.errors import (
    AlreadyExistsError,
    EntryNotFoundError,
    InvalidInputError,
    IsADirectoryTreeError,
    NameTooLongError,
    NotADirectoryTreeError,
    NotEmptyError,
    NotPermittedError,
    ReservedNameError,
)
from icefs.worktree.base import BaseAttr, BaseEntry, is_below, join
from icefs.worktree.core.tree_core import Change, TreeCore
from icefs.worktree.model.nodes import STORED, WHITEOUT, DirNode, Entry, FileNode, Node, Perm, TreeEntry, Where
from icefs.worktree.ops.files import Files
from icefs.zarr.keys import V2_METADATA_NAMES

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2

MAX_NAME_BYTES: Final = 255

ROOT_RESERVED_NAMES: Final = frozenset({".icefs"})
"""Names that only the root keeps for icefs."""


class DirView(NamedTuple):
    """What a directory shows, for a caller that lists the base directory by itself.

    Attributes:
        base_path: The base directory whose entries shine through, except those in `hides`; None for none.
        entries: The upper entries by name.
        hides: The names of the base directory that are not to be shown.
    """

    base_path: str | None
    entries: dict[str, TreeEntry]
    hides: frozenset[str]


def check_name(name: str) -> None:
    """Raises an error if no file of any tree can have the name.

    Raises:
        NameTooLongError: it has more than 255 bytes in UTF-8.
        InvalidInputError: it has a slash or a NUL, is `.`, `..` or empty, or is no Unicode text.
    """
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidInputError(f"{name!r} is not valid UTF-8", kind="invalid-path", name=name) from None
    if length > MAX_NAME_BYTES:
        raise NameTooLongError(f"a name of {length} bytes is too long: 255 are allowed", name=name)
    if "/" in name or "\0" in name or name in {"", ".", ".."}:
        raise InvalidInputError(f"{name!r} is not a file name", kind="invalid-path", name=name)


class Namespace:
    """The operations on names, over the state in `core`."""

    def __init__(self, core: TreeCore, files: Files) -> None:
        self._core = core
        self._files = files

    # Looking

    def lookup(self, parent: Where, name: str) -> TreeEntry | None:
        """Returns what a name in a directory refers to, None if nothing."""
        check_name(name)
        core = self._core
        with core.lock:
            core.check_open()
            found = core.child(core.directory(parent), name)
            return None if found is None else core.entry(found)

    def list_dir(self, where: Where) -> Iterator[tuple[str, TreeEntry]]:
        """Yields the entries of a directory as they are now: upper ones first, then those of the base directory.

        The base directory is listed while the iterator is advanced.
        """
        core = self._core
        view = self.dir_view(where)
        yield from view.entries.items()
        if view.base_path is None:
            return
        with core.lock:
            base_tree = core.base_tree
            kept_of = core.kept.in_directory(view.base_path)
        for name, attr in base_tree.list(view.base_path):
            if name not in view.hides:
                kept = kept_of(name)
                if kept is not None:
                    attr = BaseAttr(kept.ino, attr.is_dir, attr.size, kept.mtime_ns)
                yield name, TreeEntry(join(view.base_path, name), core.base_attr(attr))

    def dir_view(self, where: Where) -> DirView:
        """Returns what a directory shows; cheap, whatever the size of the base directory."""
        core = self._core
        with core.lock:
            core.check_open()
            directory = core.directory(where)
            if not isinstance(directory, DirNode):
                return DirView(directory, {}, frozenset())
            entries = {name: core.entry(entry) for name, entry in directory.entries.items() if entry is not WHITEOUT}
            return DirView(directory.base_path, entries, frozenset(directory.entries))

    # Creating

    def create(self, parent: Where, name: str, perm: Perm, flags: int) -> tuple[TreeEntry, int]:
        """Opens a file, made if there is none (`open(2)` with O_CREAT).

        Raises:
            AlreadyExistsError: there is one, and the flags have O_EXCL.
            ReservedNameError: Icechunk cannot hold the name.
        """
        check_name(name)
        core = self._core
        with core.change() as op:
            directory = core.directory(parent)
            found = core.child(directory, name)
            if found is None:
                node = self._new_file(op, directory, name, perm)
                return core.entry(node), self._files.add(node, flags)
            if flags & os.O_EXCL:
                raise _exists(name)
            return self._files.open_found(op, found, flags)

    def _new_file(self, op: Change, directory: DirNode | str, name: str, perm: Perm) -> FileNode:
        core = self._core
        self._check_free_name(directory, name)
        above = core.materialise.directory(directory)
        if above.perm.mode & stat.S_ISGID:
            perm = core.perm(perm.mode, perm.uid, above.perm.gid)
        node = FileNode(core.take_id(), core.new_ino(), perm, 0, core.now_ns())
        op.dir_changed(above)
        node.parent, node.name = above, name
        op.put(above.entries, name, node)
        op.put(core.by_ino, node.ino, node)
        op.put(core.behind, node, node)
        return node

    def mkdir(self, parent: Where, name: str, perm: Perm) -> TreeEntry:
        """Makes a directory."""
        check_name(name)
        core = self._core
        with core.change() as op:
            directory = core.directory(parent)
            if core.child(directory, name) is not None:
                raise _exists(name)
            self._check_free_name(directory, name)
            above = core.materialise.directory(directory)
            if above.perm.mode & stat.S_ISGID:
                perm = core.perm(perm.mode | stat.S_ISGID, perm.uid, above.perm.gid)
            node = DirNode(core.take_id(), core.new_ino(), perm, core.now_ns(), None)
            op.dir_changed(above)
            node.parent, node.name = above, name
            op.put(above.entries, name, node)
            op.put(core.by_ino, node.ino, node)
            op.store[node] = None
            return core.entry(node)

    def link(self, where: Where, parent: Where, name: str) -> TreeEntry:
        """Gives a file another name.

        Raises:
            NotPermittedError: it is a directory.
        """
        check_name(name)
        core = self._core
        with core.change() as op:
            found = core.resolve(where)
            if isinstance(found, FileNode) and found.parent is None:
                raise EntryNotFoundError(f"{found.name!r} was removed", name=found.name)
            directory = core.directory(parent)
            if core.child(directory, name) is not None:
                raise _exists(name)
            if isinstance(found, DirNode) or (isinstance(found, BaseEntry) and found.attr.is_dir):
                raise NotPermittedError("a directory has one name only", where=where)
            self._check_free_name(directory, name)
            above = core.materialise.directory(directory)
            node = core.materialise.at(where)
            assert isinstance(node, FileNode)
            op.dir_changed(above)
            op.touch(node)
            node.extra = {**(node.extra or {}), (above, name): None}
            node.ctime_ns = core.tick(node)
            op.put(above.entries, name, node)
            op.links.append((above, name, node.id))
            op.store[node] = None
            return core.entry(node)

    def _check_free_name(self, directory: DirNode | str, name: str) -> None:
        if name in V2_METADATA_NAMES:
            raise ReservedNameError(
                f"{name} cannot be created: an Icechunk repository holds Zarr v3 only",
                hint="write with zarr_format=3 (GDAL: -co FORMAT=ZARR_V3)",
                name=name,
            )
        if name in ROOT_RESERVED_NAMES and (directory is self._core.root or directory == ""):
            raise ReservedNameError(f"{name} at the root of a tree is icefs's own control directory", name=name)

    # Removing

    def unlink(self, parent: Where, name: str) -> None:
        """Removes a file's name; its bytes stay while it is open or has another name."""
        check_name(name)
        core = self._core
        with core.change() as op:
            directory, found = self._existing(parent, name)
            if isinstance(found, DirNode) or (isinstance(found, BaseEntry) and found.attr.is_dir):
                raise IsADirectoryTreeError(f"{name!r} is a directory", name=name)
            above = core.materialise.directory(directory)
            op.dir_changed(above)
            if isinstance(found, BaseEntry):
                if found.path not in core.base_handles and not core.keeps_removed:
                    self._hide(op, above, name)
                    return
                found = core.materialise.file(above, name, found)
            self._take_out(op, above, name)
            self.drop_link(op, found, above, name, is_kept=core.keeps_removed)

    def rmdir(self, parent: Where, name: str) -> None:
        """Removes an empty directory."""
        check_name(name)
        core = self._core
        with core.change() as op:
            directory, found = self._existing(parent, name)
            self._check_empty_dir(found, name)
            above = core.materialise.directory(directory)
            op.dir_changed(above)
            if isinstance(found, BaseEntry):
                self._hide(op, above, name)
                return
            assert isinstance(found, DirNode)
            self._take_out(op, above, name)
            self.drop_dir(op, found)

    def _existing(self, parent: Where, name: str) -> tuple[DirNode | str, Node | BaseEntry]:
        directory = self._core.directory(parent)
        found = self._core.child(directory, name)
        if found is None:
            raise EntryNotFoundError(f"no {name!r} in this directory", name=name)
        return directory, found

    def _check_empty_dir(self, found: Node | BaseEntry, name: str) -> None:
        if isinstance(found, FileNode) or (isinstance(found, BaseEntry) and not found.attr.is_dir):
            raise NotADirectoryTreeError(f"{name!r} is not a directory", name=name)
        if not self._is_empty(found):
            raise NotEmptyError(f"the directory {name!r} is not empty", name=name)

    def _is_empty(self, found: DirNode | BaseEntry) -> bool:
        core = self._core
        entries: dict[str, Entry] = {}
        path: str | None
        if isinstance(found, DirNode):
            entries, path = found.entries, found.base_path
            if any(entry is not WHITEOUT for entry in entries.values()):
                return False
        else:
            path = found.path
        return path is None or all(name in entries for name, _ in core.base_tree.list(path))

    def _hide(self, op: Change, directory: DirNode, name: str) -> None:
        """Puts a whiteout over an untouched entry."""
        op.put(directory.entries, name, WHITEOUT)
        if directory.hidden is not None:
            directory.hidden.add(name)
        op.links.append((directory, name, 0))

    def _take_out(self, op: Change, directory: DirNode, name: str) -> None:
        """Removes an upper entry; a whiteout takes its place if the base directory has the name, too."""
        entry = directory.entries[name]
        if self._hides_base(directory, name):
            op.put(directory.entries, name, WHITEOUT)
            op.links.append((directory, name, 0))
            return
        op.put(directory.entries, name, None)
        if isinstance(entry, FileNode) and entry.extra is not None and (directory, name) in entry.extra:
            op.links.append((directory, name, None))

    def _hides_base(self, directory: DirNode, name: str) -> bool:
        if directory.base_path is None:
            return False
        if directory.hidden is not None:
            return name in directory.hidden
        return self._core.base_tree.stat(join(directory.base_path, name)) is not None

    def drop_link(self, op: Change, node: FileNode, directory: DirNode, name: str, *, is_kept: bool = False) -> None:
        """Takes one link from a file, and with the last one its row and, unless it is open or kept, its bytes."""
        core = self._core
        op.touch(node)
        node.ctime_ns = core.tick(node)
        if node.extra is not None:
            is_first = (node.parent, node.name) == (directory, name)
            node.drop_link(directory, name)
            if is_first:
                assert node.parent is not None
                op.links.append((node.parent, node.name, None))
            op.store[node] = None
            return
        node.parent = None
        op.kill(node)
        if is_kept:
            op.kept.append(node)
        elif node.io is None:
            op.put(core.behind, node, None)
            op.put(core.by_ino, node.ino, None)
            if node.origin is not None and core.base_files.get(node.origin) is node:
                op.put(core.base_files, node.origin, None)
            core.release_spool(op, node.spool_id)

    def drop_dir(self, op: Change, node: DirNode) -> None:
        """Forgets an empty directory that was taken out of its parent."""
        core = self._core
        op.touch(node)
        if node.flags & STORED and node.entries:
            op.purged.append(node.id)
        op.kill(node)
        node.parent = None
        op.put(core.by_ino, node.ino, None)
        if node.base_path is not None:
            op.put(core.base_dirs, node.base_path, None)

    # Renaming

    def rename(self, parent: Where, name: str, new_parent: Where, new_name: str, flags: int = 0) -> None:
        """Gives a file or directory another name and place, replacing what stands there (`renameat2(2)`).

        Args:
            parent: The directory it is in.
            name: Its name.
            new_parent: The directory it goes to.
            new_name: The name it gets.
            flags: RENAME_NOREPLACE or RENAME_EXCHANGE, or 0.

        Raises:
            EntryNotFoundError: there is no such file, or nothing to exchange it with.
            AlreadyExistsError: the new name exists, with RENAME_NOREPLACE.
            InvalidInputError: a directory would go into itself, or the flags are unknown.
            NotEmptyError, IsADirectoryTreeError, NotADirectoryTreeError: what stands there cannot be replaced.
        """
        check_name(name)
        check_name(new_name)
        if flags not in {0, RENAME_NOREPLACE, RENAME_EXCHANGE}:
            raise InvalidInputError(f"unknown rename flags {flags}", kind="invalid-path")
        core = self._core
        with core.change() as op:
            directory, source = self._existing(parent, name)
            new_directory = core.directory(new_parent)
            target = core.child(new_directory, new_name)
            if flags == RENAME_NOREPLACE and target is not None:
                raise _exists(new_name)
            if flags == RENAME_EXCHANGE and target is None:
                raise EntryNotFoundError(f"no {new_name!r} in this directory", name=new_name)
            if source is target or (isinstance(source, BaseEntry) and source == target):
                return
            if self._contains(source, new_directory) or (
                flags == RENAME_EXCHANGE and target is not None and self._contains(target, directory)
            ):
                raise InvalidInputError("a directory cannot be moved into itself", kind="invalid-path")
            if target is not None and self._contains(target, directory):
                raise NotEmptyError(f"the directory {new_name!r} is not empty", name=new_name)
            self._check_free_name(new_directory, new_name)
            if flags == RENAME_EXCHANGE:
                assert target is not None
                self._check_free_name(directory, name)
                self._exchange(op, (directory, name, source), (new_directory, new_name, target))
                return
            if target is not None:
                self._check_replaceable(source, target, new_name)
            self._move(op, (directory, name, source), (new_directory, new_name, target))

    def _contains(self, found: Node | BaseEntry, directory: DirNode | str) -> bool:
        """Tells whether a directory is what was found, or lies below it."""
        if isinstance(found, FileNode):
            return False
        if isinstance(found, BaseEntry):
            # What is below an untouched directory is untouched.
            return isinstance(directory, str) and is_below(directory, found.path)
        place: DirNode | None = directory if isinstance(directory, DirNode) else self._nearest(directory)
        while place is not None and place is not found:
            place = place.parent
        return place is not None

    def _nearest(self, path: str) -> DirNode:
        while True:
            node = self._core.base_dirs.get(path)
            if node is not None:
                return node
            path = path.rpartition("/")[0]

    def _check_replaceable(self, source: Node | BaseEntry, target: Node | BaseEntry, name: str) -> None:
        if _is_dir(source):
            self._check_empty_dir(target, name)
        elif _is_dir(target):
            raise IsADirectoryTreeError(f"{name!r} is a directory", name=name)

    def _move(
        self,
        op: Change,
        source: tuple[DirNode | str, str, Node | BaseEntry],
        target: tuple[DirNode | str, str, Node | BaseEntry | None],
    ) -> None:
        core = self._core
        above, name = core.materialise.directory(source[0]), source[1]
        new_above, new_name, replaced = core.materialise.directory(target[0]), target[1], target[2]
        node = core.materialise.node(above, name, source[2])
        op.dir_changed(above)
        if new_above is not above:
            op.dir_changed(new_above)
        was_extra = False
        if isinstance(replaced, BaseEntry):
            if replaced.path in core.base_handles or (core.keeps_removed and not replaced.attr.is_dir):
                replaced = core.materialise.node(new_above, new_name, replaced)
            elif new_above.hidden is not None:
                new_above.hidden.add(new_name)
        if isinstance(replaced, FileNode):
            was_extra = replaced.extra is not None and (new_above, new_name) in replaced.extra
            self.drop_link(op, replaced, new_above, new_name, is_kept=core.keeps_removed)
        elif isinstance(replaced, DirNode):
            self.drop_dir(op, replaced)
        self._take_out(op, above, name)
        op.touch(node)
        node.ctime_ns = core.tick(node)
        _set_place(node, (above, name), (new_above, new_name))
        op.put(new_above.entries, new_name, node)
        op.store[node] = None
        self._write_link(op, new_above, new_name, was_extra=was_extra)

    def _exchange(
        self,
        op: Change,
        one: tuple[DirNode | str, str, Node | BaseEntry],
        two: tuple[DirNode | str, str, Node | BaseEntry],
    ) -> None:
        core = self._core
        places = [(core.materialise.directory(directory), name) for directory, name, _ in (one, two)]
        nodes = [core.materialise.node(*place, found) for place, (_, _, found) in zip(places, (one, two), strict=True)]
        extras = [
            isinstance(node, FileNode) and node.extra is not None and place in node.extra
            for place, node in zip(places, nodes, strict=True)
        ]
        for directory in dict.fromkeys(directory for directory, _ in places):
            op.dir_changed(directory)
        for node, old, new in zip(nodes, places, reversed(places), strict=True):
            op.touch(node)
            node.ctime_ns = core.tick(node)
            _set_place(node, old, new)
            op.put(new[0].entries, new[1], node)
            op.store[node] = None
        for (directory, name), was_extra in zip(places, extras, strict=True):
            self._write_link(op, directory, name, was_extra=was_extra)

    def _write_link(self, op: Change, directory: DirNode, name: str, *, was_extra: bool) -> None:
        """Brings the `link` row of a place in line with what stands there now."""
        entry = directory.entries[name]
        if isinstance(entry, FileNode) and (entry.parent, entry.name) != (directory, name):
            op.links.append((directory, name, entry.id))
        elif was_extra:
            op.links.append((directory, name, None))


def _set_place(node: Node, old: tuple[DirNode, str], new: tuple[DirNode, str]) -> None:
    if isinstance(node, FileNode) and node.extra is not None and old in node.extra:
        node.extra = {new if link == old else link: None for link in node.extra}
    else:
        node.parent, node.name = new


def _is_dir(found: Node | BaseEntry) -> bool:
    return found.attr.is_dir if isinstance(found, BaseEntry) else isinstance(found, DirNode)


def _exists(name: str) -> AlreadyExistsError:
    return AlreadyExistsError(f"{name!r} exists already", name=name)
