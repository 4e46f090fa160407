"""`icefs mount`: starts the daemon, and returns when the mount answers."""

import os
import subprocess
import sys
from datetime import datetime
from typing import Any

import click

from icefs.cli.support.mount_options import mount_options, mount_parameters
from icefs.cli.support.mounts import raised, require_mount
from icefs.cli.support.options import (
    json_option,
    print_json,
    say,
)
from icefs.daemon.apart import why_not_writable
from icefs.daemon.options import MountOptions
from icefs.daemon.spawn import run, spawn
from icefs.errors import IcefsError
from icefs.storage.url import parse_location, redact
from icefs.vfs.control.status_text import damage_texts
from icefs.vfs.names import encode_ref
from icefs.words import command, quoted


@click.command()
@click.argument("repository", metavar="REPO")
@click.argument("mountpoint", metavar="MNT")
@mount_parameters
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
            say(f"icefs: warning: branch {quoted(branch['name'])}: {failure.own_message}{hint}", err=True)
        for line in damage_texts(branch["damage"]):
            say(f"icefs: warning: branch {quoted(branch['name'])}: {line}", err=True)
    return [branch["name"] for branch in answer["branches"] if branch["has_changes"]]


def _warn_read_only(options: MountOptions) -> None:
    """Says at once, and not at the first commit, that there can be none."""
    location = parse_location(options.repository)
    reason = why_not_writable(location.root) if options.is_writable and location.scheme == "file" else None
    if reason is not None:
        say(
            f"icefs: warning: {quoted(location.root)} cannot be written to, so nothing can be committed: {reason};"
            " changes are kept until it can, and --read-only refuses them",
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
            tree = options.mountpoint if inside is None else f"{options.mountpoint}/branches/{inside}"
            look = command("status", tree)
            say(f"branch {quoted(name)} has uncommitted changes of an earlier mount: '{look}' lists them")
    sys.stdout.flush()  # in the foreground, the parent process waits for this line
