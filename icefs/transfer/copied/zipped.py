"""A zip file that holds a Zarr hierarchy, as the tree of its members."""

import zipfile
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any, Final, cast

from icefs.errors import IcefsError, InvalidInputError
from icefs.transfer.files.reading import BlockReader
from icefs.transfer.files.sources import ZARR_NAMES, SourceFile, SourceTree

MAGIC: Final = b"PK\x03\x04"


class _Members:
    """The members of a zip file as a `RangeReader`; safe for threads, as `zipfile` is."""

    def __init__(self, archive: zipfile.ZipFile, reader: BlockReader, name: str) -> None:
        self._archive = archive
        self._reader = reader
        self._name = name

    def read_range(self, key: str, start: int, end: int, **conditions: Any) -> bytes:
        """Reads a range of a member; the file itself is pinned, so that conditions have no use.

        Raises:
            InvalidInputError: the member is damaged (kind `damaged-file`).
        """
        try:
            return self._archive.read(key)[start:end]
        except IcefsError:
            raise
        except Exception as error:  # what zlib and its like raise
            raise InvalidInputError(
                f"{key} of {self._name} cannot be read: {error}", kind="damaged-file", hint="get the file again"
            ) from error


def open_zip(source: SourceFile, opened: ExitStack) -> SourceTree:
    """Returns the Zarr hierarchy in a zip file, which may be in one directory of it.

    Args:
        source: The file.
        opened: Closes it.

    Raises:
        InvalidInputError: it is damaged, or holds no Zarr.
        ObjectModifiedError, StorageError: it changed, or cannot be read.
    """
    reader = BlockReader(source)
    try:
        archive = opened.enter_context(zipfile.ZipFile(cast("Any", reader)))
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise reader.failure or InvalidInputError(
            f"{source.name} is no zip file that can be read: {error}", kind="damaged-file", hint="get the file again"
        ) from error
    members = _Members(archive, reader, source.name)
    files = {
        info.filename: SourceFile(
            name=f"{source.name}/{info.filename}",
            location=f"{source.location}/{info.filename}",
            size_bytes=info.file_size,
            etag=None,
            modified_s=int(datetime(*info.date_time, tzinfo=UTC).timestamp()),
            store=source.store,
            reader=members,
            key=info.filename,
        )
        for info in archive.infolist()
        if not info.is_dir()
    }
    home = _home(files)
    if home is None:
        raise InvalidInputError(
            f"{source.name} is a zip file without Zarr metadata", hint="unpack it, and name the files in it"
        )
    return SourceTree(
        source.name, {name.removeprefix(home): file for name, file in files.items() if name.startswith(home)}
    )


def _home(names: Iterable[str]) -> str | None:
    """Returns the directory of a hierarchy, with a slash at the end unless it is the top; None if there is none."""
    homes = {name.removesuffix(name.rpartition("/")[2]) for name in names if name.rpartition("/")[2] in ZARR_NAMES}
    return min(homes, key=lambda home: (home.count("/"), home), default=None)
