"""`icefs sessions`: lists the working trees of this machine; the group that the others are in."""

import time
from typing import Final

import click

from icefs.cli.commands.sessions.commit import commit_tree
from icefs.cli.commands.sessions.discard import discard_tree
from icefs.cli.commands.sessions.export import export_tree
from icefs.cli.commands.sessions.given import STATE_DIR, state_dir_option
from icefs.cli.commands.sessions.prune import prune_trees
from icefs.cli.support.options import Group, human_bytes, json_option, print_json, print_rows, say
from icefs.cli.support.working_trees import known_trees, state_roots
from icefs.words import command, plural

_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"))


@click.group(cls=Group, invoke_without_command=True)
@state_dir_option
@json_option
@click.pass_context
def sessions(ctx: click.Context, state_dir: str | None, as_json: bool) -> None:
    """List working trees; commit, discard or export one unmounted.

    A working tree holds what was written to a mounted branch and is not committed. It is left behind when the mount
    ends ('icefs umount' keeps it) or its daemon dies, and found again by a mount of the same branch at the same
    mountpoint.
    """
    ctx.meta[STATE_DIR] = state_dir
    if ctx.invoked_subcommand is not None:
        return
    everything = [tree for root in state_roots(state_dir) for tree in known_trees(root)]
    found = [tree for tree in everything if not tree.is_clean]
    if as_json:
        print_json([tree.to_json() for tree in found])
        return
    print_rows(
        ("id", "state", "branch", "changes", "size", "age", "base", "repository", "mountpoint"),
        [
            (
                one.id,
                one.state,
                one.branch,
                "?" if one.num_changes is None else str(one.num_changes),
                human_bytes(one.size_bytes),
                _age(time.time() - one.changed_at),
                one.base,
                one.repository,
                one.mountpoint or "?",
            )
            for one in found
        ],
        folding=("branch", "repository", "mountpoint"),
        none="there are no working trees with changes",
    )
    for one in found:
        if one.problem is not None:
            say(f"{one.id}: {one.problem}")
            root = str(one.directory.parent)
            rescue = command("sessions export", one.id, "DIR", state_dir=root)
            end = command("sessions discard", one.id, state_dir=root)
            say(f"  '{rescue}' copies the bytes that it has; '{end}' gives it up")
    if len(everything) > len(found):
        what = plural(len(everything) - len(found), "working tree")
        say(f"{what} without changes not shown; 'icefs sessions prune' removes them", err=True)


def _age(seconds: float) -> str:
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


for _one in (commit_tree, discard_tree, prune_trees, export_tree):
    sessions.add_command(_one)
