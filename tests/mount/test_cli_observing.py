"""`icefs top`, `log-level`, `sessions` and `doctor`, on real mounts."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from icefs.cli.main import main
from icefs.cli.support.exit_codes import CONFLICT, NOT_FOUND, STATE, USAGE
from icefs.daemon import mountinfo
from icefs.engine.write.repository import WritableRepository
from icefs.storage.local.store import LocalStorage
from tests.support.children import running
from tests.support.mounting import mounted, scratch_directory
from tests.support.own_mounts import own_mount_table
from tests.support.zarr_documents import ARRAY
from tests.unit.cli.conftest import PROJECT

GROUP = b'{"zarr_format": 3, "node_type": "group"}'
PAGE = (PROJECT / "icefs/cli/JSON.md").read_text()


def fields(command):
    section = re.search(rf"(?ms)^## `icefs {command}`\n(.*?)(?=^## |\Z)", PAGE)[1]
    return re.findall(r"(?m)^\| `(\w+)` \|", section)


@pytest.fixture
def repo(tmp_path):
    place = tmp_path / "repo"
    storage = LocalStorage(place)
    WritableRepository.create(storage).close()
    storage.close()
    return place


@pytest.fixture
def run(capsys):
    def call(*arguments, code=0):
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == code, capsys.readouterr()
        told = capsys.readouterr()
        return told.out if code == 0 else told.err or told.out

    return call


@pytest.fixture
def run_json(run):
    return lambda *arguments, code=0: json.loads(run(*arguments, "--json", code=code))


def write_array(place, *, root=True):
    if root:
        (place / "zarr.json").write_bytes(GROUP)
    (place / "a").mkdir()
    (place / "a/zarr.json").write_bytes(ARRAY)
    (place / "a/c").mkdir()
    (place / "a/c/0").write_bytes(b"\1\0")


def kill_daemon(mount):
    os.kill(mount.pid, signal.SIGKILL)
    assert mount.wait() == -signal.SIGKILL
    mount.exit_code = 0  # as it should


def leave_changes(repo, state_dir, *, kill=False, write=write_array):
    """Leaves a working tree behind, and returns where it was mounted."""
    with mounted(repo, branch="main", state_dir=str(state_dir)) as mount:
        write(mount.path)
        if kill:
            kill_daemon(mount)
        return str(mount.path)


def test_top_and_log_level(repo, run, run_json):
    with mounted(repo, branch="main") as mount:
        write_array(mount.path)
        reads = [sys.executable, "-c", _READ, str(mount / "a/c")]
        with running(reads, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as reader:
            assert reader.stdout is not None
            assert reader.stdin is not None
            reader.stdout.readline()
            told = run_json("top", mount / "a", "--once", "--interval", "0.3")
            text = run("top", mount.path, "--once", "--interval", "0.1")
            reader.stdin.close()
        assert list(told) == fields("top")
        assert told["interval_s"] >= 0.3
        assert told["operations"]["create"]["per_s"] > 1
        assert told["operations"]["create"]["mean_us"] > 0
        assert told["written_bytes_per_s"] > 0
        assert told["branches"]["main"]["staged_files"] >= 3
        assert any(one["op"] == "create" and one["path"].startswith("a/c/x") for one in told["accesses"])
        assert "operations" in text
        assert "a/c/x" in text
        assert "main" in text
        assert {"notify", "workers", "write"} <= told["queues"].keys()
        assert told["kernel"]["refused"] == 0
        assert re.search(r"queues: load \d+, read \d+, .*notify \d+", text)

        assert run("log-level", mount.path) == "info\n"
        assert "log level warning, before info" in run("log-level", mount / "a", "warning")
        told = run_json("log-level", mount.path)
        assert (list(told), told["level"]) == (fields("log-level"), "warning")
        run("log-level", mount.path, "loud", code=USAGE)
    run("top", repo, code=NOT_FOUND)


_READ = """
import os, select, sys
print(flush=True)
number = 0
while not select.select([0], [], [], 0)[0]:
    with open(os.path.join(sys.argv[1], f"x{number % 10}"), "wb") as file:
        file.write(b"12")
    os.unlink(file.name)
    number += 1
"""


def test_an_idle_mount_looks_idle_and_control_files_hide_no_request(repo, run_json):
    with mounted(repo, branch="main") as mount:
        (mount / "seen").write_text("x")
        for _ in range(60):  # more requests than are shown
            (mount / ".icefs/status.json").read_bytes()
        told = run_json("top", mount.path, "--once", "--interval", "0.2")
        assert any(one["path"] == "seen" for one in told["accesses"])
        assert not any(".icefs" in one["path"] for one in told["accesses"])
        assert {name: one["per_s"] for name, one in told["operations"].items() if one["per_s"]} == {}
        assert (told["read_bytes_per_s"], told["written_bytes_per_s"]) == (0, 0)


def test_long_paths_leave_the_other_columns_of_top_whole_on_a_narrow_screen(repo, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with mounted(repo, branch="main") as mount:
        (mount / ("seen" * 30)).write_text("x")
        shown = run("top", mount.path, "--once", "--interval", "0.1").splitlines()
    [header] = [line for line in shown if "last requests" in line]
    assert header.split() == ["last", "requests", "op", "result", "took", "bytes", "path"]
    [created] = [line for line in shown if " create " in line and "seen" in line]
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3} +create +ok +\d+ [mu]s +\d+ +/?seenseen\S*…$", created.strip())
    assert max(map(len, shown)) <= 80


def test_top_in_a_terminal_ends_with_ctrl_c(repo):
    with mounted(repo) as mount:
        leader, follower = os.openpty()
        command = [sys.executable, "-m", "icefs.cli.main", "top", str(mount.path), "--interval", "0.1"]
        program = "import sys; from icefs.cli.main import main; sys.exit(main())"
        command[1:3] = ["-c", program]
        with running(command, stdin=follower, stdout=follower, stderr=follower, close_fds=True) as shown:
            os.close(follower)
            screen = b""
            while b"last requests" not in screen:
                screen += os.read(leader, 1 << 16)
            shown.send_signal(signal.SIGINT)
            with contextlib.suppress(OSError):  # EIO, when the other end is closed
                while os.read(leader, 1 << 16):
                    pass
            assert shown.wait() == 0
        os.close(leader)


def test_sessions_are_listed_and_committed(repo, tmp_path, run, run_json):
    state_dir = tmp_path / "trees"
    options = ("--state-dir", state_dir)
    assert run_json("sessions", *options) == []
    with mounted(repo, branch="main", state_dir=str(state_dir)) as mount:
        write_array(mount.path)
        [session] = run_json("sessions", *options)
        assert list(session) == fields("sessions")
        assert (session["state"], session["pid"], session["mountpoint"]) == ("mounted", mount.pid, str(mount.path))
        assert (session["branch"], session["num_changes"], session["age_s"] < 60) == ("main", 3, True)
        for command in (("commit", session["id"], "-m", "x"), ("discard", session["id"])):
            assert "is mounted" in run("sessions", *command, *options, code=STATE)
    [session] = run_json("sessions", *options)
    assert (session["state"], session["pid"], session["repository"]) == ("unmounted", None, str(repo))
    assert session["num_changes"] == 3
    assert session["size_bytes"] > 1000
    assert session["id"] in run("sessions", *options)

    name = session["id"][:6]
    told = run_json("sessions", "commit", name, "-m", "left", "--dry-run", *options)
    assert (told["dry_run"], told["branch"]) == (True, "main")
    assert told["invalid"] == []
    told = run_json("sessions", "commit", name, "-m", "left", "--meta", "author=ada", *options)
    assert {"id", "branch", "dry_run"} <= set(told)
    assert told["nodes"] == 2
    assert run_json("sessions", *options) == []
    [last, _] = run_json("log", repo)
    assert (last["id"], last["message"], last["metadata"]) == (told["snapshot"], "left", {"author": "ada"})
    assert run("cat", repo, "a/zarr.json") == ARRAY.decode()
    run("sessions", "commit", "abcdef", "-m", "x", *options, code=NOT_FOUND)


def test_a_killed_mount_leaves_a_session_that_can_be_exported_and_discarded(repo, tmp_path, run, run_json):
    state_dir = tmp_path / "trees"
    options = ("--state-dir", state_dir)
    leave_changes(repo, state_dir)
    run("sessions", "commit", run_json("sessions", *options)[0]["id"], "-m", "first", *options)

    def change(place: Path) -> None:
        (place / "a/c/0").unlink()
        (place / "a/c/1").write_bytes(b"\0\1")
        (place / "notes.txt").write_text("untracked")
        (place / "b").mkdir()
        (place / "a/zarr.json").rename(place / "b/zarr.json")

    leave_changes(repo, state_dir, kill=True, write=change)
    [session] = run_json("sessions", *options)
    assert session["state"] == "unmounted"
    name, target = session["id"], tmp_path / "out"
    dry = run_json("sessions", "export", name, target, "--dry-run", *options)
    assert not target.exists()
    done = run_json("sessions", "export", name, target, *options)
    assert list(done) == fields("sessions export")
    assert {**dry, "dry_run": False} == done
    assert sorted(done["files"]) == ["a/c/1", "b/zarr.json", "notes.txt"]
    assert sorted(done["deleted"]) == ["a/c/0", "a/zarr.json"]
    assert (target / "a/c/1").read_bytes() == b"\0\1"
    assert (target / "b/zarr.json").read_bytes() == ARRAY
    assert done["bytes"] == sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    run("sessions", "export", name, target, *options, code=USAGE)

    assert run_json("sessions", "discard", name, "--dry-run", *options)["dry_run"] is True
    assert len(run_json("sessions", *options)) == 1
    assert "dropped" in run("sessions", "discard", name, *options)
    assert run_json("sessions", *options) == []
    assert not any(state_dir.iterdir())


def test_a_session_whose_branch_has_moved_says_so_and_can_be_rebased(repo, tmp_path, run, run_json):
    state_dir = tmp_path / "trees"
    options = ("--state-dir", state_dir)
    with mounted(repo, branch="main") as mount:
        (mount / "zarr.json").write_bytes(GROUP)
        (mount / ".icefs/commit").write_text("root")
    leave_changes(repo, state_dir, write=lambda place: write_array(place, root=False))
    with mounted(repo, branch="main") as mount:
        (mount / "other").mkdir()
        (mount / "other/zarr.json").write_bytes(GROUP)
        (mount / ".icefs/commit").write_text("theirs")
    name = run_json("sessions", *options)[0]["id"]
    run("sessions", "commit", name, "-m", "mine", *options, code=CONFLICT)
    assert len(run_json("sessions", *options)) == 1
    run("sessions", "commit", name, "-m", "mine", "--rebase", "theirs", *options)
    assert [entry["message"] for entry in run_json("log", repo)][:2] == ["mine", "theirs"]
    assert run_json("sessions", *options) == []


def test_the_doctor_finds_what_is_wrong(repo, tmp_path, run, run_json, monkeypatch):
    monkeypatch.setattr(mountinfo, "mount_table", own_mount_table)
    places = ("--state-dir", tmp_path / "trees", "--cache-dir", tmp_path / "cache")

    def findings(told, status):
        return [(one["check"], one["message"]) for one in told["checks"] if one["status"] == status]

    told = run_json("doctor", repo, *places)
    assert list(told) == fields("doctor")
    assert told["ok"] is True
    checks = {check for check, _ in findings(told, "ok")}
    assert {"versions", "fuse", "mounts", "state directory", "cache directory", "repository", "latency"} <= checks
    assert not list(repo.glob(".icefs-doctor*"))
    told = run_json("doctor", tmp_path / "nothing", *places, code=1)
    assert ("repository", f"there is no directory {tmp_path / 'nothing'}") in findings(told, "problem")
    (tmp_path / "file").write_text("")
    told = run_json("doctor", "--state-dir", tmp_path / "file", code=1)
    assert [check for check, _ in findings(told, "problem")] == ["state directory"]
    told = run_json("doctor", "http://127.0.0.1:1/x", *places, code=1)
    assert "endpoint" in {check for check, _ in findings(told, "problem")}
    (repo / "repo").write_bytes(b"damaged")
    told = run_json("doctor", repo, *places, code=1)
    assert findings(told, "problem")[0][0] == "repository"


def test_the_doctor_finds_dead_mounts_and_asks_living_ones(repo, tmp_path, run, run_json, monkeypatch):
    monkeypatch.setattr(mountinfo, "mount_table", own_mount_table)
    places = ("--state-dir", tmp_path / "trees", "--cache-dir", tmp_path / "cache")
    with mounted(repo, branch="main") as mount:
        write_array(mount.path)
        told = run_json("doctor", mount / "a", *places)
        assert {"check": "mount", "status": "ok"}.items() <= next(
            one for one in told["checks"] if one["check"] == "mount"
        ).items()
    with scratch_directory(), mounted(repo) as mount:
        kill_daemon(mount)
        told = run_json("doctor", *places, code=1)
        [dead] = [one for one in told["checks"] if str(mount.path) in one["message"]]
        assert (dead["status"], f"icefs umount {mount.path}" in dead["todo"]) == ("problem", True)
        assert "run 'icefs umount" in run("doctor", mount.path, *places, code=1)
