"""`icefs doctor`: finds out why something does not work."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from icefs.cli.support import checks
from icefs.cli.support.checks import OK, PROBLEM, WARNING, Finding, examine
from icefs.cli.support.exit_codes import exit_row
from icefs.cli.support.interrupts import ending_soon
from icefs.cli.support.locations import is_url, split_ref
from icefs.cli.support.mounts import Mounted, find_mount, raised
from icefs.cli.support.options import has_colours, json_option, print_json
from icefs.cli.support.repos import locate
from icefs.errors import EntryNotFoundError, StaleError
from icefs.vfs.control.status_text import damage_lines
from icefs.words import command, plural, quoted, visible

_COLOURS = {OK: "green", WARNING: "yellow", PROBLEM: "red"}


@click.command()
@click.argument("where", metavar="[PATH|REPO]", required=False)
@click.option("--state-dir", type=click.Path(), metavar="DIR", help="Look at this one instead of the default.")
@click.option("--cache-dir", type=click.Path(), metavar="DIR", help="Look at this one instead of the default.")
@json_option
def doctor(where: str | None, state_dir: str | None, cache_dir: str | None, as_json: bool) -> None:
    """Find out why something does not work.

    Looks at FUSE, permissions, versions, mounts whose daemon is dead, the directories of uncommitted changes and cached
    chunks, and, given a repository or a path in a mount, at the store: endpoint, credentials, latency, clock, locks and
    conditional writes (with a file or an object of its own for a moment). Each line is ok, or says what to do. The exit
    code is 0 unless there is a problem.
    """
    click.get_current_context().with_resource(ending_soon())
    directories = None if state_dir is None else Path(state_dir), None if cache_dir is None else Path(cache_dir)
    findings: list[Finding] = []
    colours = has_colours()
    for finding in _findings(where, *directories):
        findings.append(finding)
        if not as_json:
            mark = (
                click.style(f"{finding.status:<7}", fg=_COLOURS[finding.status]) if colours else f"{finding.status:<7}"
            )
            todo = f"; {finding.todo}" if finding.todo else ""
            click.echo(f"{mark} {visible(f'{finding.check}: {finding.message}{todo}')}", color=True)
    problems = sum(finding.status == PROBLEM for finding in findings)
    if as_json:
        print_json({"ok": not problems, "checks": [_to_json(finding) for finding in findings]})
    click.get_current_context().exit(1 if problems else 0)


def _to_json(finding: Finding) -> dict[str, Any]:
    return asdict(finding)


def _findings(where: str | None, state_dir: Path | None, cache_dir: Path | None) -> Iterator[Finding]:
    yield from examine("versions", checks.check_versions)
    yield from examine("fuse", checks.check_fuse)
    yield from examine("mounts", checks.check_mounts)
    yield from examine("directories", lambda: checks.check_directories(state_dir, cache_dir))
    if where is not None:
        yield from examine("repository", lambda: _check_repository(where))


def _check_repository(where: str) -> Iterator[Finding]:
    location = split_ref(where)[0]
    if not is_url(location):
        try:
            mounted = find_mount(location)
        except EntryNotFoundError:
            mounted = None
        except StaleError as error:
            yield Finding("mount", PROBLEM, error.own_message, error.hint)
            return
        if mounted is not None:
            yield from _check_mounted(mounted.whole.ask("stats"), str(mounted.root))
            yield from _check_working_trees(mounted.whole)
            location = locate(location).location
    yield from checks.check_repository(location)


def _check_working_trees(mount: Mounted) -> Iterator[Finding]:
    """Looks what is wrong with the working trees of a mount's branches."""
    if not mount.info.get("writable", True):
        return
    for branch in mount.branches_with_work():
        name = f"branch {quoted(branch['name'])}"
        if branch["error"] is not None:
            error = raised(branch["error"])
            yield Finding("working tree", PROBLEM, f"{name}: {error.own_message}", error.hint or exit_row(error).hint)
        where = str(mount.root / branch["path"])
        for what, todo in damage_lines(branch["damage"]):
            yield Finding("working tree", WARNING, f"{name}: {what}", todo or f"see '{command('status', where)}'")


def _check_mounted(stats: dict[str, Any], mountpoint: str) -> Iterator[Finding]:
    failures = stats["failures"]
    if failures:
        last = failures[-1]
        what = f"{last['operation']} {quoted(last['path'])}: {last['message']}"
        text = f"{mountpoint}: {plural(len(failures), 'failure')}, the last: {what}"
        yield Finding("mount", WARNING, text, "see .icefs/stats.json and the log")
    else:
        yield Finding("mount", OK, f"{mountpoint} answers, and nothing has failed")
    process = stats["process"]
    if process["open_fds"] > 0.8 * process["max_fds"]:
        text = f"{process['open_fds']} of {process['max_fds']} file descriptors are open"
        yield Finding("mount", WARNING, text, "raise the limit of open files (ulimit -n, LimitNOFILE=)")
