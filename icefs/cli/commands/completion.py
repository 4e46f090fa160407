"""`icefs completion`: a script that makes the Tab key work."""

import click

from icefs.cli.support.completing import completion_script
from icefs.cli.support.options import json_option, print_json, root_command


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@json_option
def completion(shell: str, as_json: bool) -> None:
    """Print a script that lets a shell complete commands.

    And options, branches, tags, mountpoints, the groups and arrays of a repository, and the keys of its configuration.

    \b
    bash: source <(icefs completion bash)           in ~/.bashrc
    zsh:  source <(icefs completion zsh)            in ~/.zshrc, after compinit
    fish: icefs completion fish | source            in ~/.config/fish/config.fish
    """  # noqa: D301  (click reads the backspace)
    script = completion_script(shell, root_command())
    if as_json:
        print_json({"shell": shell, "script": script})
    else:
        click.echo(script)
