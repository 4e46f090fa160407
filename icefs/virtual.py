"""Virtual chunks, and the containers that may hold them.

The names that programs import from here; `icefs.api` defines them.
"""

from icefs.api import VirtualChunkContainer, VirtualChunkSpec

__all__ = ["VirtualChunkContainer", "VirtualChunkSpec"]
