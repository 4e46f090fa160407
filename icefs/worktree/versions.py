"""Versions of the state directory: what a newer icefs wrote is left alone, what an older one wrote is migrated.

    1   the tables of `journal`
    2   `info.json` tells the version, so that it is known before anything is opened; the tables are the same
    3   `node.lost` tells which bytes of a file are lost

The version is in two places. `info.json` has it as `version`, and can be read without touching anything: opening an
SQLite database that was not closed already changes its files. The database has it as its `user_version`, which
changes in one transaction with the tables.

A migration first raises the number in `info.json` and then does all steps in one transaction. So an icefs that knows
the old version only either finds everything old, or is told to stay away; and one that knows the new version finds
the old tables or the new ones, never anything between, and goes on from there.
"""

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from icefs.errors import UnsupportedSpecVersionError

STATE_VERSION: Final = 3

VERSION_KEY: Final = "version"
INFO_NAME: Final = "info.json"
_DATABASE_NAME: Final = "tree.db"
_USER_VERSION_AT: Final = 60  # in the header of an SQLite database, 4 bytes, the highest first

type Migration = Callable[[sqlite3.Connection], None]


def _to_2(database: sqlite3.Connection) -> None:
    """Does nothing to the tables: what is new is in `info.json`."""


def _to_3(database: sqlite3.Connection) -> None:
    """Adds the column; of a file that was lost, everything was."""
    for table in ("node", "frozen_node"):
        database.execute(f"alter table {table} add column lost text")


MIGRATIONS: Final[dict[int, Migration]] = {1: _to_2, 2: _to_3}
"""From each older version, the step to the next one. It runs inside one transaction with all others."""


def check_version(directory: Path) -> None:
    """Refuses a state directory of a newer icefs, without touching it.

    Raises:
        UnsupportedSpecVersionError: a newer icefs wrote it.
    """
    version = max(_told_by_info(directory), _told_by_database(directory))
    if version > STATE_VERSION:
        raise too_new(directory, version)


def too_new(directory: Path, version: int) -> UnsupportedSpecVersionError:
    """Returns the error to raise for a state directory of a newer icefs."""
    return UnsupportedSpecVersionError(
        f"{directory} was written by a newer icefs (version {version} of working trees, this one knows up to"
        f" {STATE_VERSION}); it was left as it is",
        hint="mount it with the icefs that wrote it, or give another --state-dir",
        directory=str(directory),
        version=version,
    )


def _told_by_info(directory: Path) -> int:
    """Returns what `info.json` says; 0 if there is none that can be understood, 1 if it is from before it said."""
    try:
        facts = json.loads((directory / INFO_NAME).read_bytes())
    except (OSError, ValueError):
        return 0
    version = facts.get(VERSION_KEY, 1) if isinstance(facts, dict) else 0
    return version if isinstance(version, int) else 0


def _told_by_database(directory: Path) -> int:
    """Returns what the database's header says, which may be older than what its log does."""
    try:
        with (directory / _DATABASE_NAME).open("rb") as file:
            header = file.read(_USER_VERSION_AT + 4)
    except OSError:
        return 0
    return int.from_bytes(header[_USER_VERSION_AT:]) if header.startswith(b"SQLite format 3\0") else 0


def announce(directory: Path) -> None:
    """Raises the number in `info.json`, if there is one, before a migration begins.

    Raises:
        OSError: it cannot be written.
    """
    path = directory / INFO_NAME
    try:
        facts: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return  # it is written anew when the tree is open
    new = path.with_name(f"{INFO_NAME}.new")
    try:
        new.write_text(json.dumps({**facts, VERSION_KEY: STATE_VERSION}, indent=2) + "\n")
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def migrate(database: sqlite3.Connection, version: int) -> None:
    """Does the steps from a version to the present one; inside of a transaction of the caller's."""
    while version < STATE_VERSION:
        MIGRATIONS[version](database)
        version += 1
