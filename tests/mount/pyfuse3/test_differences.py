"""The column of pyfuse3 in the table "Two ways to the kernel" of `icefs/vfs/SEMANTICS.md`."""

import contextlib
import ctypes
import errno
import os
import subprocess

import pytest

from icefs.daemon.options import NATIVE, PYFUSE3
from tests.conformance.official import GROUP, commit, create, loose_array_json
from tests.mount.test_disk_full import small_disk
from tests.support.ci import require
from tests.support.mounting import mounted

MANY, PAGE = 300, 4096
KEYS = {"zarr.json": GROUP, "a/zarr.json": loose_array_json((MANY,), (1,))} | {f"a/c/{i}": b"x" for i in range(MANY)}


@pytest.fixture
def repo(tmp_path):
    commit(create(tmp_path / "repo", 2), "first", KEYS)
    return tmp_path / "repo"


@pytest.mark.parametrize(("library", "many"), [(NATIVE, False), (PYFUSE3, True)])
def test_closing_a_file_that_was_only_read(repo, library, many):
    with mounted(repo, fuse_library=library) as mount:
        for number in range(20):
            (mount / f"branches/main/a/c/{number}").read_bytes()
        assert (mount.requests().get("flush", 0) > 15) == many


@pytest.mark.parametrize(("library", "sent"), [(NATIVE, 64), (PYFUSE3, 12)])
def test_requests_that_the_kernel_sends_ahead(repo, tmp_path, library, sent):
    connections = tmp_path / "connections"
    connections.mkdir()
    done = subprocess.run(["mount", "-t", "fusectl", "icefs-test", connections], check=False, capture_output=True)
    require(done.returncode == 0, "fusectl, which takes root")
    try:
        with mounted(repo, fuse_library=library) as mount:
            number = os.minor(os.stat(mount.path).st_dev)
            assert int((connections / str(number) / "max_background").read_text()) == sent
    finally:
        subprocess.run(["umount", connections], check=True)


def test_fallocate(repo):
    libc = ctypes.CDLL(None, use_errno=True)
    with mounted(repo) as mount:
        file = mount / "branches/main/new"
        file.write_bytes(b"x")
        with file.open("r+b") as stream:
            found = libc.fallocate(stream.fileno(), 0, ctypes.c_long(0), ctypes.c_long(50_000))
            assert (found, ctypes.get_errno()) == (-1, errno.EOPNOTSUPP)
            os.posix_fallocate(stream.fileno(), 0, 50_000)
        assert file.stat().st_size == 50_000


@pytest.mark.parametrize(("library", "lost"), [(NATIVE, False), (PYFUSE3, True)])
def test_a_write_that_a_full_disk_takes_in_part(repo, tmp_path, library, lost):
    small = tmp_path / "small"
    with (
        small_disk(small, 6),
        mounted(repo, branch="main", fuse_library=library, state_dir=str(small / "trees"), may_complain=True) as mount,
    ):
        file = mount / "a/c/1"
        file.touch()
        os.truncate(file, 30 * PAGE)
        with (small / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(bytes(PAGE)):
                pass
        os.truncate(small / "filler", (small / "filler").stat().st_size - 10 * PAGE)
        fd = os.open(file, os.O_WRONLY)
        written = 0
        with contextlib.suppress(OSError):
            written = os.write(fd, b"x" * (30 * PAGE))
        with contextlib.suppress(OSError):
            os.close(fd)
        (small / "filler").unlink()
        reasons = {one["path"]: one["reason"] for one in mount.control("status.json")["invalid"]}
        assert ("lost" in reasons.get("a/c/1", "")) == lost, reasons
        if not lost:
            assert 0 < written < 30 * PAGE
            assert file.read_bytes() == b"x" * written + bytes(30 * PAGE - written)


def test_listings_bring_the_attributes_of_each_entry(repo):
    with mounted(repo) as mount:
        directory = mount / "branches/main/a/c"
        names = os.listdir(directory)
        assert len(names) == MANY
        before = mount.requests()
        for name in names:
            assert (directory / name).stat().st_size == 1
        after = mount.requests()
        assert after.get("lookup", 0) - before.get("lookup", 0) < MANY // 10
        assert after.get("getattr", 0) - before.get("getattr", 0) < MANY // 10
