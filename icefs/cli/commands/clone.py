"""`icefs clone`: makes a repository of another one."""

import contextlib

import click

from icefs.cli.support.exchanges import depth_option, exchange_options, report, requesting, wanted_of
from icefs.cli.support.origins import remember_origin
from icefs.cli.support.repos import locate, open_repository
from icefs.engine.exchange.clone import clone as clone_repository
from icefs.storage.url import open_storage, redact
from icefs.words import command


@click.command()
@click.argument("source", metavar="REPO")
@click.argument("target", metavar="NEW")
@depth_option
@exchange_options
def clone(
    source: str,
    target: str,
    depth: int | None,
    branches: tuple[str, ...],
    tags: tuple[str, ...],
    verify: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a repository of another one, on the same store or any other.

    All branches and tags come, or those that are named, with their histories, under the ids that they have; the saved
    configuration comes, too. NEW is a directory or prefix that holds nothing yet. The repository is there when all of
    it is: a clone that was interrupted goes on when it is run again. With --depth, older snapshots stay away as if they
    had expired. On this machine, 'icefs pull' and 'icefs push' in the new one know where it came from.
    """
    wanted = wanted_of(branches, tags, depth)
    repository = open_repository(locate(source, is_repo=True).location)
    with (
        contextlib.closing(open_storage(target)) as storage,
        requesting("cloning", wanted, verify=verify, dry_run=dry_run) as request,
    ):
        done = clone_repository(repository, storage, request)
        if not dry_run:
            remember_origin(storage, redact(repository.storage.url))
        made = redact(storage.url)
    report(done, redact(repository.storage.url), made, f"'{command('log', made)}' shows it", as_json=as_json)
