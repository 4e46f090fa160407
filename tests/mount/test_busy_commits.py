"""Commits while programs write: each is a picture of one moment of every program, and none loses anything."""

from pathlib import Path

import icechunk
import pytest

from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.support.busy_commits import commit_while_busy
from tests.support.busy_writers import WRITERS
from tests.support.killing import rounds
from tests.support.mounting import mounted

ROUNDS = rounds(5)


@pytest.mark.timeout(60 + 5 * ROUNDS)
def test_commits_show_one_moment_of_each_busy_program(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    WritableRepository.create(open_storage(str(repo))).close()
    with mounted(repo, branch="main", state_dir=str(tmp_path / "state")) as mount:
        official = icechunk.Repository.open(icechunk.local_filesystem_storage(str(repo)))
        shown = commit_while_busy(mount, official, tmp_path, ROUNDS)
    assert all(moments == sorted(moments) and moments[-1] > 50 for moments in shown)
    assert len(shown) == WRITERS
