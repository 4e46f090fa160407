"""Commands that talk to a mount through its control files: `icefs status` and `icefs refresh`."""

import click

from icefs.cli.support.mounts import require_mount
from icefs.cli.support.options import has_colours, json_option, print_json, print_painted, say
from icefs.words import quoted, visible_lines


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
        from icefs.vfs.control.status_text import status_lines  # not needed where nobody looks

        print_painted(status_lines(mounted.read_json("status.json")))
    else:
        click.echo(visible_lines(mounted.read_text("status")), nl=False)


@click.command()
@click.argument("path", default=".")
@json_option
def refresh(path: str, as_json: bool) -> None:
    """Let a mount look for new commits now.

    Returns when the mount of PATH (by default of the current directory) shows what is in the repository now.
    """
    changes = require_mount(path).ask("refresh")
    if as_json:
        print_json(changes)
        return
    lines = [f"branch {quoted(name)}: {old} -> {new}" for name, (old, new) in changes["moved"].items()]
    for what, verb in (("new", "new"), ("deleted", "deleted")):
        for kind, plural in (("branch", "branches"), ("tag", "tags")):
            lines += [f"{kind} {quoted(name)}: {verb}" for name in changes.get(f"{what}_{plural}", ())]
    for line in lines or ["nothing new"]:
        say(line)
    for name, old in changes.get("left_behind", {}).items():
        say(
            f"icefs: warning: snapshot {old}, which was the tip of branch {quoted(name)}, is not in its history any"
            " more: the branch was amended or reset, or the store lost the commit; 'icefs doctor' tries the store",
            err=True,
        )
