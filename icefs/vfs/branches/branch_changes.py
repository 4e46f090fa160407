"""What changes a writable branch: its files and names, through the working tree."""

import os
import stat
from collections.abc import Callable

from icefs.errors import (
    EntryNotFoundError,
    NotPermittedError,
    ReadOnlyError,
    ReservedNameError,
    StaleError,
    UnsupportedError,
)
from icefs.inode import Ino
from icefs.paths import TreePath, child
from icefs.vfs.attrs import Attr
from icefs.vfs.branches.branch_base import BranchBase
from icefs.vfs.branches.metadata_checks import MetadataChecks
from icefs.vfs.branches.operations import Operations
from icefs.vfs.branches.removed_directories import RemovedDirectories
from icefs.vfs.branches.working_attrs import kernel_attr
from icefs.vfs.branches.working_handles import WorkingHandle, WorkingHandles
from icefs.vfs.interface import AttrChanges, Caller, FileHandle, TreeChanges
from icefs.vfs.trees.control_dir import CONTROL_NAME
from icefs.worktree.model.nodes import NodeRef, Perm, TreeEntry
from icefs.worktree.ops.attributes import AttrChange
from icefs.worktree.ops.namespace import RENAME_EXCHANGE
from icefs.worktree.tree import WorkTree
from icefs.zarr.keys import METADATA_NAME


class BranchChanges(TreeChanges):
    """Changes one writable branch; a working tree is made by the first change."""

    def __init__(
        self,
        base: BranchBase,
        operations: Operations,
        handles: WorkingHandles,
        checks: MetadataChecks,
        removed: RemovedDirectories,
        path_of: Callable[[Ino], str],
    ) -> None:
        """Takes the parts of the branch.

        Args:
            base: What it stands on.
            operations: Runs what the working tree does.
            handles: Makes open files.
            checks: What a `zarr.json` must be.
            removed: The directories that have no name any more.
            path_of: Returns the path of an inode, for messages.
        """
        super().__init__(path_of)
        self._base = base
        self._below = base.below
        self._operations = operations
        self._handles = handles
        self._checks = checks
        self._removed = removed

    def _is_control(self, ino: Ino) -> bool:
        return bool(self._below.inodes.fixed.control_slot(ino))

    async def setattr(self, ino: Ino, changes: AttrChanges, handle: FileHandle | None, caller: Caller) -> Attr:
        """Changes attributes, truncation included."""
        if self._is_control(ino):
            return self._below.getattr(ino)  # the shell truncates before it writes

        def change(work: WorkTree) -> Attr:
            size = changes.size
            if size is not None and isinstance(handle, WorkingHandle) and handle.is_writable:
                attr = work.files.truncate(handle.fh, size)
                size = None
            rest = AttrChange(changes.mode, changes.uid, changes.gid, size, changes.atime_ns, changes.mtime_ns)
            if rest != AttrChange() or changes.size is None:
                try:
                    attr = work.attributes.set(self._base.where(ino), rest)
                except StaleError:
                    if ino not in self._removed:
                        raise
                    return self._removed.change(ino, changes)
            return kernel_attr(attr)

        return await self._operations.change(change, may_wait=bool(changes.size))

    def _note_removed(self, found: TreeEntry | None) -> None:
        """Keeps the attributes of a directory that was removed or replaced."""
        if found is not None and found.attr.is_dir:
            self._removed.add(kernel_attr(found.attr))

    async def create(self, parent: Ino, name: str, mode: int, flags: int, caller: Caller) -> tuple[FileHandle, Attr]:
        """Creates and opens a regular file."""
        self._refuse_in_control(parent, name)
        perm = Perm(mode & 0o7777, caller.uid, caller.gid)

        def create(work: WorkTree) -> tuple[FileHandle, Attr]:
            entry, number = work.names.create(self._base.where(parent), name, perm, (flags | os.O_CREAT) & ~os.O_APPEND)
            ino = entry.attr.ino
            handle = self._handles.make(work, ino, number, flags | os.O_CREAT)
            is_plain = not perm.mode & (
                stat.S_ISUID | stat.S_ISGID
            )  # the kernel takes these bits away, but not directly
            if flags & os.O_ACCMODE == os.O_WRONLY and is_plain and work.files.is_fresh(number):
                handle.direct_io = self._handles.direct.begin(ino)
            else:
                self._handles.direct.opened(ino)
            return handle, kernel_attr(entry.attr)

        return await self._name(parent, create)

    async def mknod(self, parent: Ino, name: str, mode: int, rdev: int, caller: Caller) -> Attr:
        """Creates a regular file."""
        self._refuse_in_control(parent, name)
        perm = Perm(mode & 0o7777, caller.uid, caller.gid)
        return await self._name(
            parent,
            lambda work: kernel_attr(work.names.mknod(self._base.where(parent), name, perm, stat.S_IFMT(mode)).attr),
        )

    async def mkdir(self, parent: Ino, name: str, mode: int, caller: Caller) -> Attr:
        """Creates a directory."""
        self._refuse_in_control(parent, name)
        perm = Perm(mode & 0o7777, caller.uid, caller.gid)
        return await self._name(
            parent, lambda work: kernel_attr(work.names.mkdir(self._base.where(parent), name, perm).attr)
        )

    async def unlink(self, parent: Ino, name: str) -> None:
        """Removes a file."""
        self._refuse_in_control(parent, name)
        await self._operations.change(lambda work: work.names.unlink(self._base.where(parent), name))

    async def rmdir(self, parent: Ino, name: str) -> None:
        """Removes an empty directory."""
        self._refuse_in_control(parent, name)

        def remove(work: WorkTree) -> None:
            where = self._base.where(parent)
            found = work.entries.lookup(where, name)
            work.names.rmdir(where, name)
            self._note_removed(found)

        await self._operations.change(remove)

    async def symlink(self, parent: Ino, name: str, target: str, caller: Caller) -> Attr:
        """Refuses: no Icechunk repository holds symbolic links."""
        raise NotPermittedError("a mounted branch has no symbolic links", name=name)

    async def setxattr(self, ino: Ino, name: str, value: bytes) -> None:
        """Refuses, as file systems do that have none: programs that copy files take no offence."""
        raise UnsupportedError("extended attributes cannot be set", name=name)

    async def rename(self, old_parent: Ino, old_name: str, new_parent: Ino, new_name: str, flags: int) -> None:
        """Renames within the tree."""
        self._refuse_in_control(old_parent, old_name)
        self._refuse_in_control(new_parent, new_name)
        if new_name == METADATA_NAME != old_name:
            await self._operations.change(
                lambda work: self._checks.check(
                    work, self._child(work, old_parent, old_name), self._path_in(work, new_parent, new_name)
                )
            )
        if old_name == METADATA_NAME != new_name and flags & RENAME_EXCHANGE:
            await self._operations.change(
                lambda work: self._checks.check(
                    work, self._child(work, new_parent, new_name), self._path_in(work, old_parent, old_name)
                )
            )

        def rename(work: WorkTree) -> None:
            old, new = self._base.where(old_parent), self._base.where(new_parent)
            replaced = None if flags else work.entries.lookup(new, new_name)
            work.names.rename(old, old_name, new, new_name, flags)
            if (old, old_name) != (new, new_name):
                self._note_removed(replaced)

        await self._name(new_parent, rename)

    def _child(self, work: WorkTree, parent: Ino, name: str) -> NodeRef:
        entry = work.entries.lookup(self._base.where(parent), name)
        if entry is None:
            raise EntryNotFoundError(f"no {name!r} in this directory", name=name)
        return entry.where

    async def link(self, ino: Ino, new_parent: Ino, new_name: str) -> Attr:
        """Gives a file another name."""
        self._refuse_in_control(new_parent, new_name)
        self._refuse_in_control(ino)
        if new_name == METADATA_NAME:
            await self._operations.change(
                lambda work: self._checks.check(work, self._base.where(ino), self._path_in(work, new_parent, new_name))
            )
        return await self._name(
            new_parent,
            lambda work: kernel_attr(
                work.names.link(self._base.where(ino), self._base.where(new_parent), new_name).attr
            ),
        )

    async def fsyncdir(self, ino: Ino) -> None:
        """Makes all names durable."""
        if self._base.work is not None and not self._is_control(ino):
            await self._operations.in_thread(self._base.work.names.fsync)

    def _refuse_in_control(self, ino: Ino, name: str | None = None) -> None:
        """Refuses to change the control directory, and its name in the root."""
        if self._is_control(ino):
            raise ReadOnlyError("the control directory cannot be changed", kind="read-only-store")
        if name == CONTROL_NAME and ino == self._below.inodes.root_ino:
            raise NotPermittedError("the control directory cannot be made, replaced or removed", name=name)

    def _path_in(self, work: WorkTree, parent: Ino, name: str) -> TreePath:
        return child(TreePath(work.entries.path_of(self._base.where(parent))), name)

    async def _name[T](self, parent: Ino, operation: Callable[[WorkTree], T]) -> T:
        """Runs an operation that gives something a name in a directory."""
        try:
            return await self._operations.change(operation)
        except ReservedNameError as error:
            if self._base.work is not None:
                self._checks.note_reserved(self._path_in(self._base.work, parent, error.facts["name"]), error)
            raise
