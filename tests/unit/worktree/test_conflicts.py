"""Working trees and others' commits: what is refused, what gives way, and what the tree shows afterwards."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from icefs.errors import BranchMovedError, RebaseFailedError, SessionStateError, StorageError
from icefs.storage.memory import MemoryStorage
from icefs.worktree.ops.attributes import AttrChange
from tests.support.faulty import FaultyStorage
from tests.support.staging_bench import Bench, array, group

FILES = {
    "zarr.json": group(),
    "a/zarr.json": array((40, 40), (10, 10)),
    **{f"a/c/{i}/{j}": bytes([i, j]) for i in range(4) for j in range(4) if (i, j) != (3, 3)},
    "b/zarr.json": array((4,), (2,)),
    "b/c/0": b"b0",
}


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


def check(bench, expected):
    """Compares the tree, then what becomes of it when it is committed."""
    assert bench.tree() == expected
    if not bench.staged().is_empty:
        bench.commit("last")
    assert bench.committed() == expected == bench.tree()
    assert not bench.work.has_changes()


def without(files, *prefixes):
    return {path: data for path, data in files.items() if not path.startswith(prefixes)}


def test_a_moved_branch_is_refused_with_the_commits_in_between(bench):
    bench.write("a/c/0/0", b"ours")
    bench.theirs({"b/c/1": b"1"}, "one")
    bench.theirs({"b/c/1": b"2"}, "two")
    with pytest.raises(BranchMovedError) as caught:
        bench.commit()
    assert [told["message"] for told in caught.value.facts["commits"]] == ["two", "one"]
    assert set(caught.value.facts["commits"][0]) == {"id", "message", "written_at"}
    assert bench.read("a/c/0/0") == b"ours"
    bench.rebase("fail")
    check(bench, FILES | {"a/c/0/0": b"ours", "b/c/1": b"2"})


def test_conflicts_name_node_and_chunks_and_the_commits(bench):
    bench.write_all({"a/c/0/0": b"ours", "a/c/1/1": b"ours", "a/c/2/2": b"ours"})
    bench.theirs({"b/c/1": b"1"}, "one")
    bench.theirs({"a/c/0/0": b"theirs", "a/c/2/2": b"theirs"}, "two")
    tree = bench.tree()
    for attempt in (lambda: bench.rebase("fail"), lambda: bench.commit(rebase="fail")):
        with pytest.raises(RebaseFailedError) as caught:
            attempt()
        [conflict] = caught.value.conflicts
        assert (conflict.conflict_type.name, conflict.path) == ("ChunkDoubleUpdate", "/a")
        assert conflict.conflicted_chunks == [[0, 0], [2, 2]]
        assert [told["message"] for told in caught.value.facts["commits"]] == ["two", "one"]
        assert bench.tree() == tree


@pytest.mark.parametrize("at_once", [False, True], ids=["rebase", "commit"])
@pytest.mark.parametrize("how", ["ours", "theirs"])
def test_chunks_of_both_sides(bench, how, at_once):
    bench.write_all({"a/c/0/0": b"ours", "a/c/1/1": b"OU", "a/c/3/3": b"new", "b/c/1": b"b1"})
    bench.remove("a/c/2/2")
    bench.remove("a/c/2/3")
    theirs = {"a/c/0/0": b"theirs", "a/c/1/1": b"TH", "a/c/2/2": b"back", "a/c/3/3": b"theirs", "a/c/3/0": None}
    bench.theirs(theirs)
    expected = without(FILES, "a/c/2/3", "a/c/3/0") | {"b/c/1": b"b1"}
    if how == "theirs":
        expected |= {key: data for key, data in theirs.items() if data is not None}
    else:
        expected |= {"a/c/0/0": b"ours", "a/c/1/1": b"OU", "a/c/3/3": b"new"}
        del expected["a/c/2/2"]
    if at_once:
        bench.commit(rebase=how)
        assert not bench.work.has_changes()
    else:
        bench.rebase(how)
    check(bench, expected)


def test_what_they_delete_and_we_write(bench):
    bench.write("a/c/0/0", b"ours")
    bench.theirs({"a/c/0/0": None})
    bench.rebase("theirs")
    assert bench.staged().is_empty
    check(bench, without(FILES, "a/c/0/0"))


@pytest.mark.parametrize("how", ["fail", "ours", "theirs"])
@pytest.mark.parametrize("at_once", [False, True], ids=["rebase", "commit"])
def test_what_they_add_below_a_directory_that_we_removed_is_seen(bench, how, at_once):
    bench.remove("a/c/3")
    bench.theirs({"a/c/3/3": b"added"})
    if at_once:
        bench.commit(rebase=how)
    else:
        bench.rebase(how)
    check(bench, without(FILES, "a/c/3/") | {"a/c/3/3": b"added"})


def test_a_removed_directory_gives_way_chunk_by_chunk(bench):
    bench.remove("a/c/3")
    bench.theirs({"a/c/3/1": b"theirs"})
    with pytest.raises(RebaseFailedError):
        bench.rebase("fail")
    bench.rebase("theirs")
    check(bench, without(FILES, "a/c/3/") | {"a/c/3/1": b"theirs"})


def test_a_removed_array_does_not_give_way_to_chunks_unless_ours_counts(bench):
    bench.remove("a")
    bench.theirs({"a/c/3/1": b"theirs"})
    tree = bench.tree()
    for how in ("fail", "theirs"):
        with pytest.raises(RebaseFailedError) as caught:
            bench.rebase(how)
        assert [conflict.conflict_type.name for conflict in caught.value.conflicts] == ["DeleteOfUpdatedArray"]
    assert bench.tree() == tree
    bench.rebase("ours")
    check(bench, without(FILES, "a/"))


@pytest.mark.parametrize(
    ("ours", "theirs", "conflict"),
    [
        ({"n/zarr.json": group()}, {"n/zarr.json": array((4,), (2,))}, "NewNodeConflictsWithExistingNode"),
        ({"b/n/zarr.json": group()}, {"b/zarr.json": array((8,), (2,))}, "NewNodeInInvalidGroup"),
        ({"b/zarr.json": array((6,), (2,))}, {"b/zarr.json": array((8,), (2,))}, "ZarrMetadataDoubleUpdate"),
        ({"b/zarr.json": array((6,), (2,))}, {"b/zarr.json": None}, "ZarrMetadataUpdateOfDeletedArray"),
        ({"zarr.json": group() + b" "}, {"zarr.json": group() + b"  "}, "ZarrMetadataDoubleUpdate"),
        ({"b/c/1": b"1"}, {"b/zarr.json": None}, "ChunksUpdatedInDeletedArray"),
        ({"b/c/1": b"1"}, {"b/zarr.json": array((8,), (2,))}, "ChunksUpdatedInUpdatedArray"),
        ({"a/zarr.json": None, "a/c": None}, {"a/zarr.json": array((80, 40), (10, 10))}, "DeleteOfUpdatedArray"),
    ],
)
def test_other_conflicts_leave_the_tree_alone(bench, ours, theirs, conflict):
    for path, data in ours.items():
        bench.write(path, data) if data is not None else bench.remove(path)
    bench.theirs(theirs)
    tree = bench.tree()
    with pytest.raises(RebaseFailedError) as caught:
        bench.rebase("fail")
    assert conflict in [one.conflict_type.name for one in caught.value.conflicts]
    assert bench.tree() == tree


def test_moves_conflict_with_moves_only(bench):
    bench.rename("a", "moved")
    bench.theirs({"b/c/1": b"1"})
    bench.rebase("fail")
    assert bench.staged().moves == [("/a", "/moved")]
    session = bench.repository.rearrange_session("main")
    session.nodes.move("/b", "/c")
    session.commit("a move")
    with pytest.raises(RebaseFailedError, match="MoveOperationCannotBeRebased"):
        bench.commit(rebase="ours")
    assert "moved/zarr.json" in bench.tree()


@pytest.mark.parametrize("data", [b"b1", b"longer"], ids=["as long", "longer"])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR], ids=["ro", "rw"])
@pytest.mark.parametrize("at_once", [False, True], ids=["rebase", "commit"])
def test_what_is_open_stays_what_it_was_when_others_replace_it(bench, data, flags, at_once):
    """As a file does whose name another one takes: what the kernel knows of an inode number never changes."""
    handle = bench.work.files.open(bench.where("b/c/0"), flags)
    bench.theirs({"b/c/0": data, "a/c/3/3": b"theirs"})
    if at_once:
        bench.write("a/c/0/0", b"ours")
        bench.commit(rebase="fail")
    else:
        bench.rebase("fail")
    assert bench.read("b/c/0") == data
    assert bench.work.files.read(handle, 0, 100) == b"b0"
    if flags:
        bench.work.files.write(handle, 1, b"!")
        assert bench.work.files.read(handle, 0, 100) == b"b!"
    bench.write("b/c/0", b"mine")
    assert bench.work.files.read(handle, 0, 100) == (b"b!" if flags else b"b0")
    bench.work.files.flush(handle)
    bench.work.files.release(handle)
    check(bench, bench.committed() | {"b/c/0": b"mine"})


@pytest.mark.parametrize("how", ["ours", "theirs", "fail"])
def test_a_removal_that_cannot_be_committed_stays_over_a_rebase(bench, how):
    """An array's `zarr.json` alone was removed: no part of a commit, and no reason to show the file again."""
    bench.remove("a/zarr.json")
    bench.write("b/c/0", b"ours")
    [invalid] = bench.staged().invalid
    bench.theirs({"b/c/1": b"theirs"})
    expected = without(FILES, "a/zarr.json") | {"b/c/0": b"ours", "b/c/1": b"theirs"}
    bench.rebase(how)
    assert bench.tree() == expected
    assert bench.staged().invalid == [invalid]
    bench.commit(skip_invalid=True)
    assert bench.tree() == expected


def test_what_is_written_between_the_comparison_and_the_rebase_is_compared_too(bench, monkeypatch):
    bench.write("a/c/0/0", b"ours")
    bench.theirs({"a/c/1/1": b"theirs"})
    release_view, written = bench.work.release_view, []

    def write_after(view):
        release_view(view)
        if not written:
            written.append(bench.write("a/c/1/1", b"late"))

    monkeypatch.setattr(bench.work, "release_view", write_after)
    with pytest.raises(RebaseFailedError):
        bench.rebase("fail")
    assert bench.read("a/c/1/1") == b"late"
    bench.rebase("ours")
    check(bench, FILES | {"a/c/0/0": b"ours", "a/c/1/1": b"late"})


def test_a_tree_that_is_never_quiet_is_not_rebased(bench, monkeypatch):
    bench.write("a/c/0/0", b"ours")
    bench.theirs({"a/c/1/1": b"theirs"})
    release_view = bench.work.release_view

    def write_after(view):
        release_view(view)
        bench.write("a/c/2/2", b"again")

    monkeypatch.setattr(bench.work, "release_view", write_after)
    with pytest.raises(SessionStateError, match="change all the time"):
        bench.rebase("fail")
    monkeypatch.undo()
    bench.rebase("fail")
    check(bench, FILES | {"a/c/0/0": b"ours", "a/c/2/2": b"again", "a/c/1/1": b"theirs"})


@pytest.mark.parametrize("was_made", [True, False])
def test_a_commit_in_doubt_is_found_out_later(bench, storage, was_made):
    bench.write("a/c/0/0", b"ours")
    reading = ("get", "get_if_changed", "head", "copy", "iter_objects", "list_dir")
    storage.interfere(lambda: storage.fail(methods=reading, times=None), methods="put", keys="repo")
    if was_made:
        storage.lose_answer(methods="put", keys="repo")
    else:
        storage.fail(methods="put", keys="repo", times=None)
    with pytest.raises(StorageError) as caught:
        bench.commit("doubtful")
    assert caught.value.kind == "commit-in-doubt"
    assert bench.work.pending_intent.snapshot_id == caught.value.facts["snapshot"]
    bench.write("b/c/1", b"later")
    assert bench.read("a/c/0/0") == b"ours"
    storage.clear()
    bench.commit("next")
    messages = [info.message for info in bench.repository.ancestry(branch="main")]
    assert messages == (["next", "doubtful"] if was_made else ["next"]) + ["first", "Repository initialized"]
    check(bench, FILES | {"a/c/0/0": b"ours", "b/c/1": b"later"})


LARGER = array((80, 80), (10, 10))
ALL_WAYS = pytest.mark.parametrize("how", ["ours", "theirs", "fail"])
AT_ONCE = pytest.mark.parametrize("at_once", [False, True], ids=["rebase", "commit"])


@pytest.fixture
def larger(bench):
    """The array has room for chunks that neither side has yet."""
    bench.write("a/zarr.json", LARGER)
    bench.commit("larger")
    return FILES | {"a/zarr.json": LARGER}


def join(bench, how, *, at_once):
    if at_once:
        bench.commit(rebase=how, skip_invalid=True)
    else:
        bench.rebase(how)


@ALL_WAYS
@AT_ONCE
def test_a_directory_that_both_sides_made_has_what_is_in_both(bench, larger, how, at_once):
    bench.write_all({"a/c/4/0": b"ours", "n/notes.txt": b"mine"})
    bench.mkdir("m/empty")
    theirs = {"a/c/4/1": b"theirs", "a/c/4/2": b"theirs", "n/zarr.json": group(), "m/empty/zarr.json": group()}
    bench.theirs(theirs)
    join(bench, how, at_once=at_once)
    assert bench.staged().is_empty == at_once
    assert bench.tree() == larger | theirs | {"a/c/4/0": b"ours", "n/notes.txt": b"mine"}
    bench.remove("n/notes.txt")
    check(bench, larger | theirs | {"a/c/4/0": b"ours"})


@ALL_WAYS
def test_a_directory_that_was_removed_and_made_again_has_what_others_add(bench, larger, how):
    bench.remove("a/c/3")
    bench.remove("b")
    bench.write("a/c/3/1", b"ours")
    bench.mkdir("b/c")
    bench.theirs({"a/c/3/3": b"theirs", "a/c/3/7": b"theirs", "zarr.json": group() + b" "})
    bench.rebase(how)
    added = {"a/c/3/1": b"ours", "a/c/3/3": b"theirs", "a/c/3/7": b"theirs", "zarr.json": group() + b" "}
    assert bench.staged().arrays["/a"].num_deleted == 2
    assert bench.staged().gone == ["/b"]
    bench.remove("b")
    check(bench, without(larger, "a/c/3/", "b/") | added)


def test_a_directory_of_directories_that_was_made_again_has_what_others_add(bench, larger):
    bench.remove("a/c")
    bench.write("a/c/0/1", b"ours")
    bench.theirs({"a/c/3/3": b"theirs", "a/c/5/5": b"theirs"})
    bench.rebase("fail")
    check(bench, without(larger, "a/c/") | {"a/c/0/1": b"ours", "a/c/3/3": b"theirs", "a/c/5/5": b"theirs"})


def test_a_directory_that_was_made_again_gives_way_chunk_by_chunk(bench):
    bench.remove("a/c/3")
    bench.write("a/c/3/0", b"ours")
    bench.theirs({"a/c/3/0": b"theirs", "a/c/3/1": b"theirs"})
    bench.rebase("theirs")
    check(bench, without(FILES, "a/c/3/") | {"a/c/3/0": b"theirs", "a/c/3/1": b"theirs"})


def test_a_directory_in_the_place_of_one_that_was_renamed_is_not_joined_with_it(bench, larger):
    bench.rename("a/c/3", "a/c/5")
    bench.write("a/c/3/4", b"ours")
    bench.theirs({"b/c/1": b"theirs"})
    bench.rebase("fail")
    moved = {f"a/c/5/{i}": FILES[f"a/c/3/{i}"] for i in range(3)}
    check(bench, without(larger, "a/c/3/") | moved | {"a/c/3/4": b"ours", "b/c/1": b"theirs"})


@ALL_WAYS
def test_where_a_directory_was_renamed_to_both_are_put_together_by_a_commit(bench, larger, how):
    bench.rename("a/c/3", "a/c/5")
    bench.theirs({"a/c/5/7": b"theirs", "b/c/1": b"theirs"})
    tree = bench.tree()
    with pytest.raises(RebaseFailedError, match=r"'a/c/5' is a renamed directory here, .* 'a/c/5/7'"):
        bench.rebase(how)
    assert bench.tree() == tree
    bench.commit(rebase=how)
    moved = {f"a/c/5/{i}": FILES[f"a/c/3/{i}"] for i in range(3)}
    check(bench, without(larger, "a/c/3/") | moved | {"a/c/5/7": b"theirs", "b/c/1": b"theirs"})


@pytest.mark.parametrize("how", ["ours", "theirs"])
@pytest.mark.parametrize("key", ["a/c/3/1", "a/c/3/7"])
def test_where_a_directory_was_renamed_from_others_write_what_stays_there(bench, larger, how, key):
    bench.rename("a/c/3", "a/c/5")
    bench.theirs({key: b"theirs"})
    tree = bench.tree()
    with pytest.raises(RebaseFailedError, match=f"'a/c/5' is a renamed directory here, .* '{key}'"):
        bench.rebase(how)
    assert bench.tree() == tree
    bench.commit(rebase=how)
    expected = without(larger, "a/c/3/") | {f"a/c/5/{i}": FILES[f"a/c/3/{i}"] for i in range(3)}
    check(bench, expected | ({key: b"theirs"} if how == "theirs" or key not in FILES else {}))


def test_others_changes_come_along_with_a_renamed_array(bench):
    bench.rename("a", "moved")
    bench.theirs({"a/c/0/0": b"theirs", "a/c/3/3": b"theirs"})
    bench.rebase("fail")
    theirs = {"moved/c/0/0": b"theirs", "moved/c/3/3": b"theirs"}
    check(bench, {path.replace("a/", "moved/", 1) if path[0] == "a" else path: FILES[path] for path in FILES} | theirs)


@pytest.mark.parametrize("how", ["ours", "theirs"])
def test_chunks_that_were_renamed_to_where_others_write(bench, larger, how):
    bench.rename("a/c/3", "a/c/5")
    bench.theirs({"a/c/5/1": b"theirs"})
    moved = {f"a/c/5/{i}": FILES[f"a/c/3/{i}"] for i in range(3)}
    if how == "theirs":
        with pytest.raises(RebaseFailedError, match="renamed directory"):
            bench.rebase(how)
        bench.commit(rebase=how)
        moved["a/c/5/1"] = b"theirs"
    else:
        bench.rebase(how)
    check(bench, without(larger, "a/c/3/") | moved)


@ALL_WAYS
def test_a_directory_that_is_made_during_a_rebased_commit_has_what_others_put_there(bench, larger, how):
    bench.write("b/c/1", b"ours")
    bench.theirs({"a/c/4/1": b"theirs", "a/c/3/3": b"theirs"})

    def write():
        if bench.work.entries.find("a/c/4/0") is None:
            bench.write("a/c/4/0", b"later")
            bench.remove("a/c/3")
            bench.write("a/c/3/2", b"later")

    bench.commit(rebase=how, before_publish=write)
    expected = without(larger, "a/c/3/") | {"b/c/1": b"ours", "a/c/4/0": b"later", "a/c/3/2": b"later"}
    check(bench, expected | {"a/c/4/1": b"theirs", "a/c/3/3": b"theirs"})


@ALL_WAYS
@AT_ONCE
@pytest.mark.parametrize("path", ["n", "a/c/4"])
def test_a_file_that_would_hide_what_others_wrote_is_told(bench, larger, how, at_once, path):
    bench.write(path, b"no part of a commit")
    bench.write("b/c/1", b"ours")
    theirs = {"a/c/4/1": b"theirs", "n/zarr.json": group(), "n/o/zarr.json": group()}
    bench.theirs(theirs)
    tree = bench.tree()
    with pytest.raises(RebaseFailedError, match=f"'{path}' is a file here"):
        join(bench, how, at_once=at_once)
    assert bench.tree() == tree
    bench.remove(path)
    join(bench, how, at_once=at_once)
    check(bench, larger | theirs | {"b/c/1": b"ours"})


@ALL_WAYS
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
def test_another_name_of_a_file_of_the_base_keeps_what_that_was(bench, how, is_open):
    """Nobody changed the file under its own name, so there others' change counts, and nothing of ours takes it back."""
    bench.link("b/zarr.json", "n")
    bench.link("a/c/0/0", "a/c/3/3")
    bench.link("a/c/1/1", "c.bin")
    handle = bench.work.files.open(bench.where("c.bin"), os.O_RDWR) if is_open else None
    theirs = {"b/zarr.json": array((8,), (2,)), "a/c/0/0": b"theirs", "a/c/1/1": None, "b/c/3": b"3"}
    bench.theirs(theirs)
    tree = bench.tree()
    with pytest.raises(RebaseFailedError, match="has several names here"):
        bench.rebase(how)
    assert bench.tree() == tree
    bench.commit(rebase=how)
    expected = without(FILES, "a/c/1/1") | {path: data for path, data in theirs.items() if data is not None}
    expected |= {"n": FILES["b/zarr.json"], "a/c/3/3": FILES["a/c/0/0"], "c.bin": FILES["a/c/1/1"]}
    assert bench.tree() == expected
    if handle is not None:
        assert bench.work.files.read(handle, 0, 100) == FILES["a/c/1/1"]
        bench.work.files.release(handle)
    bench.remove("n")
    bench.remove("c.bin")
    check(bench, without(expected, "n", "c.bin"))


def test_a_file_with_several_names_that_others_leave_alone_is_in_nobodys_way(bench):
    bench.link("a/c/0/0", "a/c/3/3")
    bench.theirs({"a/c/1/1": b"theirs"})
    bench.rebase("fail")
    check(bench, FILES | {"a/c/1/1": b"theirs", "a/c/3/3": FILES["a/c/0/0"]})


@AT_ONCE
def test_a_file_with_several_names_that_was_written_to_is_ours_under_all(bench, at_once):
    bench.link("a/c/0/0", "a/c/3/3")
    bench.write("a/c/3/3", b"ours")
    bench.theirs({"a/c/0/0": b"theirs"})
    with pytest.raises(RebaseFailedError):
        join(bench, "fail", at_once=at_once)
    join(bench, "ours", at_once=at_once)
    check(bench, FILES | {"a/c/0/0": b"ours", "a/c/3/3": b"ours"})


def test_a_directory_whose_time_was_set_goes_with_what_others_removed(bench):
    for path in ("a/c/3", "a/c", "b/c/0"):
        bench.work.attributes.set(bench.where(path), AttrChange(mtime_ns=10**9))
    gone = {f"a/c/3/{i}": None for i in range(3)} | {"b/c/0": None}
    bench.theirs(gone)
    bench.rebase("fail")
    assert bench.work.entries.find("a/c/3") is None
    assert bench.work.entries.find("b/c") is None
    assert not bench.work.has_changes()
    check(bench, without(FILES, *gone))


def test_a_directory_that_was_emptied_here_stays(bench):
    for name in "01":
        bench.remove(f"a/c/3/{name}")
    bench.theirs({"a/c/3/2": None})
    bench.rebase("fail")
    assert bench.work.entries.find("a/c/3") is not None
    bench.remove("a/c/3")
    check(bench, without(FILES, "a/c/3/"))


@AT_ONCE
def test_nobody_waits_for_the_store_while_the_tree_goes_to_another_base(bench, storage, larger, monkeypatch, at_once):
    bench.write_all({"a/c/0/0": b"ours", "a/c/4/0": b"made", "b/c/1": b"b1"})
    bench.remove("a/c/1")
    bench.work.attributes.set(bench.where("b/zarr.json"), AttrChange(mode=0o600))
    bench.theirs({"a/c/3/3": b"theirs", "a/c/4/1": b"theirs", "b/c/0": b"theirs"})
    free = []

    def is_free():
        return bench.work._core.lock.acquire(timeout=5) and not bench.work._core.lock.release()

    def look():
        with ThreadPoolExecutor(1) as pool:
            free.append(pool.submit(is_free).result())

    def forget(*arguments, **options):
        bench.repository.assets.manifests.clear()
        bench.repository.assets.snapshots.clear()
        storage.interfere(look, methods="get", times=None)
        return change_base(*arguments, **options)

    change_base = bench.work.change_base
    monkeypatch.setattr(bench.work, "change_base", forget)
    join(bench, "fail", at_once=at_once)
    monkeypatch.undo()
    storage.clear()
    assert free
    assert all(free)
    expected = without(larger, "a/c/1/") | {"a/c/0/0": b"ours", "a/c/4/0": b"made", "b/c/1": b"b1"}
    check(bench, expected | {"a/c/3/3": b"theirs", "a/c/4/1": b"theirs", "b/c/0": b"theirs"})
