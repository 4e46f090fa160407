"""`icefs upgrade`: brings a repository of spec version 1 to version 2."""

import click

from icefs.cli.support.options import (
    dry_run_option,
    json_option,
    print_json,
    repo_argument,
)
from icefs.cli.support.repos import locate, open_writable
from icefs.engine.upkeep.migrate import upgrade as upgrade_repository
from icefs.words import plural


@click.command()
@repo_argument
@dry_run_option
@json_option
def upgrade(repo: str | None, dry_run: bool, as_json: bool) -> None:
    """Bring a repository of spec version 1 to version 2.

    Programs that know version 1 only cannot use it afterwards. Nobody must write to it meanwhile.
    """
    done = upgrade_repository(open_writable(locate(repo).location), dry_run=dry_run)
    if as_json:
        print_json(
            {
                "spec_version": 2,
                "unused": list(done.unused_keys),
                "undeleted": list(done.undeleted_keys),
                "dry_run": dry_run,
            }
        )
    else:
        click.echo(f"{'would upgrade' if dry_run else 'upgraded'} to spec version 2")
        kept = done.unused_keys if dry_run else done.undeleted_keys
        if kept:
            what = "would be deleted" if dry_run else "could not be deleted"
            click.echo(f"{plural(len(kept), 'object')} of version 1 {what}")
