"""What the writable branches of a mount share."""

from dataclasses import dataclass, field
from pathlib import Path

from icefs.engine.write.repository import WritableRepository
from icefs.vfs.fetches import Fetches
from icefs.vfs.interface import Notifier
from icefs.vfs.threads import Threads
from icefs.worktree.upload.options import UploadOptions


@dataclass(frozen=True, slots=True)
class WorkingOptions:
    """How working trees are kept, and what becomes of their bytes.

    Attributes:
        state_root: The directory of their state directories.
        mountpoint: Tells the working trees of one branch apart.
        uploads: How chunks are stored.
        state_directory: The state directory of the one branch that is shown, if it is known; else repository, branch
            and mountpoint name it.
    """

    state_root: Path
    mountpoint: str = ""
    uploads: UploadOptions = field(default_factory=UploadOptions)
    state_directory: Path | None = None


@dataclass(frozen=True, slots=True)
class WorkingSettings:
    """What writable branches of a mount share.

    Attributes:
        repository: What commits go to.
        options: The options of the mount.
        threads: For what may wait.
        jobs: For commits, discards, rebases and reports, which do not wait for programs that read and write.
        fetches: For what is not in memory; those of the whole mount.
        notifier: Invalidates what the kernel caches.
    """

    repository: WritableRepository
    options: WorkingOptions
    threads: Threads
    jobs: Threads
    fetches: Fetches
    notifier: Notifier
