"""Which branches of a mount have changes that are not committed, or damage."""

from typing import Any

from icefs.errors import IcefsError
from icefs.vfs.branches.branch_tree import BranchTree
from icefs.vfs.branches.writable_branch import WritableBranch
from icefs.vfs.control import reports
from icefs.vfs.control.rpc import error_facts
from icefs.vfs.mount import Mount
from icefs.vfs.names import encode_ref


async def list_uncommitted(mount: Mount) -> list[dict[str, Any]]:
    """Lists the branches with changes or damage, also those that no program has looked at since the mount began."""
    root, fs = mount.trees.root, mount.fs
    if root is not None:
        # Each branch is made, which finds out whether a working tree was left for it.
        directory = root.directory_ino("branches")
        for name in mount.follower.refs.branches:
            text = encode_ref(name)
            if text is not None and name not in root.branches:
                fs.forget((await fs.lookup(directory, text)).ino, 1)
    found: list[dict[str, Any]] = []
    for branch in mount.trees.branches():
        if branch.writable is not None:
            line = await _uncommitted(branch, branch.writable)
            if line is not None:
                found.append(line)
    return sorted(found, key=lambda line: line["name"])


async def _uncommitted(branch: BranchTree, writable: WritableBranch) -> dict[str, Any] | None:
    """Describes a branch with changes or damage, or whose working tree cannot be opened; None for any other."""
    facts: dict[str, Any] = {"name": branch.name, "path": branch.label or "."}
    directory = str(writable.life.state_directory)
    try:
        await writable.operations.look()
    except IcefsError as error:
        return {
            **facts,
            "base": str(branch.snapshot_id),
            "background": None,
            "has_changes": True,
            "damage": None,
            "error": error_facts(error),
            "directory": directory,
        }
    work = writable.work
    damage = None if work is None else reports.damage_facts(work)
    is_changed = has_changes(branch)
    if not is_changed and damage is None:
        return None
    return {
        **facts,
        "base": str(branch.snapshot_id),
        "background": None if work is None else reports.background_facts(work.uploads),
        "has_changes": is_changed,
        "damage": damage,
        "error": None,
        "directory": directory,
    }


def has_changes(branch: BranchTree) -> bool:
    """Tells whether there is anything uncommitted; a working tree that waits to be opened is taken to have some."""
    writable = branch.writable
    if writable is None:
        return False
    return writable.life.is_left or (writable.work is not None and writable.work.has_changes())
