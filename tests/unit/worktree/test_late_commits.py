"""A working tree's commit that is given up, and that the store carries out afterwards, when the tree may be another."""

import pytest

from icefs.errors import BranchMovedError, NothingToCommitError, UnreachableError
from icefs.storage.memory import MemoryStorage
from tests.support.faulty import FaultyStorage
from tests.support.staging_bench import Bench, array, group

FILES = {
    "zarr.json": group(),
    "a/zarr.json": array((40, 40), (10, 10)),
    **{f"a/c/{i}/{j}": bytes([i, j]) * 300 for i in range(4) for j in range(3)},
    "b/zarr.json": array((4,), (2,)),
    "b/c/0": b"b0",
}
START = ["first", "Repository initialized"]


@pytest.fixture
def storage():
    return FaultyStorage(MemoryStorage())


@pytest.fixture
def bench(tmp_path, storage):
    bench = Bench(tmp_path / "tree", storage)
    bench.write_all(FILES)
    bench.commit("first")
    yield bench
    bench.work.close()


def change(bench):
    """Changes a bit of everything; returns what is there then."""
    bench.write("a/c/0/0", b"ours")
    bench.write("a/c/3/3", b"new")
    bench.write("b/zarr.json", array((6,), (2,)))
    bench.write("n/zarr.json", array((4,), (2,)))
    bench.write("n/c/1", b"of a new array")
    bench.write("notes.txt", b"untracked")
    bench.remove("a/c/2")
    return bench.tree()


def give_up(bench, storage, message="try", **options):
    late = storage.delay(keys="repo")
    with pytest.raises(UnreachableError):
        bench.commit(message, **options)
    assert bench.work.pending_intent is None
    assert late.held
    return late


def messages(bench):
    return [info.message for info in bench.repository.ancestry(branch="main")]


def keys(tree):
    return {path: data for path, data in tree.items() if not path.endswith(".txt")}


@pytest.mark.parametrize("options", [{}, {"rebase": "fail"}, {"rebase": "ours"}, {"allow_empty": True}], ids=str)
@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("is_reopened", [False, True], ids=["same daemon", "another daemon"])
def test_a_commit_that_was_made_late_is_done(bench, storage, options, when, is_reopened):
    expected = change(bench)
    give_up(bench, storage, "earlier")
    late = give_up(bench, storage)
    if is_reopened:
        bench.work.close()
        bench.open()
    if when == "before":
        late.land()
    else:
        storage.interfere(late.land, methods="put", keys="snapshots/")
    done = bench.commit("again", **options)
    assert messages(bench) == ["try", *START]
    assert done.snapshot_id == bench.repository.lookup_branch("main")
    assert bench.work.base == done.facts["snapshot"] == str(done.snapshot_id)
    assert (done.facts["nodes"], done.facts["chunks"]) == (2, 6)
    assert bench.tree() == expected
    assert bench.committed() == keys(expected)
    assert bench.staged().is_empty
    with pytest.raises(NothingToCommitError):
        bench.commit("nothing")


def change_since(bench):
    bench.write("a/c/0/0", b"four")  # of the same length
    bench.write("a/c/0/1", b"only now")
    bench.remove("a/c/3/3")  # only the commit has it
    bench.remove("a/c/1/1")  # only the base has it
    bench.write("a/c/2/0", b"back")
    bench.remove("n")
    bench.write("b/zarr.json", array((5,), (2,)))
    return bench.tree()


@pytest.mark.parametrize("options", [{}, {"rebase": "fail"}, {"rebase": "theirs"}], ids=str)
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_was_changed_since_is_another_commit(bench, storage, options, when):
    change(bench)
    late = give_up(bench, storage)
    expected = change_since(bench)
    if when == "before":
        late.land()
    else:
        storage.interfere(late.land, methods="put", keys="snapshots/")
    bench.commit("again", **options)
    assert messages(bench) == ["again", "try", *START]
    assert bench.tree() == expected
    assert bench.committed() == keys(expected)
    assert bench.staged().is_empty


@pytest.mark.parametrize("since", [lambda bench: bench.tree(), change_since], ids=["unchanged", "changed"])
def test_others_may_have_committed_on_top(bench, storage, since):
    change(bench)
    late = give_up(bench, storage)
    expected = since(bench)
    late.land()
    bench.theirs({"b/c/1": b"theirs"})
    if since is change_since:
        with pytest.raises(BranchMovedError) as caught:
            bench.commit("again")
        assert [one["message"] for one in caught.value.facts["commits"]] == ["theirs"]
    bench.rebase("fail")
    assert bench.tree() == expected | {"b/c/1": b"theirs"}
    if since is change_since:
        bench.commit("again")
    assert messages(bench)[-4:] == ["theirs", "try", *START]
    assert bench.committed() == keys(expected | {"b/c/1": b"theirs"})


def test_a_commit_that_others_were_faster_than_is_never_made(bench, storage):
    expected = change(bench)
    late = give_up(bench, storage)
    bench.theirs({"b/c/1": b"theirs"})
    with pytest.raises(BranchMovedError):
        bench.commit("again")
    with pytest.raises(Exception, match="not the version"):
        late.land()
    assert bench.tree() == expected


def test_an_amended_commit(bench, storage):
    expected = change(bench)
    late = give_up(bench, storage, amend=True)
    late.land()
    bench.commit("try", amend=True)
    assert messages(bench) == ["try", "Repository initialized"]
    assert bench.tree() == expected
    assert bench.committed() == keys(expected)
