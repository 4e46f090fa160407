"""`icefs merge`: brings what another branch, tag or snapshot has to a branch."""

from typing import Any

import click

from icefs.cli.support.bringing import bringing, bringing_options, facts_of, print_done
from icefs.cli.support.options import print_json
from icefs.engine.merge.operations import merge as merge_ref
from icefs.words import quoted


@click.command()
@click.argument("ref")
@bringing_options
def merge(ref: str, repo: str | None, branch: str | None, as_json: bool, **how: Any) -> None:
    """Bring what REF has to the branch, as one commit.

    REF is a snapshot id, branch or tag. No chunk is read or copied. Both sides are compared with the newest snapshot
    that they have in common, merges counted in. Where both changed the same chunk, array or group, the command lists
    the conflicts and commits nothing, unless --ours or --theirs says which side counts there.
    """
    with bringing("merge", (ref,), repo, branch, **how) as (repository, way):
        done = merge_ref(repository, ref, way)
    if as_json:
        print_json(facts_of(done, way))
    else:
        print_done(done, way, ("merge", "merged"), f"{quoted(ref)} into {quoted(way.branch)}")
