"""Commands that talk to a mount through its control files: `icefs status` and `icefs refresh`."""

import click

from icefs.cli.support.mounts import require_mount
from icefs.cli.support.options import has_colours, json_option, print_json, print_painted
from icefs.words import visible_lines


@click.command()
@click.argument("path", default=".")
@json_option
def status(path: str, as_json: bool) -> None:
    """Show the state of a mounted tree.

    PATH lies anywhere in the tree; the default is the current directory. Of a branch it tells what is staged for the
    next commit, what is untracked, and what cannot be committed. At the mount's root, the whole mount is described.
    """
    mounted = require_mount(path)
    if as_json:
        print_json(mounted.read_json("status.json"))
    elif has_colours() and mounted.tree_info.get("kind") is not None:
        from icefs.vfs.control.status_text import status_lines  # only for the text

        print_painted(status_lines(mounted.read_json("status.json")))
    else:
        click.echo(visible_lines(mounted.read_text("status")), nl=False)
