"""Opening the database of a working tree: its files are compared, and damaged ones are made again.

The database and the row log say the same; `rows.end` says whether the log is whole. In this order:

1. Both say the same, or the log is one record ahead (the process died before the database had it): all is well.
2. The log is whole: the database is damaged, gone or older. The log's rows take its place; the old file is kept.
3. The log is not whole, or the machine has lost its power since: the database counts, if SQLite finds no fault in it.
4. Only a part of the log can be read, and nothing of the database: the part is taken, and that is said.
5. Neither can be read: `DamagedStateError`, with what can be done; nothing is changed.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from icefs.errors import DamagedStateError, UnsupportedSpecVersionError
from icefs.worktree.spool import versions
from icefs.worktree.spool.files import disk_error
from icefs.worktree.spool.journal import Journal
from icefs.worktree.spool.row_log import FoundLog, Rows, read_log
from icefs.worktree.spool.state import DATABASE_NAME, read_info

logger = logging.getLogger(__name__)

DAMAGED_NAME: Final = "damaged"
_SIDES: Final = ("", "-wal", "-shm", "-journal")

type OpenJournal = Callable[[Path], Journal]


@dataclass(slots=True)
class Opened:
    """An open database, and what was found on the way.

    Attributes:
        journal: The database.
        is_proven: The rows are known to be all there are.
        named: Every spool id that a row has named since the log began.
    """

    journal: Journal
    is_proven: bool = False
    named: set[int] = field(default_factory=set)


def open_database(directory: Path, open_journal: OpenJournal = Journal) -> Opened:
    """Opens the database of a state directory, whose lock the caller has, or makes it.

    Raises:
        DamagedStateError: neither the database nor the row log can be read; nothing was changed.
        UnsupportedSpecVersionError: a newer icefs wrote it.
        StorageError: the disk failed, or is full.
    """
    path = directory / DATABASE_NAME
    was_there = path.exists() and path.stat().st_size > 0
    log = read_log(directory)
    if log is not None and log.version > versions.STATE_VERSION:
        raise versions.too_new(directory, log.version)
    if not was_there:
        _keep_aside(directory)  # SQLite would remove the log of a database that is gone
    if log is None:
        return _open_alone(directory, open_journal, was_there=was_there)
    journal: Journal | None = None
    rows: Rows | None = None
    what = "gone"
    if was_there:
        try:
            journal, rows = _read(path, open_journal, is_suspect=not log.is_closed)
        except DamagedStateError as error:
            what = "damaged"
            logger.warning("%s", error)
        except UnsupportedSpecVersionError:
            if not versions.is_known(directory):
                raise
            what = "damaged"
    if journal is None or rows is None:
        _keep_aside(directory)
        opened = Opened(open_journal(path), is_proven=_is_truth(log), named=log.named)
        opened.journal.restore(log.rows)
        note = f"the database was {what}; {_count_all(log.rows)} restored from its row log"
        if not opened.is_proven:
            note += ", which is damaged, too: the last changes may be missing"
    else:
        opened, note = _compare(directory, journal, rows, log)
    opened.journal.begin_log(log.generation + 1)
    if note:
        opened.journal.add_note(note)
        logger.warning("%s: %s", directory, note)
    return opened


def _compare(directory: Path, journal: Journal, rows: Rows, log: FoundLog) -> tuple[Opened, str]:
    """Decides between a database and a log that can both be read; returns what is to be said of it, too."""
    if rows == log.rows:
        return Opened(journal, is_proven=True, named=log.named), ""
    if not _is_truth(log):
        logger.warning("%s: the row log is not whole, the database is", directory)
        return Opened(journal), ""
    opened, note = Opened(journal, is_proven=True, named=log.named), ""
    if rows != log.rows_before():
        count = _count(_count_differences(rows, log.rows), "entry", "entries")
        note = f"the database was damaged; {count} restored from its row log"
    # Else the process died after the log had the last change, and before the database had it.
    journal.restore(log.rows)
    return opened, note


def _open_alone(directory: Path, open_journal: OpenJournal, *, was_there: bool) -> Opened:
    """Opens, or makes, a database that has no row log."""
    path = directory / DATABASE_NAME
    copy = _copy(directory) if was_there else {}
    try:
        journal, _ = _read(path, open_journal, is_suspect=was_there)
    except (DamagedStateError, UnsupportedSpecVersionError) as error:
        # SQLite folds a database's log into it, whatever it finds.
        for name, data in copy.items():
            (directory / name).write_bytes(data)
        if isinstance(error, DamagedStateError):
            raise _beyond_help(directory, error) from error
        raise
    journal.begin_log(1)
    info = read_info(directory)
    if not was_there and info is not None and info.entries > 0:
        note = "the database and its row log were gone; the tree had {}, and nobody knows which".format(
            _count(info.entries, "entry", "entries")
        )
        journal.add_note(note)
        logger.warning("%s: %s", directory, note)
    return Opened(journal)


def _copy(directory: Path) -> dict[str, bytes]:
    """Returns the bytes of a database and of its log."""
    try:
        return {
            path.name: path.read_bytes() for side in _SIDES if (path := directory / f"{DATABASE_NAME}{side}").exists()
        }
    except OSError as error:
        raise disk_error(error, f"reading {directory / DATABASE_NAME}") from error


def _read(path: Path, open_journal: OpenJournal, *, is_suspect: bool) -> tuple[Journal, Rows]:
    journal = open_journal(path)
    try:
        if is_suspect:
            journal.check()
        rows = journal.rows()
        _check_types(rows)
    except BaseException:
        journal.close()
        raise
    return journal, rows


def _check_types(rows: Rows) -> None:
    """Refuses rows that no icefs writes."""
    for row in rows.nodes.values():
        is_right = all(type(row[at]) is int for at in _NUMBERS) and type(row[2]) is str
        if not is_right or not all(isinstance(row[at], str | None) for at in (13, 15)):
            raise DamagedStateError(f"the working tree's database is damaged: row {row[0]}")


_NUMBERS: Final = (0, 1, *range(3, 13), 14)


def _is_truth(log: FoundLog) -> bool:
    """Tells whether a log has all that was acknowledged."""
    return log.is_whole is not False and (log.is_closed or log.is_of_this_boot)


def _count_differences(found: Rows, right: Rows) -> int:
    nodes = {*found.nodes.items()} ^ {*right.nodes.items()}
    links = {*found.link_rows()} ^ {*right.link_rows()}
    return len({row_id for row_id, _ in nodes}) + len(links)


def _count_all(rows: Rows) -> str:
    return _count(max(0, len(rows.nodes) - 1) + sum(map(len, rows.links.values())), "entry", "entries")


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def _keep_aside(directory: Path) -> None:
    """Moves a damaged database to a directory of its own, so that another can be made."""
    place = directory / DAMAGED_NAME
    stamp = time.strftime("%Y%m%dT%H%M%S")
    try:
        for side in _SIDES:
            path = directory / f"{DATABASE_NAME}{side}"
            if path.exists():
                place.mkdir(mode=0o700, exist_ok=True)
                number = 0
                while (target := place / f"{stamp}.{number}-{path.name}").exists():
                    number += 1
                os.rename(path, target)
    except OSError as error:
        raise disk_error(error, f"moving {directory / DATABASE_NAME} aside") from error


def _beyond_help(directory: Path, damage: Exception) -> DamagedStateError:
    identity = directory.name.rpartition("-")[2]
    root = directory.parent
    return DamagedStateError(
        f"the working tree in {directory} is damaged, and its files are unknown: {damage}",
        hint=f"'icefs sessions --state-dir {root} export {identity} DIR' copies the bytes that it has;"
        f" 'icefs sessions --state-dir {root} discard {identity}' gives it up",
        directory=str(directory),
    )
