"""Repositories.

The names that programs import from here; `icefs.api` defines them.
"""

from icefs.api import ChunkStorageStats, Repository

__all__ = ["ChunkStorageStats", "Repository"]
