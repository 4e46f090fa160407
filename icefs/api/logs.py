"""Log lines as the official library's users choose them: `set_logs_filter` and the environment.

    ICECHUNK_LOG            the levels, as `set_logs_filter` takes them; by default `warn`
    ICECHUNK_NO_LOGS        set: nothing is printed, unless `set_logs_filter` is called
    ICECHUNK_LOG_TO_STDOUT  set: lines go to the standard output, and not to the standard error

Lines are those of Python's logger `icefs`. Where a program has set up `logging` itself, its handlers show them, and
icefs prints nothing.
"""

import logging
import os
import re
import sys
import warnings
from typing import Final, override

from icefs.arguments import check_instance

_OFF: Final = logging.CRITICAL + 10
_LEVELS: Final = {
    "off": _OFF,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
    **dict(
        zip("012345", (_OFF, logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG, logging.DEBUG), strict=True)
    ),
}
_FILTER_VARIABLE: Final = "ICECHUNK_LOG"
_SILENCE_VARIABLE: Final = "ICECHUNK_NO_LOGS"
_STDOUT_VARIABLE: Final = "ICECHUNK_LOG_TO_STDOUT"
_DEFAULT_FILTER: Final = "warn"
_EMPTY_FILTER: Final = "error"  # what the official library makes of an empty text
_PART_NAME: Final = re.compile(r"(icechunk|icefs)\w*((::|\.)\w+)*")


class _Console(logging.Handler):
    """Prints lines where the program has no handlers of its own."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if logging.getLogger().handlers:
            return
        stream = sys.stdout if _STDOUT_VARIABLE in os.environ else sys.stderr
        try:
            stream.write(f"{self.format(record)}\n")
            stream.flush()
        except (OSError, ValueError):  # closed, or full: a log line ends no program
            self.handleError(record)


_console: Final = _Console()
_console.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))


_chosen: Final[set[str]] = set()  # the loggers whose levels are ours to set


def set_logs_filter(log_filter_directive: str | None) -> None:
    """Sets which messages are logged, on the logger `icefs` and those that the directive names.

    Args:
        log_filter_directive: Levels, separated by commas, each for all or with a name, as in `warn,icefs.engine=debug`;
            a level is off, error, warn, info, debug or trace, or a number from 0 to 5. A name alone has all messages.
            None takes the environment variable ICECHUNK_LOG, and without it `warn`. Where there are only names, nothing
            else is logged.

    A part that is none of these is left out, with a warning; the names of the official library's parts stand for icefs
    as a whole.
    """
    if log_filter_directive is not None:
        check_instance(log_filter_directive, str)
    directive = os.environ.get(_FILTER_VARIABLE) if log_filter_directive is None else log_filter_directive
    if directive is None:
        directive = _DEFAULT_FILTER
    where = f" (in {_FILTER_VARIABLE})" if log_filter_directive is None else ""
    levels = {"icefs": _OFF}
    for part in (directive.strip() or _EMPTY_FILTER).split(","):
        name, level = _parsed(part.strip())
        if level is None:
            warnings.warn(
                f"ignoring {part.strip()!r}{where}: {name!r} is no level of messages; one of {', '.join(_LEVELS)}",
                stacklevel=2,
            )
        else:
            levels[name] = level
    for logger, chosen in levels.items():
        logging.getLogger(logger).setLevel(chosen)
        _chosen.add(logger)
    logging.getLogger("icefs").addHandler(_console)  # once, however often


def _parsed(part: str) -> tuple[str, int | None]:
    """Returns the logger and the level that a part of a directive names; no level where it names none."""
    name, equals, level = part.rpartition("=")
    if not equals and _PART_NAME.fullmatch(part):
        name, level = part, "trace"
    if level.lower() not in _LEVELS:
        return level, None
    logger = "icefs" if not name or name.startswith("icechunk") else name.replace("::", ".")
    return logger, _LEVELS[level.lower()]


def initialize_logs() -> None:
    """Sets which messages are logged by the environment; importing the API calls it.

    By default warnings and errors are printed, as Python does, and a program may choose other levels with `logging`.
    With ICECHUNK_NO_LOGS nothing is printed.
    """
    if _SILENCE_VARIABLE in os.environ:
        logging.getLogger("icefs").addHandler(logging.NullHandler())  # Python prints warnings without any handler
        return
    if _FILTER_VARIABLE in os.environ:
        set_logs_filter(None)
    else:  # the levels are Python's own, so that a program's `logging` decides
        while _chosen:
            logging.getLogger(_chosen.pop()).setLevel(logging.NOTSET)
        logging.getLogger("icefs").addHandler(_console)


def shutdown_telemetry() -> None:
    """Writes buffered log lines out; icefs sends nothing over the network."""
    for handler in logging.getLogger("icefs").handlers:
        handler.flush()
    sys.stderr.flush()
