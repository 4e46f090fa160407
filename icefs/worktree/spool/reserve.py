"""Space kept back on the disk of a working tree, for what makes room there.

Removing a file writes to the database before the file's bytes go; so does a commit, before the committed bytes go.
On a disk without a free block neither could ever happen. A file of zeros is given up for them, slice by slice, and
filled again when there is space.
"""

import os
from pathlib import Path
from typing import Final

RESERVE_NAME: Final = "reserve"
RESERVE_BYTES: Final = 1 << 20
_SLICE_BYTES: Final = 128 << 10


class Reserve:
    """The file that holds the space.

    Concurrency: the tree's lock protects it.

    Attributes:
        size: How much is kept back now, in bytes.
        target: How much should be.
    """

    def __init__(self, path: Path, target: int) -> None:
        """Keeps space back if there is any."""
        self._path = path
        self.target = target
        self.size = path.stat().st_size if path.exists() else 0
        self.refill()

    @property
    def is_full(self) -> bool:
        """Whether as much is kept back as should be."""
        return self.size >= self.target

    def refill(self) -> None:
        """Keeps back what may be missing; if the disk does not have that much, things stay as they are."""
        if self.is_full:
            return
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return  # a disk that gives no file now gives one later, or nothing to be kept back for
        try:
            os.posix_fallocate(fd, 0, self.target)
            self.size = self.target
        except OSError:
            # What the disk gave before it was full belongs to the program that filled it.
            os.ftruncate(fd, self.size)
        finally:
            os.close(fd)

    def release(self) -> bool:
        """Gives a slice up; returns whether there was one."""
        if not self.size:
            return False
        self.size = max(0, self.size - _SLICE_BYTES)
        try:
            os.truncate(self._path, self.size)
        except FileNotFoundError:
            self.size = 0
            return False
        return True
