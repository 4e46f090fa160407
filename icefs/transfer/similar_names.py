"""Names that a file system takes for one another, though a repository tells them apart.

APFS, NTFS, exFAT, SMB and ext4 with casefold do not distinguish upper and lower case, or ways to write one letter in
Unicode; Windows drops dots and spaces at the end. An export would merge two arrays there without a word. Which names
might be taken for one another is worked out generously, and then the file system itself is asked.
"""

import contextlib
import os
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Final

from icefs.errors import InvalidInputError
from icefs.zarr.keys import METADATA_NAME

PROBE_PREFIX: Final = ".icefs-names-"
_NAMED: Final = 3
ALWAYS: Final = (METADATA_NAME, "c")
"""What each directory of a Zarr v3 hierarchy may have besides nodes."""


def folded(name: str) -> str:
    """Returns what all names have in common that some file system takes for one."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    return "".join(letter for letter in plain if unicodedata.category(letter) != "Cf").rstrip(". ")


def similar_siblings(paths: Iterable[str], always: Iterable[str] = ALWAYS) -> Iterator[tuple[str, list[str]]]:
    """Yields the sibling names below some nodes that may be taken for one another, with their directory.

    Args:
        paths: Of the nodes, relative to the directory that is exported to; empty for itself.
        always: Names that each directory has.
    """
    children: dict[str, set[str]] = {}
    for path in paths:
        above = ""
        for name in path.split("/") if path else ():
            children.setdefault(above, set(always)).add(name)
            above = f"{above}/{name}".lstrip("/")
    for directory, names in sorted(children.items()):
        groups: dict[str, list[str]] = {}
        for name in sorted(names):
            groups.setdefault(folded(name), []).append(name)
        for group in groups.values():
            if len(group) > 1:
                yield directory, group


def check_names(root: str, paths: Iterable[str], always: Iterable[str] = ALWAYS) -> None:
    """Refuses nodes that would share a directory on the file system that they are exported to.

    Nothing is left behind. Where no file system can be asked yet, as its directory cannot be written, nothing is
    refused; the export then fails for that.

    Raises:
        InvalidInputError: two of them would (kind `invalid-path`); `facts["names"]` lists the pairs.
    """
    similar = list(similar_siblings(paths, tuple(always)))
    if not similar:
        return
    place = os.path.realpath(root)
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    merged: list[tuple[str, str]] = []
    with contextlib.suppress(PermissionError), tempfile.TemporaryDirectory(prefix=PROBE_PREFIX, dir=place) as probe:
        for directory, names in similar:
            above = f"{directory}/" if directory else ""
            merged += [
                (above + one, above + other) for one, other in combinations(names, 2) if _are_one(probe, one, other)
            ]
    if merged:
        told = ", ".join(f"{one!r} and {other!r}" for one, other in merged[:_NAMED])
        more = f" and {len(merged) - _NAMED} more pairs" if len(merged) > _NAMED else ""
        raise InvalidInputError(
            f"the file system of {root} takes different names for one: {told}{more}",
            kind="invalid-path",
            hint="nothing was written; export to a file system that tells them apart, or one group at a time (NODE)",
            path=root,
            names=merged,
        )


def _are_one(probe: str, one: str, other: str) -> bool:
    """Asks the file system of a directory whether it takes two names for one."""
    path = os.path.join(probe, one)
    try:
        os.mkdir(path)
    except (OSError, ValueError):
        return False  # it can have no such name, which the export lists
    try:
        return os.path.lexists(os.path.join(probe, other))
    except ValueError:
        return False
    finally:
        os.rmdir(path)
