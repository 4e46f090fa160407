"""What an export writes into its directory about itself, and the files that are on their way.

    .icefs-export.json    which version of which repository the directory has, or was to have when it was interrupted
    .icefs-export.tmp/    files that are being written; gone at the end

No group or array can be exported under these two names.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from typing import Final, Self

from icefs.errors import NotADirectoryTreeError, NotEmptyError, SessionStateError
from icefs.transfer.disk_errors import disk_error
from icefs.transfer.scan import MARKER_NAME

STAGING_NAME: Final = ".icefs-export.tmp"
RESERVED: Final = frozenset({MARKER_NAME, STAGING_NAME})
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Marker:
    """What a directory is an export of.

    Attributes:
        repository: The repository's URL, without secrets.
        node: The path of the node that the directory is.
        snapshot: The version.
        is_complete: Whether all of it was written.
        is_mixed: Whether files of other versions, or of somebody else, may be there that this version does not have.
        version: Of this file.
    """

    repository: str
    node: str
    snapshot: str
    is_complete: bool = False
    is_mixed: bool = False
    version: int = _VERSION

    def finished(self, *, is_mixed: bool) -> "Marker":
        """Returns what is true at the end."""
        return replace(self, is_complete=True, is_mixed=is_mixed)


class Target:
    """The directory that is exported to. What belongs to one export at a time is its staging directory."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.staging = os.path.join(root, STAGING_NAME)
        self._marker = os.path.join(root, MARKER_NAME)

    def look(self, wanted: Marker, *, force: bool) -> tuple[Marker, bool]:
        """Finds out what is in the directory; changes nothing.

        Returns:
            What to write into it about the export, and whether anything is there already.

        Raises:
            NotADirectoryTreeError: it is no directory.
            NotEmptyError: it has files that are not of an earlier export of the same, and `force` is off.
            StorageError: it cannot be read.
        """
        try:
            names = set(os.listdir(self.root))
        except FileNotFoundError:
            return wanted, False
        except NotADirectoryError as error:
            raise NotADirectoryTreeError(f"{self.root} is not a directory", path=self.root) from error
        except OSError as error:
            raise disk_error("write", self.root, error) from error
        if not names:
            return wanted, False
        found = self._read() if MARKER_NAME in names else None
        if found is not None and (found.repository, found.node) == (wanted.repository, wanted.node):
            is_mixed = found.is_mixed or found.snapshot != wanted.snapshot
            return replace(wanted, is_mixed=is_mixed), True
        if not force:
            what = "files" if found is None else f"an export of {found.node} of {found.repository}"
            raise NotEmptyError(
                f"{self.root} has {what} in it",
                hint="choose an empty directory, or --force to write over what is there",
                path=self.root,
            )
        return replace(wanted, is_mixed=True), True

    def _read(self) -> Marker | None:
        try:
            with open(self._marker, encoding="utf-8") as file:
                facts = json.load(file)
            found = Marker(**facts)
            return found if found.version == _VERSION else None
        except (ValueError, TypeError):
            return None
        except OSError as error:
            raise disk_error("write", self._marker, error) from error

    def begin(self, marker: Marker) -> None:
        """Makes the directory, and says in it what it is going to be.

        Raises:
            SessionStateError: another export into it is under way.
            StorageError: it cannot be written.
        """
        try:
            os.makedirs(self.root, exist_ok=True)
            self._claim()
            self._write(marker)
        except OSError as error:
            raise disk_error("write", self.root, error) from error

    def _claim(self) -> None:
        """Takes the staging directory, and from a dead process also what is in it."""
        claim = os.path.join(self.staging, "pid")
        for _ in range(2):
            try:
                os.mkdir(self.staging)
            except FileExistsError:
                owner = _owner(claim)
                if owner is not None and owner != os.getpid() and os.path.exists(f"/proc/{owner}"):
                    raise SessionStateError(
                        f"process {owner} is exporting into {self.root}", hint="wait for it to end", path=self.root
                    ) from None
                shutil.rmtree(self.staging)
                continue
            with open(claim, "w", encoding="ascii") as file:
                file.write(str(os.getpid()))
            return

    def write(self, marker: Marker) -> None:
        """Says in the directory what it is."""
        try:
            self._write(marker)
        except OSError as error:
            raise disk_error("write", self._marker, error) from error

    def _write(self, marker: Marker) -> None:
        new = os.path.join(self.staging, "marker")
        with open(new, "w", encoding="utf-8") as file:
            json.dump(asdict(marker), file, indent=2)
            file.write("\n")
        os.replace(new, self._marker)

    def end(self) -> None:
        """Takes away what was on its way."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()


def _owner(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
