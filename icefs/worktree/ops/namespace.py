"""Names: creating, removing, renaming, linking.

Every operation checks first and changes then; what it changes it changes inside one `Change`, so that it is in the
database when it returns (a created file when it is first flushed). The order of the checks is Linux's.
"""

import os
import stat
from typing import Final

from icefs.errors import (
    AlreadyExistsError,
    EntryNotFoundError,
    InvalidInputError,
    IsADirectoryTreeError,
    NotADirectoryTreeError,
    NotEmptyError,
    NotPermittedError,
    ReservedNameError,
)
from icefs.paths import TreePath
from icefs.worktree.base import BaseEntry
from icefs.worktree.core.tree_core import Change, TreeCore
from icefs.worktree.model.nodes import STORED, WHITEOUT, DirNode, Entry, FileNode, Node, NodeRef, Perm, TreeEntry
from icefs.worktree.ops.entries import check_name
from icefs.worktree.ops.files import Files
from icefs.worktree.ops.moves import Mover
from icefs.worktree.ops.removal import Removal
from icefs.zarr.keys import V2_METADATA_NAMES

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2

ROOT_RESERVED_NAMES: Final = frozenset({".icefs"})
"""Names that only the root keeps for icefs."""


class Namespace:
    """The operations that change names."""

    def __init__(self, core: TreeCore, files: Files, removal: Removal) -> None:
        self._core = core
        self._files = files
        self._removal = removal
        self._mover = Mover(core, removal)

    # Creating

    def create(self, parent: NodeRef, name: str, perm: Perm, flags: int) -> tuple[TreeEntry, int]:
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

    def _new_file(self, op: Change, directory: DirNode | TreePath, name: str, perm: Perm) -> FileNode:
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

    def mkdir(self, parent: NodeRef, name: str, perm: Perm) -> TreeEntry:
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

    def mknod(self, parent: NodeRef, name: str, perm: Perm, file_type: int) -> TreeEntry:
        """Makes a regular file; refuses devices, pipes and sockets."""
        if file_type not in {0, 0o100000}:
            raise NotPermittedError("a mounted branch has no special files", name=name)
        entry, handle = self.create(parent, name, perm, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            self._files.flush(handle)
        finally:
            self._files.release(handle)
        return entry

    def link(self, where: NodeRef, parent: NodeRef, name: str) -> TreeEntry:
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

    def _check_free_name(self, directory: DirNode | TreePath, name: str) -> None:
        if name in V2_METADATA_NAMES:
            raise ReservedNameError(
                f"{name} cannot be created: an Icechunk repository holds Zarr v3 only",
                hint="write with zarr_format=3 (GDAL: -co FORMAT=ZARR_V3)",
                name=name,
            )
        if name in ROOT_RESERVED_NAMES and (directory is self._core.root or directory == ""):
            raise ReservedNameError(f"{name} at the root of a tree is icefs's own control directory", name=name)

    # Removing

    def unlink(self, parent: NodeRef, name: str) -> None:
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
                    self._removal.hide(op, above, name)
                    return
                found = core.materialise.file(above, name, found)
            self._removal.take_out(op, above, name)
            self._removal.drop_link(op, found, above, name, is_kept=core.keeps_removed)

    def rmdir(self, parent: NodeRef, name: str) -> None:
        """Removes an empty directory."""
        check_name(name)
        core = self._core
        with core.change() as op:
            directory, found = self._existing(parent, name)
            self._check_empty_dir(found, name)
            above = core.materialise.directory(directory)
            op.dir_changed(above)
            if isinstance(found, BaseEntry):
                self._removal.hide(op, above, name)
                return
            assert isinstance(found, DirNode)
            self._removal.take_out(op, above, name)
            self._removal.drop_dir(op, found)

    def _existing(self, parent: NodeRef, name: str) -> tuple[DirNode | TreePath, Node | BaseEntry]:
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
        path: TreePath | None
        if isinstance(found, DirNode):
            entries, path = found.entries, found.base_path
            if any(entry is not WHITEOUT for entry in entries.values()):
                return False
        else:
            path = found.path
        return path is None or all(name in entries for name, _ in core.base_tree.list(path))

    # Renaming

    def rename(self, parent: NodeRef, name: str, new_parent: NodeRef, new_name: str, flags: int = 0) -> None:
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
            if self._mover.contains(source, new_directory) or (
                flags == RENAME_EXCHANGE and target is not None and self._mover.contains(target, directory)
            ):
                raise InvalidInputError("a directory cannot be moved into itself", kind="invalid-path")
            if target is not None and self._mover.contains(target, directory):
                raise NotEmptyError(f"the directory {new_name!r} is not empty", name=new_name)
            self._check_free_name(new_directory, new_name)
            if flags == RENAME_EXCHANGE:
                assert target is not None
                self._check_free_name(directory, name)
                self._mover.exchange(op, (directory, name, source), (new_directory, new_name, target))
                return
            if target is not None:
                self._check_replaceable(source, target, new_name)
            self._mover.move(op, (directory, name, source), (new_directory, new_name, target))

    def _check_replaceable(self, source: Node | BaseEntry, target: Node | BaseEntry, name: str) -> None:
        if _is_dir(source):
            self._check_empty_dir(target, name)
        elif _is_dir(target):
            raise IsADirectoryTreeError(f"{name!r} is a directory", name=name)

    def fsync(self) -> None:
        """Makes every name, of all directories, survive power loss.

        They are in the log already, so the log is synced; it has one order, and no directory can be synced alone.
        """
        core = self._core
        with core.change() as op:
            for directory in core.soft:
                if directory.flags & STORED:
                    op.store[directory] = None
            op.commit()
            core.soft.clear()
        core.journal.sync()


def _is_dir(found: Node | BaseEntry) -> bool:
    return found.attr.is_dir if isinstance(found, BaseEntry) else isinstance(found, DirNode)


def _exists(name: str) -> AlreadyExistsError:
    return AlreadyExistsError(f"{name!r} exists already", name=name)
