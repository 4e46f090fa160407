"""The `icefs` command: finds the subcommand, runs it, and turns what goes wrong into one line and an exit code.

`main` is the boundary of the program in the way that `fuse/boundary.py` is that of the daemon: below it code
raises, here and nowhere else an exception becomes something a user sees.

    icefs: <what happened>: <to what>; <what to do next>

Subcommands are imported when they are asked for, so that `icefs status` does not pay for numpy.
"""

import importlib
import io
import os
import sys
from itertools import takewhile
from typing import NamedTuple

import click

from icefs import errors
from icefs.cli.support.options import Group, Settings, debug_option, say
from icefs.words import visible

USAGE, NOT_FOUND, STATE, CONFLICT, FORBIDDEN, STORAGE, FORMAT, BUG = 2, 3, 4, 5, 6, 7, 8, 70
FAILED = 1
INTERRUPTED, PIPE_CLOSED = 130, 141  # what a shell reports of a process that SIGINT or SIGPIPE ended

EXIT_CODES: dict[int, str] = {
    0: "success",
    FAILED: "failed for a reason that has no code of its own",
    USAGE: "the command line or an argument is wrong",
    NOT_FOUND: "no such repository, branch, tag, snapshot, node, key or mount",
    STATE: "not possible in the present state (busy, exists already, nothing to do)",
    CONFLICT: "somebody else changed the same thing",
    FORBIDDEN: "not permitted (read-only, no access, not authorised)",
    STORAGE: "the object store or disk failed or does not answer",
    FORMAT: "a file of the repository is malformed, or of an unknown version",
    BUG: "a bug in icefs",
    INTERRUPTED: "interrupted",
}
"""The documented exit codes, in words for `icefs --help`."""


class Row(NamedTuple):
    """What a class of exceptions means to the user: the exit code, and what to do where the error says nothing.

    A hint stands here only where it helps whatever the command and the case; else the place that raises knows better,
    and silence is better than a wrong way.
    """

    error: type[BaseException]
    exit_code: int
    hint: str | None = None


# The first row that an exception is an instance of counts, so a class stands before its bases. A test holds the
# table total over `icefs.errors`: each concrete class has a row of its own.
ERROR_TABLE: tuple[Row, ...] = (
    Row(errors.RebaseFailedError, CONFLICT, "'icefs help conflicts' says how to go on"),
    Row(errors.BranchMovedError, CONFLICT, "rebase and try again"),
    Row(errors.ConflictError, CONFLICT, "try again"),
    Row(errors.ChunkNotFoundError, NOT_FOUND, "'icefs ls' on the array lists its chunks"),
    Row(errors.NodeNotFoundError, NOT_FOUND, "'icefs ls' lists what exists"),
    Row(errors.SnapshotNotFoundError, NOT_FOUND, "'icefs log' lists snapshots"),
    Row(errors.RefNotFoundError, NOT_FOUND, "'icefs branch list' and 'icefs tag list' list what exists"),
    Row(errors.RepositoryNotFoundError, NOT_FOUND, "check the location"),
    Row(errors.EntryNotFoundError, NOT_FOUND, "check the path"),
    Row(errors.NotFoundError, NOT_FOUND, "check the name"),
    Row(errors.AlreadyExistsError, STATE, "choose another name"),
    Row(errors.ReadOnlyError, FORBIDDEN),
    Row(errors.UnauthorizedContainerError, FORBIDDEN, "--allow-virtual URL_PREFIX authorises a container"),
    Row(errors.InvalidMetadataError, USAGE),
    Row(errors.FileTooLargeError, USAGE, "write a smaller file"),
    Row(errors.NameTooLongError, USAGE, "choose a shorter name"),
    Row(errors.ReservedNameError, USAGE, "choose another name"),
    Row(errors.InvalidInputError, USAGE),
    Row(errors.NotADirectoryTreeError, USAGE),
    Row(errors.IsADirectoryTreeError, USAGE, "name a file instead"),
    Row(errors.NotEmptyError, STATE, "choose an empty directory"),
    Row(errors.BadHandleError, FAILED),
    Row(errors.CrossTreeError, USAGE, "copy instead"),
    Row(errors.NotPermittedError, FORBIDDEN),
    Row(errors.TreeError, USAGE),
    Row(errors.NothingToCommitError, STATE, "change something first"),
    Row(errors.ChunksCollectedError, CONFLICT, "write the chunks again, and commit"),
    Row(errors.TreeInUseError, STATE, "unmount it there first"),
    Row(errors.SessionStateError, STATE),
    Row(errors.UntrustedMountError, FORBIDDEN, "run the command as the user who mounted it"),
    Row(errors.StaleError, STATE),
    Row(errors.UnsupportedError, FAILED),
    Row(errors.UnsupportedSpecVersionError, FORMAT, "a newer icefs may read it"),
    Row(errors.FormatError, FORMAT, "the file is damaged: restore it from a copy"),
    Row(errors.ObjectNotFoundError, STORAGE, "the repository is incomplete: restore the object from a copy"),
    Row(errors.PreconditionFailedError, CONFLICT, "try again"),
    Row(errors.AccessDeniedError, FORBIDDEN),
    Row(errors.ThrottledError, STORAGE, "try again later"),
    Row(errors.BadAnswerError, STORAGE, "check the endpoint and the network, and what answers in the store's place"),
    Row(errors.UnreachableError, STORAGE, "check the endpoint and the network"),
    Row(errors.NoSpaceError, STORAGE, "make room and try again"),
    Row(errors.TooManyFilesError, STORAGE, "raise the limit of open files ('ulimit -n'), or close some"),
    Row(errors.InvalidObjectSizeError, STORAGE, "the object is damaged: restore it from a copy"),
    Row(errors.ObjectModifiedError, STORAGE, "the referenced file changed after it was referenced"),
    Row(errors.NotAnObjectError, STORAGE, "put a file there, or remove it"),
    Row(errors.DamagedStateError, STORAGE, "'icefs sessions' lists it, exports what it has and gives it up"),
    Row(errors.StorageError, STORAGE),
    Row(errors.InternalError, BUG, "please report this bug with the output of --debug"),
    Row(errors.IcefsError, FAILED),
    Row(FileNotFoundError, NOT_FOUND, "check the path"),
    Row(NotADirectoryError, USAGE, "check the path"),
    Row(PermissionError, FORBIDDEN),
    Row(OSError, FAILED),
    Row(Exception, BUG, "please report this bug with the output of --debug"),
)


COMPLETING = "_ICEFS_COMPLETE"
"""The variable with which a shell asks what the Tab key could mean."""


class Lazy(NamedTuple):
    """The module below `icefs.cli.commands`, and the line for the list of commands, which imports none of them."""

    module: str
    attribute: str
    summary: str


COMMANDS: dict[str, Lazy] = {
    "init": Lazy("init", "init", "Make an empty repository, with the branch main."),
    "mount": Lazy("mount", "mount", "Mount a repository as a file system."),
    "umount": Lazy("umount", "umount", "Unmount, and wait for the daemon to end."),
    "serve": Lazy("serve", "serve", "Serve the mount of a configuration file, as a service."),
    "install-units": Lazy("install_units", "install_units", "Install systemd's units and mount(8)'s helper."),
    "status": Lazy("control", "status", "Show the state of a mounted tree."),
    "diff": Lazy("diff", "diff", "Show what changed between two versions, or what is not committed yet."),
    "commit": Lazy("committing", "commit", "Commit the changes in a mounted branch."),
    "discard": Lazy("committing", "discard", "Drop uncommitted changes, at PATH or all of the branch."),
    "rebase": Lazy("committing", "rebase", "Put the changes on top of what others have committed."),
    "refresh": Lazy("control", "refresh", "Let a mount look for new commits now."),
    "top": Lazy("top", "top", "Show live what a mount does."),
    "log-level": Lazy("top", "log_level", "Show or change how much the daemon of a mount logs."),
    "sessions": Lazy("sessions", "sessions", "List working trees; commit, discard or export one unmounted."),
    "doctor": Lazy("doctor", "doctor", "Find out why something does not work."),
    "warmup": Lazy("warmup", "warmup", "Fetch chunks into the disk cache."),
    "info": Lazy("info", "info", "Show facts about a repository or a mount."),
    "log": Lazy("history", "log", "Show the history of a branch, tag or snapshot."),
    "blame": Lazy("blame", "blame", "Show which commit changed each chunk of an array last."),
    "branch": Lazy("refs", "branch", "List, create, delete and reset branches."),
    "tag": Lazy("refs", "tag", "List, create and delete tags."),
    "ls": Lazy("read", "ls", "List groups, arrays and chunks."),
    "cat": Lazy("read", "cat", "Write the bytes of a Zarr key to standard output."),
    "import": Lazy("transfer", "import_", "Import a directory of Zarr v3 as one commit."),
    "export": Lazy("transfer", "export", "Export a version as plain files of Zarr v3."),
    "stats": Lazy("upkeep", "stats", "Show how many bytes chunks take, by array or of all versions."),
    "fsck": Lazy("upkeep", "fsck", "Check that a repository is whole, and mend it."),
    "expire": Lazy("upkeep", "expire", "Take old snapshots out of the history."),
    "gc": Lazy("upkeep", "gc", "Delete objects that nothing needs."),
    "rewrite-manifests": Lazy("upkeep", "rewrite_manifests", "Write a branch's manifests anew."),
    "upgrade": Lazy("upkeep", "upgrade", "Bring a repository of spec version 1 to version 2."),
    "config": Lazy("config", "config", "Show and change the saved configuration."),
    "inspect": Lazy("info", "inspect", "Show a file of the repository as JSON."),
    "help": Lazy("help", "show_help", "Show help on a topic or a command, or write manual pages."),
    "completion": Lazy("help", "completion", "Print a script that lets a shell complete commands."),
}


class LazyGroup(Group):
    """A group whose commands are imported when they are invoked; the list of commands imports none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names in the order of the table: the daily ones first."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command's module."""
        lazy = COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        command = getattr(importlib.import_module(f"icefs.cli.commands.{lazy.module}"), lazy.attribute)
        assert isinstance(command, click.Command)
        if COMPLETING in os.environ:
            importlib.import_module("icefs.cli.support.completing").prepare(command, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in COMMANDS.items()])

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
    or http(s)://HOST/PATH. REPO@REF names a version of it: a snapshot id, a branch or a tag. PATH is a place in a
    mount, and defaults to the current directory.
    """


def main(args: list[str] | None = None) -> int:
    """Runs one command line and returns the exit code; everything that goes wrong ends here."""
    arguments = sys.argv[1:] if args is None else args
    settings = Settings()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal's encoding lacks is no reason to fail
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


def exit_row(exc: BaseException) -> Row:
    """Finds an exception's row in the table."""
    return next(row for row in ERROR_TABLE if isinstance(exc, row.error))


def describe(exc: Exception) -> tuple[int, str]:
    """Says what an exception means to the user: the exit code, and the line without its leading `icefs: `."""
    code, message, hint = _meaning(exc)
    return code, _one_line(message, hint)


def _meaning(exc: Exception) -> tuple[int, str, str | None]:
    row = exit_row(exc)
    hint = row.hint
    match exc:
        case errors.IcefsError():
            message = exc.message
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
    """Flushes what was printed; a reader that went away (`icefs log | head -1`) is no error worth a word."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    return code
