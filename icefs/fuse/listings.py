"""Directories that are open, and how much of their entries each listing gets."""

from stat import S_IFREG

from icefs.fuse.bare_entries import Lister, Listers
from icefs.fuse.entries import EntryBuffer
from icefs.inode import Ino
from icefs.vfs.attrs import Attr, EntryRun
from icefs.vfs.interface import Vfs


class Listings:
    """Answers the requests that list directories, and LOOKUP, which tells whether a listing's attributes are used.

    Attributes:
        vfs: The file system.

    Concurrency: on the event loop's thread.
    """

    def __init__(self, vfs: Vfs) -> None:
        self.vfs = vfs
        self._listers = Listers()

    async def lookup(self, parent: Ino, name: str, pid: int) -> Attr:
        """Finds a name; an inode number 0 in the answer is a negative entry."""
        attr = await self.vfs.lookup(parent, name)
        if attr.mode & S_IFREG:
            self._listers.looked_up(pid)
        return attr

    async def opendir(self, ino: Ino, pid: int) -> int:
        """Opens a directory and returns its handle."""
        fh = await self.vfs.opendir(ino)
        self._listers.begin(fh, pid)
        return fh

    async def releasedir(self, fh: int) -> None:
        """Takes an open directory back."""
        self._listers.end(fh)
        await self.vfs.releasedir(fh)

    async def readdir(self, fh: int, position: int, size: int) -> bytes:
        """Returns entries from a position on, at most `size` bytes; `bare_entries` decides about their attributes."""
        listing = self._listers.of(fh)
        buffer = EntryBuffer(size)
        # Counted when all is there: of an answer that fails half-way the kernel learns nothing.
        sent: list[tuple[EntryRun, int, int]] = []
        while (run := await self.vfs.readdir(fh, position)) is not None:
            first, count = position - run.start, len(run.names)
            # Programs that walk a tree look at its directories; at its files perhaps not.
            if not run.has_attributes:
                end = buffer.add_bare(run, first, count)
            elif not run.template.mode & S_IFREG:
                end = buffer.add_full(run, first, count)
                sent.append((run, first, end))
            elif listing.is_full:
                end = _add_and_try(buffer, sent, listing.lister, run, first)
            else:
                end = buffer.add_bare(run, first, count)
            listing.sent(end - first)
            position = run.start + end
            if end < count:
                break
        for run, first, end in sent:
            self.vfs.entered(fh, run, first, end)
        return buffer.encode()


def _add_and_try(
    buffer: EntryBuffer, sent: list[tuple[EntryRun, int, int]], lister: Lister, run: EntryRun, first: int
) -> int:
    """Adds entries with their attributes, but for a few, until the buffer is full; returns the index after the last."""
    position, count = first, len(run.names)
    while position < count:
        stop = min(count, position + lister.until_bare)
        end = buffer.add_full(run, position, stop)
        if end > position:
            sent.append((run, position, end))
        lister.until_bare -= end - position
        position = end
        if end < stop or end == count:
            break
        if buffer.add_bare(run, end, end + 1) == end:
            break
        position += 1
        lister.until_bare = lister.gap - 1
        lister.ignored += 1
    return position
