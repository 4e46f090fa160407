"""`icefs push`: brings what this repository has to another one."""

import click

from icefs.cli.support import refs
from icefs.cli.support.exchanges import (
    exchange_options,
    merging_words,
    other_end_writable,
    report,
    requesting,
    wanted_of,
)
from icefs.cli.support.repos import locate, open_repository
from icefs.engine.exchange.pull import pull as pull_histories
from icefs.storage.url import redact


@click.command()
@click.argument("target", metavar="[TO]", required=False)
@refs.repo_option
@exchange_options
def push(
    target: str | None,
    repo: str | None,
    branches: tuple[str, ...],
    tags: tuple[str, ...],
    verify: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bring branches and tags of this repository to the repository TO, with their histories.

    TO is by default the repository that this one was cloned from. All branches and tags go, or those that are named. A
    branch of TO that has commits of its own would lose them, and is refused (exit code 5); the others go all the same.
    Only missing objects are copied, and a ref moves when all that it needs is there.
    """
    wanted = wanted_of(branches, tags)
    repository = open_repository(locate(repo, is_repo=True).location)
    theirs = other_end_writable("push", target, repository)
    with requesting("pushing", wanted, verify=verify, dry_run=dry_run) as request:
        done = pull_histories(repository, theirs, request)
    merging = f"{merging_words(target, repo)}, then push again"
    report(done, redact(repository.storage.url), redact(theirs.storage.url), merging, as_json=as_json)
