"""A commit's request, and its outcome."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from icefs.format.ids import SnapshotId
from icefs.inode import Invalidations

type Invalidate = Callable[[Invalidations], None]
"""Has the kernel drop what it caches."""


@dataclass(frozen=True, slots=True)
class CommitRequest:
    """What to commit, and how.

    Attributes:
        message: The commit message; None, with `amend`, for that of the commit that is replaced.
        metadata: The commit's metadata, any JSON; with `amend`, joined with that of the commit that is replaced.
        rebase: `ours`, `theirs` or `fail` to rebase where others have committed; None to fail then.
        allow_empty: Commit also where nothing changed.
        skip_invalid: Leave out files that cannot be committed.
        include_open: Take files that are open for writing, as they are at that moment.
        amend: Replace the branch's newest commit, which the tree must stand on.
    """

    message: str | None
    metadata: dict[str, Any] = field(default_factory=dict)
    rebase: str | None = None
    allow_empty: bool = False
    skip_invalid: bool = False
    include_open: bool = False
    amend: bool = False


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit did.

    Attributes:
        snapshot_id: The new snapshot.
        facts: Its description, in JSON.
        changed: What the kernel has to ask for again.
    """

    snapshot_id: SnapshotId
    facts: dict[str, Any]
    changed: Invalidations
