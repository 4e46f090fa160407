"""What is known of a directory that was exported to, and the files that are on their way into it.

Zarr libraries list what is in a directory, and warn of what is no node; so nothing of an export is in there but keys:

    STATE/exports/HASH.json        which version of which repository the directory has, or was to have when the export
                                   was interrupted; by the directory's path, inode, and a random extended attribute
    PARENT/.NAME.icefs-export/     files that are being written, next to the directory; gone at the end

Where the directory is the root of a file system, or nothing can be written next to it, the latter is in the directory
itself, as `.icefs-export.tmp`. An `.icefs-export.json` in it, which earlier versions of icefs wrote, is read and
removed. No group or array can be exported under these two names.
"""

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Self

from icefs.bounded import Limits, keep_within
from icefs.errors import NotADirectoryTreeError, NotEmptyError, SessionStateError
from icefs.transfer.disk_errors import disk_error
from icefs.transfer.scan import MARKER_NAME
from icefs.transfer.similar_names import PROBE_PREFIX

_log = logging.getLogger(__name__)

STAGING_NAME: Final = ".icefs-export.tmp"
RESERVED: Final = frozenset({MARKER_NAME, STAGING_NAME})
_SUFFIX: Final = ".icefs-export"
_MAX_NAME: Final = 200
LIMITS: Final = Limits(max_files=1000)
"""Of records: a further export to a directory whose record is gone asks for --force."""
UNFINISHED: Final = Limits(max_unused_s=86400)
_VERSION: Final = 1
_TOKEN: Final = "user.icefs.export"


@dataclass(frozen=True, slots=True)
class Marker:
    """What a directory is an export of.

    Attributes:
        repository: The repository's URL, without secrets.
        node: The path of the node that the directory is.
        snapshot: The version.
        is_complete: Whether all of it was written.
        is_mixed: Whether files of other versions, or of somebody else, may be there that this version does not have.
        version: Of this record.
        format: The view that was exported; empty for plain Zarr v3.
        branch: The branch that the view names; empty for a tag or snapshot, and for plain Zarr v3.
        is_foreign: Whether files of somebody else may be there that have the length and time of one of this version.
        earlier_snapshot: The version that the directory was an export of before; empty if all files are of this one.
        earlier_branch: The branch that files of it name.
    """

    repository: str
    node: str
    snapshot: str
    is_complete: bool = False
    is_mixed: bool = False
    version: int = _VERSION
    format: str = ""
    branch: str = ""
    is_foreign: bool = False
    earlier_snapshot: str = ""
    earlier_branch: str = ""

    @property
    def of(self) -> tuple[str, str, str]:
        """What all versions of an export have in common."""
        return self.repository, self.node, self.format

    @property
    def as_format(self) -> str:
        """Its format, for messages; empty for plain Zarr v3."""
        return f" as {self.format}" if self.format else ""

    def finished(self, *, is_mixed: bool) -> "Marker":
        """Returns what is true at the end."""
        return replace(
            self,
            is_complete=True,
            is_mixed=is_mixed,
            is_foreign=is_mixed and self.is_foreign,
            earlier_snapshot="",
            earlier_branch="",
        )

    def after(self, found: "Marker") -> "Marker":
        """Returns the record of an export of this version over another one of the same, which is whole or not."""
        is_other = (found.snapshot, found.branch) != (self.snapshot, self.branch)
        earlier = found.earlier_snapshot, found.earlier_branch
        if is_other and (found.is_complete or not found.earlier_snapshot):
            earlier = found.snapshot, found.branch
        return replace(
            self,
            is_mixed=found.is_mixed or found.snapshot != self.snapshot,
            is_foreign=found.is_foreign,
            earlier_snapshot=earlier[0],
            earlier_branch=earlier[1],
        )


class Record:
    """The record of one directory, in the user's state directory; it is of no other directory made at that path."""

    def __init__(self, root: str, state_dir: Path | None, limits: Limits = LIMITS) -> None:
        """Makes the record's name.

        Args:
            root: The directory.
            state_dir: Where records are kept; without, none is.
            limits: What stays of the records there.
        """
        self._limits = limits
        self._root = os.path.realpath(root)
        self._path = None
        if state_dir is not None:
            digest = hashlib.sha256(os.fsencode(self._root)).hexdigest()[:24]
            self._path = state_dir / "exports" / f"{digest}.json"

    def read(self) -> Marker | None:
        """Returns what was recorded of the directory that is there now."""
        if self._path is None:
            return None
        try:
            facts = json.loads(self._path.read_text(encoding="utf-8"))
            inode, token = facts.pop("inode"), facts.pop("token", None)
            del facts["directory"]
            found = Marker(**facts)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            _log.warning("the record of the export to %s is not used: %s", self._root, error)
            return None
        is_this = inode == os.stat(self._root).st_ino and token in (None, _token(self._root))
        return found if is_this and found.version == _VERSION else None

    def write(self, marker: Marker) -> None:
        """Keeps a record; where that fails, a further export to the directory asks for --force."""
        if self._path is None:
            return
        facts = {**asdict(marker), "directory": self._root, "inode": os.stat(self._root).st_ino}
        facts["token"] = _token(self._root) or _give_token(self._root)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._remove_old(self._path.parent)
            new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            new.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
            new.replace(self._path)
        except OSError as error:
            _log.warning("cannot keep a record of the export to %s: %s", self._root, error)

    def _remove_old(self, directory: Path) -> None:
        """Removes the records of directories that are gone, those over the limit, and what died before its rename."""
        for path in directory.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                if not os.path.isdir(json.loads(path.read_text(encoding="utf-8"))["directory"]):
                    path.unlink()
        keep_within(directory, "*.json", self._limits, own=self._path)
        keep_within(directory, "*.json.*", UNFINISHED)


class Target:
    """The directory that is exported to. Its staging directory belongs to one export at a time."""

    def __init__(self, root: str, state_dir: Path | None = None) -> None:
        self.root = root
        self.staging = os.path.join(root, STAGING_NAME)
        self._old_marker = os.path.join(root, MARKER_NAME)
        self._record = Record(root, state_dir)

    def look(self, wanted: Marker, *, force: bool) -> tuple[Marker, bool]:
        """Finds out what is in the directory; changes nothing.

        Returns:
            What to record about the export, and whether anything is there already.

        Raises:
            NotADirectoryTreeError: it is no directory.
            NotEmptyError: it has files that are not of an earlier export of the same, and `force` is off.
            StorageError: it cannot be read.
        """
        try:
            # What a dead export was trying out is no file of anybody.
            names = {
                name for name in os.listdir(self.root) if name != STAGING_NAME and not name.startswith(PROBE_PREFIX)
            }
        except FileNotFoundError:
            return wanted, False
        except NotADirectoryError as error:
            raise NotADirectoryTreeError(f"{self.root} is not a directory", path=self.root) from error
        except OSError as error:
            raise disk_error("write", self.root, error) from error
        if not names:
            return wanted, False
        found = self._read_old() if MARKER_NAME in names else self._record.read()
        if found is not None and found.of == wanted.of:
            return wanted.after(found), True
        if not force:
            what = "files" if found is None else f"an export of {found.node} of {found.repository}{found.as_format}"
            raise NotEmptyError(
                f"{self.root} has {what} in it",
                hint="choose an empty directory, or --force to write over what is there",
                path=self.root,
            )
        return replace(wanted, is_mixed=True, is_foreign=True), True

    def _read_old(self) -> Marker | None:
        try:
            with open(self._old_marker, encoding="utf-8") as file:
                found = Marker(**json.load(file))
            return found if found.version == _VERSION else None
        except (ValueError, TypeError):
            return None
        except OSError as error:
            raise disk_error("write", self._old_marker, error) from error

    def begin(self, marker: Marker) -> None:
        """Makes the directory, and records what it is going to be.

        Raises:
            SessionStateError: another export into it is under way.
            StorageError: it cannot be written.
        """
        try:
            os.makedirs(self.root, exist_ok=True)
            # Of a dead export that could write nowhere else, or of an earlier version of icefs.
            self._clear(self.staging)
            for name in os.listdir(self.root):
                if name.startswith(PROBE_PREFIX):
                    shutil.rmtree(os.path.join(self.root, name))
            self._claim()
            self._record.write(marker)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._old_marker)
        except OSError as error:
            raise disk_error("write", self.root, error) from error

    def _claim(self) -> None:
        """Takes the staging directory, and from a dead process also what is in it."""
        beside = _beside(self.root)
        if beside is not None:
            try:
                self._take(beside)
                self._check_moves(beside)
            except OSError as error:
                _log.debug("nothing can be moved from %s into %s: %s", beside, self.root, error)
                shutil.rmtree(beside, ignore_errors=True)
            else:
                self.staging = beside
                return
        self._take(self.staging)

    def _take(self, staging: str) -> None:
        self._clear(staging)
        os.mkdir(staging)
        with open(os.path.join(staging, "pid"), "w", encoding="ascii") as file:
            file.write(f"{os.getpid()} {_started(os.getpid())}")

    def _clear(self, staging: str) -> None:
        """Removes what a dead process left.

        Raises:
            SessionStateError: the process lives.
        """
        if not os.path.isdir(staging):
            return
        owner = _living_owner(os.path.join(staging, "pid"))
        if owner is not None and owner != os.getpid():
            raise SessionStateError(
                f"process {owner} is exporting into {self.root}", hint="wait for it to end", path=self.root
            )
        shutil.rmtree(staging)

    def _check_moves(self, staging: str) -> None:
        """Tries whether files can be moved into the directory from there: a mount may begin in between."""
        os.mkdir(os.path.join(staging, "probe"))
        os.rename(os.path.join(staging, "probe"), os.path.join(self.root, STAGING_NAME))
        os.rmdir(os.path.join(self.root, STAGING_NAME))

    def write(self, marker: Marker) -> None:
        """Records what the directory is."""
        self._record.write(marker)

    def end(self) -> None:
        """Takes away what was on its way."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()


def _beside(root: str) -> str | None:
    """Returns the place for files on their way next to a directory; None if nothing is next to it."""
    parent, name = os.path.split(os.path.realpath(root))
    if not name:
        return None
    if len(os.fsencode(name)) > _MAX_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return os.path.join(parent, f".{name}{_SUFFIX}")


def _token(root: str) -> str | None:
    """Returns what tells a directory from a later one with its path and inode number; None where nothing does."""
    try:
        return os.getxattr(root, _TOKEN).decode(errors="replace")
    except OSError:
        return None


def _give_token(root: str) -> str | None:
    token = secrets.token_hex(16)
    try:
        os.setxattr(root, _TOKEN, token.encode())
    except OSError:
        return None  # the file system has no extended attributes
    return token


def _living_owner(path: str) -> int | None:
    """Returns the process that owns a staging directory, by its number and start; None if it has ended."""
    try:
        with open(path, encoding="ascii") as file:
            number, *started = file.read().split()
        owner = int(number)
    except (OSError, ValueError):
        return None
    now = _started(owner)
    # Earlier versions of icefs wrote no start.
    return owner if now and started in ([], [now]) else None


def _started(process: int) -> str:
    """Returns when a process was started, in ticks since this start of the system; empty for none."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
