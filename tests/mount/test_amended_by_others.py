"""Others amend or reset the commit that changes stand on: the refusal lists what is new, and no old history."""

import json

import icechunk
import numpy as np
import pytest
import zarr

import icefs
from icefs.cli.main import main
from icefs.cli.support.exit_codes import CONFLICT
from tests.support.mounting import mounted


@pytest.fixture
def official(tmp_path):
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
    session = repository.writable_session("main")
    zarr.create_array(session.store, name="a", data=np.ones(8, "i4"), chunks=(1,))
    session.commit("base")
    for number in range(3):
        write(repository, number, f"old {number}")
    return repository


def write(repository, chunk, message, *, amend=False):
    session = repository.writable_session("main")
    zarr.open_array(session.store, path="a")[chunk] = 50 + chunk
    return session.amend(message) if amend else session.commit(message)


def amended(repository):
    return [write(repository, 4, "better", amend=True)]


def amended_twice(repository):
    write(repository, 4, "better", amend=True)
    return [write(repository, 5, "best", amend=True)]


def amended_and_more(repository):
    first = write(repository, 4, "better", amend=True)
    return [write(repository, 5, "more"), first]


def reset_and_more(repository):
    parent = list(repository.ancestry(branch="main"))[2]
    repository.reset_branch("main", parent.id)
    return [write(repository, 5, "elsewhere")]


def more(repository):
    first = write(repository, 4, "one")
    return [write(repository, 5, "two"), first]


WHAT = [amended, amended_twice, amended_and_more, reset_and_more, more]


def said_of(what, base, news):
    if what is more:
        return None
    if what is reset_and_more:
        return f"{base} is not in the branch's history any more, for the branch was reset"
    return f"{base} was amended to {news[-1]}"


@pytest.mark.parametrize("what", WHAT, ids=lambda what: what.__name__)
def test_a_refused_commit_lists_what_the_branch_has_and_the_base_has_not(tmp_path, official, capsys, what):
    base = official.lookup_branch("main")
    repository = icefs.Repository.open(icefs.local_filesystem_storage(str(tmp_path / "repo")))
    session = repository.writable_session("main")
    zarr.open_array(session.store, path="a")[7] = 9
    with mounted(tmp_path / "repo", branch="main") as mount:
        zarr.open_array(str(mount.path / "a"))[7] = 9
        news = what(official)
        said = said_of(what, base, news)
        assert main(["commit", str(mount.path), "-m", "mine"]) == CONFLICT
        err = capsys.readouterr().err
        listed = err.partition("; others have committed ")[2]
        assert [one for one in listed.replace(",", " ").split() if len(one) == 20 and one.isupper()] == news, err
        assert (said is None and "was amended" not in err) or f"; {said}; others have" in err
        facts = json.loads((mount / ".icefs/commit").read_text())
        assert [one["id"] for one in facts["commits"]] == news
    with pytest.raises(icefs.ConflictError) as raised:
        session.commit("mine")
    assert (said or "has moved") in str(raised.value)


def test_a_conflict_with_an_amended_commit_says_what_was_amended(tmp_path, official, capsys):
    base = official.lookup_branch("main")
    with mounted(tmp_path / "repo", branch="main") as mount:
        zarr.open_array(str(mount.path / "a"))[4] = 9
        [new] = amended(official)
        assert main(["rebase", str(mount.path)]) == CONFLICT
        err = capsys.readouterr().err
        assert f"commit {new} (better) conflicts with these changes: " in err
        assert f"; {base} was amended to {new}; " in err
