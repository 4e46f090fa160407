"""Checks that a mount's directories lie outside of it, and that its repository can be written to."""

import errno
import os

from icefs.daemon.options import MountOptions
from icefs.errors import InvalidInputError
from icefs.storage.url import parse_location


def check_places(options: MountOptions) -> None:
    """Checks that no directory or file of a mount lies below its mountpoint or in the repository, before any is made.

    Below the mountpoint the daemon would wait for itself; no signal ends that.

    Args:
        options: As they were given: a default place may lie in a repository that is a user's home.

    Raises:
        InvalidInputError: something lies there.
    """
    chosen, options = options, options.resolved()
    mountpoint = os.path.realpath(options.mountpoint)
    local = parse_location(options.repository)
    repository = os.path.realpath(local.root) if local.scheme == "file" else None
    places = {
        "--state-dir": options.state_dir if options.is_writable else None,
        "--cache-dir": options.cache_dir,
        "--log-file": options.log_file,
    }
    allowed = [prefix for prefix in options.allow_virtual if prefix.lower().startswith("file:")]
    for name, place in [*places.items(), *(("--allow-virtual", parse_location(prefix).root) for prefix in allowed)]:
        if place is None:
            continue
        real = os.path.realpath(place)
        if _is_below(real, mountpoint):
            raise InvalidInputError(
                f"{name} lies below the mountpoint: {place}", hint=f"choose a place outside of {mountpoint}"
            )
        is_chosen = name in places and getattr(chosen, name.removeprefix("--").replace("-", "_")) is not None
        if repository is not None and is_chosen and _is_below(real, repository):
            raise InvalidInputError(
                f"{name} lies in the repository: {place}", hint=f"choose a place outside of {repository}"
            )


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")


def why_not_writable(directory: str) -> str | None:
    """Returns why a local repository cannot be written to, in the system's words; None if it can."""
    if os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        return None
    try:
        is_read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
    except OSError as error:
        return error.strerror
    return os.strerror(errno.EROFS if is_read_only else errno.EACCES)
