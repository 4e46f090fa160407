"""`icefs mount`: starts the daemon, and returns when the mount answers."""

import grp
import os
import pwd
import subprocess
import sys
from datetime import datetime
from typing import Any

import click

from icefs.cli.support.fstab import fstab_option
from icefs.cli.support.locations import split_ref
from icefs.cli.support.mounts import raised, require_mount
from icefs.cli.support.options import (
    allow_virtual_option,
    json_option,
    parse_moment,
    parse_size,
    print_json,
    say,
)
from icefs.clock import to_micros
from icefs.daemon.apart import why_not_writable
from icefs.daemon.options import FUSE_LIBRARIES, LOG_FORMATS, LOG_LEVELS, MAX_ID, NATIVE, MountOptions
from icefs.daemon.spawn import run, spawn
from icefs.errors import IcefsError, InvalidInputError
from icefs.storage.url import parse_location, redact
from icefs.vfs.control.status_text import damage_texts
from icefs.vfs.names import encode_ref
from icefs.words import command, quoted


def parse_user(text: str) -> int:
    """Reads a user by number or name."""
    try:
        return _id(text, "user") if text.isascii() and text.isdigit() else pwd.getpwnam(text).pw_uid
    except KeyError:
        raise click.BadParameter(f"there is no user {text!r}") from None


def parse_group(text: str) -> int:
    """Reads a group by number or name."""
    try:
        return _id(text, "group") if text.isascii() and text.isdigit() else grp.getgrnam(text).gr_gid
    except KeyError:
        raise click.BadParameter(f"there is no group {text!r}") from None


def _id(text: str, what: str) -> int:
    if len(text) > 10 or int(text) > MAX_ID:
        raise click.BadParameter(f"{text} is no number of a {what}: they go up to {MAX_ID}")
    return int(text)


def parse_umask(text: str) -> int:
    """Reads permission bits in octal."""
    try:
        bits = int(text, 8)
    except ValueError:
        bits = -1
    if not 0 <= bits <= 0o777:
        raise click.BadParameter(f"{text!r} is not an octal number such as 022")
    return bits


@click.command()
@click.argument("repository", metavar="REPO")
@click.argument("mountpoint", metavar="MNT")
@click.option("--branch", metavar="NAME", help="Show this branch alone, at MNT itself.")
@click.option("--tag", metavar="NAME", help="Show this tag alone.")
@click.option("--snapshot", metavar="ID", help="Show this snapshot alone.")
@click.option("--as-of", type=parse_moment, metavar="TIME", help="Show the branch (by default main) as it was then.")
@click.option("--read-only", is_flag=True, help="Refuse all writes, in branches too.")
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Where uncommitted changes are kept; by default under $XDG_STATE_HOME.",
)
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground, and log there.")
@click.option("--allow-other", is_flag=True, help="Let other users in.")
@click.option("--uid", type=parse_user, metavar="USER", help="The owner of all files; by default you.")
@click.option("--gid", type=parse_group, metavar="GROUP", help="The group of all files; by default yours.")
@click.option(
    "--umask",
    type=parse_umask,
    metavar="OCTAL",
    default="022",
    show_default=True,
    help="Permissions to take away; 002 lets the group write.",
)
@click.option(
    "--poll-interval",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look for new commits; 0 for never.",
)
@allow_virtual_option
@click.option(
    "--cache-dir",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Where to keep what was read from a remote store; by default under $XDG_CACHE_HOME.",
)
@click.option(
    "--cache-size",
    type=parse_size,
    metavar="SIZE",
    default="10G",
    show_default=True,
    help="How much of it to keep; what was used longest ago goes. 0 keeps nothing.",
)
@click.option(
    "--upload-after",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Upload chunks to a remote store once they have not changed for so long; 0 for not before the commit.",
)
@click.option(
    "--pack-size",
    type=parse_size,
    metavar="SIZE",
    default="8M",
    show_default=True,
    help="How large objects may become that small chunks of a commit share; 0 gives each chunk its own.",
)
@click.option("--log-file", type=click.Path(dir_okay=False), help="Where the daemon logs.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="info", show_default=True, help="How much it logs.")
@click.option("--log-format", type=click.Choice(LOG_FORMATS), default="text", show_default=True, help="How it logs.")
@click.option(
    "--metrics", metavar="[HOST:]PORT", help="Serve /metrics for Prometheus, and /healthz; by default to this machine."
)
@click.option(
    "--fuse-library",
    type=click.Choice(FUSE_LIBRARIES),
    default=NATIVE,
    show_default=True,
    help="How to talk to the kernel; pyfuse3 is slower, and comes with 'icefs[pyfuse3]'.",
)
@fstab_option
@json_option
def mount(
    repository: str,
    mountpoint: str,
    as_of: datetime | None,
    branch: str | None,
    poll_interval: float,
    upload_after: float,
    foreground: bool,
    as_json: bool,
    **others: Any,
) -> None:
    """Mount a repository as a file system.

    MNT, an empty directory, then holds branches/NAME, tags/NAME and snapshots/ID: trees of Zarr keys, readable by
    any program. With --branch, --tag, --snapshot or --as-of it is that one tree. Branches can be written to; 'icefs
    commit' makes a snapshot of what was written. MNT itself cannot be removed, which xarray's and zarr's mode="w" try
    there: name a group in it, or use mode="a".
    """
    options = mount_options(
        repository,
        mountpoint,
        as_of=as_of,
        branch=branch,
        poll_interval=poll_interval,
        upload_after=upload_after,
        foreground=foreground,
        **others,
    ).resolved()
    if not foreground:
        pid = spawn(options)
        _warn_read_only(options)
        _announce(options, pid, _uncommitted(options), as_json=as_json)
        return

    def started() -> None:
        _warn_read_only(options)
        _announce(options, os.getpid(), [], as_json=as_json)

    code = run(options, started)
    click.get_current_context().exit(code)


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


def _uncommitted(options: MountOptions) -> list[str]:
    """Returns the branches for which an earlier mount left changes."""
    if not options.is_writable:
        return []
    try:
        answer = require_mount(options.mountpoint).ask("uncommitted")
    except (IcefsError, OSError) as error:
        say(f"icefs: warning: the state of an earlier mount cannot be read: {error}", err=True)
        return []
    for branch in answer["branches"]:
        if branch["error"] is not None:
            failure = raised(branch["error"])
            if options.branch is not None:
                # Nothing that was mounted could be used.
                subprocess.run(["fusermount3", "-u", "--", options.mountpoint], check=False, capture_output=True)
                raise failure
            hint = f"; {failure.hint}" if failure.hint else ""
            say(f"icefs: warning: branch {quoted(branch['name'])}: {failure.message}{hint}", err=True)
        for line in damage_texts(branch["damage"]):
            say(f"icefs: warning: branch {quoted(branch['name'])}: {line}", err=True)
    return [branch["name"] for branch in answer["branches"] if branch["has_changes"]]


def _warn_read_only(options: MountOptions) -> None:
    """Says at once, and not at the first commit, that there can be none."""
    place = parse_location(options.repository)
    reason = why_not_writable(place.root) if options.is_writable and place.scheme == "file" else None
    if reason is not None:
        say(
            f"icefs: warning: {quoted(place.root)} cannot be written to, so nothing can be committed: {reason}; changes"
            " are kept until it can, and --read-only refuses them",
            err=True,
        )


def _announce(options: MountOptions, pid: int, uncommitted: list[str], *, as_json: bool) -> None:
    repository = redact(options.repository)
    if as_json:
        facts = {"repository": repository, "mountpoint": options.mountpoint, "pid": pid, "log_file": options.log_file}
        print_json({**facts, "uncommitted": uncommitted})
    else:
        leave = command("umount", options.mountpoint)
        say(f"mounted {quoted(repository)} at {quoted(options.mountpoint)}; unmount it with '{leave}'")
        for name in uncommitted:
            inside = None if options.branch is not None else encode_ref(name)
            place = options.mountpoint if inside is None else f"{options.mountpoint}/branches/{inside}"
            look = command("status", place)
            say(f"branch {quoted(name)} has uncommitted changes of an earlier mount: '{look}' lists them")
    sys.stdout.flush()  # in the foreground, whoever started us waits for this line
