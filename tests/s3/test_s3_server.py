"""The server of the tests never outlives them."""

import os
import signal
import subprocess
import sys
import time

from tests.support.server_process import DIE_WITH_PARENT

PARENT = f"""
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {DIE_WITH_PARENT!r}, str(os.getpid()), "/bin/sleep", "100"])
print(child.pid, flush=True)
sys.stdin.readline()
"""


def test_the_server_dies_with_a_killed_parent():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    deadline = time.monotonic() + 20
    while "sleep" not in _command(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "sleep" in _command(pid)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    while "sleep" in _command(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "sleep" not in _command(pid)


def _command(pid):
    """Returns the command line of a process; empty once it is gone, or a zombie that nobody waits for."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return os.fsdecode(file.read())
    except FileNotFoundError:
        return ""
