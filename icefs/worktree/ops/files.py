"""Open files: handles, reading, writing, and what makes their bytes last.

Concurrency: handles change under the tree's lock. `pread` and `pwrite` on spool files, and reading the base,
happen outside of it: `SpoolFile.users` keeps the descriptor open meanwhile, `OpenState.writers` and
`TreeCore.writers` let a freeze wait. An appending write stays under the lock, since its place depends on the size;
so does a short one, which takes less time than giving the lock back and taking it again.
"""

import contextlib
import os
from typing import Final

from icefs.errors import (
    BadHandleError,
    FileTooLargeError,
    IcefsError,
    InvalidInputError,
    IsADirectoryTreeError,
    NoSpaceError,
    UnsupportedError,
)
from icefs.inode import Ino
from icefs.worktree.base import BaseEntry
from icefs.worktree.core.content import MAX_SIZE_BYTES, Content
from icefs.worktree.core.lost_bytes import check_there, check_whole
from icefs.worktree.core.tree_core import Change, TreeCore
from icefs.worktree.model.handles import Handle
from icefs.worktree.model.nodes import FROM_BASE, LOST, STORED, Attr, DirNode, FileNode, Node, NodeRef, TreeEntry
from icefs.worktree.model.open_state import OpenState, SpoolFile
from icefs.worktree.spool.files import read_bytes, write_bytes

_SHORT_BYTES: Final = 32 << 10

FALLOC_KEEP_SIZE: Final = 1
FALLOC_PUNCH_HOLE: Final = 2
FALLOC_ZERO_RANGE: Final = 16
_KNOWN_MODES: Final = FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE


class Files:
    """The open files of a tree, by file handle (`fh`), as the kernel calls the number of an open file."""

    def __init__(self, core: TreeCore, content: Content) -> None:
        self._core = core
        self._content = content
        self._handles: dict[int, Handle] = {}
        self._next_handle = 1

    def __len__(self) -> int:
        return len(self._handles)

    def has_writers(self) -> bool:
        """Tells whether any file that has a name is open for writing: its program may be about to write."""
        with self._core.lock:
            return any(
                handle.writable and handle.node is not None and handle.node.parent is not None
                for handle in self._handles.values()
            )

    def mappable(self) -> list[Ino]:
        """Returns the numbers of files that may be mapped for writing: those open for both, of which mmap(2) asks."""
        with self._core.lock:
            opened = [handle.node for handle in self._handles.values() if handle.writable and handle.readable]
            return sorted({node.ino for node in opened if node is not None and node.parent is not None})

    # Opening and closing

    def open(self, where: NodeRef, flags: int) -> int:
        """Opens a file with the flags of `open(2)`.

        Raises:
            StaleError: it is no longer there.
            IsADirectoryTreeError: it is a directory.
        """
        with self._core.change() as op:
            return self.open_found(op, self._core.resolve(where), flags)[1]

    def open_found(self, op: Change, found: Node | BaseEntry, flags: int) -> tuple[TreeEntry, int]:
        """Opens what was found, inside an operation."""
        core = self._core
        if isinstance(found, DirNode) or (isinstance(found, BaseEntry) and found.attr.is_dir):
            raise IsADirectoryTreeError(f"{core.path_of(found)!r} is a directory")
        if isinstance(found, BaseEntry):
            if not flags & (os.O_ACCMODE | os.O_TRUNC):
                return core.entry(found), self._add_base(found, flags)
            node = core.materialise.at(found.path)
            assert isinstance(node, FileNode)
        else:
            node = found
        if flags & os.O_TRUNC:
            self._content.resize(op, node, 0)
        return core.entry(node), self.add(node, flags)

    def add(self, node: FileNode, flags: int) -> int:
        """Makes a handle of a node. The lock is held."""
        handle = Handle(flags)
        handle.node = node
        if node.io is None:
            node.io = OpenState()
        node.io.handles += 1
        if handle.writable:
            self._core.unfinished.opened(node)
        return self._add(handle)

    def _add_base(self, found: BaseEntry, flags: int) -> int:
        handle = Handle(flags)
        handle.path, handle.attr, handle.base_tree = found.path, found.attr, self._core.base_tree
        self._core.base_handles.setdefault(found.path, []).append(handle)
        return self._add(handle)

    def _add(self, handle: Handle) -> int:
        fh = self._next_handle
        self._next_handle += 1
        self._handles[fh] = handle
        return fh

    def _handle(self, fh: int) -> Handle:
        handle = self._handles.get(fh)
        if handle is None:
            raise BadHandleError(f"{fh} is not an open handle", handle=fh)
        return handle

    def _for_writing(self, fh: int) -> tuple[Handle, FileNode]:
        handle = self._handle(fh)
        if not handle.writable or handle.node is None:
            raise BadHandleError("the file is not open for writing", handle=fh)
        return handle, handle.node

    def getattr(self, fh: int) -> Attr:
        """Returns the attributes of an open file, also of one that was removed."""
        with self._core.lock:
            handle = self._handle(fh)
            if handle.node is not None:
                return handle.node.attr()
            assert handle.attr is not None
            return self._core.base_attr(handle.attr)

    def where(self, fh: int) -> NodeRef:
        """Returns how to name an open file. Needs no lock: a handle gets a node once, and keeps it."""
        handle = self._handle(fh)
        node = handle.node
        return handle.path if node is None else node.ino

    def name(self, fh: int) -> str | None:
        """Returns the name of an open file, of several the first; None if it has none, or is untouched."""
        node = self._handle(fh).node
        return None if node is None or node.parent is None else node.name

    def is_ready(self, fh: int) -> bool:
        """Tells whether writing to an open file is likely to wait for nobody, and to copy nothing. Takes no lock."""
        node = self._handle(fh).node
        if node is None or node.io is None or node.io.busy or self._core.is_freezing:
            return False
        return self._content.is_private(node)

    def is_local(self, fh: int) -> bool:
        """Tells whether the bytes of an open file are in a spool file, or there are none. Takes no lock."""
        node = self._handle(fh).node
        return node is not None and not node.flags & (FROM_BASE | LOST)

    def is_fresh(self, fh: int) -> bool:
        """Tells whether an open file was made by opening it, and by nobody else since. Takes no lock."""
        node = self._handle(fh).node
        if node is None or node.io is None:
            return False
        return node.io.handles == 1 and not (node.flags & STORED or node.size or node.spool_id or node.origin)

    def flush(self, fh: int) -> None:
        """Makes an open file survive the death of this process; for every `close(2)` of a descriptor.

        Raises:
            NoSpaceError: the disk is full; the file stays as it is, and may be flushed again.
            StorageError: bytes of it are lost, and the handle was opened to write.
        """
        core = self._core
        handle = self._handle(fh)
        node = handle.node
        if node is None or node not in core.behind:
            core.check_open()
        else:
            try:
                with core.change() as op:
                    self._content.store(op, node)
            except NoSpaceError:
                if handle.has_work:
                    raise
                # Readers of a file are not to blame for what others could not write.
        if node is not None and node.io is not None and handle.writable:
            node.io.is_flushed = True  # the kernel says later whether that was the last descriptor
        if node is not None and handle.has_work:
            check_whole(node)

    def fsync(self, fh: int) -> None:
        """Makes an open file survive power loss: its bytes, its attributes, and its name.

        The bytes are synced before the row that refers to them is written, the rows of the directories above it
        are in the same log, and the log is synced last.

        Raises:
            StorageError: bytes of it are lost, now or before.
        """
        core = self._core
        with core.change() as op:
            handle = self._handle(fh)
            node = handle.node
            file = None
            if node is not None and node.spool_id:
                file = self._content.file_of(node)
                file.users += 1
        if node is None:
            return
        if file is not None:
            try:
                self._sync(node, file)
            finally:
                with core.lock:
                    file.drop()
        with core.change() as op:
            self._content.store(op, node)
        core.journal.sync()
        check_whole(node)

    def _sync(self, node: FileNode, file: SpoolFile) -> None:
        """Has the disk store a file's bytes; if it does not, nobody knows which it has, so all of them are lost."""
        spool = self._core.spool
        try:
            spool.sync(file)
        except IcefsError:
            self._content.lose(node, 0, node.size)
            raise
        spool.sync_entry(file)

    def release(self, fh: int) -> None:
        """Gives a handle back, when no request on it is under way. The bytes of a removed file go with the last."""
        # Of a full disk the flush before has told; the row is written with the next one, or when the tree is closed.
        with contextlib.suppress(NoSpaceError), self._core.change() as op:
            self._release(op, fh)

    def _release(self, op: Change, fh: int) -> None:
        core = self._core
        handle = self._handle(fh)
        del self._handles[fh]
        node = handle.node
        if node is None:
            handles = core.base_handles.get(handle.path, [])
            if handle in handles:  # not if the file was removed or replaced meanwhile
                handles.remove(handle)
                if not handles:
                    del core.base_handles[handle.path]
            return
        io = node.io
        assert io is not None
        io.handles -= 1
        if handle.writable and core.unfinished.closed(node):
            core.revision += 1  # a commit takes it now
            core.changed.notify_all()  # a freeze may wait for it
        if not io.handles:
            self._content.close_node(op, node)

    # Reading and writing

    def read(self, fh: int, offset: int, size: int) -> bytes:
        """Reads from an open file.

        Returns:
            `size` bytes, or fewer where the file ends.

        Raises:
            BadHandleError: the handle is not open for reading.
            StorageError: the bytes are gone, or the base cannot provide them.
        """
        core = self._core
        with core.lock:
            handle = self._handle(fh)
            if not handle.readable:
                raise BadHandleError("the file is not open for reading", handle=fh)
            node = handle.node
            if node is None:
                assert handle.base_tree is not None
                assert handle.attr is not None
                base_tree, path, length = handle.base_tree, handle.path, handle.attr.size
            elif node.flags & FROM_BASE:
                check_there(node, offset, offset + size)
                assert node.io is not None
                assert node.origin is not None
                base_tree, path, length = node.io.base_tree or core.base_tree, node.origin, node.size
            elif not (node.spool_id or node.flags & LOST):
                return b""
            else:
                if node.flags & LOST:
                    check_there(node, offset, offset + size)
                file = self._content.file_of(node)
                file.users += 1
                base_tree = None
        if base_tree is not None:
            size = min(size, length - offset)
            return base_tree.read(path, offset, size) if size > 0 else b""
        try:
            return read_bytes(core.spool.io, file.fd, offset, size)
        finally:
            with core.lock:
                file.drop()

    def write_back(self, fh: int, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Writes what the kernel has cached of an open file. The program that wrote it there does not wait for it.

        Raises:
            NoSpaceError, StorageError: not all could be written; the rest of the bytes is lost, and the file says so.
        """
        count = 0
        try:
            count = self.write(fh, offset, data)
            if count < len(data):
                raise NoSpaceError("no space left on the disk of the working tree (writing back what was mapped)")
        except BaseException:
            handle = self._handles.get(fh)
            if handle is not None and handle.node is not None:
                self._content.lose(handle.node, offset + count, offset + len(data))
            raise

    def write(self, fh: int, offset: int, data: bytes | bytearray | memoryview) -> int:
        """Writes to an open file; at its end if it was opened with O_APPEND.

        Returns:
            How many bytes were written; fewer than given only if the disk became full on the way.

        Raises:
            BadHandleError: the handle is not open for writing.
            NoSpaceError: nothing could be written; the file is as it was.
        """
        core = self._core
        if offset < 0:
            raise InvalidInputError(f"cannot write at {offset}", kind="io")
        if offset + len(data) > MAX_SIZE_BYTES:
            raise FileTooLargeError(f"cannot write at {offset}: the file would be too large")
        with core.lock:
            core.check_open()
            handle, node = self._for_writing(fh)
            if not len(data):
                return 0
            file = self._content.private_file(node)
            if handle.appends or len(data) <= _SHORT_BYTES:
                if handle.appends:
                    offset = node.size
                count = write_bytes(core.spool.io, file.fd, data, offset)
                if count:
                    self._content.note_write(node, offset, offset + count)
                return count
            io = node.io
            assert io is not None
            file.users += 1
            io.writers += 1
            core.writers += 1
        count = 0
        try:
            count = write_bytes(core.spool.io, file.fd, data, offset)
        finally:
            with core.lock:
                file.drop()
                io.writers -= 1
                core.writers -= 1
                if count:
                    self._content.note_write(node, offset, offset + count)
                if core.is_freezing and not core.writers:
                    core.changed.notify_all()
        return count

    def fallocate(self, fh: int, offset: int, length: int, mode: int) -> None:
        """Gives a part of an open file its place on the disk, or takes it away (`fallocate(2)`).

        Raises:
            FileTooLargeError: the file would be too large.
            NoSpaceError: the disk is full; the size is as it was.
            UnsupportedError: the disk, or a working tree, does not know the mode.
        """
        if mode & ~_KNOWN_MODES:
            raise UnsupportedError(f"fallocate with mode {mode:#x} is not supported")
        end = offset + length
        if end > MAX_SIZE_BYTES:
            raise FileTooLargeError("the file would be too large (fallocate)")
        with self._core.lock:
            self._core.check_open()
            _, node = self._for_writing(fh)
            file = self._content.private_file(node)
            self._core.spool.fallocate(file, offset, length, mode)
            if mode & (FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE):
                self._content.note_write(node, offset, min(end, node.size) if mode & FALLOC_KEEP_SIZE else end)
            elif end > node.size and not mode & FALLOC_KEEP_SIZE:
                self._content.note_write(node, node.size, end)

    def truncate(self, fh: int, size: int) -> Attr:
        """Sets the size of an open file (`ftruncate`)."""
        core = self._core
        with core.change() as op:
            _, node = self._for_writing(fh)
            self._content.resize(op, node, size)
            return node.attr()
