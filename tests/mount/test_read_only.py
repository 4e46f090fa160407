"""A mount that only reads says so to the kernel, and is asked all the same."""

import contextlib
import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from icefs.cli.main import main
from icefs.cli.support.conversation import Conversation
from icefs.cli.support.mounts import require_mount
from icefs.daemon.mountinfo import mount_table
from icefs.errors import InvalidInputError
from icefs.ioctl import MAX_PART_BYTES
from tests.conformance.official import GROUP, array_json, commit, create
from tests.support.ci import require
from tests.support.mounting import Mount, mounted
from tests.support.users import run_as

OWNER, OTHER = 4201, 4202
CACHED = ["--allow-virtual", "http://127.0.0.1:1/"]  # of a store that is away something is kept, which can be warmed up
KEYS = {"zarr.json": GROUP, "a/zarr.json": array_json((4,), (1,)), "a/c/0": b"0"}
MOUNTS = ["--read-only", "-o ro", "--tag v", "--snapshot ID", "--as-of 2100-01-01", "--branch main --read-only"]

# Every command that a mount may be given which only reads.
ASKED = ["refresh", "warmup", "log-level .", "log-level . warning", "top --once --interval 0.1"]
READ = ["status", "status --json", "info", "log --oneline", "diff", "ls", "cat . a/c/0", "stats ."]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require(os.getuid() == 0, "the superuser, who can become other users")
    repository = tmp_path_factory.mktemp("read_only") / "repo"
    official = create(repository, 2)
    official.create_tag("v", commit(official, "first", KEYS))
    for directory in (repository, *repository.parents[:3]):
        directory.chmod(0o755)
    return repository


def is_read_only(place: Path) -> bool:
    """Tells what all that programs can look at says: the table of mounts (twice), and statvfs(3)."""
    shown = subprocess.run(["findmnt", "-nro", "OPTIONS", place], capture_output=True, text=True, check=True).stdout
    [line] = [line for line in Path("/proc/mounts").read_text().splitlines() if f" {place} " in line]
    said = [(found := options.split(","))[0] for options in (shown.strip(), line.split()[3])]
    assert "ro" not in found[1:]
    said.append("ro" if os.statvfs(place).f_flag & os.ST_RDONLY else "rw")
    assert len(set(said)) == 1, said
    return said[0] == "ro"


@contextlib.contextmanager
def mounted_by_command(repo: Path, options: str, tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "mnt"
    place.mkdir()
    words = options.replace("ID", main_tip(repo)).split()
    assert main(["mount", str(repo), str(place), "--state-dir", str(tmp_path / "state"), *CACHED, *words]) == 0
    try:
        yield place
    finally:
        assert main(["umount", str(place)]) == 0
    assert str(place) not in [entry.mountpoint for entry in mount_table()]


def main_tip(repo: Path) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert main(["log", "--oneline", str(repo)]) == 0
    return output.getvalue().split()[0]


@pytest.mark.parametrize("options", MOUNTS)
def test_a_mount_that_only_reads_is_ro_and_every_command_works_there(
    repo: Path, options: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with mounted_by_command(repo, options, tmp_path) as place:
        assert is_read_only(place)
        tree = place if options.split()[0] not in ("--read-only", "-o") else place / "branches/main"
        monkeypatch.chdir(tree)
        for line in [*ASKED, *READ]:
            assert main(line.split()) == 0, (line, capfd.readouterr().err)
        capfd.readouterr()
        assert main(["log-level", "."]) == 0
        assert "warning" in capfd.readouterr().out
        main(["doctor", "."])  # which may find fault with other mounts of this machine
        assert f"{place} answers, and nothing has failed" in " ".join(capfd.readouterr().out.split())
        for path in (place / "x", tree / "x", tree / ".icefs/commit", tree / ".icefs/rpc"):
            with pytest.raises(OSError, match="Read-only file system"):
                path.write_text("x")
        assert main(["commit", ".", "-m", "x"]) != 0
        monkeypatch.chdir("/")


def test_a_mount_that_may_be_written_to_is_rw(repo: Path, tmp_path: Path) -> None:
    with mounted_by_command(repo, "--branch main", tmp_path) as place:
        assert not is_read_only(place)


def in_mount(mount: Mount, line: str) -> object:
    """Runs a command as it would a user, and returns its exit code with what it says of a failure."""
    command, *words = line.split()
    errors = io.StringIO()
    with (
        contextlib.chdir(mount.path),
        contextlib.redirect_stderr(errors),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        return main([command, *words]), errors.getvalue()


@pytest.mark.parametrize("options", [{"read_only": True, "branch": "main"}, {"tag": "v"}], ids=["branch", "tag"])
def test_the_owner_of_a_mount_and_root_command_it_and_nobody_else(
    repo: Path, options: dict[str, object], tmp_path: Path
) -> None:
    kept = {"allow_virtual": (CACHED[1],), "cache_dir": str(tmp_path / "cache"), "cache_size": 1 << 20}
    with mounted(repo, allow_other=True, uid=OWNER, **kept, **options) as mount:
        mount.path.parent.chmod(0o755)
        for line in ASKED:
            assert in_mount(mount, line) == (0, "")  # here, where other users cannot import what it takes
            assert run_as(OWNER, OWNER, lambda line=line: in_mount(mount, line)) == "(0, '')"
            said = run_as(OTHER, OTHER, lambda line=line: in_mount(mount, line))
            assert said.startswith("(6, ")
            assert f"only user {OWNER}, whose mount it is, can" in said
        assert in_mount(mount, "status") == (0, "")
        assert run_as(OTHER, OTHER, lambda: in_mount(mount, "status")) == "(0, '')"
        assert run_as(OTHER, OTHER, lambda: Conversation(mount / ".icefs/rpc")) == "PermissionError"


@pytest.mark.parametrize("length", [0, 1, 1025, MAX_PART_BYTES, MAX_PART_BYTES + 1, 100_000])
def test_a_request_of_any_length_arrives_whole(repo: Path, length: int) -> None:
    with mounted(repo, tag="v") as mount:
        [answer] = mount.rpc({"op": "ping", "more": "x" * length})
        assert answer["pid"] == mount.pid
        with pytest.raises(InvalidInputError, match="unknown operation"):
            require_mount(mount.path).ask("x" * length)
        [line] = [one for one in (mount / ".icefs/accesslog").read_text().splitlines() if " ioctl " in one][-1:]
        assert line.endswith(" /.icefs/rpc")


def test_a_request_that_is_too_long_is_refused_and_the_mount_lives(repo: Path) -> None:
    with mounted(repo, tag="v", may_complain=True) as mount:
        with pytest.raises(OSError, match="Invalid argument"):
            mount.rpc({"op": "x" * (1 << 20)})
        assert mount.rpc({"op": "ping"})[0]["pid"] == mount.pid


def test_a_branch_that_is_bound_read_only_takes_a_commit_of_its_owner(repo: Path, tmp_path: Path) -> None:
    """The kernel lets nobody write through the second mountpoint; its owner and root command the mount all the same."""
    with mounted(repo, branch="main") as mount:
        bound = tmp_path / "bound"
        bound.mkdir()
        subprocess.run(["mount", "--bind", "-o", "ro", mount.path, bound], check=True)
        try:
            assert is_read_only(bound)
            (mount / "a/c/1").write_bytes(b"1")
            result = require_mount(bound).ask("commit", message="m" * (1 << 16))
            assert result["snapshot"]
        finally:
            subprocess.run(["umount", bound], check=True)


def test_other_ioctls_are_refused_as_by_a_file(repo: Path) -> None:
    with mounted(repo, tag="v") as mount:
        for path in (mount / "a/c/0", mount / "a", mount / ".icefs/rpc"):
            done = subprocess.run(["lsattr", "-d", path], capture_output=True, text=True, check=False)
            assert "Inappropriate ioctl" in done.stderr or "not supported" in done.stderr
            fd = os.open(path, os.O_RDONLY)
            assert not os.isatty(fd)
            os.close(fd)
