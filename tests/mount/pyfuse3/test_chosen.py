"""Which way to the kernel a mount takes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from icefs.daemon.options import NATIVE, PYFUSE3, MountOptions
from icefs.engine.write.repository import WritableRepository
from icefs.errors import InvalidInputError
from icefs.storage.url import open_storage
from tests.support.mounting import mounted


@pytest.fixture
def repo(tmp_path):
    WritableRepository.create(open_storage(str(tmp_path / "repo"))).close()
    return tmp_path / "repo"


@pytest.mark.parametrize("library", [NATIVE, PYFUSE3])
def test_a_mount_says_which_it_takes(repo, library):
    with mounted(repo, branch="main", fuse_library=library) as mount:
        assert mount.control("info.json")["options"]["fuse_library"] == library
        assert ("/libfuse3" in Path(f"/proc/{mount.pid}/maps").read_text()) == (library == PYFUSE3)


def test_the_tests_here_take_pyfuse3(repo):
    with mounted(repo) as mount:
        assert mount.control("info.json")["options"]["fuse_library"] == PYFUSE3


def test_a_mount_that_only_reads_is_asked_by_writing(repo):
    with mounted(repo, read_only=True, branch="main") as mount:
        assert not os.statvfs(mount.path).f_flag & os.ST_RDONLY
        assert mount.rpc({"op": "ping"})[0]["pid"] == mount.pid
        with pytest.raises(OSError, match="Read-only file system"):
            (mount / "x").mkdir()


def test_an_unknown_one_is_refused():
    with pytest.raises(InvalidInputError, match="unknown FUSE library 'fuse4'"):
        MountOptions(repository="r", mountpoint="m", fuse_library="fuse4")


def test_a_library_that_is_not_installed_is_named(repo, tmp_path):
    (tmp_path / "mnt").mkdir()
    program = "import sys; sys.modules['pyfuse3'] = None;from icefs.cli.main import main;sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "mount", "-f", "--fuse-library", "pyfuse3", repo, tmp_path / "mnt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert "pyfuse3 is not installed; run \"pip install 'icefs[pyfuse3]'\"" in done.stderr
