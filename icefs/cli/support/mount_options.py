"""The options of `icefs mount`, which are also the keys of a configuration file."""

import grp
import pwd
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from typing import Any, Final

import click

from icefs.cli.support.fstab import fstab_option
from icefs.cli.support.locations import split_ref
from icefs.cli.support.options import allow_virtual_option, parse_as_of, parse_size, size_text
from icefs.clock import to_micros
from icefs.daemon.options import DEFAULT_CACHE_SIZE, FUSE_LIBRARIES, LOG_FORMATS, LOG_LEVELS, MAX_ID, MountOptions
from icefs.engine.write.packing import DEFAULT_PACK_BYTES
from icefs.errors import InvalidInputError


def parse_user(text: str) -> int:
    """Reads a user by number or name; raises click.BadParameter where there is none."""
    try:
        return _id(text, "user") if text.isascii() and text.isdigit() else pwd.getpwnam(text).pw_uid
    except KeyError:
        raise click.BadParameter(f"there is no user {text!r}") from None


def parse_group(text: str) -> int:
    """Reads a group by number or name; raises click.BadParameter where there is none."""
    try:
        return _id(text, "group") if text.isascii() and text.isdigit() else grp.getgrnam(text).gr_gid
    except KeyError:
        raise click.BadParameter(f"there is no group {text!r}") from None


def _id(text: str, what: str) -> int:
    if len(text) > 10 or int(text) > MAX_ID:
        raise click.BadParameter(f"{text} is no number of a {what}: they go up to {MAX_ID}")
    return int(text)


def parse_umask(text: str) -> int:
    """Reads permission bits in octal; raises click.BadParameter for anything else."""
    try:
        bits = int(text, 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o777:
        raise click.BadParameter(f"{text!r} is not an octal number such as 022")
    return bits


def mount_options(
    repository: str,
    mountpoint: str,
    *,
    as_of: datetime | None,
    branch: str | None,
    poll_interval: float,
    upload_after: float,
    **others: Any,
) -> MountOptions:
    """Makes a mount's options from the values of the command's.

    Raises:
        InvalidInputError: they do not go together.
    """
    if split_ref(repository)[1] is not None:
        raise InvalidInputError(
            f"a mount takes a repository without @REF: {repository}", hint="name the version with --branch or --tag"
        )
    return MountOptions(
        repository=repository,
        mountpoint=mountpoint,
        branch="main" if as_of is not None and branch is None else branch,
        as_of=None if as_of is None else to_micros(as_of),
        poll_interval_s=poll_interval,
        upload_after_s=upload_after,
        **others,
    )


DEFAULTS: Final = {**{field.name: field.default for field in fields(MountOptions)}, "cache_size": DEFAULT_CACHE_SIZE}
"""The options of a mount that a command line does not give, by their names in `MountOptions`."""

_PARAMETERS: Final = (
    click.option("--branch", metavar="NAME", help="Show this branch alone, at MNT itself."),
    click.option("--tag", metavar="NAME", help="Show this tag alone."),
    click.option("--snapshot", metavar="ID", help="Show this snapshot alone."),
    click.option("--as-of", type=parse_as_of, metavar="TIME", help="Show the branch (by default main) as it was then."),
    click.option(
        "--view",
        metavar="FORMAT",
        help="Show the data in another format, to be read: netcdf, netcdf3, zarr2 or npy; see 'icefs help views'.",
    ),
    click.option("--read-only", is_flag=True, help="Refuse all writes, in branches too."),
    click.option(
        "--state-dir",
        type=click.Path(file_okay=False),
        metavar="DIR",
        help="Where uncommitted changes are kept; by default under $XDG_STATE_HOME.",
    ),
    click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground, and log there."),
    click.option("--allow-other", is_flag=True, help="Let other users in."),
    click.option("--uid", type=parse_user, metavar="USER", help="The owner of all files; by default you."),
    click.option("--gid", type=parse_group, metavar="GROUP", help="The group of all files; by default yours."),
    click.option(
        "--umask",
        type=parse_umask,
        metavar="OCTAL",
        default=f"{DEFAULTS['umask']:03o}",
        show_default=True,
        help="Permissions to take away; 002 lets the group write.",
    ),
    click.option(
        "--poll-interval",
        type=click.FloatRange(min=0),
        default=DEFAULTS["poll_interval_s"],
        show_default=True,
        metavar="SECONDS",
        help="How often to look for new commits; 0 for never.",
    ),
    click.option(
        "--view-cache",
        type=parse_size,
        metavar="SIZE",
        default="256M",
        show_default=True,
        help="How much of decoded chunks to keep in memory, where views are read.",
    ),
    allow_virtual_option,
    click.option(
        "--cache-dir",
        type=click.Path(file_okay=False),
        metavar="DIR",
        help="Where to keep what was read from a remote store; by default under $XDG_CACHE_HOME.",
    ),
    click.option(
        "--cache-size",
        type=parse_size,
        metavar="SIZE",
        default=size_text(DEFAULT_CACHE_SIZE),
        show_default=True,
        help="How much of it to keep; the chunks not used for longest go. 0 keeps nothing.",
    ),
    click.option(
        "--upload-after",
        type=click.FloatRange(min=0),
        default=DEFAULTS["upload_after_s"],
        show_default=True,
        metavar="SECONDS",
        help="Upload chunks to a remote store once they have not changed for so long; 0 for not before the commit.",
    ),
    click.option(
        "--pack-size",
        type=parse_size,
        metavar="SIZE",
        default=size_text(DEFAULT_PACK_BYTES),
        show_default=True,
        help="How large objects may become that small chunks of a commit share; 0 gives each chunk its own.",
    ),
    click.option("--log-file", type=click.Path(dir_okay=False), help="Where the daemon logs."),
    click.option(
        "--log-level",
        type=click.Choice(LOG_LEVELS),
        default=DEFAULTS["log_level"],
        show_default=True,
        help="How much it logs.",
    ),
    click.option(
        "--log-format",
        type=click.Choice(LOG_FORMATS),
        default=DEFAULTS["log_format"],
        show_default=True,
        help="How it logs.",
    ),
    click.option(
        "--metrics",
        metavar="[HOST:]PORT",
        help="Serve /metrics for Prometheus, and /healthz; by default to this machine.",
    ),
    click.option(
        "--fuse-library",
        type=click.Choice(FUSE_LIBRARIES),
        default=DEFAULTS["fuse_library"],
        show_default=True,
        help="How to talk to the kernel; pyfuse3 is slower, and comes with 'icefs[pyfuse3]'.",
    ),
    fstab_option,
)


def mount_parameters[F: Callable[..., Any]](function: F) -> F:
    """Adds the options of a mount to a command, in the order of its help."""
    for parameter in reversed(_PARAMETERS):
        function = parameter(function)
    return function
