"""What system calls say where something runs out, or hangs: as on a local disk, and never for other programs too."""

import errno
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from icefs.cli.main import main
from icefs.daemon.options import MountOptions
from tests.conformance.official import GROUP, commit, create, loose_array_json
from tests.support.mounting import mounted, run_daemon, scratch_directory, unmount

KEYS = {
    "zarr.json": GROUP,
    "a/zarr.json": loose_array_json((400,), (1,)),
    **{f"a/c/{number}": bytes([number % 256]) * 4096 for number in range(400)},
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    official = create(tmp_path / "repo", 2)
    official.create_tag("t", commit(official, "first", KEYS))
    return tmp_path / "repo"


def test_too_large_is_efbig(repository: Path) -> None:
    with mounted(repository, branch="main") as mount:
        fd = os.open(mount / "new", os.O_RDWR | os.O_CREAT)
        for call in (
            lambda: os.ftruncate(fd, 1 << 62),
            lambda: os.truncate(mount / "new", 1 << 62),
            lambda: os.pwrite(fd, b"x", 1 << 62),
        ):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.EFBIG
        assert os.fstat(fd).st_size == 0
        os.close(fd)


def test_a_daemon_with_too_many_open_files_says_enfile(repository: Path) -> None:
    """And its log says at the start that the limit is low."""
    with scratch_directory() as scratch:
        place, stderr = Path(scratch, "mnt"), Path(scratch, "stderr")
        place.mkdir()
        options = MountOptions(
            repository=str(repository),
            mountpoint=str(place),
            branch="main",
            state_dir=f"{scratch}/st",
            log_file=f"{scratch}/log",
        )
        program = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))"
        daemon = run_daemon(program, options, stderr)
        opened = []
        try:
            with pytest.raises(OSError) as caught:
                opened.extend(os.open(place / f"a/c/{number}", os.O_RDONLY) for number in range(400))
            assert caught.value.errno == errno.ENFILE
            assert len(opened) > 50
            assert "128 files open" in stderr.read_text()
            assert "ulimit -n" in stderr.read_text()
        finally:
            for fd in opened:
                os.close(fd)
            unmount(place)
            assert daemon.wait(20) == 0


def test_df_tells_what_is_used_and_what_others_may_use(repository: Path, tmp_path: Path) -> None:
    with mounted(repository, branch="main", state_dir=str(tmp_path)) as mount:
        disk, shown = os.statvfs(tmp_path), os.statvfs(mount.path)
        unit = shown.f_frsize
        for name in ("f_blocks", "f_bfree", "f_bavail"):
            real = getattr(disk, name) * disk.f_frsize
            assert abs(getattr(shown, name) * unit - real) < 1 << 30, name
        reserved = (disk.f_bfree - disk.f_bavail) * disk.f_frsize
        assert (shown.f_bfree - shown.f_bavail) * unit == pytest.approx(reserved, abs=2 * unit)


def test_copies_get_no_attributes_of_icefs(repository: Path, tmp_path: Path) -> None:
    with mounted(repository, tag="t") as tag:
        subprocess.run(["cp", "-a", tag / "a", tmp_path / "out"], check=True)
        assert os.listxattr(tmp_path / "out/c/0") == []
        assert os.getxattr(tag / "a/c/0", "user.icefs.kind")
        with mounted(repository, branch="main") as mount:
            subprocess.run(["cp", "-r", "--preserve=xattr", tag / "a", mount / "z"], check=True)
            subprocess.run(["rsync", "-aX", f"{tag.path}/a/", f"{mount.path}/x/"], check=True)


def test_the_head_of_a_tree_leads_somewhere_or_is_not_there(repository: Path) -> None:
    with mounted(repository) as whole:
        assert (whole / "branches/main/.icefs/head/a/c/0").read_bytes() == KEYS["a/c/0"]
    with mounted(repository, branch="main") as mount:
        assert not os.path.lexists(mount / ".icefs/head")


def test_a_log_has_no_warnings_of_the_interpreter(repository: Path) -> None:
    """Also where a program leaves before the end of an answer."""
    with scratch_directory() as scratch:
        place, stderr = Path(scratch, "mnt"), Path(scratch, "stderr")
        place.mkdir()
        options = MountOptions(
            repository=str(repository),
            mountpoint=str(place),
            branch="main",
            state_dir=f"{scratch}/st",
            log_file=f"{scratch}/log",
        )
        daemon = run_daemon("import warnings; warnings.simplefilter('always')", options, stderr)
        try:
            (place / "new").write_bytes(b"untracked")
            for request in (b'{"op": "status"}', b'{"op": "commit", "message": "m"}', b'{"op": "uncommitted"}', b"{}"):
                for parts in (1, 1000):
                    fd = os.open(place / ".icefs/rpc", os.O_RDWR)
                    os.write(fd, request)
                    for _ in range(parts):
                        if not os.read(fd, 1 << 16):
                            break
                    os.close(fd)
        finally:
            unmount(place)
            assert daemon.wait(20) == 0
        assert "Warning" not in stderr.read_text()


HANGING = """
import time
from icefs.storage.local.store import LocalStorage

known = LocalStorage.get

def get(self, key, *args, **kwargs):
    while key.startswith("manifests/") and not os.path.exists({go_on!r}):
        time.sleep(0.01)
    return known(self, key, *args, **kwargs)

LocalStorage.get = get
"""


def test_control_files_answer_while_the_store_does_not(tmp_path: Path) -> None:
    """Also while more programs wait for manifests than there are threads for them."""
    keys = {"zarr.json": GROUP}
    session_keys = {
        f"a{n}/{key}": value
        for n in range(40)
        for key, value in (("zarr.json", loose_array_json((4,), (1,))), ("c/0", b"x" * 4096))
    }
    commit(create(tmp_path / "repo", 2), "first", keys | session_keys)
    with scratch_directory() as scratch:
        place, stderr = Path(scratch, "mnt"), Path(scratch, "stderr")
        place.mkdir()
        options = MountOptions(
            repository=str(tmp_path / "repo"),
            mountpoint=str(place),
            branch="main",
            state_dir=f"{scratch}/st",
            log_file=f"{scratch}/log",
        )
        go_on = Path(scratch, "go-on")
        daemon = run_daemon(HANGING.format(go_on=str(go_on)), options, stderr)
        readers = [threading.Thread(target=lambda n=n: os.path.exists(place / f"a{n}/c/0")) for n in range(40)]
        try:
            for reader in readers:
                reader.start()
            time.sleep(0.3)
            started = time.monotonic()
            for name in ("status", "stats.json", "metrics", "status.json"):
                assert (place / ".icefs" / name).read_bytes()
            for name in ("status", "status.json", "log", "log.json", "diff", "diff.json", "info.json", "accesslog"):
                assert (place / ".icefs" / name).exists()
                (place / ".icefs" / name).read_bytes()
            for command in (
                ["status"], ["info"], ["top", "--once", "--interval", "0.1"], ["diff"], ["log", "--oneline"],
                ["discard", "--all"],
            ):  # fmt: skip
                assert main([command[0], *command[1:], str(place)]) == 0, command
            assert time.monotonic() - started < 30
            assert all(reader.is_alive() for reader in readers)
        finally:
            go_on.touch()
            for reader in readers:
                reader.join()
            unmount(place)
            assert daemon.wait(40) == 0


def test_fallocate_does_what_a_local_disk_does(repository: Path, tmp_path: Path) -> None:
    """Room, a size, holes and zeros; also in a file of the base."""
    steps = [
        ("-l", "10000"),
        ("-n", "-o", "20000", "-l", "5000"),
        ("-p", "-o", "4096", "-l", "4096"),
        ("-z", "-o", "100", "-l", "200"),
        ("-z", "-o", "9000", "-l", "9000"),
        ("-z", "-n", "-o", "30000", "-l", "9000"),
    ]
    with mounted(repository, branch="main") as mount:
        local = tmp_path / "local"
        for path in (mount / "new", mount / "a/c/3"):
            local.write_bytes(KEYS["a/c/3"])
            path.write_bytes(KEYS["a/c/3"]) if path.name == "new" else None
            for step in steps:
                for one in (path, local):
                    subprocess.run(["fallocate", *step, one], check=True)
                assert path.stat().st_size == local.stat().st_size, step
                assert path.read_bytes() == local.read_bytes(), step
        with (mount / "new").open("r+b") as file, pytest.raises(OSError) as caught:
            os.posix_fallocate(file.fileno(), 0, 1 << 60)
        assert caught.value.errno in (errno.EFBIG, errno.ENOSPC)
