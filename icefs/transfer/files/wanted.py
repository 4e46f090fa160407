"""Which arrays of files a user wants."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from icefs.errors import InvalidInputError
from icefs.transfer.files.model import FileArray, FileTree


@dataclass(frozen=True, slots=True)
class Wanted:
    """A choice of arrays by their paths or last names.

    Attributes:
        variables: Only these arrays; all, if empty.
        drop: Not these arrays.
    """

    variables: Collection[str] = ()
    drop: Collection[str] = ()

    def skips(self, path: str) -> bool:
        """Tells whether an array is not wanted."""
        return is_named(path, self.drop) or (bool(self.variables) and not is_named(path, self.variables))

    def prune[A: FileArray](self, tree: FileTree[A]) -> None:
        """Takes the groups out of a tree that hold no wanted array, if arrays were chosen by name."""
        if self.variables:
            tree.groups = {path: tree.groups[path] for path in tree.groups if _holds(path, tree.arrays)}


def check_named[A: FileArray](names: Iterable[str], trees: Collection[FileTree[A]]) -> None:
    """Raises InvalidInputError for a name that no array of any file has."""
    for name in names:
        if not any(
            is_named(path, (name,)) for tree in trees for path in (*tree.arrays, *(one.path for one in tree.left_out))
        ):
            raise InvalidInputError(f"no file has an array {name!r}")


def is_named(path: str, names: Collection[str]) -> bool:
    """Tells whether names have an array's path, or the last part of it."""
    return path in names or path.rpartition("/")[2] in names


def _holds(group: str, arrays: Collection[str]) -> bool:
    return not group or any(path.startswith(f"{group}/") for path in arrays)
