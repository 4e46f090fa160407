"""Working trees that an earlier mount left: found however things are spelled, and never used by two, or unusable."""

import errno
import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import icechunk
import pytest
import zarr

from icefs.cli.commands.mount import mount as mount_cli
from icefs.cli.main import main
from icefs.cli.support.exit_codes import STATE, STORAGE, USAGE
from icefs.cli.support.leaving import mount_command
from icefs.cli.support.mount_options import mount_options
from icefs.daemon.mountinfo import mounted_at
from icefs.errors import StorageError
from icefs.worktree.spool.state import StateLock, check_usable, is_in_use
from tests.support.mounting import scratch_directory, wait_until

type Icefs = Callable[..., str]


@pytest.fixture
def root() -> Iterator[Path]:
    with scratch_directory() as directory:
        yield Path(directory).resolve()


@pytest.fixture
def icefs(capsys: pytest.CaptureFixture[str]) -> Icefs:
    """Runs a command line in this process; returns what it printed, both outputs together."""

    def call(*arguments: object, code: int = 0) -> str:
        found = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert found == code, out + err
        return out + err

    return call


@pytest.fixture
def place(root: Path) -> Path:
    """A repository `repo` and an empty directory `mnt`, which is no mount any more afterwards."""
    icechunk.Repository.create(icechunk.local_filesystem_storage(str(root / "repo")))
    (root / "mnt").mkdir()
    return root


def mount(icefs: Icefs, place: Path, repo: str = "repo", mnt: str = "mnt", *options: str, code: int = 0) -> str:
    where = place / repo, place / mnt, "--branch", "main", "--state-dir", place / "st"
    return icefs("mount", *where, *options, code=code)


def damage_all_rows(place: Path) -> Path:
    """Damages a state directory as an older icefs, which had no row log, might have left it."""
    [directory] = (place / "st").iterdir()
    for path in directory.glob("rows.*"):
        path.unlink()
    (directory / "tree.db").write_bytes(b"nothing")
    return directory


def test_a_second_mount_is_refused_while_the_first_has_files_open(place: Path, icefs: Icefs) -> None:
    mount(icefs, place)
    (place / "mnt" / "f").write_text("mine")
    with (place / "mnt" / "f").open() as held:
        icefs("umount", "--lazy", place / "mnt")
        said = mount(icefs, place, code=STATE)
        assert "an earlier mount of this branch, process " in said
        assert f"close the files that are open in it, and mount again: /f (process {os.getpid()}, " in said
        assert not (place / "mnt").is_mount()
        assert held.read() == "mine"
    [directory] = (place / "st").iterdir()
    wait_until(lambda: not is_in_use(directory), "the first daemon ends")
    mount(icefs, place)
    assert (place / "mnt" / "f").read_text() == "mine"
    icefs("umount", "--discard", place / "mnt")


def test_a_mount_waits_for_the_end_of_an_earlier_one(root: Path) -> None:
    directory = root / "st" / "a-tree"
    directory.mkdir(parents=True)
    with ThreadPoolExecutor(1) as pool:
        with StateLock(directory):
            waiting = pool.submit(check_usable, root / "st", directory, 60.0)
            with pytest.raises(TimeoutError):
                waiting.result(0.2)
        assert waiting.result(60) is None


def test_a_whole_mount_names_what_keeps_a_branch_of_it(place: Path, icefs: Icefs) -> None:
    where = "mount", place / "repo", place / "mnt", "--state-dir", place / "st"
    branch = place / "mnt" / "branches" / "main"
    icefs(*where)
    (branch / "f").write_text("mine")
    with (branch / "f").open() as held:
        icefs("umount", "--lazy", place / "mnt")
        reason = f"close the files that are open in it: /branches/main/f (process {os.getpid()}, "
        assert reason in icefs(*where)
        for words, code in ((["status"], STATE), (["status", "--json"], STATE), (["doctor"], 1)):
            said = icefs(*words, branch, code=code)
            assert "is in use by process " in said
            assert reason in said
        assert reason in icefs("commit", branch, "-m", "x", code=STATE)
        assert reason in icefs("doctor", place / "mnt", code=1)
        assert "branch main: the working tree in " in icefs("status", place / "mnt")
        assert "Repository initialized" in icefs("log", branch)  # the repository can be read
        assert held.read() == "mine"

    def is_answered() -> bool:
        return "mine" in subprocess.run(["cat", branch / "f"], capture_output=True, text=True, check=False).stdout

    wait_until(is_answered, "the first daemon ends")
    assert "  f" in icefs("status", branch)
    assert "is in use" not in icefs("status", place / "mnt")
    icefs("umount", "--discard", place / "mnt")


def test_doctor_says_what_is_damaged_in_a_mounted_tree_and_in_one_that_is_left(place: Path, icefs: Icefs) -> None:
    where = "mount", place / "repo", place / "mnt", "--state-dir", place / "st"
    branch = place / "mnt" / "branches" / "main"
    icefs(*where)
    (branch / "cut").write_text("sixteen letters!")
    (branch / "gone").write_text("four")
    icefs("umount", place / "mnt")
    spool = {path.stat().st_size: path for path in (place / "st").rglob("spool/*/*") if path.is_file()}
    os.truncate(spool[16], 8)
    spool[4].unlink()
    said = icefs("doctor", "--state-dir", place / "st")
    assert "warning" in said
    for name in ("cut", "gone"):
        assert f"branch main: {name} " in said
    assert "'icefs mount' of the same branch" in said
    [directory] = (place / "st").iterdir()
    (directory / "tree.db").write_bytes(b"damaged")
    icefs(*where)
    for place_in in (branch, place / "mnt"):
        said = icefs("doctor", place_in)
        assert "branch main: cut has not the bytes that were written; look at it, and write it again" in said
        assert "branch main: gone lost its bytes; write it again, or remove it" in said
        assert "branch main: the database was damaged; " in said
    assert icefs("status", branch).count("the database was damaged") == 1
    icefs("umount", "--discard", place / "mnt")


def test_the_same_damage_again_is_shown_once(place: Path, icefs: Icefs) -> None:
    mount(icefs, place)
    (place / "mnt" / "u1").write_text("here")
    for _ in range(2):
        icefs("umount", place / "mnt")
        [directory] = (place / "st").iterdir()
        (directory / "tree.db").write_bytes(b"damaged")
        mount(icefs, place)
    assert icefs("status", place / "mnt").count("the database was damaged") == 1
    icefs("umount", "--discard", place / "mnt")


@pytest.mark.parametrize("link", ["repo", "mnt"])
@pytest.mark.parametrize("is_first", [False, True])
def test_changes_are_found_by_another_spelling(place: Path, icefs: Icefs, link: str, *, is_first: bool) -> None:
    (place / "link").symlink_to(link)
    spelled = {"repo": ("link", "mnt"), "mnt": ("repo", "link")}[link]
    turns = [spelled, ("repo", "mnt")] if is_first else [("repo", "mnt"), spelled]
    mount(icefs, place, *turns[0])
    (place / "mnt" / "u1").write_text("here")
    icefs("umount", place / turns[0][1])
    assert "uncommitted changes" in mount(icefs, place, *turns[1])
    assert (place / "mnt" / "u1").read_text() == "here"
    icefs("umount", place / turns[1][1])
    assert len(list((place / "st").iterdir())) == 1


def test_a_tree_of_an_older_icefs_that_knew_another_spelling_is_taken_up(place: Path, icefs: Icefs) -> None:
    mount(icefs, place)
    (place / "mnt" / "u1").write_text("here")
    icefs("umount", place / "mnt")
    [directory] = (place / "st").iterdir()
    directory.rename(directory.with_name("repo-main-0123456789abcdef"))
    assert "uncommitted changes" in mount(icefs, place)
    assert (place / "mnt" / "u1").read_text() == "here"
    icefs("umount", "--discard", place / "mnt")


def test_a_tree_that_cannot_be_opened_keeps_its_branch_from_being_mounted_and_says_what_to_do(
    place: Path, icefs: Icefs
) -> None:
    mount(icefs, place)
    (place / "mnt" / "u1").write_text("here")
    icefs("umount", place / "mnt")
    directory = damage_all_rows(place)
    said = mount(icefs, place, code=STORAGE)
    assert f"the working tree in {directory} is damaged" in said
    assert "export" in said
    assert "discard" in said
    assert mounted_at(str(place / "mnt")) is None


def test_a_whole_repository_can_be_mounted_beside_a_damaged_tree_and_discard_it(place: Path, icefs: Icefs) -> None:
    where = "mount", place / "repo", place / "mnt", "--state-dir", place / "st"
    icefs(*where)
    (place / "mnt" / "branches" / "main" / "u1").write_text("here")
    icefs("umount", place / "mnt")
    directory = damage_all_rows(place)
    said = icefs(*where)
    assert f"warning: branch main: the working tree in {directory} is damaged" in said
    assert "keeps a damaged working tree" in icefs("umount", place / "mnt")
    assert directory.exists()
    icefs(*where)
    icefs("umount", "--discard", place / "mnt")
    assert not directory.exists()


def test_files_that_cannot_be_locked_are_told_before_the_mount(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StorageError, match=f"files cannot be locked .*{place / 'st'}: Function not impl") as caught:
        check_usable(place / "st", None)
    assert caught.value.hint == "give another --state-dir, on a local disk"


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
def test_a_file_system_without_locks_is_named_by_mount_and_by_commands(place: Path) -> None:
    source, library = place / "noflock.c", place / "noflock.so"
    source.write_text("#include <errno.h>\nint flock(int f, int o) { errno = ENOSYS; return -1; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)

    def call(*words: object) -> tuple[int, str]:
        command = [str(Path(sys.executable).with_name("icefs")), *map(str, words)]
        environment = {**os.environ, "LD_PRELOAD": str(library)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout + done.stderr

    code, said = call("mount", place / "repo", place / "mnt", "--branch", "main", "--state-dir", place / "st")
    assert code == STORAGE, said
    assert f"files cannot be locked where working trees are kept: {place / 'st'}: Function not implemented" in said
    assert "give another --state-dir" in said
    assert not (place / "mnt").is_mount()
    code, said = call("branch", "create", "other", "--repo", place / "repo")
    assert code == STORAGE, said
    assert "lock" in said
    assert f"files cannot be locked in {place / 'repo'}" in call("doctor", place / "repo")[1]


def test_the_way_back_has_every_option(place: Path, icefs: Icefs) -> None:
    given = [
        *("--uid", "1000", "--gid", "65534", "--umask", "027", "--cache-size", "1073741824", "--poll-interval", "1"),
        *("--upload-after", "2.5", "--pack-size", "1000000", "--log-level", "debug", "--allow-virtual", "file:///x y/"),
        *("--log-file", str(place / "my log"), "--log-format", "json"),
    ]
    mount(icefs, place, "repo", "mnt", *given)
    (place / "mnt" / "f").write_text("mine")
    come_back = json.loads(icefs("umount", "--json", place / "mnt"))["come_back"]
    words = shlex.split(come_back)
    assert json.loads((place / "my log").read_text().splitlines()[0])["mount"] == str(place / "mnt")
    for option, value in zip(given[::2], given[1::2], strict=True):
        assert words[words.index(option) + 1] == value
    icefs(*words[1:])
    assert json.loads(icefs("umount", "--json", place / "mnt"))["come_back"] == come_back


def test_the_defaults_of_the_way_back_are_those_of_mount() -> None:
    made = mount_cli.make_context("mount", ["repo", "mnt"]).params
    del made["as_json"]
    given = mount_options(**made)
    info = {"repository": "repo", "options": asdict(given)}
    assert shlex.split(mount_command(Path("/m"), info)) == ["icefs", "mount", "repo", "/m"]


def test_the_way_back_keeps_the_options_of_a_store() -> None:
    location = "s3://b/p?endpoint_url=http://localhost:1&max_tries=1&requester_pays=true"
    info = {"repository": "s3://b/p", "options": {"repository": location}}
    assert shlex.split(mount_command(Path("/m"), info)) == ["icefs", "mount", location, "/m"]


def listed(icefs: Icefs, place: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(icefs("sessions", "--json", "--state-dir", place / "st"))
    return found


def state_files(place: Path) -> dict[str, int]:
    files = [path for path in (place / "st").rglob("*") if path.is_file()]
    return {str(path): path.stat().st_mtime_ns for path in files}


@pytest.mark.parametrize("is_discarded", [False, True])
def test_a_mount_leaves_no_working_tree_without_changes(place: Path, icefs: Icefs, *, is_discarded: bool) -> None:
    mount(icefs, place)
    (place / "mnt" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    if is_discarded:
        icefs("umount", "--discard", place / "mnt")
    else:
        icefs("commit", place / "mnt", "-m", "all of it")
        icefs("umount", place / "mnt")
    assert list((place / "st").iterdir()) == []


def test_a_tree_with_a_mode_that_somebody_set_stays_and_is_pruned(place: Path, icefs: Icefs) -> None:
    mount(icefs, place)
    (place / "mnt" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    icefs("commit", place / "mnt", "-m", "all of it")
    (place / "mnt" / "zarr.json").chmod(0o600)
    icefs("umount", place / "mnt")
    mount(icefs, place)
    assert (place / "mnt" / "zarr.json").stat().st_mode & 0o777 == 0o600
    icefs("umount", place / "mnt")
    assert listed(icefs, place) == []
    icefs("sessions", "--state-dir", place / "st", "prune", "--dry-run")
    assert len(list((place / "st").iterdir())) == 1
    assert "removed 1 working tree" in icefs("sessions", "--state-dir", place / "st", "prune")
    assert list((place / "st").iterdir()) == []


def test_looking_at_sessions_changes_nothing(place: Path, icefs: Icefs) -> None:
    mount(icefs, place)
    (place / "mnt" / "u1").write_text("here")
    icefs("umount", place / "mnt")
    before, [one] = state_files(place), listed(icefs, place)
    assert (one["state"], one["num_changes"], one["problem"]) == ("unmounted", 1, None)
    for path in (place / "st").rglob("rows.*"):
        path.unlink()  # as an older icefs left it
    [again] = listed(icefs, place)
    assert (again["num_changes"], again["changed_at"]) == (1, one["changed_at"])
    after = state_files(place)
    assert {path: time_ns for path, time_ns in before.items() if "/rows." not in path} == after


@pytest.mark.parametrize("text", [None, "", "{"])
def test_a_tree_without_a_readable_info_json_is_listed_and_used(place: Path, icefs: Icefs, text: str | None) -> None:
    mount(icefs, place)
    (place / "mnt" / "u1").write_text("here")
    icefs("umount", place / "mnt")
    [info] = (place / "st").rglob("info.json")
    if text is None:
        info.unlink()
    else:
        info.write_text(text)
    [one] = listed(icefs, place)
    assert (one["repository"], one["branch"], one["num_changes"]) == (str(place / "repo"), "main", 1)
    icefs("sessions", "--state-dir", place / "st", "export", one["id"], place / "out")
    assert (place / "out" / "u1").read_text() == "here"


def test_a_mounted_tree_is_listed_with_the_base_that_it_has(place: Path, icefs: Icefs) -> None:
    mount(icefs, place)
    (place / "mnt" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    snapshot = json.loads(icefs("commit", "--json", place / "mnt", "-m", "first"))["snapshot"]
    (place / "mnt" / "u1").write_text("here")
    [one] = listed(icefs, place)
    assert (one["state"], one["base"], one["num_changes"]) == ("mounted", snapshot, 1)
    icefs("umount", "--discard", place / "mnt")


def test_a_damaged_tree_is_listed_with_its_ways_out(place: Path, icefs: Icefs) -> None:
    mount(icefs, place)
    (place / "mnt" / "u1").write_text("here")
    icefs("umount", place / "mnt")
    directory = damage_all_rows(place)
    said = icefs("sessions", "--state-dir", place / "st")
    assert "damaged" in said
    export, discard = (shlex.split(line)[1:] for line in re.findall(r"'(icefs sessions [^']*)'", said))
    assert "problem" in icefs("doctor", "--state-dir", place / "st", code=1)
    icefs(*(place / "out" if word == "DIR" else word for word in export))
    assert [path.read_text() for path in (place / "out").rglob("*") if path.is_file()] == ["here"]
    icefs(*discard)
    assert not directory.exists()
    mount(icefs, place)
    icefs("umount", place / "mnt")


def test_a_cut_chunk_is_told_at_the_mount_and_not_committed(place: Path, icefs: Icefs) -> None:
    mount(icefs, place)
    zarr.create_array(str(place / "mnt" / "a"), shape=(4,), chunks=(4,), dtype="i8", compressors=None)[:] = 7
    icefs("umount", place / "mnt")
    [chunk] = [path for path in (place / "st").rglob("spool/*/*") if path.stat().st_size == 32]
    os.truncate(chunk, 16)
    assert "Damage: a/c/0 has not the bytes that were written" in mount(icefs, place)
    assert "a/c/0" in icefs("status", place / "mnt")
    assert "its bytes are not all there" in icefs("commit", place / "mnt", "-m", "x", code=USAGE)
    zarr.open_array(str(place / "mnt" / "a"))[:] = 7
    icefs("umount", "--commit", "-m", "whole again", place / "mnt")
