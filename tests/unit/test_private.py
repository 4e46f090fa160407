"""Directories of one's own, and files that only trusted users can have written."""

import os
import stat
from pathlib import Path

import pytest

from icefs.daemon.options import default_log_file
from icefs.daemon.spawn import open_log
from icefs.engine.history.lineage_cache import LineageCache
from icefs.private import make_private, who_may_change
from icefs.transfer.ledger import Ledger


@pytest.fixture(params=[0o000, 0o022, 0o077])
def mask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("is_there", [False, True])
def test_a_private_directory_is_private(tmp_path, mask, is_there):
    directory = tmp_path / "above/own"
    if is_there:
        directory.mkdir(parents=True)
        directory.chmod(0o777)
    make_private(directory)
    assert mode(directory) == 0o700


def test_what_tells_of_repositories_and_paths_is_for_its_user_alone(tmp_path, mask, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    log = default_log_file("/mnt/x")
    open_log(log).close()
    assert (mode(log.parent), mode(log)) == (0o700, 0o600)
    open_log(tmp_path / "chosen.log").close()
    assert mode(tmp_path / "chosen.log") == 0o600
    LineageCache(tmp_path / "cache/history/x.db").close()
    assert mode(tmp_path / "cache/history") == 0o700
    with Ledger(tmp_path / "imports/x.db"):
        pass
    assert mode(tmp_path / "imports") == 0o700


@pytest.mark.parametrize(
    ("file", "directory", "says"),
    [
        (0o600, 0o755, None),
        (0o644, 0o755, None),
        (0o666, 0o755, "every user can write to"),
        (0o646, 0o755, "every user can write to"),
        (0o644, 0o777, "every user can write to"),
        (0o644, 0o1777, None),
    ],
)
def test_who_may_change_a_file(tmp_path, file, directory, says):
    path = tmp_path / "etc/NAME.toml"
    path.parent.mkdir()
    path.touch()
    path.chmod(file)
    path.parent.chmod(directory)
    found = who_may_change(path)
    assert found == says if says is None else found.startswith(says)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert who_may_change(link) == found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_another_users_file_is_not_trusted(tmp_path):
    path = tmp_path / "venv/bin/icefs"
    path.parent.mkdir(parents=True)
    path.touch()
    os.chown(tmp_path / "venv", 4201, 4201)
    assert who_may_change(path) is None
    assert who_may_change(path, far=True) == f"{tmp_path}/venv belongs to user 4201"
    os.chown(path, 4201, 4201)
    assert who_may_change(path) == f"{path} belongs to user 4201"
    os.chown(path, 0, 4201)
    path.chmod(0o664)
    assert who_may_change(path) == f"group 4201 can write to {path}"
