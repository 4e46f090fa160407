"""What the state directories of working trees hold, and whether they can be opened; read, and never changed."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from icefs.errors import DamagedStateError, IcefsError
from icefs.paths import child
from icefs.worktree.spool.files import spool_path
from icefs.worktree.spool.journal import Journal
from icefs.worktree.spool.row_log import Rows, read_log
from icefs.worktree.spool.state import (
    DATABASE_NAME,
    SPOOL_NAME,
    StateInfo,
    aside_usage,
    has_state,
    is_in_use,
    read_info,
)
from icefs.worktree.spool.versions import check_version

_UNKNOWN: Final = StateInfo("?", "?", "?", -1)


@dataclass(frozen=True, slots=True)
class TreeSummary:
    """What the files of a working tree say of it.

    Attributes:
        directory: Its state directory.
        info: What it belongs to; `?` where that is not known.
        is_in_use: Whether a living process has it open.
        num_changes: How many changes `discard` would count; 0 for modes, owners and times; None where nothing says so.
        is_pending: Whether it is not known what became of a commit of it.
        problem: Why it cannot be opened; None if it can, as far as its rows tell.
        aside_files: How many files of unknown names are kept in it.
    """

    directory: Path
    info: StateInfo
    is_in_use: bool = False
    num_changes: int | None = None
    is_pending: bool = False
    problem: str | None = None
    aside_files: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether nothing would be lost with it."""
        is_known = self.num_changes == 0 and self.problem is None
        return is_known and not (self.is_in_use or self.is_pending or self.aside_files)


def tree_summaries(state_root: Path) -> Iterator[TreeSummary]:
    """Yields the working trees under a state root, by name; those in use as well."""
    try:
        directories = sorted(path for path in state_root.iterdir() if path.is_dir())
    except OSError:
        return
    for directory in directories:
        try:
            is_tree = has_state(directory)
        except IcefsError as error:
            yield TreeSummary(directory, _UNKNOWN, problem=error.own_message)
            continue
        if is_tree:
            yield summarise(directory)


def summarise(directory: Path) -> TreeSummary:
    """Reads what a state directory tells of its tree."""
    info = read_info(directory)
    tree = TreeSummary(directory, info or _UNKNOWN, aside_files=aside_usage(directory)[0])
    try:
        check_version(directory)
        if is_in_use(directory):
            return replace(tree, is_in_use=True, info=info or _named(_rows(directory), _UNKNOWN))
        rows = _rows(directory)
    except IcefsError as error:
        return replace(tree, problem=error.own_message)
    count = _count_changes(rows)
    return replace(tree, info=_named(rows, tree.info), num_changes=count, is_pending="intent" in rows.meta)


def damaged_files(directory: Path) -> list[str]:
    """Returns the paths of the files in a tree that nobody has open of which bytes are missing.

    Raises:
        IcefsError: its rows cannot be read.
    """
    rows = _rows(directory)
    found = []
    for row in rows.nodes.values():
        size, spool_id, stamp = row[7], row[11], row[12]
        if row[3] or not spool_id:
            continue
        try:
            status = os.lstat(spool_path(str(directory / SPOOL_NAME), spool_id))
        except FileNotFoundError:
            found.append(_path(rows, row))
            continue
        if stamp and status.st_size < size:
            found.append(_path(rows, row))
    return sorted(found)


def _path(rows: Rows, row: Sequence[Any]) -> str:
    names = [row[2]]
    seen = {row[0]}
    while (above := rows.nodes.get(row[1])) is not None and above[0] not in seen and above[1]:
        names.append(above[2])
        seen.add(above[0])
        row = above
    return "/".join(reversed(names))


def _named(rows: Rows, info: StateInfo) -> StateInfo:
    meta = rows.meta
    return replace(
        info,
        repository=str(meta.get("repository", info.repository)),
        branch=str(meta.get("branch", info.branch)),
        base=str(meta.get("base", info.base)),
    )


def _rows(directory: Path) -> Rows:
    """Returns a tree's rows: those of the log if it is whole, or those of a copy of the database.

    Raises:
        DamagedStateError: neither can be read.
    """
    log = read_log(directory)
    if log is not None and log.is_whole is not False:
        return log.rows
    database = directory / DATABASE_NAME
    if not database.exists() or not database.stat().st_size:
        if log is not None:
            return log.rows
        raise DamagedStateError(f"{database} is gone")
    with tempfile.TemporaryDirectory(prefix="icefs-sessions-") as copy:
        for side in ("", "-wal"):
            path = directory / f"{DATABASE_NAME}{side}"
            if path.exists():
                shutil.copy(path, copy)
        try:
            journal = Journal(Path(copy, DATABASE_NAME), reserve_bytes=0)
        except DamagedStateError:
            if log is not None:
                return log.rows
            raise
        try:
            return journal.rows()
        except sqlite3.Error as error:
            raise DamagedStateError(f"{database} is damaged: {error}") from error
        finally:
            journal.close()


def _count_changes(rows: Rows) -> int:
    """Counts the changes in a tree as `discard` does; what differs only in modes, owners or times counts as none."""
    paths = _base_paths(rows)
    renamed, count, num_made = set(), 0, 0
    for row in rows.nodes.values():
        if row[0] not in paths:
            continue  # the root
        is_dir, base_path = row[3], row[13]
        is_in_place = base_path is not None and base_path == paths[row[0]]
        if not is_dir:
            count += not is_in_place
        elif base_path is None:
            num_made += 1
        elif not is_in_place:
            renamed.add(base_path)
    count += len(renamed)
    for directory, names in rows.links.items():
        above = rows.nodes.get(directory)
        base_path = None if above is None else above[13]
        for name, link in names.items():
            count += bool(link) or base_path is None or child(base_path, name) not in renamed
    return max(count, min(num_made, 1))


def _base_paths(rows: Rows) -> dict[int, str | None]:
    """Returns where the base would have each node, by its id; None where its directory is a new one."""
    above = {row[0]: rows.nodes.get(row[1]) for row in rows.nodes.values() if row[1]}
    return {
        number: None if parent[13] is None else child(parent[13], rows.nodes[number][2])
        for number, parent in above.items()
        if parent is not None
    }
