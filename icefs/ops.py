"""Updates of a repository, and the summary of a garbage collection.

The names that programs import from here; `icefs.api` defines them.
"""

from icefs.api import (
    GCSummary,
    Update,
    UpdateType,
)

__all__ = ["GCSummary", "Update", "UpdateType"]
