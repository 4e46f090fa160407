"""Open files: handles, reading, writing, truncating, and what makes their bytes last.

A node's bytes come from one of three places: nothing (size 0), the lower file at its `origin`, or a spool file.
Writing needs a *private* spool file: one that no frozen view refers to. Where there is none, one is made, filled
from the lower file (copy-up) or from the shared spool file (a reflink where the disk can) unless the bytes are to be
thrown away.

Concurrency: handles and nodes change under the tree's lock. Three things happen outside of it: `pread` and
`pwrite` on spool files (`SpoolFile.users` keeps the descriptor open, `OpenState.writers` and `TreeCore.writers` let
a freeze wait), reading the lower tree, and making content private (`OpenState.busy` makes other writers of the node
wait; readers go on with the old bytes). An appending write stays under the lock, since its place depends on the
size. Nothing is waited for while something is half done, except by a copy: it marks the node busy, and a freeze
does not wait for it (what it copies is still the old content).
"""

import os
from typing import Final

from icefs.errors import BadHandleError, InvalidInputError, IsADirectoryTreeError, StorageError
from icefs.worktree.core import Change, Lowered, TreeCore
from icefs.worktree.lower import Lower, LowerAttr
from icefs.worktree.nodes import (
    DIRTY,
    FROM_LOWER,
    LOST,
    Attr,
    DirNode,
    FileNode,
    Node,
    OpenState,
    TreeEntry,
    Where,
)
from icefs.worktree.spool import SpoolFile, disk_error

MAX_SIZE_BYTES: Final = 2**63 - 1


class Handle:
    """An open file.

    INVARIANT: exactly one of `node` and `path` says what is open: `path` while the file is pure lower.

    Attributes:
        node: The file's node.
        path: The lower path, and `lower` and `attr` what it was when it was opened.
        readable: Open for reading.
        writable: Open for writing.
        appends: Every write goes to the end.
    """

    __slots__ = ("appends", "attr", "lower", "node", "path", "readable", "writable")

    def __init__(self, flags: int) -> None:
        access = flags & os.O_ACCMODE
        self.readable = access != os.O_WRONLY
        self.writable = access != os.O_RDONLY
        self.appends = bool(flags & os.O_APPEND)
        self.node: FileNode | None = None
        self.path = ""
        self.lower: Lower | None = None
        self.attr: LowerAttr | None = None


class Files:
    """The open files of a tree, by handle number."""

    def __init__(self, core: TreeCore) -> None:
        self._core = core
        self._spool = core.spool
        self._handles: dict[int, Handle] = {}
        self._next_handle = 1

    def __len__(self) -> int:
        return len(self._handles)

    # Opening and closing

    def open(self, where: Where, flags: int) -> int:
        """Opens a file with the flags of `open(2)`.

        Raises:
            StaleError: it is no longer there.
            IsADirectoryTreeError: it is a directory.
        """
        with self._core.change() as op:
            return self.open_found(op, self._core.resolve(where), flags)[1]

    def open_found(self, op: Change, found: Node | Lowered, flags: int) -> tuple[TreeEntry, int]:
        """Opens what was found, inside an operation."""
        core = self._core
        if isinstance(found, DirNode) or (isinstance(found, Lowered) and found.attr.is_dir):
            raise IsADirectoryTreeError(f"{core.path_of(found)!r} is a directory")
        if isinstance(found, Lowered):
            if not flags & (os.O_ACCMODE | os.O_TRUNC):
                return core.entry(found), self._add_lower(found, flags)
            node = core.materialise_where(found.path)
            assert isinstance(node, FileNode)
        else:
            node = found
        if flags & os.O_TRUNC:
            self.resize(op, node, 0)
        return core.entry(node), self.add(node, flags)

    def add(self, node: FileNode, flags: int) -> int:
        """Makes a handle of a node. The lock is held."""
        handle = Handle(flags)
        handle.node = node
        if node.io is None:
            node.io = OpenState()
        node.io.handles += 1
        return self._number(handle)

    def _add_lower(self, found: Lowered, flags: int) -> int:
        handle = Handle(flags)
        handle.path, handle.attr, handle.lower = found.path, found.attr, self._core.lower
        self._core.lower_handles.setdefault(found.path, []).append(handle)
        return self._number(handle)

    def _number(self, handle: Handle) -> int:
        number = self._next_handle
        self._next_handle += 1
        self._handles[number] = handle
        return number

    def _handle(self, number: int) -> Handle:
        handle = self._handles.get(number)
        if handle is None:
            raise BadHandleError(f"{number} is not an open handle", handle=number)
        return handle

    def _for_writing(self, number: int) -> tuple[Handle, FileNode]:
        handle = self._handle(number)
        if not handle.writable or handle.node is None:
            raise BadHandleError("the file is not open for writing", handle=number)
        return handle, handle.node

    def getattr(self, number: int) -> Attr:
        """Returns the attributes of an open file, also of one that was removed."""
        with self._core.lock:
            handle = self._handle(number)
            if handle.node is not None:
                return handle.node.attr()
            assert handle.attr is not None
            return self._core.lower_attr(handle.attr)

    def where(self, number: int) -> Where:
        """Returns how to name an open file."""
        with self._core.lock:
            handle = self._handle(number)
            return handle.path if handle.node is None else handle.node.ino

    def flush(self, number: int) -> None:
        """Makes an open file survive the death of this process; for every `close(2)` of a descriptor.

        Raises:
            NoSpaceError: the disk is full; the file stays as it is, and may be flushed again.
        """
        core = self._core
        with core.change() as op:
            node = self._handle(number).node
            if node is not None:
                self.store(op, node)

    def store(self, op: Change, node: FileNode) -> None:
        """Has a file's row written if it is behind, with the spool file's own mtime (see `recovery`).

        The lock is held.
        """
        if node.parent is None or node not in self._core.behind:
            return
        op.touch(node)
        node.stamp = 0
        io = node.io
        if node.spool_id and (io is None or not io.writers):
            if io is not None and io.file is not None:
                node.stamp = os.fstat(io.file.fd).st_mtime_ns
            else:
                found = self._spool.stat(node.spool_id)
                node.stamp = 0 if found is None else found.st_mtime_ns
        if io is None or not io.writers:
            node.flags &= ~DIRTY
        op.store[node] = None

    def fsync(self, number: int) -> None:
        """Makes an open file survive power loss: its bytes, its attributes, and its name.

        The bytes are synced before the row that refers to them is written, the rows of the directories above it
        are in the same log, and the log is synced last.
        """
        core = self._core
        with core.change() as op:
            handle = self._handle(number)
            node = handle.node
            file = None
            if node is not None and node.spool_id:
                file = self._file(node)
                file.users += 1
        if node is None:
            return
        if file is not None:
            try:
                self._spool.sync(file)
            finally:
                with core.lock:
                    file.drop()
        with core.change() as op:
            self.store(op, node)
        core.journal.sync()

    def release(self, number: int) -> None:
        """Gives a handle back, when no request on it is under way. The bytes of a removed file go with the last."""
        core = self._core
        with core.change() as op:
            handle = self._handle(number)
            del self._handles[number]
            node = handle.node
            if node is None:
                handles = core.lower_handles.get(handle.path, [])
                if handle in handles:  # not if the file was removed or replaced meanwhile
                    handles.remove(handle)
                    if not handles:
                        del core.lower_handles[handle.path]
                return
            io = node.io
            assert io is not None
            io.handles -= 1
            if not io.handles:
                self.close_node(op, node)

    def close_node(self, op: Change, node: FileNode) -> None:
        """Ends what a node had while it was open. The lock is held."""
        core = self._core
        io = node.io
        assert io is not None
        if node.parent is not None and node in core.behind:
            self.store(op, node)
        if io.file is not None:
            io.file.retire()
        node.io = None
        if node.parent is None:
            core.behind.pop(node, None)
            core.by_ino.pop(node.ino, None)
            if node.origin is not None and core.lower_files.get(node.origin) is node:
                del core.lower_files[node.origin]
            core.release_spool(op, node.spool_id)
        else:
            core.forget_placeholder(node)

    # Reading

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Reads from an open file.

        Returns:
            `size` bytes, or fewer where the file ends.

        Raises:
            BadHandleError: the handle is not open for reading.
            StorageError: the bytes are gone, or the lower tree cannot provide them.
        """
        core = self._core
        with core.lock:
            handle = self._handle(number)
            if not handle.readable:
                raise BadHandleError("the file is not open for reading", handle=number)
            node = handle.node
            if node is None:
                assert handle.lower is not None
                assert handle.attr is not None
                lower, path, length = handle.lower, handle.path, handle.attr.size
            elif node.flags & (FROM_LOWER | LOST):
                _check_there(node)
                assert node.io is not None
                assert node.origin is not None
                lower, path, length = node.io.lower or core.lower, node.origin, node.size
            elif not node.spool_id:
                return b""
            else:
                file = self._file(node)
                file.users += 1
                lower = None
        if lower is not None:
            size = min(size, length - offset)
            return lower.read(path, offset, size) if size > 0 else b""
        try:
            return self._read_spool(file.fd, offset, size)
        finally:
            with core.lock:
                file.drop()

    def _read_spool(self, fd: int, offset: int, size: int) -> bytes:
        try:
            data = self._spool.io.pread(fd, size, offset)
            if len(data) == size or not data:
                return data
            parts = [data]
            done = len(data)
            while done < size and (data := self._spool.io.pread(fd, size - done, offset + done)):
                parts.append(data)
                done += len(data)
            return b"".join(parts)
        except OSError as error:
            raise disk_error(error, "reading a spool file") from error

    def read_node(self, node: FileNode, lower: Lower) -> bytes:
        """Reads a whole file, open or not; without the lock, for content that nobody changes meanwhile."""
        _check_there(node)
        if node.flags & FROM_LOWER:
            assert node.origin is not None
            return lower.read(node.origin, 0, node.size)
        if not node.spool_id:
            return b""
        file = self._spool.open(node.spool_id)
        try:
            return self._read_spool(file.fd, 0, node.size)
        finally:
            file.retire()

    def _file(self, node: FileNode) -> SpoolFile:
        """Returns the descriptor that all handles of a node share. The lock is held, the node is open."""
        io = node.io
        assert io is not None
        if io.file is None:
            io.file = self._spool.open(node.spool_id)
        return io.file

    # Writing

    def write(self, number: int, offset: int, data: bytes | bytearray | memoryview) -> int:
        """Writes to an open file; at its end if it was opened with O_APPEND.

        Returns:
            How many bytes were written; fewer than given only if the disk became full on the way.

        Raises:
            BadHandleError: the handle is not open for writing.
            NoSpaceError: nothing could be written; the file is as it was.
        """
        core = self._core
        if offset < 0 or offset + len(data) > MAX_SIZE_BYTES:
            raise InvalidInputError(f"cannot write at {offset}", kind="io")
        with core.lock:
            core.check_open()
            handle, node = self._for_writing(number)
            if not len(data):
                return 0
            file = self._private_file(node)
            if handle.appends:
                offset = node.size
                count = self._pwrite(file.fd, data, offset)
                self._wrote(node, offset + count)
                return count
            io = node.io
            assert io is not None
            file.users += 1
            io.writers += 1
            core.writers += 1
        count = 0
        try:
            count = self._pwrite(file.fd, data, offset)
        finally:
            with core.lock:
                file.drop()
                io.writers -= 1
                core.writers -= 1
                if count:
                    self._wrote(node, offset + count)
                if core.is_freezing and not core.writers:
                    core.changed.notify_all()
        return count

    def _wrote(self, node: FileNode, end: int) -> None:
        core = self._core
        if core.views:
            core.keep_for_views(node)
        if end > node.size:
            node.size = end
        core.content_time(node)
        core.mark_behind(node)

    def _pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        pwrite = self._spool.io.pwrite
        done = 0
        try:
            done = pwrite(fd, data, offset)
            while done < len(data):
                count = pwrite(fd, memoryview(data)[done:], offset + done)
                if not count:
                    break
                done += count
        except OSError as error:
            if not done:
                raise disk_error(error, "writing a spool file") from error
        return done

    def truncate(self, number: int, size: int) -> Attr:
        """Sets the size of an open file (`ftruncate`)."""
        core = self._core
        with core.change() as op:
            _, node = self._for_writing(number)
            self.resize(op, node, size)
            return node.attr()

    def resize(self, op: Change, node: FileNode, size: int) -> None:
        """Sets a file's size inside an operation. The lock is held; it may be released and taken again.

        The bytes are cut or extended at once; a file that is not open has its row written by the operation.
        """
        core = self._core
        if not 0 <= size <= MAX_SIZE_BYTES:
            raise InvalidInputError(f"cannot make a file {size} bytes long", kind="io")
        if node.io is None:
            node.io = OpenState()
        io = node.io
        io.handles += 1
        try:
            self._wait_for_turn(node)
            if size or (node.spool_id and not self._is_shared(node)):
                file = self._private_file(node)
                if size != node.size:
                    try:
                        self._spool.io.truncate(file.fd, size)
                    except OSError as error:
                        raise disk_error(error, "truncating a spool file") from error
            else:
                self._make_empty(node)
            if core.views:
                core.keep_for_views(node)
            node.size = size
            node.flags &= ~LOST
            core.content_time(node)
            core.mark_behind(node)
        finally:
            io.handles -= 1
            if not io.handles:
                self.close_node(op, node)

    def _make_empty(self, node: FileNode) -> None:
        """Drops content that is shared with the lower tree or a view."""
        core = self._core
        core.keep_for_views(node)
        self._let_go(node)
        node.spool_id = 0
        node.size = 0
        node.flags &= ~(FROM_LOWER | LOST)

    def _let_go(self, node: FileNode) -> None:
        """Gives up a spool file that a view shares, or an empty lost one."""
        if node.spool_id:
            # Only a shared file is ever replaced, and a view's release removes what nothing else refers to.
            self._core.deferred.append(node.spool_id)
        io = node.io
        if io is not None and io.file is not None:
            io.file.retire()
            io.file = None

    def _is_shared(self, node: FileNode) -> bool:
        return 0 < node.spool_id <= self._core.spool_limit or bool(node.flags & LOST)

    def _wait_for_turn(self, node: FileNode) -> None:
        """Waits until neither a freeze nor a copy of this node is under way. The lock is held."""
        core = self._core
        io = node.io
        assert io is not None
        while core.is_freezing or io.busy:
            core.changed.wait()

    def _private_file(self, node: FileNode) -> SpoolFile:
        """Returns a spool file that this node alone refers to. The lock is held; it may be released meanwhile."""
        while True:
            self._wait_for_turn(node)
            _check_there(node)
            if node.spool_id and not self._is_shared(node):
                return self._file(node)
            if not node.size:
                file = self._spool.create(self._core.take_id())
                self._install(node, file)
                return file
            copy = self._copy(node)
            if copy is not None:
                return copy

    def _install(self, node: FileNode, file: SpoolFile) -> None:
        self._core.keep_for_views(node)
        self._let_go(node)
        assert node.io is not None
        node.io.file = file
        node.spool_id = file.id
        node.flags &= ~(FROM_LOWER | LOST)
        self._core.mark_behind(node)

    def _copy(self, node: FileNode) -> SpoolFile | None:
        """Makes a private copy of a node's bytes, outside the lock, and installs it.

        Returns:
            None if the content changed meanwhile, because the tree got another base.
        """
        core = self._core
        io = node.io
        assert io is not None
        source = None if node.flags & FROM_LOWER else self._file(node)
        before = lower, origin, size, _ = io.lower or core.lower, node.origin, node.size, node.spool_id
        io.busy = True
        if source is not None:
            source.users += 1
        spool_id = core.take_id()
        core.lock.release()
        file: SpoolFile | None = None
        try:
            file = self._spool.create(spool_id)
            if source is None:
                self._copy_up(lower, origin or "", file, size)
            else:
                self._spool.copy(source, file, size)
        except BaseException:
            self._throw_away(file)
            raise
        finally:
            core.lock.acquire()
            io.busy = False
            if source is not None:
                source.drop()
            core.changed.notify_all()
        if before != (io.lower or core.lower, node.origin, node.size, node.spool_id):
            self._throw_away(file)
            return None
        if spool_id <= core.spool_limit:
            # The tree was frozen meanwhile; a larger id tells that this file is not part of the view.
            self._spool.rename(file, core.take_id())
        self._install(node, file)
        return file

    def _throw_away(self, file: SpoolFile | None) -> None:
        if file is not None:
            file.retire()
            self._spool.remove(file.id)

    def _copy_up(self, lower: Lower, path: str, file: SpoolFile, size: int) -> None:
        try:
            lower.copy_to(path, file.fd)
            copied = os.fstat(file.fd).st_size
        except OSError as error:
            raise disk_error(error, "copying a file up") from error
        if copied != size:
            raise StorageError(
                f"{path!r} has {copied} bytes where {size} were expected", kind="io", path=path, expected=size
            )

    def copy_up(self, node: FileNode) -> None:
        """Gives a file bytes of its own, because the lower tree is about to lose them. Takes the lock itself."""
        core = self._core
        with core.change() as op:
            if not node.flags & FROM_LOWER or node.parent is None:
                return
            if node.io is None:
                node.io = OpenState()
            node.io.handles += 1
            before = node.mtime_ns
            try:
                self._private_file(node)
                node.mtime_ns = before  # the content is the same
            finally:
                node.io.handles -= 1
                if not node.io.handles:
                    self.close_node(op, node)


def _check_there(node: FileNode) -> None:
    if node.flags & LOST:
        raise StorageError(
            f"the bytes of {node.name!r} were gone when the working tree was opened",
            kind="io",
            hint="write the file again, or remove it",
            name=node.name,
        )
