"""`icefs init`, refs, and what `icefs commit` does before and after it asks the daemon."""

import shutil

import click
import pytest

from icefs.cli.commands.commit import ask_for_message
from icefs.cli.support import options
from icefs.cli.support.commits import explain, parse_metadata
from icefs.cli.support.exit_codes import NOT_FOUND, STATE, USAGE
from icefs.cli.support.progress import CommitProgress
from icefs.engine.repository import Repository
from icefs.errors import BranchMovedError, InvalidInputError, RebaseFailedError
from icefs.storage.url import open_storage


@pytest.fixture
def repo(tmp_path, demo):
    return shutil.copytree(demo, tmp_path / "repo")


def refs(repo):
    found = Repository.open(open_storage(str(repo))).refs()
    return {name: str(tip) for name, tip in {**found.branches, **found.tags}.items()}


# init


@pytest.mark.parametrize("version", [1, 2])
def test_init(version, tmp_path, run_json, fail):
    place = tmp_path / "new"
    facts = run_json("init", place, "--spec-version", version)
    assert facts == {"repository": facts["repository"], "spec_version": version}
    assert Repository.open(open_storage(str(place))).spec_version == version
    assert "not empty" in fail(USAGE, "init", place)


def test_init_says_how_to_go_on(tmp_path, run):
    assert run("init", tmp_path / "new") == f"made {tmp_path}/new; mount it with 'icefs mount {tmp_path}/new MNT'\n"


# Branches and tags


def test_a_branch_is_created_reset_deleted_and_brought_back(repo, run, run_json, fail):
    first, last = refs(repo)["v1.0"], refs(repo)["main"]
    assert run_json("branch", "create", "dev", "--repo", repo) == {"name": "dev", "snapshot_id": last}
    assert "exists already" in fail(STATE, "branch", "create", "dev", "--repo", repo)
    facts = run_json("branch", "reset", "dev", "v1.0", "--repo", repo)
    assert facts == {"name": "dev", "snapshot_id": first, "previous_id": last}
    text = run("branch", "reset", "dev", last, "--repo", repo)
    undo = f"icefs branch reset dev {first} --repo {repo}"
    assert text == f"branch dev is at {last}; it was at {first}: '{undo}' brings it back\n"
    text = run("branch", "delete", "dev", "--repo", repo)
    assert "dev" not in refs(repo)
    command = text.split("'")[1].split()
    assert command[0] == "icefs"
    assert run(*command[1:]) == f"created branch dev at {last}\n"
    assert refs(repo)["dev"] == last
    assert "cannot be deleted" in fail(STATE, "branch", "delete", "main", "--repo", repo)
    assert fail(NOT_FOUND, "branch", "delete", "nothing", "--repo", repo)
    assert fail(NOT_FOUND, "branch", "reset", "dev", "nothing", "--repo", repo)


def test_a_tag_is_created_and_deleted_for_good(repo, run, run_json, fail):
    first = refs(repo)["v1.0"]
    assert run_json("tag", "create", "again", "v1.0", "--repo", repo) == {"name": "again", "snapshot_id": first}
    text = run("tag", "delete", "again", "--repo", repo)
    assert f"'icefs tag create NAME {first} --repo {repo}'" in text
    assert "again" not in refs(repo)
    assert fail(STATE, "tag", "create", "again", "--repo", repo)
    assert run_json("tag", "delete", "v1.0", "--repo", repo) == {"name": "v1.0", "snapshot_id": first}
    assert fail(NOT_FOUND, "tag", "delete", "v1.0", "--repo", repo)


# Messages


class FakeMount:
    """Stands for a mounted branch."""

    def __init__(self):
        self.asked = []

    def read_json(self, name):
        return {
            "kind": "branch",
            "name": "main",
            "snapshot": "ID",
            "flushed_at": None,
            "message": None,
            "writable": True,
            "staged": {
                "new_nodes": ["a"], "updated_nodes": [], "deleted_nodes": [], "renamed_nodes": [], "chunks": {},
            },
            "untracked": [],
            "invalid": [],
        }  # fmt: skip

    def ask(self, operation):
        self.asked.append(operation)
        return {"cancelled": True}


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)


@pytest.mark.parametrize(
    ("written", "message"),
    [("a message\n# x\n", "a message"), ("\n\none\n\ntwo\n# y\n#z\n", "one\n\ntwo"), (None, None), ("# only\n", None)],
)
def test_an_editor_asks_for_the_message(written, message, monkeypatch, terminal):
    shown = []
    monkeypatch.setattr(click, "edit", lambda text, **_: shown.append(text) or written)
    if message is None:
        with pytest.raises(InvalidInputError):
            ask_for_message(FakeMount())
    else:
        assert ask_for_message(FakeMount()) == message
    assert "#   new      /a\n" in shown[0]
    assert all(line.startswith("#") for line in shown[0].splitlines()[1:])


def test_metadata():
    assert parse_metadata(("a=1", "b=x=y", 'c={"d": null}', "e=")) == {"a": 1, "b": "x=y", "c": {"d": None}, "e": ""}
    with pytest.raises(InvalidInputError):
        parse_metadata(("a",))


def test_conflicts_are_explained():
    commits = [{"id": f"ID{n}", "message": f"m{n}\nmore"} for n in range(7)]
    assert explain(BranchMovedError("moved", commits=commits)) == (
        "moved; others have committed ID0 (m0), ID1 (m1), ID2 (m2), ID3 (m3), ID4 (m4) and 2 more"
    )
    conflicts = [
        {"type": "ChunkDoubleUpdate", "path": "a", "chunks": [[0, 1], [2, 3]]},
        {"type": "DeleteOfUpdatedArray", "path": "b", "chunks": None},
    ]
    error = RebaseFailedError("failed", snapshot="ID1", commits=commits, conflicts=conflicts)
    assert explain(error) == (
        "commit ID1 (m1) conflicts with these changes: ChunkDoubleUpdate at /a, chunks 0/1, 2/3; "
        "DeleteOfUpdatedArray at /b"
    )
    assert explain(BranchMovedError("moved")) == "moved"


# Terminals


def test_colours_are_for_terminals_that_want_them(monkeypatch, capsys):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    lines = [("plain", "On branch"), ("staged", "new"), ("invalid", "bad\x1b[31m"), ("untracked", "other")]
    options.print_painted(lines)
    assert capsys.readouterr().out == "On branch\nnew\nbad\\x1b[31m\nother\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    options.print_painted(lines)
    assert capsys.readouterr().out == (
        "On branch\n\x1b[32mnew\x1b[0m\n\x1b[31mbad\\x1b[31m\x1b[0m\n\x1b[33mother\x1b[0m\n"
    )
    monkeypatch.setenv("NO_COLOR", "1")
    options.print_painted(lines[1:2])
    assert capsys.readouterr().out == "new\n"


def test_a_bar_is_shown_where_it_takes_long_and_somebody_looks(monkeypatch, capsys):
    told = {"files": 1, "total_files": 2, "bytes": 10, "total_bytes": 20}
    monkeypatch.setattr("icefs.cli.support.progress.PATIENCE_S", 0.0)
    with CommitProgress(FakeMount()) as progress:
        progress(told)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with CommitProgress(FakeMount()) as progress:
        progress(told)
        progress({**told, "files": 2})
    assert "2/2 chunks" in capsys.readouterr().err


def test_a_second_interrupt_does_not_wait():
    mount = FakeMount()
    with CommitProgress(mount) as progress:
        progress._interrupt(2, None)
        with pytest.raises(KeyboardInterrupt):
            progress._interrupt(2, None)
    assert mount.asked == ["cancel"]
