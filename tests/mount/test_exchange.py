"""Clone, pull and push between repositories that are mounted, and those that are killed while they copy."""

import contextlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from icefs.cli.main import main
from icefs.engine.repository import Repository
from icefs.engine.write.repository import WritableRepository
from icefs.storage.local.store import LocalStorage
from tests.support.exchanging import is_whole, make, seen, write
from tests.support.mounting import mounted, wait_until


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with make(LocalStorage(tmp_path / "theirs")):
        pass
    return tmp_path


def commit(place, branch, seed):
    with WritableRepository.open(LocalStorage(place)) as repository:
        return str(write(repository, branch, seed))


def test_a_mount_shows_what_was_pulled_at_once_and_keeps_what_is_not_committed(place):
    assert main(["clone", str(place / "theirs"), str(place / "ours")]) == 0
    tip = commit(place / "theirs", "dev", 6)
    commit(place / "theirs", "main", 7)
    with mounted(place / "ours") as mount:
        changed = mount / "branches/main/a/c/3/3"
        changed.write_bytes(b"not committed")
        assert main(["pull", "--repo", str(mount.path)]) == 0
        assert tip in os.listdir(mount / "snapshots")
        assert mount.control("status.json", "branches/dev")["snapshot"] == tip
        assert changed.read_bytes() == b"not committed"
        assert main(["rebase", str(mount / "branches/main"), "--ours"]) == 0
        assert changed.read_bytes() == b"not committed"
        # A mount is named as a repository, on both sides.
        assert main(["push", str(place / "theirs"), "--repo", str(mount.path), "--branch", "dev:mine"]) == 0
        assert main(["clone", str(mount.path), str(place / "third")]) == 0
        assert main(["discard", str(mount / "branches/main"), "--all"]) == 0
    with Repository.open(LocalStorage(place / "theirs")) as theirs:
        assert str(theirs.lookup_branch("mine")) == tip


def test_a_killed_clone_or_pull_goes_on(place):
    with WritableRepository.open(LocalStorage(place / "theirs")) as repository:
        session = repository.writable_session("main")
        for number in range(16):
            session.chunks.set("/a", (number // 4, number % 4), random.Random(number).randbytes(1 << 20))
        session.commit("large")
    theirs, ours = LocalStorage(place / "theirs"), LocalStorage(place / "ours")
    command = [Path(sys.executable).with_name("icefs"), "clone", place / "theirs", place / "ours", "--verify"]
    for count in (0, 1, 4, 9):
        started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda least=count: stored(place / "ours") > least, f"{count} chunks of a clone")
        started.kill()
        started.wait()
    subprocess.run(command, check=True)
    assert seen(ours) == seen(theirs)
    assert is_whole(ours)
    names = [{info.key for info in each.iter_objects("chunks/")} for each in (ours, theirs)]
    assert names[0] == names[1]


def stored(repository):
    with contextlib.suppress(FileNotFoundError):
        return len(os.listdir(repository / "chunks"))
    return 0
