"""`icefs gc`: deletes objects that nothing needs.

It may be interrupted at any moment: the repository is whole, and running it again does the rest.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

import click

from icefs.cli.support.options import (
    dry_run_option,
    human_bytes,
    iso,
    json_option,
    parse_age,
    print_json,
    repo_argument,
)
from icefs.cli.support.repos import locate, open_writable
from icefs.cli.support.steps import steps
from icefs.clock import to_micros
from icefs.engine.upkeep.garbage import collect_garbage
from icefs.errors import InvalidInputError
from icefs.words import plural

_SAFE_AGE: Final = timedelta(hours=1)


@click.command()
@repo_argument
@click.option(
    "--older-than",
    type=parse_age,
    metavar="AGE|TIME",
    default="14d",
    show_default=True,
    help="Delete what was stored before: a time, or an age such as 30d (s, m, h, d, w).",
)
@dry_run_option
@click.option("--force", is_flag=True, help="Also delete what was stored within the last hour.")
@json_option
def gc(repo: str | None, older_than: datetime, dry_run: bool, force: bool, as_json: bool) -> None:
    """Delete objects that nothing needs.

    Branches, tags and recent snapshots keep what they need. Nothing needs the chunks that programs have stored and not
    yet committed: choose an age longer than any session is open. A commit whose chunks were deleted is refused, and its
    changes are kept; mounts and imports store such chunks again.

    A repository of spec version 1 has no log of collections. There a commit that is published during a collection with
    a shorter age can lose chunks, also when the official library collects.
    """
    if not (force or dry_run) and older_than > datetime.now(UTC) - _SAFE_AGE:
        raise InvalidInputError(
            "what was stored within the last hour may belong to a commit that is being made",
            kind="cutoff-too-young",
            hint="choose an age of at least 1h, or use --force when no process writes to the repository",
        )
    repository = open_writable(locate(repo).location)
    with steps() as progress:
        summary = collect_garbage(repository, to_micros(older_than), dry_run=dry_run, progress=progress)
    facts = {**summary.to_json(), "older_than": iso(older_than), "dry_run": dry_run}
    if as_json:
        print_json(facts)
        return
    kinds = ("snapshot", "transaction_log", "manifest", "chunk")
    counts = ", ".join(plural(facts[f"{kind}s_deleted"], kind.replace("_", " ")) for kind in kinds)
    click.echo(f"{'would delete' if dry_run else 'deleted'} {counts}: {human_bytes(summary.bytes_deleted)}")
    if summary.objects_failed_to_delete:
        click.echo(f"{plural(summary.objects_failed_to_delete, 'object')} could not be deleted; run it again", err=True)
