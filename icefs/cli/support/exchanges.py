"""What `icefs clone`, `pull` and `push` have in common: options, progress, and words."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from icefs.cli.support.exit_codes import CONFLICT
from icefs.cli.support.interrupts import ending_soon
from icefs.cli.support.options import dry_run_option, human_bytes, json_option, print_json, say
from icefs.cli.support.origins import recall_origin
from icefs.cli.support.refs import again
from icefs.cli.support.repos import locate, open_repository, open_writable
from icefs.cli.support.transfers import transfer_bar
from icefs.engine.exchange.copying import Copied, Progress
from icefs.engine.exchange.plan import Action, RefChange
from icefs.engine.exchange.pull import Exchanged, Request
from icefs.engine.exchange.wanted import RefSpec, Wanted
from icefs.engine.repository import Repository
from icefs.engine.write.repository import WritableRepository
from icefs.errors import InvalidInputError
from icefs.storage.url import redact
from icefs.transfer.progress import Transferred
from icefs.words import command, plural, quoted

_branches_option = click.option(
    "--branch",
    "branches",
    metavar="NAME[:AS]",
    multiple=True,
    help="Only this branch, perhaps under another name (repeatable).",
)
_tags_option = click.option(
    "--tag",
    "tags",
    metavar="NAME[:AS]",
    multiple=True,
    help="Only this tag, perhaps under another name (repeatable).",
)
_verify_option = click.option("--verify", is_flag=True, help="Read all objects at both ends afterwards, and compare.")
depth_option = click.option(
    "--depth", type=click.IntRange(min=1), metavar="N", help="Only the newest N snapshots of each history."
)


def exchange_options[F: Callable[..., Any]](function: F) -> F:
    """Adds the options of the three commands."""
    for option in (json_option, dry_run_option, _verify_option, _tags_option, _branches_option):
        function = option(function)
    return function


def wanted_of(branches: tuple[str, ...], tags: tuple[str, ...], depth: int | None = None) -> Wanted:
    """Reads the options that say what is asked for; raises InvalidInputError."""
    return Wanted(
        tuple(map(RefSpec.parse, branches)) if branches else None,
        tuple(map(RefSpec.parse, tags)) if tags else None,
        depth,
    )


@contextmanager
def requesting(what: str, wanted: Wanted, *, verify: bool, dry_run: bool) -> Iterator[Request]:
    """Yields a request that shows how far it is; Ctrl-C ends it soon."""
    with ending_soon(), transfer_bar(what) as bar:
        yield Request(wanted, verify, dry_run, _shown(bar))


def other_end(name: str, text: str | None, repository: Repository) -> Repository:
    """Opens the repository at the other end: the one that the user named, or the one that this one was cloned from.

    Raises:
        InvalidInputError: the user named none, and has not cloned this one here.
    """
    return open_repository(_location(name, text, repository))


def other_end_writable(name: str, text: str | None, repository: Repository) -> WritableRepository:
    """Opens the repository at the other end to change it; raises as `other_end`."""
    return open_writable(_location(name, text, repository))


def _location(name: str, text: str | None, repository: Repository) -> str:
    if text is not None:
        return locate(text, is_repo=True).location
    origin = recall_origin(repository.storage)
    if origin is None:
        raise InvalidInputError(
            f"{repository.storage.url} was not cloned by this user on this machine",
            hint=f"name the other repository: icefs {name} REPO",
        )
    return origin


def _shown(bar: Callable[[Transferred], None]) -> Progress:
    def show(done: Copied) -> None:
        bar(Transferred(done.objects, done.total_objects, done.copied_bytes, 0))

    return show


def report(done: Exchanged, source: str, target: str, merging: str, *, as_json: bool) -> None:
    """Prints what was done, or would be; the exit code is that of a conflict where a ref was refused.

    Args:
        done: The outcome.
        source: Where it came from, without secrets.
        target: Where it came to, without secrets.
        merging: How to bring a branch that was refused, for people.
        as_json: Print for programs.
    """
    copied, would = done.copied, "would be " if done.is_dry_run else ""
    if as_json:
        print_json(
            {
                "source": source,
                "target": target,
                "refs": [_facts(each) for each in done.refs],
                "snapshots": done.snapshots,
                "objects": copied.total_objects,
                "missing": copied.total_objects - copied.objects + copied.copied_objects,
                "copied_objects": copied.copied_objects,
                "copied_bytes": copied.copied_bytes,
                "compared_objects": copied.compared_objects,
                "dry_run": done.is_dry_run,
            }
        )
    else:
        for each in done.refs:
            say(_line(each, would))
        objects = (
            f"{copied.total_objects - copied.objects:,} of {plural(copied.total_objects, 'object')} missing"
            if done.is_dry_run
            else f"{copied.copied_objects:,} of {plural(copied.total_objects, 'object')} copied "
            f"({human_bytes(copied.copied_bytes)})"
        )
        compared = f", {copied.compared_objects:,} compared" if copied.compared_objects else ""
        say(f"{plural(done.snapshots, 'new snapshot')}, {objects}{compared}")
    if done.refused:
        if not as_json and any(each.kind == "branch" for each in done.refused):
            say(merging, err=True)
        click.get_current_context().exit(CONFLICT)


def merging_words(other: str | None, repo: str | None) -> str:
    """Says how to put the commits of a refused branch on top of the other end's.

    Histories are linear: merged the other way round, the branch would still lack the other end's commits.

    Args:
        other: The repository at the other end, as the user named it.
        repo: This one, as the user named it.
    """
    where = {"repo": again(repo)}
    lines = (
        command("pull", *((redact(other),) if other else ()), branch="NAME:theirs", **where),
        command("merge", "NAME", branch="theirs", **where),
        command("branch reset", "NAME", "theirs", **where),
    )
    return "a refused branch, on top of theirs: " + ", ".join(f"'{line}'" for line in lines)


def _line(change: RefChange, would: str) -> str:
    name = f"{change.kind} {quoted(change.spec.target)}"
    if change.action is Action.REFUSED:
        return f"{name} {would}refused: {change.reason}"
    if change.action is Action.CREATED:
        return f"{name} {would}created at {change.snapshot_id}"
    if change.action is Action.FORWARDED:
        return f"{name} {would}moved from {change.previous_id} to {change.snapshot_id}"
    if change.action is Action.AHEAD:
        return f"{name} has all of it, and commits of its own"
    return f"{name} is there already"


def _facts(change: RefChange) -> dict[str, Any]:
    return {
        "kind": change.kind,
        "name": change.spec.target,
        "source_name": change.spec.source,
        "snapshot_id": str(change.snapshot_id),
        "previous_id": None if change.previous_id is None else str(change.previous_id),
        "action": str(change.action),
        "reason": change.reason,
    }
