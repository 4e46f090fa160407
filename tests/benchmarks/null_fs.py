"""A pyfuse3 file system that does nothing: the ceiling that icefs is measured against.

Its tree is `DIRS` directories of `FILES` files of `SIZE` zero bytes, every answer a constant. It runs the same
event loop with the same number of workers as icefs, so that the difference between the two is what icefs does.

    python -m tests.benchmarks.null_fs MOUNTPOINT DIRS FILES SIZE

With WRITE=1 in the environment files can be created, written and renamed; the bytes are thrown away.
"""

import errno
import os
import stat
import sys

import pyfuse3
import trio

FOREVER = 1e9
_FIRST_FILE = 1 << 32


class NullOperations(pyfuse3.Operations):
    """Directories are numbered from 2, the file `j` of directory `i` is `_FIRST_FILE + i * FILES + j`."""

    def __init__(self, dirs: int, files: int, size: int) -> None:
        super().__init__()
        self.dirs, self.files, self.size = dirs, files, size
        self.zeros = bytes(max(size, 1))
        self.created: dict[bytes, int] = {}
        self.next_ino = 1 << 48

    def _attr(self, ino: int) -> pyfuse3.EntryAttributes:
        attr = pyfuse3.EntryAttributes()
        attr.st_ino = ino
        is_file = ino >= _FIRST_FILE
        attr.st_mode = stat.S_IFREG | 0o644 if is_file else stat.S_IFDIR | 0o755
        attr.st_size = self.size if is_file else 0
        attr.st_nlink = 1
        attr.entry_timeout = attr.attr_timeout = FOREVER
        return attr

    async def getattr(self, ino, ctx=None):
        return self._attr(ino)

    async def setattr(self, ino, attr, fields, fh, ctx):
        return self._attr(ino)

    async def lookup(self, parent, name, ctx=None):
        try:
            number = int(name)
        except ValueError:
            if name in self.created:
                return self._attr(self.created[name])
            raise pyfuse3.FUSEError(errno.ENOENT) from None
        if parent == pyfuse3.ROOT_INODE and number < self.dirs:
            return self._attr(2 + number)
        if number < self.files:
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

    async def create(self, parent, name, mode, flags, ctx):
        self.next_ino += 1
        self.created[name] = self.next_ino
        return pyfuse3.FileInfo(fh=self.next_ino), self._attr(self.next_ino)

    async def rename(self, parent_old, name_old, parent_new, name_new, flags, ctx):
        self.created[name_new] = self.created.pop(name_old)

    async def unlink(self, parent, name, ctx):
        self.created.pop(name, None)

    async def read(self, fh, offset, size):
        return self.zeros if offset == 0 and size >= self.size else self.zeros[offset : offset + size]

    async def write(self, fh, offset, data):
        return len(data)

    async def release(self, fh):
        pass

    async def forget(self, inode_list):
        pass


def main() -> None:
    """Mounts and serves until unmounted."""
    mountpoint, dirs, files, size = sys.argv[1], *map(int, sys.argv[2:5])
    options = set(pyfuse3.default_options) | {"fsname=null", "subtype=null"}
    pyfuse3.init(NullOperations(dirs, files, size), mountpoint, options)
    try:
        trio.run(pyfuse3.main, 4)
    finally:
        pyfuse3.close(unmount=False)
    os._exit(0)


if __name__ == "__main__":
    main()
