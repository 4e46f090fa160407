"""What a mount needs lies apart from it, and a repository that cannot be written to is named at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from icefs.daemon.mountinfo import mounted_at
from tests.mount.test_hostile_mounts import repo  # noqa: F401

ICEFS = Path(sys.executable).with_name("icefs")


def icefs(*arguments):
    return subprocess.run(
        [ICEFS, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.mark.parametrize("foreground", [False, True])
@pytest.mark.parametrize("through", ["", "link"])
@pytest.mark.parametrize("where", ["mnt", "repo"])
@pytest.mark.parametrize("option", ["--state-dir", "--cache-dir", "--log-file", "--allow-virtual"])
def test_nothing_that_a_mount_needs_lies_below_it_or_in_the_repository(
    repo,  # noqa: F811
    tmp_path,
    option,
    where,
    through,
    foreground,
):
    if (option, where) == ("--allow-virtual", "repo"):
        return  # which reads from there, and makes nothing
    place = tmp_path / "mnt"
    place.mkdir()
    before = sorted(path.name for path in repo.iterdir())
    inside = tmp_path / where / "own"
    if through:
        (tmp_path / "link").symlink_to(where)
        inside = tmp_path / "link" / "own"
    value = f"file://{inside}/" if option == "--allow-virtual" else inside
    arguments = ["mount", repo, place, "--branch", "main", option, value, *(["-f"] if foreground else [])]
    done = icefs(*arguments)
    assert done.returncode == 2
    what = "lies below the mountpoint" if where == "mnt" else "lies in the repository"
    assert done.stderr.startswith(f"icefs: {option} {what}: ")
    assert f"/own; choose a place outside of {tmp_path / where}" in done.stderr
    assert mounted_at(str(place)) is None
    assert list(place.iterdir()) == []
    assert sorted(path.name for path in repo.iterdir()) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system for reading")
def test_a_repository_that_cannot_be_written_to_is_named_at_the_mount(repo, tmp_path):  # noqa: F811
    for name in ("ro", "mnt"):
        (tmp_path / name).mkdir()
    script = f"""
        mount --bind {repo} {tmp_path}/ro && mount -o remount,bind,ro {tmp_path}/ro || exit 9
        {ICEFS} mount {tmp_path}/ro {tmp_path}/mnt --branch main || exit 8
        {ICEFS} umount {tmp_path}/mnt || exit 7
        {ICEFS} mount {tmp_path}/ro {tmp_path}/mnt --branch main --read-only || exit 6
        {ICEFS} umount {tmp_path}/mnt
    """
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "slave", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert "cannot be written to, so nothing can be committed: Read-only file system" in done.stderr


def test_a_repository_that_is_missing_is_not_said_to_be_unwritable(tmp_path):
    (tmp_path / "mnt").mkdir()
    done = icefs("mount", str(tmp_path / "none"), str(tmp_path / "mnt"), "--branch", "main", "--foreground")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"icefs: no Icechunk repository at {tmp_path}/none")
