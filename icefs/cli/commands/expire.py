"""`icefs expire`: takes old snapshots out of the history.

It may be interrupted at any moment: the repository is whole, and running it again does the rest.
"""

from datetime import datetime

import click

from icefs.cli.support.options import (
    dry_run_option,
    human_time,
    iso,
    json_option,
    parse_age,
    print_json,
    repo_argument,
    say,
)
from icefs.cli.support.repos import locate, open_writable
from icefs.clock import to_micros
from icefs.engine.upkeep.expiration import ExpirationRequest
from icefs.engine.upkeep.expiration import expire as expire_snapshots
from icefs.words import plural, quoted


@click.command()
@repo_argument
@click.option(
    "--older-than",
    type=parse_age,
    metavar="AGE|TIME",
    required=True,
    help="Expire snapshots written before: a time, or an age such as 30d (s, m, h, d, w).",
)
@click.option("--delete-expired-branches", is_flag=True, help="Delete branches that are as old, too (never main).")
@click.option("--delete-expired-tags", is_flag=True, help="Delete tags of snapshots that are as old, too.")
@dry_run_option
@json_option
def expire(
    repo: str | None,
    older_than: datetime,
    delete_expired_branches: bool,
    delete_expired_tags: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take old snapshots out of the history.

    'icefs gc' then deletes what only they needed. The tips of branches and tags stay, and the first snapshot.
    """
    repository = open_writable(locate(repo).location)
    done = expire_snapshots(
        repository, ExpirationRequest(to_micros(older_than), delete_expired_branches, delete_expired_tags, dry_run)
    )
    if as_json:
        print_json(
            {
                "released_snapshots": sorted(map(str, done.released)),
                "edited_snapshots": sorted(map(str, done.edited)),
                "deleted_branches": sorted(done.branches),
                "deleted_tags": sorted(done.tags),
                "older_than": iso(older_than),
                "dry_run": dry_run,
            }
        )
        return
    would = "would expire" if dry_run else "expired"
    click.echo(f"{would} {plural(len(done.released), 'snapshot')} written before {human_time(older_than)}")
    if not done.released:
        click.echo("every older snapshot is the tip of a branch or tag, or the first one, which stay")
    for kind, names in (("branch", done.branches), ("tag", done.tags)):
        for name in sorted(names):
            say(f"{'would delete' if dry_run else 'deleted'} {kind} {quoted(name)}")
