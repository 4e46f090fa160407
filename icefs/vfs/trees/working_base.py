"""The working tree over a branch: its life, how operations run in it, and the base that it stands on."""

import random
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from icefs.engine.read.session import Session
from icefs.engine.write.collection_log import Collections
from icefs.engine.write.repository import WritableRepository
from icefs.errors import IcefsError, StaleError
from icefs.format.ids import SnapshotId
from icefs.inode import Invalidations
from icefs.log_context import in_branch
from icefs.storage.url import redact
from icefs.vfs.attrs import FOREVER_S, Attr
from icefs.vfs.inodes.numbers import CONTROL_SLOT
from icefs.vfs.interface import Notifier, NotInMemoryError
from icefs.vfs.notes.consolidated import groups_changed
from icefs.vfs.observe.counters import Outcomes
from icefs.vfs.threads import Fetches, Threads
from icefs.vfs.trees.advance import Advance
from icefs.vfs.trees.base import Guarded, SessionBase
from icefs.vfs.trees.branch_tree import BranchTree
from icefs.vfs.trees.listing import Section
from icefs.vfs.trees.places import Place, TreeContext, open_session
from icefs.vfs.trees.renames import Renaming
from icefs.worktree.base import BaseTree
from icefs.worktree.model.nodes import Attr as NodeAttr
from icefs.worktree.model.nodes import Perm, TreeEntry, Where
from icefs.worktree.spool.opening import open_database
from icefs.worktree.spool.state import StateLock, has_state, remove_state, state_dir_for
from icefs.worktree.spool.versions import check_version
from icefs.worktree.tree import TreeOptions, WorkTree
from icefs.worktree.upload.packing import UploadOptions
from icefs.zarr.keys import METADATA_NAME, metadata_key, node_prefix

if TYPE_CHECKING:
    import trio

_UPPER_NUMBERS: Final = 1 << 40
_CONTROL_NUMBERS: Final = 256
_MAX_TRIES: Final = 100
_FILES_AHEAD: Final = 64
_FIRST_ID_BITS: Final = 24


@dataclass(frozen=True, slots=True)
class WorkingSettings:
    """What writable branches of a mount share.

    Attributes:
        repository: What commits go to.
        state_root: Where working trees are kept.
        place: Tells the working trees of one branch apart: the mountpoint.
        threads: For what may wait.
        jobs: For commits, discards, rebases and reports, which do not wait for programs that read and write.
        fetches: For what is not in memory; those of the whole mount.
        notifier: How the kernel is told.
        uploads: How chunks are stored.
        outcomes: Counts what becomes of commits.
        state_directory: The state directory itself, where it is known.
    """

    repository: WritableRepository
    state_root: Path
    place: str
    threads: Threads
    jobs: Threads
    fetches: Fetches
    notifier: Notifier
    uploads: UploadOptions
    outcomes: Outcomes
    state_directory: Path | None = None


class WorkingBase(BranchTree):
    """The working tree of a branch: how it is opened and closed, how operations run in it, what is below it.

    Attributes:
        work: The working tree; None while nothing was ever written.
        settings: What it shares with the mount's other branches.
        last_commit: What became of the last commit, in JSON.
        last_rebase: What became of the last rebase.
        last_discard: What became of the last discard.
        is_committing: Whether a commit, discard or rebase is under way.
        followed_groups: Groups with consolidated metadata below which advances of the branch changed something.
        unusable: Why the working tree, or what it stands on, could not be opened the last time; None if it could.
    """

    def __init__(self, settings: WorkingSettings, context: TreeContext, *args: Any, **options: Any) -> None:
        super().__init__(context, *args, **options)
        self.settings = settings
        self.work: WorkTree | None = None
        self.last_commit: dict[str, Any] | None = None
        self.last_rebase: dict[str, Any] | None = None
        self.last_discard: dict[str, Any] | None = None
        self.is_committing = False
        self.followed_groups: set[str] = set()
        self.unusable: IcefsError | None = None
        self.guarded = Guarded()
        self._upper = context.space.reserve(_UPPER_NUMBERS, self, None)
        self._next_upper = self._upper.start
        self._busy = 0
        self._moving: trio.Event | None = None
        self.state_directory = settings.state_directory or state_dir_for(
            settings.state_root, redact(settings.repository.storage.url), self.name, settings.place
        )
        self._has_state = has_state(self.state_directory)
        self._state_pending = self._has_state

    # The working tree's life.

    @property
    def next_number(self) -> int:
        """The inode number that will be given next."""
        return self._next_upper

    def _allocate(self) -> int:
        with self.guarded.lock:
            self._next_upper += 1
            return self._next_upper - 1

    def base_for(self, snapshot_id: str) -> BaseTree:
        """Returns the base of a snapshot; may fetch it."""
        session = self.session
        if session is None or str(session.snapshot_id) != snapshot_id:
            session = open_session(self.settings.repository, SnapshotId.parse(snapshot_id))
        return SessionBase(self, self.guarded, session)

    def _open_work(self, session: Session) -> WorkTree:
        """Opens the working tree; in a worker thread."""
        owner = self._context.ownership

        def perm(mode: int) -> Perm:
            return Perm(stat.S_IMODE(mode), owner.uid, owner.gid)

        work = WorkTree(
            self.state_directory,
            TreeOptions(
                base_for=self.base_for,
                allocate_ino=self._allocate,
                repository=redact(self.settings.repository.storage.url),
                branch=self.name,
                place=self.settings.place,
                base=str(session.snapshot_id),
                file=perm(self._file_mode),
                directory=perm(self._dir_mode),
                files_ahead=_FILES_AHEAD,
                first_id=1 + random.getrandbits(_FIRST_ID_BITS) << 12,
            ),
        )
        try:
            self._recover(work, session)
            repository = self.settings.repository
            work.start_uploads(
                repository.storage,
                repository.context.inline_threshold_bytes,
                self.settings.uploads,
                Collections(repository.context),
            )
        except BaseException:
            work.close()
            raise
        return work

    def _recover(self, work: WorkTree, session: Session) -> None:
        """Brings a working tree that was just opened to where it can be worked with; in a worker thread."""

    def _require_work(self) -> WorkTree:
        if self.is_gone:
            raise StaleError(f"{self._label} is gone", path=self._label)
        if self.work is None and self._has_state:
            raise NotInMemoryError((id(self), "state"), self._tried(self._load_base), self._stand_on)
        if self.work is None:
            session = self._require_session()
            opening = self._tried(lambda: self._open_work(session))
            raise NotInMemoryError((id(self), "work"), opening, self.take_work)
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

    def _load_base(self) -> Session | None:
        """Opens the snapshot that the working tree on the disk stands on; in a worker thread."""
        check_version(self.state_directory)
        with StateLock(self.state_directory):  # SQLite would wait for whoever has it open, and not say who it is
            journal = open_database(self.state_directory).journal
            try:
                base = journal.meta().get("base")
            finally:
                journal.close()
        return None if base is None else open_session(self.settings.repository, SnapshotId.parse(str(base)))

    def _stand_on(self, session: Session | None) -> None:
        """Goes back to where the working tree was left; nobody has looked at the branch yet."""
        if session is not None and session.snapshot_id != self.snapshot_id:
            self.unload()
            self.snapshot_id = session.snapshot_id
            self._begin_history(session.snapshot_id, session.snapshot.flushed_at)
            self.session = session
        self._has_state = False
        self._state_pending = True

    def take_work(self, work: WorkTree) -> None:
        """Takes over an opened working tree; ends it where the branch was deleted meanwhile."""
        self.work = work
        self._state_pending = False
        if self.is_gone:
            self._end_work()

    def close_work(self) -> None:
        """Closes the working tree, at the end of the mount; one that has nothing to keep is removed."""
        work, self.work = self.work, None
        if work is not None:
            is_clean = work.is_clean()
            work.close()
            if is_clean:
                remove_state(self.state_directory)

    def retire(self) -> None:
        """Ends the tree; what was not committed stays in the state directory, which otherwise goes."""
        super().retire()
        self._end_work()

    def _end_work(self) -> None:
        self.close_work()

    def used_numbers(self) -> Iterable[int] | None:
        """Returns the numbers that files kept over commits."""
        if self.is_committing or self._moving is not None:
            return None
        return () if self.work is None else self.work.used_numbers()

    @property
    def is_pinned(self) -> bool:
        """Whether the tree stays where it is, because there are changes over it, or may be at any moment."""
        work = self.work
        # Busy: a working tree that is being opened will stand on what the branch shows now.
        if self._state_pending or self._busy > 0:
            return True
        return work is not None and (
            self.is_committing or work.pending_intent is not None or work.files.has_writers() or work.has_changes()
        )

    def advance(self, advance: Advance, open_inos: Iterable[int], renaming: Renaming | None = None) -> Invalidations:
        """Takes over what was planned, and remembers the groups whose consolidated metadata it may have made wrong."""
        self.followed_groups |= groups_changed(advance.session, advance.changes)
        return super().advance(advance, open_inos, renaming)

    # How operations run.

    async def may_write(self) -> None:
        """Waits while the branch moves."""
        while self._moving is not None:
            await self._moving.wait()

    async def in_thread[T](self, function: Callable[[], T], threads: Threads | None = None) -> T:
        """Runs what may wait in a thread; the branch does not move meanwhile, also if nobody waits any more."""

        def ended() -> None:
            self._busy -= 1

        self._busy += 1
        return await (threads or self.settings.threads).run(in_branch(self.name, function), ended)

    async def change[T](self, operation: Callable[[WorkTree], T], *, may_wait: bool = False) -> T:
        """Runs an operation of the working tree, opened if there is none."""
        for _ in range(_MAX_TRIES):
            await self.may_write()
            try:
                work = self._require_work()
                if may_wait:
                    return await self.in_thread(lambda: operation(work))  # noqa: B023  (it is awaited here)
                return operation(work)
            except NotInMemoryError as missing:
                await self._bring(missing)
        raise StaleError(f"{self._label}: what was fetched is always gone again")

    async def _bring(self, missing: NotInMemoryError) -> None:
        """Fetches what is missing, together with all others that need it: a state directory is opened but once."""
        self._busy += 1
        try:
            load = in_branch(self.name, missing.load)
            await self.settings.fetches.bring(
                NotInMemoryError(missing.key, load, missing.store, is_for_asker=missing.is_for_asker)
            )
        finally:
            self._busy -= 1

    # Names of things.

    def _is_control(self, ino: int) -> bool:
        return CONTROL_SLOT <= ino - self.fixed.start < _CONTROL_NUMBERS

    def where(self, ino: int) -> Where:
        """Returns how the working tree names what the kernel knows by a number.

        Raises:
            StaleError: it is no longer there.
        """
        work = self.work
        if work is None or work.knows(ino):
            return ino
        return self.guarded.call(lambda: self._base_path(ino))

    def _base_path(self, ino: int) -> str:
        place = self.locate(ino)
        if place.dir_path is not None:
            return place.dir_path[1:]
        if place.file_path is not None:
            return metadata_key(place.file_path)
        if place.view is None:
            raise self._stale(ino)
        return node_prefix(place.view.node.path) + place.view.path_of(place.prefix)

    def _find_base(self, path: str) -> Place | None:
        above, _, name = path.rpartition("/")
        if name == METADATA_NAME:
            info = self.dir_info(f"/{above}")
            if info is not None and info.node is not None:
                return Place(file_path=f"/{above}")
        if self.is_node_dir(f"/{path}"):
            return Place(dir_path=f"/{path}")
        names = [name]
        while True:
            info = self.dir_info(f"/{above}")
            if info is not None and info.node is not None and info.node.array is not None:
                view = self.view(info.node)
                prefix = None if view.layout is None else view.layout.parse_prefix(names)
                if prefix is not None:
                    is_there = view.find(prefix) is not None if len(names) == view.depth else view.has_dir(prefix)
                    if is_there:
                        return Place(view=view, prefix=prefix)
            if not above:
                return None
            above, _, part = above.rpartition("/")
            names.insert(0, part)

    def base_attr(self, path: str) -> Attr | None:
        """Returns the attributes of a path of the snapshot that the tree stands on."""
        place = self._find_base(path) if path else Place(dir_path="/")
        if place is None:
            return None
        if place.dir_path is not None:
            return self.dir_attr(place.dir_path)
        if place.file_path is not None:
            info = self.dir_info(place.file_path)
            assert info is not None
            assert info.node is not None
            return self._file_attr(place.file_path, info.node)
        view = place.view
        assert view is not None
        if len(place.prefix) < view.chunks.ndim:
            return self._chunk_dir_attr(view, place.prefix)
        ref = view.find(place.prefix)
        return None if ref is None else self._chunk_attr(view, place.prefix, ref)

    def base_sections(self, path: str) -> list[Section]:
        """Lists a directory of the snapshot that the tree stands on, without dots."""
        place = self._find_base(path) if path else Place(dir_path="/")
        if place is None:
            return []
        if place.dir_path is not None:
            sections = self._list_node_dir(place.dir_path)
        elif place.view is not None:
            sections = self._list_chunk_dir(place.view, place.prefix)
        else:
            return []
        return [section for section in sections[1:] if len(section)]

    def _kernel_attr(self, attr: NodeAttr) -> Attr:
        return Attr(
            ino=attr.ino,
            mode=attr.mode,
            nlink=2 if attr.is_dir else attr.nlink,
            uid=attr.uid,
            gid=attr.gid,
            size=attr.size,
            mtime_ns=attr.mtime_ns,
            ctime_ns=attr.ctime_ns,
            atime_ns=attr.atime_ns,
            entry_timeout_s=FOREVER_S,
            attr_timeout_s=FOREVER_S,
        )

    def _entered(self, entry: TreeEntry) -> Attr:
        self.kernel_refs += 1
        return self._kernel_attr(entry.attr)
