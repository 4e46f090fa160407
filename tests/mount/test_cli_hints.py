"""What goes wrong on a mount, by command: the line names the thing once, and its hint helps in this case."""

import json
import os
import re
import shutil

import icechunk
import numpy as np
import pytest
import zarr

from icefs.cli.main import main
from icefs.cli.support.exit_codes import CONFLICT, NOT_FOUND, STATE, USAGE
from tests.support.hints import absolute_nodes, check, check_json
from tests.support.mounting import mounted


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A whole mount of a repository whose branch `dev` has one uncommitted change."""
    repo = tmp_path_factory.mktemp("hints") / "repo"
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(repo)))
    session = repository.writable_session("main")
    zarr.create_array(session.store, name="a", data=np.ones(4, "i4"), chunks=(2,))
    tip = session.commit("made")
    repository.create_branch("dev", tip)
    repository.create_tag("v1", tip)
    with mounted(repo) as mount:
        (mount / "branches/dev/a/c/1").unlink()
        session = repository.writable_session("dev")
        zarr.open_array(session.store, path="a")[2:] = 7
        session.commit("theirs")
        mount.refresh()
        yield {"R": str(repo), "M": str(mount.path), "D": f"{mount.path}/branches/dev"}


# {R} is the repository, {M} the mount, {D} its branch dev: what is said, and what the hint has in it.
CASES = [
    ("status {M}/nothing", NOT_FOUND, "no such file or directory: ", ""),
    ("commit {M}/branches/main -m x", STATE, "", ""),
    ("commit {D} -m x", CONFLICT, "has moved", "rebase"),
    ("rebase {D}", CONFLICT, "conflicts with these changes", ""),
    ("discard {D}", USAGE, "this would drop all changes of the branch", "--all"),
    ("diff {M}", USAGE, "not in a branch", "give a path in a branch"),
    ("warmup {M}", USAGE, "belongs to no branch, tag or snapshot", "branches/main"),
    ("umount {D}", NOT_FOUND, "not a mountpoint: ", "icefs umount {M}"),
    ("mount {R} {M}", USAGE, "already a mountpoint", "icefs umount {M}"),
    ("mount {R} {R}", USAGE, "", ""),
    ("blame {D} nothing", NOT_FOUND, "no array at /nothing", "'icefs ls'"),
    ("branch delete nope --repo {M}", NOT_FOUND, "there is no branch nope", "there are dev, main"),
    ("log {D} maim", NOT_FOUND, "maim is no snapshot, branch or tag", "did you mean main?"),
    ("cat {D} a/c/7", NOT_FOUND, "the array has no such chunk", ""),
    ("import {R} {M}/tags/v1", USAGE, "the mounted tree is a tag", "--branch"),
]


@pytest.mark.parametrize(("line", "code", "said", "hinted"), CASES, ids=[case[0] for case in CASES])
def test_an_error_on_a_mount_names_the_thing_once_and_hints_at_what_helps(places, capsys, line, code, said, hinted):
    arguments = line.format(**places).split()
    assert main(arguments) == code
    told = capsys.readouterr().err
    message, hint = check(told, arguments)
    assert said in message
    assert hinted.format(**places) in hint
    assert main([*arguments, "--json"]) == code
    check_json(capsys.readouterr().err, told, code)


def test_json_has_paths_without_and_text_nodes_with_a_leading_slash(tmp_path, capsys):
    repo = tmp_path / "repo"
    session = icechunk.Repository.create(icechunk.local_filesystem_storage(str(repo))).writable_session("main")
    zarr.create_group(session.store)
    for name in ("a", "b", "gone"):
        zarr.create_array(session.store, name=f"g/{name}", data=np.ones(4, "i4"), chunks=(2,))
    session.commit("made")
    with mounted(repo, branch="main") as mount:
        os.mkdir(mount / "moved")
        os.rename(mount / "g/b", mount / "moved/b")
        zarr.create_array(str(mount / "moved/new"), data=np.ones(4, "i4"))
        shutil.rmtree(mount / "g/gone")
        array = json.loads((mount / "g/a/zarr.json").read_text())
        (mount / "g/a/zarr.json").write_text(json.dumps({**array, "shape": [2]}))
        (mount / "notes").write_text("untracked")
        (mount / "moved/new/c/9").write_bytes(b"outside of the grid")
        documents = [mount.control(name) for name in ("status.json", "diff.json")]
        assert documents[0]["staged"]["new_nodes"] == ["moved/new"]
        for text in (mount / ".icefs/status").read_text(), (mount / ".icefs/diff").read_text():
            assert re.search(r"new +/moved/new(  zarr.json \d+ B)?\n", text)
            assert "renamed  /g/b -> /moved/b\n" in text
        told = []
        for command in (
            ["status"],
            ["diff"],
            ["stats"],
            ["commit", "-m", "x"],
            ["commit", "--skip-invalid", "-m", "x"],
        ):
            main([*command, str(mount.path), "--json"])
            captured = capsys.readouterr()
            told.append(captured.out or captured.err)
        documents += [json.loads(text) for text in told]
        assert documents[-2]["error"]["kind"] == "invalid-tree"
        documents += [*mount.rpc({"op": "accesses"}), mount.control("stats.json")]
        assert absolute_nodes(documents) == []
