"""Owners of new files, rights to write, and bits that a write clears: as on a local disk, for several users."""

import contextlib
import os
import stat
from pathlib import Path

import pytest

from tests.conformance.official import GROUP, commit, create, loose_array_json
from tests.support.ci import require
from tests.support.mounting import mounted
from tests.support.users import run_as

OWNER, OTHER, GROUP_ID = 4201, 4202, 4203
KEYS = {"zarr.json": GROUP, "a/zarr.json": loose_array_json((4,), (1,)), "a/c/0": b"0"}


@pytest.fixture
def shared(tmp_path):
    """A mount that others reach, and a directory on a local disk."""
    require(os.getuid() == 0, "the superuser, who can become other users")

    @contextlib.contextmanager
    def mount(**options):
        repository = tmp_path / "repo"
        commit(create(repository, 2), "first", KEYS)
        with mounted(repository, branch="main", allow_other=True, **options) as found:
            found.path.parent.chmod(0o755)
            local = found.path.parent / "local"
            local.mkdir()
            yield found.path, local

    return mount


def change(path: Path, way: str) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        if way == "write":
            os.write(fd, b"x")
        elif way == "ftruncate":
            os.ftruncate(fd, 1)
        elif way == "truncate":
            os.truncate(path, 1)
        elif way == "chgrp":
            os.fchown(fd, -1, OWNER)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("way", "uid"), [("write", OTHER), ("ftruncate", OTHER), ("truncate", OTHER), ("chgrp", OWNER)]
)
def test_a_write_and_a_change_of_owner_take_set_id_bits_away(shared, way, uid):
    """The superuser's own writes leave them."""
    with shared() as places:
        for place in places:
            for path in (place / "file", place / "made"):
                path.write_bytes(b"content")
                os.chown(path, OWNER, GROUP_ID)
                path.chmod(0o6777)
                path.write_bytes(b"by root")
                assert stat.S_IMODE(path.stat().st_mode) == 0o6777
                assert run_as(uid, OWNER, lambda path=path: change(path, way)) == "None"
                assert stat.S_IMODE(path.stat().st_mode) == 0o777, place
                path.unlink()


def test_what_is_made_in_a_set_group_id_directory_has_its_group(shared):
    def work(root: Path) -> None:
        (root / "d").mkdir()
        (root / "d/e").mkdir()
        os.close(os.open(root / "f", os.O_CREAT | os.O_WRONLY, 0o644))
        os.mknod(root / "d/g", 0o600)
        os.link(root / "f", root / "d/h")

    with shared() as places:
        found = []
        for place in places:
            root = place / "shared"
            root.mkdir()
            os.chown(root, 0, GROUP_ID)
            root.chmod(0o2777)
            assert run_as(OWNER, OWNER, lambda root=root: work(root)) == "None"
            stats = {name: (root / name).stat() for name in ("d", "d/e", "f", "d/g", "d/h")}
            found.append({name: (one.st_mode, one.st_uid, one.st_gid) for name, one in stats.items()})
        assert found[0] == found[1]
        assert found[0]["d"] == (stat.S_IFDIR | 0o2755, OWNER, GROUP_ID)
        assert found[0]["f"] == (stat.S_IFREG | 0o644, OWNER, GROUP_ID)


def test_with_a_umask_of_002_the_group_writes(shared):
    def work(mount: Path) -> None:
        os.close(os.open(mount / "a/c/0", os.O_WRONLY))
        (mount / "new").mkdir()

    with shared(umask=0o002, gid=GROUP_ID) as (mount, _):
        assert stat.S_IMODE((mount / "a/c/0").stat().st_mode) == 0o664
        assert stat.S_IMODE((mount / "a").stat().st_mode) == 0o775
        assert run_as(OTHER, OTHER, lambda: work(mount)) == "PermissionError"
        assert run_as(OTHER, GROUP_ID, lambda: work(mount)) == "None"


def test_a_branch_of_a_mount_that_only_reads_looks_read_only(shared):
    with shared(read_only=True, uid=OWNER) as (mount, _):
        assert stat.S_IMODE((mount / "a/c/0").stat().st_mode) == 0o444
        assert stat.S_IMODE((mount / "a").stat().st_mode) == 0o555
        assert run_as(OWNER, OWNER, lambda: [os.access(mount / path, os.W_OK) for path in ("a/c/0", "a")]) == (
            "[False, False]"
        )
