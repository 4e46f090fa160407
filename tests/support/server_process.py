"""Servers of tests: programs on free ports, killed when the test process ends, however it ends."""

import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

_START_TIMEOUT_S = 60.0

# Runs in the child: the kernel kills it when the thread that started it ends, also by a crash. (Not as preexec_fn,
# which is not safe with threads.)
DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone already")
os.execv(sys.argv[2], sys.argv[2:])
"""


def start_server(
    command: Sequence[str | os.PathLike[str]],
    *,
    directory: Path,
    log: Path,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a program that does not outlive the thread that starts it.

    Args:
        command: The program's absolute path, and its arguments.
        directory: Where it runs.
        log: Where its output goes.
        environment: Replaces this process's environment.
    """
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-c", DIE_WITH_PARENT, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=directory,
            env=environment,
        )


def answers(process: subprocess.Popen[bytes], url: str) -> bool:
    """Waits until a server answers HTTP; tells whether it does, for its port may be taken meanwhile."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a server."""
    process.kill()
    process.wait()


def free_ports(count: int) -> list[int]:
    """Finds ports below those that the kernel gives to outgoing connections."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(12_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports
