"""`icefs commit`, `icefs discard` and `icefs rebase`: what becomes of the changes in a mounted branch."""

import json
import sys
from typing import Any

import click

from icefs.cli.mounts import Mounted, require_mount, require_place
from icefs.cli.options import json_option, print_json, printable
from icefs.cli.progress import CommitProgress
from icefs.errors import InvalidInputError
from icefs.vfs.status_text import status_lines, to_text

_WAYS = ("ours", "theirs", "fail")
_MARK = "# "


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
@json_option
def commit(
    path: str, message: tuple[str, ...], amend: bool, meta: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Commit the changes in a mounted branch.

    PATH lies anywhere in the branch; the default is the current directory. Without -m an editor asks for the message
    on a terminal; --amend keeps the message and metadata of the commit that it replaces, where none are given.
    Ctrl-C calls a commit off.
    """
    mounted = require_mount(path)
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
    with CommitProgress(mounted) as progress:
        return mounted.ask("commit", on_progress=progress, **request)


def describe_commit(answer: dict[str, Any]) -> None:
    """Prints what was committed, and what was not."""
    nodes, chunks = answer["nodes"], answer["chunks"]
    click.echo(f"committed {answer['snapshot']}: {plural(nodes, 'node')}, {plural(chunks, 'chunk')}")
    for name in answer["untracked"]:
        click.echo(printable(f"untracked, not committed: {name}"))


def plural(number: int, word: str) -> str:
    """Writes a number with its word."""
    return f"{number} {word}{'s' * (number != 1)}"


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
    that was deleted, which comes back. What is dropped does not.
    """
    mounted, inside = require_place(path)
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
    """
    answer = require_mount(path).ask("rebase", how=how)
    if as_json:
        print_json(answer)
    else:
        click.echo(f"the changes {'now stand' if answer['moved'] else 'stand already'} on {answer['snapshot']}")
