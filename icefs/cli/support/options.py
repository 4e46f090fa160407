"""What several commands share: their settings, options and argument types. Imports nothing heavy."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import click

from icefs.clock import read_last_moment, read_moment
from icefs.words import plural, quoted, suggestion, visible, visible_json

if TYPE_CHECKING:
    from rich.console import Console

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(slots=True)
class Settings:
    """What applies to the whole command line; the context's object."""

    debug: bool = False
    as_json: bool = False


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    settings = ctx.find_object(Settings)
    if value and settings is not None:
        settings.debug = True


def _set_json(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    settings = ctx.find_object(Settings)
    if value and settings is not None:
        settings.as_json = True
    return value


def debug_option[F: Callable[..., Any]](command: F) -> F:
    """Adds `--debug`, which is accepted before and after the subcommand."""
    return click.option(
        "--debug",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_set_debug,
        help="Show the traceback of an error.",
    )(command)


def json_option[F: Callable[..., Any]](command: F) -> F:
    """Adds `--json` (as the argument `as_json`), which holds for errors, too, and `--debug`."""
    option = click.option(
        "--json", "as_json", is_flag=True, is_eager=True, callback=_set_json, help="Print JSON for programs."
    )
    return option(debug_option(command))


class Group(click.Group):
    """A group of commands that knows what a misspelt one may have meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command that the words name; raises click.UsageError, with a suggestion, if none has them."""
        word = args[0]
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            hint = None if word.startswith("-") else suggestion(word, self.list_commands(ctx))
            if hint is None:
                raise
            raise click.UsageError(f"no such command {quoted(word)}; {hint}", error.ctx) from None


allow_virtual_option = click.option(
    "--allow-virtual",
    metavar="URL_PREFIX",
    multiple=True,
    help="Follow virtual chunks into this container (repeatable). An S3 endpoint that the repository names gets no keys"
    " unless you name it too: s3://BUCKET/?endpoint_url=URL. Nor does an account of Azure: az://CONTAINER/?account=NAME.",
)


def parse_size(text: str) -> int:
    """Reads a number of bytes, as `0`, `512k`, `8M` or `1.5GiB`; units are powers of 1024.

    Raises:
        click.BadParameter: it is none.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *(?:([kmgt])(?:i?b)?|b)?", text.strip(), re.ASCII | re.IGNORECASE)
    if found is None:
        raise click.BadParameter(f"{text!r} is not a size such as 512k, 8M or 1.5GiB")
    number, unit = found.groups()
    return int(float(number) * 1024 ** " kmgt".index((unit or " ").lower()))


def size_text(count: int) -> str:
    """Writes a number of bytes as `parse_size` reads it: `8M`; exactly, so that 1025 stays in bytes."""
    power = 0
    while count and count % 1024 == 0 and power < 4:
        count, power = count // 1024, power + 1
    return f"{count}{' kMGT'[power]}".rstrip()


def parse_moment(text: str) -> datetime:
    """Reads a point in time in ISO 8601, UTC if it has no offset; raises click.BadParameter for anything else."""
    return _read_time(text, read_moment)


def parse_as_of(text: str) -> datetime:
    """Reads what `--as-of` takes: a date means the whole day; raises as `parse_moment`."""
    return _read_time(text, read_last_moment)


def _read_time(text: str, read: Callable[[str], datetime]) -> datetime:
    try:
        return read(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a time such as 2024-12-31 or 2024-12-31T18:00:00Z") from None


def iso(moment: datetime) -> str:
    """Writes a time for programs: UTC, ISO 8601, `Z`."""
    return moment.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"


def human_bytes(count: int) -> str:
    """Writes a size for people."""
    if count < 1024:
        return plural(count, "byte")
    units = ("KiB", "MiB", "GiB", "TiB", "PiB")
    power = min((count.bit_length() - 1) // 10, len(units))
    return f"{count / 1024**power:.1f} {units[power - 1]}"


def human_time(moment: datetime) -> str:
    """Writes a time for people, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def say(line: str, *, err: bool = False) -> None:
    """Prints one line; whatever is in it stays on that line, and nothing in it is obeyed by a terminal."""
    click.echo(visible(line), err=err)


def print_json(value: Any) -> None:
    """Prints one JSON document."""
    click.echo(visible_json(json.dumps(value, indent=2, ensure_ascii=False)))


_COLOURS = {"staged": "green", "dropped": "red", "untracked": "yellow", "invalid": "red", "notice": "cyan"}
_GAP = 3
"""How many characters rich leaves between two columns."""
_LEAST_FOLDED = 16
"""A column that folds needs so many characters in a table; with fewer it cannot be read."""


def has_colours() -> bool:
    """Tells whether standard output is for eyes that want colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_painted(lines: Iterable[tuple[str, str]]) -> None:
    """Prints lines that have roles: in colours on a terminal, plain in a pipe."""
    coloured = has_colours()
    for role, text in lines:
        colour = _COLOURS.get(role) if coloured else None
        click.echo(click.style(visible(text), fg=colour) if colour else visible(text))


def print_rows(
    headers: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, folding: tuple[str, ...], none: str
) -> None:
    """Prints a table: aligned under headers on a terminal, else bare tab-separated lines for `cut` and `awk`.

    Nothing is cut on a narrow terminal. Cells of the columns in `folding` go on in the next line; all others stay
    in one piece, to be copied. Where that leaves too little for the former, each row becomes a block of lines.

    Args:
        headers: The names of the columns.
        rows: As many cells each as there are columns.
        folding: The columns whose cells may be long: paths, names, shapes.
        none: The sentence for an empty list; it goes to standard error, where no program takes it for a row.
    """
    if not rows:
        say(none, err=True)
        return
    shown = [tuple(map(quoted, row)) for row in rows]
    if not sys.stdout.isatty():
        for row in shown:
            click.echo("\t".join(row))
        return
    from rich.cells import cell_len  # rich takes 100 ms that a pipe does not pay
    from rich.console import Console

    console = Console()
    needed = [max(map(cell_len, cells)) for cells in zip(headers, *shown, strict=True)]
    least = [
        min(width, _LEAST_FOLDED) if header in folding else width for header, width in zip(headers, needed, strict=True)
    ]
    if sum(least) + _GAP * (len(headers) - 1) <= console.width:
        _print_table(console, headers, shown, folding, least)
    else:
        _print_blocks(console, headers, shown, folding)


def _print_table(
    console: "Console",
    headers: tuple[str, ...],
    rows: list[tuple[str, ...]],
    folding: tuple[str, ...],
    least: list[int],
) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for header, width in zip(headers, least, strict=True):
        table.add_column(header, overflow="fold", no_wrap=header not in folding, min_width=width)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _print_blocks(
    console: "Console", headers: tuple[str, ...], rows: list[tuple[str, ...]], folding: tuple[str, ...]
) -> None:
    """Prints the name of each column before its cell, in lines of their own, and an empty line between rows."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    names = max(map(cell_len, headers)) + _GAP
    whole = [cell_len(cell) for row in rows for header, cell in zip(headers, row, strict=True) if header not in folding]
    # A terminal that is narrower still breaks the line itself, and a copy from it is in one piece.
    console.width = max(console.width, names + max(whole, default=0), names + _LEAST_FOLDED)
    for number, row in enumerate(rows):
        block = Table.grid()
        block.add_column(min_width=names, no_wrap=True)
        block.add_column(overflow="fold")
        for header, cell in zip(headers, row, strict=True):
            block.add_row(Text(header, "bold"), Text(cell))
        if number:
            console.print()
        console.print(block)


ref_option = click.option("--ref", help="The version, where REPO@REF cannot say it.")


def parse_age(text: str) -> datetime:
    """Reads a time, or an age such as `30d` (s, m, h, d or w) before now; raises as `parse_moment`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip())
    if match is None:
        return parse_moment(text)
    try:
        return datetime.now(UTC) - timedelta(seconds=float(match[1]) * _UNITS[match[2]])
    except OverflowError:
        raise click.BadParameter(f"{text!r} is longer ago than time itself") from None


repo_argument = click.argument("repo", metavar="[PATH|REPO]", required=False)
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


def root_command() -> click.Group:
    """Returns the command `icefs`, with all others in it; to be called while one of them runs."""
    command = click.get_current_context().find_root().command
    assert isinstance(command, click.Group)
    return command
