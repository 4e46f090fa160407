"""Control files of a branch, by real shells: what each failure looks like, and what can be read of it afterwards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr

from icefs.cli.main import main
from icefs.cli.support.mounts import require_mount
from icefs.daemon.mountinfo import mounted_at
from icefs.daemon.options import MountOptions
from icefs.engine.write.repository import WritableRepository
from icefs.format.repo.ops_log import RepoAvailability, RepoStatus
from icefs.storage.url import open_storage
from tests.support.children import running
from tests.support.mounting import mounted, run_daemon

FAULTY = """
import time
from itertools import count
from pathlib import Path
from icefs import errors
from icefs.storage.local.store import LocalStorage

FAULT = Path({fault!r})
STORED = count()

def faulty(kind, real):
    def call(self, key, *args, **kwargs):
        fault = FAULT.read_text() if FAULT.exists() else ""
        if fault == "full":
            raise errors.NoSpaceError(f"no space left on the disk: {{key}}", hint="make room")
        if fault == "gone":
            raise errors.UnreachableError(f"no answer: {{key}}", hint="wait")
        if fault == "slow" and key.startswith("chunks/") and next(STORED):
            while FAULT.read_text() == "slow":
                time.sleep(0.01)
        return real(self, key, *args, **kwargs)
    return call

LocalStorage.put = faulty("put", LocalStorage.put)
LocalStorage.put_file = faulty("put_file", LocalStorage.put_file)
"""


def make_repo(path, size=100):
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)))
    session = repo.writable_session("main")
    zarr.create_group(session.store).create_array("a", shape=(size,), chunks=(10,), dtype="i4")[:] = 1
    session.commit("made")
    return path


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    return make_repo(tmp_path_factory.mktemp("control") / "repo")


@pytest.fixture(scope="module")
def branch(repo, tmp_path_factory):
    """A mounted branch that the tests of this module share; each leaves it clean."""
    with mounted(repo, branch="main", state_dir=str(tmp_path_factory.mktemp("trees"))) as mount:
        yield mount.path


def sh(command, cwd, shell="sh"):
    done = subprocess.run([shell, "-c", command], cwd=cwd, capture_output=True, text=True, check=False, timeout=30)
    return done.returncode, done.stderr


def outcome(branch, name="commit"):
    return json.loads((branch / ".icefs" / name).read_text())


def change(branch, value=None, where=slice(0, 10)):
    zarr.open_array(str(branch / "a"))[where] = np.random.default_rng().integers(1 << 30) if value is None else value


def messages(repo):
    history = icechunk.Repository.open(icechunk.local_filesystem_storage(str(repo))).ancestry(branch="main")
    return [info.message for info in history]


def commit_theirs(repo, message="theirs", where=slice(0, 10)):
    session = icechunk.Repository.open(icechunk.local_filesystem_storage(str(repo))).writable_session("main")
    zarr.open_group(session.store)["a"][where] = np.random.default_rng().integers(1 << 30)
    session.commit(message)


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("echo a message > .icefs/commit", "a message"),
        ("printf message > .icefs/commit", "message"),
        ("printf 'one\\n\\ntwo\\nthree\\n' > .icefs/commit", "one\n\ntwo\nthree"),
        ("echo appended >> .icefs/commit", "appended"),
        ("echo through tee | tee .icefs/commit", "through tee"),
        ("exec 3<> .icefs/commit; echo both ways >&3; grep -q '\"ok\": true' <&3", "both ways"),
        ("echo 'größer ☃' > .icefs/commit", "größer ☃"),
        ("head -c 300000 /dev/zero | tr '\\0' x | cat > .icefs/commit", "x" * 300000),
        ("head -c 131072 /dev/zero | tr '\\0' y | dd bs=4096 of=.icefs/commit status=none", "y" * 131072),
        ("head -c 9000 /dev/zero | tr '\\0' z > m; echo \"$(cat m)\" > .icefs/commit && rm m", "z" * 9000),
    ],
)
def test_messages_as_shells_write_them(branch, repo, shell, command, message):
    change(branch)
    before = messages(repo)
    assert sh(command, branch, shell) == (0, "")
    assert outcome(branch)["ok"]
    assert messages(repo) == [message, *before]


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_a_failed_commit_fails_the_echo(branch, repo, shell):
    code, error = sh("echo nothing > .icefs/commit", branch, shell)
    assert code != 0
    assert shell == "sh" or "No data available" in error
    told = outcome(branch)
    assert (told["ok"], told["kind"], told["error"]) == (False, "no-changes-to-commit", "NothingToCommitError")
    assert told["message"]
    assert told["hint"]
    assert messages(repo)[0] != "nothing"


def fails(path, data, code):
    """Writes as `echo` does; the write itself must fail."""
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            os.write(fd, data)
    finally:
        os.close(fd)
    assert os.strerror(caught.value.errno) == os.strerror(code)


@pytest.mark.parametrize("data", [b"\n", b"  \n\t\n", b"\xff\xfe\n"])
def test_no_message_and_no_text(branch, data):
    change(branch)
    fails(branch / ".icefs/commit", data, 22)
    told = outcome(branch)
    assert (told["ok"], told["error"]) == (False, "InvalidInputError")
    fails(branch / ".icefs/discard", b"\n", 22)
    fails(branch / ".icefs/rebase", b"sideways\n", 22)
    assert "sideways" in outcome(branch, "rebase")["message"]
    (branch / ".icefs/discard").write_text("yes\n")


def test_a_message_that_is_too_long(branch):
    change(branch)
    with pytest.raises(OSError, match="Invalid argument"):
        (branch / ".icefs/commit").write_bytes(b"x" * (1 << 21))
    assert "longer than" in outcome(branch)["message"]
    (branch / ".icefs/discard").write_text("yes\n")


def test_opening_and_truncating_alone_does_nothing(branch, repo):
    change(branch)
    before = messages(repo)
    assert sh(": > .icefs/commit", branch) == (0, "")
    assert sh("truncate -s 0 .icefs/commit; cat .icefs/commit > /dev/null", branch) == (0, "")
    assert messages(repo) == before
    assert sh("echo yes > .icefs/discard", branch) == (0, "")
    assert "a/c/0" in outcome(branch, "discard")["paths"]


def test_invalid_entries(branch):
    (branch / "b").mkdir()
    (branch / "b/0").write_bytes(b"x")
    fails(branch / ".icefs/commit", b"x\n", 22)
    told = outcome(branch)
    assert (told["kind"], [path for path, _ in told["invalid"]]) == ("invalid-tree", ["b/0"])
    assert "b/0: " in (branch / ".icefs/status").read_text()
    (branch / ".icefs/discard").write_text("b\n")
    assert not (branch / "b").exists()


def test_a_conflict_and_a_rebase(branch, repo):
    change(branch, 7)
    commit_theirs(repo, "theirs, in the same chunk")
    fails(branch / ".icefs/commit", b"ours\n", 116)
    told = outcome(branch)
    assert (told["ok"], told["kind"]) == (False, "commit-conflict")
    fails(branch / ".icefs/rebase", b"fail\n", 116)
    told = outcome(branch, "rebase")
    assert (told["ok"], told["kind"]) == (False, "rebase-failed")
    [conflict] = told["conflicts"]
    assert (conflict["type"], conflict["path"], conflict["chunks"]) == ("ChunkDoubleUpdate", "a", [[0]])
    assert told["message"]
    assert told["hint"]
    assert zarr.open_array(str(branch / "a"))[0] == 7  # nothing is lost
    assert sh("echo ours > .icefs/rebase && echo ours > .icefs/commit", branch) == (0, "")
    assert outcome(branch, "rebase")["moved"]
    assert messages(repo)[:2] == ["ours", "theirs, in the same chunk"]
    assert zarr.open_array(str(branch / "a"))[0] == 7


def test_a_repository_that_is_read_only(branch, repo):
    change(branch)
    opened = WritableRepository.open(open_storage(str(repo)))
    opened.set_status(RepoStatus(RepoAvailability.read_only, 0, "maintenance"))
    try:
        fails(branch / ".icefs/commit", b"x\n", 30)
        assert "maintenance" in outcome(branch)["message"]
    finally:
        opened.set_status(RepoStatus(RepoAvailability.online, 0, None))
        opened.close()
    assert sh("echo after > .icefs/commit", branch) == (0, "")
    assert messages(repo)[0] == "after"


def test_a_tree_that_only_reads(repo):
    with mounted(repo) as mount:
        for tree in ("branches/main", "tags", "snapshots"):
            if tree == "branches/main":
                assert not mount.control("diff.json", tree)["invalid"]
        snapshot = mount.control("status.json", "branches/main")["snapshot"]
        code, error = sh("echo x > .icefs/commit", mount / f"snapshots/{snapshot}")
        assert code != 0
        assert "Read-only file system" in error
        read_only = mount.control("status.json", f"snapshots/{snapshot}")
        writable = mount.control("status.json", "branches/main")
        assert list(read_only) == list(writable)
        assert list(read_only["staged"]) == list(writable["staged"])
        assert list(mount.control("diff.json", f"snapshots/{snapshot}")) == list(
            mount.control("diff.json", "branches/main")
        )


@pytest.fixture
def faulty(tmp_path):
    """A branch whose repository can be made to fail, or be slow, by writing a word to a file."""
    repo, place, log, fault = make_repo(tmp_path / "repo", 400), tmp_path / "mnt", tmp_path / "log", tmp_path / "fault"
    place.mkdir()
    options = MountOptions(
        repository=str(repo),
        mountpoint=str(place),
        branch="main",
        poll_interval_s=0,
        foreground=True,
        state_dir=str(tmp_path / "trees"),
    ).resolved()
    daemon = run_daemon(FAULTY.format(fault=str(fault)), options, log)
    try:
        yield place, repo, fault
    finally:
        if mounted_at(str(place)) is not None:
            subprocess.run(["fusermount3", "-uz", place], check=True)
        daemon.wait(30)


def test_a_full_disk_and_a_store_that_is_gone(faulty):
    branch, repo, fault = faulty
    for word, code, kind in (("full", 28, "io"), ("gone", 5, "object-store")):
        change(branch)
        mine = zarr.open_array(str(branch / "a"))[0]
        fault.write_text(word)
        fails(branch / ".icefs/commit", b"fails\n", code)
        told = outcome(branch)
        assert (told["ok"], told["kind"]) == (False, kind)
        assert told["hint"]
        fault.unlink()
        assert zarr.open_array(str(branch / "a"))[0] == mine
        assert sh("echo then > .icefs/commit", branch) == (0, "")
        assert messages(repo)[0] == "then"
    assert messages(repo) == ["then", "then", "made", "Repository initialized"]


COUNT, SIZE = 3, 9_000_000  # large enough that each is stored by itself


def write_slowly(branch, fault):
    """Stages chunks that become several objects, of which but the first is stored before the word is taken back."""
    group = zarr.open_group(str(branch), mode="a")
    array = group.create_array("big", shape=(COUNT, SIZE), chunks=(1, SIZE), dtype="u1", compressors=None)
    array[:] = 1
    fault.write_text("slow")


def test_progress_and_calling_off(faulty):
    branch, repo, fault = faulty
    write_slowly(branch, fault)
    fd = os.open(branch / ".icefs/rpc", os.O_RDWR)
    try:
        os.write(fd, b'{"op": "commit", "message": "never"}')
        first = json.loads(os.read(fd, 1 << 16))
        assert first["type"] == "progress"
        told = first
        while not told["files"]:
            told = json.loads(os.read(fd, 1 << 16))
            assert told["type"] == "progress", told
        assert (told["total_files"], told["total_bytes"]) == (COUNT, COUNT * SIZE)
        assert 0 < told["bytes"] <= told["total_bytes"]
        status = json.loads((branch / ".icefs/status.json").read_text())
        assert status["uploading"]["total_files"] == COUNT
        assert "A commit is under way: " in (branch / ".icefs/status").read_text()
        fails(branch / ".icefs/commit", b"another\n", 1)
        assert require_mount(branch).ask("cancel") == {"cancelled": True}
        fault.write_text("")
        while told["type"] == "progress":
            told = json.loads(os.read(fd, 1 << 16))
        assert (told["type"], told["kind"]) == ("error", "commit-cancelled")
        assert os.read(fd, 100) == b""
    finally:
        os.close(fd)
    assert outcome(branch)["kind"] == "commit-cancelled"
    assert messages(repo) == ["made", "Repository initialized"]
    status = json.loads((branch / ".icefs/status.json").read_text())
    assert status["staged"]["chunks"] == {"big": {"written": COUNT, "rewritten": 0, "deleted": 0}}
    assert status["uploading"] is None
    assert require_mount(branch).ask("cancel") == {"cancelled": False}
    assert main(["commit", "-m", "after all", str(branch)]) == 0
    assert messages(repo)[0] == "after all"


def test_who_goes_away_takes_the_commit_along(faulty):
    branch, repo, fault = faulty
    write_slowly(branch, fault)
    fd = os.open(branch / ".icefs/rpc", os.O_RDWR)
    os.write(fd, b'{"op": "commit", "message": "never"}')
    assert json.loads(os.read(fd, 1 << 16))["type"] == "progress"
    os.close(fd)
    fault.write_text("")
    command = "until grep -q commit-cancelled .icefs/commit; do sleep 0.02; done"
    assert sh(command, branch) == (0, "")
    assert messages(repo) == ["made", "Repository initialized"]


def test_ctrl_c_calls_a_commit_off(faulty):
    branch, repo, fault = faulty
    write_slowly(branch, fault)
    icefs = Path(sys.executable).with_name("icefs")
    with running([icefs, "commit", "-m", "never", branch], stderr=subprocess.PIPE, text=True) as process:
        assert sh("until grep -q 'chunks, ' .icefs/status; do sleep 0.02; done", branch) == (0, "")
        process.send_signal(2)
        assert process.stderr.readline() == "calling the commit off\n"
        fault.write_text("")
        assert process.stderr.read().startswith("icefs: the commit was called off before it was published")
        assert process.wait(30) == 130
    assert messages(repo) == ["made", "Repository initialized"]
