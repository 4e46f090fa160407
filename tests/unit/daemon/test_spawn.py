"""Starting daemons, as far as that needs no kernel."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icefs.bounded import Limits
from icefs.daemon import log_files
from icefs.daemon import spawn as daemon
from icefs.daemon.options import MountOptions
from icefs.errors import InvalidInputError, StorageError


def modules_after(statement):
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    )


def test_the_command_imports_little_to_start_a_daemon():
    assert not {"numpy", "trio", "boto3", "zarr"} & modules_after("import icefs.daemon.spawn")


def test_the_daemon_of_a_local_repository_imports_nothing_that_it_does_not_need():
    heavy = {
        "boto3",
        "botocore",
        "azure",
        "google",
        "requests",
        "zarr",
        "click",
        "rich",
        "icechunk",
        "numpy.ma",
        "http.client",
    }
    assert not heavy & modules_after("import icefs.daemon.serve")


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
    monkeypatch.setattr(daemon, "MAX_LOG_BYTES", 10)
    path = tmp_path / "log"
    path.write_text("x" * 11)
    daemon.open_log(path).close()
    assert (path.read_text(), Path(f"{path}.1").read_text()) == ("", "x" * 11)
    path.write_text("x" * 10)
    daemon.open_log(path).close()
    assert path.read_text() == "x" * 10


def spawn_and_fail(tmp_path, name):
    """Starts a daemon that ends at once, for its mountpoint is not there; its log is in the default directory."""
    with pytest.raises(InvalidInputError, match="does not exist"):
        daemon.spawn(MountOptions(repository=str(tmp_path / "repo"), mountpoint=str(tmp_path / name)))


def logs_in(directory):
    return {path.name.removeprefix("-").rpartition("LOG")[2] for path in directory.iterdir()}


def make_log(directory, name, age_s, size=1):
    path = directory / f"LOG{name}"
    with open(path, "wb") as file:
        file.truncate(size)  # without taking room
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_old_logs_go_but_for_those_that_a_daemon_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    directory = tmp_path / "state/icefs/log"
    directory.mkdir(parents=True)
    over = log_files.LIMITS.max_unused_s + 10
    for name in ("old.log", "old.log.1", "notes.txt"):
        make_log(directory, name, over)
    make_log(directory, "young.log", over - 1000)
    running = log_files.LogFile(str(make_log(directory, "running.log", over)), takes_stderr=False)
    spawn_and_fail(tmp_path, "LOG own")
    assert logs_in(directory) == {"notes.txt", "young.log", "running.log", "%20own.log"}
    running.close()
    # One's own is of use again, however long nobody mounted there.
    os.utime(next(directory.glob("*own.log")), (time.time() - over,) * 2)
    spawn_and_fail(tmp_path, "LOG own")
    assert logs_in(directory) == {"notes.txt", "young.log", "%20own.log"}


def test_logs_are_limited_in_bytes_and_number(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    directory = tmp_path / "state/icefs/log"
    directory.mkdir(parents=True)
    for number in range(4):
        make_log(directory, f"{number}.log", 60 * (number + 1), int(log_files.LIMITS.max_bytes) * 2 // 5)
    spawn_and_fail(tmp_path, "LOG own")
    assert logs_in(directory) == {"0.log", "1.log", "%20own.log"}
    monkeypatch.setattr(log_files, "LIMITS", Limits(max_files=2))
    spawn_and_fail(tmp_path, "LOG own")
    assert logs_in(directory) == {"0.log", "%20own.log"}


@pytest.mark.parametrize(
    ("repository", "shown"),
    [
        ("/data/repo?x", "/data/repo?x"),
        ("s3://bucket/x?access_key_id=secret", "s3://bucket/x"),
        ("s3://user:secret@host/x", "s3://host/x"),
    ],
)
def test_no_secret_is_seen_in_the_process_list(repository, shown):
    assert daemon.shown_location(repository) == shown
