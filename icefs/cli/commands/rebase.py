"""`icefs rebase`: puts uncommitted changes on top of what others have committed."""

import click

from icefs.cli.support.commits import explaining
from icefs.cli.support.mounts import require_branch
from icefs.cli.support.options import json_option, print_json, say
from icefs.words import quoted


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
