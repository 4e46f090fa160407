"""`as-of/BRANCH/TIME` on a real mount agrees with `snapshots`, `icefs log` and `--as-of`."""

import json
import os
from datetime import datetime, timedelta

import icechunk
import pytest

from icefs.cli.main import main
from tests.conformance.official import GROUP, array_json, commit, create
from tests.support.mounting import mounted

KEYS = {"zarr.json": GROUP, "a/zarr.json": array_json((4,), (1,)), "a/c/0": b"0"}


@pytest.fixture(params=[1, 2])
def repo(tmp_path, request):
    place = tmp_path / "repo"
    official = create(place, request.param)
    commit(official, "first", KEYS)
    commit(official, "second", {"a/c/0": b"1", "a/c/1": b"1"})
    return place


@pytest.fixture
def log(capsys):
    """Returns the history of a path or repository, newest first, as `icefs log` prints it."""

    def read(path):
        assert main(["log", "--json", str(path)]) == 0
        return [(one["id"], one["written_at"]) for one in json.loads(capsys.readouterr().out)]

    return read


def snapshot_at(mount, name):
    return os.path.realpath(mount / "as-of/main" / name).removeprefix(f"{os.path.realpath(mount.path)}/snapshots/")


def test_times_lead_to_snapshots(repo, log, tmp_path):
    with mounted(repo) as mount:
        history = log(repo)
        for snapshot, written_at in history:
            assert snapshot_at(mount, written_at) == snapshot
            assert [snapshot] == [found for found, _ in log(mount / f"as-of/main/{written_at}")][:1]
        days = sorted({written_at[:10] for _, written_at in history})
        assert sorted(os.listdir(mount / "as-of/main")) == days
        assert os.listdir(mount / "as-of") == ["main"]
        tip, written_at = history[0]
        local = (datetime.fromisoformat(written_at) + timedelta(hours=5)).replace(tzinfo=None).isoformat() + "+05:00"
        assert snapshot_at(mount, days[-1]) == snapshot_at(mount, "2100-01-01") == snapshot_at(mount, local) == tip
        assert (mount / f"as-of/main/{days[-1]}/a/c/1").read_bytes() == b"1"
        assert not (mount / f"as-of/main/{history[1][1]}/a/c/1").exists()
        for name in ("1999-12-31", "yesterday", "2026-02-30", "..."):
            with pytest.raises(FileNotFoundError):
                os.lstat(mount / "as-of/main" / name)
        with pytest.raises(FileNotFoundError):
            os.listdir(mount / "as-of/other")
        with pytest.raises(PermissionError if os.getuid() else OSError, match=r"Read-only|Permission"):
            (mount / "as-of/main/x").mkdir()
        assert main(["export", str(repo), str(tmp_path / "copy"), "--as-of", history[1][1]]) == 0
        assert not (tmp_path / "copy/a/c/1").exists()


def test_commits_of_the_mount_and_of_others(repo, log, capsys):
    with mounted(repo) as mount:
        assert snapshot_at(mount, "2100-01-01") == log(repo)[0][0]
        (mount / "branches/main/a/c/2").write_bytes(b"2")
        assert main(["commit", str(mount / "branches/main"), "-m", "third"]) == 0
        capsys.readouterr()
        history = log(repo)
        assert snapshot_at(mount, "2100-01-01") == history[0][0]
        assert snapshot_at(mount, history[1][1]) == history[1][0]
    with mounted(repo) as mount:
        assert snapshot_at(mount, "2100-01-01") == history[0][0]


def test_a_tip_that_others_moved_while_changes_are_staged(repo, log):
    with mounted(repo) as mount:
        (mount / "branches/main/a/c/3").write_bytes(b"3")
        official = icechunk.Repository.open(icechunk.local_filesystem_storage(str(repo)))
        theirs = commit(official, "theirs", {"a/c/2": b"x"})
        mount.refresh()
        assert snapshot_at(mount, "2100-01-01") == theirs == log(repo)[0][0]
        assert mount.control("status.json", "branches/main")["tip_moved"]
