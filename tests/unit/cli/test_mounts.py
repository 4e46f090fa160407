"""Finding the mount that a path lies in: on directories that look like one."""

import errno
import json
import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from icefs.cli.main import main
from icefs.cli.support.exit_codes import FORBIDDEN, NOT_FOUND, STATE
from icefs.cli.support.mounts import Mounted, find_mount, require_mount
from icefs.daemon import mountinfo
from icefs.engine.write.repository import WritableRepository
from icefs.errors import EntryNotFoundError, FormatError, NotPermittedError, StaleError, UntrustedMountError
from icefs.storage import url
from icefs.storage.local.store import LocalStorage
from tests.support.fake_mounts import ROOT_LINE, line
from tests.support.hostile import deadline


@pytest.fixture
def table(tmp_path, monkeypatch):
    """What the kernel calls mounted: nothing but the root, until a test writes more."""
    path = tmp_path / "mountinfo"
    path.write_text(ROOT_LINE)
    monkeypatch.setattr(mountinfo, "MOUNT_TABLE", path)
    return path


@pytest.fixture
def mount(tmp_path, table):
    """A directory that the kernel calls a mount, with the control files of one, in the root and in one tree."""
    root = tmp_path / "mnt"
    tree = root / "branches" / "main"
    (tree / "group" / "array").mkdir(parents=True)
    for place, info in (
        (root, {"pid": os.getpid(), "repository": "file:///r", "mountpoint": str(root)}),
        (tree, {"kind": "branch", "name": "main", "snapshot": "1CECHNKREP0F1RSTCMT0"}),
    ):
        (place / ".icefs").mkdir()
        (place / ".icefs/info.json").write_text(json.dumps(info))
        (place / ".icefs/status").write_text(f"status of {place.name}\n")
        (place / ".icefs/status.json").write_text(json.dumps({"name": place.name}))
    table.write_text(ROOT_LINE + line(root))
    return root


@pytest.mark.parametrize(
    ("place", "tree"),
    [
        (".", "."),
        ("branches", "."),
        ("branches/main", "branches/main"),
        ("branches/main/group/array", "branches/main"),
        ("branches/main/group/array/../..", "branches/main"),
    ],
)
def test_the_nearest_tree_and_the_root(mount, place, tree):
    found = find_mount(mount / place)
    assert found.root == mount
    assert found.tree == (mount / tree).resolve()
    assert found.info["repository"] == "file:///r"


def test_the_current_directory_and_links_to_it(mount, monkeypatch, tmp_path):
    (tmp_path / "link").symlink_to(mount / "branches/main/group")
    monkeypatch.chdir(tmp_path / "link")
    assert find_mount(".").tree == mount / "branches/main"
    assert find_mount(tmp_path / "link").root == mount


def test_outside_of_any_mount(tmp_path, table):
    assert find_mount(tmp_path) is None
    with pytest.raises(EntryNotFoundError, match="not in an icefs mount"):
        require_mount(tmp_path)
    with pytest.raises(EntryNotFoundError, match="no such file"):
        find_mount(tmp_path / "missing")


def test_a_control_file_that_is_none(mount):
    (mount / ".icefs/info.json").write_text("[]")
    with pytest.raises(FormatError, match="not a JSON object"):
        find_mount(mount)


def test_a_dead_daemon_is_named_with_its_mountpoint(mount, monkeypatch):
    def gone(self):
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected", str(self))

    monkeypatch.setattr(type(mount), "stat", gone)
    with pytest.raises(StaleError) as caught:
        find_mount(mount / "branches")
    assert caught.value.own_message == f"the daemon of the mount has ended: {mount}"
    assert str(mount) in caught.value.hint


def test_status_of_tree_and_root(mount, capsys):
    assert main(["status", str(mount / "branches/main/group")]) == 0
    assert capsys.readouterr().out == "status of main\n"
    assert main(["status", "--json", str(mount)]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "mnt"}


def test_a_path_in_a_tree_stands_for_its_repository_and_snapshot(mount, run, run_json, demo):
    info = json.loads((mount / ".icefs/info.json").read_text()) | {"repository": demo}
    (mount / ".icefs/info.json").write_text(json.dumps(info))
    tree = mount / "branches/main"
    assert run("log", "--oneline", tree / "group") == "1CECHNKREP0F1RSTCMT0 Repository initialized\n"
    assert run("log", "--oneline", "-n", 1, tree, "warmer").endswith("(warmer) What if it were two degrees warmer?\n")
    assert run("ls", tree) == ""
    assert run("ls", f"{tree}@main") == "weather/\n"
    assert [entry["name"] for entry in run_json("branch", "list", tree)] == ["main", "warmer"]
    facts = run_json("info", tree)
    assert (facts["repository"], facts["kind"], facts["snapshot"]) == (demo, "branch", "1CECHNKREP0F1RSTCMT0")


def test_the_root_of_a_mount_stands_for_main(mount, run, demo):
    info = json.loads((mount / ".icefs/info.json").read_text()) | {"repository": demo}
    (mount / ".icefs/info.json").write_text(json.dumps(info))
    assert run("log", "--oneline", "-n", 1, mount).endswith("Replace a broken day of temperature\n")
    assert run("ls", mount) == "weather/\n"


def test_refresh_without_an_answer(mount, fail):
    (mount / ".icefs/rpc").touch()
    assert fail(STATE, "refresh", mount).startswith("the daemon gave no answer: process ")


def test_status_outside(tmp_path, table, capsys):
    assert main(["status", str(tmp_path)]) == NOT_FOUND
    assert capsys.readouterr().err == (
        f"icefs: not in an icefs mount: {tmp_path}; give a path in a mount, or 'icefs mount' a repository\n"
    )


def test_status_imports_nothing_heavy(mount, table):
    code = (
        "import sys, pathlib; from icefs.cli.main import main; from icefs.daemon import mountinfo;"
        "mountinfo.MOUNT_TABLE = pathlib.Path(sys.argv[2]); code = main(['status', sys.argv[1]]);"
        "print(*sys.modules); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(mount), str(table)], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "icefs.cli.commands.status" in loaded
    heavy = {"numpy", "rich", "zarr", "boto3", "trio", "zstandard", "msgpack", "flatbuffers", "yaml"}
    assert not loaded & (heavy | {"icefs.engine", "icefs.format", "icefs.storage", "icefs.vfs", "asyncio"})


def test_another_users_mount_says_whose_it_is_where_it_may_only_be_read():
    with tempfile.TemporaryDirectory() as scratch:  # which, unlike tmp_path, others may look into
        os.chmod(scratch, 0o755)
        tree = Path(scratch)
        (tree / ".icefs").mkdir()
        (tree / ".icefs/rpc").touch(mode=0o000)
        mine = os.geteuid()
        if mine == 0:
            os.seteuid(4201)
        try:
            with pytest.raises(NotPermittedError) as caught:
                Mounted(tree, tree, {}).ask("commit")
        finally:
            os.seteuid(mine)
    name = pwd.getpwuid(mine).pw_name
    assert str(caught.value) == f"only {name}, whose mount it is, can commit here: {scratch}"
    assert caught.value.hint == f"ask {name}, or mount the repository yourself"


# Neighbours.


@pytest.mark.parametrize("kind", [None, "tmpfs", "fuse.sshfs", "fuse"])
@pytest.mark.parametrize("where", [".", "src", "src/deep"])
def test_a_directory_is_no_mount_because_it_looks_like_one(mount, table, where, kind):
    """Nothing in it is read: a FIFO there would be waited for."""
    table.write_text(ROOT_LINE + ("" if kind is None else line(mount, kind=kind)))
    (mount / "src/deep").mkdir(parents=True)
    for place in (mount, mount / "src"):
        (place / ".icefs").mkdir(exist_ok=True)
        (place / ".icefs/info.json").unlink(missing_ok=True)
        os.mkfifo(place / ".icefs/info.json")
    with deadline(10):
        assert find_mount(mount / where) is None


@pytest.mark.parametrize(
    "command",
    [
        ["log"], ["ls"], ["info"], ["stats"], ["status"], ["diff"], ["commit", "-m", "x"], ["discard", "--all"], ["gc"],
        ["expire", "--older-than", "1d"], ["fsck"], ["branch", "list"], ["branch", "create", "x", "main"],
        ["branch", "delete", "main"], ["tag", "create", "x", "main"], ["config", "get"], ["rebase"], ["refresh"],
        ["top", "--once"], ["blame"], ["doctor", "."], ["umount", "."], ["export", ".", "out"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_no_command_follows_a_forged_control_directory(tmp_path, table, monkeypatch, capsys, command):
    """It names a repository of the victim's, and one on a server that would see the victim's keys."""
    victim = tmp_path / "victim"
    WritableRepository.create(LocalStorage(victim)).close()
    before = {path: path.read_bytes() for path in victim.rglob("*") if path.is_file()}
    asked = []
    monkeypatch.setattr(url, "_open_s3", lambda *arguments: asked.append(arguments))
    (tmp_path / "evil/src").mkdir(parents=True)
    (tmp_path / "evil/.icefs").mkdir()
    monkeypatch.chdir(tmp_path / "evil/src")
    for repository in (str(victim), "s3://b/p?endpoint_url=http://127.0.0.1:1&region=x&max_tries=1"):
        facts = {"pid": 1, "repository": repository, "mountpoint": "/x", "kind": "branch", "name": "main"}
        (tmp_path / "evil/.icefs/info.json").write_text(json.dumps(facts))
        with deadline(20):
            code = main(command)
        out, err = capsys.readouterr()
        assert code != 0 or command[0] == "doctor", out + err
    assert asked == []
    assert {path: path.read_bytes() for path in victim.rglob("*") if path.is_file()} == before


def test_a_mount_of_another_user_is_not_believed(mount, table, fail):
    table.write_text(ROOT_LINE + line(mount, user=4201))
    for command in (["status"], ["log"], ["branch", "list"], ["commit", "-m", "x"]):
        assert "another user's (uid 4201)" in fail(FORBIDDEN, *command, mount)
    with pytest.raises(UntrustedMountError, match="4201"):
        find_mount(mount)


def test_a_mount_of_root_is_believed(mount, table):
    table.write_text(ROOT_LINE + line(mount, user=0))
    assert find_mount(mount).root == mount


def test_a_part_of_a_mount_that_is_bound_elsewhere_cannot_answer_for_the_whole(mount, table):
    table.write_text(ROOT_LINE + line(mount, root="/branches/main"))
    with pytest.raises(EntryNotFoundError, match="only a part"):
        find_mount(mount)


def test_of_mounts_that_hide_each_other_the_one_counts_that_is_seen(mount, table):
    table.write_text(
        ROOT_LINE + line(mount) + line(mount).replace(line(mount).split()[2], "0:999").replace("fuse.icefs", "tmpfs")
    )
    assert find_mount(mount).root == mount


def test_a_directory_in_a_tree_that_looks_like_a_tree_is_none(mount):
    """Anybody who may write to a branch can make it, with an `rpc` that is a file or a FIFO of theirs."""
    forged = mount / "branches/main/group/.icefs"
    forged.mkdir()
    (forged / "info.json").write_text(json.dumps({"pid": 1, "kind": "branch", "name": "other"}))
    os.mkfifo(forged / "rpc")
    found = find_mount(mount / "branches/main/group/array")
    assert (found.root, found.tree) == (mount, mount / "branches/main")


def test_the_source_of_a_mount_does_not_tell_its_owner(table):
    table.write_text(ROOT_LINE + "38 21 0:5 / /m rw - fuse.icefs a,user_id=0, rw,user_id=4201,group_id=0\n")
    assert mountinfo.mounted_at("/m").user_id == 4201
