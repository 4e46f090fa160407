import os

import pytest

from icefs.daemon import mountinfo, mountpoints
from icefs.daemon.mountinfo import MountEntry, mount_table, mounted_at
from icefs.daemon.mountpoints import check_apart, check_fuse, check_mountpoint
from icefs.errors import InvalidInputError, StaleError, UnsupportedError

TABLE = r"""21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
38 21 0:33 / /mnt/a\040b rw,nosuid,nodev - fuse.icefs s3://bucket/x\134y rw,user_id=0
39 38 0:34 / /mnt/a\040b rw - tmpfs tmpfs rw
"""


@pytest.fixture
def table(tmp_path, monkeypatch):
    path = tmp_path / "mountinfo"
    path.write_text(TABLE)
    monkeypatch.setattr(mountinfo, "MOUNT_TABLE", path)
    return path


def test_the_mount_table_is_read_with_its_escapes(table):
    assert mount_table() == [
        MountEntry("/", "254:0", "ext4", "/dev/vda"),
        MountEntry("/mnt/a b", "0:33", "fuse.icefs", "s3://bucket/x\\y", "/", 0),
        MountEntry("/mnt/a b", "0:34", "tmpfs", "tmpfs"),
    ]
    assert mounted_at("/mnt/a b").filesystem_type == "tmpfs"
    assert mounted_at("/mnt") is None


def test_an_empty_directory_will_do(tmp_path):
    check_mountpoint(str(tmp_path))


def test_other_places_will_not(tmp_path, table):
    (tmp_path / "file").touch()
    for place, reason in (
        (tmp_path / "missing", "does not exist"),
        (tmp_path / "file", "is not a directory"),
        (tmp_path, "is not empty"),
        ("/mnt/a b", "already a mountpoint, of tmpfs"),
    ):
        with pytest.raises(InvalidInputError, match=reason) as caught:
            check_mountpoint(str(place))
        assert caught.value.hint


def test_a_mount_whose_daemon_died_is_not_touched(tmp_path, table, monkeypatch):
    table.write_text(f"38 21 0:33 / {tmp_path} rw - fuse.icefs repo rw\n")
    with pytest.raises(InvalidInputError, match="already a mountpoint, of repo"):
        check_mountpoint(str(tmp_path))

    def dead(path):
        raise OSError(107, "not connected")

    monkeypatch.setattr(os, "statvfs", dead)
    monkeypatch.setattr(os, "scandir", dead)
    with pytest.raises(StaleError, match="has died here"):
        check_mountpoint(str(tmp_path))


def test_mountpoint_and_repository_lie_apart(tmp_path):
    repo = tmp_path / "repo"
    (repo / "inside").mkdir(parents=True)
    (tmp_path / "link").symlink_to(repo)
    (tmp_path / "repo-2").mkdir()
    for place in (repo, repo / "inside", tmp_path / "link", tmp_path / "link/inside"):
        with pytest.raises(InvalidInputError, match="in the repository itself"):
            check_apart(str(place), str(repo))
    for place in (tmp_path, "/"):
        with pytest.raises(InvalidInputError, match="would hide the repository"):
            check_apart(str(place), str(repo))
    check_apart(str(tmp_path / "repo-2"), str(repo))


def test_fuse_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setattr(mountpoints, "FUSE_DEVICE", tmp_path / "missing")
    with pytest.raises(UnsupportedError, match="/dev/fuse"):
        check_fuse(allow_other=False)
    monkeypatch.setattr(mountpoints, "FUSE_DEVICE", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError) as caught:
        check_fuse(allow_other=False)
    assert caught.value.hint == "install it: apt install fuse3"


def test_users_need_permission_to_let_others_in(tmp_path, monkeypatch):
    tool = tmp_path / "fusermount3"
    tool.touch(0o755)
    conf = tmp_path / "fuse.conf"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(mountpoints, "FUSE_DEVICE", tmp_path)
    monkeypatch.setattr(mountpoints, "FUSE_CONF", conf)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    check_fuse(allow_other=False)
    for text in (None, "", "# user_allow_other\n", "user_allow_other_not\n"):
        if text is not None:
            conf.write_text(text)
        with pytest.raises(InvalidInputError, match="not allowed to users"):
            check_fuse(allow_other=True)
    conf.write_text("mount_max = 5\n user_allow_other # yes\n")
    check_fuse(allow_other=True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    conf.unlink()
    check_fuse(allow_other=True)


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        (None, False),
        ('PRUNEFS="NFS afs fuse.sshfs"\n', True),
        ("", True),
        ('PRUNE_BIND_MOUNTS="yes"\nPRUNEFS = "NFS fuse.icefs proc"\n', False),
        ("PRUNEFS='FUSE.ICEFS'\n", False),
        ('# PRUNEFS="fuse.icefs"\n', True),
    ],
)
def test_updatedb_is_looked_at(tmp_path, monkeypatch, text, reads):
    path = tmp_path / "updatedb.conf"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(mountpoints, "UPDATEDB_CONF", path)
    assert mountpoints.updatedb_reads_mounts() is reads
