"""Sessions.

The names that programs import from here; `icefs.api` defines them.
"""

from icefs.api import (
    ForkSession,
    Session,
    SessionMode,
)

__all__ = ["ForkSession", "Session", "SessionMode"]
