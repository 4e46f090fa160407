"""`icefs mount`: starts the daemon, and returns when the mount answers."""

import grp
import os
import pwd
import sys
from datetime import datetime
from typing import Any

import click

from icefs.cli.fstab import fstab_option
from icefs.cli.locations import split_ref
from icefs.cli.options import Moment, allow_virtual_option, json_option, print_json
from icefs.clock import to_micros
from icefs.errors import InvalidInputError
from icefs.fuse.daemon import run, spawn
from icefs.fuse.options import LOG_LEVELS, MountOptions
from icefs.storage.url import redact


class Account(click.ParamType[int]):
    """A user or group, by number or name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Looks a name up."""
        if isinstance(value, int):
            return value
        if value.isascii() and value.isdigit():
            return int(value)
        try:
            return pwd.getpwnam(value).pw_uid if self.name == "user" else grp.getgrnam(value).gr_gid
        except KeyError:
            self.fail(f"there is no {self.name} {value!r}", param, ctx)


class Umask(click.ParamType[int]):
    """Permission bits in octal."""

    name = "octal"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parses the digits."""
        if isinstance(value, int):
            return value
        try:
            bits = int(value, 8)
        except ValueError:
            bits = -1
        if not 0 <= bits <= 0o777:
            self.fail(f"{value!r} is not an octal number such as 022", param, ctx)
        return bits


@click.command()
@click.argument("repository", metavar="REPO")
@click.argument("mountpoint", metavar="MNT")
@click.option("--branch", metavar="NAME", help="Show this branch alone, at MNT itself.")
@click.option("--tag", metavar="NAME", help="Show this tag alone.")
@click.option("--snapshot", metavar="ID", help="Show this snapshot alone.")
@click.option("--as-of", type=Moment(), help="Show the branch (by default main) as it was then.")
@click.option("--read-only", is_flag=True, help="Refuse all writes, in branches too.")
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground, and log there.")
@click.option("--allow-other", is_flag=True, help="Let other users in.")
@click.option("--uid", type=Account("user"), help="The owner of all files; by default you.")
@click.option("--gid", type=Account("group"), help="The group of all files; by default yours.")
@click.option("--umask", type=Umask(), default="000", show_default=True, help="Permissions to take away.")
@click.option(
    "--poll-interval",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look for new commits; 0 for never.",
)
@allow_virtual_option
@click.option("--log-file", type=click.Path(dir_okay=False), help="Where the daemon logs.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True, help="How much it logs.")
@fstab_option
@json_option
def mount(
    repository: str,
    mountpoint: str,
    as_of: datetime | None,
    branch: str | None,
    poll_interval: float,
    foreground: bool,
    as_json: bool,
    **others: Any,
) -> None:
    """Mount a repository as a file system.

    MNT, an empty directory, then holds branches/NAME, tags/NAME and snapshots/ID: trees of Zarr keys, readable by
    any program. With --branch, --tag, --snapshot or --as-of it is that one tree.
    """
    if split_ref(repository)[1] is not None:
        raise InvalidInputError(
            f"a mount takes a repository without @REF: {repository}", hint="name the version with --branch or --tag"
        )
    options = MountOptions(
        repository=repository,
        mountpoint=mountpoint,
        branch="main" if as_of is not None and branch is None else branch,
        as_of=None if as_of is None else to_micros(as_of),
        poll_interval_s=poll_interval,
        foreground=foreground,
        **others,
    ).resolved()
    if not foreground:
        _announce(options, spawn(options), as_json=as_json)
        return
    code = run(options, lambda: _announce(options, os.getpid(), as_json=as_json))
    click.get_current_context().exit(code)


def _announce(options: MountOptions, pid: int, *, as_json: bool) -> None:
    repository = redact(options.repository)
    if as_json:
        facts = {"repository": repository, "mountpoint": options.mountpoint, "pid": pid, "log_file": options.log_file}
        print_json(facts)
    else:
        click.echo(f"mounted {repository} at {options.mountpoint}; unmount it with 'icefs umount {options.mountpoint}'")
    sys.stdout.flush()  # in the foreground, whoever started us waits for this line
