"""The database of a working tree: what survives the daemon.

Tables (`_SCHEMA` is the authority, `versions` tells how they came to be):

    meta         key → value: repository, branch, base, and while a commit is under way
                 `frozen` (the largest id of the frozen tree) and `intent` (JSON: snapshot_id, base, left);
                 `attempts` (JSON: the snapshots that were about to be published on this base);
                 `notes` (JSON: sentences about damage that was mended since it has this base)
    node         one row for each file and directory; (parent, name) is its first link; the root has parent 0
    link         (parent, name) → a node's further links, or 0 for a whiteout. A whiteout whose name a node's first
                 link has taken meanwhile may stay behind; the node wins.
    frozen_node, frozen_link
                 while a tree is frozen: the rows of `node` and `link` as they were at the freeze, for those that
                 changed since (kind -1: there was no such row; a NULL node: no such link). So current rows
                 overlaid with these give the frozen tree back after a crash.

Durability. The journal mode is WAL with `synchronous=NORMAL`: a transaction's frames are in the kernel when
`apply` returns, so they survive the death of this process. `sync` makes them survive power loss by calling
fdatasync on the -wal file: frames are only ever appended behind one another, each with a checksum that covers all
frames before it, so a WAL whose bytes are on the disk up to some commit replays exactly up to that commit. Where
SQLite restarts the file (after a checkpoint), it has synced the database before and syncs the new header itself.
Opening and closing a second descriptor of the -wal file is safe: SQLite holds its locks on the database file.
The exclusive locking mode keeps the WAL index in this process's memory and saves four system calls a transaction.

Every change goes to the row log first (`row_log`), from which `opening` makes a damaged database again.

Concurrency: the caller's lock serialises everything but `sync`.
"""

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from icefs.errors import DamagedStateError, NoSpaceError, StorageError
from icefs.paths import TreePath
from icefs.worktree.spool import versions
from icefs.worktree.spool.errors import database_error
from icefs.worktree.spool.files import disk_error
from icefs.worktree.spool.reserve import RESERVE_BYTES, RESERVE_NAME, Reserve
from icefs.worktree.spool.row_log import RowLog, Rows, all_record, batch_record, link_rows, records_of

logger = logging.getLogger(__name__)

_SCHEMA: Final = """
create table meta (key text primary key, value) without rowid;
create table node (
    id integer primary key,
    parent integer not null,
    name text not null,
    kind integer not null,          -- 0 file, 1 directory
    mode integer not null,          -- permission bits
    uid integer not null,
    gid integer not null,
    size integer not null,          -- bytes; 0 for directories
    mtime_ns integer not null,
    ctime_ns integer not null,
    atime_ns integer not null,
    spool integer not null,         -- spool id of the bytes, 0 none
    stamp integer not null,         -- the spool file's st_mtime_ns when this was written, 0 if it was being written
    lower text,                     -- file: the base path that has the bytes; directory: what shines through
    flags integer not null,         -- Flag.ATTRS, LOST, CUT, CHANGED
    lost text                       -- which bytes of a LOST file are gone (`lost.to_text`); null: all
);
create table link (
    parent integer not null,
    name text not null,
    node integer not null,          -- 0: whiteout
    primary key (parent, name)
) without rowid;
create table frozen_node as select * from node where 0;
create unique index frozen_node_id on frozen_node (id);
create table frozen_link (
    parent integer not null,
    name text not null,
    node integer,                   -- null: there was no link
    primary key (parent, name)
) without rowid;
"""

_INSERT_NODE: Final = "insert or replace into node values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DELETE_NODE: Final = "delete from node where id = ?"
_INSERT_LINK: Final = "insert or replace into link values (?, ?, ?)"
_DELETE_LINK: Final = "delete from link where parent = ? and name = ?"
_PURGE_LINKS: Final = "delete from link where parent = ?"
_INSERT_FROZEN_NODE: Final = _INSERT_NODE.replace("into node", "into frozen_node")
_INSERT_FROZEN_LINK: Final = "insert or replace into frozen_link values (?, ?, ?)"
_NO_NODE: Final = (0, "", -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, None, 0, None)
_KEEP_NODE: Final = (
    "insert or ignore into frozen_node select * from node where id = ?"
    " union all select ?, 0, '', -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, null, 0, null where not exists"
    " (select 1 from node where id = ?)"
)
_KEEP_LINK: Final = (
    "insert or ignore into frozen_link values (?, ?, (select node from link where parent = ? and name = ?))"
)
_KEEP_LINKS: Final = "insert or ignore into frozen_link select parent, name, node from link where parent = ?"


class NodeRow(NamedTuple):
    """One row of `node`; the schema says what each column means."""

    id: int
    parent: int
    name: str
    kind: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    spool: int
    stamp: int
    base_path: TreePath | None
    flags: int
    lost: str | None = None


type LinkRow = tuple[int, str, int]


class Intent(NamedTuple):
    """A commit that was about to be published.

    Attributes:
        snapshot_id: The id that the new snapshot has, if it was published.
        base: The snapshot on which it was made.
        left_out: The paths of the frozen tree that were not committed.
    """

    snapshot_id: str
    base: str
    left_out: tuple[TreePath, ...]


@dataclass(slots=True)
class Batch:
    """The changes of one operation, written as one transaction.

    Attributes:
        nodes: Rows to insert or replace.
        dead: Ids of rows to delete.
        links: Links and whiteouts to set, or with None to delete.
        purged: Ids of directories whose links and whiteouts all go.
        is_needed: The space that is kept back may be used.
    """

    nodes: list[NodeRow] = field(default_factory=list)
    dead: list[int] = field(default_factory=list)
    links: list[tuple[int, str, int | None]] = field(default_factory=list)
    purged: list[int] = field(default_factory=list)
    is_needed: bool = False


class Loaded(NamedTuple):
    """The rows of a tree."""

    nodes: list[NodeRow]
    links: list[LinkRow]


class Journal:
    """The open database of one state directory."""

    def __init__(self, path: Path, *, reserve_bytes: int = RESERVE_BYTES) -> None:
        """Opens or creates the database.

        Args:
            path: The file; the log and the reserve are next to it.
            reserve_bytes: How much space to keep back for what makes room (see `reserve`).

        Raises:
            UnsupportedSpecVersionError: a newer icefs wrote it.
            DamagedStateError: it is damaged.
            SessionStateError: another process has it open.
            StorageError: it cannot be opened.
        """
        self.path = path
        self._frozen_limit = 0
        self._kept: set[int] = set()
        self._log = RowLog(path.parent, versions.STATE_VERSION)
        self._log_generation = 0
        with self._translated("opening the database"):
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=64)
            self._execute = self._db.execute
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise
        self._wal_fd = os.open(f"{path}-wal", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._reserve = Reserve(path.with_name(RESERVE_NAME), reserve_bytes)

    def _prepare(self) -> None:
        self._execute("pragma page_size = 1024")  # a small transaction writes few bytes: 6 µs instead of 8
        self._execute("pragma locking_mode = exclusive")
        version = self._execute("pragma user_version").fetchone()[0]
        if version > versions.STATE_VERSION:
            raise versions.too_new(self.path.parent, version)
        self._execute("pragma journal_mode = wal")
        self._execute("pragma synchronous = normal")
        self._execute("pragma wal_autocheckpoint = 8192")
        self._execute("pragma journal_size_limit = 67108864")
        self._execute("pragma secure_delete = off")
        self._execute("pragma temp_store = memory")
        if version < versions.STATE_VERSION:
            self._migrate(version)
        frozen = self.meta().get("frozen")
        self._frozen_limit = int(frozen) if frozen is not None else 0

    def _migrate(self, version: int) -> None:
        if version:
            logger.info("%s: migrating from version %d to %d", self.path.parent, version, versions.STATE_VERSION)
            try:
                versions.announce(self.path.parent)
            except OSError as error:
                raise disk_error(error, f"migrating {self.path.parent}") from error
        with self._transaction():
            if version:
                versions.migrate(self._db, version)
            else:
                for statement in _SCHEMA.split(";\n"):
                    if statement.strip():
                        self._execute(statement)
            self._execute(f"pragma user_version = {versions.STATE_VERSION}")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commits what the block does, or nothing of it."""
        self._execute("begin immediate")
        try:
            yield
            self._execute("commit")
        except BaseException:
            if self._db.in_transaction:
                self._execute("rollback")
            raise

    def meta(self) -> dict[str, Any]:
        """Returns the whole `meta` table."""
        rows = self._execute("select key, value from meta")
        return {
            key: value.decode(errors="surrogateescape") if isinstance(value, bytes) else value for key, value in rows
        }

    def set_meta(self, **values: str | int | None) -> None:
        """Sets keys of `meta`; None removes one."""
        self._logged(batch_record([], [], [], [], values), lambda: self._write_meta(values))

    def _logged(self, record: list[Any], write: Callable[[], None]) -> None:
        """Does one transaction, in the space that is kept back if there is no other, and in the row log first."""
        self._log.append(record)
        try:
            self._in_reserve(write)
        except BaseException:
            self._log.undo()
            raise

    def _in_reserve[T](self, write: Callable[[], T]) -> T:
        """Does one transaction, in the space that is kept back for it if there is no other."""
        while True:
            try:
                with self._translated("writing the database"), self._transaction():
                    result = write()
                break
            except NoSpaceError:
                if not self._reserve.release():
                    raise
                # Folding the log into the database makes room, too, where it works.
                with contextlib.suppress(sqlite3.Error):
                    self._execute("pragma wal_checkpoint(truncate)")
        self._reserve.refill()
        return result

    def _write_meta(self, values: Mapping[str, str | int | None]) -> None:
        for key, value in values.items():
            if value is None:
                self._execute("delete from meta where key = ?", (key,))
            else:
                self._execute("insert or replace into meta values (?, ?)", (key, _column(value)))

    def load(self) -> Loaded:
        """Reads all rows."""
        with self._translated("reading the database"):
            nodes = [NodeRow(*row) for row in self._execute("select * from node order by id")]
            return Loaded(nodes, list(self._execute("select parent, name, node from link order by parent, name")))

    def load_frozen(self) -> Loaded:
        """Reads the rows as they were at the freeze."""
        with self._translated("reading the database"):
            nodes = self._execute(
                "select * from node where id <= ? and id not in (select id from frozen_node)"
                " union all select * from frozen_node where kind >= 0 order by id",
                (self._frozen_limit,),
            )
            rows = [NodeRow(*row) for row in nodes]
            links = self._execute(
                "select parent, name, node from link l where not exists"
                " (select 1 from frozen_link f where f.parent = l.parent and f.name = l.name)"
                " union all select parent, name, node from frozen_link where node is not null order by 1, 2"
            )
            return Loaded(rows, list(links))

    def apply(self, batch: Batch) -> None:
        """Writes one operation's changes; when this returns, they survive the death of the process.

        A batch that removes nodes may use the space that is kept back, since it makes room; so may one that says so.

        Raises:
            NoSpaceError: the disk is full; nothing was changed.
            StorageError: the database failed; nothing was changed.
        """
        self._log.append(_record(batch))
        try:
            self._apply(batch)
        except BaseException:
            self._log.undo()
            raise
        if self._log.is_overgrown and not self._frozen_limit:
            self._renew_log()

    def _apply(self, batch: Batch) -> None:
        limit = self._frozen_limit
        is_needed = bool(batch.dead or batch.purged or batch.is_needed)
        if len(batch.nodes) + len(batch.dead) + len(batch.links) + len(batch.purged) == 1 and not limit:
            # One statement is its own transaction, which saves BEGIN and COMMIT.
            try:
                self._write(batch)
            except sqlite3.Error as error:
                if not is_needed:
                    raise database_error(error, self.path, "writing the database") from error
            else:
                if is_needed and not self._reserve.is_full:
                    self._reserve.refill()
                return
        if is_needed:
            kept = self._in_reserve(lambda: self._keep_and_write(batch, limit))
        else:
            with self._translated("writing the database"), self._transaction():
                kept = self._keep_and_write(batch, limit)
        self._kept.update(kept)

    def _keep_and_write(self, batch: Batch, limit: int) -> list[int]:
        kept = self._keep_frozen(batch, limit) if limit else []
        self._write(batch)
        return kept

    def _write(self, batch: Batch) -> None:
        execute = self._execute
        for row in batch.nodes:
            execute(_INSERT_NODE, row)
        for node_id in batch.dead:
            execute(_DELETE_NODE, (node_id,))
        for parent, name, node in batch.links:
            if node is None:
                execute(_DELETE_LINK, (parent, name))
            else:
                execute(_INSERT_LINK, (parent, name, node))
        for parent in batch.purged:
            execute(_PURGE_LINKS, (parent,))

    def _keep_frozen(self, batch: Batch, limit: int) -> list[int]:
        """Copies the rows that this batch is the first to change since the freeze."""
        execute = self._execute
        ids = [row.id for row in batch.nodes]
        kept = [node_id for node_id in (*ids, *batch.dead) if node_id <= limit and node_id not in self._kept]
        for node_id in kept:
            execute(_KEEP_NODE, (node_id, node_id, node_id))
        for parent, name, _ in batch.links:
            execute(_KEEP_LINK, (parent, name, parent, name))
        for parent in batch.purged:
            execute(_KEEP_LINKS, (parent,))
        return kept

    def freeze(self, batch: Batch, limit: int) -> None:
        """Writes the last changes before a freeze and starts to keep the rows as they are now.

        Args:
            batch: Changes that belong to the frozen tree.
            limit: The largest node id there is; larger ones are made after the freeze.
        """

        def write() -> None:
            self._write(batch)
            self._execute("delete from frozen_node")
            self._execute("delete from frozen_link")
            self._write_meta({"frozen": limit, "intent": None})

        self._logged(_record(batch, frozen=limit, intent=None), write)
        self._frozen_limit = limit
        self._kept = set()

    def record_intent(self, intent: Intent) -> None:
        """Notes that the frozen tree is about to be published; survives power loss when this returns."""
        facts = {"snapshot_id": intent.snapshot_id, "base": intent.base, "left": intent.left_out}
        self.set_meta(intent=json.dumps(facts), attempts=json.dumps([*self.attempts(), intent.snapshot_id]))
        self.sync()

    def attempts(self) -> list[str]:
        """Returns the snapshots that were about to be published since the tree has its base."""
        found: list[str] = json.loads(self.meta().get("attempts") or "[]")
        return found

    def notes(self) -> list[str]:
        """Returns what is to be said of damage since the tree has its base."""
        found: list[str] = json.loads(self.meta().get("notes") or "[]")
        return found

    def add_note(self, note: str) -> None:
        """Adds to what is to be said; the same again adds nothing."""
        if note not in (notes := self.notes()):
            self.set_meta(notes=json.dumps([*notes, note]))

    def intent(self) -> Intent | None:
        """Returns the intent that was recorded and neither completed nor abandoned."""
        text = self.meta().get("intent")
        if text is None:
            return None
        facts = json.loads(text)
        return Intent(facts["snapshot_id"], facts["base"], tuple(map(TreePath, facts["left"])))

    @property
    def is_frozen(self) -> bool:
        """Whether rows of a frozen tree are being kept."""
        return self._frozen_limit > 0

    @property
    def frozen_limit(self) -> int:
        """The largest node id of the frozen tree, 0 if none is frozen."""
        return self._frozen_limit

    def thaw(self, batch: Batch) -> None:
        """Writes changes, forgets the frozen rows and the intent."""

        def write() -> None:
            self._write(batch)
            self._forget_frozen()

        self._logged(_record(batch, frozen=None, intent=None), write)
        self._thawed()

    def thaw_unpublished(self) -> None:
        """Forgets a freeze that no intent was recorded for."""
        self.thaw(Batch())

    def replace_tree(self, nodes: Sequence[NodeRow], links: Iterable[LinkRow], **meta: str | int | None) -> None:
        """Replaces the whole tree in one transaction; forgets the frozen rows and the intent.

        This is what makes a commit's end atomic: before it the tree is as it was, after it the tree stands on the
        new base.
        """
        links = list(links)
        changed = {"attempts": None, "notes": None, **meta} if "base" in meta else meta

        def write() -> None:
            self._execute("delete from node")
            self._execute("delete from link")
            self._db.executemany(_INSERT_NODE, nodes)
            self._db.executemany(_INSERT_LINK, links)
            self._forget_frozen()
            self._write_meta(changed)

        self._logged(all_record(nodes, links, {"frozen": None, "intent": None, **changed}), write)
        self._thawed()
        if self._log.is_lost or self._log.is_overgrown:
            self._renew_log()

    # The row log

    def rows(self) -> Rows:
        """Reads everything that the row log has, too."""
        nodes, links = self.load()
        with self._translated("reading the database"):
            rows = Rows(self.meta(), {row.id: row for row in nodes}, _by_directory(links))
        if self._frozen_limit:
            nodes, links = self.load_frozen()
            rows.frozen = {row.id: row for row in nodes}, _by_directory(links)
        return rows

    def begin_log(self, generation: int) -> None:
        """Begins the row log, with the rows as they are; `generation` is larger than that of any log before."""
        self._log_generation = generation
        self._log.begin(records_of(self.rows()), generation)

    def _renew_log(self) -> None:
        """Begins the row log again, if there is to be one."""
        if self._log_generation:
            self.begin_log(self._log_generation + 1)

    def check(self) -> None:
        """Looks whether the database is whole, as far as SQLite can tell.

        Raises:
            DamagedStateError: it is not.
        """
        with self._translated("checking the database"):
            found = [str(row[0]) for row in self._execute("pragma quick_check(1)")]
        if found != ["ok"]:
            raise DamagedStateError(f"the working tree's database is damaged: {found[0]}")

    def restore(self, rows: Rows) -> None:
        """Gives the database these rows in place of those that it has, in one transaction."""
        limit = 0 if rows.frozen is None else int(rows.meta["frozen"])

        def write() -> None:
            for table in ("meta", "node", "link", "frozen_node", "frozen_link"):
                self._execute(f"delete from {table}")
            self._write_meta(rows.meta)
            self._db.executemany(_INSERT_NODE, rows.nodes.values())
            self._db.executemany(_INSERT_LINK, link_rows(rows.links))
            if rows.frozen is not None:
                nodes, links = rows.frozen
                for node_id in {*nodes, *(node_id for node_id in rows.nodes if node_id <= limit)}:
                    row = nodes.get(node_id)
                    if row != rows.nodes.get(node_id):
                        self._execute(_INSERT_FROZEN_NODE, (node_id, *_NO_NODE) if row is None else row)
                for parent in {*links, *rows.links}:
                    then, now = links.get(parent, {}), rows.links.get(parent, {})
                    for name in {*then, *now}:
                        if then.get(name) != now.get(name):
                            self._execute(_INSERT_FROZEN_LINK, (parent, name, then.get(name)))

        self._in_reserve(write)
        self._frozen_limit, self._kept = limit, set()
        if limit:
            self._kept = {row[0] for row in self._execute("select id from frozen_node")}

    def _forget_frozen(self) -> None:
        self._execute("delete from frozen_node")
        self._execute("delete from frozen_link")
        self._write_meta({"frozen": None, "intent": None})

    def _thawed(self) -> None:
        self._frozen_limit = 0
        self._kept = set()

    def sync(self) -> None:
        """Returns when everything written so far survives power loss. Needs no lock."""
        try:
            os.fdatasync(self._wal_fd)
        except OSError as error:
            raise StorageError(f"the working tree's disk failed (fsync): {error.strerror}", kind="io") from error

    def close(self) -> None:
        """Closes the database; the WAL is folded into it."""
        is_closed = False
        with contextlib.suppress(sqlite3.Error):  # the next opening finds what is wrong with it
            is_closed = bool(self.meta().get("closed"))
        os.close(self._wal_fd)
        try:
            with self._translated("closing the database"):
                self._db.close()
        finally:
            self._log.close(is_closed=is_closed)

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise database_error(error, self.path, what) from error


def _column(value: str | int) -> str | int | bytes:
    """Returns a value as a column takes it: of the path of a repository that is no UTF-8, the bytes."""
    if isinstance(value, int) or value.isprintable():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode(errors="surrogateescape")
    return value


def _record(batch: Batch, **meta: str | int | None) -> list[Any]:
    return batch_record(batch.nodes, batch.dead, batch.links, batch.purged, meta)


def _by_directory(links: Iterable[LinkRow]) -> dict[int, dict[str, int]]:
    found: dict[int, dict[str, int]] = {}
    for parent, name, node in links:
        found.setdefault(parent, {})[name] = node
    return found
