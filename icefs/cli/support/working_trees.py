"""The working trees of this machine, as far as they are known without opening them."""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from icefs.cli.support.mounts import CONTROL, Mounted, parse_object
from icefs.daemon.mountinfo import mounted_at
from icefs.daemon.options import default_state_dir
from icefs.errors import EntryNotFoundError, IcefsError, InvalidInputError, SessionStateError
from icefs.vfs.commit.staged_report import count_changes
from icefs.vfs.names import encode_ref
from icefs.words import command
from icefs.worktree.spool.state import DATABASE_NAME, LOCK_NAME, is_in_use
from icefs.worktree.spool.summary import TreeSummary, tree_summaries

SERVICE_TREES: Final = Path("/var/lib/icefs/trees")
"""Where the services of `icefs serve` keep their working trees (`StateDirectory` of the unit)."""

_MIN_ID: Final = 4


@dataclass(frozen=True, slots=True)
class KnownTree:
    """A working tree, as far as it is known without opening it.

    Attributes:
        id: What names it here: the end of its directory's name.
        directory: Its state directory.
        repository: Where it belongs to, without secrets.
        branch: The branch.
        base: The snapshot that it stands on.
        mountpoint: Where it is, or was, mounted; None where that is not known.
        state: `mounted`, `unmounted`, or `damaged`: it cannot be opened.
        pid: The process that has it.
        num_changes: How many changes it has, more or less; None where that is unknown.
        size_bytes: What it takes on the disk, in bytes.
        changed_at: When it changed last, in seconds since the epoch.
        problem: Why it cannot be opened.
        is_clean: Whether nothing would be lost with it.
    """

    id: str
    directory: Path
    repository: str
    branch: str
    base: str
    mountpoint: str | None
    state: str
    pid: int | None
    num_changes: int | None
    size_bytes: int
    changed_at: float
    problem: str | None = None
    is_clean: bool = False

    def to_json(self) -> dict[str, Any]:
        """Describes it in JSON."""
        return {
            "id": self.id,
            "repository": self.repository,
            "branch": self.branch,
            "state": self.state,
            "mountpoint": self.mountpoint,
            "pid": self.pid,
            "base": self.base,
            "num_changes": self.num_changes,
            "size_bytes": self.size_bytes,
            "changed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.changed_at)),
            "age_s": round(max(0.0, time.time() - self.changed_at)),
            "directory": str(self.directory),
            "problem": self.problem,
        }


def known_trees(state_root: Path) -> list[KnownTree]:
    """Lists the working trees under a state root."""
    return [_describe(tree) for tree in tree_summaries(state_root)]


def _describe(tree: TreeSummary) -> KnownTree:
    directory, info = tree.directory, tree.info
    size_bytes, changed_at = _usage(directory)
    mountpoint = info.mountpoint or None
    count, base = tree.num_changes, info.base
    if tree.is_in_use:
        count, shown = _ask_mount(mountpoint, info.branch)
        base = shown or base
    return KnownTree(
        directory.name.rpartition("-")[2],
        directory,
        info.repository,
        info.branch,
        base,
        mountpoint,
        "mounted" if tree.is_in_use else "unmounted" if tree.problem is None else "damaged",
        _holder(directory) if tree.is_in_use else None,
        count,
        size_bytes,
        changed_at,
        tree.problem,
        tree.is_clean,
    )


def _usage(directory: Path) -> tuple[int, float]:
    """Returns how many bytes files take, and when the newest of them that holds changes was written."""
    total, newest = 0, 0.0
    for above, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):  # it goes while we look
                status = os.lstat(os.path.join(above, name))
                total += status.st_blocks * 512
                # Opening a tree touches the other files, too.
                if above != str(directory) or name.startswith(DATABASE_NAME):
                    newest = max(newest, status.st_mtime)
    return total, newest


def _holder(directory: Path) -> int | None:
    try:
        return int((directory / LOCK_NAME).read_text())
    except (OSError, ValueError):
        return None


def _ask_mount(mountpoint: str | None, branch: str) -> tuple[int | None, str | None]:
    """Asks the mount for the number of changes and the base; None where it is not known, or does not answer."""
    entry = None if mountpoint is None else mounted_at(mountpoint)
    if mountpoint is None or entry is None or not entry.is_icefs or not entry.is_trusted:
        return None, None
    try:
        root = Path(mountpoint)
        info = parse_object(root / CONTROL / "info.json")
        name = encode_ref(branch)
        tree = root if (info.get("options") or {}).get("branch") or name is None else root / "branches" / name
        status = Mounted(root, tree, info).ask("status")
    except (IcefsError, OSError):
        return None, None
    return count_changes(status), status.get("snapshot")


def _root(state_dir: str | None) -> Path:
    return default_state_dir() if state_dir is None else Path(state_dir).absolute()


def state_roots(state_dir: str | None) -> list[Path]:
    """Returns where working trees are looked for: root also looks for those of services."""
    roots = [_root(state_dir)]
    if state_dir is None and SERVICE_TREES.is_dir() and os.access(SERVICE_TREES, os.R_OK | os.X_OK):
        roots.append(SERVICE_TREES)
    return roots


def find_tree(identity: str, state_dir: str | None) -> KnownTree:
    """Finds a working tree by the beginning of its id, or by its directory's name.

    Raises:
        EntryNotFoundError: there is none.
        InvalidInputError: the ids of several begin so.
    """
    root = _root(state_dir)
    name = identity.rstrip("/").rpartition("/")[2]
    states = [
        tree
        for state_root in state_roots(state_dir)
        for tree in tree_summaries(state_root)
        if tree.directory.name == name
        or (len(name) >= _MIN_ID and tree.directory.name.rpartition("-")[2].startswith(name))
    ]
    if not states:
        raise EntryNotFoundError(f"there is no working tree {identity!r} in {root}", hint="'icefs sessions' lists them")
    if len(states) > 1:
        raise InvalidInputError(f"{len(states)} working trees begin with {identity!r}", hint="give more of the id")
    return _describe(states[0])


def require_unmounted(tree: KnownTree) -> None:
    """Refuses a working tree that a process has open.

    Raises:
        SessionStateError: one has.
    """
    if is_in_use(tree.directory):
        where = tree.mountpoint or f"process {tree.pid}"
        end = command("umount", tree.mountpoint or "MNT")
        raise SessionStateError(
            f"the working tree {tree.id} is mounted: {where}",
            hint=f"use 'icefs commit' or 'icefs discard' there, or '{end}' first",
        )
