"""One format of one tree: its versions, and what was found in each.

    Source ── present version ──► Version ── paths ──► Found (a directory, or a file with its layout)

A request that has to wait goes on with the version that it began with, also if the tree has changed meanwhile: a
program that writes all the time keeps no reader waiting.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, Protocol

from icefs.errors import DecodeError, NotShownError
from icefs.paths import TreePath, base_name, parent
from icefs.vfs.interface import Bringer, NotInMemoryError
from icefs.vfs.views.sources import Opening, Source
from icefs.views.decoder import Decoding, DecodingLimits, ZarrDecoder
from icefs.views.formats import parse_format
from icefs.views.interface import Decoder, Format, Hierarchy, Layout, ViewDirectory, ViewFile

_MAX_FOUND: Final = 4096
_MAX_LAYOUTS: Final = 64


@dataclass(frozen=True, slots=True)
class ViewTools:
    """What makes views; the first two are called in worker threads.

    Attributes:
        make_format: Makes a format of its name with options.
        make_decoder: Makes what opens the arrays of a hierarchy.
        close: Gives back what they hold.
    """

    make_format: Callable[[str], Format]
    make_decoder: Callable[[Hierarchy], Decoder]
    close: Callable[[], None]


def view_tools(limits: DecodingLimits | None = None) -> ViewTools:
    """Makes what makes views; nothing of it takes memory or a thread before the first view is looked at."""
    decoding = Decoding(limits)

    def make_format(text: str) -> Format:
        return parse_format(text).make()

    def make_decoder(hierarchy: Hierarchy) -> Decoder:
        return ZarrDecoder(hierarchy, decoding)

    return ViewTools(make_format, make_decoder, decoding.close)


class Recent[K: Hashable, V]:
    """Values that were used recently, up to a count."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: K) -> bool:
        return key in self._values

    def get(self, key: K) -> V | None:
        """Returns a value, which is used by that; None if it is not there."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Takes a value; the one that was not used for longest goes if there are too many."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._limit:
            self._values.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Found:
    """What a path of a version leads to.

    Attributes:
        entry: The file or directory; None if there is none.
    """

    entry: ViewFile | ViewDirectory | None


class Version:
    """A format of a tree at one version.

    Attributes:
        view: The format and tree.
        number: Counts the versions of a view that were looked at, from 0.
        version: As `Hierarchy.version`.

    Concurrency: on the event loop's thread; `NotInMemoryError` says what runs in a thread.
    """

    def __init__(self, view: "View", number: int, opening: Opening) -> None:
        self.view = view
        self.number = number
        self.version = opening.version
        self._open = opening.open
        self._root: ViewDirectory | None = None
        self._found: Recent[TreePath, Found] = Recent(_MAX_FOUND)

    def find(self, path: TreePath) -> ViewFile | ViewDirectory | None:
        """Returns what is at a path; None if nothing is.

        Raises:
            NotInMemoryError: it has to be looked up, in a thread.
        """
        if self._root is None:
            raise self._missing("root", self._open_root, self._take_root)
        if not path:
            return self._root
        found = self._found.get(path)
        if found is None:
            raise self._missing(path, lambda: Found(self._walk(path)), lambda found: self._found.put(path, found))
        return found.entry

    def layout(self, path: TreePath, file: ViewFile) -> Layout:
        """Returns a file that was found at a path, ready to be read.

        Raises:
            NotInMemoryError: it has to be worked out, in a thread.
        """
        layouts = self.view.layouts
        key = self.view, self.number, path
        layout = layouts.get(key)
        if layout is None:
            raise self._missing(("layout", path), file.layout, lambda layout: layouts.put(key, layout))
        return layout

    def _missing[T](self, key: Hashable, load: Callable[[], T], store: Callable[[T], None]) -> NotInMemoryError:
        return NotInMemoryError((self, key), shown(load), store, by=self.view.bringer)

    # In worker threads.

    def _open_root(self) -> ViewDirectory:
        hierarchy, tools = self._open(), self.view.tools
        return tools.make_format(self.view.choice).root(hierarchy, tools.make_decoder(hierarchy))

    def _take_root(self, root: ViewDirectory) -> None:
        self._root = root
        self.view.keeper.note_loaded(self.view)

    def _walk(self, path: TreePath) -> ViewFile | ViewDirectory | None:
        above = parent(path)
        known = self._found.get(above) if above else None
        entry = self._root if not above else (self._walk(above) if known is None else known.entry)
        return entry.find(base_name(path)) if isinstance(entry, ViewDirectory) else None


def shown[T](load: Callable[[], T]) -> Callable[[], T]:
    """Returns what loads the same, and raises DecodeError where a format shows what it cannot show."""

    def loaded() -> T:
        try:
            return load()
        except NotShownError as error:
            raise DecodeError(error.own_message, reason=error.own_message) from error

    return loaded


type Layouts = Recent[tuple[View, int, TreePath], Layout]
"""Layouts that were used recently: by view, number of the version, and path."""


class Keeper(Protocol):
    """Bounds how many views are in memory."""

    def note_loaded(self, view: "View") -> None:
        """Is called when a version of a view was loaded."""


class View:
    """One format of one tree.

    Attributes:
        source: The tree.
        choice: The format's name with its options.
        key: Tells it from all other views whose content is different.
        tools: What makes it.
        bringer: Fetches, in threads of the views.
        layouts: The layouts that were used recently, of all views.
        keeper: Bounds how many views are in memory.
        users: How many nodes that the kernel knows are of this view.
    """

    def __init__(
        self,
        source: Source,
        choice: str,
        tools: ViewTools,
        bringer: Bringer,
        layouts: Layouts,
        keeper: Keeper,
    ) -> None:
        self.source = source
        self.choice = choice
        self.key = source.key, choice
        self.tools = tools
        self.bringer = bringer
        self.layouts = layouts
        self.keeper = keeper
        self.users = 0
        self._numbers = itertools.count()
        self._current: Version | None = None

    def present(self) -> Version:
        """Returns the present version.

        Raises:
            NotInMemoryError: the tree has to be fetched.
            StaleError: the tree is gone.
        """
        opening = self.source.opening()
        current = self._current
        if current is None or current.version != opening.version:
            number = 0 if self.source.is_immutable else next(self._numbers)
            current = self._current = Version(self, number, opening)
        return current

    def at(self, number: int) -> Version | None:
        """Returns a version by its number, if it is the present one."""
        current = self.present()
        return current if current.number == number else None

    def unload(self) -> None:
        """Drops what can be made again."""
        self._current = None

    def use(self) -> None:
        """Counts a node that the kernel knows; while there is one, the tree stays in memory."""
        if not self.users:
            self.source.retain()
        self.users += 1

    def disuse(self) -> None:
        """Counts a node down that the kernel has forgotten."""
        self.users -= 1
        if not self.users:
            self.source.release()


def new_layouts() -> Layouts:
    """Makes the store of recent layouts of a mount."""
    return Recent(_MAX_LAYOUTS)
