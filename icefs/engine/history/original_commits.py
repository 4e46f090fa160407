"""Where the changes of merged, picked and restored commits were made first.

Metadata say which version a commit brought (`origins`). They are anybody's text: a version that is not there, or that
has no such node, ends the search, and the commit that claims it counts itself.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from icefs.engine.history.ancestry import lookup_snapshot
from icefs.engine.history.lineage import Lineages
from icefs.engine.history.origins import Origin, origin_of
from icefs.engine.read.context import ReadContext
from icefs.errors import FormatError, ObjectNotFoundError, SnapshotNotFoundError
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.ids import NodeId, SnapshotId

type _Rows = npt.NDArray[np.intp]


def original_commits(
    context: ReadContext, lineages: Lineages, node_id: NodeId, chunks: ChunkIndices, owners: Sequence[SnapshotId]
) -> list[SnapshotId]:
    """Returns for chunks of an array the commits that made their changes first.

    Args:
        context: The repository.
        lineages: Finds out which commits changed the array in another history.
        node_id: The array.
        chunks: The chunks.
        owners: For each the commit that changed it last, in some history.

    Returns:
        For each the commit that was merged, picked or restored, and so on; else the same one.

    Raises:
        StorageError: a history cannot be read.
    """
    found = list(owners)
    waiting = [(owner, rows, frozenset((owner,))) for owner, rows in _by_owner(owners, np.arange(len(found)))]
    while waiting:
        owner, rows, seen = waiting.pop()
        for origin, part in _origins(context, lineages, node_id, owner, chunks, rows):
            for row in part.tolist():
                found[row] = origin
            if origin not in seen:
                waiting.append((origin, part, seen | {origin}))
    return found


def _by_owner(owners: Sequence[SnapshotId], rows: _Rows) -> list[tuple[SnapshotId, _Rows]]:
    """Groups rows by their owners; `owners` are those of the rows."""
    groups: dict[SnapshotId, list[int]] = {}
    for owner, row in zip(owners, rows.tolist(), strict=True):
        groups.setdefault(owner, []).append(row)
    return [(owner, np.array(found)) for owner, found in groups.items()]


def _origins(
    context: ReadContext,
    lineages: Lineages,
    node_id: NodeId,
    commit: SnapshotId,
    chunks: ChunkIndices,
    rows: _Rows,
) -> list[tuple[SnapshotId, _Rows]]:
    """Returns the commits that one brought, each with its rows; none where it made the changes itself."""
    try:
        origin: Origin | None = origin_of(lookup_snapshot(context, commit).metadata)
        if origin is None or origin.kind == "revert":
            return []
        version = lookup_snapshot(context, origin.snapshot_id).id
        if context.assets.fetch_snapshot(version).node_by_id(node_id) is None:
            return []
        if origin.kind == "cherry_pick":
            return [(version, rows)]
        lineage = lineages.lineage(version, node_id)
    except (SnapshotNotFoundError, ObjectNotFoundError, FormatError):
        return []
    mask = np.zeros(len(chunks), np.bool_)
    mask[rows] = True
    owners = [lineage.commits[owner][0] for owner in lineage.owners_of(chunks.select(mask)).tolist()]
    return _by_owner(owners, np.flatnonzero(mask))
