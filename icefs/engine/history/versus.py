"""What one version has that another has not: from the newest snapshot that they have in common, merges counted in."""

from icefs.engine.history.compared_log import compared_diff
from icefs.engine.history.diff import Diff
from icefs.engine.history.origins import merge_bases
from icefs.engine.read.context import ReadContext
from icefs.engine.read.session import session_at
from icefs.errors import InvalidInputError
from icefs.format.ids import SnapshotId


def changes_since_common(context: ReadContext, one: SnapshotId, other: SnapshotId) -> tuple[SnapshotId, Diff]:
    """Compares the newest snapshot that two versions have in common with the second one.

    Where they have several, since each has merged an older version of the other, the newest of these counts.

    Returns:
        That snapshot, and what differs.

    Raises:
        InvalidInputError: they have none in common (kind `no-common-ancestor`).
        SnapshotNotFoundError, SessionStateError, StorageError, FormatError: as `merge_bases` and `compared_diff`.
    """
    bases = merge_bases(context, one, other)
    if not bases:
        raise InvalidInputError(
            f"the snapshots {one} and {other} have no snapshot in common",
            kind="no-common-ancestor",
            hint="export both, and compare the files",
        )
    if bases[0] == other:
        return other, Diff.empty()
    return bases[0], compared_diff(session_at(context, bases[0]), session_at(context, other))
