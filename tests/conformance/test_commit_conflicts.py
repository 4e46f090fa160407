"""Two sessions change the same repository, in both libraries: the same conflicts, and the same repository afterwards.

Every case is run with every solver. The conflicts' kinds, paths and chunks, where the session stands afterwards, how a
commit ends then, and all that the official library reads of the result must be the same.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import icechunk as ic
import pytest

from icefs.errors import RebaseFailedError
from tests.conformance import official
from tests.conformance.official import GROUP, array_json
from tests.conformance.writers import (
    SOLVERS,
    ConflictFact,
    OfficialRepo,
    Pair,
    RepoWriter,
    SessionWriter,
    conflict_facts,
    outcome,
)

type Change = Callable[[SessionWriter], object]

BASE = {
    "zarr.json": GROUP,
    "g/zarr.json": GROUP,
    "g/sub/zarr.json": GROUP,
    "g/array/zarr.json": array_json([4], [1]),
    "g/array/c/0": b"old",
    "a/zarr.json": array_json([8], [1]),
    "a/c/0": b"old",
    "a/c/1": b"old",
    "b/zarr.json": array_json([8, 8], [2, 2]),
    "b/c/0/0": b"old",
}


@dataclass(frozen=True)
class Case:
    """What comes in between, commit by commit, and what the slower session changes."""

    theirs: list[Change]
    ours: Change
    conflicts: set[str] = field(default_factory=set)
    rearrange: bool = False


def attributes(path: str, **more: object) -> Change:
    shape = [8, 8] if path == "/b" else [4] if path == "/g/array" else [8]
    return lambda s: s.node(path, array_json(shape, [2, 2] if path == "/b" else [1], attributes=more))


def chunk(path: str, *index: int, data: bytes = b"new") -> Change:
    return lambda s: s.chunk(path, index, data)


def both(*changes: Change) -> Change:
    return lambda s: [change(s) for change in changes]


def group(path: str, data: bytes = GROUP) -> Change:
    return lambda s: s.node(path, data)


def array(path: str) -> Change:
    return lambda s: s.node(path, array_json([2], [1]))


def gone(path: str) -> Change:
    return lambda s: s.delete(path)


def drop(path: str, *index: int) -> Change:
    return lambda s: s.drop(path, index)


CASES = {
    "nothing in common": Case([chunk("/a", 2)], chunk("/b", 1, 1)),
    "other chunks of one array": Case([chunk("/a", 2)], chunk("/a", 3)),
    "a group each": Case([group("/n")], group("/m")),
    "same new group": Case([group("/n")], group("/n"), {"NewNodeConflictsWithExistingNode"}),
    "same new array": Case([array("/n")], both(array("/n"), chunk("/n", 0)), {"NewNodeConflictsWithExistingNode"}),
    "array where a group comes": Case([array("/n")], group("/n"), {"NewNodeConflictsWithExistingNode"}),
    "below a new array": Case([array("/n")], both(group("/n/x/y"), array("/n/z")), {"NewNodeInInvalidGroup"}),
    "below a deleted group": Case([gone("/g")], group("/g/new")),
    "both update an array": Case([attributes("/a", k=1)], attributes("/a", k=2), {"ZarrMetadataDoubleUpdate"}),
    "both update it alike": Case([attributes("/a", k=1)], attributes("/a", k=1), {"ZarrMetadataDoubleUpdate"}),
    "both update a group": Case(
        [group("/g", GROUP + b" ")], group("/g", GROUP + b"  "), {"ZarrMetadataDoubleUpdate"}
    ),
    "update of a deleted array": Case([gone("/a")], attributes("/a", k=1), {"ZarrMetadataUpdateOfDeletedArray"}),
    "update of a deleted group": Case(
        [gone("/g")], both(group("/g", GROUP + b" "), group("/g/sub", GROUP + b" ")),
        {"ZarrMetadataUpdateOfDeletedGroup"},
    ),
    "same chunk": Case(
        [both(chunk("/a", 1), chunk("/a", 5), chunk("/a", 6))],
        both(chunk("/a", 1, data=b"ours"), chunk("/a", 6, data=b"ours"), chunk("/a", 7)), {"ChunkDoubleUpdate"},
    ),
    "same chunk of two arrays": Case(
        [both(chunk("/a", 1), chunk("/b", 1, 1))], both(chunk("/a", 1), chunk("/b", 1, 1, data=b"b")),
        {"ChunkDoubleUpdate"},
    ),
    "all of our chunks": Case([chunk("/a", 1)], chunk("/a", 1, data=b"ours"), {"ChunkDoubleUpdate"}),
    "chunk deleted by them": Case([drop("/a", 1)], chunk("/a", 1), {"ChunkDoubleUpdate"}),
    "chunk deleted by us": Case([chunk("/a", 1)], drop("/a", 1), {"ChunkDoubleUpdate"}),
    "chunk deleted by both": Case([drop("/a", 1)], drop("/a", 1), {"ChunkDoubleUpdate"}),
    "chunks of a deleted array": Case([gone("/a")], chunk("/a", 2), {"ChunksUpdatedInDeletedArray"}),
    "chunks of a deleted and remade array": Case(
        [both(gone("/a"), attributes("/a"))], chunk("/a", 2), {"ChunksUpdatedInDeletedArray"}
    ),
    "chunks of an updated array": Case([attributes("/a", k=1)], chunk("/a", 2), {"ChunksUpdatedInUpdatedArray"}),
    "chunks of a resized array": Case(
        [lambda s: s.node("/a", array_json([3], [1]))], both(chunk("/a", 2), chunk("/a", 7)),
        {"ChunksUpdatedInUpdatedArray"},
    ),
    "our update, their chunks": Case([chunk("/a", 2)], attributes("/a", k=1)),
    "our resize, their chunks": Case([chunk("/a", 7)], lambda s: s.node("/a", array_json([3], [1]))),
    "delete of an array with new attributes": Case([attributes("/a", k=1)], gone("/a"), {"DeleteOfUpdatedArray"}),
    "delete of an array with new chunks": Case([chunk("/a", 2)], gone("/a"), {"DeleteOfUpdatedArray"}),
    "delete of an updated group": Case([group("/g", GROUP + b" ")], gone("/g"), {"DeleteOfUpdatedGroup"}),
    "delete of a group with an updated array": Case([chunk("/g/array", 1)], gone("/g"), {"DeleteOfUpdatedArray"}),
    "both delete an array": Case([gone("/a")], gone("/a")),
    "both delete a group": Case([gone("/g/sub")], gone("/g")),
    "delete of a group that grew": Case([group("/g/new")], gone("/g")),
    "delete of what was made anew": Case([both(gone("/a"), attributes("/a"), chunk("/a", 3))], gone("/a"),
                                        {"DeleteOfUpdatedArray"}),
    "delete of what was made anew, without chunks": Case([both(gone("/a"), attributes("/a"))], gone("/a")),
    "made anew over an update": Case(
        [attributes("/a", k=1)], both(gone("/a"), attributes("/a", k=2)), {"DeleteOfUpdatedArray"}
    ),
    "made anew as a group": Case([chunk("/a", 2)], both(gone("/a"), group("/a")), {"DeleteOfUpdatedArray"}),
    "several at once": Case(
        [both(chunk("/a", 1), attributes("/b", k=1), group("/n"), group("/g", GROUP + b" "), chunk("/g/array", 0))],
        both(chunk("/a", 1), chunk("/b", 0, 1), group("/n"), gone("/g"), attributes("/a", k=1)),
        {"ChunkDoubleUpdate", "ChunksUpdatedInUpdatedArray", "NewNodeConflictsWithExistingNode",
         "DeleteOfUpdatedGroup", "DeleteOfUpdatedArray"},
    ),
    "the second of three commits": Case(
        [chunk("/b", 2, 2), chunk("/a", 1), group("/late")], both(chunk("/a", 1), chunk("/b", 3, 3)),
        {"ChunkDoubleUpdate"},
    ),
    "made by one, updated by the next": Case(
        [group("/n"), group("/n", GROUP + b" "), gone("/n")], group("/m/n")
    ),
    "made and deleted in between": Case([group("/n"), gone("/n")], group("/n"), {"NewNodeConflictsWithExistingNode"}),
    "nothing changed in between": Case([lambda s: None], chunk("/a", 1)),
}  # fmt: skip


def moved(*pairs: tuple[str, str]) -> Change:
    return lambda s: [s.move(source, target) for source, target in pairs]


MOVES = {
    "over a move": Case([moved(("/a", "/z"))], chunk("/b", 1, 1), {"MoveOperationCannotBeRebased"}, True),
    "over a move of ours": Case([moved(("/a", "/z"))], chunk("/a", 1), {"MoveOperationCannotBeRebased"}, True),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A function that returns a repository of a spec version with one commit, which nobody may change."""
    directory = tmp_path_factory.mktemp("bases")

    @cache
    def make(spec_version: int) -> Path:
        path = directory / f"v{spec_version}"
        official.commit(official.create(path, spec_version), "base", BASE)
        return path

    return make


def run(repo: RepoWriter, case: Case, solver: str) -> dict[str, object]:
    """Runs a case in one library, and returns what it says on the way."""
    session = repo.session()
    for number, change in enumerate(case.theirs):
        other = repo.session(rearrange=case.rearrange)
        change(other)
        other.commit(f"theirs {number}", allow_empty=True)
    case.ours(session)
    names = {info.id if isinstance(info.id, str) else str(info.id): info.message for info in ancestors(repo)}
    said: dict[str, object] = {"first": outcome(lambda: session.commit("ours"))}
    try:
        session.rebase(solver)
    except (ic.RebaseFailedError, RebaseFailedError) as error:
        conflicts = conflict_facts(error)
        said["conflicts"] = sorted(conflicts, key=lambda each: (each.kind, each.path or ""))
        said["order"] = list(dict.fromkeys(each.kind for each in conflicts))
        said["snapshot"] = names[error.snapshot if isinstance(error, ic.IcechunkError) else error.facts["snapshot"]]
    said["stands on"] = names[str(session.raw.snapshot_id)]
    said["has changes"] = session.raw.has_uncommitted_changes
    said["second"] = outcome(lambda: bool(session.commit("ours, rebased")))
    return said


def ancestors(repo: RepoWriter) -> list[object]:
    return list(repo.raw.ancestry(branch="main"))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", [*CASES, *MOVES])
def test_the_same_conflicts(base, tmp_path, name, solver):
    case = (CASES | MOVES)[name]
    pair = Pair.of(base(2), tmp_path / "pair")
    theirs, ours = pair.run(lambda repo: run(repo, case, solver))
    assert ours == theirs
    assert {each.kind for each in ours.get("conflicts", ())} == case.conflicts or solver != "detector"
    pair.check()


@pytest.mark.parametrize("name", CASES)
def test_the_same_conflicts_in_spec_1(base, tmp_path, name):
    pair = Pair.of(base(1), tmp_path / "pair")
    theirs, ours = pair.run(lambda repo: run(repo, CASES[name], "theirs"))
    assert ours == theirs
    pair.check()


@pytest.mark.parametrize("solver", SOLVERS)
def test_what_both_made_anew_is_a_conflict(base, tmp_path, solver):
    """Divergence 60: the official library writes a snapshot that has the path twice."""
    case = Case([both(gone("/a"), attributes("/a"))], both(gone("/a"), attributes("/a", k=1)))
    pair = Pair.of(base(2), tmp_path / "pair")
    theirs, ours = pair.run(lambda repo: run(repo, case, solver))
    assert ours["conflicts"] == [ConflictFact("NewNodeConflictsWithExistingNode", "/a", None)]
    assert ours["second"] == ("ConflictError", "commit-conflict")
    assert theirs["second"] == ("ok", True)
    nodes = pair.official.raw.inspect_snapshot(pair.official.raw.lookup_branch("main"))["nodes"]
    assert [node["path"] for node in nodes].count("/a") == 2


OVER = {
    "a chunk of one": (chunk("/b", 2, 2), True),
    "a new node below": (group("/g/new"), False),
    "a node in its place": (group("/z"), False),
    "its parent is gone": (gone("/g"), False),
    "it is gone": (gone("/a"), False),
    "something else": (group("/n"), True),
}


@pytest.mark.parametrize("name", OVER)
def test_moves_that_do_not_fit_any_more_are_conflicts(base, tmp_path, name):
    """Divergence 61: the official library commits all of them; our result is theirs where nothing is wrong with it."""
    change, fits = OVER[name]

    def scenario(repo: RepoWriter) -> list[object]:
        session = repo.session(rearrange=True)
        session.move("/b", "/g/b")
        if name != "its parent is gone":
            session.move("/g", "/h")
        session.move("/a", "/z")
        repo.write(change, "theirs")
        return [rebased(session, "detector"), outcome(lambda: bool(session.commit("moved")))]

    pair = Pair.of(base(2), tmp_path / "pair")
    theirs, ours = pair.run(scenario)
    if fits:
        assert ours == theirs
        pair.check()
    else:
        assert ours == [("RebaseFailedError", "rebase-failed"), ("ConflictError", "commit-conflict")]


def expire(path: Path, *, collect: bool = False) -> None:
    """Expires all snapshots but the tips, with the official library."""
    repo = OfficialRepo(path).raw
    now = datetime.now(UTC)
    repo.expire_snapshots(now)
    if collect:
        repo.garbage_collect(now)


@pytest.mark.parametrize("collect", [False, True], ids=["expired", "collected"])
@pytest.mark.parametrize("change", [chunk("/a", 1), chunk("/a", 6), attributes("/b", k=1)])
@pytest.mark.parametrize("solver", ["detector", "ours"])
def test_rebasing_over_expired_commits(base, tmp_path, change, solver, collect):
    """What the expired commits did is in their transaction logs, which the commit after them names."""
    pair = Pair.of(base(2), tmp_path / "pair")

    def scenario(repo: RepoWriter) -> dict[str, object]:
        session = repo.session()
        change(session)
        for number, theirs in enumerate((chunk("/a", 1), chunk("/b", 2, 2), group("/n"))):
            repo.write(theirs, f"theirs {number}")
        expire(repo.path, collect=collect)
        again = type(repo)(repo.path)
        return {
            "history": [info.message for info in ancestors(again)],
            "commit": outcome(lambda: session.commit("ours")),
            "rebase": rebased(session, solver),
            "rebased": outcome(lambda: bool(session.commit("ours, rebased"))),
        }

    theirs, ours = pair.run(scenario)
    if theirs["rebase"] == ("InternalError", "conflicting-path-not-found"):
        # Divergence 62: it replays all of history, here over nodes that it finds nowhere, and loses the changes.
        assert ours["rebase"] == (("RebaseFailedError", "rebase-failed") if solver == "detector" else ("ok", None))
        assert ours["rebased"] == (("ConflictError", "commit-conflict") if solver == "detector" else ("ok", True))
        return
    assert ours == theirs
    pair.check()


def rebased(session: SessionWriter, solver: str) -> object:
    return outcome(lambda: session.rebase(solver))


@pytest.mark.parametrize("how", ["commit", "amend", "flush"])
def test_writing_on_top_of_an_expired_history(base, tmp_path, how):
    pair = Pair.of(base(2), tmp_path / "pair")

    def scenario(repo: RepoWriter) -> None:
        for number in range(4):
            repo.write(chunk("/a", number), f"before {number}")
        expire(repo.path)
        session = type(repo)(repo.path).session()
        session.chunk("/a", (7,), b"after")
        getattr(session, how)("after")
        type(repo)(repo.path).write(chunk("/b", 3, 3), "later")

    pair.run(scenario)
    pair.check()


@pytest.mark.parametrize("spec_version", [2, 1])
def test_a_commit_to_a_deleted_branch(base, tmp_path, spec_version):
    def scenario(repo: RepoWriter) -> list[object]:
        repo.refs("create_branch", "dev", repo.refs("lookup_branch", "main"))
        session = repo.session("dev")
        session.chunk("/a", (2,), b"dev")
        repo.refs("delete_branch", "dev")
        return [
            outcome(lambda: session.commit("gone")),
            outcome(lambda: session.commit("gone", rebase_with="ours", rebase_tries=3)),
            outcome(lambda: session.rebase("detector")),
            outcome(lambda: repo.session("dev")),
            session.raw.has_uncommitted_changes,
        ]

    pair = Pair.of(base(spec_version), tmp_path / "pair")
    theirs, ours = pair.run(scenario)
    if spec_version == 1:
        # Divergence 63: there it is a conflict, which rebasing does not solve.
        assert theirs[:2] == [("ConflictError", "commit-conflict")] * 2
        theirs[:2] = [("RefNotFoundError", "branch-not-found")] * 2
    assert ours == theirs
    pair.check()


@pytest.mark.parametrize("spec_version", [2, 1])
def test_a_commit_to_a_branch_that_was_reset(base, tmp_path, spec_version):
    def scenario(repo: RepoWriter) -> list[object]:
        start = repo.refs("lookup_branch", "main")
        repo.write(chunk("/a", 3), "reset away")
        session = repo.session()
        session.chunk("/a", (2,), b"new")
        repo.refs("reset_branch", "main", start)
        said = [outcome(lambda: session.commit("off the branch")), outcome(lambda: session.rebase("detector"))]
        return [*said, outcome(lambda: bool(session.commit("off the branch", rebase_with="ours")))]

    pair = Pair.of(base(spec_version), tmp_path / "pair")
    theirs, ours = pair.run(scenario)
    assert ours == [("ConflictError", "commit-conflict"), ("ok", None), ("ok", True)]
    if spec_version == 1:
        # Divergence 62: it looks for the first snapshot's log, which there is none of.
        assert theirs[1] == ("StorageError", "object-not-found")
        return
    assert ours == theirs
    pair.check()


RESET = {
    "a chunk that we wrote too": (chunk("/a", 3), {("ChunkDoubleUpdate", "/a")}),
    "another chunk": (chunk("/a", 5), set()),
    "metadata that we changed too": (attributes("/b", k=1), {("ZarrMetadataDoubleUpdate", "/b")}),
    "an array that we wrote to": (array("/n"), {("ChunksUpdatedInDeletedArray", "/n")}),
    "a delete of what we made anew": (gone("/g/sub"), {("NewNodeConflictsWithExistingNode", "/g/sub")}),
}


@pytest.mark.parametrize("name", RESET)
def test_what_was_reset_away_conflicts_as_if_it_were_undone(base, tmp_path, name):
    """Divergence 62: the official library replays what the branch has, and so misses what it has no more."""
    change, conflicts = RESET[name]
    repo = Pair.of(base(2), tmp_path / "pair").ours
    start = repo.refs("lookup_branch", "main")
    repo.write(change, "reset away")
    session = repo.session()
    both(chunk("/a", 3, data=b"ours"), attributes("/b", k=2))(session)
    if name == "an array that we wrote to":
        session.chunk("/n", (1,), b"ours")
    if name == "a delete of what we made anew":
        session.node("/g/sub", GROUP)
    repo.refs("reset_branch", "main", start)
    try:
        session.rebase("detector")
        found = set()
    except RebaseFailedError as error:
        found = {(each.kind, each.path) for each in conflict_facts(error)}
    assert found == conflicts
