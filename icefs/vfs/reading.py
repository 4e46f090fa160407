"""Reading chunks: local files directly, everything else as whole chunks fetched ahead of the first read.

A chunk in a local repository is a file, opened when the chunk is and read where the page cache allows without a
thread. Any other chunk (an object store, a virtual reference) is fetched whole, starting when it is opened, once
for all who want it; what was fetched stays in a bounded memory. Chunks too large for that are fetched in blocks.
"""

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Final

import trio

from icefs.engine.session import Session
from icefs.errors import FormatError, InvalidInputError, InvalidObjectSizeError, UnauthorizedContainerError
from icefs.format.ids import ChunkId
from icefs.format.layout import chunk_key
from icefs.format.manifest import ChunkRef, InlineRef, NativeRef, VirtualRef
from icefs.storage.base import Storage
from icefs.storage.local_files import open_object, storage_error
from icefs.vfs.handles import BytesHandle
from icefs.vfs.interface import FileHandle
from icefs.vfs.numbers import Prefix
from icefs.vfs.threads import Threads
from icefs.vfs.views import ArrayView

if TYPE_CHECKING:
    from concurrent.futures import Future

WHOLE_CHUNK_BYTES: Final = 64 << 20
"""Larger chunks (shards, mostly) are fetched block by block."""

BLOCK_BYTES: Final = 8 << 20
"""The size of those blocks."""

MAX_AHEAD: Final = 16
"""How many chunks are fetched ahead of a sequential reader, at most."""

_MAX_STREAKS: Final = 64


class LocalChunkHandle(FileHandle):
    """An open chunk that lies in a local file."""

    __slots__ = ("_fd", "_nowait", "_offset", "_path", "_size")

    def __init__(self, ino: int, fd: int, path: str, offset: int, size: int) -> None:
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
        return await trio.to_thread.run_sync(self._read_blocking, offset, size, abandon_on_cancel=True)

    def _read_blocking(self, offset: int, size: int) -> bytearray:
        data = bytearray(size)
        got = 0
        try:
            while got < size:
                step = os.preadv(self._fd, [memoryview(data)[got:]], self._offset + offset + got)
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


class _Flight:
    """Bytes on their way, for all who wait for them."""

    __slots__ = ("data", "done", "error")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.data: bytes | None = None
        self.error: BaseException | None = None


class ChunkFetcher:
    """Fetches bytes in threads, each once at a time, and keeps what was used last.

    Concurrency: on the event loop's thread alone; only the fetching itself runs in worker threads, and touches
    nothing here.

    INVARIANT: `held_bytes` is the sum of the lengths of what is kept, and at most `max_bytes`.
    """

    def __init__(self, threads: Threads, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self.hits = 0
        self.misses = 0
        self.fetched_bytes = 0
        self._threads = threads
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._flights: dict[Hashable, _Flight] = {}

    @property
    def in_flight(self) -> int:
        """How many fetches are under way."""
        return len(self._flights)

    def get_nowait(self, key: Hashable) -> bytes | None:
        """Returns what is kept under a key."""
        data = self._kept.get(key)
        if data is not None:
            self._kept.move_to_end(key)
        return data

    def start(self, key: Hashable, fetch: Callable[[], bytes]) -> _Flight:
        """Begins to fetch what is neither kept nor under way, and returns what to wait for."""
        flight = self._flights.get(key)
        if flight is not None:
            return flight
        flight = _Flight()
        data = self.get_nowait(key)
        if data is not None:
            self.hits += 1
            flight.data = data
            flight.done.set()
            return flight
        self.misses += 1
        self._flights[key] = flight
        self._threads.start(fetch, lambda future: self._land(key, flight, future))
        return flight

    async def get(self, key: Hashable, fetch: Callable[[], bytes]) -> bytes:
        """Returns the bytes of a key; what `fetch` raises goes to all who wait, and is not kept."""
        flight = self.start(key, fetch)
        await flight.done.wait()
        if flight.error is not None:
            raise flight.error
        assert flight.data is not None  # a flight that is done has one of the two
        return flight.data

    def _land(self, key: Hashable, flight: _Flight, future: "Future[bytes]") -> None:
        del self._flights[key]
        flight.error = future.exception()
        if flight.error is None:
            flight.data = data = future.result()
            self.fetched_bytes += len(data)
            self._keep(key, data)
        flight.done.set()

    def _keep(self, key: Hashable, data: bytes) -> None:
        if len(data) > self.max_bytes:
            return
        self._kept[key] = data
        self.held_bytes += len(data)
        while self.held_bytes > self.max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.held_bytes -= len(dropped)

    def check_invariants(self) -> None:
        """Raises AssertionError if a stated invariant does not hold; for tests."""
        assert self.held_bytes == sum(map(len, self._kept.values())) <= self.max_bytes


class FetchedChunkHandle(FileHandle):
    """An open chunk that is fetched whole."""

    __slots__ = ("_fetch", "_fetcher", "_flight", "_key", "_size")

    def __init__(self, ino: int, fetcher: ChunkFetcher, key: Hashable, fetch: Callable[[], bytes], size: int) -> None:
        super().__init__(ino)
        self._fetcher = fetcher
        self._size = size
        self._key = key
        self._fetch = fetch
        # Held until release: a reader in small steps must not fetch again because others filled the memory.
        self._flight: _Flight | None = fetcher.start(key, fetch)

    @property
    def size(self) -> int:
        """The chunk's length."""
        return self._size

    def read_nowait(self, offset: int, size: int) -> bytes | memoryview | None:
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
        if flight.error is not None:
            raise flight.error
        data = self.read_nowait(offset, size)
        assert data is not None  # the flight is done, and without error
        return data

    def release(self) -> None:
        """Lets go of the bytes; what is still on its way goes to the memory for whoever comes next."""
        self._flight = None


class BlockChunkHandle(FileHandle):
    """An open chunk that is fetched in blocks, because it is large."""

    __slots__ = ("_fetcher", "_key", "_last", "_read", "_size")

    def __init__(
        self, ino: int, fetcher: ChunkFetcher, key: Hashable, read: Callable[[int, int], bytes], size: int
    ) -> None:
        """Takes `read`, which returns the bytes of a range and may be called from any thread."""
        super().__init__(ino)
        self._fetcher = fetcher
        self._key = key
        self._read = read
        self._size = size
        self._last = -1

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

    Whoever opens the chunks of an array one after the other in the order of their indices gets the next ones
    fetched ahead: one when the second of them is opened, then twice as many each time, up to `MAX_AHEAD`.
    """

    def __init__(self, fetcher: ChunkFetcher, storage: Storage) -> None:
        self.fetcher = fetcher
        self._chunk_dir = _chunk_dir(storage)
        self.opened_local = 0
        self.opened_remote = 0
        self._streaks: OrderedDict[int, tuple[Prefix, int]] = OrderedDict()

    def open(self, view: ArrayView, chunk_index: Prefix, ref: ChunkRef, ino: int) -> FileHandle:
        """Opens the chunk of a reference.

        Raises:
            ObjectNotFoundError: its local file is gone.
            InvalidObjectSizeError: its local file is shorter than the reference says.
            StorageError: its local file cannot be opened.
        """
        if isinstance(ref, InlineRef):
            return BytesHandle(ino, ref.data)
        session = view.session
        if self._chunk_dir is not None and isinstance(ref, NativeRef):
            self.opened_local += 1
            return _open_local(self._chunk_dir + str(ref.chunk_id), ref.offset_bytes, ref.length_bytes, ino)
        self.opened_remote += 1
        key, size = ref_key(ref), ref.length_bytes
        if size > min(WHOLE_CHUNK_BYTES, self.fetcher.max_bytes):

            def read(start: int, end: int) -> bytes:
                return read_range(session, ref, start, end)

            return BlockChunkHandle(ino, self.fetcher, key, read, size)
        handle = FetchedChunkHandle(ino, self.fetcher, key, lambda: read_range(session, ref, 0, size), size)
        self._look_ahead(view, chunk_index, size)
        return handle

    def _look_ahead(self, view: ArrayView, chunk_index: Prefix, size: int) -> None:
        expected, streak = self._streaks.pop(id(view), ((), 0))
        following = view.following(chunk_index, MAX_AHEAD)
        if not following:
            return
        streak = streak + 1 if expected == chunk_index else 0
        self._streaks[id(view)] = following[0][0], streak
        if len(self._streaks) > _MAX_STREAKS:
            self._streaks.popitem(last=False)
        if streak == 0:
            return
        # What is fetched ahead must not push out what was fetched ahead before it was read.
        room = max(1, self.fetcher.max_bytes // 4 // max(1, size))
        for _, ref in following[: min(1 << streak - 1, MAX_AHEAD, room)]:
            if not isinstance(ref, InlineRef) and ref.length_bytes <= WHOLE_CHUNK_BYTES:
                self._prefetch(view.session, ref)

    def _prefetch(self, session: Session, ref: NativeRef | VirtualRef) -> None:
        self.fetcher.start(ref_key(ref), lambda: read_range(session, ref, 0, ref.length_bytes))


def _chunk_dir(storage: Storage) -> str | None:
    """Returns what the paths of local chunk files begin with; None where chunks are no local files.

    The storage is asked once, not for each chunk: making a `Path` takes longer than opening the file.
    """
    example = ChunkId(bytes(ChunkId.SIZE))
    path = storage.local_file(chunk_key(example))
    return None if path is None else os.fspath(path).removesuffix(str(example))


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
            raise UnauthorizedContainerError(str(error), kind=error.kind, hint=error.hint) from error
        raise FormatError(str(error), kind=error.kind, reason=str(error)) from error
    if len(data) != end - start:
        raise InvalidObjectSizeError(
            f"{len(data)} bytes came of a chunk that should have {end - start}",
            expected_bytes=end - start,
            actual_bytes=len(data),
        )
    return data


def _open_local(path: str, offset: int, length: int, ino: int) -> LocalChunkHandle:
    try:
        fd, status = _open_quietly(path)
    except OSError as error:
        raise storage_error(error, "open", path) from error
    if status.st_size < offset + length:
        os.close(fd)
        raise InvalidObjectSizeError(
            f"{path} has {status.st_size} bytes, and a chunk ends at {offset + length}",
            path=path,
            expected_bytes=offset + length,
            actual_bytes=status.st_size,
        )
    return LocalChunkHandle(ino, fd, path, offset, length)


def _open_quietly(path: str) -> tuple[int, os.stat_result]:
    """Opens a chunk's file as `open_object` does, without the write of its access time that reading may cost.

    Only the file's owner may ask for that.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOATIME)
    except PermissionError:
        return open_object(path)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, "not a regular file", path)
    return fd, status
