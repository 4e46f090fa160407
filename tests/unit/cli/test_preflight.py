"""What is checked before mounting."""

import os

import pytest

from icefs.cli import preflight
from icefs.cli.mounts import MountEntry
from icefs.cli.preflight import check_fuse, check_mountpoint, local_path
from icefs.errors import (
    EntryNotFoundError,
    InvalidInputError,
    NotADirectoryTreeError,
    NotEmptyError,
    SessionStateError,
    UnsupportedError,
)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "mnt").mkdir()
    return tmp_path / "mnt"


def test_an_empty_directory_will_do(place, monkeypatch):
    monkeypatch.chdir(place.parent)
    assert check_mountpoint("mnt", "s3://bucket/prefix") == place
    assert check_mountpoint("./mnt/", "repo") == place


def test_a_link_to_an_empty_directory_is_resolved(place, tmp_path):
    (tmp_path / "link").symlink_to(place)
    assert check_mountpoint(str(tmp_path / "link"), "memory:") == place


def test_what_will_not_do(place, tmp_path):
    (place / "file").touch()
    with pytest.raises(NotEmptyError, match="not empty"):
        check_mountpoint(str(place), "memory:")
    with pytest.raises(NotADirectoryTreeError, match="not a directory"):
        check_mountpoint(str(place / "file"), "memory:")
    with pytest.raises(EntryNotFoundError, match="does not exist") as caught:
        check_mountpoint(str(tmp_path / "missing"), "memory:")
    assert caught.value.hint == f"run 'mkdir -p {tmp_path}/missing'"


@pytest.mark.parametrize("inside", [".", "chunks", "chunks/deeper"])
@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_place_in_the_repository_will_not_do(tmp_path, inside, prefix):
    place = tmp_path / "repo" / inside
    place.mkdir(parents=True)
    with pytest.raises(InvalidInputError, match="lies in the repository"):
        check_mountpoint(str(place), f"{prefix}{tmp_path}/repo")


def test_a_place_with_a_mount_will_not_do(place, monkeypatch):
    monkeypatch.setattr(preflight, "mounted_at", lambda _: MountEntry(place, "fuse.icefs", "s3://x/y"))
    with pytest.raises(SessionStateError, match=r"busy.*s3://x/y is mounted there"):
        check_mountpoint(str(place), "memory:")


def test_a_place_of_somebody_else_will_not_do(place, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root
    with pytest.raises(PermissionError, match="may not write"):
        check_mountpoint(str(place), "memory:")


def test_fuse_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(preflight, "DEVICE", tmp_path / "fuse")
    with pytest.raises(UnsupportedError, match="FUSE is not available"):
        check_fuse(allow_other=False)
    (tmp_path / "fuse").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match="FUSE is not installed") as caught:
        check_fuse(allow_other=False)
    assert caught.value.hint == "install it: apt install fuse3"


def test_sharing_a_mount_needs_the_administrator(monkeypatch, tmp_path):
    monkeypatch.setattr(preflight, "DEVICE", tmp_path)
    monkeypatch.setattr(preflight, "FUSE_CONF", tmp_path / "fuse.conf")
    monkeypatch.setattr(preflight.shutil, "which", lambda _: "/bin/true")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PermissionError, match="user_allow_other"):
        check_fuse(allow_other=True)
    (tmp_path / "fuse.conf").write_text("#user_allow_other\n")
    with pytest.raises(PermissionError, match="user_allow_other"):
        check_fuse(allow_other=True)
    (tmp_path / "fuse.conf").write_text("mount_max = 3\nuser_allow_other\n")
    check_fuse(allow_other=True)


@pytest.mark.parametrize(
    ("location", "path"),
    [("/a/b", "/a/b"), ("file:///a/b", "/a/b"), ("s3://a/b", None), ("memory:x", None), ("http://x/y", None)],
)
def test_local_locations(location, path):
    assert (str(local_path(location)) if path else local_path(location)) == path
