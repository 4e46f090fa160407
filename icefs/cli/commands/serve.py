"""`icefs serve`: the mount that a configuration file describes, in the foreground; what the systemd units run."""

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from icefs.cli.support.mounts import find_mount
from icefs.cli.support.options import json_option, print_json, say
from icefs.cli.support.service_config import find_config, load_config
from icefs.daemon.mountpoints import FUSE_DEVICE, clear_dead_mounts
from icefs.daemon.spawn import run
from icefs.errors import EntryNotFoundError, InvalidInputError, SessionStateError, StaleError
from icefs.storage.url import redact
from icefs.words import quoted, shell_word

logger = logging.getLogger(__name__)

_RELOAD_DEADLINE_S: Final = 30.0
_POLL_S: Final = 0.05


@click.command()
@click.argument("config", metavar="NAME|FILE")
@click.option("--reload", "reloading", is_flag=True, help="Let the service that runs read the file again.")
@click.option("--after-stop", is_flag=True, hidden=True, help="Clear away what a daemon left that had to be killed.")
@json_option
def serve(config: str, reloading: bool, after_stop: bool, as_json: bool) -> None:
    """Serve the mount of a configuration file, as a service.

    NAME is that of ~/.config/icefs/NAME.toml or /etc/icefs/NAME.toml. The keys are the long options of 'icefs
    mount', repository and mountpoint:

    \b
    repository = "s3://bucket/era5?region=eu-west-1"
    mountpoint = "/mnt/era5"
    branch = "main"
    cache-size = "50G"

    It stays in the foreground. A mountpoint that is missing is made; one whose daemon has died is cleared first.
    Under systemd it says when the mount answers, how it is, and that it lives. SIGHUP, or --reload, takes over
    another log level, cache size or poll interval.
    """  # noqa: D301  (click reads the backspace)
    if after_stop and os.environ.get("SERVICE_RESULT") != "timeout":
        return  # ended by itself; or crashed, and the dead mount stays until it is mounted again: see the unit
    try:
        path = find_config(config)
    except EntryNotFoundError as error:
        # As with a wrong file, the exit code tells systemd not to start it again.
        raise InvalidInputError(error.own_message, hint=error.hint) from error
    options = load_config(path)
    if reloading:
        _reload(Path(options.mountpoint), as_json=as_json)
        return
    if after_stop:
        if clear_dead_mounts(options.mountpoint):
            say(f"cleared away {quoted(options.mountpoint)}, whose daemon had to be killed")
        return
    _make_mountpoint(options.mountpoint)

    def ready() -> None:
        repository = redact(options.repository)
        if as_json:
            print_json({"repository": repository, "mountpoint": options.mountpoint, "pid": os.getpid()})
        else:
            say(f"mounted {quoted(repository)} at {quoted(options.mountpoint)}")
        sys.stdout.flush()  # the parent process may wait for this line

    code = run(options, ready, lambda: load_config(path))
    click.get_current_context().exit(code)


def _make_mountpoint(mountpoint: str) -> None:
    try:
        os.makedirs(mountpoint, exist_ok=True)
    except FileExistsError:
        return  # not a directory, or a mount whose daemon has died: the mount sees to it
    except OSError as error:
        raise InvalidInputError(
            f"the mountpoint cannot be made: {mountpoint}: {error.strerror}",
            hint=f"run 'mkdir -p -- {shell_word(mountpoint)}'",
        ) from error


def _reload(mountpoint: Path, *, as_json: bool) -> None:
    """Asks the daemon to read its configuration again, and waits until it did.

    Raises:
        StaleError: there is no daemon.
        SessionStateError: it does not reload, or could not.
    """
    before = _service(mountpoint)
    if not before["can_reload"]:
        raise SessionStateError(
            f"this mount is no service, and has no configuration to reload: {mountpoint}",
            hint="unmount it, and start the service",
        )
    with _daemon(mountpoint, before["pid"]) as daemon:
        signal.pidfd_send_signal(daemon, signal.SIGHUP)
    deadline = time.monotonic() + _RELOAD_DEADLINE_S
    while (after := _service(mountpoint))["reloads"] == before["reloads"]:
        if time.monotonic() > deadline:
            raise SessionStateError(
                f"the service has not reloaded after {_RELOAD_DEADLINE_S:g} s: process {before['pid']}",
                hint="look into its log",
            )
        time.sleep(_POLL_S)
    if after["problem"] is not None:
        raise SessionStateError(f"not reloaded: {after['problem']}", hint="correct the file and reload again")
    waiting, idle = after["needs_restart"], after.get("no_effect", [])
    if as_json:
        print_json({"mountpoint": str(mountpoint), "pid": after["pid"], "needs_restart": waiting, "no_effect": idle})
        return
    text = "reloaded"
    if waiting:
        these = "this change waits" if len(waiting) == 1 else "these changes wait"
        text += f"; {these} for a restart: {', '.join(waiting)}"
    if idle:
        text += f"; {', '.join(idle)} has no effect: a local repository has no cache"
    click.echo(text)


def _service(mountpoint: Path) -> dict[str, Any]:
    """Asks the mount of root or of this user that the kernel has at a mountpoint; raises if there is none."""
    mounted = find_mount(mountpoint) if os.path.lexists(mountpoint) else None
    if mounted is None or mounted.root != mountpoint.resolve():
        raise StaleError(f"nothing is mounted at {mountpoint}", hint="start the service")
    return {"pid": mounted.info["pid"], **mounted.info.get("service", {"can_reload": False})}


@contextlib.contextmanager
def _daemon(mountpoint: Path, pid: int) -> Iterator[int]:
    """Opens the process that a mount says is its daemon, once it is sure that it is.

    The descriptor means one process for ever. The mount names the process again after it was opened, so the daemon
    lives and has that number, where it is. That this is here, and no other process with the same number in another
    container, shows in the FUSE device that the process has open; and systemd knows it too.

    Raises:
        StaleError: it has ended, or it is a process that does not serve the mount.
    """
    not_it = StaleError(
        f"process {pid} is not the daemon of {mountpoint}",
        hint="reload it where it runs: 'systemctl reload', in its container",
    )
    main_pid = os.environ.get("MAINPID")
    try:
        descriptor = os.pidfd_open(pid)
    except (OSError, OverflowError) as error:
        raise not_it from error
    try:
        if (main_pid or str(pid)) != str(pid) or _service(mountpoint)["pid"] != pid or not _serves_fuse(pid):
            raise not_it
        yield descriptor
    finally:
        os.close(descriptor)


def _serves_fuse(pid: int) -> bool:
    """Tells whether a process has the FUSE device open."""
    directory = f"/proc/{pid}/fd"
    try:
        names = os.listdir(directory)
    except OSError:
        return False
    for name in names:
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.readlink(f"{directory}/{name}") == str(FUSE_DEVICE):
                return True
    return False
