"""Functions besides the classes, under their official names: upgrading, logging, versions."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Never

import icefs
from icefs.api.logs import initialize_logs, set_logs_filter, shutdown_telemetry
from icefs.api.repository import Repository
from icefs.engine.upkeep.migrate import upgrade

__all__ = [
    "initialize_logs",
    "print_debug_info",
    "set_logs_filter",
    "shutdown_telemetry",
    "upgrade_icechunk_repository",
    "user_agent",
]


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
        raise RuntimeError(
            "this repository was invalidated by upgrade_icechunk_repository: go on with the one that it returned"
        )


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
