"""Neighbours of a mount: makers of its repository, and other users of the machine, neither read, block nor steer."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icefs.cli.main import main
from icefs.cli.support.exit_codes import FORBIDDEN
from icefs.daemon.mountinfo import mounted_at
from icefs.engine.write.repository import WritableRepository
from icefs.format.config.values import RepositoryConfig
from icefs.storage.local.lock import LOCK_NAME
from icefs.storage.local.store import LocalStorage
from tests.property.test_hostile_repositories import METADATA
from tests.support.hostile import (
    SECRET,
    THINGS,
    as_other_user,
    call_as_other_user,
    fits,
    make_outside,
    place,
    unchanged,
)
from tests.support.mounting import mounted
from tests.support.programs import run

ICEFS = Path(sys.executable).with_name("icefs")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


@pytest.fixture
def repo(tmp_path):
    """An array of two chunks in files of their own, each as long as the secret."""
    repository = WritableRepository.create(
        LocalStorage(tmp_path / "repo"), RepositoryConfig(inline_chunk_threshold_bytes=0)
    )
    session = repository.writable_session("main")
    session.nodes.put("/a", METADATA.replace(b"[2]", b"[%d]" % len(SECRET)))
    session.chunks.set("/a", (0,), b"x" * len(SECRET))
    session.commit("one chunk")
    repository.close()
    return tmp_path / "repo"


@needs_root
@pytest.mark.parametrize("at", ["chunks/*", "chunks"])
def test_other_users_of_a_mount_see_nothing_of_what_a_link_in_the_repository_leads_to(repo, tmp_path, at):
    outside = make_outside(tmp_path)
    [chunk] = (repo / "chunks").iterdir()
    if at == "chunks":
        (outside / "directory" / chunk.name).write_bytes(SECRET)
        place(repo / "chunks", "symlink to a directory", outside)
    else:
        place(chunk, "symlink to a file", outside)
    with mounted(repo, branch="main", allow_other=True, may_complain=True) as mount:
        mount.path.parent.chmod(0o755)
        done = as_other_user(["cat", str(mount / "a/c/0")])
        assert (done.returncode, done.stdout) == (1, "")
        assert "Input/output error" in done.stderr
        assert "is a symbolic link" in mount.log.read_text()
        with pytest.raises(OSError, match="Input/output"):
            (mount / "a/c/0").read_bytes()


@pytest.mark.parametrize("thing", [thing for thing in THINGS if fits(thing, is_directory=False)])
def test_a_commit_neither_waits_for_what_is_in_the_locks_place_nor_follows_it(repo, tmp_path, thing):
    outside = make_outside(tmp_path)
    place(repo / LOCK_NAME, thing, outside)
    with mounted(repo, branch="main", may_complain=True) as mount, unchanged(outside):
        (mount / "a/c/0").write_bytes(b"y" * len(SECRET))
        started = time.monotonic()
        [*_, answer] = mount.rpc({"op": "commit", "message": "ours"})
        assert time.monotonic() - started < 20
        if thing == "hard link":
            assert answer["type"] == "result"
        else:
            assert answer["type"] == "error"
            assert str(repo / LOCK_NAME) in answer["message"]
            assert answer["hint"]
            Path(repo, LOCK_NAME).rmdir() if "directory in" in thing else Path(repo, LOCK_NAME).unlink()
            [*_, answer] = mount.rpc({"op": "commit", "message": "ours"})
            assert answer["type"] == "result", answer
    assert mount.exit_code == 0


# The control directory.


@pytest.fixture
def named_like_control(tmp_path):
    """A repository with a node called `.icefs` in its root, which has children; and one further down."""
    repository = WritableRepository.create(LocalStorage(tmp_path / "repo"))
    session = repository.writable_session("main")
    for path in ("/", "/.icefs", "/g", "/g/.icefs"):
        session.nodes.put(path, b'{"zarr_format":3,"node_type":"group"}')
    session.nodes.put("/.icefs/info.json", METADATA)
    session.commit("nodes called like the control directory")
    repository.create_tag("v1", repository.lookup_branch("main"))
    repository.close()
    return tmp_path / "repo"


@pytest.mark.parametrize(
    ("options", "root", "is_writable"),
    [
        ({"branch": "main"}, "", True),
        ({"branch": "main", "read_only": True}, "", False),
        ({"tag": "v1"}, "", False),
        ({}, "branches/main", True),
        ({}, "tags/v1", False),
    ],
    ids=["branch", "read-only", "tag", "branches/", "tags/"],
)
def test_a_node_called_like_the_control_directory_does_not_take_its_place(
    named_like_control, options, root, is_writable
):
    with mounted(named_like_control, **options) as mount:
        tree = mount / root

        def check() -> None:
            run("ls", "-la", tree)
            run("ls", "-laR", tree)
            assert ".icefs" not in os.listdir(tree)
            assert ".icefs" not in [entry.name for entry in os.scandir(tree)]
            assert ".icefs" in os.listdir(tree / "g")
            assert not (tree / ".icefs/zarr.json").exists()
            assert json.loads((tree / ".icefs/info.json").read_text())["name"] == root.rpartition("/")[2] or options
            assert "snapshot" in json.loads((tree / ".icefs/info.json").read_text())
            assert mount.rpc({"op": "status"}, root)[-1]["type"] == "result"

        check()
        if is_writable:
            (tree / "new").mkdir()
            check()
            assert mount.rpc({"op": "commit", "message": "more", "allow_empty": True}, root)[-1]["type"] == "result"
            check()


def test_nobody_takes_the_control_directorys_name(named_like_control):
    with mounted(named_like_control, branch="main") as mount:
        control = mount / ".icefs"
        (mount / "d").mkdir()
        (mount / "f").write_bytes(b"1")
        tries = [
            lambda: control.mkdir(),
            lambda: control.rmdir(),
            lambda: control.unlink(),
            lambda: control.write_bytes(b""),
            lambda: (mount / "d").rename(control),
            lambda: (mount / "f").rename(control),
            lambda: control.rename(mount / "elsewhere"),
            lambda: control.hardlink_to(mount / "f"),
            lambda: control.symlink_to("d"),
            lambda: (mount / "f").rename(control / "status"),
            lambda: (control / "status").rename(mount / "stolen"),
            lambda: (control / "status").unlink(),
            lambda: (mount / "stolen").hardlink_to(control / "status"),
            lambda: shutil.rmtree(control),
        ]
        for number, attempt in enumerate(tries):
            with pytest.raises(OSError):
                attempt()
            assert "snapshot" in mount.control("info.json"), number
        assert sorted(os.listdir(mount.path)) == ["d", "f", "g", "zarr.json"]


@needs_root
def test_a_reload_signals_the_daemon_of_the_mount_and_nothing_else(named_like_control, tmp_path):
    """A file of another user in the tree, a plain directory, a mount of another kind: none names a process."""
    config = tmp_path / "service.toml"
    with subprocess.Popen(["sleep", "60"]) as victim:
        forged = tmp_path / "forged"
        (forged / ".icefs").mkdir(parents=True)
        facts = {"pid": victim.pid, "repository": "/x", "service": {"can_reload": True, "reloads": 0}}
        (forged / ".icefs/info.json").write_text(json.dumps(facts))
        config.write_text(f'repository = "{named_like_control}"\nmountpoint = "{forged}"\n')
        done = subprocess.run([ICEFS, "serve", "--reload", config], capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "nothing is mounted at" in done.stderr
        assert victim.poll() is None
        victim.terminate()
    with mounted(named_like_control, branch="main") as mount:
        run("ls", "-la", mount.path)
        config.write_text(f'repository = "{named_like_control}"\nmountpoint = "{mount.path}"\n')
        done = subprocess.run([ICEFS, "serve", "--reload", config], capture_output=True, text=True, check=False)
        assert "is no service" in done.stderr
        assert mount.is_alive()


@needs_root
def test_a_control_directory_that_another_user_makes_in_a_tree_steers_nobody(repo, tmp_path):
    with mounted(repo, branch="main", allow_other=True) as mount:
        mount.path.parent.chmod(0o755)
        (mount / "d").mkdir()
        (mount / "d").chmod(0o777)
        forged = '{"pid": 1, "name": "forged"}'
        forge = f"mkdir .icefs; echo '{forged}' > .icefs/info.json; touch .icefs/rpc .icefs/status.json"
        done = as_other_user(["sh", "-ec", forge], cwd=mount / "d")
        assert done.returncode == 0, done.stderr
        done = subprocess.run([ICEFS, "status", "--json"], cwd=mount / "d", capture_output=True, text=True, check=False)
        assert json.loads(done.stdout)["name"] == "main"


@needs_root
def test_a_mount_of_another_user_is_not_asked(repo, tmp_path):
    """Another user mounts what calls itself icefs; here it is icefs."""
    shutil.copytree(repo, tmp_path / "theirs")
    with mounted(repo, branch="main", allow_other=True) as mount:
        entry = mounted_at(str(mount.path))
        assert (entry.user_id, entry.is_trusted) == (0, True)
        mount.path.parent.chmod(0o755)
        assert call_as_other_user(lambda: mounted_at(str(mount.path)).is_trusted)


@needs_root
@pytest.mark.parametrize("command", ["status", "info", "log", "ls", "commit -m x", "discard"])
@pytest.mark.parametrize("below", ["", "/a"])
def test_a_private_mount_says_whose_it_is(repo, capfd, command, below):
    with mounted(repo, branch="main") as mount:
        mount.path.parent.chmod(0o755)
        words = [*command.split()[:1], f"{mount.path}{below}", *command.split()[1:]]
        code = call_as_other_user(lambda: main(words))
        said = "".join(capfd.readouterr())
    assert code == FORBIDDEN
    assert f"the mount at {mount.path} is private to user root: {mount.path}{below}; run the command as user" in said
    assert "--allow-other" in said


@needs_root
def test_who_opens_what_is_for_the_owner_of_the_mount_alone(repo):
    with mounted(repo, branch="main", allow_other=True) as mount:
        mount.path.parent.chmod(0o755)
        (mount / "a/zarr.json").read_bytes()
        assert "zarr.json" in (mount / ".icefs/accesslog").read_text()
        done = as_other_user(["cat", str(mount / ".icefs/accesslog")])
        assert (done.returncode, done.stdout) == (1, "")
        assert as_other_user(["cat", str(mount / ".icefs/status")]).returncode == 0
