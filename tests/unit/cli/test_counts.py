"""Every count in what commands print, with none, one and two of the thing: number and word agree."""

import os
import shutil

import numpy as np
import pytest
import zarr

from icefs.cli.main import main
from icefs.cli.support import commits, leaving
from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from icefs.vfs.control.status_text import diff_lines, status_lines, to_text
from tests.support.counts import check


def build(path, count):
    """Makes a repository with so many arrays of so many chunks, commits, branches besides main, and tags."""
    repository = WritableRepository.create(open_storage(str(path)))
    for number in range(count):
        session = repository.writable_session("main")
        session.nodes.put("/", b'{"zarr_format":3,"node_type":"group","attributes":{"n":%d}}' % number)
        session.commit(f"commit {number}")
    tip = repository.lookup_branch("main")
    for number in range(count):
        repository.create_branch(f"b{number}", tip)
        repository.create_tag(f"t{number}", tip)
    repository.close()


@pytest.fixture
def say(capsys):
    """Runs a command line, holds what it prints to its numbers, and returns all of it."""

    def call(*arguments, code=None):
        done = main([str(argument) for argument in arguments])
        assert code is None or done == code
        captured = capsys.readouterr()
        text = captured.out + captured.err
        check(text)
        return text

    return call


@pytest.mark.parametrize("count", [0, 1, 2])
def test_counts_of_a_repository(count, say, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    repo = tmp_path / "repo"
    build(repo, count)
    directory = tmp_path / "z"
    group = zarr.open_group(directory, mode="w")
    for number in range(count):
        group.create_array(f"a{number}", data=np.arange(count * 1000.0), chunks=(1000,), compressors=None)
    texts = [
        say("import", directory, repo, "--dry-run"),
        say("import", directory, repo, "-m", "data"),
        say("import", directory, repo, "-m", "data", "--overwrite"),
        say("log", repo),
        say("ls", "-R", repo),
        say("info", repo),
        say("stats", repo),
        say("fsck", repo),
        say("doctor", repo),
        say("gc", repo, "--older-than", "0s", "--force", "--dry-run"),
        say("expire", repo, "--older-than", "2000-01-01"),
        say("expire", repo, "--older-than", "0s", "--dry-run", "--delete-expired-branches", "--delete-expired-tags"),
        say("rewrite-manifests", repo, "--dry-run"),
        say("rewrite-manifests", repo),
        say("export", repo, tmp_path / "out"),
        say("upgrade", repo),
        say("help", "--man", tmp_path / "man"),
        say("sessions"),
    ]
    for number in range(count):
        texts.append(say("blame", repo, f"a{number}"))
    shutil.rmtree(repo / "chunks", ignore_errors=True)
    os.makedirs(repo / "chunks", exist_ok=True)
    texts.append(say("fsck", repo))
    counted = {number for text in texts for number in check(text)}
    assert count in counted


STATUS = {
    "kind": "branch",
    "name": "main",
    "snapshot": "S",
    "message": "m",
    "flushed_at": "t",
    "writable": True,
    "tip": "T",
    "tip_moved": True,
    "untracked": [],
    "invalid": [],
}


@pytest.mark.parametrize("count", [0, 1, 2, 60])
def test_counts_of_a_status_and_a_diff(count):
    chunks = {"written": count, "rewritten": 0, "deleted": count}
    dropped = [{"path": "a", "count": count, "reason": "outside of the grid", "chunks": []}]
    staged = {
        "new_nodes": [f"{n}" for n in range(count)],
        "updated_nodes": [],
        "deleted_nodes": [],
        "renamed_nodes": [],
        "chunks": {"/a": chunks},
        "dropped_chunks": dropped,
    }
    background = {"pending": count, "pending_bytes": count, "stored": 0, "stored_bytes": 0, "error": "no"}
    uploading = {"files": count, "total_files": count, "bytes": count, "total_bytes": count}
    status = {**STATUS, "staged": staged, "tip_ahead": count, "background": background, "uploading": uploading}
    assert count in check(to_text(status_lines(status)))
    rows = [{"index": [n], "old_bytes": None, "new_bytes": n} for n in range(count)]
    diff = {
        **staged,
        "metadata": {},
        "chunks": {"/a": {"written": rows, "deleted": []}},
        "untracked": [f"u{n}" for n in range(count)],
        "invalid": [],
        "dropped_chunks": dropped,
    }
    check(to_text(diff_lines(diff)))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_counts_of_commits_and_of_ends_of_mounts(count, capsys):
    answer = {
        "snapshot": "S",
        "nodes": count,
        "chunks": count,
        "untracked": [],
        "dropped_chunks": [{"path": "a", "count": count, "reason": "outside of the grid"}],
    }
    commits.describe_commit(answer)
    assert check(capsys.readouterr().out) == [count] * 3
    uploads = {"pending": count, "stored": count, "pending_bytes": count, "stored_bytes": count, "error": None}
    outcome = leaving.Outcome(uncommitted=["main"], discarded={"b": count}, uploads={"main": uploads})
    assert count in check("\n".join(outcome.lines()))


def test_the_check_finds_what_is_wrong():
    wrong = ("1 files", "2 chunk", "0 node", "1 chunk are there", "2 files is there", "expired 1 snapshots")
    for text in wrong:
        with pytest.raises(AssertionError):
            check(text)
    assert check("1 file, 2,000 chunks; 1 branch") == [1, 2000, 1]
