"""`icefs umount` where processes of another mount namespace still have the mount, as containers do."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icefs.daemon.mountinfo import mounted_at
from tests.mount.test_hostile_mounts import repo  # noqa: F401
from tests.support.mounting import mounted

# Holds the mount, and none of those of other tests, which would wait for this namespace to end.
_HOLD = """
sed -n 's|^[^ ]* \\(/[^ ]*\\) fuse.icefs .*|\\1|p' /proc/self/mounts | grep -vxF "$1" | xargs -r -n 1 umount -l
echo ready
exec sleep 100
"""
ICEFS = Path(sys.executable).with_name("icefs")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes mount namespaces")
def test_umount_says_at_once_who_has_the_mount_in_another_namespace(repo):  # noqa: F811
    with mounted(repo, branch="main") as mount:
        held = subprocess.Popen(["unshare", "-m", "sh", "-c", _HOLD, "sh", mount.path], stdout=subprocess.PIPE)
        try:
            assert held.stdout.readline() == b"ready\n"
            started = time.monotonic()
            done = subprocess.run([ICEFS, "umount", mount.path], capture_output=True, text=True, check=False)
            assert time.monotonic() - started < 20
            assert done.returncode == 4
            assert "in another mount namespace" in done.stderr
            assert f"sleep (pid {held.pid})" in done.stderr
            assert f"nsenter -t {held.pid} -m umount {mount.path}" in done.stderr
            assert mounted_at(str(mount.path)) is None
        finally:
            held.kill()
            held.wait()
            held.stdout.close()
        assert mount.wait() == 0


def test_umount_of_a_mount_that_nobody_else_has_waits_for_its_daemon(repo):  # noqa: F811
    with mounted(repo, branch="main") as mount:
        subprocess.run([ICEFS, "umount", mount.path], check=True, capture_output=True)
        assert mount.wait() == 0
