"""`icefs commit`: commits the changes in a mounted branch."""

import sys
from typing import Any

import click

from icefs.cli.support.commits import WAYS, describe_commit, parse_metadata, run_commit
from icefs.cli.support.mounts import Mounted, require_branch
from icefs.cli.support.options import json_option, print_json
from icefs.errors import InvalidInputError
from icefs.vfs.control.status_text import status_lines, to_text

_MARK = "# "
_SHOWN = 5
_LISTED = 20


@click.command()
@click.argument("path", default=".")
@click.option("-m", "--message", multiple=True, help="The commit message; several become paragraphs.")
@click.option("--amend", is_flag=True, help="Replace the newest commit by one that also has the changes.")
@click.option("--meta", multiple=True, metavar="KEY=VALUE", help="Metadata; the value is JSON, or else text.")
@click.option("--rebase", type=click.Choice(WAYS), help="Where others have committed, put the changes on top of that.")
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
