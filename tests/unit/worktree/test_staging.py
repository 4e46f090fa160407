"""Working trees against plain dictionaries: commits hold what the files say."""

import pytest

from icefs.engine.write.repository import WritableRepository
from icefs.errors import InvalidInputError, ObjectNotFoundError, SessionStateError
from icefs.storage.memory import MemoryStorage
from icefs.vfs.branches.session_base import SessionBase
from icefs.worktree.ops.namespace import RENAME_EXCHANGE
from icefs.worktree.spool.summary import summarise
from tests.support.base_plans import complete_recovered, plan_of_commit
from tests.support.staging_bench import Bench, array, group

FILES = {
    "zarr.json": group(),
    "g/zarr.json": group(),
    "g/a/zarr.json": array((40, 40), (10, 10)),
    **{f"g/a/c/{i}/{j}": bytes([i, j]) * (300 if (i + j) % 2 else 5) for i in range(4) for j in range(4)},
    "g/dots/zarr.json": array((4, 4), (2, 2), separator="."),
    **{f"g/dots/c.{i}.{j}": bytes([i, j, 1]) for i in range(2) for j in range(2)},
    "s/zarr.json": array((), ()),
    "s/c": b"scalar",
    "v/zarr.json": array((40, 40), (10, 10), encoding="v2"),
    **{f"v/{i}/{j}": bytes([9, i, j]) for i in range(4) for j in range(2)},
}


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def bench(request, tmp_path):
    bench = Bench(tmp_path / "tree", MemoryStorage(), spec_version=request.param)
    bench.write_all(FILES)
    bench.commit("first")
    assert bench.committed() == FILES
    yield bench
    bench.work.close()


def moved(files, *pairs):
    """Renames directories of a dictionary, all at once."""
    result = {}
    for path, data in files.items():
        for old, new in pairs:
            if path == old or path.startswith(f"{old}/"):
                path = new + path[len(old) :]
                break
        result[path] = data
    return result


def check(bench, expected, *, untracked=()):
    """Commits, and compares the commit and the tree after it with what is expected."""
    assert bench.tree() == expected
    objects = len(list(bench.repository.storage.iter_objects("chunks/")))
    staged = bench.staged()
    bench.commit()
    keys = {key: data for key, data in expected.items() if key not in untracked}
    assert bench.committed() == keys
    assert bench.tree() == expected
    assert bench.work.has_changes() == bool(untracked)
    return staged, len(list(bench.repository.storage.iter_objects("chunks/"))) - objects


RENAMES = {
    "array": [("g/a", "g/b")],
    "group": [("g", "h")],
    "into another group": [("v", "g/v")],
    "out of a group": [("g/a", "a"), ("g/dots", "dots")],
    "array and the group it was in": [("g/a", "a"), ("g", "h")],
}


@pytest.mark.parametrize("pairs", RENAMES.values(), ids=RENAMES)
def test_renames_alone_are_moves(bench, pairs):
    before = bench.ids()
    for old, new in pairs:
        bench.rename(old, new)
    staged, stored = check(bench, moved(FILES, *pairs))
    assert stored == 0
    assert sorted(staged.renames) == sorted((f"/{old}", f"/{new}") for old, new in pairs)
    assert staged.moves
    after = bench.ids()
    kept = moved(before, *((f"/{o}", f"/{n}") for o, n in pairs))
    assert (after == kept) == (bench.repository.spec_version == 2)
    if bench.repository.spec_version == 2:
        log = bench.repository.assets.fetch_transaction_log(bench.session.snapshot_id)
        assert {(move.from_path, move.to_path) for move in log.moved_nodes} == set(staged.moves)


def test_chains_and_swaps_of_renames_are_moves_of_their_ends(bench):
    before = bench.ids()
    bench.rename("v", "w")
    bench.rename("w", "g/x")
    bench.rename("g", "h")
    bench.rename("h/x", "v2")
    bench.rename("h/a", "h/dots", RENAME_EXCHANGE)
    expected = moved(FILES, ("v", "v2"), ("g/a", "h/dots"), ("g/dots", "h/a"), ("g", "h"))
    staged, stored = check(bench, expected)
    assert stored == 0
    assert staged.moves
    if bench.repository.spec_version == 2:
        after = bench.ids()
        assert (after["/h/dots"], after["/h/a"], after["/v2"]) == (before["/g/a"], before["/g/dots"], before["/v"])


def test_files_of_a_renamed_directory_that_cannot_be_committed_stay(bench):
    """The new base has the directory, and not what lay in it."""
    bench.rename("v", "w")
    bench.remove("w/zarr.json")
    bench.write("w/zarr.json", group())
    bench.rename("g", "h")
    bench.remove("h/a/zarr.json")
    bench.rename("h/dots", "h/a/dots")
    expected = bench.tree()
    left = {path for path in expected if path.startswith(("w/", "h/a/c/")) and not path.endswith("zarr.json")}
    assert len(left) == 24
    bench.commit(skip_invalid=True)
    assert bench.tree() == expected
    assert bench.committed().keys() == expected.keys() - left
    bench.write("h/a/zarr.json", FILES["g/a/zarr.json"])
    bench.write("w/zarr.json", FILES["v/zarr.json"])
    bench.commit()
    assert (
        bench.committed()
        == bench.tree()
        == expected
        | {
            "h/a/zarr.json": FILES["g/a/zarr.json"],
            "w/zarr.json": FILES["v/zarr.json"],
        }
    )
    assert not bench.work.has_changes()


def test_there_and_back_is_no_change(bench):
    bench.rename("g", "h")
    bench.rename("h/a", "x")
    bench.rename("x", "h/a")
    bench.rename("h", "g")
    assert bench.staged().is_empty


def test_renames_with_other_changes_reuse_references(bench):
    bench.rename("g/a", "moved")
    bench.write("moved/c/1/1", b"new bytes" * 100)
    bench.remove("moved/c/2")
    bench.remove("moved/c/3/3")
    bench.write("new/zarr.json", group())
    bench.rename("v", "new/v")
    expected = moved(FILES, ("g/a", "moved"), ("v", "new/v"))
    expected["moved/c/1/1"] = b"new bytes" * 100
    expected["new/zarr.json"] = group()
    for j in range(4):
        del expected[f"moved/c/2/{j}"]
    del expected["moved/c/3/3"]
    staged, stored = check(bench, expected)
    assert stored == 1
    assert not staged.moves
    assert staged.renames == [("/g/a", "/moved"), ("/v", "/new/v")]
    assert len(staged.arrays["/moved"].sets) == 1


def test_a_rename_over_what_was_removed(bench):
    bench.remove("v")
    bench.rename("g/a", "v")
    expected = {path: data for path, data in FILES.items() if not path.startswith("v/")}
    staged, stored = check(bench, moved(expected, ("g/a", "v")))
    assert (stored, staged.moves) == (0, [])


def test_directories_of_chunks_are_renamed(bench):
    bench.rename("g/a/c/0", "g/a/c/t")
    bench.rename("g/a/c/1", "g/a/c/0")
    bench.rename("g/a/c/t", "g/a/c/1")
    bench.remove("v/0")
    bench.rename("g/a/c/3", "v/0")
    expected = moved(FILES, ("g/a/c/0", "g/a/c/1"), ("g/a/c/1", "g/a/c/0"))
    expected = moved({k: d for k, d in expected.items() if not k.startswith("v/0/")}, ("g/a/c/3", "v/0"))
    staged, stored = check(bench, expected)
    assert (stored, staged.moves) == (0, [])
    assert not any(one.sets for one in staged.arrays.values())


def test_directories_of_chunks_with_other_names_are_read_by_name(bench):
    bench.remove("g/dots/c.0.0")
    bench.write("d/zarr.json", array((40, 40), (10, 10), separator="."))
    bench.rename("g/a/c/0/1", "d/c.3.3")
    bench.write("g/a/zarr.json", array((40, 40), (10, 10), encoding="v2"))
    for name in "0123":
        bench.rename(f"g/a/c/{name}", f"g/a/{name}")
    bench.work.names.rmdir(bench.where("g/a"), "c")
    expected = moved(FILES, ("g/a/c/0/1", "d/c.3.3"), *((f"g/a/c/{n}", f"g/a/{n}") for n in "0123"))
    del expected["g/dots/c.0.0"]
    expected |= {
        "d/zarr.json": array((40, 40), (10, 10), separator="."),
        "g/a/zarr.json": array((40, 40), (10, 10), encoding="v2"),
    }
    _, stored = check(bench, expected)
    assert stored == 0


def test_removed_subtrees(bench):
    bench.remove("g/a/c/1")
    bench.remove("g/a/c/2/3")
    bench.remove("v")
    staged, _ = check(
        bench, {k: d for k, d in FILES.items() if not k.startswith(("g/a/c/1/", "v/")) and k != "g/a/c/2/3"}
    )
    assert staged.deleted == ["/v"]
    assert list(staged.arrays["/g/a"].deletes) == [(1, 0), (1, 1), (1, 2), (1, 3), (2, 3)]


def test_a_group_whose_metadata_is_removed_leaves_its_members(bench):
    bench.remove("g/zarr.json")
    before = bench.ids()
    staged, _ = check(bench, {path: data for path, data in FILES.items() if path != "g/zarr.json"})
    assert (staged.deleted, staged.implicit) == (["/g"], ["/g"])
    assert bench.ids() == {path: node_id for path, node_id in before.items() if path != "/g"}


def test_an_array_whose_metadata_alone_is_removed_is_no_deletion(bench):
    bench.remove("g/a/zarr.json")
    with pytest.raises(InvalidInputError, match="16 chunks of the array were not; remove g/a to delete the array"):
        bench.commit()
    bench.remove("g/a")
    staged, _ = check(bench, {path: data for path, data in FILES.items() if not path.startswith("g/a/")})
    assert staged.deleted == ["/g/a"]


def test_a_renamed_directory_of_chunks_without_array_is_refused_as_one(bench):
    bench.mkdir("aside")
    bench.rename("g/a/c", "aside/c")
    with pytest.raises(InvalidInputError, match="aside/c holds 16 chunks, but there is no array"):
        bench.commit()
    bench.rename("aside/c", "g/a/c")
    assert bench.staged().is_empty


def test_an_array_that_is_resized_and_moved_loses_what_is_outside(bench):
    bench.rename("g/a", "b")
    bench.write("b/zarr.json", array((20, 40), (10, 10)))
    bench.commit()
    expected = {path: data for path, data in moved(FILES, ("g/a", "b")).items() if not path.startswith("b/c/")}
    expected |= {f"b/c/{i}/{j}": FILES[f"g/a/c/{i}/{j}"] for i in range(2) for j in range(4)}
    expected["b/zarr.json"] = array((20, 40), (10, 10))
    assert bench.committed() == expected == bench.tree()


def test_a_node_of_another_kind_replaces_one(bench):
    bench.remove("g/a")
    bench.write("g/a/zarr.json", group())
    bench.write("g/a/b/zarr.json", array((4,), (2,)))
    bench.write("g/a/b/c/0", b"x")
    expected = {path: data for path, data in FILES.items() if not path.startswith("g/a/")}
    expected |= {"g/a/zarr.json": group(), "g/a/b/zarr.json": array((4,), (2,)), "g/a/b/c/0": b"x"}
    check(bench, expected)


def test_a_replaced_array_does_not_keep_old_chunks(bench):
    bench.remove("g/a")
    bench.write("g/a/zarr.json", array((40, 40), (10, 10)))
    bench.write("g/a/c/0/0", b"new")
    expected = {path: data for path, data in FILES.items() if not path.startswith("g/a/")}
    check(bench, expected | {"g/a/zarr.json": array((40, 40), (10, 10)), "g/a/c/0/0": b"new"})


def test_a_directory_goes_back_under_something_new(bench):
    bench.mkdir("fresh")
    bench.rename("g/a", "fresh/a")
    bench.rename("g", "old")
    bench.rename("fresh", "g")
    bench.write("g/zarr.json", group())
    expected = moved({k: d for k, d in FILES.items() if not k.startswith("g/a/")}, ("g", "old"))
    expected |= {path: data for path, data in FILES.items() if path.startswith("g/a/")} | {"g/zarr.json": group()}
    check(bench, expected)


def test_what_is_staged_is_worked_out_once_for_each_state_of_the_tree(bench):
    def now():
        return bench.work.staged_now(bench.open_base).staged

    bench.write("g/a/c/0/0", b"new")
    first = now()
    bench.tree()
    assert now() is first
    bench.write("g/a/c/0/0", b"newer")
    second = now()
    assert second is not first
    bench.rename("g/a", "b")
    third = now()
    assert third is not second
    assert third.renames == [("/g/a", "/b")]
    bench.commit()
    assert now().is_empty


def test_small_chunks_of_several_arrays_share_an_object(bench):
    sizes = [600, 513, 1024, 700]
    new = {f"{name}/zarr.json": array((8, 8), (2, 2)) for name in ("p", "q", "r")}
    new |= {
        f"{name}/c/{i}/{j}": bytes([ord(name), i, j, 1]) * sizes[j]
        for name in "pqr"
        for i in range(4)
        for j in range(4)
    }
    bench.write_all(new)
    _, objects = check(bench, FILES | new)
    assert objects == 1


def test_what_the_published_snapshot_lacks_stays_in_the_tree(bench, monkeypatch):
    asked_alone = []
    stat = SessionBase.stat
    written = {f"g/a/c/{i}/{j}": bytes([7, i, j]) * 200 for i in range(4) for j in range(4)}
    written |= {"v/0/0": b"inline", "s/c": b"another scalar", "g/dots/c.0.0": b"dots", "n/zarr.json": group() + b"\n"}
    bench.write_all(written)
    bench.write("note.txt", b"untracked")
    bench.remove("g/dots/c.1.1")
    frozen = bench.work.freeze()
    bench.theirs(
        written | {"g/a/c/3/3": b"shorter", "g/dots/c.0.0": None, "g/dots/c.1.1": None, "n/zarr.json": group()}
    )
    monkeypatch.setattr(SessionBase, "stat", lambda base_tree, path: asked_alone.append(path) or stat(base_tree, path))
    tip = str(bench.repository.lookup_branch("main"))
    result = bench.work.change_base(plan_of_commit(frozen, tip, ["note.txt"]))
    bench.work.check_invariants()
    lacking = ["g/a/c/3/3", "g/dots/c.0.0", "n/zarr.json"]
    assert result.kept_back == lacking
    assert not {"g/a/c/0/0", "v/0/0", "s/c"} & set(asked_alone), "chunks are looked up together"
    expected = {key: data for key, data in (FILES | written).items() if key != "g/dots/c.1.1"}
    assert bench.tree() == expected | {"note.txt": b"untracked"}
    assert {change.path for change in bench.work.changes()} >= {*lacking, "note.txt"}
    bench.commit()
    assert bench.committed() == expected


def test_a_manifest_that_cannot_be_read_leaves_the_commit_to_be_completed(bench):
    bench.write("g/a/c/0/0", b"x" * 600)
    frozen = bench.work.freeze()
    bench.theirs({"g/a/c/0/0": b"x" * 600})
    tip = str(bench.repository.lookup_branch("main"))
    bench.work.record_intent(frozen, tip, frozen.base)
    storage = bench.repository.storage
    manifests = {one.key: storage.get(one.key).data for one in storage.iter_objects("manifests/")}
    storage.delete(list(manifests))
    bench.repository = WritableRepository.open(storage)  # which has none of them in memory
    with pytest.raises(ObjectNotFoundError):
        bench.work.change_base(plan_of_commit(frozen, tip))
    assert bench.work.pending_intent is not None
    for key, data in manifests.items():
        storage.put(key, data)
    assert complete_recovered(bench.work).kept_back == []
    assert bench.tree() == FILES | {"g/a/c/0/0": b"x" * 600}


def test_a_renamed_file_that_no_commit_takes_keeps_its_former_place_hidden(bench):
    """Were both to be seen, they would have one inode number."""
    bench.rename("g/a/zarr.json", "g/a.json")
    bench.write("s/c", b"other")
    bench.commit(skip_invalid=True)
    with pytest.raises(SessionStateError, match=r"'g/a/zarr.json' was renamed to 'g/a.json', which is not discarded"):
        bench.work.discard("g/a")
    assert bench.work.entries.find("g/a/zarr.json") is None
    bench.work.discard("g/a.json")
    bench.work.discard("g/a")
    assert bench.tree() == bench.committed() == FILES | {"s/c": b"other"}


def test_a_renamed_file_and_what_is_left_at_its_former_place_have_numbers_of_their_own(bench):
    bench.work.close()
    bench.open()
    bench.mkdir("n")
    bench.rename("g/a/zarr.json", "n/zarr.json")
    for _ in range(2):
        bench.write("s/c", b"other")
        bench.commit(skip_invalid=True)
        assert bench.committed()["n/zarr.json"] == FILES["g/a/zarr.json"]
    bench.work.discard("g/a")
    numbers = [bench.work.entries.attr(bench.where(path)).ino for path in ("n/zarr.json", "g/a/zarr.json")]
    assert len(set(numbers)) == 2
    assert bench.tree() == bench.committed() == FILES | {"s/c": b"other", "n/zarr.json": FILES["g/a/zarr.json"]}


@pytest.mark.parametrize("below", ["g/a/c/0", "g/dots", "v/1", "g"])
def test_what_a_program_keeps_in_a_hidden_directory_is_untracked(bench, below):
    """As an interrupted rsync with --partial-dir leaves it: under the name that it is to have."""
    name = f"{below}/.rsync-partial/1"
    bench.write(name, b"half of it")
    bench.write("s/c", b"other")
    expected = FILES | {"s/c": b"other", name: b"half of it"}
    check(bench, expected, untracked=[name])


def test_a_grid_that_no_snapshot_can_hold_is_invalid_alone(bench):
    bench.write("huge/zarr.json", array((1 << 33,), (1,)))
    bench.write("s/c", b"other")
    [(path, reason)] = bench.staged().invalid
    assert path == "huge/zarr.json"
    assert "8589934592 chunks along one dimension are too many" in reason
    bench.commit(skip_invalid=True)
    assert bench.committed() == FILES | {"s/c": b"other"}


def test_a_file_that_is_no_chunk_of_the_array_above_it_is_told_their_names(bench):
    bench.write("g/dots/c/0/0", b"1")
    bench.write("g/a/c/1/7/9", b"1")
    told = dict(bench.staged().invalid)
    assert told["g/dots/c/0/0"] == "is no chunk of /g/dots: its chunks have names such as c.0.0"
    assert told["g/a/c/1/7/9"] == "is no chunk of /g/a: its chunks have names such as c/0/0"


def test_discard_counts_chunks_and_nodes_and_no_directories(bench):
    bench.write("g/a/c/0/0", b"changed")
    bench.write("n/zarr.json", array((4,), (2,)))
    bench.write("n/c/1", b"new")
    staged = bench.staged()
    assert len(staged.nodes) + staged.num_chunks == 3
    assert bench.work.discard("").num_changes == 3
    bench.write("g/a/c/0/0", b"changed")
    assert bench.work.discard("g/a/c/0/0").num_changes == 1
    assert bench.work.discard("g/a/c/0/0").num_changes == 0
    bench.write("g/a/c/0/0", b"changed")
    bench.remove("g/a/c/1/1")
    assert bench.work.discard("g").num_changes == bench.work.discard("").num_changes + 2
    bench.rename("v", "w")
    bench.write("w/0/0", b"changed")
    assert bench.work.discard("").num_changes == 2
    bench.mkdir("empty/inner")
    assert bench.work.discard("empty").num_changes == 1
    assert bench.tree() == FILES


@pytest.mark.parametrize(
    "change",
    [
        lambda bench: None,
        lambda bench: bench.write("g/a/c/0/0", b"changed"),
        lambda bench: bench.write_all({"n/zarr.json": array((4,), (2,)), "n/c/0": b"1", "n/c/1": b"2"}),
        lambda bench: bench.remove("g/a/c/1/1"),
        lambda bench: bench.rename("v", "w"),
        lambda bench: (bench.rename("v", "w"), bench.write("w/0/0", b"changed")),
        lambda bench: (bench.rename("v", "w"), bench.mkdir("v")),
        lambda bench: bench.rename("g/a/c/0/0", "g/a/c/1/1"),
        lambda bench: bench.link("g/a/c/0/0", "g/other"),
        lambda bench: bench.mkdir("empty/inner"),
    ],
)
def test_a_tree_that_nobody_has_open_has_as_many_changes_as_discard_drops(bench, change, tmp_path):
    change(bench)
    bench.work.close()
    told = summarise(tmp_path / "tree").num_changes
    bench.open()
    assert bench.work.discard("").num_changes == told
    assert bench.tree() == FILES
