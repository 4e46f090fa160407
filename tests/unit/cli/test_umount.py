"""What `icefs umount` makes of fusermount3's answers; the real ones are in tests/mount."""

import json
import subprocess

import pytest

from icefs.cli.commands import umount
from icefs.cli.support.exit_codes import FAILED, FORBIDDEN, STATE
from tests.support.fake_mounts import entry


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory that the mount table calls an icefs mount, whose daemon has just ended."""
    place = tmp_path / "mnt"
    (place / ".icefs").mkdir(parents=True)
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    (place / ".icefs/info.json").write_text(json.dumps({"pid": ended.pid}))
    monkeypatch.setattr(umount, "mounted_at", entry)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return place


@pytest.fixture
def fusermount3(tmp_path):
    """Puts a fusermount3 into PATH that notes its arguments, says something and ends with an exit code."""

    def install(says="", code=0):
        (tmp_path / "bin").mkdir()
        tool = tmp_path / "bin/fusermount3"
        tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\necho "{says}" >&2\nexit {code}\n')
        tool.chmod(0o755)

    return install


def test_a_mount_that_goes_away(place, fusermount3, run, tmp_path):
    fusermount3()
    assert run("umount", place) == f"unmounted {place}\n"
    assert (tmp_path / "arguments").read_text() == f"-u -- {place}\n"


def test_lazy(place, fusermount3, run_json, tmp_path):
    fusermount3()
    assert run_json("umount", "--lazy", place)["lazy"] is True
    assert (tmp_path / "arguments").read_text() == f"-uz -- {place}\n"


@pytest.mark.parametrize(
    ("says", "code", "line"),
    [
        ("fusermount3: failed to unmount /x: Device or resource busy", STATE, "the mount is busy: "),
        ("fusermount3: entry for /x not found in /etc/mtab", FORBIDDEN, "only root and the user who mounted it "),
        ("fusermount3: failed to unmount /x: Operation not permitted", FORBIDDEN, "only root and the user who "),
        ("fusermount3: something else", STATE, "fusermount3 cannot unmount: "),
    ],
)
def test_a_mount_that_stays(place, fusermount3, fail, says, code, line):
    fusermount3(says, 1)
    assert fail(code, "umount", place).startswith(line)


def test_a_busy_mount_of_others(place, fusermount3, fail):
    fusermount3("Device or resource busy", 1)
    assert ", used by a process that you may not see; " in fail(STATE, "umount", place)


def test_fusermount3_is_missing(place, fail):
    assert fail(FAILED, "umount", place) == "fusermount3 is not installed; install it: apt install fuse3"


def test_many_holders_are_not_all_named():
    text = umount._describe_holders({pid: f"p{pid}" for pid in range(7)})
    assert text == "p0 (pid 0), p1 (pid 1), p2 (pid 2), p3 (pid 3), p4 (pid 4) and 2 more"
