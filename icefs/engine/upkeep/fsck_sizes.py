"""Chunks of a size that their array's codecs rule out, which no reader can decode; empty ones among them.

The size of a reference is compared with the `zarr.json` of each array that has used the manifest, whatever kind the
chunk is: inline, native or virtual. References outside of an array's grid, which a resized array keeps, are no chunks.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from icefs.format.chunk_sizes import ChunkSizes, chunk_sizes
from icefs.format.ids import ManifestId, NodeId, SnapshotId
from icefs.format.manifest.refs import ArrayRefs, ChunkKind
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.format.zarr_json import chunk_key_encoding_of


@dataclass(frozen=True, slots=True)
class _Use:
    """An array that refers to a manifest, in a branch's newest snapshot or, with None, in an earlier one only."""

    node: NodeSnapshot
    branch: str | None


class ImpossibleSizes:
    """Collects which arrays use which manifests, and then looks at the references in these."""

    def __init__(self, tips: Mapping[SnapshotId, str]) -> None:
        """Takes the branches by their tips."""
        self._tips = tips
        self._uses: dict[tuple[ManifestId, NodeId], dict[bytes, _Use]] = {}
        self._sizes: dict[bytes, ChunkSizes] = {}

    def add(self, snapshot_id: SnapshotId, node: NodeSnapshot) -> None:
        """Records an array of a snapshot."""
        branch = self._tips.get(snapshot_id)
        for ref in () if node.array is None else node.array.manifests:
            uses = self._uses.setdefault((ref.manifest_id, node.id), {})
            known = uses.get(node.user_data)
            if known is None or (known.branch is None and branch is not None):
                uses[node.user_data] = _Use(node, branch)

    def find(self, manifest_id: ManifestId, refs: ArrayRefs) -> Iterator[str]:
        """Yields what is wrong with the references to an array's chunks in a manifest, once for each chunk."""
        seen: set[int] = set()
        uses = self._uses.get((manifest_id, refs.node_id), {}).values()
        # What a branch has now can be deleted, and is named as such.
        for use in sorted(uses, key=lambda one: one.branch is None):
            sizes = self._sizes.get(use.node.user_data)
            if sizes is None:
                sizes = self._sizes[use.node.user_data] = chunk_sizes(use.node.user_data)
            for row in _impossible(sizes, use.node, refs):
                if row not in seen:
                    seen.add(row)
                    yield _describe(sizes, use, refs, row)


def _impossible(sizes: ChunkSizes, node: NodeSnapshot, refs: ArrayRefs) -> list[int]:
    assert node.array is not None  # arrays alone have manifests
    grid = [dimension.num_chunks for dimension in node.array.shape]
    if len(grid) != refs.ndim or not len(refs):
        return []
    rows = np.arange(len(refs))
    for column, count in zip(refs.coords, grid, strict=True):
        rows = rows[column[rows] < count]
    chosen = sizes.impossible([column[rows] for column in refs.coords], refs.lengths[rows])
    found: list[int] = rows[chosen].tolist()
    return found


def _describe(sizes: ChunkSizes, use: _Use, refs: ArrayRefs, row: int) -> str:
    index = refs.index(row)
    kind = ChunkKind(refs.kinds[row]).name.lower()
    reason = sizes.reason(index, int(refs.lengths[row]))
    if use.branch is None:
        cure = "only earlier snapshots have it: 'icefs expire' and 'icefs gc' remove them"
    else:
        key = _key(use.node, index)
        what = "its file" if key is None else key
        cure = f"to delete it, remove {what} in a mount of the branch {use.branch!r}, then commit"
    return f"the {kind} chunk {list(index)} of {use.node.path} {reason}; {cure}"


def _key(node: NodeSnapshot, index: tuple[int, ...]) -> str | None:
    """Returns the Zarr key of a chunk, None where nobody knows how the array writes them."""
    encoding = chunk_key_encoding_of(node.user_data)
    numbers = [str(position) for position in index]
    above = node.path.removeprefix("/")
    prefix = f"{above}/" if above else ""
    if encoding.separator not in ("/", ".") or encoding.name not in ("default", "v2"):
        return None
    if encoding.name == "default":
        return prefix + encoding.separator.join(["c", *numbers])
    return prefix + (encoding.separator.join(numbers) or "0")
