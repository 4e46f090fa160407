"""Starting daemons, as far as that needs no kernel."""

import subprocess
import sys
from pathlib import Path

import pytest

from icefs.errors import InvalidInputError, StorageError
from icefs.fuse import daemon
from icefs.fuse.options import MountOptions


def modules_after(statement):
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    )


def test_the_command_imports_little_to_start_a_daemon():
    assert not {"numpy", "trio", "boto3", "zarr"} & modules_after("import icefs.fuse.daemon")


def test_the_daemon_of_a_local_repository_imports_nothing_that_it_does_not_need():
    heavy = {"boto3", "botocore", "zarr", "click", "rich", "icechunk", "numpy.ma", "http.client"}
    assert not heavy & modules_after("import icefs.fuse.serving")


def test_an_error_of_the_daemon_is_raised_here(tmp_path):
    log = tmp_path / "deep/er/log"
    options = MountOptions(repository=str(tmp_path / "repo"), mountpoint=str(tmp_path / "missing"), log_file=str(log))
    with pytest.raises(InvalidInputError, match="does not exist") as caught:
        daemon.spawn(options)
    assert caught.value.hint
    assert log.exists()


def test_a_log_file_that_cannot_be_written_is_said_at_once(tmp_path):
    (tmp_path / "file").touch()
    options = MountOptions(repository="x", mountpoint="y", log_file=str(tmp_path / "file/log"))
    with pytest.raises(StorageError, match="log file"):
        daemon.spawn(options)


def test_a_log_that_grew_large_is_put_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(daemon, "_MAX_LOG_BYTES", 10)
    path = tmp_path / "log"
    path.write_text("x" * 11)
    daemon._open_log(path).close()
    assert (path.read_text(), Path(f"{path}.1").read_text()) == ("", "x" * 11)
    path.write_text("x" * 10)
    daemon._open_log(path).close()
    assert path.read_text() == "x" * 10


@pytest.mark.parametrize(
    ("repository", "shown"),
    [
        ("/data/repo?x", "/data/repo?x"),
        ("s3://bucket/x?access_key_id=secret", "s3://bucket/x"),
        ("s3://user:secret@host/x", "s3://host/x"),
    ],
)
def test_no_secret_is_seen_in_the_process_list(repository, shown):
    assert daemon._shown(repository) == shown
