"""How the chunks of a working tree are stored."""

from dataclasses import dataclass
from typing import Final

from icefs.engine.write.packing import DEFAULT_PACK_BYTES

DEFAULT_QUIET_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """How chunks are stored.

    Attributes:
        pack_bytes: How large an object may become that small chunks share; 0 gives each its own.
        quiet_s: How long a file must not have changed before it is uploaded in the background; None for never.
        first_backoff_s: How long background uploads wait after a first failure, in seconds; after each further one
            twice as long.
    """

    pack_bytes: int = DEFAULT_PACK_BYTES
    quiet_s: float | None = DEFAULT_QUIET_S
    first_backoff_s: float = 1.0
