"""The `icefs` command: finds the subcommand, runs it, and turns errors into one line and an exit code.

`main` is the boundary of the program, as `fuse/boundary.py` is that of the daemon: code below it raises, and here alone
an exception becomes a message.

    icefs: <what happened>: <to what>; <what to do next>

A subcommand is imported when it runs, so that `icefs status` does not pay for numpy.
"""

import io
import os
import sys
from itertools import takewhile

import click

from icefs import errors
from icefs.cli.support.exit_codes import EXIT_CODES, FAILED, INTERRUPTED, PIPE_CLOSED, USAGE, exit_row
from icefs.cli.support.options import Group, Settings, debug_option, say
from icefs.cli.support.registry import COMMANDS, COMPLETING, load_command
from icefs.words import visible


class LazyGroup(Group):
    """A group whose commands are imported when they are invoked; the list of commands imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names in the order of the table: the daily ones first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command's module."""
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the exit codes from the table."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version  # 20 ms that no other command needs

        click.echo(f"icefs {version('icefs')}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@debug_option
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version."
)
def icefs() -> None:
    """Icechunk repositories as files: mount every branch, tag and snapshot as a tree of Zarr keys.

    A REPO is a directory, file:///DIRECTORY, s3://BUCKET/PREFIX[?endpoint_url=URL&region=NAME&anonymous=true],
    gs://BUCKET/PREFIX, az://CONTAINER/PREFIX[?account=NAME], or http(s)://HOST/PATH. REPO@REF names a version of it: a
    snapshot id, a branch or a tag. PATH is a place in a mount, and defaults to the current directory.
    """


def main(args: list[str] | None = None) -> int:
    """Runs one command line and returns the exit code; every error ends here."""
    arguments = sys.argv[1:] if args is None else args
    settings = Settings()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the terminal's encoding lacks is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        if COMPLETING in os.environ:  # a shell asks for completions
            icefs.main(arguments, prog_name="icefs")
        with icefs.make_context("icefs", list(arguments), obj=settings) as ctx:
            icefs.invoke(ctx)
        sys.stdout.flush()
    except click.exceptions.Exit as exc:
        return _finish(exc.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _finish(INTERRUPTED)
    except click.ClickException as exc:
        return _finish(_report_usage(exc, as_json="--json" in takewhile("--".__ne__, arguments)))
    except Exception as exc:  # noqa: BLE001  (the boundary of the program)
        return _finish(_report(exc, settings))
    return 0


def describe(exc: Exception) -> tuple[int, str]:
    """Returns the exit code of an exception, and its line without the leading `icefs: `."""
    code, message, hint = _meaning(exc)
    return code, _one_line(message, hint)


def _meaning(exc: Exception) -> tuple[int, str, str | None]:
    row = exit_row(exc)
    hint = row.hint
    match exc:
        case errors.IcefsError():
            message = exc.own_message
            hint = exc.hint if exc.hint is not None else hint
        case OSError() if exc.strerror:
            message = exc.strerror
            if exc.filename is not None:
                name = exc.filename.decode(errors="replace") if isinstance(exc.filename, bytes) else exc.filename
                message += f": {name}"
        case _:
            message = f"unexpected {type(exc).__name__}: {exc}"
    return row.exit_code, message, hint


def _report(exc: Exception, settings: Settings) -> int:
    while isinstance(exc, ExceptionGroup) and len(exc.exceptions) == 1:  # a nursery wraps what its one task raised
        exc = exc.exceptions[0]
    if isinstance(exc, BrokenPipeError):
        return PIPE_CLOSED
    code, message, hint = _meaning(exc)
    if isinstance(exc, errors.SessionStateError) and exc.kind == "commit-cancelled":
        code = INTERRUPTED
    if settings.debug:
        sys.__excepthook__(type(exc), exc, exc.__traceback__)
    _tell(exc, code, message, hint, as_json=settings.as_json)
    return code


def _tell(exc: Exception, code: int, message: str, hint: str | None, *, as_json: bool) -> None:
    if as_json:
        from icefs.cli.support.failing import error_line  # which only programs need

        click.echo(error_line(exc, code, message, hint), err=True)
    else:
        say(f"icefs: {_one_line(message, hint)}", err=True)


def _report_usage(exc: click.ClickException, *, as_json: bool) -> int:
    if isinstance(exc, click.exceptions.NoArgsIsHelpError):
        click.echo(exc.message, err=True)
        return USAGE
    hint = None
    if isinstance(exc, click.UsageError) and exc.ctx is not None:
        hint = f"see '{exc.ctx.command_path} --help'"
    message = exc.format_message()
    if message[1:2].islower():
        message = message[0].lower() + message[1:]
    code = USAGE if isinstance(exc, click.UsageError) else FAILED
    _tell(exc, code, message, hint, as_json=as_json)
    return code


def _one_line(message: str, hint: str | None) -> str:
    text = visible(message.strip()).rstrip(".")
    return f"{text}; {visible(hint)}" if hint else text


def _finish(code: int) -> int:
    """Flushes the output; a reader that went away (`icefs log | head -1`) gets no message."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    return code
