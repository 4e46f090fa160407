"""`icefs revert`: takes back the changes of a commit on a branch."""

from typing import Any

import click

from icefs.cli.support.bringing import bringing, bringing_options, facts_of, print_done
from icefs.cli.support.options import print_json
from icefs.engine.merge.operations import revert as revert_commit
from icefs.words import quoted


@click.command()
@click.argument("commit")
@bringing_options
def revert(commit: str, repo: str | None, branch: str | None, as_json: bool, **how: Any) -> None:
    """Take back the changes of a commit on the branch, as one commit.

    COMMIT is a snapshot id, or a branch or tag for the snapshot at it. It stays in the history. A later change of the
    same chunk, array or group is a conflict: with --ours it stays, with --theirs it goes, too.
    """
    with bringing("revert", (commit,), repo, branch, **how) as (repository, way):
        done = revert_commit(repository, repository.resolve_ref(commit), way)
    if as_json:
        print_json(facts_of(done, way))
    else:
        print_done(done, way, ("revert", "reverted"), f"{done.base} on {quoted(way.branch)}")
