"""Checks of what holds of every history, every list of moves and every listing, under the official names."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Final

from icefs.api import SnapshotInfo

__all__ = [
    "assert_ancestry_invariants",
    "assert_list_dir_equal",
    "assert_moves_sorted_by_final_path",
    "compare_list_dir",
]

_FIRST: Final = "1CECHNKREP0F1RSTCMT0"


def assert_ancestry_invariants(
    ancestry: Sequence[SnapshotInfo], known_commits: set[str] | None = None, *, must_contain_initial: bool = True
) -> None:
    """Asserts that a history has each snapshot once, newest first, and ends with one that has no parent.

    Args:
        ancestry: The history, newest first.
        known_commits: All snapshots that may be in it, where they are known.
        must_contain_initial: It ends with the repository's first snapshot; otherwise older ones may have been expired.
    """
    ids = [info.id for info in ancestry]
    assert len(set(ids)) == len(ids), f"a snapshot is there twice: {ids}"
    if known_commits is not None:
        assert set(ids) <= known_commits, f"nobody made {set(ids) - known_commits}"
    for newer, older in pairwise(ancestry):
        assert newer.written_at > older.written_at, f"{newer.id} is not younger than {older.id}"
        assert newer.parent_id is not None, f"{newer.id} has no parent, and is not the last"
    assert ancestry[-1].parent_id is None, f"the last, {ids[-1]}, has a parent"
    assert not must_contain_initial or ids[-1] == _FIRST, f"the last is {ids[-1]}"


def assert_moves_sorted_by_final_path(moved_nodes: Sequence[tuple[str, str]]) -> None:
    """Asserts that there are moves, in the order of the paths that they lead to, segment by segment."""
    assert moved_nodes, "there are no moves"
    targets = [target.split("/") for _, target in moved_nodes]
    assert targets == sorted(targets), f"the moves are not in order: {moved_nodes}"


def assert_list_dir_equal(path: str, expected: Sequence[str], actual: Sequence[str]) -> None:
    """Asserts that two lists of a directory's names are equal, but for `c`, which an array without chunks may have."""
    if set(expected) ^ set(actual) != {"c"}:
        assert list(expected) == list(actual), f"in {path!r}"


async def compare_list_dir(model: Any, store: Any, paths: Iterable[str]) -> None:
    """Asserts that two stores list the same names in each of some directories."""
    for path in sorted(paths):
        expected, actual = [sorted([name async for name in each.list_dir(path)]) for each in (model, store)]
        assert_list_dir_equal(path, expected, actual)
