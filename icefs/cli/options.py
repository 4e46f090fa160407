"""What several commands share: their settings, options and argument types. Imports nothing heavy."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click

from icefs.words import plural, quoted, suggestion, visible, visible_json


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
        """Finds the command that the words name."""
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
    " unless you name it too: s3://BUCKET/?endpoint_url=URL.",
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


def parse_moment(text: str) -> datetime:
    """Reads a point in time in ISO 8601; without an offset it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a time such as 2024-12-31 or 2024-12-31T18:00:00Z") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


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


def has_colours() -> bool:
    """Tells whether standard output is for eyes that want colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_painted(lines: Iterable[tuple[str, str]]) -> None:
    """Prints lines that have roles: in colours on a terminal, plain in a pipe."""
    coloured = has_colours()
    for role, text in lines:
        colour = _COLOURS.get(role) if coloured else None
        click.echo(click.style(visible(text), fg=colour) if colour else visible(text))


def print_rows(headers: tuple[str, ...], rows: list[tuple[str, ...]], *, whole: tuple[str, ...] = ()) -> None:
    """Prints a table: aligned under headers on a terminal, else bare tab-separated lines for `cut` and `awk`.

    Nothing is cut off on a narrow terminal: cells go on in the next line, but for those of the columns in `whole`.
    """
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(map(quoted, row)))
        return
    from rich import box  # 100 ms that a pipe does not pay
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, header in enumerate(headers):
        longest = max((len(quoted(row[number])) for row in rows), default=0) if header in whole else None
        table.add_column(header, overflow="fold", no_wrap=header in whole, min_width=longest)
    for row in rows:
        table.add_row(*(Text(quoted(cell)) for cell in row))
    Console().print(table)
