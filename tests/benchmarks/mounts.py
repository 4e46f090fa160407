"""Mounts to measure: icefs through its command, and the do-nothing file system."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ICEFS = Path(sys.executable).with_name("icefs")


@contextlib.contextmanager
def icefs_mount(repository: Path | str, *options: str, state_dir: Path | None = None) -> Iterator[Path]:
    """Mounts branch `main` of a repository with `icefs mount`; the mount is fresh, so everything is cold.

    Args:
        repository: What to mount.
        options: More options of the command.
        state_dir: Where its working tree goes; None for a mount that only reads.
    """
    with tempfile.TemporaryDirectory(prefix="icefs-bench-") as scratch:
        mountpoint = Path(scratch) / "mnt"
        mountpoint.mkdir()
        how = ["--read-only"] if state_dir is None else ["--state-dir", state_dir]
        command = [ICEFS, "mount", repository, mountpoint, "--branch", "main", *how, *options]
        environment = os.environ | {"XDG_STATE_HOME": str(Path(scratch) / "state")}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        try:
            yield mountpoint
        finally:
            subprocess.run([ICEFS, "umount", mountpoint], check=True, stdout=subprocess.DEVNULL, env=environment)


@contextlib.contextmanager
def null_mount(dirs: int, files: int, content: int | Path) -> Iterator[Path]:
    """Mounts the do-nothing file system: `dirs` directories of `files` files, of zeros or with a real file's bytes."""
    with tempfile.TemporaryDirectory(prefix="icefs-bench-") as scratch:
        arguments = [scratch, str(dirs), str(files), str(content)]
        daemon = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.null_fs", *arguments], cwd=Path(__file__).parents[2]
        )
        try:
            deadline = time.monotonic() + 20
            while not os.path.ismount(scratch):
                if daemon.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("the do-nothing file system did not start")
                time.sleep(0.01)
            yield Path(scratch)
        finally:
            subprocess.run(["fusermount3", "-u", scratch], check=True)
            daemon.wait(timeout=20)


def daemon_rss_bytes(mountpoint: Path) -> int:
    """Returns the resident memory of the daemon behind a mount."""
    pid = json.loads((mountpoint / ".icefs/info.json").read_text())["pid"]
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"no VmRSS for {pid}")
