"""The daemon is killed in the middle of commits: each happened whole, or not at all, and never twice."""

import contextlib
import errno
import itertools
import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import numpy.typing as npt
import pytest
import zarr

from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.support.killing import Place, killing_place, rounds
from tests.support.killing_scripts import DEAD, VALUES, content_of

MESSAGE = "the commit"
ROUNDS = rounds(12)


@pytest.fixture
def place() -> Iterator[Place]:
    """A place with a repository that has an array."""
    with killing_place() as place:
        WritableRepository.create(open_storage(str(place.repository))).close()
        session = official(place).writable_session("main")
        array = zarr.create_group(session.store).create_array(
            "a", shape=(VALUES,), chunks=(1,), dtype="i8", compressors=None
        )
        array[:] = np.arange(VALUES)
        session.commit("the array")
        yield place


def official(place: Place) -> icechunk.Repository:
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(place.repository)))


def committed(place: Place) -> tuple[list[str], npt.NDArray[Any]]:
    """Returns the messages in the branch's history, newest first, and the array at its tip: the official library."""
    repository = official(place)
    array = zarr.open_group(repository.readonly_session("main").store, mode="r")["a"]
    assert isinstance(array, zarr.Array)
    return [info.message for info in repository.ancestry(branch="main")], np.asarray(array[:])


def commit(place: Place, message: str = MESSAGE) -> None:
    fd = os.open(place.path / ".icefs/commit", os.O_WRONLY)
    try:
        os.write(fd, message.encode() + b"\n")  # once: Python's files would try again when they are closed
    finally:
        os.close(fd)


def commit_or_die(place: Place) -> bool:
    """Returns whether the daemon answered that it has committed; it may die meanwhile, nothing else."""
    try:
        commit(place)
    except OSError as error:
        if error.errno not in DEAD:
            raise
        return False
    return True


def staged(place: Place) -> Any:
    status = place.control("status.json")
    return status["staged"], status["untracked"], status["invalid"]


def change_much(place: Place) -> None:
    """Changes, adds, removes and moves something of everything."""
    path = place.path
    array = zarr.open_array(str(path / "a"))
    array[3:5] = -1
    (path / "a/c/9").unlink()
    group = zarr.open_group(str(path))
    group.attrs["changed"] = True
    group.create_array("big", shape=(5000,), chunks=(5000,), dtype="i8")[:] = 7
    group.create_group("g/h")
    (path / "notes.txt").write_text("untracked")


@pytest.mark.timeout(240)
def test_killed_at_every_point_of_a_commit(place: Place) -> None:
    """Before every write to the repository and to the state directory, and after the last."""
    place.mount()
    change_much(place)
    before = content_of(place.path)
    changes = staged(place)
    place.kill()
    place.clear()
    kept = place.root / "kept"
    for directory in ("repo", "trees"):
        shutil.copytree(place.root / directory, kept / directory)
    happened = []
    for passage in itertools.count(1):
        for directory in ("repo", "trees"):
            shutil.rmtree(place.root / directory)
            shutil.copytree(kept / directory, place.root / directory)
        place.mount("tests.support.killing_points:die_in_commit", passage)
        (place.path / "zarr.json").stat()
        if commit_or_die(place):
            if place.leave() == 0:
                break
            assert committed(place)[0][0] == MESSAGE  # it died after the answer
        else:
            place.clear()
        happened.append(check_one_outcome(place, before, changes))
    assert len(happened) > 15
    assert happened == sorted(happened), "what is killed later has happened, what is killed earlier has not"
    assert set(happened) == {False, True}
    assert check_one_outcome(place, before, changes)


def check_one_outcome(place: Place, before: Any, changes: Any) -> bool:
    """Checks that a commit has happened, and the tree is clean, or has not; then commits. Returns whether it had."""
    messages, values = committed(place)
    assert messages in ([MESSAGE, "the array", "Repository initialized"], ["the array", "Repository initialized"])
    has_happened = messages[0] == MESSAGE
    if not has_happened:
        np.testing.assert_array_equal(values, np.arange(VALUES))
    place.mount()
    assert content_of(place.path) == before
    if has_happened:
        nothing = {"new_nodes": [], "updated_nodes": [], "deleted_nodes": [], "chunks": {}}
        found, untracked, invalid = staged(place)
        assert {key: found[key] for key in nothing} == nothing
        assert (untracked, invalid) == (changes[1], changes[2])
        with pytest.raises(OSError, match=rf"\[Errno {errno.ENODATA}\]"):
            commit(place, "again")
    else:
        assert staged(place) == changes
        commit(place)
    assert content_of(place.path) == before
    place.unmount()
    messages, values = committed(place)
    assert messages == [MESSAGE, "the array", "Repository initialized"]
    np.testing.assert_array_equal(values, [0, 1, 2, -1, -1, 5, 6, 7, 8, 0, *range(10, VALUES)])
    return has_happened


@pytest.mark.timeout(120 + 4 * ROUNDS)
def test_killed_at_random_moments_of_commits_while_others_write(place: Place) -> None:
    """A program sets one chunk after the other while commits go on; each commit shows one moment of what it did."""
    rng = random.Random(5)
    place.mount()
    step = commits = 0
    for number in range(ROUNDS):
        told = place.root / f"told-{number}"
        writer = place.nursery.start(
            "tests.support.killing_scripts:count_up",
            place.root / "writers.log",
            str(place.path / "a/c"),
            str(told),
            step,
        )
        moments: list[tuple[str, int]] = []
        kill_at = time.monotonic() + rng.random() * 0.25
        killer = place.nursery.start("tests.support.killing_scripts:kill_at", place.log, place.daemon, kill_at)
        with contextlib.suppress(OSError):
            while True:
                message = f"{number} {len(moments)}"
                moments.append((message, step + told_lines(told)))
                commit(place, message)
                time.sleep(0.01)
        for program in (killer, writer):
            assert place.nursery.wait(program) == 0, (place.root / "writers.log").read_text()
        place.clear()
        step = check_moments(place, moments, step, step + told_lines(told))
        commits += len(moments)
    place.unmount()
    messages, _ = committed(place)
    # On a busy machine many a daemon dies before its first commit.
    assert len(set(messages)) == len(messages) > ROUNDS // 3


def told_lines(told: Path) -> int:
    return told.read_bytes().count(b"\n") if told.exists() else 0


def check_moments(place: Place, moments: list[tuple[str, int]], start: int, done: int) -> int:
    """Checks a round's commits and the tree that is left; returns how far the writer had come."""
    repository = official(place)
    history = list(itertools.takewhile(lambda info: info.message != "the array", repository.ancestry(branch="main")))
    asked = dict(moments)
    found = {info.message: info.id for info in history if info.message in asked}
    acknowledged = [message for message, _ in moments[:-1]]
    assert set(acknowledged) <= found.keys()
    times = sorted(moments, key=lambda moment: moment[1])
    for (message, earliest), latest in zip(times, [*(at for _, at in times[1:]), done + 1], strict=True):
        if message in found:
            values = zarr.open_group(repository.readonly_session(snapshot_id=found[message]).store, mode="r")["a"][:]
            at = steps_of(values, is_commit=True)
            # Between the last step known before the commit began and the first one after it: with the one under way.
            assert earliest <= at <= latest + 1, (message, earliest, at, latest)
    place.mount()
    step = steps_of(np.asarray(zarr.open_array(str(place.path / "a"), mode="r")[:]))
    assert step in (done, done + 1)
    json.dumps(staged(place))
    with contextlib.suppress(OSError):
        commit(place, f"after {start} {moments[0][0]}")
    values = committed(place)[1]
    assert steps_of(values) == step
    return step


def steps_of(values: npt.NDArray[Any], *, is_commit: bool = False) -> int:
    """Returns how many steps `count_up` had done when an array was like this; fails if it never was.

    A commit leaves out the chunk that is written in place at that moment, so it may have an older value of that one.
    """
    step = int(values.max()) - VALUES + 1 if values.max() >= VALUES else 0
    expected = np.arange(VALUES)
    for number in range(max(0, step - VALUES), step):
        expected[number % VALUES] = VALUES + number
    under_way = step % VALUES
    if is_commit and step % 2 == 0 and values[under_way] % VALUES == under_way:
        expected[under_way] = min(values[under_way], expected[under_way])
    np.testing.assert_array_equal(values, expected)
    return step


def test_an_answer_that_is_lost_commits_once(place: Place) -> None:
    """The storage publishes, and says that it cannot be reached; the history tells that it did."""
    place.mount("tests.support.killing_points:lose_published_answer", 0)
    change_much(place)
    before = content_of(place.path)
    commit(place)
    assert place.control("commit")["ok"]
    assert content_of(place.path) == before
    with pytest.raises(OSError, match=rf"\[Errno {errno.ENODATA}\]"):
        commit(place, "again")
    place.unmount()
    assert committed(place)[0] == [MESSAGE, "the array", "Repository initialized"]


@pytest.mark.parametrize("is_remounted", [False, True])
def test_an_outcome_that_is_not_known_is_found_out_later(place: Place, is_remounted: bool) -> None:
    """The storage publishes, and is gone; the commit fails, the tree works on, and the next commit knows."""
    place.mount("tests.support.killing_points:lose_published_answer", 30)
    change_much(place)
    before = content_of(place.path)
    with pytest.raises(OSError, match=rf"\[Errno {errno.EIO}\]"):
        commit(place)
    told = place.control("commit")
    assert not told["ok"]
    assert told["kind"] == "commit-in-doubt"
    (place.path / "a/c/0").write_bytes((77).to_bytes(8, "little"))
    if is_remounted:
        place.kill()
        place.clear()
        place.mount()
    for _ in range(40):  # as long as the storage cannot be reached
        with contextlib.suppress(OSError):
            commit(place, "the next one")
            break
    files, dirs = content_of(place.path)
    assert dirs == before[1]
    assert files == {**before[0], "a/c/0": (77).to_bytes(8, "little")}
    place.unmount()
    messages, values = committed(place)
    assert messages == ["the next one", MESSAGE, "the array", "Repository initialized"]
    assert values[0] == 77
