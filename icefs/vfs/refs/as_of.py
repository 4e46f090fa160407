"""The directory `as-of` of a mount: `as-of/BRANCH/TIME` leads to the snapshot that was the branch's tip then.

A time is a symbolic link to the snapshot below `snapshots`, so that a version has one place, whatever leads there. Any
spelling that `--as-of` takes can be looked up; the days on which the branch has commits are listed.
"""

import stat
from collections.abc import Callable, Sequence
from datetime import date
from typing import Final, NamedTuple, override

from icefs.clock import NS_PER_US, read_last_moment, to_micros
from icefs.engine.read.refs import Refs
from icefs.errors import IsADirectoryTreeError, StaleError, TreeError
from icefs.format.ids import SnapshotId
from icefs.inode import Ino
from icefs.vfs.attrs import ABSENT, Attr
from icefs.vfs.inodes.table import Range
from icefs.vfs.interface import DirHandle, FileHandle, NotInMemoryError, Tree, TreeChanges, not_a_directory
from icefs.vfs.names import decode_ref, encode_ref
from icefs.vfs.refs.branch_history import BranchHistory, fetch_history
from icefs.vfs.trees.context import TreeContext
from icefs.vfs.trees.listing import Listing, NamedEntries, Section

AS_OF_NAME: Final = "as-of"

_NUMBERS: Final = 1 << 40
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()


class _Place(NamedTuple):
    """What a number stands for: the directory itself, that of a branch, or with a snapshot a link in that."""

    branch: str = ""
    snapshot_id: SnapshotId | None = None
    flushed_at: int = 0


class AsOfTree(Tree):
    """The directory `as-of`, with a directory for each branch.

    A number is given once for each branch and snapshot that was looked at, and never taken back: what a link leads to
    never changes, while a name may lead to another link as soon as the branch moves. So the kernel asks for each name
    again.

    Attributes:
        ino: The directory's inode.
    """

    def __init__(
        self,
        context: TreeContext,
        refs: Callable[[], Refs],
        shown: Callable[[str], SnapshotId | None],
        parent_ino: Ino,
        now_ns: int,
    ) -> None:
        """Makes the directory.

        Args:
            context: What all trees share.
            refs: Returns the refs as last seen.
            shown: Returns the snapshot that the mount shows a branch at, if it does: after a commit of the mount's own
                it may be newer than the refs as last seen.
            parent_ino: The root of the mount.
            now_ns: The time that the directories have.
        """
        self._context = context
        self._refs = refs
        self._shown = shown
        self._parent_ino = parent_ino
        self._now_ns = now_ns
        self._range: Range = context.space.reserve(_NUMBERS, self, None)
        self._places: list[_Place] = []
        self._inos: dict[tuple[str, SnapshotId | None], Ino] = {}
        self._histories: dict[str, dict[SnapshotId, BranchHistory]] = {}
        self.ino = self._number(_Place())

    @property
    @override
    def label(self) -> str:
        return AS_OF_NAME

    @property
    @override
    def changes(self) -> TreeChanges:
        return TreeChanges(self.path_of)

    @override
    def path_of(self, ino: Ino) -> str:
        number = ino - self._range.start
        if not 0 <= number < len(self._places):
            return f"inode {ino}"
        place = self._places[number]
        parts = [place.branch and encode_ref(place.branch), place.snapshot_id and str(place.snapshot_id)]
        return "/" + "/".join(part for part in parts if part)

    def _number(self, place: _Place) -> Ino:
        key = place.branch, place.snapshot_id
        ino = self._inos.get(key)
        if ino is None:
            ino = self._inos[key] = Ino(self._range.start + len(self._places))
            self._places.append(place)
        return ino

    def _place(self, ino: Ino) -> _Place:
        number = ino - self._range.start
        if not 0 <= number < len(self._places):
            raise StaleError(f"inode {ino} is gone", ino=ino)
        return self._places[number]

    # Attributes.

    @override
    def getattr(self, ino: Ino) -> Attr:
        return self._attr(ino, self._place(ino))

    def _attr(self, ino: Ino, place: _Place) -> Attr:
        ownership = self._context.ownership
        if place.snapshot_id is None:
            return ownership.attr(ino, ownership.dir_mode(writable=False), 2, 0, self._now_ns)
        size = len(_target(place.snapshot_id))
        return ownership.attr(ino, stat.S_IFLNK | 0o777, 1, size, place.flushed_at * NS_PER_US)

    @override
    def readlink(self, ino: Ino) -> str:
        place = self._place(ino)
        if place.snapshot_id is None:
            raise TreeError("not a symbolic link", ino=ino)
        return _target(place.snapshot_id)

    # Names.

    @override
    def lookup(self, parent: Ino, name: str) -> Attr:
        place = self._place(parent)
        if place.snapshot_id is not None:
            raise not_a_directory(self.path_of(parent))
        found = self._find_time(place.branch, name) if place.branch else self._find_branch(name)
        return ABSENT if found is None else self._attr(self._number(found), found)._replace(entry_timeout_s=0.0)

    def _find_branch(self, text: str) -> _Place | None:
        name = decode_ref(text)
        return _Place(name) if name is not None and name in self._refs().branches else None

    def _find_time(self, branch: str, text: str) -> _Place | None:
        try:
            micros = to_micros(read_last_moment(text))
        except ValueError:
            return None
        history = self._history(branch)
        return None if history is None else _link(branch, history, history.find(micros))

    def _history(self, branch: str) -> BranchHistory | None:
        """Returns the history of a branch's tip; None if the branch is gone."""
        tip = self._refs().branches.get(branch)
        if tip is None:
            self._histories.pop(branch, None)
            return None
        history = self._require(branch, tip)
        shown = self._shown(branch)
        if shown is None or shown == tip or shown in history:
            return history
        # The mount has committed since, unless the branch was reset: then its tip is not in what the mount shows.
        own = self._require(branch, shown)
        return own if tip in own else history

    def _require(self, branch: str, snapshot_id: SnapshotId) -> BranchHistory:
        known = self._histories.setdefault(branch, {})
        history = known.get(snapshot_id)
        if history is not None:
            return history
        repository = self._context.repository
        last = next(reversed(known.values()), None)

        def store(history: BranchHistory) -> None:
            # Two: the refs' tip, and the snapshot that the mount shows.
            for old in list(known)[:-1]:
                del known[old]
            known[snapshot_id] = history

        raise NotInMemoryError(
            (id(self), branch, snapshot_id), lambda: fetch_history(repository, snapshot_id, last), store
        )

    # Listing.

    @override
    def opendir(self, ino: Ino) -> DirHandle:
        place = self._place(ino)
        if place.snapshot_id is not None:
            raise not_a_directory(self.path_of(ino))
        return Listing(ino, lambda: self._list(ino, place.branch), _note_nothing)

    def _list(self, ino: Ino, branch: str) -> Sequence[Section]:
        own = self._attr(ino, _Place(branch))
        parent_ino = self.ino if branch else self._parent_ino
        dots = NamedEntries(own, [(b".", own.ino, 0, own.mtime_ns), (b"..", parent_ino, 0, own.mtime_ns)])
        shown = self._times(branch) if branch else self._branches()
        if not shown:
            return [dots]
        template = self._attr(self._number(shown[0][1]), shown[0][1])._replace(entry_timeout_s=0.0)
        entries = []
        for name, place in shown:
            attr = self._attr(self._number(place), place)
            entries.append((name.encode(), attr.ino, attr.size, attr.mtime_ns))
        return [dots, NamedEntries(template, entries)]

    def _branches(self) -> list[tuple[str, _Place]]:
        names = self._refs().branches
        return [(text, _Place(name)) for name in names if (text := encode_ref(name)) is not None]

    def _times(self, branch: str) -> list[tuple[str, _Place]]:
        history = self._history(branch)
        if history is None:
            raise StaleError(f"branch {branch} was deleted")
        listed = []
        for day in history.days:
            name = date.fromordinal(_EPOCH_DAY + day).isoformat()
            place = self._find_time(branch, name)
            if place is not None:
                listed.append((name, place))
        return listed

    @override
    def open(self, ino: Ino, flags: int) -> FileHandle:
        raise IsADirectoryTreeError(f"{self.label}{self.path_of(ino)} is a directory")


def _link(branch: str, history: BranchHistory, position: int | None) -> _Place | None:
    return None if position is None else _Place(branch, history.ids[position], history.times[position])


def _target(snapshot_id: SnapshotId) -> str:
    """Returns where a link in the directory of a branch leads."""
    return f"../../snapshots/{snapshot_id}"


def _note_nothing(run: object, first: int, end: int) -> None:
    """Nothing is counted: numbers stay."""
