"""Snapshots, their manifests, the changes between them, and the drawing of the history.

The names that programs import from here; `icefs.api` defines them.
"""

from icefs.api import (
    AncestryGraph,
    Diff,
    ManifestFileInfo,
    SnapshotInfo,
)

__all__ = ["AncestryGraph", "Diff", "ManifestFileInfo", "SnapshotInfo"]
