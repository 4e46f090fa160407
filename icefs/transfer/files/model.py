"""Arrays and groups of files, before they are written into a session."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

type Document = dict[str, Any]
"""What a `zarr.json` holds."""


class LeftOut(NamedTuple):
    """An array that cannot be imported."""

    file: str
    path: str
    reason: str


@dataclass(slots=True)
class FileArray:
    """An array of a file.

    Attributes:
        path: Its place below the imported group, such as `air` or `surface/air`.
        document: Its `zarr.json`; chunk keys are encoded in the default way.
        file: The file that it was found in, as the user named it.
    """

    path: str
    document: Document
    file: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of elements along each axis."""
        return tuple(self.document["shape"])

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """The number of elements of a chunk along each axis."""
        return chunk_shape_of(self.document)

    @property
    def dimensions(self) -> tuple[str | None, ...]:
        """The names of the axes; None for an axis without a name."""
        return tuple(self.document.get("dimension_names") or (None,) * len(self.shape))


@dataclass(slots=True)
class FileTree[A: FileArray]:
    """The groups and arrays of a file, or of several that were combined.

    Attributes:
        file: The file, or the first of them, as the user named it.
        groups: The attributes of each group; the empty path is the top.
        arrays: By their paths.
        left_out: The arrays that cannot be imported.
    """

    file: str
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    arrays: dict[str, A] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)


def chunk_shape_of(document: Document) -> tuple[int, ...]:
    """Returns the chunk shape of an array with a regular grid."""
    return tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
