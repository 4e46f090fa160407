"""A real systemd, booted in namespaces of its own: as process 1, on a root of its own.

    with Machine(directory) as machine:
        machine.prepare("icefs install-units")   before it boots
        machine.boot()
        machine.run("systemctl start icefs@demo")

It shares its programs with the machine around it, read-only, and one directory. When it is over the first process is
killed, which takes all others, and every mount, with it.
"""

import contextlib
import functools
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.ci import require

PROJECT = Path(__file__).parents[2]
# So long as that only what hangs meets it, however busy the machine around is.
BOOT_DEADLINE_S = 120.0

_NAMESPACES = ("--mount", "--pid", "--cgroup", "--uts", "--ipc", "--net")


def require_systemd() -> None:
    """Skips the test where no systemd can be booted; fails it in CI if something is not installed."""
    require(os.geteuid() == 0, "root, to boot a systemd in namespaces of its own")
    require(Path("/lib/systemd/systemd").exists(), "systemd (the Debian package)")
    above = _cgroup_root()
    if above is None or not os.access(above, os.W_OK):
        # Not even CI can install that: it is how the machine, or the container, was started.
        pytest.skip("systemd needs a cgroup2 that can be written to")
    tried = subprocess.run(["unshare", *_NAMESPACES, "--fork", "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"systemd needs namespaces of its own: {tried.stderr.strip()}")


@functools.cache
def has_autofs() -> bool:
    """Tells whether the kernel has what automounts of systemd need; where it has not, their units fail at boot."""
    if shutil.which("modprobe") is not None:
        subprocess.run(["modprobe", "-q", "autofs4"], capture_output=True, check=False)
    return any(line.split()[-1] == "autofs" for line in Path("/proc/filesystems").read_text().splitlines())


def require_autofs() -> None:
    """Skips the test on a kernel that was built without autofs, which not even CI can install."""
    if not has_autofs():
        pytest.skip("the kernel has no autofs")


def _cgroup_root() -> Path | None:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return Path(before.split()[4])
    return None


class Machine:
    """A machine that systemd runs.

    Attributes:
        shared: A directory that is the same inside and outside.
    """

    def __init__(self, directory: Path) -> None:
        self.shared = directory / "shared"
        self._root = directory / "root"
        self._log = directory / "boot.log"
        self._script = "set -eux\n"
        self._process: subprocess.Popen[bytes] | None = None
        self._cgroup: Path | None = None
        self._init = 0

    def __enter__(self) -> Self:
        self.shared.mkdir()
        self._root.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.power_off()

    def prepare(self, script: str) -> None:
        """Has a script run in the machine's root before systemd starts."""
        self._script += f"{script}\n"

    def boot(self) -> None:
        """Boots; returns when systemd has started everything."""
        (self.shared / "prepare").write_text(self._script)
        above = _cgroup_root()
        assert above is not None
        self._cgroup = above / f"icefs-test-{os.getpid()}"
        self._cgroup.mkdir()
        python = Path(sys.base_prefix).resolve()
        shown = [place for place in (PROJECT, python) if not place.is_relative_to("/usr")]
        boot = ["bash", PROJECT / "tests/support/systemd_boot.sh", self._root, self.shared, *shown]
        # The cgroup namespace begins at the group that the process is in when it is made.
        die = ["setpriv", "--pdeathsig=KILL"]  # with the process that started the machine
        enter = 'echo $$ >"$0/cgroup.procs"; exec "$@"'
        command = [
            "bash",
            "-c",
            enter,
            self._cgroup,
            *die,
            "unshare",
            *_NAMESPACES,
            "--fork",
            "--kill-child=KILL",
            *boot,
        ]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + BOOT_DEADLINE_S
        while not self._is_up():
            assert self._process.poll() is None, f"it does not boot:\n{self._log.read_text()}"
            assert time.monotonic() < deadline, f"it does not come up:\n{self._log.read_text()}"
            time.sleep(0.05)

    def _is_up(self) -> bool:
        assert self._process is not None
        if not self._init:
            children = [pid for pid in _children(self._process.pid) if _name(pid) == "systemd"]
            if not children:
                return False
            self._init = children[0]
        state = self.run("systemctl is-system-running", check=False).strip()
        return state in ("running", "degraded")

    def run(self, command: str, *, check: bool = True, deadline_s: float = 120.0) -> str:
        """Runs a shell command in the machine; returns what it printed, on either stream."""
        path = f"PATH=/usr/local/bin:/usr/sbin:/usr/bin:{PROJECT}/.venv/bin"
        done = subprocess.run(
            [
                *("nsenter", f"--target={self._init}", *_NAMESPACES, "--"),
                *("env", "-i", path, "HOME=/root", "LC_ALL=C.UTF-8"),
                *("sh", "-c", f"cd / && {{ {command}\n}}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=deadline_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"exit code {done.returncode}: {command}\n{done.stdout}\n{self.journal()}")
        return done.stdout

    def succeeds(self, command: str) -> bool:
        """Tells whether a shell command in the machine exits with 0."""
        return self.run(f"({command}) >/dev/null 2>&1 && echo yes", check=False).strip() == "yes"

    def show(self, unit: str, name: str) -> str:
        """Returns a property of a unit."""
        return self.run(f"systemctl show --property={name} --value '{unit}'").strip()

    def journal(self, unit: str | None = None) -> str:
        """Returns the journal's last lines."""
        only = "" if unit is None else f"--unit='{unit}'"
        return self.run(f"journalctl --no-pager --output=short-precise --lines=80 {only}", check=False)

    def entries(self, unit: str, *matches: str) -> list[dict[str, str]]:
        """Returns all entries of a unit in the journal that match, as `FIELD=value` or an option of journalctl's."""
        command = ["journalctl", "--no-pager", "--output=json", "--all", f"--unit={unit}", *matches]
        told = self.run(shlex.join(command))
        return [json.loads(line) for line in told.splitlines() if line.startswith("{")]

    def power_off(self) -> None:
        """Kills everything in the machine, and takes away what is left of it."""
        if self._process is not None:
            self._process.kill()  # the kernel kills its child, and with it the whole PID namespace
            self._process.wait()
            self._process = None
        if self._cgroup is not None:
            _remove_cgroup(self._cgroup)
            self._cgroup = None
        shutil.rmtree(self._root, ignore_errors=True)


def _children(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name in parentheses may hold anything; the state and the parent stand behind it.
            if int(status.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(status.parent.name))
    return found


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _remove_cgroup(group: Path) -> None:
    """Removes a cgroup and those below it, once the last of their processes is reaped."""
    deadline = time.monotonic() + 10
    for directory in sorted((Path(place) for place, _, _ in os.walk(group)), reverse=True):
        while True:
            try:
                directory.rmdir()
                break
            except FileNotFoundError:
                break
            except OSError:
                assert time.monotonic() < deadline, f"processes are left in {directory}"
                time.sleep(0.02)
