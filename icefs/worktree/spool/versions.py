"""Versions of the state directory: what a newer icefs wrote is left alone, what an older one wrote is migrated.

    1   the tables of `journal`
    2   `info.json` tells the version, so that it is known before anything is opened; the tables are the same
    3   `node.lost` tells which bytes of a file are lost
    4   `rows.log` and `rows.end` have the rows, too (`row_log`), and `info.json` a checksum; the tables are the same

The version is in two places. `info.json` has it as `version`, and can be read without touching anything: opening an
SQLite database that was not closed already changes its files. The database has it as its `user_version`, which
changes in one transaction with the tables.

A migration first raises the number in `info.json` and then does all steps in one transaction. So an icefs that knows
the old version only either finds everything old, or a number that it refuses; and one that knows the new version finds
the old tables or the new ones, never anything between, and goes on from there.
"""

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from icefs.errors import UnsupportedSpecVersionError

STATE_VERSION: Final = 4

VERSION_KEY: Final = "version"
CHECK_KEY: Final = "check"
INFO_NAME: Final = "info.json"
_DATABASE_NAME: Final = "tree.db"
_USER_VERSION_AT: Final = 60  # in the header of an SQLite database, 4 bytes, the highest first

type Migration = Callable[[sqlite3.Connection], None]


def _to_2(database: sqlite3.Connection) -> None:
    """Does nothing to the tables: only `info.json` is new."""


def _to_3(database: sqlite3.Connection) -> None:
    """Adds the column; of a file that was lost, everything was."""
    for table in ("node", "frozen_node"):
        database.execute(f"alter table {table} add column lost text")


def _to_4(database: sqlite3.Connection) -> None:
    """Does nothing to the tables: the row log begins when the database is open."""


MIGRATIONS: Final[dict[int, Migration]] = {1: _to_2, 2: _to_3, 3: _to_4}
"""From each older version, the step to the next one. It runs inside one transaction with all others."""


def check_version(directory: Path) -> None:
    """Refuses a state directory of a newer icefs, without touching it.

    Raises:
        UnsupportedSpecVersionError: a newer icefs wrote it.
    """
    facts = read_facts(directory)
    version = _version_of(facts)
    if facts is None or CHECK_KEY not in facts:
        # One that has a checksum is right, and its version was raised before that of the database.
        version = max(version, _told_by_database(directory))
    if version > STATE_VERSION:
        raise too_new(directory, version)


def is_known(directory: Path) -> bool:
    """Tells whether `info.json` is whole and of a version that is known, whatever the database says."""
    facts = read_facts(directory)
    return facts is not None and CHECK_KEY in facts and _version_of(facts) <= STATE_VERSION


def too_new(directory: Path, version: int) -> UnsupportedSpecVersionError:
    """Returns the error to raise for a state directory of a newer icefs."""
    return UnsupportedSpecVersionError(
        f"{directory} was written by a newer icefs (version {version} of working trees, this one knows up to"
        f" {STATE_VERSION}); it was left as it is",
        hint="mount it with the icefs that wrote it, or give another --state-dir",
        directory=str(directory),
        version=version,
    )


def sealed(facts: dict[str, Any]) -> str:
    """Returns the text of an `info.json`, with a checksum."""
    facts = {key: value for key, value in facts.items() if key != CHECK_KEY}
    return json.dumps({**facts, CHECK_KEY: _sum(facts)}, indent=2) + "\n"


def read_facts(directory: Path) -> dict[str, Any] | None:
    """Reads `info.json`; None if there is none, or it is damaged. Before version 3 it had no checksum."""
    try:
        facts = json.loads((directory / INFO_NAME).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(facts, dict):
        return None
    rest = {key: value for key, value in facts.items() if key != CHECK_KEY}
    return facts if CHECK_KEY not in facts or facts[CHECK_KEY] == _sum(rest) else None


def _sum(facts: dict[str, Any]) -> str:
    return f"{crc32(json.dumps(facts, sort_keys=True).encode()):08x}"


def _version_of(facts: dict[str, Any] | None) -> int:
    """Returns the version that `info.json` tells; 0 where there is none, 1 if it is from before it said."""
    version = 0 if facts is None else facts.get(VERSION_KEY, 1)
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
    facts = read_facts(directory)
    if facts is None:
        return  # it is written when the tree is open
    new = path.with_name(f"{INFO_NAME}.new")
    try:
        new.write_text(sealed({**facts, VERSION_KEY: STATE_VERSION}))
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
