"""The values in snapshots: groups, arrays and manifest files, without their encoding.

Source: spec 2.1 "Snapshot Files"; format notes §7.8 and §7.9.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeGuard

from icefs.format.ids import ManifestId, NodeId
from icefs.paths import NodePath


class NodeType(StrEnum):
    """Group or array."""

    GROUP = "group"
    ARRAY = "array"


@dataclass(frozen=True, slots=True)
class DimensionShape:
    """One dimension of an array.

    Attributes:
        array_length: Number of elements.
        num_chunks: Number of chunks in the array's chunk grid (of shards, where the array is sharded).
    """

    array_length: int
    num_chunks: int


@dataclass(frozen=True, slots=True)
class ManifestRef:
    """A manifest that holds chunk references of an array.

    Attributes:
        manifest_id: Which manifest.
        extents: For each dimension, the half-open range of chunk indices that the manifest answers for.
    """

    manifest_id: ManifestId
    extents: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ArrayData:
    """The facts of an array in a snapshot, besides its metadata.

    Attributes:
        shape: One entry per dimension; empty for a scalar.
        dimension_names: One entry per dimension, None where unnamed; None where the metadata has no names at all.
        manifests: Their extents do not overlap; a lookup goes to the first that contains the index.
    """

    shape: tuple[DimensionShape, ...]
    dimension_names: tuple[str | None, ...] | None
    manifests: tuple[ManifestRef, ...]


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """A group or an array.

    Attributes:
        id: Stays the same for the node's whole life.
        path: `/`, `/a`, `/a/b`, …
        user_data: The node's `zarr.json`, byte for byte.
        array: None for a group.
        extra: Reserved by the format; kept.
    """

    id: NodeId
    path: NodePath
    user_data: bytes
    array: ArrayData | None = None
    extra: bytes | None = None

    @property
    def node_type(self) -> NodeType:
        """Whether it is a group or an array."""
        return NodeType.GROUP if self.array is None else NodeType.ARRAY


@dataclass(frozen=True, slots=True)
class ManifestFileInfo:
    """A manifest file that a snapshot refers to.

    Attributes:
        id: Which manifest.
        size_bytes: Size of the whole file; 0 where unknown.
        num_chunk_refs: Number of chunk references in it.
        extra: Reserved by the format; kept.
    """

    id: ManifestId
    size_bytes: int
    num_chunk_refs: int
    extra: bytes | None = None


def is_canonical_path(path: str) -> TypeGuard[NodePath]:
    """Tells whether `path` is absolute, without empty, `.` and `..` segments, and without a slash at its end."""
    if not path.startswith("/"):
        return False
    # Nearly every path passes here, without being taken apart.
    if "//" not in path and "/." not in path:
        return path == "/" or not path.endswith("/")
    return not {"", ".", ".."} & set(path[1:].split("/"))
