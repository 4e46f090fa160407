"""`icefs commit`, `icefs discard` and `icefs rebase`: what becomes of the changes in a mounted branch."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click

from icefs.cli.support.mounts import CONTROL, Mounted, check_branch, require_branch, require_place
from icefs.cli.support.options import json_option, print_json, say
from icefs.cli.support.progress import CommitProgress
from icefs.errors import ConflictError, InvalidInputError, RebaseFailedError
from icefs.vfs.commit.way_out import WayOut
from icefs.vfs.control.status_text import dropped_text, status_lines, to_text
from icefs.words import node_name, plural, quoted, some

_WAYS = ("ours", "theirs", "fail")
_MARK = "# "
_SHOWN = 5
_LISTED = 20


def parse_metadata(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Reads KEY=VALUE; a value is JSON, or else text.

    Raises:
        InvalidInputError: something is no such pair.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not key or not equals:
            raise InvalidInputError(f"not KEY=VALUE: {pair!r}", hint="--meta author=ada")
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text
    return found


@click.command()
@click.argument("path", default=".")
@click.option("-m", "--message", multiple=True, help="The commit message; several become paragraphs.")
@click.option("--amend", is_flag=True, help="Replace the newest commit by one that also has the changes.")
@click.option("--meta", multiple=True, metavar="KEY=VALUE", help="Metadata; the value is JSON, or else text.")
@click.option("--rebase", type=click.Choice(_WAYS), help="Where others have committed, put the changes on top of that.")
@click.option("--allow-empty", is_flag=True, help="Commit also where nothing changed.")
@click.option("--skip-invalid", is_flag=True, help="Leave out files that cannot be committed.")
@click.option("--include-open", is_flag=True, help="Take files that are open for writing, too, as they are now.")
@json_option
def commit(
    path: str, message: tuple[str, ...], amend: bool, meta: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Commit the changes in a mounted branch.

    PATH lies anywhere in the branch; the default is the current directory. Without -m an editor asks for the message
    on a terminal; --amend keeps the message and metadata of the commit that it replaces, where none are given.
    Ctrl-C calls a commit off.

    A file that is open for writing and has changed stays for the next commit, and is listed.
    """
    mounted = require_branch(path)
    metadata = parse_metadata(meta)
    text = "\n\n".join(message) if message else None
    if text is None and not amend:
        text = ask_for_message(mounted)
    answer = run_commit(mounted, message=text, metadata=metadata, amend=amend, **options)
    if as_json:
        print_json(answer)
    else:
        describe_commit(answer)


def run_commit(mounted: Mounted, **request: Any) -> dict[str, Any]:
    """Commits, showing progress where it takes long."""
    with explaining(mounted), CommitProgress(mounted) as progress:
        return mounted.ask("commit", on_progress=progress, **request)


@contextlib.contextmanager
def explaining(mounted: Mounted | None = None) -> Iterator[None]:
    """Lets the line of a conflict name the commits that came in between, the chunks, and what to do at which path.

    Args:
        mounted: The mounted branch; None for a working tree that is not mounted.
    """
    try:
        yield
    except ConflictError as error:
        hint = error.hint
        if "discard" in error.facts and "sides" in error.facts:
            way = WayOut(tuple(error.facts["discard"]), tuple(error.facts["sides"]))
            hint = way.text_without_mount() if mounted is None else way.text(mounted.shown_tree)
        raise type(error)(explain(error), kind=error.kind, hint=hint, **error.facts) from error


def explain(error: ConflictError) -> str:
    """Says what a conflict is about, as far as there is room for it in one line."""
    commits = [f"{one['id']} ({one['message'].partition('\n')[0]})" for one in error.facts.get("commits") or ()]
    if isinstance(error, RebaseFailedError):
        conflicts = [_conflict_text(one) for one in error.conflicts if isinstance(one, dict)]
        whose = next((text for text in commits if text.startswith(str(error.snapshot))), error.snapshot)
        if not conflicts:
            return error.message
        amended = error.facts.get("amended")
        said = f"; {amended['from']} was amended to {amended['to']}" if amended else ""
        return f"commit {whose} conflicts with these changes: {some(conflicts, _SHOWN, '; ')}{said}"
    return f"{error.message}; others have committed {some(commits, _SHOWN)}" if commits else error.message


def _conflict_text(conflict: dict[str, Any]) -> str:
    text = f"{conflict['type']} at {quoted(node_name(conflict['path']))}" if conflict["path"] else str(conflict["type"])
    if not conflict["chunks"]:
        return text
    chunks = ["/".join(map(str, index)) or "scalar" for index in conflict["chunks"]]
    return f"{text}, {'chunk' if len(chunks) == 1 else 'chunks'} {some(chunks, _SHOWN)}"


def describe_commit(answer: dict[str, Any]) -> None:
    """Prints what was committed, and what was not."""
    nodes, chunks = answer["nodes"], answer["chunks"]
    click.echo(f"committed {answer['snapshot']}: {plural(nodes, 'node')}, {plural(chunks, 'chunk')}")
    for one in answer.get("dropped_chunks", ()):
        say(dropped_text(one))
    for note in answer.get("notes", ()):
        say(f"note: {quoted(note)}")
    for line in left_out_lines(answer):
        say(line)


def left_out_lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yields a line for each path that a commit left out, as far as there is room."""
    kept = {True: " (the commit keeps what it was)", False: ""}
    lines = {
        "open": [f"left out: {quoted(one['path'])} {one['reason']}" for one in answer.get("open", ())],
        "invalid": [
            f"left out: {quoted(one['path'])} {one['reason']}{kept[one['keeps']]}" for one in answer.get("invalid", ())
        ],
        "untracked": [f"untracked, not committed: {quoted(name)}" for name in answer.get("untracked", ())],
    }
    for kind, texts in lines.items():
        yield from texts[:_LISTED]
        count = answer.get("left_out", {}).get(kind, len(texts))
        if count > _LISTED:
            words = {"open": "left out, open for writing", "invalid": "left out, invalid"}.get(kind, kind)
            yield f"and {count - _LISTED} more ({words}): 'icefs status' lists them"


def ask_for_message(mounted: Mounted) -> str:
    """Lets the user write the message in an editor, below which the status is shown.

    Raises:
        UsageError: there is no terminal.
        InvalidInputError: nothing was written.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("a commit needs a message: -m MESSAGE", click.get_current_context())
    status = to_text(status_lines(mounted.read_json("status.json")))
    about = f"Lines that start with {_MARK.strip()!r} do not count; an empty message commits nothing.\n\n{status}"
    template = "\n" + "".join(f"{_MARK}{line}".rstrip() + "\n" for line in about.splitlines())
    written = click.edit(template, extension=".txt", require_save=True) or ""
    message = "\n".join(line for line in written.splitlines() if not line.startswith(_MARK.strip())).strip()
    if not message:
        raise InvalidInputError("a commit needs a message", hint="nothing was committed: write one, or give -m")
    return message


@click.command()
@click.argument("path", default=".")
@click.option("--all", "everything", is_flag=True, help="Drop all changes of the branch.")
@json_option
def discard(path: str, everything: bool, as_json: bool) -> None:
    """Drop uncommitted changes, at PATH or all of the branch.

    What is at PATH and below it becomes what it is in the snapshot that the branch stands on. PATH may be something
    that was deleted, which comes back. What is dropped does not: files that were never committed are gone for good. A
    program that has a dropped file open can go on writing to it, but these bytes go nowhere.
    """
    mounted, inside = require_place(path)
    check_branch(mounted, path)
    if inside.partition("/")[0] == CONTROL and not everything:
        raise InvalidInputError(
            f"not a part of the branch, but the mount's control directory: {path}",
            hint=f"give a path in {mounted.tree}",
        )
    if not inside and not everything:
        raise InvalidInputError("this would drop all changes of the branch", hint="give a path below it, or --all")
    answer = mounted.ask("discard", path="" if everything else inside)
    if as_json:
        print_json(answer)
    elif answer["discarded"]:
        click.echo(f"dropped {plural(answer['discarded'], 'change')}")
    else:
        click.echo("nothing to drop")


@click.command()
@click.argument("path", default=".")
@click.option("--ours", "how", flag_value="ours", help="Where both sides wrote a chunk, ours counts.")
@click.option("--theirs", "how", flag_value="theirs", help="Where both sides wrote a chunk, theirs counts.")
@click.option("--fail", "how", flag_value="fail", default=True, help="Fail on any conflict (the default).")
@json_option
def rebase(path: str, how: str, as_json: bool) -> None:
    """Put the changes on top of what others have committed.

    Where that fails, the changes stay as they are, on the snapshot that they were made on.

    With --theirs, a program that has a file open whose changes give way can go on writing to it, but these bytes go
    nowhere.
    """
    mounted = require_branch(path)
    with explaining(mounted):
        answer = mounted.ask("rebase", how=how)
    if as_json:
        print_json(answer)
    else:
        for note in answer.get("notes", ()):
            say(f"note: {quoted(note)}")
        click.echo(f"the changes {'now stand' if answer['moved'] else 'stand already'} on {answer['snapshot']}")
