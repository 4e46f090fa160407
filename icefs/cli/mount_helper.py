"""`mount.icefs` and `umount.icefs`: what mount(8) and umount(8) call for `-t icefs`, fstab and systemd's mount units.

    mount.icefs REPO MNT [-sfnv] [-o OPTIONS] [-t TYPE]
    umount.icefs MNT [-flnrv] [-t TYPE]

With `-o remount,ro` (or `rw`) the first one has the kernel remount what is at MNT. Else they are `icefs mount` and
`icefs umount` with mount(8)'s exit codes; the latter returns when the daemon has ended, so that what comes after it can
be sure of the state directory.
"""

import getopt
import os
import sys
from collections.abc import Callable
from typing import Final

import click

from icefs.cli.main import describe
from icefs.cli.main import main as icefs
from icefs.cli.support.exit_codes import USAGE
from icefs.cli.support.options import say
from icefs.cli.support.remount import is_remount, remount
from icefs.errors import IcefsError

type _Make = Callable[[list[str], dict[str, str], list[str]], list[str] | None]

_WRONG_CALL: Final = 1
_FAILED: Final = 32


def mount(args: list[str] | None = None) -> int:
    """Is the program `mount.icefs`."""
    return _run("mount.icefs REPO MNT [-sfnv] [-o OPTIONS]", 2, args, _mount_command)


def umount(args: list[str] | None = None) -> int:
    """Is the program `umount.icefs`."""
    return _run("umount.icefs MNT [-flnrv]", 1, args, _umount_command)


def _run(usage: str, count: int, args: list[str] | None, make: _Make) -> int:
    try:
        flags, operands = getopt.gnu_getopt(sys.argv[1:] if args is None else args, "sfnvrlN:o:t:")
    except getopt.GetoptError as error:
        say(f"icefs: {error.msg}; usage: {usage}", err=True)
        return _WRONG_CALL
    given = dict(flags)
    if len(operands) != count or "-N" in given:
        click.echo(f"icefs: usage: {usage}; namespaces (-N) are entered with nsenter(1)", err=True)
        return _WRONG_CALL
    options = [value for flag, value in flags if flag == "-o"]
    command = make(operands, given, options)
    if command is None:
        return 0
    # mount(8) calls its helpers with a bare environment, in which fusermount3 must be found.
    os.environ.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    code = _remount(operands[-1], options) if is_remount(options) else icefs(command)
    return 0 if code == 0 else _WRONG_CALL if code == USAGE else _FAILED


def _remount(mountpoint: str, options: list[str]) -> int:
    try:
        remount(mountpoint, options)
    except (IcefsError, OSError) as error:
        code, line = describe(error)
        say(f"icefs: {line}", err=True)
        return code
    return 0


def _mount_command(operands: list[str], flags: dict[str, str], options: list[str]) -> list[str] | None:
    if "-f" in flags:
        return None  # a rehearsal
    command = ["mount", *(part for text in options for part in ("-o", text)), "--", *operands]
    if "-r" in flags:
        command.insert(1, "--read-only")
    return command


def _umount_command(operands: list[str], flags: dict[str, str], options: list[str]) -> list[str] | None:
    # Forced or lazy: a mount that hangs, or is busy, is detached.
    return ["umount", *(["--lazy"] if "-l" in flags or "-f" in flags else []), "--", *operands]
