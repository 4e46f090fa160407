"""How far a transfer has come."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Transferred:
    """How far files have come.

    Attributes:
        files: The files that are done.
        total_files: All files.
        bytes: Their bytes.
        total_bytes: The bytes of all.
        stored_files: Those of `files` that were transferred now.
        stored_bytes: Their bytes.
    """

    files: int = 0
    total_files: int = 0
    bytes: int = 0
    total_bytes: int = 0
    stored_files: int = 0
    stored_bytes: int = 0


type Progress = Callable[[Transferred], None]
"""Called with how far the transfer is, also while nothing happens; what it raises ends the work."""
