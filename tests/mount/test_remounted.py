"""`mount -o remount,ro` on a live mount: nothing more is written, nothing is lost, and `remount,rw` brings it back."""

import errno
import mmap
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import icechunk
import pytest

from icefs.cli import mount_helper
from icefs.cli.main import main
from tests.conformance.official import GROUP, array_json, commit, create
from tests.support.ci import require
from tests.support.mounting import Mount, mounted

KEYS = {"zarr.json": GROUP, "a/zarr.json": array_json((4,), (1,)), "a/c/0": b"0", "a/c/1": b"1"}
# What mount(8) hands on from the kernel's table.
REPEATED = "nosuid,nodev,relatime,user_id=0,group_id=0,default_permissions"


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    require(os.geteuid() == 0, "root, who may remount")
    commit(create(tmp_path / "repo", 2), "made", KEYS)
    with mounted(tmp_path / "repo", branch="main") as found:
        yield found


def remount(mount: Mount, options: str) -> int:
    return mount_helper.mount(["repo", str(mount.path), "-o", options])


def is_read_only(mount: Mount) -> bool:
    return bool(os.statvfs(mount.path).f_flag & os.ST_RDONLY)


WRITES: dict[str, Callable[[Path], object]] = {
    "write": lambda root: (root / "a/c/0").write_bytes(b"9"),
    "truncate": lambda root: os.truncate(root / "a/c/0", 0),
    "create": lambda root: (root / "new").touch(),
    "unlink": lambda root: (root / "a/c/1").unlink(),
    "mkdir": lambda root: (root / "d").mkdir(),
    "rename": lambda root: os.rename(root / "a", root / "b"),
    "link": lambda root: os.link(root / "a/c/0", root / "a/c/3"),
    "chmod": lambda root: os.chmod(root / "a/c/0", 0o600),
    "utime": lambda root: os.utime(root / "a/c/0"),
    "xattr": lambda root: os.setxattr(root / "a/c/0", "user.x", b"1"),
}


@pytest.mark.parametrize("options", ["remount,ro", f"rw,remount,{REPEATED},ro"])
def test_nothing_is_written_and_what_is_staged_can_be_committed(
    mount: Mount, options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = mount.path
    (root / "a/c/0").write_bytes(b"5")
    with (root / "a/c/2").open("w+b") as file:
        file.write(b"-")
        file.flush()
        with mmap.mmap(file.fileno(), 1) as page:
            page[0] = ord("7")  # which nobody has written back yet
    assert remount(mount, options) == 0
    assert is_read_only(mount)
    for write in WRITES.values():
        with pytest.raises(OSError) as caught:
            write(root)
        assert caught.value.errno == errno.EROFS
    assert [(root / "a/c" / name).read_bytes() for name in "012"] == [b"5", b"1", b"7"]
    for line in ("status", "diff", "info", "refresh", "log", "commit -m staged", "log-level info"):
        command, *rest = line.split()
        assert main([command, str(root), *rest]) == 0
    capsys.readouterr()
    commit(mount_repo(mount), "theirs", {"a/c/3": b"3"})
    mount.refresh()
    assert [(root / "a/c" / name).read_bytes() for name in "0123"] == [b"5", b"1", b"7", b"3"]
    assert remount(mount, "remount,rw") == 0
    assert not is_read_only(mount)
    (root / "a/c/1").write_bytes(b"8")
    assert main(["commit", str(root), "-m", "more"]) == 0
    assert (root / "a/c/1").read_bytes() == b"8"


def mount_repo(mount: Mount) -> icechunk.Repository:
    return icechunk.Repository.open(icechunk.local_filesystem_storage(mount.control("info.json")["repository"]))


def test_a_file_that_is_open_for_writing_keeps_it_writable(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    with (mount / "a/c/0").open("wb") as file:
        assert remount(mount, "remount,ro") == 32
        told = capsys.readouterr().err
        assert "is busy" in told or "busy" in told
        assert "fuser -vm" in told
        file.write(b"6")
    assert not is_read_only(mount)
    assert (mount / "a/c/0").read_bytes() == b"6"
    assert remount(mount, "remount,ro") == 0


def test_changes_outlive_the_end_of_a_mount_that_was_remounted(
    mount: Mount, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """umount(8) and `icefs umount` keep them; the next mount at the place has them, and is writable."""
    (mount / "a/c/0").write_bytes(b"5")
    subprocess.run(["mount", "-i", "-o", "remount,ro", mount.path], check=True)
    assert main(["umount", str(mount.path)]) == 0
    told = capsys.readouterr().out
    assert "keeps uncommitted changes" in told
    come_back = told.rpartition("come back to them with: icefs ")[2].split()
    assert main(come_back) == 0
    assert (mount / "a/c/0").read_bytes() == b"5"
    assert not is_read_only(mount)
    (mount / "a/c/1").write_bytes(b"6")


def test_only_ro_and_rw_can_be_changed(mount: Mount, capsys: pytest.CaptureFixture[str]) -> None:
    assert remount(mount, "remount,branch=dev") == 1
    assert "changes ro and rw only, not branch=dev" in capsys.readouterr().err
    assert mount_helper.mount(["repo", str(mount / "a"), "-o", "remount,ro"]) == 32
    assert "not a mountpoint of icefs" in capsys.readouterr().err
    assert not is_read_only(mount)


def test_a_mount_that_only_reads_does_not_become_writable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require(os.geteuid() == 0, "root, who may remount")
    commit(create(tmp_path / "repo", 2), "made", KEYS)
    with mounted(tmp_path / "repo", branch="main", read_only=True) as mount:
        assert remount(mount, "remount,rw") == 32
        assert "it was mounted read-only" in capsys.readouterr().err
        assert is_read_only(mount)
