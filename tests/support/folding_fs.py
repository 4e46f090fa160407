"""A file system in memory that folds upper and lower case and the forms of Unicode, as those of Macs and Windows do.

    with folding_file_system(path):          # mounted there until the end
        …

Names are kept as they were given first, and found however they are spelled.
"""

import contextlib
import errno
import os
import stat
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyfuse3
import trio


@dataclass
class Node:
    """A file or directory; children by folded name, each with its name as it was given."""

    mode: int
    data: bytearray = field(default_factory=bytearray)
    children: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    mtime_ns: int = 0


def fold(name: bytes) -> str:
    """Returns what two names have in common that the file system takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", os.fsdecode(name)).casefold())


class Folding(pyfuse3.Operations):
    """Inode numbers are never used again, and nothing is ever freed: it lives for one test."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self) -> None:
        super().__init__()
        self.nodes = {pyfuse3.ROOT_INODE: Node(stat.S_IFDIR | 0o755)}

    def _attr(self, ino: int) -> pyfuse3.EntryAttributes:
        node = self.nodes[ino]
        attr = pyfuse3.EntryAttributes()
        attr.st_ino, attr.st_mode, attr.st_size = ino, node.mode, len(node.data)
        attr.st_nlink = 1
        attr.st_mtime_ns = attr.st_ctime_ns = attr.st_atime_ns = node.mtime_ns
        attr.entry_timeout = attr.attr_timeout = 0
        return attr

    def _child(self, parent: int, name: bytes) -> int:
        found = self.nodes[parent].children.get(fold(name))
        if found is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return found[1]

    def _make(self, parent: int, name: bytes, mode: int) -> pyfuse3.EntryAttributes:
        if fold(name) in self.nodes[parent].children:
            raise pyfuse3.FUSEError(errno.EEXIST)
        ino = len(self.nodes) + 1
        self.nodes[ino] = Node(mode, mtime_ns=time.time_ns())
        self.nodes[parent].children[fold(name)] = name, ino
        return self._attr(ino)

    def _remove(self, parent: int, name: bytes) -> None:
        if self.nodes[self._child(parent, name)].children:
            raise pyfuse3.FUSEError(errno.ENOTEMPTY)
        del self.nodes[parent].children[fold(name)]

    async def getattr(self, ino, ctx=None):
        return self._attr(ino)

    async def setattr(self, ino, attr, fields, fh, ctx):
        node = self.nodes[ino]
        if fields.update_size:
            node.data = node.data[: attr.st_size].ljust(attr.st_size, b"\0")
        if fields.update_mtime:
            node.mtime_ns = attr.st_mtime_ns
        if fields.update_mode:
            node.mode = attr.st_mode
        return self._attr(ino)

    async def lookup(self, parent, name, ctx=None):
        return self._attr(self._child(parent, name))

    async def mkdir(self, parent, name, mode, ctx):
        return self._make(parent, name, stat.S_IFDIR | stat.S_IMODE(mode))

    async def create(self, parent, name, mode, flags, ctx):
        attr = self._make(parent, name, stat.S_IFREG | stat.S_IMODE(mode))
        return pyfuse3.FileInfo(fh=attr.st_ino), attr

    async def open(self, ino, flags, ctx):
        return pyfuse3.FileInfo(fh=ino)

    async def read(self, fh, off, size):
        return bytes(self.nodes[fh].data[off : off + size])

    async def write(self, fh, off, buf):
        node = self.nodes[fh]
        node.data[off : off + len(buf)] = buf
        node.mtime_ns = time.time_ns()
        return len(buf)

    async def unlink(self, parent, name, ctx):
        self._remove(parent, name)

    async def rmdir(self, parent, name, ctx):
        self._remove(parent, name)

    async def rename(self, parent, name, new_parent, new_name, flags, ctx):
        ino = self._child(parent, name)
        del self.nodes[parent].children[fold(name)]
        self.nodes[new_parent].children[fold(new_name)] = new_name, ino

    async def opendir(self, ino, ctx):
        return ino

    async def readdir(self, fh, start_id, token):
        entries = list(self.nodes[fh].children.values())
        for number, (name, ino) in enumerate(entries[start_id:], start_id + 1):
            if not pyfuse3.readdir_reply(token, name, self._attr(ino), number):
                return

    async def statfs(self, ctx):
        found = pyfuse3.StatvfsData()
        found.f_bsize = found.f_frsize = 4096
        found.f_blocks = found.f_bfree = found.f_bavail = 1 << 20
        found.f_namemax = 255
        return found


@contextlib.contextmanager
def folding_file_system(mountpoint: Path) -> Iterator[None]:
    """Mounts the file system, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.folding_fs", mountpoint],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
    )
    watch = threading.Timer(900, process.kill)
    watch.start()
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"mounted\n"
        yield
    finally:
        watch.cancel()
        subprocess.run(["fusermount3", "-u", "-z", mountpoint], check=False)
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


def main(mountpoint: str) -> None:
    """Mounts the file system, prints a line, and serves until it is unmounted."""
    pyfuse3.init(Folding(), mountpoint, {*pyfuse3.default_options, "fsname=folding"})
    try:
        print("mounted", flush=True)
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main(sys.argv[1])
