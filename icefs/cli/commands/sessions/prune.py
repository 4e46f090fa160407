"""`icefs sessions prune`: removes working trees that are not mounted and have no changes."""

import click

from icefs.cli.commands.sessions.given import given_state_dir, state_dir_option
from icefs.cli.support.options import dry_run_option, human_bytes, json_option, print_json, say
from icefs.cli.support.working_trees import known_trees, state_roots
from icefs.words import plural
from icefs.worktree.spool.state import remove_state


@click.command("prune")
@dry_run_option
@state_dir_option
@json_option
def prune_trees(dry_run: bool, state_dir: str | None, as_json: bool) -> None:
    """Remove the working trees that are not mounted and have no changes."""
    clean = [one for root in state_roots(given_state_dir(state_dir)) for one in known_trees(root) if one.is_clean]
    for tree in clean if not dry_run else ():
        remove_state(tree.directory)
    gone = [one for one in clean if dry_run or not one.directory.exists()]
    if as_json:
        print_json({"removed": [one.to_json() for one in gone], "dry_run": dry_run})
        return
    verb = "would remove" if dry_run else "removed"
    say(f"{verb} {plural(len(gone), 'working tree')}, {human_bytes(sum(one.size_bytes for one in gone))}")
