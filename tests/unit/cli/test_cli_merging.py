"""`icefs merge`, `cherry-pick`, `revert` and `restore`: what they commit, list and refuse."""

import json
import shlex

import pytest

from icefs.cli.main import main
from icefs.engine.write.repository import WritableRepository
from icefs.paths import NodePath
from icefs.storage.url import open_storage
from tests.support.transactions import chunks_of, commit_start
from tests.unit.cli.test_cli_json import DOCUMENTED

A = NodePath("/a")


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def repo(request, tmp_path):
    with WritableRepository.create(open_storage(str(tmp_path / "repo")), spec_version=request.param) as made:
        made.create_branch("dev", commit_start(made))
    return str(tmp_path / "repo")


def write(repo, branch, *indices, data=b"new", message="write"):
    with WritableRepository.open(open_storage(repo)) as opened:
        session = opened.writable_session(branch)
        for index in indices:
            session.chunks.set(A, index, data)
        return str(session.commit(message))


def chunks(repo, branch="main"):
    with WritableRepository.open(open_storage(repo)) as opened:
        return chunks_of(opened, branch=branch)


def tip(repo, run_json, branch="main"):
    return next(one["snapshot_id"] for one in run_json("branch", "list", repo) if one["name"] == branch)


def test_a_merge(repo, run, run_json):
    incoming = write(repo, "dev", (1, 1))
    before = tip(repo, run_json)
    dry = run_json("merge", "dev", "--repo", repo, "--dry-run")
    assert (dry["snapshot_id"], dry["chunks"], dry["conflicts"], dry["dry_run"]) == (None, 1, [], True)
    assert run("merge", "dev", "--repo", repo, "--dry-run") == "would merge dev into main: 0 nodes, 1 chunk\n"
    assert tip(repo, run_json) == before
    told = run_json("merge", "dev", "--repo", repo, "-m", "both")
    assert list(told) == DOCUMENTED["merge"]
    assert (told["previous_id"], told["incoming_id"], told["is_new"]) == (before, incoming, True)
    assert told["snapshot_id"] == tip(repo, run_json)
    newest = run_json("log", repo, "-n", "1")[0]
    assert newest["message"] == "both"
    assert newest["metadata"]["icefs"]["merge"]["snapshot_id"] == incoming
    assert run("merge", "dev", "--repo", repo) == "the branch main has it already: dev into main\n"
    assert run("merge", "main", "--repo", repo, "--branch", "dev").startswith("committed ")
    assert chunks(repo, "dev") == chunks(repo)


def test_conflicts_are_listed_and_the_line_has_the_command_that_settles_them(repo, fail, run, run_json):
    write(repo, "dev", (1, 1), (1, 2), data=b"dev")
    write(repo, "main", (1, 1), data=b"main")
    line = fail(5, "merge", "dev", "--repo", repo)
    assert "conflicts with the branch 'main': ChunkDoubleUpdate at /a, chunk 1/1; choose a side" in line
    shown = run("merge", "dev", "--repo", repo, "--dry-run").splitlines()
    assert shown == [
        "cannot merge dev into main: 1 conflict",
        "conflict: ChunkDoubleUpdate at /a, chunk 1/1",
    ]
    dry = run_json("merge", "dev", "--repo", repo, "--dry-run")
    assert dry["conflicts"] == [{"type": "ChunkDoubleUpdate", "path": "a", "chunks": [[1, 1]]}]
    assert chunks(repo)[1, 1] == b"main"
    command = next(part for part in line.split("'") if "--theirs" in part)
    told = run(*shlex.split(command)[1:])
    assert told.splitlines()[1] == "the other side's counts: ChunkDoubleUpdate at /a, chunk 1/1"
    assert chunks(repo)[1, 1] == b"dev"


def test_an_error_for_programs_has_the_conflicts(repo, capsysbinary):
    write(repo, "dev", (1, 1), data=b"dev")
    write(repo, "main", (1, 1), data=b"main")
    assert main(["merge", "dev", "--repo", repo, "--json"]) == 5
    error = json.loads(capsysbinary.readouterr().err)["error"]
    assert error["conflicts"] == [{"type": "ChunkDoubleUpdate", "path": "a", "chunks": [[1, 1]]}]


def test_several_commits_are_picked_until_one_conflicts(repo, fail, run, run_json, capsysbinary):
    first = write(repo, "dev", (1, 1), message="first")
    second = write(repo, "dev", (2, 2), data=b"dev", message="second")
    third = write(repo, "dev", (1, 1), data=b"newer", message="third")
    write(repo, "main", (2, 2), data=b"main")
    before = tip(repo, run_json)
    dry = run_json("cherry-pick", first, third, second, "--repo", repo, "--dry-run")
    assert [(one["incoming_id"], len(one["conflicts"])) for one in dry] == [(first, 0), (third, 0), (second, 1)]
    assert list(dry[0]) == DOCUMENTED["cherry-pick"]
    assert tip(repo, run_json) == before
    assert main(["cherry-pick", first, second, third, "--repo", repo]) == 5
    done = capsysbinary.readouterr()
    made = tip(repo, run_json)
    assert done.out.decode() == f"committed {made}: picked {first} onto main: 0 nodes, 1 chunk\n"
    assert f"the commits before are made ({made})" in done.err.decode()
    command = next(part for part in done.err.decode().split("'") if "--ours" in part)
    run(*shlex.split(command)[1:])
    assert [one["message"] for one in run_json("log", repo, "-n", "3")] == ["third", "first", "write"]
    assert chunks(repo)[1, 1] == b"newer"
    assert chunks(repo)[2, 2] == b"main"


def test_a_message_is_for_one_commit(repo, fail):
    ids = [write(repo, "dev", (1, at)) for at in (1, 2)]
    assert "leave -m out" in fail(2, "cherry-pick", *ids, "--repo", repo, "-m", "both")


def test_a_revert(repo, run, run_json, fail):
    before = chunks(repo)
    wrong = write(repo, "main", (0, 0), (1, 1), data=b"wrong", message="a mistake")
    told = run_json("revert", wrong, "--repo", repo)
    assert list(told) == DOCUMENTED["revert"]
    assert (told["base_id"], told["chunks"]) == (wrong, 2)
    assert chunks(repo) == before
    assert run_json("log", repo, "-n", "1")[0]["message"] == 'Revert "a mistake"'
    assert run("revert", wrong, "--repo", repo) == f"the branch main has it already: {wrong} on main\n"
    assert "no snapshot, branch or tag" in fail(3, "revert", "nothing", "--repo", repo)


@pytest.mark.parametrize("words", [["merge", "dev"], ["cherry-pick", "dev"], ["revert", "dev"]])
def test_a_branch_that_is_not_there(repo, fail, words):
    write(repo, "dev", (1, 1))
    assert "no branch none" in fail(3, *words, "--repo", repo, "--branch", "none")


def test_a_restore(repo, run, run_json, fail, monkeypatch):
    before = chunks(repo)
    good = tip(repo, run_json)
    write(repo, "main", (0, 0), (1, 1), data=b"wrong")
    assert run("restore", "/a", "--from", good, "--repo", repo, "--dry-run") == (
        f"would restore /a from {good}: 0 nodes, 2 chunks\n"
    )
    told = run_json("restore", "a/c/0/0", "--from", good, "--repo", repo)
    assert list(told) == DOCUMENTED["restore"]
    assert (told["incoming_id"], told["chunks"]) == (good, 1)
    assert chunks(repo) == {**before, (1, 1): b"wrong"}
    monkeypatch.chdir(repo)
    told = run("restore", "a", "--from", good, "-m", "as it was")
    assert told.endswith(f"restored a from {good}: 0 nodes, 1 chunk\n")
    assert chunks(repo) == before
    assert run_json("log", repo, "-n", "1")[0]["message"] == "as it was"
    assert run("restore", "a", "--from", good) == f"the branch main has it already: a from {good}\n"
    assert "nothing at none" in fail(3, "restore", "none", "--from", good)
    assert "no chunk a/c/1/1" in fail(3, "restore", "a/c/1/1", "--from", good)
    assert "a zarr.json comes back with its node" in fail(2, "restore", "a/zarr.json", "--from", good)
