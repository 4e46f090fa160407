"""Open files and directories of views."""

from collections.abc import Iterable
from itertools import groupby, islice
from typing import Final, override

from icefs.inode import Ino
from icefs.vfs.attrs import Attr, EntryRun
from icefs.vfs.interface import Bringer, DirHandle, FileHandle, NotInMemoryError
from icefs.vfs.threads import Threads
from icefs.vfs.views.nodes import Child, Children
from icefs.vfs.views.versions import shown
from icefs.views.interface import Layout

_BATCH: Final = 1024


class ViewHandle(FileHandle):
    """An open file, which stays as it was when it was opened.

    Attributes:
        attr: Its attributes.
    """

    __slots__ = ("_layout", "_threads", "attr")

    def __init__(self, attr: Attr, layout: Layout, threads: Threads) -> None:
        """Takes the threads that it is read in."""
        super().__init__(attr.ino)
        self.attr = attr
        self._layout = layout
        self._threads = threads

    @property
    @override
    def size(self) -> int:
        return self._layout.size

    @override
    def read_nowait(self, offset: int, size: int) -> bytes | memoryview | None:
        return self._layout.at_hand(offset, size)

    @override
    async def read(self, offset: int, size: int) -> bytes | memoryview:
        layout = self._layout
        return await self._threads.run(shown(lambda: layout.read(offset, size)))


class _Feed:
    """The entries of a directory, from its beginning to its end.

    Attributes:
        position: The position of the entry that comes next.
        has_failed: Whether the entries that follow cannot be had from here.
    """

    def __init__(self, children: Iterable[Child], position: int) -> None:
        self.position = position
        self.has_failed = False
        self._children = iter(children)

    def take(self, position: int) -> list[Child]:
        """Returns entries from a position on, in a worker thread; none after the last."""
        try:
            skipped = sum(1 for _ in islice(self._children, position - self.position))
            taken = list(islice(self._children, _BATCH))
        except BaseException:
            self.has_failed = True
            raise
        self.position += skipped + len(taken)
        return taken


class ViewListing(DirHandle):
    """An open directory as it was when it was opened; entries come a batch at a time, and are not kept.

    The kernel looks each entry up before it shows any attribute, since the size of a file may take work.
    """

    __slots__ = ("_batch", "_begin", "_bringer", "_dots", "_end", "_feed", "_templates")

    def __init__(self, own: Attr, parent_ino: Ino, file_mode: int, begin: Children, bringer: Bringer) -> None:
        """Takes what the entries have in common, and what lists them.

        Args:
            own: The directory's attributes.
            parent_ino: The directory that it is in.
            file_mode: Type and permissions of files.
            begin: Yields the entries, the same at each call.
            bringer: Fetches.
        """
        super().__init__(own.ino)
        directory = own._replace(entry_timeout_s=0.0, attr_timeout_s=0.0)
        self._templates = {True: directory, False: directory._replace(mode=file_mode, nlink=1)}
        self._dots = EntryRun(0, directory, [b".", b".."], [own.ino, parent_ino], has_attributes=False)
        self._begin = begin
        self._bringer = bringer
        self._feed: _Feed | None = None
        self._batch: list[EntryRun] = []
        self._end: int | None = None

    @override
    def run_at(self, position: int) -> EntryRun | None:
        if position == 0:
            self._feed = self._end = None
            self._batch = []
        if position < len(self._dots.names):
            return self._dots
        for run in self._batch:
            if run.start <= position < run.start + len(run.names):
                return run
        if self._end is not None and position >= self._end:
            return None
        feed = self._feed
        if feed is None or feed.has_failed or position < feed.position:
            feed = self._feed = _Feed(self._begin(), len(self._dots.names))

        def store(taken: list[Child]) -> None:
            self._batch = self._runs(position, taken)
            if not taken:
                self._end = position

        raise NotInMemoryError((feed, position), shown(lambda: feed.take(position)), store, by=self._bringer)

    def _runs(self, position: int, taken: list[Child]) -> list[EntryRun]:
        runs = []
        for is_dir, group in groupby(taken, key=lambda one: one.is_dir):
            entries = list(group)
            names = [one.name.encode(errors="surrogatepass") for one in entries]
            inos = [one.ino for one in entries]
            runs.append(EntryRun(position, self._templates[is_dir], names, inos, has_attributes=False))
            position += len(entries)
        return runs

    @override
    def release(self) -> None:
        self._feed, self._batch = None, []
