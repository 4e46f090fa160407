"""`icefs umount`: unmounts, and returns when the daemon has ended."""

import contextlib
import errno
import os
import select
import shlex
import shutil
import subprocess
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import click

from icefs.cli.support.leaving import Outcome, end_changes
from icefs.cli.support.mounts import CONTROL, DEAD, absolute, parse_object, require_trusted
from icefs.cli.support.options import json_option, print_json, say
from icefs.daemon.mountinfo import FILESYSTEM_TYPE, MountEntry, mount_table, mounted_at
from icefs.errors import (
    EntryNotFoundError,
    FormatError,
    InvalidInputError,
    SessionStateError,
    StaleError,
    UnsupportedError,
)
from icefs.words import command, quoted, some

_ASK_TIMEOUT_S = 5.0
# A daemon that nothing holds needs less to end.
_ENDING_S = 1.0


@click.command()
@click.argument("mountpoint", metavar="MNT")
@click.option("--lazy", is_flag=True, help="Detach now, even if busy; the daemon ends when the last file is closed.")
@click.option("--commit", "committing", is_flag=True, help="Commit all changes first; unmount only if that worked.")
@click.option("-m", "--message", multiple=True, help="The message of --commit.")
@click.option("--discard", "discarding", is_flag=True, help="Drop all uncommitted changes first.")
@click.option("--timeout", type=float, default=60.0, show_default=True, help="Seconds to wait for the daemon to end.")
@json_option
def umount(
    mountpoint: str,
    lazy: bool,
    committing: bool,
    message: tuple[str, ...],
    discarding: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Unmount, and wait for the daemon to end.

    Uncommitted changes are kept, and are there again when the repository is mounted at the same mountpoint; unless
    --commit or --discard says otherwise. A mount whose daemon has died ("transport endpoint is not connected") is
    cleared away.
    """
    if committing and discarding:
        raise click.UsageError("--commit and --discard exclude each other: give one of them")
    if bool(message) != committing:
        raise click.UsageError("--commit needs a message: -m MESSAGE" if committing else "-m goes with --commit")
    root = absolute(mountpoint)
    with contextlib.suppress(OSError):  # the mount table knows where a link leads to
        root = absolute(root.parent / root.readlink())
    entry = _require_icefs_mount(root)
    if committing or discarding:
        require_trusted(entry)
    daemon = _ask_daemon(root, is_trusted=entry.is_trusted)
    pid, is_dead, is_silent = daemon.pid, daemon.is_dead, daemon.is_silent
    outcome = Outcome()
    if daemon.info is not None:
        outcome = end_changes(root, daemon.info, "\n\n".join(message) if committing else None, discarding=discarding)
    elif committing or discarding:
        raise StaleError(
            f"the daemon of the mount does not answer, so nothing can be committed or discarded: {root}",
            hint=f"run '{command('umount', str(root))}' and mount again: the changes are kept",
        )
    with contextlib.ExitStack() as stack:
        pidfd = None
        if pid is not None and not lazy:
            # A descriptor, unlike a number, cannot come to mean another process while we wait. A pid from another
            # namespace is not there.
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(pid)
                stack.callback(os.close, pidfd)
        _leave(root)
        # What a silent daemon owes to us, too, keeps the mount busy.
        _unmount(root, lazy=lazy or is_dead or is_silent)
        if pidfd is not None and not _wait_for_end(pidfd, min(timeout, _ENDING_S)):
            _refuse_other_namespaces(root, entry.device)
        if pidfd is not None and not _wait_for_end(pidfd, timeout - _ENDING_S):
            raise SessionStateError(
                f"unmounted, but the daemon has not ended after {timeout:g} s: process {pid}",
                hint="wait for it, or look into its log file",
            )
    outcome.discard_broken(wanted=discarding)
    if as_json:
        facts = {"mountpoint": str(root), "pid": pid, "was_dead": is_dead, "lazy": lazy}
        told = {key: value for key, value in asdict(outcome).items() if key != "broken"}
        print_json({**facts, **told})
        return
    for line in outcome.lines():
        say(line)
    if is_dead:
        say(f"cleared away {quoted(str(root))}, whose daemon had died")
    elif lazy:
        say(f"detached {quoted(str(root))}; its daemon ends when the last file in it is closed")
    elif is_silent:
        say(f"unmounted {quoted(str(root))}; its daemon did not answer, and may still be there")
    else:
        say(f"unmounted {quoted(str(root))}")
    if outcome.come_back is not None:
        say(f"come back to them with: {outcome.come_back}")


def _require_icefs_mount(root: Path) -> MountEntry:
    entry = mounted_at(str(root))
    if entry is None:
        above = [Path(e.mountpoint) for e in mount_table() if e.filesystem_type == FILESYSTEM_TYPE]
        inside = next((parent for parent in root.parents if parent in above), None)
        raise EntryNotFoundError(
            f"not a mountpoint: {root}",
            hint=f"run '{command('umount', str(inside))}'" if inside else "'findmnt -t fuse.icefs' lists the mounts",
        )
    if entry.filesystem_type != FILESYSTEM_TYPE:
        raise InvalidInputError(f"not an icefs mount but {entry.filesystem_type}: {root}", hint="use umount(8)")
    return entry


class _Daemon(NamedTuple):
    """What is known of a daemon: its process, if it says so, and whether it is dead or does not answer."""

    info: dict[str, Any] | None = None
    pid: int | None = None
    is_dead: bool = False
    is_silent: bool = False


def _ask_daemon(root: Path, *, is_trusted: bool) -> _Daemon:
    answer: list[_Daemon] = []

    def ask() -> None:
        try:
            if not is_trusted:  # another user's: its own facts are not believed
                os.statvfs(root)
                answer.append(_Daemon())
                return
            info = parse_object(root / CONTROL / "info.json")
        except OSError as exc:
            answer.append(_Daemon(is_dead=exc.errno in DEAD))
        except FormatError:
            answer.append(_Daemon())
        else:
            pid = info.get("pid")
            answer.append(_Daemon(info, pid if isinstance(pid, int) else None))

    # A daemon that hangs would hang us too; a thread left behind does not keep the process from ending.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_ASK_TIMEOUT_S)
    return answer[0] if answer else _Daemon(is_silent=True)


def _leave(root: Path) -> None:
    """Steps out of the mount, which our own working directory would keep busy."""
    with contextlib.suppress(OSError):
        if Path(os.readlink("/proc/self/cwd")).is_relative_to(root):
            os.chdir("/")


def _unmount(root: Path, *, lazy: bool) -> None:
    tool = shutil.which("fusermount3")
    if tool is None:
        raise UnsupportedError("fusermount3 is not installed", hint="install it: apt install fuse3")
    done = subprocess.run(
        [tool, "-uz" if lazy else "-u", "--", str(root)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )
    if done.returncode == 0:
        return
    reason = done.stderr.strip()
    if "busy" in reason.lower():
        raise SessionStateError(
            f"the mount is busy: {root}, used by {_describe_holders(holders(root))}",
            hint="end or leave them and try again, or detach it with --lazy",
        )
    if "not permitted" in reason or "mtab" in reason:
        raise PermissionError(errno.EPERM, "only root and the user who mounted it may unmount", str(root))
    raise SessionStateError(
        f"fusermount3 cannot unmount: {root}: {reason}", hint=f"try '{command('umount --lazy', str(root))}'"
    )


def _wait_for_end(pidfd: int, timeout_s: float) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(max(0, timeout_s) * 1000))


def _refuse_other_namespaces(root: Path, device: str) -> None:
    """Says why the daemon cannot end, if the mount is still there for other processes.

    Raises:
        SessionStateError: processes in another mount namespace see it: in a container, or with a private /tmp.
    """
    found = other_namespaces(device)
    if not found:
        return
    pid, (_, seen_at) = next(iter(sorted(found.items())))
    there = f"nsenter -t {pid} -m umount {shlex.quote(seen_at)}"
    raise SessionStateError(
        f"unmounted here, but still mounted in another mount namespace (a container, or a private /tmp), so its daemon"
        f" goes on: {root}, seen by {_describe_holders({each: name for each, (name, _) in found.items()})}",
        hint=f"end them, or as root run '{there}'",
        pids=sorted(found),
    )


def other_namespaces(device: str) -> dict[int, tuple[str, str]]:
    """Finds the processes that see a mount in a mount namespace other than ours, one for each namespace.

    Args:
        device: The mount's device, as `major:minor`.

    Returns:
        Command names and mountpoints by pid; processes of other users are seen by root only.
    """
    known = {_namespace("self"), None}
    found: dict[int, tuple[str, str]] = {}
    for name in sorted((each for each in os.listdir("/proc") if each.isdecimal()), key=int):
        namespace = _namespace(name)
        if namespace in known:
            continue
        known.add(namespace)
        with contextlib.suppress(OSError):  # it ended just now
            table = mount_table(Path("/proc", name, "mountinfo"))
            mountpoint = next((entry.mountpoint for entry in table if entry.device == device), None)
            if mountpoint is not None:
                found[int(name)] = (Path("/proc", name, "comm").read_text().strip(), mountpoint)
    return found


def _namespace(process: str) -> str | None:
    try:
        return os.readlink(f"/proc/{process}/ns/mnt")
    except OSError:
        return None


def holders(root: Path) -> dict[int, str]:
    """Finds the processes that keep a mount busy: by working directory, root, open file or mapping.

    Returns:
        Command names by pid; processes of other users are seen by root only.
    """
    found: dict[int, str] = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        if _holds(process, str(root)):
            try:
                found[int(process.name)] = (process / "comm").read_text().strip()
            except OSError:  # it ended just now
                continue
    return found


def _holds(process: Path, root: str) -> bool:
    # One suppress for each: what may be read of another user's process differs from file to file.
    with contextlib.suppress(OSError):
        if any(_is_below(str((process / name).readlink()), root) for name in ("cwd", "root")):
            return True
    with contextlib.suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if _is_below(str(descriptor.readlink()), root):
                    return True
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in (process / "maps").read_text().splitlines():
            if _is_below("".join(line.split(maxsplit=5)[5:]), root):
                return True
    return False


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root + "/")


def _describe_holders(found: dict[int, str]) -> str:
    if not found:
        return "a process that you may not see"
    return some([f"{quoted(name)} (pid {pid})" for pid, name in sorted(found.items())], 5)
