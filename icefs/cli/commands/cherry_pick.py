"""`icefs cherry-pick`: makes the changes of commits again on a branch."""

from typing import Any

import click

from icefs.cli.support.bringing import bringing, bringing_options, facts_of, print_done
from icefs.cli.support.options import print_json
from icefs.engine.merge.operations import Brought, cherry_pick_all
from icefs.words import quoted


@click.command("cherry-pick")
@click.argument("commits", metavar="COMMIT...", nargs=-1, required=True)
@bringing_options
def cherry_pick(commits: tuple[str, ...], repo: str | None, branch: str | None, as_json: bool, **how: Any) -> None:
    """Make the changes of commits again on the branch, each as one commit.

    A COMMIT is a snapshot id, or a branch or tag for the snapshot at it. No chunk is read or copied. The first commit
    that conflicts ends the command; those before it stay made.
    """
    if how["message"] is not None and len(commits) > 1:
        raise click.UsageError("several commits keep their messages: leave -m out, or pick one", _context())
    found: list[Brought] = []
    with bringing("cherry-pick", commits, repo, branch, **how) as (repository, way):
        for done in cherry_pick_all(repository, [repository.resolve_ref(commit) for commit in commits], way):
            found.append(done)
            if not as_json:
                print_done(done, way, ("pick", "picked"), f"{done.incoming} onto {quoted(way.branch)}")
    if as_json:
        print_json([facts_of(done, way) for done in found])


def _context() -> click.Context:
    return click.get_current_context()
