"""A change of base on the nodes of a tree: what it drops, keeps and converts, and that it can be taken back."""

import os
from pathlib import Path

import pytest

from icefs.worktree.core.content import Content
from icefs.worktree.model.nodes import FROM_BASE, WHITEOUT, DirNode, FileNode
from icefs.worktree.rebase import tables
from icefs.worktree.rebase.tree_edit import TreeEdit
from icefs.worktree.tree import WorkTree
from tests.support.base_plans import parts_of
from tests.support.dict_base import Snapshots
from tests.support.tree_driver import Driver, options

BASE = {"a/c/0": b"zero", "a/c/1": b"one", "b/c/0": b"other"}


@pytest.fixture
def snapshots():
    return Snapshots(BASE)


@pytest.fixture
def driver(tmp_path: Path, snapshots: Snapshots):
    driver = Driver(WorkTree(tmp_path / "state", options(snapshots)))
    yield driver
    driver.tree.close()


def edit_of(parts):
    return TreeEdit(parts.core, parts.new, parts.decisions)


def shape(directory: DirNode) -> dict[str, object]:
    """Returns everything that an edit may change, by name."""
    found: dict[str, object] = {".": (directory.state(), directory.hidden)}
    for name, entry in directory.entries.items():
        if isinstance(entry, DirNode):
            found[name] = shape(entry)
        else:
            found[name] = entry.state() if isinstance(entry, FileNode) else entry
    return found


def test_an_edit_that_is_taken_back_leaves_everything_as_it_was(driver, snapshots):
    driver.write("a/c/5", b"five")
    driver.link("a/c/5", "a/c/6")
    driver.rename("b", "d")
    driver.unlink("a/c/0")
    frozen = driver.tree.freeze()
    driver.write("a/c/7", b"later")
    files = {"a/c/1": b"one", "a/c/5": b"five", "a/c/6": b"five", "d/c/0": b"other"}
    snapshots.add("next", files, on="base", changed=files)
    parts = parts_of(driver.tree, "next", frozen)
    before = shape(parts.core.root)
    edit = edit_of(parts)
    with parts.core.lock:
        edit.apply({})
        assert shape(parts.core.root) != before
        edit.undo()
    assert shape(parts.core.root) == before
    driver.tree.check_invariants()
    assert driver.read("a/c/7") == b"later"
    driver.tree.abandon(frozen)


def test_committed_names_are_dropped_and_one_keeps_the_number(driver, snapshots):
    driver.write("a/c/5", b"five")
    driver.link("a/c/5", "a/c/6")
    ino = driver.stat("a/c/5").ino
    frozen = driver.tree.freeze()
    files = BASE | {"a/c/5": b"five", "a/c/6": b"five"}
    snapshots.add("next", files, on="base", changed=["a/c/5", "a/c/6"])
    parts = parts_of(driver.tree, "next", frozen)
    edit = edit_of(parts)
    with parts.core.lock:
        edit.apply({})
        numbers = {path: number for path, number, _ in edit.done.dropped}
        assert numbers["a/c/5"] == ino
        assert numbers["a/c/6"] not in (ino, 0)
        assert edit.done.renumbered == ["a/c/6"]
        assert edit.done.inodes == [ino]
        assert list(edit.done.remaining) == [parts.core.root]
        edit.undo()
    driver.tree.abandon(frozen)


def test_an_open_committed_file_is_converted_and_its_spool_file_let_go(driver, snapshots):
    driver.write("a/c/5", b"five")
    handle = driver.open("a/c/5", os.O_RDONLY)
    frozen = driver.tree.freeze()
    snapshots.add("next", BASE | {"a/c/5": b"five"}, on="base", changed=["a/c/5"])
    parts = parts_of(driver.tree, "next", frozen)
    node, edit = parts.node("a/c/5"), edit_of(parts)
    spool_id = node.spool_id
    with parts.core.lock:
        edit.apply({})
        assert (node.origin, node.spool_id, bool(node.flags & FROM_BASE)) == ("a/c/5", 0, True)
        assert (edit.done.converted, edit.done.spools) == ([node], [spool_id])
        assert tables.is_placeholder(node)
        nodes, links = tables.rows(parts.core, edit.done.remaining)
        assert [row.name for row in nodes] == ["", "a", "c"]
        assert links == []
        edit.undo()
    assert (node.spool_id, bool(node.flags & FROM_BASE)) == (spool_id, False)
    driver.close(handle)
    driver.tree.abandon(frozen)


def test_a_whiteout_opens_for_what_others_put_below(driver, snapshots):
    for name in "01":
        driver.unlink(f"a/c/{name}")
    driver.rmdir("a/c")
    driver.rmdir("a")
    snapshots.add("theirs", BASE | {"a/c/2": b"theirs"}, on="base", changed=["a/c/2"])
    parts = parts_of(driver.tree, "theirs", yielded=["a/c/2"])
    edit = edit_of(parts)
    with parts.core.lock:
        edit.apply({})
        opened = parts.directory("a/c")
        assert opened.entries == {"0": WHITEOUT, "1": WHITEOUT}
        nodes, links = tables.rows(parts.core, edit.done.remaining)
        assert [row.name for row in nodes] == ["", "a", "c"]
        assert sorted(name for _, name, _ in links) == ["0", "1"]
        edit.undo()
    assert parts.core.root.entries == {"a": WHITEOUT}


def test_a_committed_name_that_was_removed_since_is_hidden(driver, snapshots):
    driver.write("a/c/5", b"five")
    frozen = driver.tree.freeze()
    driver.unlink("a/c/5")
    snapshots.add("next", BASE | {"a/c/5": b"five"}, on="base", changed=["a/c/5"])
    parts = parts_of(driver.tree, "next", frozen)
    edit = edit_of(parts)
    with parts.core.lock:
        edit.apply({})
        assert parts.directory("a/c").entries == {"5": WHITEOUT}
        edit.undo()
    driver.tree.abandon(frozen)


def test_a_name_parts_from_its_file_where_others_changed_it(driver, snapshots):
    driver.link("a/c/0", "a/c/5")
    snapshots.add("theirs", BASE | {"a/c/0": b"new!"}, on="base", changed=["a/c/0"])
    parts = parts_of(driver.tree, "theirs")
    node, edit = parts.node("a/c/5"), edit_of(parts)
    with parts.core.lock:
        found = parts.rescue.find()
    assert found.files == [node]
    parts.rescue.copy_up(Content(parts.core, 0), found)
    with parts.core.lock:
        edit.apply(parts.rescue.copied)
        assert "0" not in parts.directory("a/c").entries
        assert node.extra is None
        edit.undo()
    assert node.extra is not None


def test_open_files_of_the_base_follow_what_is_the_same(driver, snapshots):
    same, other = (driver.open(path, os.O_RDONLY) for path in ("a/c/0", "a/c/1"))
    snapshots.add("theirs", BASE | {"a/c/1": b"1!!"}, on="base", changed=["a/c/1"])
    parts = parts_of(driver.tree, "theirs")
    with parts.core.lock:
        assert tables.find_still_open(parts.core, parts.new) == {"a/c/0": "a/c/0"}
    driver.close(same)
    driver.close(other)
