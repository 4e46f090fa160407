"""The Zarr store of a session; importing it imports zarr-python.

The names that programs import from here; `icefs.api` defines them.
"""

from icefs.api import IcechunkStore

__all__ = ["IcechunkStore"]
