"""Commands that work on a branch, given a path that lies in none: the line says where one is, and what to do."""

import itertools

import icechunk
import numpy as np
import pytest
import zarr

from icefs.cli.main import main
from icefs.cli.support.exit_codes import FORBIDDEN, NOT_FOUND, USAGE
from tests.support.hints import check
from tests.support.mounting import Mount, mounted


def make_repository(repo):
    """Makes a repository with one array, /a, and the tag v1; returns its tip."""
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(repo)))
    session = repository.writable_session("main")
    zarr.create_array(session.store, name="a", data=np.ones(4, "i4"), chunks=(2,))
    tip = session.commit("made")
    repository.create_tag("v1", tip)
    return tip


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Paths outside of writable branches, by what they are; each mount shows one array, /a."""
    repo = tmp_path_factory.mktemp("outside") / "repo"
    tip = make_repository(repo)
    with mounted(repo) as whole, mounted(repo, tag="v1") as tag, mounted(repo, branch="main", read_only=True) as closed:
        yield {
            "root": whole.path,
            "branches": whole / "branches",
            "tags": whole / "tags",
            "snapshots": whole / "snapshots",
            "as-of": whole / "as-of",
            "as-of-branch": whole / "as-of/main",
            "control": whole / ".icefs",
            "then": whole / "as-of/main/2100-01-01",
            "tag": whole / "tags/v1",
            "tag-array": whole / "tags/v1/a",
            "tag-control": whole / "tags/v1/.icefs",
            "snapshot": whole / f"snapshots/{tip}",
            "tag-alone": tag.path,
            "read-only": closed.path,
            "read-only-array": closed / "a",
        }


COMMANDS = ("commit {} -m x", "commit {}", "commit {} --amend", "discard {}", "discard {} --all", "rebase {}")
IN_NO_TREE = ("root", "branches", "tags", "snapshots", "as-of", "as-of-branch", "control")
READ_ONLY = ("then", "tag", "tag-array", "tag-control", "snapshot", "tag-alone", "read-only", "read-only-array")


@pytest.mark.parametrize(("line", "place"), list(itertools.product((*COMMANDS, "diff {}"), IN_NO_TREE)))
def test_a_path_above_all_branches_is_refused_with_a_branch_to_give(places, capsys, line, place):
    arguments = line.format(places[place]).split()
    assert main(arguments) == USAGE
    message, hint = check(capsys.readouterr().err, arguments)
    where = "at the root of a mount"
    if place in ("branches", "tags", "snapshots"):
        where = f"in the directory of all {place}"
    elif place.startswith("as-of"):
        where = "in the directory of all versions by time"
    assert message == f"not in a branch, but {where}: {places[place]}"
    assert hint == f"give a path in a branch, as {places['branches']}/main"


@pytest.mark.parametrize(("line", "place"), list(itertools.product(COMMANDS, READ_ONLY)))
def test_a_path_in_a_read_only_tree_is_refused_with_the_way_to_a_branch(places, capsys, line, place):
    arguments = line.format(places[place]).split()
    assert main(arguments) == FORBIDDEN
    message, hint = check(capsys.readouterr().err, arguments)
    if place.startswith("read-only"):
        assert message == f"this mount is read-only: {places['read-only']}"
        assert "without --read-only" in hint
    else:
        name = places[place].resolve().name if place in ("snapshot", "then") else "v1"
        assert message == f"this tree is read-only: {place.partition('-')[0].replace('then', 'snapshot')} {name}"
        assert f"'icefs branch create NAME {name} --repo " in hint


@pytest.mark.parametrize("place", [*IN_NO_TREE, *READ_ONLY])
def test_the_status_of_any_place_in_a_mount_is_shown(places, capsys, place):
    assert main(["status", str(places[place])]) == 0
    assert capsys.readouterr().out.startswith("Repository " if place in IN_NO_TREE else "On ")


@pytest.mark.parametrize("place", [*IN_NO_TREE, "tag", "snapshot", "tag-alone", "read-only", "tag-control"])
def test_blame_of_what_is_no_array_says_what_it_is(places, capsys, place):
    arguments = ["blame", str(places[place])]
    code = main(arguments)
    message, hint = check(capsys.readouterr().err, arguments)
    if place in IN_NO_TREE:
        assert (code, message.partition(", but")[0]) == (USAGE, "not in a branch")
    elif place == "tag-control":
        assert (code, message.partition(":")[0]) == (USAGE, "not an array, but the mount's control directory")
    else:
        assert (code, message.partition(" in ")[0]) == (NOT_FOUND, "no array at /")
    assert hint


def test_blame_takes_a_node_below_the_path_and_an_array_at_the_root(places, capsys, tmp_path):
    for arguments in (["tag-array"], ["tag", "a"], ["tag", "a/"], ["read-only-array"]):
        assert main(["blame", str(places[arguments[0]]), *arguments[1:]]) == 0
        assert "2 chunks in a grid of 2" in capsys.readouterr().out
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
    session = repository.writable_session("main")
    zarr.create_array(session.store, data=np.ones(6, "i4"), chunks=(2,))
    session.commit("an array alone")
    with mounted(tmp_path / "repo", branch="main") as mount:
        for where in ([str(mount.path)], [str(tmp_path / "repo"), "/"]):
            assert main(["blame", *where]) == 0
            assert "3 chunks in a grid of 3" in capsys.readouterr().out


def test_a_control_directory_of_a_branch_is_nothing_to_discard(capsys, tmp_path):
    make_repository(tmp_path / "repo")
    with mounted(tmp_path / "repo", branch="main") as mount:
        (mount / "a/c/0").unlink()
        assert main(["discard", str(mount / ".icefs")]) == USAGE
        assert "not a part of the branch, but the mount's control directory" in capsys.readouterr().err
        assert main(["commit", str(mount / ".icefs"), "-m", "from within"]) == 0


@pytest.mark.parametrize("operation", ["commit", "discard", "rebase", "cancel"])
def test_programs_that_ask_outside_of_a_branch_get_a_refusal_that_says_so(places, operation):
    whole = Mount(places["root"], 0, places["root"])
    [at_root] = whole.rpc({"op": operation})
    [at_tag] = whole.rpc({"op": operation}, "tags/v1")
    assert (at_root["error"], at_root["message"].partition(",")[0]) == ("InvalidInputError", "not in a branch")
    assert (at_tag["error"], at_tag["message"]) == ("ReadOnlyError", "this tree is read-only: tag v1")
