"""Upkeep of a repository: `icefs gc`, `expire`, `fsck`, `stats`, `upgrade` and `rewrite-manifests`.

Each of them may be interrupted at any moment: what it had done is done, the repository is whole, and running it again
does the rest.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from icefs.cli.support.options import (
    human_bytes,
    human_time,
    iso,
    json_option,
    parse_moment,
    print_json,
    print_rows,
    say,
)
from icefs.cli.support.repos import DEFAULT_BRANCH, locate, open_repository, open_storage_of, open_writable
from icefs.cli.support.steps import steps
from icefs.clock import to_micros
from icefs.engine.upkeep.expiration import ExpirationRequest
from icefs.engine.upkeep.expiration import expire as expire_snapshots
from icefs.engine.upkeep.fsck import FsckReport
from icefs.engine.upkeep.fsck import fsck as check
from icefs.engine.upkeep.fsck import repair as check_and_repair
from icefs.engine.upkeep.garbage import collect_garbage
from icefs.engine.upkeep.migrate import upgrade as upgrade_repository
from icefs.engine.upkeep.storage_stats import history_stats, snapshot_stats, stats_to_json
from icefs.errors import InvalidInputError, NodeNotFoundError
from icefs.format.layout import REPO_INFO
from icefs.words import command, node_name, plural, quoted

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_FSCK_EXIT: Final = {"clean": 0, "repaired": 1, "damaged": 4, "newer": 8}
_SHOWN: Final = 50
_SAFE_AGE: Final = timedelta(hours=1)


def parse_age(text: str) -> datetime:
    """Reads a time, or an age such as `30d` (s, m, h, d or w) before now."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip())
    if match is None:
        return parse_moment(text)
    try:
        return datetime.now(UTC) - timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    except OverflowError:
        raise click.BadParameter(f"{text!r} is longer ago than time itself") from None


repo_argument = click.argument("repo", metavar="[PATH|REPO]", required=False)
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


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
    """
    if not (force or dry_run) and older_than > datetime.now(UTC) - _SAFE_AGE:
        raise InvalidInputError(
            "what was stored within the last hour may belong to a commit that is being made",
            kind="cutoff-too-young",
            hint="choose an age of at least 1h, or use --force when nobody writes to the repository",
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


@click.command()
@repo_argument
@click.option("--history", is_flag=True, help="Count what all branches and tags need, not one version's arrays.")
@json_option
def stats(repo: str | None, history: bool, as_json: bool) -> None:
    """Show how many bytes chunks take, by array or of all versions.

    The arrays are those of one version, and for a path in a mount those at and below it; --history counts what all
    branches and tags need. What several references share counts once.
    """
    source = locate(repo)
    repository = open_repository(source.location)
    if history:
        with steps() as progress:
            total = history_stats(repository, progress)
        facts: dict[str, Any] = dict(total.to_json())
        rows = [("all versions", total)]
    else:
        session = repository.session_at(repository.resolve_ref(source.ref or DEFAULT_BRANCH))
        below = None if not source.inside else [node.path for node in session.list_nodes(f"/{source.inside}")]
        if below == []:
            raise NodeNotFoundError(f"no group or array at /{source.inside} in snapshot {session.snapshot_id}")
        by_array = snapshot_stats(session, below)
        facts, rows = stats_to_json(by_array), [(node_name(path), each) for path, each in by_array.items()]
        if len(rows) > 1:
            rows.append(("all arrays", sum((each for _, each in rows[1:]), rows[0][1])))
    if as_json:
        print_json(facts)
        return
    print_rows(
        ("", "chunks", "native", "inline", "virtual"),
        [
            (
                name,
                f"{each.num_chunks:,}",
                human_bytes(each.native_bytes),
                human_bytes(each.inlined_bytes),
                human_bytes(each.virtual_bytes),
            )
            for name, each in rows
        ],
        folding=("",),
        none="there is nothing to count",
    )


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


@click.command("rewrite-manifests")
@repo_argument
@click.option("-m", "--message", default="rewrite manifests", show_default=True, help="The commit message.")
@click.option("--branch", default=DEFAULT_BRANCH, show_default=True, help="The branch to commit to.")
@click.option("--amend", is_flag=True, help="Replace the branch's newest commit instead of adding one.")
@dry_run_option
@json_option
def rewrite_manifests(repo: str | None, message: str, branch: str, amend: bool, dry_run: bool, as_json: bool) -> None:
    """Write a branch's manifests anew.

    They are divided as the configuration says now (manifest.splitting).
    """
    source = locate(repo)
    repository = open_writable(source.location)
    before = len(repository.list_manifest_files(repository.lookup_branch(branch)))
    if dry_run:
        facts: dict[str, Any] = {"snapshot_id": None, "manifests_before": before, "manifests": None}
    else:
        made = repository.rewrite_manifests(message, branch=branch, replace_tip=amend)
        after = len(repository.list_manifest_files(made))
        facts = {"snapshot_id": str(made), "manifests_before": before, "manifests": after}
    if as_json:
        print_json({**facts, "dry_run": dry_run})
    elif dry_run:
        click.echo(f"would write {plural(before, 'manifest')} of {quoted(branch)} again")
    else:
        click.echo(f"committed {facts['snapshot_id']}: {plural(before, 'manifest')} became {facts['manifests']:,}")
