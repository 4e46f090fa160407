"""What the writable branches of a mount share."""

from dataclasses import dataclass
from pathlib import Path

from icefs.engine.write.repository import WritableRepository
from icefs.vfs.fetches import Fetches
from icefs.vfs.interface import Notifier
from icefs.vfs.threads import Threads
from icefs.worktree.upload.options import UploadOptions


@dataclass(frozen=True, slots=True)
class WorkingSettings:
    """What writable branches of a mount share.

    Attributes:
        repository: What commits go to.
        state_root: Where working trees are kept.
        mountpoint: Tells the working trees of one branch apart.
        threads: For what may wait.
        jobs: For commits, discards, rebases and reports, which do not wait for programs that read and write.
        fetches: For what is not in memory; those of the whole mount.
        notifier: Invalidates what the kernel caches.
        uploads: How chunks are stored.
        state_directory: The state directory itself, where it is known.
    """

    repository: WritableRepository
    state_root: Path
    mountpoint: str
    threads: Threads
    jobs: Threads
    fetches: Fetches
    notifier: Notifier
    uploads: UploadOptions
    state_directory: Path | None = None
