"""`icefs sessions commit`: commits the changes in a working tree that is not mounted."""

from typing import Final

import click

from icefs.cli.commands.sessions.given import GivenTree, given_tree
from icefs.cli.support.commits import describe_commit, explaining, parse_metadata
from icefs.cli.support.options import print_json
from icefs.words import visible_lines
from icefs.worktree.spool.state import remove_state
from icefs.worktree.spool.summary import summarise

_WAYS: Final = ("ours", "theirs", "fail")


@click.command("commit")
@click.argument("identity", metavar="ID")
@click.option("-m", "--message", required=True, help="The commit message.")
@click.option("--meta", multiple=True, metavar="KEY=VALUE", help="Metadata; the value is JSON, or else text.")
@click.option("--rebase", type=click.Choice(_WAYS), help="Where others have committed, put the changes on top of that.")
@click.option("--skip-invalid", is_flag=True, help="Leave out files that cannot be committed.")
@given_tree(has_repo=True)
def commit_tree(given: GivenTree, message: str, meta: tuple[str, ...], rebase: str | None, skip_invalid: bool) -> None:
    """Commit the changes in a working tree that is not mounted. Uncommitted ones stay in it."""
    from icefs.cli.support.repos import open_writable
    from icefs.vfs.commit.request import CommitRequest  # the engine, which a list of sessions does not need
    from icefs.vfs.headless import commit_left, list_left

    tree = given.find()
    repository = open_writable(given.location_of(tree))
    if given.dry_run:
        status = list_left(repository, tree.directory)
        facts = {key: status[key] for key in ("staged", "untracked", "invalid", "open", "tip_moved")}
        if given.as_json:
            print_json({"id": tree.id, "branch": tree.branch, "dry_run": True, **facts})
        else:
            from icefs.vfs.control.status_text import status_lines, to_text

            click.echo(visible_lines(to_text(status_lines(status))), nl=False)
        return
    with explaining():
        answer = commit_left(
            repository,
            tree.directory,
            CommitRequest(message, parse_metadata(meta), rebase, skip_invalid=skip_invalid),
        )
    if tree.directory.exists() and summarise(tree.directory).is_clean:
        remove_state(tree.directory)
    if given.as_json:
        print_json({"id": tree.id, "branch": tree.branch, "dry_run": False, **answer})
    else:
        describe_commit(answer)
