"""Where each object of a repository lies, as keys relative to the repository's root.

Source: spec 2.1 "File layout"; format notes §7.5 and §7.6.
"""

from icefs.format.ids import ChunkId, ManifestId, SnapshotId

REPO_INFO = "repo"
CONFIG_V1 = "config.yaml"
SNAPSHOTS = "snapshots"
MANIFESTS = "manifests"
TRANSACTIONS = "transactions"
CHUNKS = "chunks"
OVERWRITTEN = "overwritten"
REFS_V1 = "refs"

# Backups list newest first: their names count milliseconds down from the year 3000.
_BACKUP_EPOCH_MS = 32_503_680_000_000


def snapshot_key(snapshot_id: SnapshotId) -> str:
    """Returns the key of a snapshot."""
    return f"{SNAPSHOTS}/{snapshot_id}"


def transaction_log_key(snapshot_id: SnapshotId) -> str:
    """Returns the key of the transaction log of a snapshot."""
    return f"{TRANSACTIONS}/{snapshot_id}"


def manifest_key(manifest_id: ManifestId) -> str:
    """Returns the key of a manifest."""
    return f"{MANIFESTS}/{manifest_id}"


def chunk_key(chunk_id: ChunkId) -> str:
    """Returns the key of a chunk object."""
    return f"{CHUNKS}/{chunk_id}"


def backup_name(key: str, now_micros: int, suffix: ChunkId) -> str:
    """Names a backup copy of the mutable object at `key`, without the `overwritten/` prefix.

    Args:
        key: `repo` or `config.yaml`.
        now_micros: The time of the update.
        suffix: Twelve random bytes.
    """
    return f"{key}.{_BACKUP_EPOCH_MS - now_micros // 1000:014d}.{suffix}"


def backup_key(name: str) -> str:
    """Returns the key of the backup called `name`."""
    return f"{OVERWRITTEN}/{name}"
