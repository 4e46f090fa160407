"""A pyfuse3 file system that does nothing: the ceiling that icefs is measured against.

Its tree is `DIRS` directories of `FILES` files of `SIZE` zero bytes, every answer a constant. It runs the same
event loop with the same number of workers as icefs, so that the difference between the two is what icefs does.

    python -m tests.benchmarks.null_fs MOUNTPOINT DIRS FILES SIZE
    python -m tests.benchmarks.null_fs MOUNTPOINT DIRS FILES FILE

The second has the bytes of a real file, held in memory, in place of zeros, for programs that look at what they read.

Files and directories can be made, written and renamed next to those; names are kept in memory, and bytes are thrown
away but for how many they were.
"""

import errno
import os
import stat
import sys
from pathlib import Path

import pyfuse3
import trio

FOREVER = 1e9
_FIRST_FILE = 1 << 32
_FIRST_MADE = 1 << 48


class NullOperations(pyfuse3.Operations):
    """Directories are numbered from 2, the file `j` of directory `i` is `_FIRST_FILE + i * FILES + j`."""

    def __init__(self, dirs: int, files: int, content: bytes) -> None:
        super().__init__()
        self.dirs, self.files, self.size = dirs, files, len(content)
        self.content = memoryview(content)
        self.created: dict[tuple[int, bytes], int] = {}
        self.sizes: dict[int, int] = {}
        self.next_ino = _FIRST_MADE

    def _attr(self, ino: int) -> pyfuse3.EntryAttributes:
        attr = pyfuse3.EntryAttributes()
        attr.st_ino = ino
        is_file = _FIRST_FILE <= ino < _FIRST_MADE or ino in self.sizes
        attr.st_mode = stat.S_IFREG | 0o644 if is_file else stat.S_IFDIR | 0o755
        attr.st_size = self.sizes.get(ino, self.size) if is_file else 0
        attr.st_nlink = 1
        attr.entry_timeout = attr.attr_timeout = FOREVER
        return attr

    async def getattr(self, ino, ctx=None):
        return self._attr(ino)

    async def setattr(self, ino, attr, fields, fh, ctx):
        return self._attr(ino)

    async def lookup(self, parent, name, ctx=None):
        made = self.created.get((parent, name))
        if made is not None:
            return self._attr(made)
        try:
            number = int(name)
        except ValueError:
            raise pyfuse3.FUSEError(errno.ENOENT) from None
        if parent == pyfuse3.ROOT_INODE and number < self.dirs:
            return self._attr(2 + number)
        if 2 <= parent < _FIRST_FILE and number < self.files:
            return self._attr(_FIRST_FILE + (parent - 2) * self.files + number)
        raise pyfuse3.FUSEError(errno.ENOENT)

    async def opendir(self, ino, ctx):
        return ino

    async def readdir(self, ino, start, token):
        root = ino == pyfuse3.ROOT_INODE
        first = 2 if root else _FIRST_FILE + (ino - 2) * self.files
        for number in range(start, self.dirs if root else self.files):
            if not pyfuse3.readdir_reply(token, b"%d" % number, self._attr(first + number), number + 1):
                break

    async def open(self, ino, flags, ctx):
        return pyfuse3.FileInfo(fh=ino, keep_cache=True)

    def _make(self, parent: int, name: bytes) -> int:
        self.next_ino += 1
        self.created[parent, name] = self.next_ino
        return self.next_ino

    async def create(self, parent, name, mode, flags, ctx):
        ino = self._make(parent, name)
        self.sizes[ino] = 0
        return pyfuse3.FileInfo(fh=ino), self._attr(ino)

    async def mkdir(self, parent, name, mode, ctx):
        return self._attr(self._make(parent, name))

    async def rename(self, parent_old, name_old, parent_new, name_new, flags, ctx):
        self.created[parent_new, name_new] = self.created.pop((parent_old, name_old))

    async def unlink(self, parent, name, ctx):
        self.created.pop((parent, name), None)

    async def read(self, fh, offset, size):
        return self.content[offset : offset + size]

    async def write(self, fh, offset, data, is_write_back=False):
        self.sizes[fh] = max(self.sizes.get(fh, 0), offset + len(data))
        return len(data)

    async def release(self, fh):
        pass

    async def forget(self, inode_list):
        pass


def main() -> None:
    """Mounts and serves until unmounted."""
    mountpoint, dirs, files, what = sys.argv[1], *map(int, sys.argv[2:4]), sys.argv[4]
    content = bytes(int(what)) if what.isdecimal() else Path(what).read_bytes()
    options = set(pyfuse3.default_options) | {"fsname=null", "subtype=null"}
    pyfuse3.init(NullOperations(dirs, files, content), mountpoint, options)
    try:
        trio.run(pyfuse3.main, 4)
    finally:
        pyfuse3.close(unmount=False)
    os._exit(0)


if __name__ == "__main__":
    main()
