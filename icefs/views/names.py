"""Names that programs and file systems take, each given once.

netCDF-C prints no name that begins with a space or a control character, and takes a slash in a dimension's name for a
path. A file system has no `.`, `..`, slash or NUL, and at most 255 bytes.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

MAX_DEPTH: Final = 64
"""How many directories are nested at most; a node that is deeper is left out."""

_ODD: Final = re.compile(r"[/\x00-\x1f\x7f]|^ ")
_MAX_FILE_NAME_BYTES: Final = 255


class Names:
    """Gives names, each once."""

    def __init__(self, taken: Iterable[str] = (), max_bytes: int = _MAX_FILE_NAME_BYTES) -> None:
        """Takes names that are not given, and the most bytes of UTF-8 that a name may have."""
        self._taken = set(taken)
        self._max_bytes = max_bytes
        self._numbers: dict[str, int] = {}

    def give(self, name: str) -> str:
        """Returns a name like `name`, or that itself if it is safe and free."""
        safe = found = safe_name(name, self._max_bytes)
        number = self._numbers.get(safe, 2)
        while found in self._taken:
            ending = f"_{number}"
            found = _cut(safe, self._max_bytes - len(ending)) + ending
            number += 1
        self._numbers[safe] = number
        self._taken.add(found)
        return found

    def is_free(self, name: str) -> bool:
        """Tells whether a name is given as it is."""
        return name not in self._taken and safe_name(name, self._max_bytes) == name


def safe_name(name: str, max_bytes: int = _MAX_FILE_NAME_BYTES) -> str:
    """Returns a name that programs and file systems take: the same, or one like it."""
    safe = _ODD.sub("_", name.encode(errors="replace").decode())
    if safe in {"", ".", ".."}:
        safe = f"_{safe}"
    return _cut(safe, max_bytes)


def _cut(name: str, max_bytes: int) -> str:
    return name.encode()[:max_bytes].decode(errors="ignore")


class Dimensions:
    """The names of the dimensions of some arrays: each has one size.

    netCDF-C 4.9.0 has the dimensions of a whole data set in its root, and reads an array whose dimension has another
    size there as if it had that size.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}

    def name(self, names: Sequence[str | None], shape: Sequence[int]) -> list[str]:
        """Returns the names of an array's dimensions: its own, where they are free, and are not used twice in it."""
        found: list[str] = []
        for name, size in zip(names, shape, strict=True):
            wanted = safe_name(f"dim_{size}" if name is None else name, _MAX_FILE_NAME_BYTES - 50)
            free, number = wanted, 2
            if self._sizes.get(wanted, size) != size:
                free = wanted = f"{wanted}_{size}"
            while free in found or self._sizes.get(free, size) != size:
                free = f"{wanted}_{number}"
                number += 1
            self._sizes[free] = size
            found.append(free)
        return found


def entry_names(names: Iterable[str], reserved: Iterable[str]) -> Mapping[str, str]:
    """Returns for each name of a directory's nodes the name of its entry; those that can keep their names do."""
    free = Names(reserved)
    ordered = sorted(names)
    kept = [name for name in ordered if free.is_free(name)]
    given = {name: free.give(name) for name in kept}
    return given | {name: free.give(name) for name in ordered if name not in given}
