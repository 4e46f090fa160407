"""Functions besides the classes, under their official names: upgrading, logging, versions."""

import logging
import os
import platform
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Never

import icefs
from icefs.api.repository import Repository
from icefs.arguments import check_instance
from icefs.engine.upkeep.migrate import upgrade

__all__ = [
    "initialize_logs",
    "print_debug_info",
    "set_logs_filter",
    "shutdown_telemetry",
    "upgrade_icechunk_repository",
    "user_agent",
]

_LEVELS: Final = {
    "off": logging.CRITICAL + 10,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}
_FILTER_VARIABLE: Final = "ICECHUNK_LOG"
_DEFAULT_FILTER: Final = "warn"


def upgrade_icechunk_repository(
    repo: Repository,
    *,
    dry_run: bool,
    delete_unused_v1_files: bool = True,
    prefetch_concurrency: int | None = None,
) -> Repository:
    """Brings a repository of spec version 1 to version 2; no program may write to it meanwhile.

    Args:
        repo: The repository; of no use afterwards, unless it is a dry run.
        dry_run: Read everything that is needed, and write nothing.
        delete_unused_v1_files: Delete the files that only version 1 needs.
        prefetch_concurrency: Accepted; icefs reads through bounded caches anyway.

    Returns:
        The repository, opened again.

    Raises:
        SessionStateError: it is of version 2 already (`invalid-repository-migration`).
        StorageError: something cannot be read, or the new state cannot be written, and all is as it was.
    """
    upgrade(repo._engine, dry_run=dry_run, delete_unused_v1_files=delete_unused_v1_files)
    fresh = repo.reopen()
    if not dry_run:
        repo._engine = _Upgraded()  # type: ignore[assignment]  # any use of it is an error
    return fresh


class _Upgraded:
    """The stand-in for the engine's repository in an object whose repository was upgraded."""

    def __getattr__(self, name: str) -> Never:
        raise RuntimeError("this repository was upgraded: go on with the one that upgrade_icechunk_repository returned")


def user_agent() -> str:
    """Returns the name and version of this library, as User-Agent headers write such things."""
    return f"icefs/{icefs.__version__}"


def print_debug_info() -> None:
    """Prints the versions of icefs, Python and libraries, for reports."""
    print(f"platform:  {platform.platform()}")
    print(f"python:  {platform.python_version()}")
    print(f"icefs:  {icefs.__version__}")
    for package in ("zarr", "numcodecs", "xarray", "virtualizarr"):
        try:
            print(f"{package}:  {version(package)}")
        except PackageNotFoundError:
            continue


def set_logs_filter(log_filter_directive: str | None) -> None:
    """Sets which messages are logged, on the logger `icefs` and those that the directive names.

    Args:
        log_filter_directive: Levels, separated by commas, each for all or with a name, as in `warn,icefs.engine=debug`;
            a level is off, error, warn, info, debug or trace. None takes the environment variable ICECHUNK_LOG.

    A part that is none of these is left out, with a warning.
    """
    if log_filter_directive is not None:
        check_instance(log_filter_directive, str)
    directive = os.environ.get(_FILTER_VARIABLE, "") if log_filter_directive is None else log_filter_directive
    levels: dict[str, int] = {}
    for part in (directive.strip() or _DEFAULT_FILTER).split(","):
        name, _, level = part.strip().rpartition("=")
        if level.lower() not in _LEVELS:
            where = f" (in {_FILTER_VARIABLE})" if log_filter_directive is None else ""
            warnings.warn(
                f"ignoring {part.strip()!r}{where}: {level!r} is no level of messages; one of {', '.join(_LEVELS)}",
                stacklevel=2,
            )
            continue
        # The names of the official library's parts stand for icefs as a whole.
        logger = "icefs" if not name or name.startswith("icechunk") else name.replace("::", ".")
        levels[logger] = _LEVELS[level.lower()]
    for logger, chosen in levels.items():
        logging.getLogger(logger).setLevel(chosen)


def initialize_logs() -> None:
    """Sets which messages are logged by the environment variable ICECHUNK_LOG; by default warnings and errors."""
    set_logs_filter(None)


def shutdown_telemetry() -> None:
    """Writes buffered log lines out; icefs sends nothing over the network."""
    for handler in logging.getLogger("icefs").handlers:
        handler.flush()
    sys.stderr.flush()
