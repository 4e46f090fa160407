"""Upkeep of a repository: `icefs gc`, `expire`, `fsck`, `stats`, `upgrade` and `rewrite-manifests`.

Each of them may be interrupted at any moment: its finished steps are done, the repository is whole, and running it
again does the rest.
"""

from collections.abc import Iterator
from typing import Final

import click

from icefs.cli.support.options import (
    human_bytes,
    json_option,
    print_json,
    repo_argument,
    say,
)
from icefs.cli.support.repos import locate, open_storage_of
from icefs.cli.support.steps import steps
from icefs.engine.upkeep.fsck import FsckReport
from icefs.engine.upkeep.fsck import fsck as check
from icefs.engine.upkeep.fsck import repair as check_and_repair
from icefs.format.layout import REPO_INFO
from icefs.words import command, plural, quoted

_FSCK_EXIT: Final = {"clean": 0, "repaired": 1, "damaged": 4, "newer": 8}
_SHOWN: Final = 50


@click.command()
@repo_argument
@click.option("--deep", is_flag=True, help="Read every chunk object to its end, too.")
@click.option("--repair", is_flag=True, help="Mend what the backups in overwritten/ can mend.")
@json_option
def fsck(repo: str | None, deep: bool, repair: bool, as_json: bool) -> None:
    """Check that a repository is whole, and mend it.

    Everything that branches and tags lead to must be there, parse, and have its size and order.

    The exit code is 0 for a clean repository, 1 if it had to be repaired, 4 if it is damaged, and 8 if a newer Icechunk
    wrote a part of it: then nothing is repaired.
    """
    storage = open_storage_of(locate(repo).location)
    with steps() as progress:
        report = (check_and_repair if repair else check)(storage, deep=deep, progress=progress)
    if as_json:
        print_json(report.to_json())
    else:
        for finding in report.findings[:_SHOWN]:
            say(f"{finding.kind}: {quoted(finding.key)}: {finding.message}")
        if len(report.findings) > _SHOWN:
            click.echo(f"and {len(report.findings) - _SHOWN:,} more; --json lists them all")
        for line in report.repaired:
            say(f"repaired: {line}")
        for update in report.lost:
            if not update.is_recoverable:
                say(f"note: {update.describe()}")
        for kind, counted in sorted(report.orphans.items()):
            size = human_bytes(counted["bytes"])
            them, are = ("it", "it is") if counted["objects"] == 1 else ("them", "they are")
            what = plural(counted["objects"], kind.removesuffix("s"), kind)
            say(f"unused: {what}, {size}; 'icefs gc' deletes {them} when {are} old")
        checked = ", ".join(
            plural(count, kind.removesuffix("s"), kind) for kind, count in sorted(report.checked.items())
        )
        click.echo(f"{report.status}: {checked} checked")
        for line in _ways_out(report, storage.url, was_repaired=repair):
            say(f"note: {line}")
    click.get_current_context().exit(_FSCK_EXIT[report.status])


def _ways_out(report: FsckReport, location: str, *, was_repaired: bool) -> Iterator[str]:
    """Yields what can be done about findings."""
    if report.status == "newer":
        yield "upgrade icefs, and check again"
    if report.status != "damaged":
        return
    # What the backups in overwritten/ can mend, which a repair has tried.
    mendable = any(one.key == REPO_INFO and one.kind in ("missing", "malformed") for one in report.findings)
    mendable |= any(update.is_recoverable for update in report.lost)
    if mendable and not was_repaired:
        yield f"'{command('fsck --repair', location)}' mends what the backups in overwritten/ can mend"
    else:
        yield "restore the files that are listed from a copy of the repository; what needs none of them can be read"
