"""Types of arguments.

The names that programs import from here; `icefs.api` defines them.
"""

from icefs.api import CommitMethod

__all__ = ["CommitMethod"]
