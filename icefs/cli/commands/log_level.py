"""`icefs log-level`: shows or changes how much a daemon logs."""

import click

from icefs.cli.support.mounts import require_mount
from icefs.cli.support.options import json_option, print_json, say
from icefs.daemon.options import LOG_LEVELS
from icefs.words import quoted


@click.command("log-level")
@click.argument("path")
@click.argument("level", type=click.Choice(LOG_LEVELS), required=False)
@json_option
def log_level(path: str, level: str | None, as_json: bool) -> None:
    """Show or change how much the daemon of a mount logs.

    It goes on running. PATH lies anywhere in the mount. At level debug each request is logged.
    """
    mounted = require_mount(path).whole
    answer = mounted.ask("log-level", level=level)
    if as_json:
        print_json({"mountpoint": str(mounted.root), **answer})
    elif level is None:
        click.echo(answer["level"])
    else:
        log_file = mounted.info.get("log_file") or "standard error"
        say(f"log level {answer['level']}, before {answer['before']}; the log is {quoted(str(log_file))}")
