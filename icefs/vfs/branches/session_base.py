"""What a branch's working tree stands on: a snapshot by path, with the branch tree's own inode numbers.

A working tree asks from any thread, the branch tree belongs to the event loop's. So while a branch has a working
tree, everything that touches the numbers goes through `Guarded`: one lock, and values that are not in memory are
fetched where a wait is allowed, while on the event loop's thread `NotInMemoryError` passes through the working tree
(whose operations succeed or fail as a whole) to the caller that asks again when the value is there.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from icefs.engine.read.session import Session
from icefs.errors import EntryNotFoundError, InvalidInputError
from icefs.format.manifest.refs import ChunkRef
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.inode import NO_INO
from icefs.locks import Rank, new_rlock
from icefs.paths import NodePath, TreePath, child
from icefs.vfs.attrs import Attr
from icefs.vfs.fetches import ask_in_thread
from icefs.vfs.interface import NotInMemoryError
from icefs.vfs.trees.listing import Section
from icefs.worktree.base import BaseAttr
from icefs.zarr.reader import KeyReader

_COPY_BYTES: Final = 8 << 20


class Guarded:
    """Lets threads use what belongs to the event loop's.

    Concurrency: `lock` is held for moments only, and never while something is fetched. A thread that holds the lock of
    the branch's working tree may take it, never the other way round (`icefs.locks`).
    """

    def __init__(self) -> None:
        """Is made on the event loop's thread, or on the one that it will run in."""
        self.lock = new_rlock(Rank.BRANCH, "a branch")
        self._loop_thread = threading.get_ident()

    def call[T](self, question: Callable[[], T]) -> T:
        """Asks with the lock held; in a worker thread also fetches what is missing, without it.

        Raises:
            NotInMemoryError: something is missing, on the event loop's thread; it is stored with the lock held.
        """
        if threading.get_ident() != self._loop_thread:
            return ask_in_thread(question, self.lock)
        try:
            with self.lock:
                return question()
        except NotInMemoryError as missing:
            raise missing.stored_under(self.lock) from None


class Numbered(Protocol):
    """The tree that has the inode numbers."""

    @property
    def session(self) -> Session | None:
        """What it shows now."""

    def attr_at(self, path: TreePath) -> Attr | None:
        """Returns the attributes of what is at a path of that session; None if nothing is."""

    def sections_at(self, path: TreePath) -> list[Section]:
        """Lists the directory at a path of that session, without the two dots."""


class SessionBase:
    """One snapshot of a branch, by path; implements `worktree.base.BaseTree`.

    Numbers and times are those of the branch tree while it shows this very snapshot. Before and after, numbers are
    0 and times -1: the working tree then asks for what is there and how long it is, and for bytes.
    """

    def __init__(self, tree: Numbered, guarded: Guarded, session: Session) -> None:
        self.session = session
        self._tree = tree
        self._guarded = guarded
        self._reader = KeyReader(session)

    def stat(self, path: str) -> BaseAttr | None:
        """Returns the attributes of a path."""
        with self._guarded.lock:
            is_shown = self._is_shown()
        # What is not shown has no numbers, and may have to be fetched: nobody waits for that.
        return self._guarded.call(lambda: self._stat(path)) if is_shown else self._stat_unnumbered(path)

    def stat_many(self, paths: Sequence[str]) -> Sequence[BaseAttr | None]:
        """Returns the attributes of many paths; those of chunks, which most are, are looked up together."""
        with self._guarded.lock:
            is_shown = self._is_shown()
        if is_shown:
            return list(map(self.stat, paths))
        lengths = self._reader.chunk_lengths(paths)
        return [
            self.stat(path) if length is None else BaseAttr(NO_INO, False, length, -1)
            for path, length in zip(paths, lengths, strict=True)
        ]

    def _stat(self, path: str) -> BaseAttr | None:
        if not self._is_shown():
            return self._stat_unnumbered(path)
        attr = self._tree.attr_at(TreePath(path))
        return None if attr is None else BaseAttr(attr.ino, attr.is_dir, attr.size, attr.mtime_ns)

    def _is_shown(self) -> bool:
        shown, own = self._tree.session, self.session
        return shown is own or (shown is not None and shown.snapshot_id == own.snapshot_id)

    def _stat_unnumbered(self, path: str) -> BaseAttr | None:
        found = self._find(path) if path else None
        if found is not None:
            return BaseAttr(NO_INO, False, _length(found), -1)
        is_dir = not path or self.session.has_children(NodePath(f"/{path}")) or bool(self._reader.list_directory(path))
        return BaseAttr(NO_INO, True, 0, -1) if is_dir else None

    def _find(self, path: str) -> ChunkRef | NodeSnapshot | None:
        try:
            return self._reader.find(path)
        except InvalidInputError:  # what no hierarchy can have as a key, this one has not
            return None

    def content(self, path: str) -> object:
        """Returns the reference to a chunk, or the bytes of a `zarr.json`; None where there is no file."""
        found = self._find(path) if path else None
        return found.user_data if isinstance(found, NodeSnapshot) else found

    def list(self, path: TreePath) -> Iterator[tuple[str, BaseAttr]]:
        """Yields the entries of a directory."""
        if not self._is_shown():
            for name in self._reader.list_directory(path):
                attr = self._stat_unnumbered(child(path, name))
                if attr is not None:
                    yield name, attr
            return
        for section in self._guarded.call(lambda: self._tree.sections_at(TreePath(path))):
            for first in range(0, len(section), 1024):
                end = min(first + 1024, len(section))
                with self._guarded.lock:
                    run = section.run(first, end, 0)
                is_dir = run.template.is_dir
                sizes = run.sizes or [0] * len(run.names)
                times = run.mtimes_ns or [run.template.mtime_ns] * len(run.names)
                for raw_name, ino, size, time_ns in zip(run.names, run.inos, sizes, times, strict=True):
                    yield raw_name.decode(errors="surrogatepass"), BaseAttr(ino, is_dir, size, time_ns)

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Returns bytes of a file."""
        found = self._require(path)
        end = min(offset + size, _length(found))
        if end <= offset:
            return b""
        if isinstance(found, NodeSnapshot):
            return found.user_data[offset:end]
        return self.session.read_chunk(found, offset, end)

    def copy_to(self, path: str, fd: int) -> None:
        """Writes a whole file to a descriptor."""
        length = _length(self._require(path))
        for start in range(0, length, _COPY_BYTES):
            data = memoryview(self.read(path, start, _COPY_BYTES))
            while data:
                data = data[os.write(fd, data) :]

    def _require(self, path: str) -> ChunkRef | NodeSnapshot:
        found = self._find(path)
        if found is None:
            raise EntryNotFoundError(f"no {path!r} in snapshot {self.session.snapshot_id}", path=path)
        return found


def _length(found: ChunkRef | NodeSnapshot) -> int:
    return len(found.user_data) if isinstance(found, NodeSnapshot) else found.length_bytes
