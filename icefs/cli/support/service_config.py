"""Configuration files of mounts that run as services: `/etc/icefs/NAME.toml`, `~/.config/icefs/NAME.toml`.

    repository = "s3://bucket/era5?region=eu-west-1"
    mountpoint = "/mnt/era5"
    branch = "main"
    cache-size = "50G"

The keys are the long options of `icefs mount`, so that there is one list of them. Mistakes are reported with file,
line and key.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from icefs.cli.support.mount_options import mount_options, mount_parameters
from icefs.daemon.options import MountOptions
from icefs.errors import EntryNotFoundError, InvalidInputError
from icefs.private import who_may_change
from icefs.words import command

SYSTEM_DIRECTORY: Final = Path("/etc/icefs")

_REQUIRED: Final = ("repository", "mountpoint")
# A service stays attached to the service manager, and logs to it; the others are the command line's.
_NOT_FOR_SERVICES: Final = frozenset({"foreground", "fstab", "as_json", "debug"})


@click.command()
@click.argument("repository")
@click.argument("mountpoint")
@mount_parameters
def _mount(**values: Any) -> None:
    """Reads values as `icefs mount` does."""


_OPTIONS: Final = {
    str(option.name).replace("_", "-"): option
    for option in _mount.params
    if isinstance(option, click.Option) and option.name not in _NOT_FOR_SERVICES
}
KEYS: Final = (*_REQUIRED, *_OPTIONS)
"""What a configuration file may say."""


class Problem(NamedTuple):
    """One thing that is wrong with a file.

    Attributes:
        line: Where, from 1 on; None where it is about the whole file.
        key: Which key; None where it is about none, or several.
        reason: What.
    """

    line: int | None
    key: str | None
    reason: str

    def text(self, path: Path) -> str:
        """Says it in one line."""
        place = str(path) if self.line is None else f"{path}:{self.line}"
        return f"{place}: {self.reason}" if self.key is None else f"{place}: {self.key}: {self.reason}"


def user_directory() -> Path:
    """Returns where a user's own configuration files are."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "icefs")


def find_config(name: str) -> Path:
    """Finds a configuration file by path, or by the name of the service.

    Raises:
        EntryNotFoundError: there is none.
    """
    if "/" in name or name.endswith(".toml"):
        places = [Path(os.path.abspath(name))]
    else:
        places = [directory / f"{name}.toml" for directory in (user_directory(), SYSTEM_DIRECTORY)]
    for place in places:
        if place.exists():
            return place
    raise EntryNotFoundError(
        f"no configuration file: {' or '.join(map(str, places))}",
        hint='write one: repository = "…" and mountpoint = "…"; \'icefs config check FILE\' checks it',
    )


def load_config(path: Path) -> MountOptions:
    """Reads the options of a mount from a configuration file.

    Raises:
        InvalidInputError: the file says something wrong, or not enough, or other users can change it.
        OSError: the file cannot be read.
    """
    options, problems = check_file(path)
    if options is None:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InvalidInputError(
            f"{problems[0].text(path)}{more}",
            hint=f"correct the file; '{command('config check', str(path))}' checks it",
        )
    return options


def check_file(path: Path) -> tuple[MountOptions | None, list[Problem]]:
    """Reads a configuration file, as `check_config`; one that other users can change is not used.

    Raises:
        OSError: it cannot be read.
    """
    reason = who_may_change(path)
    options, problems = check_config(path.read_bytes())
    if reason is None:
        return options, problems
    return None, [
        Problem(None, None, f"{reason}; these users would choose what is mounted: chmod go-w, chown"),
        *problems,
    ]


def check_config(data: bytes) -> tuple[MountOptions | None, list[Problem]]:
    """Reads the text of a configuration file.

    Returns:
        The options, and an empty list; or None, and all that is wrong.
    """
    try:
        text = data.decode()
        table = tomllib.loads(text)
    except UnicodeDecodeError as error:
        return None, [Problem(data.count(b"\n", 0, error.start) + 1, None, "not UTF-8 text")]
    except tomllib.TOMLDecodeError as error:
        return None, [_syntax_problem(text, str(error))]
    problems = list(_missing(table))
    values: dict[str, Any] = {}
    for key, value in table.items():
        try:
            values[key] = _read(key, value)
        except click.BadParameter as error:
            problems.append(Problem(_line_of(text, key), key, " ".join(error.message.split()).rstrip(".")))
    if problems:
        return None, sorted(problems, key=lambda problem: (problem.line is None, problem.line or 0))
    try:
        return _options(values), []
    except InvalidInputError as error:
        return None, [Problem(None, None, error.own_message)]


def _syntax_problem(text: str, message: str) -> Problem:
    found = re.fullmatch(r"(?s)(.*) \(at (?:line (\d+), column \d+|end of document)\)", message)
    if found is None:
        return Problem(None, None, message)
    reason, number = found.groups()
    line = int(number) if number else text.count("\n") + 1
    lines = text.split("\n")
    key = re.match(r'\s*"?([\w-]+)"?\s*=', lines[line - 1]) if line <= len(lines) else None
    return Problem(line, key[1] if key else None, f"not TOML: {reason[:1].lower()}{reason[1:]}")


def _missing(table: dict[str, Any]) -> Iterator[Problem]:
    for key in _REQUIRED:
        if key not in table:
            yield Problem(None, key, "missing")


def _read(key: str, value: Any) -> Any:
    """Checks a value of the file, and returns it as the command line takes it.

    Raises:
        click.BadParameter: the option has no such value.
    """
    if key in _REQUIRED:
        return _location(key, value)
    option = _OPTIONS.get(key)
    if option is None:
        close = difflib.get_close_matches(key.replace("_", "-"), KEYS, 1)
        raise click.BadParameter("unknown key" + (f"; did you mean {close[0]}?" if close else ""))
    if option.is_flag:
        return _of_type(value, bool, "true or false")
    if option.multiple:
        return tuple(_of_type(part, str, "a list of texts") for part in _of_type(value, list, "a list of texts"))
    if isinstance(option.type, click.types.FloatParamType):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise click.BadParameter("must be a number")
    elif isinstance(value, datetime | date):
        value = value.isoformat()
    elif isinstance(value, int) and not isinstance(value, bool) and key != "umask":
        value = str(value)  # a size in bytes, the number of a user
    else:
        value = _of_type(value, str, 'a text in octal, as "022"' if key == "umask" else "a text")
    if isinstance(option.type, click.Path):
        _check_absolute(str(value))
    option.type_cast_value(click.Context(_mount), value)
    return value


def _of_type(value: Any, wanted: type, words: str) -> Any:
    if not isinstance(value, wanted):
        raise click.BadParameter(f"must be {words}")
    return value


def _location(key: str, value: Any) -> str:
    text = str(_of_type(value, str, "a text"))
    is_url = key == "repository" and ("://" in text or text.startswith("memory:"))
    if not is_url:
        _check_absolute(text)
    return text


def _check_absolute(path: str) -> None:
    if not os.path.isabs(os.path.expanduser(path)):
        raise click.BadParameter(f"not an absolute path: {path!r}; a service has no current directory")


def _options(values: dict[str, Any]) -> MountOptions:
    """Makes the options of a mount, with the command line's defaults, and the service manager's directories."""
    given = {key.replace("-", "_"): value for key, value in values.items() if key not in _REQUIRED}
    context = _mount.make_context("mount", ["--", *(values[key] for key in _REQUIRED)], default_map=given)
    chosen = {name: value for name, value in context.params.items() if name not in _NOT_FOR_SERVICES}
    options = mount_options(**chosen, foreground=True)
    # systemd makes these directories, and names them to the service alone.
    state, cache = (os.environ.get(name, "").split(":")[0] for name in ("STATE_DIRECTORY", "CACHE_DIRECTORY"))
    if state and options.state_dir is None:
        options = replace(options, state_dir=os.path.join(state, "trees"))
    if cache and options.cache_dir is None:
        options = replace(options, cache_dir=cache)
    return options.resolved()


def _line_of(text: str, key: str) -> int | None:
    """Finds the line where a top-level key gets its value, which the parser does not report."""
    wanted = re.compile(rf"""\s*\[?\[?\s*["']?{re.escape(key)}["']?\s*[\].=]""")
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if wanted.match(line) and _is_whole("\n".join(lines[: number - 1])):
            return number
    return None


def _is_whole(text: str) -> bool:
    """Tells whether a text is TOML so far: not if it ends within a text or a list of several lines."""
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True
