"""The order of locks: what is allowed, what is refused, and that the refusal is written down."""

import threading
from pathlib import Path

import pytest

from icefs.locks import CHECK_VARIABLE, CheckedLock, LockOrderError, Rank, new_lock, new_rlock


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "report"
    monkeypatch.setenv(CHECK_VARIABLE, str(path))
    return path


def test_tests_check_the_order() -> None:
    assert isinstance(new_lock(Rank.TREE, "a tree"), CheckedLock)


def test_nothing_is_checked_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CHECK_VARIABLE)
    assert type(new_lock(Rank.TREE, "a tree")) is type(threading.Lock())
    assert type(new_rlock(Rank.TREE, "a tree")) is type(threading.RLock())


def test_an_inversion_is_refused_and_reported(report: Path) -> None:
    tree, branch = new_lock(Rank.TREE, "a tree"), new_rlock(Rank.BRANCH, "a branch")
    with tree, branch:
        pass
    assert not report.exists()
    with branch:
        with pytest.raises(LockOrderError, match=r"takes a tree .* holds a branch"):
            tree.acquire()
        assert not tree.locked()
    assert "takes a tree (TREE) while it holds a branch (BRANCH)" in report.read_text()
    with tree, branch:
        pass


def test_two_locks_of_a_rank_are_never_held_together(report: Path) -> None:
    with new_lock(Rank.LEAF, "one"), pytest.raises(LockOrderError):
        new_lock(Rank.LEAF, "two").acquire()


def test_a_thread_that_would_wait_for_itself_is_refused(report: Path) -> None:
    tree = new_lock(Rank.TREE, "a tree")
    with tree, pytest.raises(LockOrderError):
        tree.acquire()


def test_a_reentrant_lock_is_taken_again_below_later_ones(report: Path) -> None:
    branch = new_rlock(Rank.BRANCH, "a branch")
    with branch, new_lock(Rank.LEAF, "a queue"), branch:
        pass
    with new_lock(Rank.TREE, "a tree"):  # all of it was given back
        pass


def test_a_lock_that_another_thread_holds_is_no_violation(report: Path) -> None:
    tree, queue = new_lock(Rank.TREE, "a tree"), new_lock(Rank.LEAF, "a queue")
    with queue:
        thread = threading.Thread(target=lambda: tree.acquire() and tree.release())
        thread.start()
        thread.join()
    assert not report.exists()


@pytest.mark.parametrize("new", [new_lock, new_rlock])
def test_a_condition_waits_with_a_checked_lock(report: Path, new) -> None:
    changed = threading.Condition(new(Rank.TREE, "a tree"))
    done = []

    def finish() -> None:
        with changed:
            done.append(True)
            changed.notify_all()

    with changed:
        thread = threading.Thread(target=finish)
        thread.start()
        assert changed.wait_for(lambda: done, timeout=10)
    thread.join()
