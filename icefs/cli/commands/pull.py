"""`icefs pull`: brings what another repository has."""

import click

from icefs.cli.support import refs
from icefs.cli.support.exchanges import (
    depth_option,
    exchange_options,
    merging_words,
    other_end,
    report,
    requesting,
    wanted_of,
)
from icefs.engine.exchange.pull import pull as pull_histories
from icefs.storage.url import redact


@click.command()
@click.argument("source", metavar="[FROM]", required=False)
@refs.repo_option
@depth_option
@exchange_options
def pull(
    source: str | None,
    repo: str | None,
    depth: int | None,
    branches: tuple[str, ...],
    tags: tuple[str, ...],
    verify: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bring branches and tags of the repository FROM, with their histories.

    FROM is by default the repository that this one was cloned from. All branches and tags come, or those that are
    named. A branch that has commits of its own would lose them, and is refused (exit code 5); the others come all the
    same. Only missing objects are copied, and a ref moves when all that it needs is there.
    """
    wanted = wanted_of(branches, tags, depth)
    with refs.changing(repo) as (repository, _):
        theirs = other_end("pull", source, repository)
        with requesting("pulling", wanted, verify=verify, dry_run=dry_run) as request:
            done = pull_histories(theirs, repository, request)
    merging = merging_words(source, repo)
    report(done, redact(theirs.storage.url), redact(repository.storage.url), merging, as_json=as_json)
