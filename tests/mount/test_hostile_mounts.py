"""Neighbours of a mount: makers of its repository, and other users of the machine, neither read, block nor steer."""

import os
import time
from pathlib import Path

import pytest

from icefs.engine.writing import WritableRepository
from icefs.format.config import RepositoryConfig
from icefs.storage.local import LocalStorage
from icefs.storage.local_lock import LOCK_NAME
from tests.property.test_hostile_repositories import METADATA
from tests.support.hostile import SECRET, THINGS, as_other_user, fits, make_outside, place, unchanged
from tests.support.mounting import mounted

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


@pytest.fixture
def repo(tmp_path):
    """An array of two chunks in files of their own, each as long as the secret."""
    repository = WritableRepository.create(
        LocalStorage(tmp_path / "repo"), RepositoryConfig(inline_chunk_threshold_bytes=0)
    )
    session = repository.writable_session("main")
    session.set_metadata("/a", METADATA.replace(b"[2]", b"[%d]" % len(SECRET)))
    session.set_chunk("/a", (0,), b"x" * len(SECRET))
    session.commit("one chunk")
    repository.close()
    return tmp_path / "repo"


@needs_root
@pytest.mark.parametrize("at", ["chunks/*", "chunks"])
def test_other_users_of_a_mount_see_nothing_of_what_a_link_in_the_repository_leads_to(repo, tmp_path, at):
    outside = make_outside(tmp_path)
    [chunk] = (repo / "chunks").iterdir()
    if at == "chunks":
        (outside / "directory" / chunk.name).write_bytes(SECRET)
        place(repo / "chunks", "symlink to a directory", outside)
    else:
        place(chunk, "symlink to a file", outside)
    with mounted(repo, branch="main", allow_other=True, may_complain=True) as mount:
        mount.path.parent.chmod(0o755)
        done = as_other_user(["cat", str(mount / "a/c/0")])
        assert (done.returncode, done.stdout) == (1, "")
        assert "Input/output error" in done.stderr
        assert "is a symbolic link" in mount.log.read_text()
        with pytest.raises(OSError, match="Input/output"):
            (mount / "a/c/0").read_bytes()


@pytest.mark.parametrize("thing", [thing for thing in THINGS if fits(thing, is_directory=False)])
def test_a_commit_neither_waits_for_what_is_in_the_locks_place_nor_follows_it(repo, tmp_path, thing):
    outside = make_outside(tmp_path)
    place(repo / LOCK_NAME, thing, outside)
    with mounted(repo, branch="main", may_complain=True) as mount, unchanged(outside):
        (mount / "a/c/0").write_bytes(b"y" * len(SECRET))
        started = time.monotonic()
        [*_, answer] = mount.rpc({"op": "commit", "message": "ours"})
        assert time.monotonic() - started < 20
        if thing == "hard link":
            assert answer["type"] == "result"
        else:
            assert answer["type"] == "error"
            assert str(repo / LOCK_NAME) in answer["message"]
            assert answer["hint"]
            Path(repo, LOCK_NAME).rmdir() if "directory in" in thing else Path(repo, LOCK_NAME).unlink()
            [*_, answer] = mount.rpc({"op": "commit", "message": "ours"})
            assert answer["type"] == "result", answer
    assert mount.exit_code == 0
