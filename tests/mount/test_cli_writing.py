"""`icefs` on a branch that can be written to: commit, amend, discard, rebase, umount; the official library looks on."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr

from icefs.cli.main import main
from icefs.cli.support.exit_codes import CONFLICT, NOT_FOUND, STATE, USAGE
from icefs.daemon.mountinfo import mounted_at
from tests.support.mounting import mounted
from tests.unit.cli.test_cli_json import DOCUMENTED

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def icefs(capsys):
    """Runs a command line in this process; returns what it printed, or its one line if it must fail."""

    def call(*arguments, code=0):
        found = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert found == code, err
        if code == 0:
            assert err == ""
            return out
        assert err.startswith("icefs: ")
        assert err.count("\n") == 1
        return err.removeprefix("icefs: ").strip()

    return call


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A new repository, mounted as a whole; each test has a branch of its own in it."""
    repo = tmp_path_factory.mktemp("writing") / "repo"
    icechunk.Repository.create(icechunk.local_filesystem_storage(str(repo)))
    with mounted(repo, state_dir=str(repo.parent / "trees")) as mount:
        yield mount.path, repo


@dataclass
class Branch:
    """A mounted branch, and what the official library sees of it."""

    path: Path
    repo: Path

    def official(self):
        return icechunk.Repository.open(icechunk.local_filesystem_storage(str(self.repo)))

    def history(self):
        return list(self.official().ancestry(branch=self.path.name))

    def read(self, name):
        return zarr.open_group(self.official().readonly_session(self.path.name).store, mode="r")[name]

    def commit_theirs(self, where, value):
        session = self.official().writable_session(self.path.name)
        zarr.open_group(session.store)["a"][where] = value
        session.commit("theirs")


@pytest.fixture
def mine(shared, request):
    """A branch of the test's own, that the shared mount shows."""
    place, repo = shared
    mine = Branch(place / "branches" / request.node.name, repo)
    mine.official().create_branch(request.node.name, mine.official().lookup_branch("main"))
    assert main(["refresh", str(place)]) == 0
    return mine


@pytest.fixture
def branch(mine, capsys):
    capsys.readouterr()
    return mine.path


def make(branch, name="a"):
    array = zarr.open_group(str(branch), mode="a").create_array(name, shape=(50,), chunks=(10,), dtype="i4")
    array[:] = np.arange(1, 51)
    return array


def check_fields(facts, command):
    assert list(facts) == DOCUMENTED[command]


def test_chunks_that_an_edit_drops(mine, branch, icefs):
    make(branch)
    icefs("commit", "-m", "made", branch)
    zarr.open_group(str(branch))["a"].resize((20,))  # deletes the chunks outside
    facts = json.loads(icefs("status", "--json", branch))
    assert facts["staged"]["chunks"] == {"a": {"written": 0, "rewritten": 0, "deleted": 3}}
    assert facts["staged"]["dropped_chunks"] == []
    icefs("discard", "--all", branch)
    metadata = json.loads((branch / "a/zarr.json").read_text())
    (branch / "a/zarr.json").write_text(json.dumps(metadata | {"shape": [20]}))  # does not
    (branch / "a/c/4").unlink()
    size = {index: (branch / f"a/c/{index}").stat().st_size for index in (2, 3)}
    told = "dropped  /a: 2 chunks; the array's grid of chunks is [2] now\n"
    assert f"\n  {told}" in icefs("status", branch)
    assert "chunks   /a: 1 deleted\n" in icefs("status", branch)
    assert told + "".join(f"  - {index}  {size[index]} B\n" for index in size) in icefs("diff", branch)
    assert icefs("commit", "-m", "smaller", branch).endswith(f"1 node, 1 chunk\n{told}")
    np.testing.assert_array_equal(mine.read("a")[:], np.arange(1, 21))
    assert os.listdir(branch / "a/c") == ["0", "1"]


def test_the_root_of_a_branch_cannot_be_removed_but_nothing_is_lost(branch, icefs):
    make(branch)
    icefs("commit", "-m", "made", branch)
    with pytest.raises(OSError) as failure:
        zarr.open_group(str(branch), mode="w")  # removes what is there, and then the directory
    assert failure.value.errno == errno.EROFS
    assert os.listdir(branch) == []
    icefs("discard", "--all", branch)
    np.testing.assert_array_equal(zarr.open_group(str(branch), mode="r")["a"][:], np.arange(1, 51))


def test_a_commit_says_what_the_official_library_cannot_read(branch, icefs):
    encoding = {"name": "v2", "separator": "."}
    zarr.create_array(str(branch), name="a", data=np.arange(4), chunks=(2,), chunk_key_encoding=encoding)
    told = icefs("commit", "-m", "x", branch)
    assert "note: /a: the official library cannot read its chunks, whose keys have the encoding 'v2'" in told
    assert json.loads((branch / ".icefs/commit").read_text())["notes"]
    zarr.open_array(str(branch), path="a")[0] = 9
    assert "note" not in icefs("commit", "-m", "again", branch)


def test_commit_and_amend(mine, branch, icefs):
    make(branch)
    (branch / "notes.txt").write_text("hello")
    facts = json.loads(icefs("status", "--json", branch))
    check_fields(facts, "status")
    assert facts["staged"]["new_nodes"] == ["", "a"]
    assert facts["untracked"] == ["notes.txt"]
    assert icefs("status", branch) == (branch / ".icefs/status").read_text()
    assert icefs("diff", branch) == (branch / ".icefs/diff").read_text()
    assert json.loads(icefs("diff", "--json", branch)) == json.loads((branch / ".icefs/diff.json").read_text())
    assert icefs("commit", branch, code=USAGE).startswith("a commit needs a message: -m MESSAGE; ")
    assert icefs("commit", branch, "-m", "x", "--meta", "=1", code=USAGE).startswith("not KEY=VALUE: '=1'; ")

    words = ["-m", "first", "-m", "with details", "--meta", "who=ada", "--meta", "n=[1]"]
    facts = json.loads(icefs("commit", "--json", *words, branch / "a"))
    check_fields(facts, "commit")
    [head, _] = mine.history()
    assert (head.id, head.message) == (facts["snapshot"], "first\n\nwith details")
    assert head.metadata == {"who": "ada", "n": [1]}
    assert icefs("commit", branch, "-m", "x", code=STATE).startswith("there is nothing to commit; ")

    zarr.open_array(str(branch / "a"))[0] = 100
    assert "untracked, not committed: notes.txt" in icefs("commit", "--amend", branch)
    [amended, root] = mine.history()
    assert (amended.message, amended.metadata) == ("first\n\nwith details", {"who": "ada", "n": [1]})
    assert (amended.id, root.message) != (head.id, "first")
    assert mine.read("a")[0] == 100
    assert icefs("commit", "--amend", branch, code=STATE).startswith("there is nothing to commit; ")
    icefs("commit", "--amend", "-m", "better", "--meta", "n=2", branch)
    assert (mine.history()[0].message, mine.history()[0].metadata) == ("better", {"who": "ada", "n": 2})
    icefs("commit", "--allow-empty", "-m", "nothing", branch)
    assert [info.message for info in mine.history()] == ["nothing", "better", "Repository initialized"]
    assert zarr.open_array(str(branch / "a"))[0] == 100


def test_what_cannot_be_committed(mine, branch, icefs):
    make(branch)
    (branch / "lost").mkdir()
    (branch / "lost/0").write_bytes(b"chunk")
    assert "lost/0" in icefs("commit", "-m", "x", branch, code=USAGE)
    icefs("commit", "--skip-invalid", "-m", "x", branch)
    assert mine.history()[0].message == "x"
    facts = json.loads(icefs("status", "--json", branch))
    assert [one["path"] for one in facts["invalid"]] == ["lost/0"]
    assert not any(facts["staged"].values())


def test_discard(branch, icefs, monkeypatch):
    make(branch)
    icefs("commit", "-m", "x", branch)
    shutil.rmtree(branch / "a")
    (branch / "b").write_text("b")
    assert "1 change" not in icefs("discard", branch, code=USAGE)
    check_fields(json.loads(icefs("discard", "--json", branch / "a")), "discard")  # removed files come back
    assert zarr.open_array(str(branch / "a"))[3] == 4
    assert (branch / "b").exists()
    monkeypatch.chdir(branch)
    assert icefs("discard", "b").startswith("dropped ")
    assert icefs("discard", "b") == "nothing to drop\n"
    make(branch, "c")
    assert icefs("discard", "--all").startswith("dropped ")
    assert sorted(os.listdir(branch)) == ["a", "zarr.json"]


def test_conflicts(mine, branch, icefs):
    make(branch)
    icefs("commit", "-m", "x", branch)
    zarr.open_array(str(branch / "a"))[0] = 100
    mine.commit_theirs(slice(40, 50), 7)
    theirs = mine.history()[0].id
    assert f"; others have committed {theirs} (theirs); " in icefs("commit", "-m", "y", branch, code=CONFLICT)
    assert "amend" in icefs("commit", "--amend", branch, code=CONFLICT)
    assert "rebase" in icefs("commit", "--amend", "--rebase", "ours", branch, code=USAGE)
    icefs("refresh", branch)
    facts = json.loads(icefs("status", "--json", branch))
    assert (facts["tip_moved"], facts["tip_ahead"]) == (True, 1)
    assert "The tip has moved by 1 commit to " in icefs("status", branch)
    check_fields(json.loads(icefs("rebase", "--json", branch)), "rebase")
    assert icefs("rebase", branch).startswith("the changes stand already on ")
    icefs("commit", "-m", "y", branch)
    assert zarr.open_array(str(branch / "a"))[[0, 45]].tolist() == [100, 7]

    zarr.open_array(str(branch / "a"))[0] = 101
    mine.commit_theirs(slice(0, 10), 8)
    theirs = mine.history()[0].id
    why = f"commit {theirs} (theirs) conflicts with these changes: ChunkDoubleUpdate at /a, chunk 0; "
    assert icefs("rebase", branch, code=CONFLICT).startswith(why)
    assert icefs("commit", "--rebase", "fail", "-m", "z", branch, code=CONFLICT).startswith(why)
    told = json.loads((branch / ".icefs/commit").read_text())
    assert [one["id"] for one in told["commits"]] == [theirs]
    assert told["conflicts"] == [{"type": "ChunkDoubleUpdate", "path": "a", "chunks": [[0]]}]
    assert zarr.open_array(str(branch / "a"))[0] == 101
    icefs("commit", "--rebase", "ours", "-m", "z", branch)
    assert [info.message for info in mine.history()][:4] == ["z", "theirs", "y", "theirs"]
    assert mine.read("a")[:2].tolist() == [101, 2]


def test_the_diff_down_to_chunks(branch, icefs):
    make(branch)
    zarr.open_group(str(branch)).create_group("g")
    icefs("commit", "-m", "x", branch)
    array = zarr.open_array(str(branch / "a"))
    array.resize((40,))
    array[:15] = 9
    (branch / "g").rename(branch / "h")
    facts = json.loads(icefs("diff", "--json", branch))
    assert facts["renamed_nodes"] == [{"from": "g", "to": "h"}]
    assert (facts["new_nodes"], facts["updated_nodes"], facts["deleted_nodes"]) == ([], ["a"], [])
    changes = facts["chunks"]["a"]
    assert [row["index"] for row in changes["written"]] == [[0], [1]]
    assert [row["index"] for row in changes["deleted"]] == [[4]]
    for row in changes["written"]:
        assert row["new_bytes"] == (branch / f"a/c/{row['index'][0]}").stat().st_size
        assert row["old_bytes"]
    assert changes["deleted"][0]["old_bytes"]
    assert facts["metadata"]["a"]["new_bytes"] == (branch / "a/zarr.json").stat().st_size
    lines = icefs("diff", branch).splitlines()
    assert lines[0] == "renamed  /g -> /h"
    assert [line[:5] for line in lines[2:]] == ["  ~ 0", "  ~ 1", "  - 4"]
    staged = json.loads(icefs("status", "--json", branch))["staged"]
    assert staged["chunks"] == {"a": {"written": 2, "rewritten": 2, "deleted": 1}}
    assert icefs("diff", branch, branch.name, branch.name) == ""

    big = zarr.open_group(str(branch)).create_array("big", shape=(70,), chunks=(1,), dtype="i4")
    big[:] = 1
    assert "  … and 20 more: 20 new" in icefs("diff", branch).splitlines()
    assert "more" not in icefs("diff", "--chunks", branch)


def test_umount_keeps_commits_or_discards(tmp_path, icefs):
    repo, place = tmp_path / "repo", tmp_path / "mnt"
    place.mkdir()
    icefs("init", repo)
    try:
        icefs("mount", repo, place)
        check_umount(repo, place, icefs)
    finally:
        if mounted_at(str(place)) is not None:
            subprocess.run(["fusermount3", "-uz", place], check=True)


def check_umount(repo, place, icefs):
    branch = place / "branches/main"
    make(branch)
    text = icefs("umount", place)
    command = f"icefs mount {repo} {place}"
    assert text == f"branch main keeps uncommitted changes\nunmounted {place}\ncome back to them with: {command}\n"
    text = icefs(*command.split()[1:])
    look = f"'icefs status {branch}' lists them"
    assert text.splitlines()[1] == f"branch main has uncommitted changes of an earlier mount: {look}"
    assert json.loads(icefs("status", "--json", branch))["staged"]["new_nodes"] == ["", "a"]

    assert icefs("umount", "--commit", place, code=USAGE).startswith("--commit needs a message")
    assert icefs("umount", "--commit", "-m", "x", "--discard", place, code=USAGE)
    (branch / "lost").mkdir()
    (branch / "lost/0").write_bytes(b"x")
    assert "lost/0" in icefs("umount", "--commit", "-m", "x", place, code=USAGE)
    assert place.is_mount()
    icefs("discard", branch / "lost")
    text = icefs("umount", "--commit", "-m", "at the end", place)
    assert re.fullmatch(rf"committed \w+ to branch main\nunmounted {place}\n", text)
    assert Branch(branch, repo).history()[0].message == "at the end"

    icefs("mount", repo, place, "--branch", "main")
    make(place, "b")
    facts = json.loads(icefs("umount", "--json", place))
    check_fields(facts, "umount")
    assert (facts["uncommitted"], facts["come_back"]) == (["main"], f"{command} --branch main")
    facts = json.loads(icefs("mount", "--json", repo, place, "--branch", "main"))
    check_fields(facts, "mount")
    assert facts["uncommitted"] == ["main"]
    assert "dropped" in icefs("umount", "--discard", place)
    facts = json.loads(icefs("mount", "--json", repo, place, "--branch", "main"))
    assert facts["uncommitted"] == []
    assert sorted(os.listdir(place)) == ["a", "zarr.json"]
    assert icefs("umount", place) == f"unmounted {place}\n"


def test_branches_and_tags_from_within(shared, mine, branch, icefs, monkeypatch):
    place, _ = shared
    make(branch)
    icefs("commit", "-m", "x", branch)
    monkeypatch.chdir(branch)
    head = json.loads(icefs("log", "--json"))[0]["id"]
    assert icefs("tag", "create", "v1") == f"created tag v1 at {head}\n"
    assert (place / "tags/v1/a/c/0").exists()  # at once
    icefs("branch", "create", "dev")
    make(place / "branches/dev", "d")
    icefs("commit", "-m", "on dev", place / "branches/dev")
    assert mine.official().lookup_branch("dev") != mine.history()[0].id == head
    assert not (branch / "d").exists()
    monkeypatch.chdir("/")


def test_outside_of_a_mount(tmp_path, icefs):
    for command in (["commit", "-m", "x"], ["discard"], ["rebase"], ["diff"]):
        assert icefs(*command, tmp_path, code=NOT_FOUND).startswith(f"not in an icefs mount: {tmp_path}")


def without_ids_and_times(text):
    """Takes the ids, times and scratch directory out of what the demo prints, and keeps each line."""
    text = re.sub(r"\b[0-9A-HJKMNP-TV-Z]{20}\b", "ID", text)
    text = re.sub(r"\b20\d\d-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    return re.sub(r"/\S+/(weather|mnt)\b", r"/\1", text).splitlines()


def test_the_demo_is_the_first_page_of_the_readme(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    done = subprocess.run([sys.executable, PROJECT / "scripts/demo.py"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    page = re.search(r"<!-- demo -->\n```\n(.*)```\n<!-- /demo -->", (PROJECT / "README.md").read_text(), re.DOTALL)
    assert without_ids_and_times(page[1]) == without_ids_and_times(done.stdout)
    assert list((tmp_path / "tmp").iterdir()) == []
