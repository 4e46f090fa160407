"""`icefs clone`, `pull` and `push`: what they print, where they go by default, and what they refuse."""

import pytest

from icefs.cli.main import main
from icefs.engine.repository import Repository
from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.support.command_lines import check_commands
from tests.support.exchanging import make, seen, write
from tests.unit.cli.test_cli_json import DOCUMENTED


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def repo(request, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    with make(open_storage("ours"), request.param):
        return "ours"


def commit(repo, branch, seed):
    with WritableRepository.open(open_storage(repo)) as opened:
        return str(write(opened, branch, seed))


def state(repo):
    return seen(open_storage(repo))


def test_a_clone_knows_where_it_came_from(repo, run, run_json):
    told = run_json("clone", repo, "copy", "--dry-run")
    assert list(told) == DOCUMENTED["clone"]
    assert (told["missing"], told["dry_run"]) == (told["objects"], True)
    assert not Repository.exists(open_storage("copy"))
    lines = run("clone", repo, "copy", "--verify").splitlines()
    assert [line.split(" at ")[0] for line in lines[:-1]] == [
        "branch dev created", "branch main created", "tag v1 created",
    ]  # fmt: skip
    assert lines[-1].startswith("7 new snapshots, ")
    assert lines[-1].endswith(" compared")
    assert state("copy") == state(repo)

    tip = commit(repo, "main", 6)
    told = run_json("pull", "--repo", "copy")
    assert list(told) == DOCUMENTED["pull"]
    [moved] = [each for each in told["refs"] if each["action"] == "forwarded"]
    assert (moved["name"], moved["snapshot_id"]) == ("main", tip)
    assert state("copy") == state(repo)

    commit("copy", "dev", 7)
    assert "branch dev moved from " in run("push", "--repo", "copy")
    assert state("copy") == state(repo)
    assert list(run_json("push", "--repo", "copy")) == DOCUMENTED["push"]


def test_a_refused_branch_and_the_commands_that_bring_it(repo, run, capsysbinary):
    run("clone", repo, "copy")
    commit(repo, "main", 6)
    commit("copy", "main", 7)
    capsysbinary.readouterr()
    assert main(["pull", "--repo", "copy"]) == 5
    told = capsysbinary.readouterr()
    assert b"branch main refused: it has commits that the source's branch main has not" in told.out
    assert main(["push", "--repo", "copy"]) == 5
    for line, more in zip(check_commands(told.err.decode()), ([], ["--ours"], []), strict=True):
        assert main([*line.replace("NAME", "main").split()[1:], *more]) == 0
    assert main(["push", "--branch", "main", "--repo", "copy"]) == 0
    capsysbinary.readouterr()
    ours, theirs = state("copy"), state(repo)
    assert ours["branch", "main"] == theirs["branch", "main"]
    assert [each[1] for each in ours["branch", "main"]][:2] == ["Merge main into theirs", "commit 6 to main"]


def test_a_part_under_other_names(repo, run_json):
    told = run_json("clone", repo, "copy", "--branch", "dev:work", "--depth", "2")
    assert [(each["source_name"], each["name"], each["action"]) for each in told["refs"]] == [
        ("dev", "work", "created")
    ]
    assert told["snapshots"] == 3
    told = run_json("pull", repo, "--repo", "copy", "--tag", "v1:release")
    assert [(each["kind"], each["name"]) for each in told["refs"]] == [("tag", "release")]


def test_what_is_not_known_or_not_there(repo, run, fail):
    run("clone", repo, "copy")
    assert "was not cloned by this user on this machine" in fail(2, "pull", "--repo", repo)
    assert "is not empty" in fail(2, "clone", repo, "copy")
    assert "has no branch nothing; there are dev and main" in fail(
        2, "pull", "--repo", "copy", "--branch", "nothing"
    ).replace("dev, main", "dev and main")
    assert "names no ref" in fail(2, "clone", repo, "other", "--branch", ":x")
    assert "no such file or directory" in fail(3, "clone", "nowhere", "other")


def test_a_note_that_is_damaged_is_none(repo, run, fail, tmp_path):
    run("clone", repo, "copy")
    [note] = (tmp_path / "state/icefs/origins").iterdir()
    assert note.stat().st_mode & 0o077 == 0
    for text in ("", "[]", '{"origin": 3}', "\udce9"):
        note.write_text(text, errors="surrogateescape")
        assert "was not cloned by this user" in fail(2, "pull", "--repo", "copy")
