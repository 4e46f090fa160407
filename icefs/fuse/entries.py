"""Attributes and entries in the kernel's layout: `fuse_attr`, `fuse_entry_out`, `fuse_direntplus` (see `abi`).

Times are in nanoseconds, timeouts in seconds, sizes in bytes; the kernel counts blocks of 512 bytes.
"""

from functools import lru_cache
from struct import Struct
from typing import Final

from icefs.fuse import abi
from icefs.vfs.attrs import BLOCK_SIZE, Attr, EntryRun

_SECTOR: Final = 512
_SECOND_NS: Final = 1_000_000_000

# By the number of eights that a name takes; `s` pads with NULs.
_NAME_LENGTHS: Final = range(256 // 8 + 1)
_FULL: Final = [Struct(f"{abi.ENTRY_OUT.format}QQII{8 * eights}s") for eights in _NAME_LENGTHS]
_BARE: Final = [Struct(f"={abi.ENTRY_OUT.size}xQQII{8 * eights}s") for eights in _NAME_LENGTHS]


@lru_cache(64)
def _split(seconds: float) -> tuple[int, int]:
    """Splits a timeout into seconds and nanoseconds."""
    whole = int(seconds)
    return whole, int((seconds - whole) * _SECOND_NS)


def encode_entry(attr: Attr) -> bytes:
    """Returns a `fuse_entry_out`; inode number 0 makes it a negative entry."""
    ino, mode, nlink, uid, gid, size, mtime_ns, ctime_ns, atime_ns, entry_timeout_s, attr_timeout_s = attr
    entry_s, entry_ns = _split(entry_timeout_s)
    attr_s, attr_ns = _split(attr_timeout_s)
    mtime_s, mtime_ns = divmod(mtime_ns, _SECOND_NS)
    ctime_s, ctime_ns = divmod(ctime_ns, _SECOND_NS)
    atime_s, atime_ns = divmod(atime_ns, _SECOND_NS)
    return abi.ENTRY_OUT.pack(
        ino, 0, entry_s, attr_s, entry_ns, attr_ns,
        ino, size, -(-size // _SECTOR), atime_s, mtime_s, ctime_s, atime_ns, mtime_ns, ctime_ns,
        mode, nlink, uid, gid, 0, BLOCK_SIZE, 0,
    )  # fmt: skip


def encode_attr(attr: Attr) -> bytes:
    """Returns a `fuse_attr_out`."""
    ino, mode, nlink, uid, gid, size, mtime_ns, ctime_ns, atime_ns, _, attr_timeout_s = attr
    attr_s, attr_ns = _split(attr_timeout_s)
    mtime_s, mtime_ns = divmod(mtime_ns, _SECOND_NS)
    ctime_s, ctime_ns = divmod(ctime_ns, _SECOND_NS)
    atime_s, atime_ns = divmod(atime_ns, _SECOND_NS)
    return abi.ATTR_OUT.pack(
        attr_s, attr_ns, 0,
        ino, size, -(-size // _SECTOR), atime_s, mtime_s, ctime_s, atime_ns, mtime_ns, ctime_ns,
        mode, nlink, uid, gid, 0, BLOCK_SIZE, 0,
    )  # fmt: skip


class EntryBuffer:
    """The answer to one READDIRPLUS: as many entries as the kernel has room for.

    Attributes:
        parts: The entries so far.
        room: How many bytes may follow.
    """

    __slots__ = ("parts", "room")

    def __init__(self, size_bytes: int) -> None:
        self.parts: list[bytes] = []
        self.room = size_bytes

    def add_full(self, run: EntryRun, first: int, end: int) -> int:
        """Adds entries `[first, end)` of a run with their attributes.

        Returns:
            Where it stopped: the first that there was no room for, or `end`.

        This loop is most of the cost of a listing, so it sets what differs between entries and nothing else.
        """
        start, template, names, inos, sizes, mtimes_ns, _ = run
        _, mode, nlink, uid, gid, size, mtime_ns, ctime_ns, atime_ns, entry_timeout_s, attr_timeout_s = template
        entry_s, entry_ns = _split(entry_timeout_s)
        attr_s, attr_ns = _split(attr_timeout_s)
        mtime_s, mtime_ns = divmod(mtime_ns, _SECOND_NS)
        ctime_s, ctime_ns = divmod(ctime_ns, _SECOND_NS)
        atime_s, atime_ns = divmod(atime_ns, _SECOND_NS)
        kind = mode >> 12 & 15
        blocks = -(-size // _SECTOR)
        add, room = self.parts.append, self.room
        for index in range(first, end):
            name = names[index]
            layout = _FULL[(len(name) + 7) >> 3]
            if layout.size > room:
                end = index
                break
            room -= layout.size
            ino = inos[index]
            if sizes is not None:
                size = sizes[index]
                blocks = -(-size // _SECTOR)
            if mtimes_ns is not None:
                mtime_s, mtime_ns = divmod(mtimes_ns[index], _SECOND_NS)
                atime_s = ctime_s = mtime_s
                atime_ns = ctime_ns = mtime_ns
            add(
                layout.pack(
                    ino, 0, entry_s, attr_s, entry_ns, attr_ns,
                    ino, size, blocks, atime_s, mtime_s, ctime_s, atime_ns, mtime_ns, ctime_ns,
                    mode, nlink, uid, gid, 0, BLOCK_SIZE, 0,
                    ino, start + index + 1, len(name), kind, name,
                )
            )  # fmt: skip
        self.room = room
        return end

    def add_bare(self, run: EntryRun, first: int, end: int) -> int:
        """Adds entries `[first, end)` of a run without attributes; returns where it stopped."""
        kind = run.template.mode >> 12 & 15
        position = run.start + first
        add, room = self.parts.append, self.room
        for name, ino in zip(run.names[first:end], run.inos[first:end], strict=True):
            layout = _BARE[(len(name) + 7) >> 3]
            if layout.size > room:
                break
            room -= layout.size
            position += 1
            add(layout.pack(ino, position, len(name), kind, name))
        self.room = room
        return position - run.start

    def encode(self) -> bytes:
        """Returns the entries."""
        return b"".join(self.parts)
