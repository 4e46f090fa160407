"""Words that tell a user what else there is: refs of one name, histories that part, expirations that take nothing."""

import icechunk
import numpy as np
import pytest
import zarr

from icefs.cli.main import main
from icefs.cli.support.exit_codes import STATE, USAGE


@pytest.fixture
def repo(tmp_path):
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
    write(repository, "main", "base")
    repository.create_branch("dev", repository.lookup_branch("main"))
    repository.create_tag("v1", repository.lookup_branch("main"))
    return tmp_path / "repo"


def write(repository, branch, name):
    session = repository.writable_session(branch)
    zarr.create_array(session.store, name=name, data=np.ones(2, "i4"), chunks=(2,))
    return session.commit(name)


@pytest.mark.parametrize(
    ("line", "kind", "name"), [("tag create main main", "branch", "main"), ("branch create v1", "tag", "v1")]
)
def test_no_ref_is_made_that_no_command_could_name(repo, capsys, line, kind, name):
    assert main([*line.split(), "--repo", str(repo)]) == STATE
    err = capsys.readouterr().err
    assert f"there is a {kind} {name}" in err
    assert "; choose another name" in err


def test_a_branch_may_take_a_tags_name_if_it_must_and_comes_back_under_it(repo, capsys):
    assert main(["branch", "create", "v1", "--force", "--repo", str(repo)]) == 0
    assert main(["branch", "delete", "v1", "--repo", str(repo)]) == 0
    undo = capsys.readouterr().out.rpartition("'icefs ")[2].partition("'")[0]
    assert undo.startswith("branch create --force v1 ")
    assert main(undo.split()) == 0


def test_a_diff_of_two_branches_names_the_snapshot_to_compare_from(repo, capsys):
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(repo)))
    common = repository.lookup_branch("main")
    for branch in ("main", "dev"):
        write(repository, branch, branch)
    assert main(["diff", str(repo), "main", "dev"]) == USAGE
    assert f"both descend from {common}, from which a diff to either can be made" in capsys.readouterr().err
    assert main(["diff", str(repo), common, "dev"]) == 0
    assert "A  /dev" in capsys.readouterr().out
    assert main(["diff", str(repo), "main", "v1"]) == USAGE
    assert f"; {common} is the older of these two\n" in capsys.readouterr().err


def test_an_expiration_that_takes_nothing_says_why(repo, capsys):
    assert main(["expire", str(repo), "--older-than", "0s"]) == 0
    shown, reason = capsys.readouterr().out.splitlines()
    assert shown.startswith("expired 0 snapshots ")
    assert reason == "every older snapshot is the tip of a branch or tag, or the first one, which stay"
    write(icechunk.Repository.open(icechunk.local_filesystem_storage(str(repo))), "main", "more")
    assert main(["branch", "delete", "dev", "--repo", str(repo)]) == 0
    assert main(["tag", "delete", "v1", "--repo", str(repo)]) == 0
    capsys.readouterr()
    assert main(["expire", str(repo), "--older-than", "0s"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("command", ["discard", "rebase"])
def test_the_help_says_what_becomes_of_an_open_files_later_bytes(capsys, command):
    assert main([command, "--help"]) == 0
    assert "these bytes go nowhere" in " ".join(capsys.readouterr().out.split())
