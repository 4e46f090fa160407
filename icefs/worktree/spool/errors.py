"""What errors of SQLite mean to a working tree: a full disk, a failing one, a second process, or a damaged database."""

import sqlite3
from pathlib import Path
from typing import Final

from icefs.errors import DamagedStateError, IcefsError, NoSpaceError, StorageError, TreeInUseError
from icefs.worktree.spool.files import FULL_DISK_HINT, disk_error

_DAMAGED: Final = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT", "SQLITE_ERROR", "SQLITE_MISMATCH"})
_IN_USE: Final = frozenset({"SQLITE_BUSY", "SQLITE_LOCKED"})
_PIECE: Final = 1 << 20


def database_error(error: sqlite3.Error, path: Path, what: str) -> IcefsError:
    """Returns the error to raise for one of SQLite's.

    Args:
        error: What SQLite raised.
        path: The database.
        what: What was being done.
    """
    # Extended codes have the name of the plain one, and one word more.
    name = "_".join(getattr(error, "sqlite_errorname", "").split("_")[:2])
    if name == "SQLITE_FULL":
        return NoSpaceError(
            f"no space left on the disk of the working tree in {path.parent} ({what})", hint=FULL_DISK_HINT
        )
    if name in _IN_USE:
        return TreeInUseError(
            f"the working tree in {path.parent} is in use by another process",
            hint="unmount it there first, or give another --state-dir",
            directory=str(path.parent),
        )
    # A text that is not UTF-8 has no code.
    if name in _DAMAGED or (not name and isinstance(error, sqlite3.OperationalError)):
        return _unreadable(path, what) or DamagedStateError(
            f"the working tree's database {path} is damaged ({what}): {error}",
            hint="unmount it, and mount it again: its row log has the changes, too",
            directory=str(path.parent),
        )
    return StorageError(
        f"the working tree's database {path} failed ({what}): {error}",
        kind="io",
        hint="see what the disk says (dmesg), then try again: all changes are kept",
    )


def _unreadable(path: Path, what: str) -> IcefsError | None:
    """Returns the error of a disk that fails: SQLite also calls a database malformed that it cannot read."""
    try:
        with path.open("rb") as file:
            while file.read(_PIECE):
                pass
    except FileNotFoundError:
        return None
    except OSError as error:
        return disk_error(error, what)
    return None
