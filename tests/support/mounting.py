"""Real mounts: the daemon in a process of its own, and every mount taken down again, with exit code 0."""

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from icefs.cli.support.conversation import Conversation
from icefs.daemon.mountinfo import FILESYSTEM_TYPE, mount_table, mounted_at
from icefs.daemon.options import MountOptions
from icefs.daemon.spawn import spawn
from tests.support.ci import require

PREFIX = "icefs-test-"
DEADLINE_S = 30.0

_LEVELS = ("WARNING", "ERROR", "CRITICAL", "Traceback")


def require_fuse() -> None:
    """Skips the test where there is no FUSE; fails it in CI."""
    require(Path("/dev/fuse").exists() and shutil.which("fusermount3") is not None, "FUSE (/dev/fuse and fusermount3)")


def sweep_stale_mounts() -> None:
    """Takes down mounts that tests left behind whose daemons are dead or whose test processes are."""
    for entry in mount_table():
        place = Path(entry.mountpoint)
        if entry.filesystem_type == FILESYSTEM_TYPE and any(part.startswith(PREFIX) for part in place.parts):
            owner = next(part for part in place.parts if part.startswith(PREFIX)).removeprefix(PREFIX).partition("-")[0]
            if not Path("/proc", owner).exists():
                subprocess.run(["fusermount3", "-uz", place], check=False, capture_output=True)


def scratch_directory() -> tempfile.TemporaryDirectory[str]:
    """Makes a directory whose name tells which test process it belongs to."""
    return tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", ignore_cleanup_errors=True)


def wait_until(condition: Any, what: str, deadline_s: float = DEADLINE_S) -> None:
    """Waits for something that has no descriptor to wait for."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"did not happen: {what}"
        time.sleep(0.005)


def unmount(path: str | os.PathLike[str]) -> None:
    """Unmounts from outside, as `umount` does, when no program is in the mount any more.

    A program that looks through /proc for open files, as lsof and 'icefs doctor' do, is in each mount for a moment.
    """

    def is_done() -> bool:
        done = subprocess.run(["fusermount3", "-u", path], check=False, capture_output=True, text=True)
        assert done.returncode == 0 or "busy" in done.stderr, done.stderr
        return done.returncode == 0

    wait_until(is_done, f"{os.fspath(path)} can be unmounted")


class Mount:
    """A mounted file system and the daemon behind it, which is a child of this process.

    Attributes:
        path: The mountpoint.
        pid: The daemon.
        log: Its log file.
    """

    def __init__(self, path: Path, pid: int, log: Path) -> None:
        self.path = path
        self.pid = pid
        self.log = log
        self.exit_code: int | None = None

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def control(self, name: str, tree: str = "") -> Any:
        """Reads a JSON control file of a tree, or of the mount's root."""
        return json.loads((self.path / tree / ".icefs" / name).read_text())

    def rpc(self, request: Mapping[str, Any], tree: str = "") -> list[dict[str, Any]]:
        """Has a conversation with a tree, or with the mount's root."""
        with Conversation(self.path / tree / ".icefs" / "rpc") as conversation:
            return [json.loads(line) for line in conversation.ask(json.dumps(request).encode())]

    def refresh(self, tree: str = "") -> dict[str, Any]:
        """Lets the mount look for new commits, and returns when the kernel has dropped what changed."""
        [result] = self.rpc({"op": "refresh"}, tree)
        assert result["type"] == "result", result
        return result

    def requests(self) -> dict[str, int]:
        """Returns how many requests of each kind the daemon has answered."""
        return {name: told["count"] for name, told in self.control("stats.json")["operations"].items()}

    def is_alive(self) -> bool:
        """Tells whether the daemon runs."""
        return self.exit_code is None and os.waitpid(self.pid, os.WNOHANG) == (0, 0)

    def wait(self) -> int:
        """Waits for the daemon's end and returns its exit code, negative for a signal."""
        if self.exit_code is None:
            deadline = time.monotonic() + DEADLINE_S
            while (found := os.waitpid(self.pid, os.WNOHANG)) == (0, 0):
                if time.monotonic() > deadline:
                    os.kill(self.pid, signal.SIGUSR1)  # writes the stacks into the log
                    time.sleep(0.2)
                    raise AssertionError(f"the daemon does not end:\n{self.log.read_text()}")
                time.sleep(0.005)
            self.exit_code = os.waitstatus_to_exitcode(found[1])
        return self.exit_code

    def unmount(self) -> int:
        """Unmounts from outside, as `umount` does, and returns the daemon's exit code."""
        unmount(self.path)
        return self.wait()

    def complaints(self) -> list[str]:
        """Returns what the daemon logged that is not routine."""
        return [line for line in self.log.read_text().splitlines() if any(level in line for level in _LEVELS)]


@contextlib.contextmanager
def mounted(repository: str | os.PathLike[str], *, may_complain: bool = False, **options: Any) -> Iterator[Mount]:
    """Mounts a repository, and unmounts it again.

    Args:
        repository: What to mount.
        may_complain: Whether the test lets the daemon log warnings; otherwise one fails the test.
        options: Of `MountOptions`; polling is off unless it is asked for.
    """
    require_fuse()
    with scratch_directory() as scratch:
        place, log = Path(scratch, "mnt"), Path(scratch, "log")
        place.mkdir()
        chosen = {"poll_interval_s": 0.0, "log_file": str(log), "state_dir": str(Path(scratch, "trees")), **options}
        pid = spawn(MountOptions(repository=os.fspath(repository), mountpoint=str(place), **chosen))
        mount = Mount(place, pid, log)
        assert os.path.ismount(place)
        try:
            yield mount
        except BaseException:
            logging.getLogger(__name__).error("the daemon's log:\n%s", log.read_text())
            raise
        finally:
            _take_down(mount)
        assert mount.exit_code == 0 or mount.exit_code is None, f"exit code {mount.exit_code}:\n{log.read_text()}"
        assert may_complain or not mount.complaints(), log.read_text()


def _take_down(mount: Mount) -> None:
    if mount.exit_code is None and mount.is_alive():
        try:
            unmount(mount.path)
        except AssertionError:
            subprocess.run(["fusermount3", "-uz", mount.path], check=False)
            os.kill(mount.pid, signal.SIGTERM)
            mount.wait()
            raise
        mount.wait()
    if mounted_at(str(mount.path)) is not None:
        subprocess.run(["fusermount3", "-uz", mount.path], check=True)


def run_daemon(program: str, options: MountOptions, log: Path) -> "subprocess.Popen[bytes]":
    """Starts a daemon that a Python program changes before it runs; it reports to its stdout when it is ready."""
    source = f"""
import os, sys
from icefs.daemon.spawn import run
from icefs.daemon.options import MountOptions
{program}
code = run(MountOptions.from_json(sys.argv[1]), lambda: os.write(1, b"ready\\n"))
os._exit(code)
"""
    with log.open("wb") as file:
        daemon = subprocess.Popen(
            [sys.executable, "-c", source, options.to_json()],
            stdout=subprocess.PIPE,
            stderr=file,
            cwd=Path(__file__).parents[2],
        )
    assert daemon.stdout is not None
    assert daemon.stdout.readline() == b"ready\n", log.read_text()
    daemon.stdout.close()
    return daemon
