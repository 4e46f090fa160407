"""Reading chunks: local files directly, everything else as whole chunks fetched ahead of the first read.

A chunk in a local repository is a file, opened when the chunk is and read where the page cache allows without a
thread; so is one that the disk cache keeps. Any other chunk (an object store, a virtual reference) is fetched whole,
starting when it is opened, once for all readers; it stays in a bounded memory. Chunks too large
for that are fetched in blocks. A program that goes through an array has the next chunks fetched ahead (`lookahead`),
and neighbours that share an object in one request.
"""

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Final

import trio

from icefs.engine.read.assets import coalesce
from icefs.engine.read.session import Session, chunk_opener
from icefs.errors import FormatError, InvalidInputError, InvalidObjectSizeError, UnauthorizedContainerError
from icefs.format.ids import ChunkId
from icefs.format.layout import CHUNKS
from icefs.format.manifest.refs import ChunkRef, InlineRef, NativeRef, VirtualRef
from icefs.inode import Ino
from icefs.storage.base import FileOpener, Storage
from icefs.storage.cache.entry import CachedFile, DamagedEntryError
from icefs.storage.local.files import storage_error
from icefs.vfs.chunks.array_view import ArrayView
from icefs.vfs.chunks.fetcher import Begin, ChunkFetcher, Flight
from icefs.vfs.chunks.lookahead import Walk, Walks
from icefs.vfs.handles import BytesHandle
from icefs.vfs.inodes.numbers import Prefix
from icefs.vfs.interface import FileHandle

WHOLE_CHUNK_BYTES: Final = 64 << 20
"""Larger chunks (shards, mostly) are fetched block by block."""

BLOCK_BYTES: Final = 8 << 20
"""The size of those blocks."""

MAX_AHEAD: Final = 64
"""How many chunks are fetched ahead of a sequential reader, at most, where each is a request."""

_MAX_PACKED_AHEAD: Final = 1024
_PACKED_AHEAD_BYTES: Final = 256 << 10
_MAX_PACKED_AHEAD_BYTES: Final = 8 << 20
_MAX_ARRAYS: Final = 64


class LocalChunkHandle(FileHandle):
    """An open chunk that lies in a local file."""

    __slots__ = ("_fd", "_nowait", "_offset", "_path", "_size")

    def __init__(self, ino: Ino, fd: int, path: str, offset: int, size: int) -> None:
        """Takes over a file descriptor; the chunk is `[offset, offset + size)` of its file, which is long enough."""
        self.ino = ino
        self._fd = fd
        self._path = path
        self._offset = offset
        self._size = size
        self._nowait = True

    @property
    def size(self) -> int:
        """The chunk's length."""
        return self._size

    def read_nowait(self, offset: int, size: int) -> bytearray | bytes | None:
        """Reads what the page cache holds; None where the disk would have to be waited for."""
        size = min(size, self._size - offset)
        if size <= 0:
            return b""
        if not self._nowait:
            return None
        data = bytearray(size)
        try:
            got = os.preadv(self._fd, [data], self._offset + offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return None
        except OSError:
            # This file system cannot say; tmpfs is one, most others on local disks can.
            self._nowait = False
            return None
        return data if got == size else None

    async def read(self, offset: int, size: int) -> bytes | bytearray | memoryview:
        """Reads, in a thread if it must."""
        data = self.read_nowait(offset, size)
        if data is not None:
            return data
        size = min(size, self._size - offset)
        # A cancelled reader closes the file while the thread may still read, so the thread has a descriptor of its own;
        # whichever takes it off the list closes it.
        fds = [os.dup(self._fd)]
        try:
            return await trio.to_thread.run_sync(self._read_blocking, fds, offset, size, abandon_on_cancel=True)
        except trio.Cancelled:
            with contextlib.suppress(IndexError):  # the thread has it
                os.close(fds.pop())
            raise

    def _read_blocking(self, fds: list[int], offset: int, size: int) -> bytearray:
        try:
            fd = fds.pop()
        except IndexError:
            return bytearray()  # nobody waits any more
        try:
            return self._read_fully(fd, offset, size)
        finally:
            os.close(fd)

    def _read_fully(self, fd: int, offset: int, size: int) -> bytearray:
        data = bytearray(size)
        got = 0
        try:
            while got < size:
                step = os.preadv(fd, [memoryview(data)[got:]], self._offset + offset + got)
                if step == 0:
                    raise InvalidObjectSizeError(
                        f"{self._path} became shorter than the {self._offset + self._size} bytes that it had",
                        path=self._path,
                    )
                got += step
        except OSError as error:
            raise storage_error(error, "read", self._path) from error
        return data

    def release(self) -> None:
        """Closes the file."""
        os.close(self._fd)


class FetchedChunkHandle(FileHandle):
    """An open chunk that is fetched whole."""

    __slots__ = ("_fetch", "_fetcher", "_flight", "_key", "_size")

    def __init__(
        self,
        ino: Ino,
        fetcher: ChunkFetcher,
        key: Hashable,
        fetch: Callable[[], bytes],
        size: int,
        begin: Begin | None = None,
    ) -> None:
        super().__init__(ino)
        self._fetcher = fetcher
        self._size = size
        self._key = key
        self._fetch = fetch
        # Held until release: a reader in small steps must not fetch again because others filled the memory.
        self._flight: Flight | None = fetcher.start(key, fetch, begin)

    @property
    def size(self) -> int:
        """The chunk's length."""
        return self._size

    def read_nowait(self, offset: int, size: int) -> bytes | bytearray | memoryview | None:
        """Reads what has arrived."""
        flight = self._flight
        if flight is None or flight.data is None:
            return None
        if offset == 0 and size >= len(flight.data):
            return flight.data
        return memoryview(flight.data)[offset : offset + size]

    async def read(self, offset: int, size: int) -> bytes | bytearray | memoryview:
        """Waits for the chunk, and tries once more if the attempt that began at open had failed."""
        flight = self._flight
        if flight is None or (flight.done.is_set() and flight.error is not None):
            flight = self._flight = self._fetcher.start(self._key, self._fetch)
        await flight.done.wait()
        while flight.failed_together:
            # A chunk ahead that cannot be read is no failure of the others that came with it.
            flight = self._flight = self._fetcher.start(self._key, self._fetch)
            await flight.done.wait()
        if flight.error is not None:
            raise flight.error
        data = self.read_nowait(offset, size)
        assert data is not None  # the flight is done, and without error
        return data

    def release(self) -> None:
        """Lets go of the bytes; a fetch that is under way goes to the memory for the next reader."""
        self._flight = None


class CachedChunkHandle(FileHandle):
    """An open chunk that the disk cache keeps; one that is damaged there is fetched after all."""

    __slots__ = ("_fall_back", "_fetched", "_file")

    def __init__(self, ino: Ino, file: CachedFile, fall_back: Callable[[], FetchedChunkHandle]) -> None:
        """Takes over an entry of the cache; `fall_back` opens the chunk in the store."""
        self.ino = ino
        self._file = file
        self._fall_back = fall_back
        self._fetched: FetchedChunkHandle | None = None

    @property
    def size(self) -> int:
        """The chunk's length."""
        return self._file.size

    def read_nowait(self, offset: int, size: int) -> bytes | bytearray | memoryview | None:
        """Reads what the page cache holds."""
        if self._fetched is not None:
            return self._fetched.read_nowait(offset, size)
        size = min(size, self._file.size - offset)
        if size <= 0:
            return b""
        try:
            return self._file.read(offset, size, nowait=True)
        except DamagedEntryError:
            self._fetched = self._fall_back()
            return None

    async def read(self, offset: int, size: int) -> bytes | bytearray | memoryview:
        """Reads, in a thread if it must."""
        data = self.read_nowait(offset, size)
        if data is not None:
            return data
        if self._fetched is None:
            most = min(size, self._file.size - offset)
            try:
                data = await trio.to_thread.run_sync(self._file.read, offset, most, abandon_on_cancel=False)
            except DamagedEntryError:
                self._fetched = self._fall_back()
        if self._fetched is not None:
            return await self._fetched.read(offset, size)
        assert data is not None  # a waiter gets it
        return data

    def release(self) -> None:
        """Closes the file."""
        self._file.close()
        if self._fetched is not None:
            self._fetched.release()


class BlockChunkHandle(FileHandle):
    """An open chunk that is fetched in blocks, because it is large."""

    __slots__ = ("_fetcher", "_key", "_last", "_read", "_size")

    def __init__(
        self, ino: Ino, fetcher: ChunkFetcher, key: Hashable, read: Callable[[int, int], bytes], size: int
    ) -> None:
        """Takes `read`, which returns the bytes of a range and may be called from any thread."""
        super().__init__(ino)
        self._fetcher = fetcher
        self._key = key
        self._read = read
        self._size = size
        self._last = -1

    def begin(self) -> None:
        """Begins to fetch the first block."""
        self._fetcher.start((self._key, 0), self._fetch_block(0))

    @property
    def size(self) -> int:
        """The chunk's length."""
        return self._size

    def read_nowait(self, offset: int, size: int) -> bytes | memoryview | None:
        """Reads what lies in one block that is kept."""
        size = min(size, self._size - offset)
        if size <= 0:
            return b""
        block = offset // BLOCK_BYTES
        start = offset - block * BLOCK_BYTES
        if start + size > BLOCK_BYTES:
            return None
        data = self._fetcher.get_nowait((self._key, block))
        return None if data is None else memoryview(data)[start : start + size]

    async def read(self, offset: int, size: int) -> bytes | bytearray | memoryview:
        """Fetches the blocks of a range, and the one after them if the reader goes forward."""
        end = min(offset + size, self._size)
        if offset >= end:
            return b""
        first, last = offset // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
        ahead = 1 if first in (self._last, self._last + 1) else 0
        for block in range(first, min(last + ahead, (self._size - 1) // BLOCK_BYTES) + 1):
            self._fetcher.start((self._key, block), self._fetch_block(block))
        self._last = last
        parts = []
        for block in range(first, last + 1):
            data = await self._fetcher.get((self._key, block), self._fetch_block(block))
            base = block * BLOCK_BYTES
            parts.append(memoryview(data)[max(offset - base, 0) : end - base])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _fetch_block(self, block: int) -> Callable[[], bytes]:
        start = block * BLOCK_BYTES
        end = min(start + BLOCK_BYTES, self._size)
        return lambda: self._read(start, end)


def ref_key(ref: NativeRef | VirtualRef) -> Hashable:
    """Returns what names a chunk's bytes, wherever it is referenced from."""
    if isinstance(ref, NativeRef):
        return ref.chunk_id, ref.offset_bytes, ref.length_bytes
    return ref.location, ref.offset_bytes, ref.length_bytes, ref.etag, ref.last_modified


class ChunkOpener:
    """Opens chunks, each in the way that suits where it is.

    A program that goes through the chunks of an array gets the next ones fetched ahead: one when the walk is
    recognised, then twice as many each time, up to `MAX_AHEAD`, and within a share of the memory.
    """

    def __init__(self, fetcher: ChunkFetcher, storage: Storage) -> None:
        self.fetcher = fetcher
        self._open_file = chunk_opener(storage)
        self._chunk_dir = f"{storage.local_root}/{CHUNKS}/"
        self.opened_local = 0
        self.opened_remote = 0
        self.opened_cached = 0
        self._walks: OrderedDict[tuple[int, int], Walks] = OrderedDict()

    def open(self, view: ArrayView, chunk_index: Prefix, ref: ChunkRef, ino: Ino) -> FileHandle:
        """Opens the chunk of a reference.

        Raises:
            ObjectNotFoundError: its local file is gone.
            InvalidObjectSizeError: its local file is shorter than the reference says.
            StorageError: its local file cannot be opened.
        """
        if isinstance(ref, InlineRef):
            return BytesHandle(ino, ref.data)
        if self._open_file is not None and isinstance(ref, NativeRef):
            self.opened_local += 1
            return _open_local(self._open_file, self._chunk_dir, ref, ino)
        session, key, size = view.session, ref_key(ref), ref.length_bytes
        if not self.fetcher.is_known(key):
            found = open_cached(session, ref)
            if found is not None:
                self.opened_cached += 1
                return CachedChunkHandle(ino, found, lambda: self._open_fetched(session, ref, ino))
        self.opened_remote += 1
        if size > min(WHOLE_CHUNK_BYTES, self.fetcher.max_bytes):

            def read(start: int, end: int) -> bytes:
                return read_range(session, ref, start, end)

            blocks = BlockChunkHandle(ino, self.fetcher, key, read, size)
            blocks.begin()
            return blocks
        handle = self._open_fetched(session, ref, ino)
        self._look_ahead(view, chunk_index, ref)
        return handle

    def _open_fetched(self, session: Session, ref: NativeRef | VirtualRef, ino: Ino) -> FetchedChunkHandle:
        size = ref.length_bytes
        begin = partial(session.start_read, ref)
        return FetchedChunkHandle(
            ino, self.fetcher, ref_key(ref), lambda: read_range(session, ref, 0, size), size, begin
        )

    def _look_ahead(self, view: ArrayView, chunk_index: Prefix, ref: NativeRef | VirtualRef) -> None:
        key = id(view), view.chunks.ndim
        walks = self._walks.get(key)
        if walks is None:
            walks = self._walks[key] = Walks()
            if len(self._walks) > _MAX_ARRAYS:
                self._walks.popitem(last=False)
        else:
            self._walks.move_to_end(key)
        walk = walks.note(chunk_index)
        if walk is None or walk.streak == 1:
            following = view.following(chunk_index, 1)
            walks.next_in_order = following[0][0] if following else None
        if walk is None:
            return
        wanted = self._window(walks, walk, ref)
        count = wanted - len(walk.foreseen)
        if count <= 0 or count * 2 < wanted:
            return  # in few large steps rather than one by one, so that neighbours can be fetched together
        upcoming = _upcoming(view, walk, count)
        walks.foresee(walk, [index for index, _ in upcoming])
        self._prefetch(view.session, [found for _, found in upcoming])

    def _window(self, walks: Walks, walk: Walk, ref: NativeRef | VirtualRef) -> int:
        """Returns how many chunks to be ahead of a walk."""
        size = max(1, ref.length_bytes)
        doubled = 1 << min(walk.streak - 1, 10)
        wanted = min(doubled, MAX_AHEAD)
        if isinstance(ref, NativeRef) and size <= _PACKED_AHEAD_BYTES and ref.offset_bytes > 0:
            # Neighbours in one object are one request, however many they are.
            room = min(_PACKED_AHEAD_BYTES * doubled**2, _MAX_PACKED_AHEAD_BYTES)
            wanted = max(wanted, min(room // size, _MAX_PACKED_AHEAD))
        # Chunks fetched ahead must not push out earlier ones before they were read.
        room = self.fetcher.max_bytes // 2 // (1 + len(walks)) // size
        return min(wanted, max(1, room))

    def _prefetch(self, session: Session, refs: Sequence[ChunkRef]) -> None:
        packed: dict[ChunkId, dict[tuple[int, int], NativeRef]] = {}
        for ref in refs:
            if (
                isinstance(ref, InlineRef)
                or ref.length_bytes > WHOLE_CHUNK_BYTES
                or self.fetcher.is_known(ref_key(ref))
            ):
                continue
            if isinstance(ref, NativeRef):
                span = ref.offset_bytes, ref.offset_bytes + ref.length_bytes
                packed.setdefault(ref.chunk_id, {})[span] = ref
            else:
                self.fetcher.start_ahead([ref_key(ref)], partial(read_alone, session, ref))
        for spans in packed.values():
            for run in coalesce(spans):
                together = [spans[span] for span in run]
                keys = [ref_key(ref) for ref in together]
                if len(together) > 1:
                    self.fetcher.start_ahead(keys, partial(read_together, session, together))
                elif not session.is_cached(together[0]):  # opening what is takes less than a thread does
                    [ref] = together
                    # It may be so large that it comes in parts.
                    self.fetcher.start_ahead(keys, partial(read_alone, session, ref), partial(session.start_read, ref))


def _upcoming(view: ArrayView, walk: Walk, count: int) -> list[tuple[Prefix, ChunkRef]]:
    """Returns the next chunks of a walk, as far as it is known without waiting where they are."""
    if walk.step is None:
        return view.following(walk.front, count)
    found: list[tuple[Prefix, ChunkRef]] = []
    for index in walk.next_indices(count, view.chunks.grid_shape):
        if not view.chunks.is_loaded(index):
            break
        ref = view.find(index)
        if ref is not None:
            found.append((index, ref))
    return found


def read_range(session: Session, ref: ChunkRef, start: int, end: int) -> bytes:
    """Reads a range of a chunk, exactly; blocks.

    Raises:
        InvalidObjectSizeError: fewer bytes are there than the reference says.
        StorageError, UnauthorizedContainerError, FormatError: see `Session.read_chunk`.
    """
    try:
        data = session.read_chunk(ref, start, end)
    except UnauthorizedContainerError:
        raise
    except InvalidInputError as error:
        # The reader's arguments are sound; it is the reference that cannot be followed.
        if error.kind == "no-container-for-virtual-chunk":
            raise UnauthorizedContainerError(error.own_message, kind=error.kind, hint=error.hint) from error
        raise FormatError(error.own_message, kind=error.kind, reason=error.own_message) from error
    if len(data) != end - start:
        raise InvalidObjectSizeError(
            f"{len(data)} bytes came of a chunk that should have {end - start}",
            expected_bytes=end - start,
            actual_bytes=len(data),
        )
    return data


def open_cached(session: Session, ref: NativeRef | VirtualRef) -> CachedFile | None:
    """Opens what the disk cache keeps of a chunk; None also of one that cannot be followed, which reading it says."""
    try:
        return session.open_cached(ref)
    except (UnauthorizedContainerError, InvalidInputError, FormatError):
        return None


def read_alone(session: Session, ref: NativeRef | VirtualRef) -> list[bytes]:
    """Reads one chunk, as `read_together` reads several."""
    return [read_range(session, ref, 0, ref.length_bytes)]


def read_together(session: Session, refs: Sequence[NativeRef]) -> list[bytes]:
    """Reads chunks that share an object, exactly; blocks; raises as `read_range`."""
    parts = session.read_chunks(refs)
    for ref, data in zip(refs, parts, strict=True):
        if len(data) != ref.length_bytes:
            raise InvalidObjectSizeError(
                f"{len(data)} bytes came of a chunk that should have {ref.length_bytes}",
                expected_bytes=ref.length_bytes,
                actual_bytes=len(data),
            )
    return parts


def _open_local(open_file: FileOpener, directory: str, ref: NativeRef, ino: Ino) -> LocalChunkHandle:
    name = str(ref.chunk_id)
    fd, status = open_file(name)
    path = directory + name
    end = ref.offset_bytes + ref.length_bytes
    if status.st_size < end:
        os.close(fd)
        raise InvalidObjectSizeError(
            f"{path} has {status.st_size} bytes, and a chunk ends at {end}",
            path=path,
            expected_bytes=end,
            actual_bytes=status.st_size,
        )
    return LocalChunkHandle(ino, fd, path, ref.offset_bytes, ref.length_bytes)
