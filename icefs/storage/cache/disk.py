"""Bytes that were read from a remote store, kept in files on this machine: immutable bytes only.

    DIRECTORY/v1/lock       held (flock) while room is reserved or made
    DIRECTORY/v1/usage      the boot it is of, and how many bytes are taken: never fewer than there are
    DIRECTORY/v1/tmp/       files that are being written; their names begin with the room that they have reserved
    DIRECTORY/v1/ab/cd…     entries (`cache_entry`), by the digest of their key

Any number of threads and processes use one directory at once, and any of them may be killed at any moment: an entry
appears by a rename, its room is reserved before it is written, and room counted for what never appeared is found out
when the directory is next looked through, which is when it is full. There is no index to go wrong. Nothing is
synced: what a power failure leaves of an entry does not fit its checksums, and is dropped when it is read.

The entries that were not used for longest go first; use is noted in the files' modification times, to the minute. The
cache takes no more than its limit, and leaves the disk a reserve: where there is no room, nothing is kept and nothing
fails.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import queue
import stat
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from icefs.errors import InvalidInputError, StorageError
from icefs.storage.cache.entry import CachedFile, DamagedEntryError, entry_head, entry_size

"""How large a cache grows by default."""

_USAGE: Final = struct.Struct("<36sQI")
_PAGE_BYTES: Final = 4096
_MAX_RESERVE_BYTES: Final = 2 << 30
_KEEP_AFTER_EVICTION: Final = 0.9
_STALE_TEMPORARY_S: Final = 600.0
_TOUCH_S: Final = 60.0
_MAX_QUEUED_BYTES: Final = 64 << 20
# Making files takes more of the processor than fetching what they hold: it waits until nothing has come for a while,
# or for this much.
_MAX_DEFERRED_BYTES: Final = 32 << 20
_QUIET_S: Final = 0.1
# After the disk refused a write, it is left alone for a while.
_PAUSE_AFTER_ERROR_S: Final = 10.0


@dataclass(slots=True)
class CacheCounters:
    """The counts of a cache in this process.

    Attributes:
        hits: Entries that were found.
        misses: Entries that were not.
        stored: Entries that were written.
        refused: Entries that were not written: no room, or the disk refused.
        damaged: Entries that were dropped because their checksums did not fit.
        evicted: Entries that made room.
    """

    hits: int = 0
    misses: int = 0
    stored: int = 0
    refused: int = 0
    damaged: int = 0
    evicted: int = 0


class DiskCache:
    """A directory of immutable byte strings under keys; see the module.

    Concurrency: all methods may be called from any thread. `_lock` guards the lock file within the process, and is
    held together with it while room is reserved or made, which takes microseconds, or the time to look through the
    directory. Reading takes no lock. A thread of the cache's own writes the bytes that `put_soon` gets.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        max_bytes: int,
        *,
        reserve_bytes: int | None = None,
        touch_s: float = _TOUCH_S,
    ) -> None:
        """Opens or makes a cache.

        Args:
            directory: Where it is; made if needed, with access for its owner alone.
            max_bytes: The size in bytes that it grows to.
            reserve_bytes: How much of the disk stays free; None for a twentieth, at most 2 GiB.
            touch_s: The precision of the times of last use, in seconds.

        Raises:
            InvalidInputError: others could write to the directory.
            StorageError: it cannot be made.
        """
        self.max_bytes = max_bytes
        self.counters = CacheCounters()
        self.directory = Path(directory)
        self._root = os.path.join(os.fspath(directory), "v1")
        self._touch_s = touch_s
        self._lock = threading.Lock()
        self._names = itertools.count()
        self._paused_until = 0.0
        self._queue: queue.SimpleQueue[tuple[bytes, bytes | bytearray] | None] = queue.SimpleQueue()
        self._queued_bytes = 0
        self._queued_at = 0.0
        self._flushing = 0
        self._queue_lock = threading.Condition()
        self._writer: threading.Thread | None = None
        try:
            for place in (os.fspath(directory), self._root, os.path.join(self._root, "tmp")):
                os.makedirs(place, mode=0o700, exist_ok=True)
            _check_private(os.fspath(directory))
            _check_private(self._root)
            self._lock_fd = os.open(os.path.join(self._root, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._usage_fd = os.open(os.path.join(self._root, "usage"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            disk = os.statvfs(self._root)
        except OSError as error:
            raise StorageError(
                f"the cache directory {directory} cannot be used: {error.strerror}", hint="choose another --cache-dir"
            ) from error
        everything = disk.f_blocks * disk.f_frsize
        self._reserve_bytes = min(everything // 20, _MAX_RESERVE_BYTES) if reserve_bytes is None else reserve_bytes
        self._boot = _boot_id()

    def view(self, namespace: str) -> "CacheView":
        """Returns the part of the cache that belongs to one repository."""
        return CacheView(self, namespace)

    # Reading.

    def _path(self, digest: bytes) -> str:
        name = digest.hex()
        return f"{self._root}/{name[:2]}/{name[2:]}"

    def open(self, digest: bytes) -> CachedFile | None:
        """Opens an entry; of its bytes nothing is read yet, and nothing is waited for.

        Args:
            digest: Of the key.
        """
        try:
            fd = os.open(self._path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            status = os.fstat(fd)
            size = entry_size(status.st_size)
            if size is not None:
                self._note_use(fd, status.st_mtime)
                self.counters.hits += 1
                return CachedFile(digest, fd, size, self.drop_damaged)
        except OSError:
            size = 0  # it cannot be read, which does not mean that it is damaged
        os.close(fd)
        if size is None:
            self.drop_damaged(digest)
        return None

    def _note_use(self, fd: int, noted_s: float) -> None:
        now = time.time()
        if now - noted_s > self._touch_s:
            with contextlib.suppress(OSError):
                os.utime(fd, (now, now))

    def get(self, digest: bytes) -> bytearray | memoryview | None:
        """Returns the bytes of an entry, or None where there is none."""
        found = self.open(digest)
        if found is None:
            self.counters.misses += 1
            return None
        try:
            return found.read(0, found.size)
        except DamagedEntryError:
            return None
        finally:
            found.close()

    def drop(self, digest: bytes) -> None:
        """Forgets an entry."""
        with contextlib.suppress(OSError):
            os.unlink(self._path(digest))

    def drop_damaged(self, digest: bytes) -> None:
        """Drops a damaged entry."""
        self.counters.damaged += 1
        self.drop(digest)

    # Writing.

    def put(self, digest: bytes, data: bytes | bytearray | memoryview) -> bool:
        """Keeps bytes; tells whether there was room. Never raises for an error of the disk."""
        head = entry_head(digest, data)
        size = _rounded(len(head) + len(data))
        path = self._path(digest)
        if os.path.exists(path):
            return True
        temporary = None
        try:
            if size > self.max_bytes // 2 or time.monotonic() < self._paused_until:
                self.counters.refused += 1
                return False
            temporary = self._reserve(size)
            if temporary is None:
                # The disk is full of other things: looking for room each time would find none each time.
                self.counters.refused += 1
                self._paused_until = time.monotonic() + _PAUSE_AFTER_ERROR_S
                return False
            _write(temporary, head, data)
            _rename(temporary, path)
        except OSError:
            self.counters.refused += 1
            self._paused_until = time.monotonic() + _PAUSE_AFTER_ERROR_S
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            return False
        self.counters.stored += 1
        return True

    def put_soon(self, digest: bytes, data: bytes | bytearray) -> None:
        """Keeps bytes, in a thread of the cache's own unless that has too much to do already."""
        weight = len(data) + _PAGE_BYTES
        with self._queue_lock:
            is_queued = self._queued_bytes + weight <= _MAX_QUEUED_BYTES
            if is_queued:
                self._queued_bytes += weight
                self._queued_at = time.monotonic()
                self._queue.put((digest, data))
                if self._queued_bytes > _MAX_DEFERRED_BYTES:
                    self._queue_lock.notify_all()
                if self._writer is None:
                    self._writer = threading.Thread(target=self._write_queued, name="icefs-cache", daemon=True)
                    self._writer.start()
        if not is_queued:
            self.put(digest, data)

    def _write_queued(self) -> None:
        while (entry := self._queue.get()) is not None:
            digest, data = entry
            self._wait_for_quiet()
            self.put(digest, data)
            with self._queue_lock:
                self._queued_bytes -= len(data) + _PAGE_BYTES
                self._queue_lock.notify_all()

    def _wait_for_quiet(self) -> None:
        with self._queue_lock:
            while not self._flushing and self._queued_bytes <= _MAX_DEFERRED_BYTES:
                left_s = self._queued_at + _QUIET_S - time.monotonic()
                if left_s <= 0:
                    return
                self._queue_lock.wait(left_s)

    def flush(self) -> None:
        """Waits until all bytes given to `put_soon` are written."""
        with self._queue_lock:
            self._flushing += 1
            self._queue_lock.notify_all()
            self._queue_lock.wait_for(lambda: self._queued_bytes == 0)
            self._flushing -= 1

    def close(self) -> None:
        """Writes the waiting bytes and ends the thread; the cache is not used afterwards."""
        with self._queue_lock:
            writer, self._writer = self._writer, None
            self._flushing += 1
            self._queue_lock.notify_all()
        if writer is not None:
            self._queue.put(None)
            writer.join()
        with self._lock:
            descriptors, self._lock_fd, self._usage_fd = {self._lock_fd, self._usage_fd}, -1, -1
        for descriptor in descriptors - {-1}:
            os.close(descriptor)

    # Room.

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def _reserve(self, size: int) -> str | None:
        """Takes room, making it if needed; returns the path of a new empty file for it, or None if there is none."""
        with self._locked():
            used = self._read_usage()
            if used is None or used + size > self.max_bytes:
                used = self._make_room(int(self.max_bytes * _KEEP_AFTER_EVICTION) - size)
            short = self._reserve_bytes + size - self._free_bytes()
            if short > 0:
                used = self._make_room(max(0, used - short - size))
                if self._free_bytes() < self._reserve_bytes + size:
                    return None
            if used + size > self.max_bytes:
                return None
            # In this order: a process that is killed in between leaves free room counted, never the reverse.
            self._write_usage(used + size)
            name = f"{self._root}/tmp/{size}-{os.getpid()}-{next(self._names)}-{os.urandom(4).hex()}"
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            return name

    def _free_bytes(self) -> int:
        disk = os.statvfs(self._root)
        return disk.f_bavail * disk.f_frsize

    def _read_usage(self) -> int | None:
        """Returns how many bytes are taken; None where that is unknown, as after a power failure."""
        data = os.pread(self._usage_fd, _USAGE.size, 0)
        if len(data) != _USAGE.size:
            return None
        boot, used, _ = _USAGE.unpack(data)
        return used if data == self._usage_record(used) and boot == self._boot else None

    def _usage_record(self, used: int) -> bytes:
        return _USAGE.pack(self._boot, used, zlib.crc32(used.to_bytes(8, "little"), zlib.crc32(self._boot)))

    def _write_usage(self, used: int) -> None:
        os.pwrite(self._usage_fd, self._usage_record(used), 0)

    def _make_room(self, most: int) -> int:
        """Drops the least recently used entries until at most so many bytes are taken; returns how many are."""
        used = self._temporaries()  # first: one that becomes an entry meanwhile is counted twice, and not missed
        entries = list(self._entries())
        used += sum(size for _, size, _ in entries)
        if used > most:
            entries.sort()
            for _, size, path in entries:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                    self.counters.evicted += 1
                used -= size
                if used <= most:
                    break
        self._write_usage(used)
        return used

    def _temporaries(self) -> int:
        used, now = 0, time.time()
        with os.scandir(os.path.join(self._root, "tmp")) as found:
            for entry in found:
                reserved = entry.name.partition("-")[0]
                with contextlib.suppress(FileNotFoundError):
                    if now - entry.stat().st_mtime > _STALE_TEMPORARY_S:
                        os.unlink(entry.path)
                    elif reserved.isdecimal():
                        used += int(reserved)
        return used

    def _entries(self) -> Iterator[tuple[float, int, str]]:
        for number in range(256):
            with contextlib.suppress(FileNotFoundError), os.scandir(f"{self._root}/{number:02x}") as found:
                for entry in found:
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        yield status.st_mtime, _rounded(status.st_size), entry.path

    @property
    def queued_bytes(self) -> int:
        """How much waits to be written."""
        return self._queued_bytes

    def counted_bytes(self) -> int | None:
        """Returns how many bytes are counted as taken, which is never too few; None where that is unknown."""
        return self._read_usage()

    def used_bytes(self) -> int:
        """Returns how much is taken on the disk; looking through the directory."""
        return self._temporaries() + sum(size for _, size, _ in self._entries())


class CacheView:
    """The part of a cache that belongs to one repository: keys of other repositories cannot meet its own."""

    def __init__(self, cache: DiskCache, namespace: str) -> None:
        self.cache = cache
        self._hash = hashlib.blake2b(namespace.encode(errors="surrogateescape") + b"\0", digest_size=16)

    def digest(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Returns the digest that names the bytes `[start, end)` of an object."""
        name = self._hash.copy()
        name.update((key if end is None else f"{key}\0{start}-{end}").encode())
        return name.digest()

    def open(self, key: str, start: int, end: int) -> CachedFile | None:
        """Opens the cached bytes of a range; see `DiskCache.open`."""
        found = self.cache.open(self.digest(key, start, end))
        if found is not None and found.size != end - start:
            found.close()
            return None
        return found

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes | None:
        """Returns the bytes of a range (of a whole object, without one) that are kept, or None."""
        data = self.cache.get(self.digest(key, start, end))
        if data is None or (end is not None and len(data) != end - start):
            return None
        return bytes(data)

    def put(self, key: str, data: bytes | bytearray, start: int = 0, end: int | None = None) -> None:
        """Keeps the bytes of a range, soon."""
        self.cache.put_soon(self.digest(key, start, end), data)

    def drop(self, key: str, start: int = 0, end: int | None = None) -> None:
        """Forgets a range (a whole object, without one)."""
        self.cache.drop(self.digest(key, start, end))

    def has(self, key: str, start: int = 0, end: int | None = None) -> bool:
        """Tells whether a range is kept, as far as is known without reading it."""
        return os.path.exists(self.cache._path(self.digest(key, start, end)))


def _rounded(size: int) -> int:
    return -(-size // _PAGE_BYTES) * _PAGE_BYTES


def _write(path: str, head: bytes, data: bytes | bytearray | memoryview) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        parts = [memoryview(head), memoryview(data)]
        written = os.writev(fd, parts)
        while written < len(head) + len(data):
            whole = b"".join(parts)
            step = os.write(fd, whole[written:])
            if step == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written += step
    finally:
        os.close(fd)


def _rename(temporary: str, path: str) -> None:
    try:
        os.rename(temporary, path)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.rename(temporary, path)


def _check_private(directory: str) -> None:
    status = os.stat(directory)
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidInputError(
            f"others than you can write to the cache directory {directory}",
            hint="choose a --cache-dir that is yours alone, or chmod it to 700",
        )


def _boot_id() -> bytes:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()[:36].ljust(36, b"\0")
    except OSError:
        return b"?" * 36


def default_cache_dir() -> Path:
    """Returns the default place of the cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "icefs")
