"""`icefs mount`, `icefs umount` and what speaks to a mount, as users run them: real processes, a real kernel."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icefs.cli.commands import umount as umount_command
from icefs.cli.main import main
from icefs.cli.support.exit_codes import FAILED, NOT_FOUND, STATE, STORAGE, USAGE
from icefs.daemon.mountinfo import mounted_at
from tests.support.children import running
from tests.support.ci import require

PROJECT = Path(__file__).resolve().parents[2]
DEMO = PROJECT / "tests/conformance/data/demo-repo"
ICEFS = Path(sys.executable).with_name("icefs")
DEADLINE_S = 60


@pytest.fixture(scope="module", autouse=True)
def fuse():
    require(Path("/dev/fuse").exists() and shutil.which("fusermount3") is not None, "FUSE")


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    """Keeps the daemons' logs in the test's own directory."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def repo(tmp_path):
    return Path(shutil.copytree(DEMO, tmp_path / "repo"))


@pytest.fixture
def place(tmp_path):
    """A mountpoint, free again after the test whatever happened."""
    place = tmp_path / "mnt"
    place.mkdir()
    yield place
    if mounted_at(str(place)) is not None:
        subprocess.run(["fusermount3", "-uz", place], check=True)


def icefs(*arguments, code=0, **options):
    """Runs a command line; returns what it printed, or its one line on stderr if it must fail."""
    done = subprocess.run(
        [ICEFS, *arguments], capture_output=True, text=True, check=False, timeout=DEADLINE_S, **options
    )
    assert done.returncode == code, done.stderr
    if code == 0:
        assert done.stderr == ""
        return done.stdout
    assert done.stdout == ""
    assert done.stderr.startswith("icefs: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("icefs: ").strip()


@pytest.fixture
def here(capsys):
    """Like `icefs`, in this process, which is quicker; the daemons are processes of their own all the same."""

    def call(*arguments, code=0):
        assert main([str(argument) for argument in arguments]) == code
        out, err = capsys.readouterr()
        if code == 0:
            assert err == ""
            return out
        assert out == ""
        assert err.startswith("icefs: ")
        assert err.count("\n") == 1
        return err.removeprefix("icefs: ").strip()

    return call


def info(place):
    return json.loads((place / ".icefs/info.json").read_text())


def is_alive(pid):
    """Tells whether a process runs; one that nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        time.sleep(0.01)


def test_a_mount_from_beginning_to_end(repo, place, state, here):
    assert icefs("mount", repo, place) == f"mounted {repo} at {place}; unmount it with 'icefs umount {place}'\n"
    pid = info(place)["pid"]
    assert is_alive(pid)
    assert sorted(path.name for path in place.iterdir()) == ["as-of", "branches", "snapshots", "tags"]

    weather = place / "branches/main/weather"
    assert icefs("status", cwd=weather).startswith("On branch main\n")
    assert json.loads(icefs("status", "--json", place / "tags/v1.0"))["kind"] == "tag"
    assert icefs("status", place).startswith(f"Repository {repo}\n")
    assert icefs("log", "--oneline", "-n1", cwd=place / "tags/v1.0").endswith(
        "(tag: v1.0) Add a month of temperature\n"
    )
    assert here("ls", place / "tags/v1.0", "weather").splitlines() == ["latitude", "longitude", "temperature", "time"]
    assert here("cat", weather, "zarr.json") == (weather / "zarr.json").read_text()
    assert here("branch", "list", weather).startswith("main\t")
    facts = json.loads(here("info", "--json", weather))
    assert (facts["pid"], facts["kind"], facts["mountpoint"]) == (pid, "branch", str(place))
    assert here("refresh", weather) == "nothing new\n"
    assert here("umount", weather, code=NOT_FOUND) == f"not a mountpoint: {weather}; run 'icefs umount {place}'"

    line = here("mount", repo, place, code=USAGE)
    assert f"already a mountpoint, of {repo} (fuse.icefs): {place}" in line

    assert icefs("umount", place) == f"unmounted {place}\n"
    assert not is_alive(pid)
    assert list(place.iterdir()) == []
    (log,) = state.rglob("*.log")
    assert f"unmounted {place}" in log.read_text()
    assert " WARNING " not in log.read_text()


def test_new_commits_appear_at_refresh(repo, place):
    """A branch that somebody moves: here by putting an older state of `repo` in its place."""
    (before,) = (path for path in (repo / "overwritten").iterdir() if is_before_the_branch(path))
    newest = (repo / "repo").read_bytes()
    (repo / "repo").write_bytes(before.read_bytes())
    icefs("mount", repo, place, "--poll-interval", "0")
    assert not (place / "branches/warmer").exists()
    (repo / "repo").write_bytes(newest)
    assert "branch warmer: new" in icefs("refresh", place).splitlines()
    assert (place / "branches/warmer/zarr.json").is_file()
    icefs("umount", place)


def is_before_the_branch(path):
    """Tells the one backup of `repo` in which the tag v1.1 is there, and the branch is not yet."""
    from icefs.format.repo.info import parse_repo_info

    repo_info = parse_repo_info(path.read_bytes(), name=path.name)
    return "v1.1" in repo_info.tags and "warmer" not in repo_info.branches


@pytest.mark.parametrize(
    ("options", "has_precipitation", "kind"),
    [
        (["--branch", "warmer"], True, "branch"),
        (["--tag", "v1.0"], False, "tag"),
        (["--snapshot", "ID"], False, "snapshot"),
        (["--as-of", "TIME"], False, "snapshot"),
        (["-o", "tag=v1.0,ro,_netdev,noauto,nofail,user,x-systemd.automount,nosuid,nodev,umask=027"], False, "tag"),
    ],
)
def test_one_tree_at_the_mountpoint(repo, place, options, has_precipitation, kind, here):
    (first, *_) = json.loads(here("log", "--json", repo, "v1.0"))
    values = {"ID": first["id"], "TIME": first["written_at"]}
    options = [values.get(option, option) for option in options]
    facts = json.loads(here("mount", "--json", *options, repo, place))
    assert (facts["repository"], facts["mountpoint"]) == (str(repo), str(place))
    assert facts["pid"] == info(place)["pid"]
    assert Path(facts["log_file"]).is_file()
    assert (place / "weather/precipitation/zarr.json").exists() == has_precipitation
    assert info(place)["kind"] == kind
    assert (place / "zarr.json").stat().st_mode & 0o777 & 0o027 == (0 if "-o" in options else 0o004)
    here("umount", place)


@pytest.mark.parametrize("ending", ["SIGINT", "SIGTERM", "umount"])
def test_in_the_foreground(repo, place, ending):
    with running(
        [ICEFS, "mount", "-f", repo, place], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline().startswith(f"mounted {repo} at {place}; ")
            assert info(place)["pid"] == process.pid
            if ending == "umount":
                icefs("umount", place)
            else:
                process.send_signal(signal.Signals[ending])
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()
        assert "serves" in process.stderr.read()
    assert not place.is_mount()


# Failed starts


def test_a_place_that_will_not_do(repo, tmp_path, here):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    (repo / "inside").mkdir()
    for mountpoint, line in (
        (tmp_path / "missing", f"the mountpoint does not exist: {tmp_path}/missing; run 'mkdir -p "),
        (tmp_path / "full", f"the mountpoint is not empty: {tmp_path}/full; choose an empty directory"),
        (tmp_path / "full/file", f"the mountpoint is not a directory: {tmp_path}/full/file; "),
        (repo / "inside", f"the mountpoint lies in the repository itself: {repo}/inside; "),
    ):
        assert here("mount", repo, mountpoint, code=USAGE).startswith(line)
    assert icefs("mount", "-f", repo, tmp_path / "full", code=USAGE).startswith("the mountpoint is not empty: ")


def test_nothing_to_mount(repo, place, tmp_path, here):
    (tmp_path / "empty").mkdir()
    for arguments, code, line in (
        ([tmp_path / "empty"], NOT_FOUND, f"no Icechunk repository at {tmp_path}/empty; "),
        ([tmp_path / "nowhere"], NOT_FOUND, f"no Icechunk repository at {tmp_path}/nowhere; "),
        ([repo, "--branch", "nope"], NOT_FOUND, "there is no branch nope; there are "),
        ([repo, "--tag", "nope"], NOT_FOUND, "there is no tag nope; there are "),
        ([repo, "--snapshot", "nope"], USAGE, "'nope' is not an id: "),
        ([repo, "--as-of", "1999-12-31"], NOT_FOUND, "branch main has no snapshot as old as "),
        ([repo, "--as-of", "yesterday"], USAGE, "invalid value for '--as-of': 'yesterday' is not a time "),
        ([repo, "--branch", "main", "--tag", "v1.0"], USAGE, "give one of branch, tag and snapshot"),
        ([f"{repo}@v1.0"], USAGE, "a mount takes a repository without @REF: "),
        ([repo, "-o", "nope"], USAGE, "invalid value for -o: unknown mount option: nope; "),
        ([repo, "--uid", "no-such-user"], USAGE, "invalid value for '--uid': there is no user 'no-such-user'; "),
        ([repo, "--uid", "99999999999"], USAGE, "invalid value for '--uid': 99999999999 is no number of a user: "),
        ([repo, "--gid", "4294967295"], USAGE, "invalid value for '--gid': 4294967295 is no number of a group: "),
        ([repo, "--umask", "8"], USAGE, "invalid value for '--umask': '8' is not an octal number "),
        ([repo, "--log-file", "/proc/nope/log"], STORAGE, "cannot write the log file /proc/nope/log: "),
    ):
        assert here("mount", *arguments, place, code=code).startswith(line), arguments
    assert not place.is_mount()


@pytest.mark.parametrize("location", ["s3://bucket/x?endpoint_url=http://127.0.0.1:1", "http://127.0.0.1:1/x"])
def test_an_endpoint_that_does_not_answer(place, location, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert "127.0.0.1:1" in icefs("mount", location, place, code=STORAGE)
    assert not place.is_mount()


def test_no_permission(repo, place):
    place.chmod(0o555)
    # Root without capabilities may do as little as anybody.
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*powerless, ICEFS, "mount", repo, place], capture_output=True, text=True, check=False, timeout=DEADLINE_S
    )
    assert done.returncode not in (0, FAILED)
    assert done.stderr.startswith("icefs: ")
    assert str(place) in done.stderr
    assert "permission" in done.stderr.lower() or "not permitted" in done.stderr.lower()
    assert done.stderr.count("\n") == 1
    assert not place.is_mount()


def test_fuse_is_not_installed(repo, place, tmp_path, here, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        line = here("mount", repo, place, code=FAILED)
        assert line == "FUSE is not installed: there is no fusermount3; install it: apt install fuse3"


# Unmounting


def test_a_busy_mount_names_who_keeps_it(repo, place):
    icefs("mount", repo, place)
    pid = info(place)["pid"]
    with running(["sleep", "60"], cwd=place / "tags") as sleeper:
        try:
            line = icefs("umount", place, code=STATE)
            assert line.startswith(f"the mount is busy: {place}, used by sleep (pid {sleeper.pid}); ")
            assert place.is_mount()
            assert "detached" in icefs("umount", "--lazy", place)
            assert not place.is_mount()
            assert is_alive(pid)
        finally:
            sleeper.kill()
    wait_until(lambda: not is_alive(pid))


@pytest.mark.parametrize("how", ["open", "mapped"])
def test_open_and_mapped_files_keep_a_mount_busy(repo, place, how):
    icefs("mount", repo, place)
    file = place / "branches/main/zarr.json"
    code = (
        "import mmap, sys; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ);"
        + ("f.close();" if how == "mapped" else "m.close();")
        + "print('ready', flush=True); sys.stdin.read()"
    )
    with running(
        [sys.executable, "-c", code, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "ready\n"
        assert f"(pid {holder.pid})" in icefs("umount", place, code=STATE)
        holder.stdin.close()
    assert icefs("umount", place) == f"unmounted {place}\n"


def test_a_dead_daemon_is_cleared_away(repo, place, here):
    icefs("mount", repo, place)
    pid = info(place)["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid))
    hint = f"run 'icefs umount {place}'"
    for command in (["status", place], ["status", place / "branches"], ["log", place / "tags/v1.0"]):
        line = here(*command, code=STATE)
        assert line == f"the daemon of the mount has ended: {place}; {hint} and mount again"
    assert icefs("umount", place) == f"cleared away {place}, whose daemon had died\n"
    assert list(place.iterdir()) == []


def test_from_inside_and_through_a_link(repo, place, tmp_path):
    icefs("mount", repo, place)
    assert icefs("umount", ".", cwd=place) == f"unmounted {place}\n"
    (tmp_path / "link").symlink_to(place)
    icefs("mount", repo, tmp_path / "link")
    assert place.is_mount()
    assert json.loads(icefs("umount", "--json", tmp_path / "link"))["mountpoint"] == str(place)
    assert not place.is_mount()


def test_what_is_no_mount(place, tmp_path, here):
    for path in (place, tmp_path / "missing"):
        assert here("umount", path, code=NOT_FOUND).startswith(f"not a mountpoint: {path}; ")
    assert here("umount", "/proc", code=USAGE) == "not an icefs mount but proc: /proc; use umount(8)"


def test_a_daemon_that_does_not_answer(repo, place, monkeypatch, capsys):
    icefs("mount", repo, place)
    pid = info(place)["pid"]
    monkeypatch.setattr(umount_command, "_ASK_TIMEOUT_S", 0.2)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert main(["umount", str(place)]) == 0
        assert "its daemon did not answer, and may still be there" in capsys.readouterr().out
        assert is_alive(pid)
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not is_alive(pid))


def test_a_daemon_that_does_not_end(repo, place, monkeypatch, capsys):
    icefs("mount", repo, place)
    pid = info(place)["pid"]
    unmount = umount_command._unmount

    def stop_and_unmount(*args, **kwargs):
        os.kill(pid, signal.SIGSTOP)
        unmount(*args, **kwargs)

    monkeypatch.setattr(umount_command, "_unmount", stop_and_unmount)
    try:
        assert main(["umount", "--timeout", "0.2", str(place)]) == STATE
        assert f"the daemon has not ended after 0.2 s: process {pid};" in capsys.readouterr().err
        assert not place.is_mount()
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not is_alive(pid))
