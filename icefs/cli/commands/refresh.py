"""`icefs refresh`: has a mount look for new commits now."""

import click

from icefs.cli.support.mounts import require_mount
from icefs.cli.support.options import json_option, print_json, say
from icefs.words import quoted


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
