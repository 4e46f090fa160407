"""The life of a branch's working tree: found on the disk or made, opened, taken over, closed.

    nothing was ever written    there is no state directory; the first write makes one
    left by an earlier mount    the first look at the branch goes back to its base, and opens it
    open                        it answers until the mount ends or the branch is deleted

A working tree stays open once it is there, also when a commit has left nothing in it: it keeps the inode numbers and
times that programs have seen.
"""

import random
import stat
from collections.abc import Callable
from typing import Final, Protocol

from icefs.engine.read.session import Session
from icefs.engine.write.collection_log import Collections
from icefs.errors import IcefsError, StaleError
from icefs.format.ids import SnapshotId
from icefs.inode import Ino
from icefs.storage.url import redact
from icefs.vfs.branches.session_base import Guarded, SessionBase
from icefs.vfs.branches.settings import WorkingSettings
from icefs.vfs.inodes.table import Range
from icefs.vfs.interface import NotInMemoryError
from icefs.vfs.trees.finder import open_session
from icefs.vfs.trees.snapshot_tree import SnapshotTree
from icefs.worktree.base import BaseTree
from icefs.worktree.model.nodes import Perm
from icefs.worktree.spool.opening import open_database
from icefs.worktree.spool.state import StateLock, has_state, remove_state, state_dir_for
from icefs.worktree.spool.versions import check_version
from icefs.worktree.tree import TreeOptions, WorkTree

_NUMBERS: Final = 1 << 40
_FILES_AHEAD: Final = 64
_FIRST_ID_BITS: Final = 24


class FileNumbers:
    """Gives inode numbers to the files of a working tree, each once.

    Attributes:
        next: The number that will be given next.
    """

    def __init__(self, reserved: Range, guarded: Guarded) -> None:
        """Takes the numbers that there are, and the lock under which they are given."""
        self.next = reserved.start
        self._guarded = guarded

    def allocate(self) -> Ino:
        """Returns another number; from any thread."""
        with self._guarded.lock:
            self.next += 1
            return Ino(self.next - 1)


class OpeningHooks(Protocol):
    """What else happens when a working tree is opened."""

    def opened(self, work: WorkTree) -> None:
        """Is called in the worker thread that has opened a working tree."""

    def taken(self, work: WorkTree) -> None:
        """Is called on the event loop's thread, just before the working tree answers."""


class WorkingLife:
    """Opens and closes the working tree of one branch.

    Attributes:
        work: The working tree; None while it is not open.
        numbers: Gives its files their numbers.
        state_directory: Where it is kept.
        unusable: Why it, or what it stands on, could not be opened the last time; None if it could.

    Concurrency: on the event loop's thread, but for what is said to run in a worker thread.
    """

    def __init__(self, settings: WorkingSettings, below: SnapshotTree, guarded: Guarded, hooks: OpeningHooks) -> None:
        """Looks whether there is a working tree from before.

        Args:
            settings: Where working trees are kept, and how they are opened.
            below: What the branch shows, which the tree stands on.
            guarded: The lock of what is below.
            hooks: Called when it is opened.
        """
        self.work: WorkTree | None = None
        self.unusable: IcefsError | None = None
        self.numbers = FileNumbers(below.inodes.space.reserve(_NUMBERS, below.inodes.owner, None), guarded)
        options = settings.options
        self.state_directory = options.state_directory or state_dir_for(
            options.state_root, redact(settings.repository.storage.url), below.identity.name, options.mountpoint
        )
        self._settings = settings
        self._below = below
        self._guarded = guarded
        self._hooks = hooks
        self._has_state = has_state(self.state_directory)
        self._is_expected = self._has_state

    @property
    def is_left(self) -> bool:
        """Whether a working tree from before waits to be opened."""
        return self._is_expected and self.work is None

    def open_left(self) -> None:
        """Opens the working tree from before, as the first look at the branch does.

        Raises:
            NotInMemoryError: it is opened in a thread.
        """
        if self.is_left:
            self.require()

    def require(self) -> WorkTree:
        """Returns the working tree, which is made if there is none.

        Raises:
            NotInMemoryError: it has to be opened.
            StaleError: the branch is gone.
        """
        below = self._below
        if below.is_gone:
            raise StaleError(f"{below.label} is gone", path=below.label)
        if self.work is None and self._has_state:
            raise NotInMemoryError((id(self), "state"), self._tried(self._load_base), self._stand_on)
        if self.work is None:
            session = below.files.finder.require_session()
            raise NotInMemoryError((id(self), "work"), self._tried(lambda: self._open(session)), self.take)
        return self.work

    def _tried[T](self, load: Callable[[], T]) -> Callable[[], T]:
        """Returns what loads the same, and keeps the reason where that fails."""

        def tried() -> T:
            try:
                found = load()
            except IcefsError as error:
                self.unusable = error
                raise
            self.unusable = None
            return found

        return tried

    # In a worker thread.

    def _load_base(self) -> Session | None:
        """Opens the snapshot that the working tree on the disk stands on."""
        check_version(self.state_directory)
        with StateLock(self.state_directory):  # SQLite would wait for the process that has it open, and not name it
            journal = open_database(self.state_directory).journal
            try:
                base = journal.meta().get("base")
            finally:
                journal.close()
        return None if base is None else open_session(self._settings.repository, SnapshotId.parse(str(base)))

    def _base_of(self, text: str) -> BaseTree:
        """Returns the base of a snapshot, by the text of its id that the state directory has; may fetch it."""
        session, snapshot_id = self._below.session, SnapshotId.parse(text)
        if session is None or session.snapshot_id != snapshot_id:
            session = open_session(self._settings.repository, snapshot_id)
        return SessionBase(self._below, self._guarded, session)

    def _open(self, session: Session) -> WorkTree:
        settings, look = self._settings, self._below.look
        repository, owner = settings.repository, look.ownership

        def perm(mode: int) -> Perm:
            return Perm(stat.S_IMODE(mode), owner.uid, owner.gid)

        work = WorkTree(
            self.state_directory,
            TreeOptions(
                base_for=self._base_of,
                allocate_ino=self.numbers.allocate,
                repository=redact(repository.storage.url),
                branch=self._below.identity.name,
                mountpoint=settings.options.mountpoint,
                base=str(session.snapshot_id),
                file=perm(look.file_mode),
                directory=perm(look.dir_mode),
                files_ahead=_FILES_AHEAD,
                first_id=1 + random.getrandbits(_FIRST_ID_BITS) << 12,
            ),
        )
        try:
            self._hooks.opened(work)
            work.start_uploads(
                repository.storage,
                repository.context.inline_threshold_bytes,
                settings.options.uploads,
                Collections(repository.context),
            )
        except BaseException:
            work.close()
            raise
        return work

    # On the event loop's thread.

    def _stand_on(self, session: Session | None) -> None:
        """Goes back to where the working tree was left; nobody has looked at the branch yet."""
        if session is not None and session.snapshot_id != self._below.snapshot_id:
            self._below.restart(session.snapshot_id, session.snapshot.flushed_at, session)
        self._has_state = False
        self._is_expected = True

    def take(self, work: WorkTree) -> None:
        """Takes over an opened working tree; ends it where the branch was deleted meanwhile."""
        self._hooks.taken(work)
        self.work = work
        self._is_expected = False
        if self._below.is_gone:
            self.close()

    def close(self) -> None:
        """Closes the working tree, if it is open; one that has nothing to keep is removed."""
        work, self.work = self.work, None
        if work is not None:
            is_clean = work.is_clean()
            work.close()
            if is_clean:
                remove_state(self.state_directory)
