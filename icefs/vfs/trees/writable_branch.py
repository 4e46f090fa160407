"""A branch that can be written to: the branch tree, with a working tree over it from the first write on.

    nothing was ever written    BranchTree answers
    a working tree is open      it answers, and asks the branch tree for what nobody changed (`base_tree`)

A working tree stays open once it is there, also when a commit has left nothing in it: it keeps the inode numbers
and times that programs have seen. While it has changes the branch stays at their base; without, it follows its tip.

Concurrency: requests run on the event loop's thread, operations of the working tree mostly too. They hold its lock
for as long as it takes to write a row to the database; what may take longer runs in a thread.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import trio

from icefs.engine.read.session import Session
from icefs.errors import (
    EntryNotFoundError,
    InvalidMetadataError,
    IsADirectoryTreeError,
    NotPermittedError,
    ReadOnlyError,
    ReservedNameError,
    SessionStateError,
    StaleError,
    UnsupportedError,
)
from icefs.format.zarr_json import parse_zarr_json
from icefs.inode import Invalidations
from icefs.vfs.attrs import ABSENT, Attr
from icefs.vfs.interface import AttrChanges, Caller, DirHandle, FileHandle, NotInMemoryError
from icefs.vfs.trees.advance import Advance
from icefs.vfs.trees.base_change import change_base, plan_following
from icefs.vfs.trees.branch_tree import BranchTree
from icefs.vfs.trees.control_dir import CONTROL_NAME
from icefs.vfs.trees.in_doubt import recover, resolve, take_over_late
from icefs.vfs.trees.listing import Listing, NamedEntries, Section
from icefs.vfs.trees.refusals import Refusals
from icefs.vfs.trees.renames import Renaming
from icefs.vfs.trees.working_base import WorkingBase, WorkingSettings
from icefs.vfs.trees.working_handles import DirectWriters, EarlyHandle, OverlayHandle
from icefs.worktree.base import join
from icefs.worktree.model.nodes import Perm, TreeEntry, Where
from icefs.worktree.ops.attributes import AttrChange
from icefs.worktree.ops.namespace import RENAME_EXCHANGE
from icefs.worktree.tree import WorkTree
from icefs.zarr.keys import METADATA_NAME

_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_TRUNC
_MAPPED_S: Final = 5.0


class WritableBranch(WorkingBase):
    """A branch that can be written to.

    Attributes:
        direct: The files that are written past the kernel's page cache.
        early: What was opened while there was no working tree, and is still open.
        refusals: The last writes that were refused.
    """

    def __init__(self, settings: WorkingSettings, *args: Any, **options: Any) -> None:
        super().__init__(settings, *args, **options)
        self.direct = DirectWriters(settings.notifier)
        self.early: dict[EarlyHandle, None] = {}
        self._removed_dirs: dict[int, Attr] = {}
        self.refusals = Refusals()

    def take_work(self, work: WorkTree) -> None:
        """Takes over an opened working tree."""
        for handle in self.early:
            if self.is_gone:
                handle.adopted = None
            elif handle.adopted is None:
                # It was opened a moment ago, so that there is nothing to be fetched.
                with contextlib.suppress(StaleError, NotInMemoryError):
                    handle.adopt(work, self.guarded.call(lambda: self._base_path(handle.ino)))  # noqa: B023
        self.early.clear()
        work.removed.keep()
        super().take_work(work)

    def _open_work(self, session: Session) -> WorkTree:
        work = super()._open_work(session)
        for handle in list(self.early):
            with contextlib.suppress(StaleError):  # the branch has left its snapshot
                handle.adopt(work, self.guarded.call(lambda: self._base_path(handle.ino)))  # noqa: B023
        return work

    def _recover(self, work: WorkTree, session: Session) -> None:
        recover(self, work, self.settings.repository)

    # Reading.

    def path_of(self, ino: int) -> str:
        """Returns the path of an inode below the tree's root, for log lines."""
        work = self.work
        if work is None or self._is_control(ino):
            return super().path_of(ino)
        try:
            return f"/{work.path_of(self.where(ino))}"
        except (NotInMemoryError, StaleError, EntryNotFoundError):
            return f"inode {ino}"

    @property
    def has_left_work(self) -> bool:
        """Whether a working tree that was left here before waits to be opened."""
        return self._state_pending and self.work is None

    def open_left_work(self) -> None:
        """Opens the working tree that was left here before, as the first look at the branch does.

        Raises:
            NotInMemoryError: it is opened in a thread.
        """
        if self.has_left_work:
            self._require_work()

    async def look(self) -> None:
        """Opens the working tree that was left here before, if there is one."""
        if self.has_left_work:
            await self.change(lambda work: None)

    def lookup(self, parent: int, name: str) -> Attr:
        """Finds a name in a directory."""
        if self._state_pending and not self._is_control(parent) and name != CONTROL_NAME:
            self.open_left_work()
        work = self.work
        if work is None or self._is_control(parent) or (name == CONTROL_NAME and parent == self.root_ino):
            with self.guarded.lock:
                return super().lookup(parent, name)
        entry = work.lookup(self.where(parent), name)
        return ABSENT if entry is None else self._entered(entry)

    def getattr(self, ino: int) -> Attr:
        """Returns attributes."""
        work = self.work
        if work is None or self._is_control(ino):
            with self.guarded.lock:
                return super().getattr(ino)
        try:
            return self._kernel_attr(work.getattr(self.where(ino)))
        except StaleError:
            # Somebody stands in it, or has it open.
            if ino not in self._removed_dirs:
                raise
            return self._removed_dirs[ino]

    def forget(self, ino: int, count: int) -> None:
        """Drops references of the kernel to an inode."""
        self._removed_dirs.pop(ino, None)
        if self.work is not None:
            self.work.removed.forget(ino)
        super().forget(ino, count)

    def root_attr(self) -> Attr:
        """Returns the attributes of the root directory."""
        return super().root_attr() if self.work is None else self.getattr(self.root_ino)

    def getattr_open(self, file: FileHandle) -> Attr:
        """Returns the attributes of an open file that nothing else leads to any more."""
        if isinstance(file, EarlyHandle) and file.adopted is not None:
            file = file.adopted
        if isinstance(file, OverlayHandle) and self.work is not None:
            return self._kernel_attr(self.work.getattr_handle(file.number))
        return super().getattr_open(file)

    def open(self, ino: int, flags: int) -> FileHandle:
        """Opens a file."""
        if self._is_control(ino) or (self.work is None and not flags & _WRITING):
            with self.guarded.lock:
                base_tree = super().open(ino, flags)
                if self._is_control(ino):
                    return base_tree
                handle = EarlyHandle(self, base_tree)
                self.early[handle] = None
                return handle
        work = self._require_work()
        where = self.where(ino)
        below = None
        if isinstance(where, str) and not flags & _WRITING:
            below = self.guarded.call(lambda: self._open_base(where, flags))
        try:
            number = work.open(where, flags & ~os.O_APPEND)
        except BaseException:
            if below is not None:
                below.release()
            raise
        self.direct.opened(ino)
        return OverlayHandle(self, work, ino, number, flags & ~os.O_CREAT, below)

    async def take_mapped_pages(self) -> None:
        """Has the kernel write what programs have changed through mappings, as far as it does so in a few seconds.

        Until then nobody knows that these files have changed. A mapping keeps its file open after the descriptor is
        closed, and what is written when it ends comes before the file's release.
        """
        if self.work is not None:
            with trio.move_on_after(_MAPPED_S):
                for ino in self.work.files.mappable():
                    await self.settings.notifier.drop_pages(ino)

    def _open_base(self, path: str, flags: int) -> FileHandle | None:
        attr = self.base_attr(path)
        return None if attr is None or attr.is_dir else super().open(attr.ino, flags)

    def opendir(self, ino: int) -> DirHandle:
        """Opens a directory."""
        if not self._is_control(ino):
            self.open_left_work()
        if self.work is None or self._is_control(ino):
            with self.guarded.lock:
                return super().opendir(ino)
        try:
            self.work.dir_view(self.where(ino))  # refuses what is no directory
        except StaleError:
            removed = self._removed_dirs.get(ino)
            if removed is None:
                raise
            # The kernel lists nothing in it. It may be opened all the same, as a name led to it a moment ago.
            return Listing(ino, lambda: [NamedEntries(removed, [])], self._note_entered)
        return Listing(ino, lambda: self._list_working(ino), self._note_entered)

    def _list_working(self, ino: int) -> Sequence[Section]:
        work = self._require_work()
        where = self.where(ino)
        own = self._kernel_attr(work.getattr(where))
        parent = self._parent_ino
        if own.ino != self.root_ino:
            above = work.where_is(work.path_of(where).rpartition("/")[0])
            parent = own.ino if above is None else work.getattr(above).ino
        dots = NamedEntries(own, [(b".", own.ino, 0, own.mtime_ns), (b"..", parent, 0, own.mtime_ns)])
        view = work.dir_view(where)
        if not view.hides and view.base_path is not None and not work.has_kept_in(view.base_path):
            path = view.base_path
            return [dots, *self.guarded.call(lambda: self.base_sections(path))]
        groups: dict[tuple[int, int, int, int], list[tuple[bytes, int, int, int]]] = {}
        for name, (_, attr) in work.list_dir(where):
            if name == CONTROL_NAME and own.ino == self.root_ino:
                continue
            row = name.encode(errors="surrogatepass"), attr.ino, attr.size, attr.mtime_ns
            groups.setdefault((attr.mode, attr.nlink, attr.uid, attr.gid), []).append(row)
        # Listings tell one time only, so the kernel asks again before it shows the others.
        blank = own._replace(attr_timeout_s=0.0)
        return [
            dots,
            *(
                NamedEntries(blank._replace(mode=mode, nlink=nlink, uid=uid, gid=gid, ino=0), rows)
                for (mode, nlink, uid, gid), rows in groups.items()
            ),
        ]

    def _xattrs(self, ino: int) -> dict[str, bytes]:
        work = self.work
        if work is None or self._is_control(ino):
            return super()._xattrs(ino)
        try:
            where = self.where(ino)
        except StaleError:
            if ino in self._removed_dirs:
                return {}
            raise
        if not isinstance(where, str):
            return {}
        path = where

        def ask() -> dict[str, bytes]:
            attr = self.base_attr(path)
            return {} if attr is None else BranchTree._xattrs(self, attr.ino)

        return self.guarded.call(ask)

    # Writing.

    async def setattr(self, ino: int, changes: AttrChanges, handle: FileHandle | None, caller: Caller) -> Attr:
        """Changes attributes, truncation included."""
        if self._is_control(ino):
            return self.control.getattr(ino - self.fixed.start)  # the shell truncates before it writes

        def change(work: WorkTree) -> Attr:
            size = changes.size
            if size is not None and isinstance(handle, OverlayHandle) and handle.is_writable:
                attr = work.truncate(handle.number, size)
                size = None
            rest = AttrChange(changes.mode, changes.uid, changes.gid, size, changes.atime_ns, changes.mtime_ns)
            if rest != AttrChange() or changes.size is None:
                try:
                    attr = work.set_attributes(self.where(ino), rest)
                except StaleError:
                    if ino not in self._removed_dirs:
                        raise
                    return self._change_removed(ino, changes)
            return self._kernel_attr(attr)

        return await self.change(change, may_wait=bool(changes.size))

    def _change_removed(self, ino: int, changes: AttrChanges) -> Attr:
        """Changes the attributes of a directory that is gone, for those who stand in it."""
        attr = self._removed_dirs[ino]
        if changes.size is not None:
            raise IsADirectoryTreeError("a directory has no size to be set", ino=ino)
        self._removed_dirs[ino] = changed = attr._replace(
            mode=attr.mode if changes.mode is None else stat.S_IFMT(attr.mode) | stat.S_IMODE(changes.mode),
            uid=attr.uid if changes.uid is None else changes.uid,
            gid=attr.gid if changes.gid is None else changes.gid,
            mtime_ns=attr.mtime_ns if changes.mtime_ns is None else changes.mtime_ns,
            atime_ns=attr.atime_ns if changes.atime_ns is None else changes.atime_ns,
        )
        return changed

    def _note_removed(self, found: TreeEntry | None) -> None:
        """Keeps the attributes of a directory that was removed or replaced, until the kernel forgets it."""
        if found is not None and found.attr.is_dir:
            self._removed_dirs[found.attr.ino] = self._kernel_attr(found.attr)._replace(nlink=0)

    async def create(self, parent: int, name: str, mode: int, flags: int, caller: Caller) -> tuple[FileHandle, Attr]:
        """Creates and opens a regular file."""
        self._refuse_in_control(parent, name)
        perm = Perm(mode & 0o7777, caller.uid, caller.gid)

        def create(work: WorkTree) -> tuple[FileHandle, Attr]:
            entry, number = work.create(self.where(parent), name, perm, (flags | os.O_CREAT) & ~os.O_APPEND)
            ino = entry.attr.ino
            handle = OverlayHandle(self, work, ino, number, flags | os.O_CREAT, None)
            is_plain = not perm.mode & (
                stat.S_ISUID | stat.S_ISGID
            )  # the kernel takes these bits away, but not directly
            if flags & os.O_ACCMODE == os.O_WRONLY and is_plain and work.is_fresh(number):
                handle.direct_io = self.direct.begin(ino)
            else:
                self.direct.opened(ino)
            return handle, self._entered(entry)

        return await self._name(parent, create)

    async def mknod(self, parent: int, name: str, mode: int, rdev: int, caller: Caller) -> Attr:
        """Creates a regular file."""
        self._refuse_in_control(parent, name)
        perm = Perm(mode & 0o7777, caller.uid, caller.gid)
        return await self._name(
            parent, lambda work: self._entered(work.mknod(self.where(parent), name, perm, stat.S_IFMT(mode)))
        )

    async def mkdir(self, parent: int, name: str, mode: int, caller: Caller) -> Attr:
        """Creates a directory."""
        self._refuse_in_control(parent, name)
        perm = Perm(mode & 0o7777, caller.uid, caller.gid)
        return await self._name(parent, lambda work: self._entered(work.mkdir(self.where(parent), name, perm)))

    async def unlink(self, parent: int, name: str) -> None:
        """Removes a file."""
        self._refuse_in_control(parent, name)
        await self.change(lambda work: work.unlink(self.where(parent), name))

    async def rmdir(self, parent: int, name: str) -> None:
        """Removes an empty directory."""
        self._refuse_in_control(parent, name)

        def remove(work: WorkTree) -> None:
            where = self.where(parent)
            found = work.lookup(where, name)
            work.rmdir(where, name)
            self._note_removed(found)

        await self.change(remove)

    async def symlink(self, parent: int, name: str, target: str, caller: Caller) -> Attr:
        """Refuses: no Icechunk repository holds symbolic links."""
        raise NotPermittedError("a mounted branch has no symbolic links", name=name)

    async def setxattr(self, ino: int, name: str, value: bytes) -> None:
        """Refuses, as file systems do that have none: programs that copy files take no offence."""
        raise UnsupportedError("extended attributes cannot be set", name=name)

    async def rename(self, old_parent: int, old_name: str, new_parent: int, new_name: str, flags: int) -> None:
        """Renames within the tree."""
        self._refuse_in_control(old_parent, old_name)
        self._refuse_in_control(new_parent, new_name)
        if new_name == METADATA_NAME != old_name:
            await self.change(
                lambda work: self._check_metadata(
                    work, self._child(work, old_parent, old_name), self._path_in(work, new_parent, new_name)
                )
            )
        if old_name == METADATA_NAME != new_name and flags & RENAME_EXCHANGE:
            await self.change(
                lambda work: self._check_metadata(
                    work, self._child(work, new_parent, new_name), self._path_in(work, old_parent, old_name)
                )
            )

        def rename(work: WorkTree) -> None:
            old, new = self.where(old_parent), self.where(new_parent)
            replaced = None if flags else work.lookup(new, new_name)
            work.rename(old, old_name, new, new_name, flags)
            if (old, old_name) != (new, new_name):
                self._note_removed(replaced)

        await self._name(new_parent, rename)

    def _child(self, work: WorkTree, parent: int, name: str) -> Where:
        entry = work.lookup(self.where(parent), name)
        if entry is None:
            raise EntryNotFoundError(f"no {name!r} in this directory", name=name)
        return entry.where

    async def link(self, ino: int, new_parent: int, new_name: str) -> Attr:
        """Gives a file another name."""
        self._refuse_in_control(new_parent, new_name)
        self._refuse_in_control(ino)
        if new_name == METADATA_NAME:
            await self.change(
                lambda work: self._check_metadata(work, self.where(ino), self._path_in(work, new_parent, new_name))
            )
        return await self._name(
            new_parent, lambda work: self._entered(work.link(self.where(ino), self.where(new_parent), new_name))
        )

    async def fsyncdir(self, ino: int) -> None:
        """Makes all names durable."""
        if self.work is not None and not self._is_control(ino):
            await self.in_thread(self.work.fsync_dir)

    def _refuse_in_control(self, ino: int, name: str | None = None) -> None:
        """Refuses to change the control directory, and its name in the root."""
        if self._is_control(ino):
            raise ReadOnlyError("the control directory cannot be changed", kind="read-only-store")
        if name == CONTROL_NAME and ino == self.root_ino:
            raise NotPermittedError("the control directory cannot be made, replaced or removed", name=name)

    # What a file must be.

    async def check_metadata(self, number: int) -> None:
        """Checks a `zarr.json` that was written and is closed.

        Raises:
            InvalidMetadataError: it is none.
        """

        def check(work: WorkTree) -> None:
            where = work.where_of(number)
            # An empty one waits for its writer, which has just cut it; a commit says if nothing came.
            if work.getattr_handle(number).size:
                self._check_metadata(work, where, work.path_of(where))

        await self.change(check)

    def _path_in(self, work: WorkTree, parent: int, name: str) -> str:
        return join(work.path_of(self.where(parent)), name)

    def _check_metadata(self, work: WorkTree, where: Where, path: str) -> None:
        """Checks the content of a file that is, or is to be, the `zarr.json` at a path."""
        attr = work.getattr(where)
        if attr.is_dir:
            return
        number = work.open(where, os.O_RDONLY)
        try:
            data = work.read(number, 0, attr.size)
        finally:
            work.release(number)
        try:
            parse_zarr_json(data, name=path, spec_version=self.settings.repository.spec_version)
        except InvalidMetadataError as error:
            self.refusals.note(path, str(error.facts["reason"]))
            raise
        self.refusals.accepted(path)

    async def _name[T](self, parent: int, operation: Callable[[WorkTree], T]) -> T:
        """Runs an operation that gives something a name in a directory."""
        try:
            return await self.change(operation)
        except ReservedNameError as error:
            if self.work is not None:
                self.refusals.note(self._path_in(self.work, parent, error.facts["name"]), error.message)
            raise

    # Following the tip, and going where a commit or rebase has led.

    def advance(self, advance: Advance, open_inos: Iterable[int], renaming: Renaming | None = None) -> Invalidations:
        """Takes over what was planned; with a working tree only from within a change of its base."""
        with self.guarded.lock:
            return super().advance(advance, open_inos, renaming)

    async def take_over(self, advance: Advance, open_inos: Iterable[int]) -> Invalidations | None:
        """Follows the branch; None if there are changes meanwhile, and the tree stays."""
        if self.is_pinned or self._moving is not None:
            return None
        work = self.work
        if work is None:
            return self.advance(advance, open_inos)
        self._moving = trio.Event()
        inos = list(open_inos)
        plan = plan_following(advance)
        try:
            outcome = await self.settings.jobs.run(lambda: change_base(self, work, plan, inos))
        except SessionStateError:
            return None  # a commit has begun meanwhile
        finally:
            self._moving.set()
            self._moving = None
        return outcome.changed

    async def find_out(self, open_inos: Iterable[int]) -> Invalidations | None:
        """Finds out what became of a commit that is in doubt, or was given up; None where nothing changes by that.

        Raises:
            StorageError: the store does not tell.
        """
        work = self.work
        if work is None or self.is_committing or (work.pending_intent is None and not work.attempts):
            return None
        self.is_committing = True
        inos = list(open_inos)
        found: list[Invalidations] = []

        repository = self.settings.repository

        def find_out() -> None:
            if work.pending_intent is not None:
                found.append(resolve(self, work, repository, inos))
            late = take_over_late(self, work, repository, inos)
            if late is not None:
                found.append(late.changed)

        try:
            await self.in_thread(find_out, self.settings.jobs)
        finally:
            self.is_committing = False
        return sum(found, Invalidations())

    def base_paths(self, inos: Iterable[int]) -> list[str]:
        """Returns the base paths of those inodes that are the branch's and have no other number in the tree."""
        paths = []
        for ino in inos:
            found = self.space.find(ino)
            if found is None or found.tree is not self or self._is_control(ino):
                continue
            with contextlib.suppress(StaleError, NotInMemoryError):
                paths.append(self.guarded.call(lambda: self._base_path(ino)))  # noqa: B023
        return paths

    def translated(self, changed: Invalidations) -> Invalidations:
        """Gives directories the numbers by which the kernel knows them, where those are not the branch tree's."""
        work = self.work
        if work is None:
            return changed
        known: dict[int, int] = {}
        for ino, _ in changed.entries:
            if ino not in known:
                known[ino] = ino
                try:
                    where = work.where_is(self.guarded.call(lambda: self._base_path(ino)))  # noqa: B023
                    if where is not None:
                        known[ino] = work.getattr(where).ino
                except (StaleError, NotInMemoryError):
                    continue
        return Invalidations([(known[ino], name) for ino, name in changed.entries], changed.inodes)
