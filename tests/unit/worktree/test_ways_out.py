"""What the error of a rebase tells to do works when it is done, for each kind of conflict and each way to rebase."""

import json
import re
import shlex

import pytest

from icefs.engine.write.conflicts import ConflictType
from icefs.errors import RebaseFailedError
from icefs.storage.memory import MemoryStorage
from tests.support.staging_bench import Bench, array, group

FILES = {
    "zarr.json": group(),
    "a/zarr.json": array((4,), (2,)),
    "a/c/0": b"a0",
    "a/c/1": b"a1",
    "g/zarr.json": group(),
    "g/x/zarr.json": array((4,), (2,)),
    "g/x/c/0": b"x0",
    "h/zarr.json": group(),
}


def titled(title, data=None):
    document = json.loads(data or group())
    return json.dumps(document | {"attributes": {"title": title}}).encode()


def write(files):
    return lambda bench: bench.write_all(files)


def remove(path):
    return lambda bench: bench.remove(path)


def gone(*paths):
    return dict.fromkeys(paths)


A = array((4,), (2,))


def they_rename(bench):
    session = bench.repository.writable_session_at("main", bench.repository.lookup_branch("main"), is_rearrange=True)
    session.nodes.move_each({"/h": "/k"})
    session.commit("theirs")


def they_replace(bench):
    session = bench.repository.writable_session("main")
    session.nodes.delete_each(["/h"])
    session.nodes.put("/h", A)
    session.commit("theirs")


# What we do in the tree, what others commit, and the kinds of conflict that come of it.
CASES = {
    "both make a group": (write({"n/zarr.json": titled("o")}), {"n/zarr.json": titled("t")}, {1}),
    "both make a group, with arrays of ours below": (
        write({"n/zarr.json": titled("o"), "n/b/zarr.json": A, "n/b/c/0": b"o0"}),
        {"n/zarr.json": titled("t"), "n/d/zarr.json": A},
        {1},
    ),
    "both make an array": (
        write({"n/zarr.json": A, "n/c/0": b"o0"}),
        {"n/zarr.json": array((2,), (1,)), "n/c/0": b"t"},
        {1},
    ),
    "we make a group, they an array": (write({"n/zarr.json": group()}), {"n/zarr.json": A}, {1}),
    "we make an array, they a group": (write({"n/zarr.json": A}), {"n/zarr.json": group()}, {1}),
    "we make a node where they have an array above": (
        write({"h/n/zarr.json": A, "h/n/c/1": b"o1"}),
        they_replace,
        {2},
    ),
    "both change a group": (write({"g/zarr.json": titled("o")}), {"g/zarr.json": titled("t")}, {3}),
    "both change the root": (write({"zarr.json": titled("o")}), {"zarr.json": titled("t")}, {3}),
    "both change an array": (write({"a/zarr.json": titled("o", A)}), {"a/zarr.json": titled("t", A)}, {3}),
    "both enlarge an array, and we write to it": (
        write({"a/zarr.json": array((8,), (2,)), "a/c/3": b"o3"}),
        {"a/zarr.json": array((6,), (2,)), "a/c/2": b"t2"},
        {3, 8},
    ),
    "we change an array that they delete": (
        write({"a/zarr.json": titled("o", A)}),
        gone("a/zarr.json"),
        {4},
    ),
    "we change a group that they delete": (
        write({"h/zarr.json": titled("o"), "h/n/zarr.json": A}),
        gone("h/zarr.json"),
        {5},
    ),
    "both write a chunk": (write({"a/c/0": b"o0"}), {"a/c/0": b"t0"}, {6}),
    "both write a chunk, and change a group": (
        write({"a/c/0": b"o0", "g/zarr.json": titled("o")}),
        {"a/c/0": b"t0", "g/zarr.json": titled("t")},
        {3, 6},
    ),
    "we write a chunk of an array that they delete": (write({"a/c/0": b"o0"}), gone("a/zarr.json"), {7}),
    "we write a chunk of an array that they change": (
        write({"a/c/0": b"o0"}),
        {"a/zarr.json": titled("t", A)},
        {8},
    ),
    "we delete an array that they write": (remove("a"), {"a/c/0": b"t0"}, {9}),
    "we delete a group with an array that they write": (remove("g"), {"g/x/c/0": b"t0"}, {9}),
    "we delete a group that they change": (remove("h"), {"h/zarr.json": titled("t")}, {10}),
    "we rename an array that they write, and write elsewhere": (
        lambda bench: (bench.rename("a", "b"), bench.write("g/x/c/1", b"o1")),
        {"a/c/0": b"t0"},
        {9},
    ),
    "we rename an array to a name that they take": (
        lambda bench: bench.rename("a", "b"),
        {"b/zarr.json": A},
        {11},
    ),
    "they rename": (write({"a/c/0": b"o0"}), they_rename, {11}),
}


def test_every_kind_of_conflict_has_a_case():
    assert {kind for _, _, kinds in CASES.values() for kind in kinds} == {kind.value for kind in ConflictType}


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path / "tree", MemoryStorage())
    bench.write_all(FILES)
    bench.commit("first")
    yield bench
    bench.work.close()


def attempt(bench, how, *, at_once):
    """Rebases; returns the error where that meets conflicts."""
    try:
        if at_once:
            bench.commit("ours", rebase=how)
        else:
            bench.rebase(how)
    except RebaseFailedError as error:
        return error
    return None


def follow(bench, hint):
    """Runs the commands of a hint; of several sides the first."""
    told = [shlex.split(line) for line in re.findall(r"'icefs ([^']+)'", hint)]
    assert told, hint
    for name, *arguments in told:
        if name == "discard":
            bench.work.discard("" if arguments == ["--all"] else arguments[0])
            continue
        assert name == "rebase", hint
        bench.rebase(arguments[0].removeprefix("--") if arguments else "fail")
        return
    raise AssertionError(hint)


@pytest.mark.parametrize("at_once", [False, True], ids=["rebase", "commit"])
@pytest.mark.parametrize("how", ["fail", "ours", "theirs"])
@pytest.mark.parametrize("case", CASES)
def test_the_way_out_that_is_told_works(bench, case, how, at_once):
    ours, theirs, kinds = CASES[case]
    ours(bench)
    if callable(theirs):
        theirs(bench)
    else:
        bench.theirs(theirs)
    before = bench.tree()
    error = attempt(bench, how, at_once=at_once)
    if error is None:
        assert how != "fail"
        assert kinds <= {6, 9, 10}  # those that have sides
        return
    assert {conflict.conflict_type.value for conflict in error.conflicts} <= kinds
    assert bench.tree() == before
    if not kinds & {6, 9, 10}:
        assert "--ours" not in error.hint
        assert "choose a side" not in error.hint
    follow(bench, error.hint)
    tip = str(bench.repository.lookup_branch("main"))
    assert bench.work.base == tip
    # What the others have committed is there, but for what was deleted on purpose.
    if not bench.staged().is_empty:
        bench.commit("ours")
    assert bench.staged().is_empty
    assert bench.tree() == bench.committed()
    if not callable(theirs) and kinds.isdisjoint({6, 9, 10, 11}):
        assert {key: bench.committed().get(key) for key in theirs} == theirs
    # And the change can be made again.
    bench.write("z/zarr.json", group())
    bench.commit("again")


@pytest.mark.parametrize("case", [case for case, (_, _, kinds) in CASES.items() if 9 in kinds and 6 not in kinds])
def test_what_was_deleted_comes_back_with_their_change_where_theirs_counts(bench, case):
    ours, theirs, _ = CASES[case]
    ours(bench)
    bench.theirs(theirs)
    error = attempt(bench, "theirs", at_once=False)
    follow(bench, error.hint)
    assert {key: bench.tree().get(key) for key in theirs} == theirs
