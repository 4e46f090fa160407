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

from icefs.cli import mounts
from icefs.cli.main import NOT_FOUND, STATE, main
from icefs.cli.mounts import Mounted, find_mount, require_mount
from icefs.errors import EntryNotFoundError, FormatError, NotPermittedError, StaleError
from icefs.fuse.mountpoints import MountEntry


@pytest.fixture
def mount(tmp_path):
    """A directory tree like a mount's, with control files in the root and in one tree."""
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


def test_outside_of_any_mount(tmp_path):
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
    monkeypatch.setattr(mounts, "mount_table", lambda: [MountEntry(str(mount), "0:50", "fuse.icefs", "x")])

    def gone(self):
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected", str(self))

    monkeypatch.setattr(type(mount), "stat", gone)
    with pytest.raises(StaleError) as caught:
        find_mount(mount / "branches")
    assert caught.value.message == f"the daemon of the mount has ended: {mount}"
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


def test_status_outside(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == NOT_FOUND
    assert capsys.readouterr().err == (
        f"icefs: not in an icefs mount: {tmp_path}; give a path in a mount, or 'icefs mount' a repository\n"
    )


def test_status_imports_nothing_heavy(mount):
    code = (
        "import sys; from icefs.cli.main import main; code = main(['status', sys.argv[1]]);"
        "print(*sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(mount)], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "icefs.cli.control" in loaded
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
