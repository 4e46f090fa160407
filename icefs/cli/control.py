"""Commands that talk to a mount through its control files: `icefs status`."""

import click

from icefs.cli.mounts import require_mount
from icefs.cli.options import json_option, print_json


@click.command()
@click.argument("path", default=".")
@json_option
def status(path: str, as_json: bool) -> None:
    """Show the state of a mounted tree.

    PATH lies anywhere in the tree; the default is the current directory. At the mount's root, the whole mount is
    described.
    """
    mounted = require_mount(path)
    if as_json:
        print_json(mounted.read_json("status.json"))
    else:
        click.echo(mounted.read_text("status"), nl=False)
