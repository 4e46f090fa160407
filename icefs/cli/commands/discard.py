"""`icefs discard`: drops uncommitted changes."""

import click

from icefs.cli.support.mounts import CONTROL, check_branch, require_place
from icefs.cli.support.options import json_option, print_json
from icefs.errors import InvalidInputError
from icefs.words import plural


@click.command()
@click.argument("path", default=".")
@click.option("--all", "everything", is_flag=True, help="Drop all changes of the branch.")
@json_option
def discard(path: str, everything: bool, as_json: bool) -> None:
    """Drop uncommitted changes, at PATH or all of the branch.

    Files at PATH and below it become what they are in the snapshot that the branch stands on. PATH may be something
    that was deleted, which comes back. Dropped changes do not: files that were never committed are gone for good. A
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
