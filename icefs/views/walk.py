"""All files of a view, in one go: for exports and listings. A mount looks at one directory at a time instead."""

from collections.abc import Iterator

from icefs.views.interface import ViewDirectory, ViewFile


def walk(entry: ViewDirectory | ViewFile, path: str = "") -> Iterator[tuple[str, ViewFile | None]]:
    """Yields the files of a view, or of an entry of it, with their paths; a directory's in the order of its names.

    Args:
        entry: Where to begin.
        path: Its path, without slashes at the ends; empty for the view itself, whose path is never yielded.

    Yields:
        The path and the file; or the path of a directory that has nothing in it, and None.

    Raises:
        StorageError, FormatError: as `ViewDirectory.list`.
    """
    if isinstance(entry, ViewFile):
        yield path, entry
        return
    is_empty = True
    for name, below in entry.list():
        is_empty = False
        yield from walk(below, f"{path}/{name}" if path else name)
    if is_empty and path:
        yield path, None
