"""`log --graph`, `log` and `diff A...B` of histories with merges, picked and restored commits."""

import json
import re

import pytest

from icefs.engine.write.repository import WritableRepository
from icefs.paths import NodePath
from icefs.storage.url import open_storage
from tests.support.transactions import commit_start

A = NodePath("/a")


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def repo(request, tmp_path):
    with WritableRepository.create(open_storage(str(tmp_path / "repo")), spec_version=request.param) as made:
        made.create_branch("dev", commit_start(made))
    return str(tmp_path / "repo")


def write(repo, branch, index, message):
    with WritableRepository.open(open_storage(repo)) as opened:
        session = opened.writable_session(branch)
        session.chunks.set(A, index, message.encode())
        return str(session.commit(message))


def drawn(run, *arguments):
    return [re.sub(r"[0-9A-Z]{20} (\(.*?\) )?\d{4}-.* UTC  ", "", line) for line in run(*arguments).splitlines()]


def test_the_graph_shows_both_parents_of_a_merge(repo, run, run_json):
    write(repo, "dev", (1, 1), "d1")
    write(repo, "main", (2, 2), "m1")
    run("merge", "dev", "--repo", repo, "-m", "merged")
    write(repo, "dev", (1, 2), "d2")
    assert drawn(run, "log", repo, "--graph") == [
        "* d2",
        "| * merged",
        "| |\\",
        "| * | m1",
        "|_|/",
        "* | d1",
        "|/",
        "* start",
        "* Repository initialized",
    ]
    told = run_json("log", repo, "--graph")
    messages = [one["message"] for one in told]
    assert messages == ["d2", "merged", "m1", "d1", "start", "Repository initialized"]
    assert told[1]["origin"] == {"kind": "merge", "snapshot_id": told[3]["id"]}


def test_a_merged_history_is_shown_whose_branch_is_gone(repo, run, run_json):
    write(repo, "dev", (1, 1), "d1")
    write(repo, "main", (2, 2), "m1")
    run("merge", "dev", "--repo", repo, "-m", "merged")
    run("branch", "delete", "dev", "--repo", repo)
    assert "d1" in [one["message"] for one in run_json("log", repo, "--graph")]
    assert "d1" in [one["message"] for one in run_json("log", repo, "main", "--graph", "-n", "9")]
    # The linear history is what it was.
    assert [one["message"] for one in run_json("log", repo)] == ["merged", "m1", "start", "Repository initialized"]


def test_metadata_that_name_nothing_draw_no_lane(repo, run):
    with WritableRepository.open(open_storage(repo)) as opened:
        session = opened.writable_session("main")
        session.chunks.set(A, (0, 1), b"x")
        session.commit("claims", {"icefs": {"merge": {"snapshot_id": "0" * 20, "ref": "gone"}}})
    assert drawn(run, "log", repo, "main", "--graph") == ["* claims", "* start", "* Repository initialized"]


def test_the_log_names_what_commits_were_made_of(repo, run, run_json):
    first = write(repo, "dev", (1, 1), "d1")
    run("cherry-pick", first, "--repo", repo)
    run("revert", "main", "--repo", repo)
    picked, reverted = run_json("log", repo)[1::-1]
    assert picked["origin"] == {"kind": "cherry_pick", "snapshot_id": first}
    assert reverted["origin"] == {"kind": "revert", "snapshot_id": picked["id"]}
    text = run("log", repo)
    assert f"Cherry-pick: {first}" in text
    assert f"Revert: {picked['id']}" in text


def test_a_diff_from_the_common_snapshot(repo, run, run_json):
    common = run_json("log", repo)[0]["id"]
    write(repo, "dev", (1, 1), "d1")
    write(repo, "main", (2, 2), "m1")
    told = run_json("diff", repo, "main...dev")
    assert (told["from"], told["updated_chunks"]) == (common, {"a": [[1, 1]]})
    assert run_json("diff", repo, "dev...main")["updated_chunks"] == {"a": [[2, 2]]}
    assert run("diff", repo, "main...dev", "--chunks") == "C  /a: 1 chunk\nC    1/1\n"
    tip = write(repo, "dev", (1, 2), "d2")
    run("merge", "dev", "--repo", repo)
    # Counting the merge, dev's tip is what both have.
    told = run_json("diff", repo, "dev...main")
    assert (told["from"], told["updated_chunks"]) == (tip, {"a": [[2, 2]]})
    assert run_json("diff", repo, "main...dev")["updated_chunks"] == {}
    assert json.loads(run("diff", repo, "main...main", "--json"))["updated_chunks"] == {}


def test_a_diff_of_what_is_not_there(repo, fail):
    assert "nothing is no snapshot" in fail(3, "diff", repo, "main...nothing")


def originals(told):
    return {tuple(one["index"]): (one["commit"], one["original"]) for one in told["chunks"]}


def test_blame_names_the_commits_that_made_brought_changes_first(repo, run, run_json):
    start = run_json("log", repo)[0]["id"]
    first, second = write(repo, "dev", (1, 1), "d1"), write(repo, "dev", (1, 2), "d2")
    own = write(repo, "main", (2, 2), "m1")
    run("merge", "dev", "--repo", repo, "-m", "merged")
    merged = run_json("log", repo)[0]["id"]
    third = write(repo, "dev", (1, 3), "d3")
    run("cherry-pick", third, "--repo", repo)
    picked = run_json("log", repo)[0]["id"]
    told = run_json("blame", repo, "a")
    expected = {
        (0, 0): (start, start),
        (1, 1): (merged, first),
        (1, 2): (merged, second),
        (1, 3): (picked, third),
        (2, 2): (own, own),
        (3, 3): (start, start),
    }
    assert originals(told) == expected
    assert [one["origin"]["kind"] if one["origin"] else None for one in told["commits"]] == [
        "cherry_pick", "merge", None, None,
    ]  # fmt: skip
    lines = run("blame", repo, "a").splitlines()
    below = lines[next(number for number, line in enumerate(lines) if merged in line) :]
    assert below[1].startswith(f"     from {second}") or below[1].startswith(f"     from {first}")
    # A branch that is merged into a third one, and a chunk that comes back from a version with merges.
    run("branch", "create", "third", start, "--repo", repo)
    run("merge", "main", "--repo", repo, "--branch", "third", "-m", "again")
    again = run_json("log", repo, "third")[0]["id"]
    found = originals(run_json("blame", f"{repo}@third", "a"))
    assert found == {index: (again if commit != start else start, first) for index, (commit, first) in expected.items()}
    write(repo, "third", (1, 1), "other")
    run("restore", "a/c/1/1", "--from", "main", "--repo", repo, "--branch", "third")
    restored = run_json("log", repo, "third")[0]["id"]
    assert originals(run_json("blame", f"{repo}@third", "a"))[1, 1] == (restored, first)


def test_blame_believes_no_metadata_that_lead_in_a_circle(repo, run_json):
    claimed = "0" * 20
    with WritableRepository.open(open_storage(repo)) as opened:
        for claim in (claimed, None):
            session = opened.writable_session("main")
            session.chunks.set(A, (0, 1), b"x")
            tip = str(opened.lookup_branch("main"))
            last = str(session.commit("claims", {"icefs": {"cherry_pick": {"snapshot_id": claim or tip}}}))
    assert originals(run_json("blame", repo, "a"))[0, 1] == (last, tip)
