"""`icefs sessions discard`: gives up a working tree that is not mounted."""

import click

from icefs.cli.commands.sessions.given import GivenTree, given_tree
from icefs.cli.support.options import human_bytes, print_json, say
from icefs.errors import SessionStateError
from icefs.words import plural, quoted
from icefs.worktree.spool.state import remove_state


@click.command("discard")
@click.argument("identity", metavar="ID")
@given_tree(has_repo=False)
def discard_tree(given: GivenTree) -> None:
    """Give up what is in a working tree that is not mounted, all of it and for good."""
    tree = given.find()
    if not given.dry_run:
        remove_state(tree.directory)
        if tree.directory.exists():
            raise SessionStateError(
                f"the working tree could not be removed: {tree.directory}",
                hint="see which processes use it, and its permissions",
            )
    facts = {**tree.to_json(), "dry_run": given.dry_run}
    if given.as_json:
        print_json(facts)
        return
    changes = "? changes" if tree.num_changes is None else plural(tree.num_changes, "change")
    verb = "would drop" if given.dry_run else "dropped"
    say(f"{verb} {changes} of branch {quoted(tree.branch)}: {human_bytes(tree.size_bytes)}")
