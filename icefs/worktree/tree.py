"""The working tree of a branch: what programs did since the base snapshot, over that snapshot.

A mount's requests, and the commands on its control files, end here. The tree's operations are those of its rooms:

    entries     what stands where (`ops.entries`)
    names       creates, removes, renames and links (`ops.namespace`)
    attributes  sets mode, owner, times and size (`ops.attributes`)
    files       open files: reads, writes, truncates, syncs (`ops.files`)
    removed     removed files that the kernel still knows (`ops.removed`)
    uploads     uploads in the background (`upload.background`)

Here are the operations on the tree as a whole: opening and closing it, its views, commits and changes of base.

After `flush` (every `close(2)`), and after any change of a name or an attribute, the result survives the death of the
process; after `fsync` of a file or directory power loss, too.

Everything is synchronous and may be called from any thread; `CONCURRENCY.md` says what may happen at the same time. A
write may wait for a freeze or a copy-up, and the base may be remote.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from icefs.engine.read.session import Session
from icefs.engine.write.collection_log import Collections
from icefs.errors import NoSpaceError, SessionStateError
from icefs.inode import Ino
from icefs.paths import ROOT_DIRECTORY, TreePath
from icefs.storage.base import Storage
from icefs.worktree.base import BaseFactory
from icefs.worktree.core.content import Content
from icefs.worktree.core.damage import Damage, DamageReport
from icefs.worktree.core.invariants import check_invariants
from icefs.worktree.core.tree_core import TreeCore
from icefs.worktree.freeze.changes import TreeChange, list_changes
from icefs.worktree.freeze.commits import Commits
from icefs.worktree.freeze.frozen import FrozenTree
from icefs.worktree.model.node_tree import ROOT_ID, Defaults
from icefs.worktree.model.nodes import STORED, FileNode, Perm
from icefs.worktree.ops.attributes import Attributes
from icefs.worktree.ops.discard import (
    Discarded,
    count_changes,
    count_entries,
    discard,
    has_changes,
    is_clean,
    own_content,
)
from icefs.worktree.ops.entries import Entries
from icefs.worktree.ops.files import Files
from icefs.worktree.ops.namespace import Namespace
from icefs.worktree.ops.removal import Removal
from icefs.worktree.ops.removed import RemovedFiles
from icefs.worktree.rebase.base_change import Advance, change_base, nothing_below
from icefs.worktree.rebase.plan import BaseOutcome, BasePlan
from icefs.worktree.recovery import Loader, Recovery
from icefs.worktree.spool.files import DiskIo, Spool
from icefs.worktree.spool.journal import Intent, Journal
from icefs.worktree.spool.opening import Opened, open_database
from icefs.worktree.spool.state import SPOOL_NAME, StateInfo, check_owner, make_and_lock, read_info, write_info
from icefs.worktree.spool.versions import check_version
from icefs.worktree.stage.staged import StagedAt
from icefs.worktree.stage.stager import stage
from icefs.worktree.upload.background import BackgroundUploads
from icefs.worktree.upload.log import LOG_NAME, UploadLog
from icefs.worktree.upload.options import UploadOptions


@dataclass(frozen=True, slots=True)
class TreeOptions:
    """How a working tree is opened.

    Attributes:
        base_for: Returns the base of a snapshot, by id.
        allocate_ino: Returns an inode number that no base uses, another one at every call.
        repository: Identifies the repository; a tree of another one is refused. Without secrets.
        branch: The branch.
        mountpoint: The directory that it is mounted on, for people; empty where that is not known.
        base: The snapshot that a new tree stands on; an existing one has its own.
        file: Mode and owner of what the base provides.
        directory: The same for directories.
        now_ns: The clock.
        io: The system calls on spool files.
        open_journal: Opens the database.
        files_ahead: How many spool files are made ahead for programs that write many files.
        first_id: The smallest id that is given from now on; `spool` says why trees do not all begin with the same.
    """

    base_for: BaseFactory
    allocate_ino: Callable[[], Ino]
    repository: str
    branch: str
    base: str
    file: Perm = field(default_factory=lambda: Perm(0o644, os.getuid(), os.getgid()))
    directory: Perm = field(default_factory=lambda: Perm(0o755, os.getuid(), os.getgid()))
    now_ns: Callable[[], int] = time.time_ns
    io: DiskIo = field(default_factory=DiskIo)
    open_journal: Callable[[Path], Journal] = Journal
    files_ahead: int = 0
    first_id: int = ROOT_ID + 1
    mountpoint: str = ""


class WorkTree:
    """An open working tree.

    Attributes:
        directory: Its state directory.
        uploads: What uploads chunks in the background; None for nothing.
        repository, branch: What it belongs to.
        recovery: The findings of its opening.
        entries: What stands where.
        names: Creates, removes and renames entries.
        attributes: Changes mode, owner, times and size.
        files: The open files.
        removed: Keeps removed files for a kernel.
        attempts: The snapshots that were about to be published on its base; one may appear late.
    """

    def __init__(self, directory: Path, options: TreeOptions) -> None:
        """Opens the tree in a state directory, made if there is none.

        Raises:
            SessionStateError: another process has it open, or it belongs to another repository or branch.
            UnsupportedSpecVersionError: a newer icefs wrote it.
            NoSpaceError, AccessDeniedError: the directory cannot be written to.
            StorageError: its database is damaged.
        """
        self.directory = directory
        self._staged: StagedAt | None = None
        self.repository, self.branch = options.repository, options.branch
        self._mountpoint = options.mountpoint
        check_version(directory)
        self._lock = make_and_lock(directory, options.io)
        self.uploads: BackgroundUploads | None = None
        try:
            opened = open_database(directory, options.open_journal)
            try:
                self._open(opened, options)
            except BaseException:
                opened.journal.close()
                raise
        except BaseException:
            self._lock.release()
            raise

    def _open(self, opened: Opened, options: TreeOptions) -> None:
        journal, meta = opened.journal, opened.journal.meta()
        check_owner(self.directory, meta, self.repository, self.branch)
        base = str(meta.get("base", options.base))
        base_tree = options.base_for(base)
        root = base_tree.stat(ROOT_DIRECTORY)
        self._core = core = TreeCore(
            journal=journal,
            spool=Spool(self.directory / SPOOL_NAME, options.io),
            base_tree=base_tree,
            base_for=options.base_for,
            allocate=options.allocate_ino,
            now_ns=options.now_ns,
            defaults=Defaults(options.file, options.directory),
        )
        core.base = base
        core.next_id = options.first_id
        if root is not None:
            core.root.ino = root.ino
            core.root.mtime_ns = core.root.ctime_ns = core.root.atime_ns = root.mtime_ns
        self._content = Content(core, options.files_ahead)
        self._removal = Removal(core)
        self.entries = Entries(core)
        self.attributes = Attributes(core, self._content)
        self.files = Files(core, self._content)
        self.names = Namespace(core, self.files, self._removal)
        self.removed = RemovedFiles(core, self._content)
        self._commits = Commits(core, self._content)
        self.attempts = self._commits.attempts
        is_new = "repository" not in meta
        if is_new:
            facts = {"repository": self.repository, "branch": self.branch, "base": base, "notes": meta.get("notes")}
            journal.replace_tree([core.row(core.root)], [], closed=0, **facts)
        loader = Loader(core)
        was_closed = bool(meta.get("closed"))
        self.recovery: Recovery = loader.load(was_closed=was_closed)
        self.recovery.is_new = is_new
        loader.load_frozen(self._commits)
        loader.sweep(opened, was_closed=was_closed)
        journal.set_meta(closed=0)
        # Their entries have to last before any fsync says that a file does.
        options.io.sync_dir(os.fspath(self.directory / SPOOL_NAME))
        options.io.sync_dir(os.fspath(self.directory))
        self._damage = DamageReport(self.directory, core)
        self._write_info(self.recovery.entries)

    def _write_info(self, entries: int) -> None:
        known = read_info(self.directory)
        mountpoint = self._mountpoint or ("" if known is None else known.mountpoint)
        write_info(self.directory, StateInfo(self.repository, self.branch, self._core.base, entries, mountpoint))

    def close(self) -> None:
        """Writes what is not written yet and gives the state directory free; open handles are lost.

        An unresolved freeze stays as it is: without an intent the next `open` abandons it.

        Raises:
            NoSpaceError, StorageError: not all could be written. The tree is closed all the same, and is found as
                after the death of the process: with all that was flushed.
        """
        core = self._core
        if self.uploads is not None:
            self.uploads.close()
        try:
            self._write_all()
            core.journal.set_meta(closed=1)
            with contextlib.suppress(NoSpaceError):  # it is for people to read, and says less than the database
                self._write_info(count_entries(core))
        finally:
            with core.lock:
                core.is_closed = True
                for opened in core.by_ino.values():
                    if isinstance(opened, FileNode) and opened.io is not None and opened.io.file is not None:
                        opened.io.file.retire()
                self._content.close()
            core.removals.close()
            core.journal.close()
            self._lock.release()

    def start_uploads(
        self,
        storage: Storage,
        inline_bytes: int,
        options: UploadOptions,
        collections: Collections,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        """Begins to upload chunks in the background, if the options want it; locally, to write them to the disk.

        Args:
            storage: Where the repository is.
            inline_bytes: Up to which size chunks are not uploaded at all.
            options: How.
            collections: The garbage collections of the repository.
            monotonic: The clock that tells how long a file has been quiet, in seconds.
            clock_s: The time, in seconds since 1970.

        Raises:
            StorageError: the record of uploads cannot be written.
        """
        if storage.capabilities.local_files:
            self._content.write_behind()
        elif options.quiet_s is not None:
            log = UploadLog(self.directory / LOG_NAME)
            uploads = BackgroundUploads(
                self._core, storage, inline_bytes, options, log, collections, monotonic=monotonic, clock_s=clock_s
            )
            self.uploads = uploads

    def _write_all(self) -> None:
        core = self._core
        with core.change() as op:
            for node in core.behind:
                self._content.store(op, node)
            for directory in core.soft:
                if directory.flags & STORED:
                    op.store[directory] = None
            op.write = lambda batch: core.journal.apply(replace(batch, is_needed=True))
            op.commit()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # The tree as a whole

    @property
    def base(self) -> str:
        """The snapshot that the tree stands on."""
        return self._core.base

    def used_numbers(self) -> list[Ino]:
        """Returns the inode numbers that the tree answers for: of its nodes, and of what was committed."""
        with self._core.lock:
            return [*self._core.by_ino, *self._core.retained.used()]

    @property
    def root_ino(self) -> Ino:
        """The inode number of the root."""
        return self._core.root.ino

    def has_changes(self) -> bool:
        """Tells whether the tree shows anything else than its base, times and modes aside."""
        return has_changes(self._core)

    def is_clean(self) -> bool:
        """Tells whether nothing would be lost with the tree."""
        return self.pending_intent is None and is_clean(self._core) and not (self.attempts or self.damage())

    def count_changes(self, limit: int) -> int:
        """Counts the names that lead elsewhere than in the base, up to a limit."""
        return count_changes(self._core, limit)

    def damage(self) -> Damage:
        """Tells what of the state directory was damaged when it was opened, and is not healed."""
        return self._damage.now()

    def changes(self) -> Iterator[TreeChange]:
        """Yields what differs from the base: a directory before what is in it, names sorted."""
        with contextlib.ExitStack() as undo:
            undo.callback(self.release_view, frozen := self.view())
            yield from list_changes(frozen)

    def staged_now(self, open_base: Callable[[str], Session]) -> StagedAt:
        """Works out what the tree changes in its base; where nothing changed since the last call, returns that answer.

        The tree may be written to meanwhile.

        Args:
            open_base: Opens a snapshot by its id.

        Raises:
            StorageError, FormatError: as `stage`.
        """
        known = self._staged
        if known is not None and (str(known.base.snapshot_id), known.revision) == (self.base, self.revision):
            return known
        view = self.view()
        try:
            base = open_base(view.base)
            known = self._staged = StagedAt(base, view.revision, stage(view, base))
        finally:
            self.release_view(view)
        return known

    def table_sizes(self) -> dict[str, int]:
        """Returns how many entries each table of the tree has; for tests of what grows."""
        core = self._core
        with core.lock:
            return {
                "nodes": len(core.by_ino),
                "kept": len(core.retained),
                "superseded": len(core.superseded),
                "deferred": len(core.deferred),
                "final": len(core.final),
                "behind": len(core.behind),
                "views": len(core.views),
            }

    def check_invariants(self) -> None:
        """Raises AssertionError if a stated invariant does not hold; for tests."""
        check_invariants(self._core)

    # Commits

    def freeze(self) -> FrozenTree:
        """Takes the view that a commit works on; writers wait until those under way have ended."""
        return self._commits.freeze()

    def view(self) -> FrozenTree:
        """Takes a view for looking only; give it back with `release_view`."""
        return self._commits.view()

    def release_view(self, frozen: FrozenTree) -> None:
        """Gives back what `view` returned."""
        self._commits.release(frozen)

    def record_intent(self, frozen: FrozenTree, snapshot_id: str, base: str, left_out: Iterable[TreePath] = ()) -> None:
        """Notes, so that it survives power loss, that `frozen` is about to be published as a snapshot.

        Args:
            frozen: What `freeze` returned.
            snapshot_id: The id that the snapshot will have.
            base: The snapshot that it is based on.
            left_out: The paths of `frozen` that are not part of it, with all below them.
        """
        self._commits.record_intent(frozen, snapshot_id, base, left_out)

    def change_base(self, plan: BasePlan, advance: Advance = nothing_below) -> BaseOutcome:
        """Puts the tree on another snapshot: one that a frozen tree became, or one that others have committed.

        Changes that were committed and not changed since are dropped; all others stay.

        Args:
            plan: What to do.
            advance: Called while the tree is locked, for tables that must change with it.

        Raises:
            SessionStateError: a commit is under way, other than that of the plan (kind `commit-not-allowed`).
            TreeChangedError: the tree does not have the plan's revision; it stays on its base.
            NoSpaceError: the disk is full; the tree is still on the old base, and this can be called again.
        """
        return change_base(self._core, self._content, self._commits, plan, advance)

    def leave_pending(self, frozen: FrozenTree) -> None:
        """Keeps a frozen tree of which nobody can tell at present whether it was published; see `pending_intent`."""
        self._commits.leave_pending(frozen)

    def abandon(self, frozen: FrozenTree) -> None:
        """Gives a frozen tree back whose commit failed; the working tree is as if it had not been frozen."""
        self._commits.release(frozen)

    @property
    def pending_intent(self) -> Intent | None:
        """A commit that was about to be published, in this process or one before, and whose outcome is not known.

        Until it is resolved, nothing can be committed or discarded; files can be read and written.
        """
        return self._commits.intent

    def abandon_recovered(self) -> None:
        """Gives up the pending intent: the snapshot is not in the branch's history; see `attempts`."""
        frozen, _ = self.pending()
        self._commits.release(frozen)

    def pending(self) -> tuple[FrozenTree, Intent]:
        """Returns the commit that is to be resolved, with the tree that it was made of."""
        frozen, intent = self._commits.recovered, self._commits.intent
        if frozen is None or intent is None:
            raise SessionStateError("there is no commit to be resolved")
        return frozen, intent

    def own_content(self) -> tuple[int, int]:
        """Returns how many files have content of their own, and their bytes."""
        return own_content(self._core)

    @property
    def revision(self) -> int:
        """Changes whenever the tree may show something else than before."""
        return self._core.revision

    def discard(self, path: TreePath = ROOT_DIRECTORY, opened: Iterable[TreePath] = ()) -> Discarded:
        """Drops all changes at a path and below it, or all there are; `opened` are base files opened elsewhere."""
        self._commits.release_again()
        return discard(self._core, self._removal, path, opened)
