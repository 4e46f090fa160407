"""Nodes over a base, without a disk: finding them, making them for what is untouched, and dropping them again."""

import pytest

from icefs.errors import NotADirectoryTreeError, StaleError
from icefs.worktree.base import BaseEntry
from icefs.worktree.model.handles import Handle
from icefs.worktree.model.materialise import Materialiser
from icefs.worktree.model.node_tree import Defaults, NodeTree
from icefs.worktree.model.nodes import FROM_BASE, WHITEOUT, DirNode, FileNode, Perm
from icefs.worktree.model.views import View
from tests.support.dict_base import DictBase, Numbers

FILES = {"a/zarr.json": b"{}", "a/c/0": b"chunk", "b": b"other"}


@pytest.fixture
def base() -> DictBase:
    return DictBase(FILES, Numbers())


@pytest.fixture
def tree(base: DictBase) -> NodeTree:
    made = NodeTree(base, base.numbers.allocate, lambda: 5_000, Defaults(Perm(0o644, 1, 2), Perm(0o755, 1, 2)))
    made.base_dirs[""] = made.root
    made.root.ino = 1
    made.by_ino[1] = made.root
    return made


@pytest.fixture
def make(tree: NodeTree) -> Materialiser:
    return Materialiser(tree)


def found(tree: NodeTree, path: str) -> BaseEntry:
    entry = tree.resolve(path)
    assert isinstance(entry, BaseEntry)
    return entry


def test_what_is_untouched_is_found_by_its_base_path_and_has_the_attributes_of_the_base(tree, base) -> None:
    entry = tree.entry(found(tree, "a/c/0"))
    assert entry.where == "a/c/0"
    assert (entry.attr.ino, entry.attr.size, entry.attr.uid, entry.attr.gid) == (base.stat("a/c/0").ino, 5, 1, 2)
    assert entry.attr.mode == 0o100644
    assert tree.path_of(found(tree, "a/c")) == "a/c"
    assert not tree.base_files


def test_a_node_is_made_with_the_directories_above_it_and_says_the_same(tree, make) -> None:
    before = tree.entry(found(tree, "a/c/0")).attr
    node = make.at("a/c/0")
    assert isinstance(node, FileNode)
    assert node.attr() == before
    assert node.flags == FROM_BASE
    assert set(tree.base_dirs) == {"", "a", "a/c"}
    assert tree.resolve("a/c/0") is tree.resolve(before.ino) is node
    assert tree.path_of(node) == "a/c/0"


def test_a_node_that_says_nothing_of_its_own_is_dropped_again(tree, make) -> None:
    node = make.at("b")
    assert isinstance(node, FileNode)
    make.forget(node)
    assert found(tree, "b").attr.size == 5
    assert node.ino not in tree.by_ino
    assert not tree.root.entries


def test_a_node_that_a_view_may_need_or_that_has_content_stays(tree, make) -> None:
    node = make.at("b")
    assert isinstance(node, FileNode)
    tree.views.append(View(10, is_durable=False))
    make.forget(node)
    tree.views.clear()
    node.flags = 0
    make.forget(node)
    assert tree.resolve("b") is node


def test_open_handles_follow_a_file_to_its_node(tree, make) -> None:
    handle = Handle(0)
    handle.path = "b"
    tree.base_handles["b"] = [handle]
    node = make.at("b")
    assert handle.node is node
    assert isinstance(node, FileNode)
    assert node.io is not None
    assert node.io.handles == 1
    assert not tree.base_handles


def test_below_a_whiteout_or_another_directory_nothing_of_the_base_is_reachable(tree, make) -> None:
    tree.root.entries["a"] = WHITEOUT
    assert tree.child(tree.root, "a") is None
    assert not tree.is_reachable("a/c/0")
    with pytest.raises(StaleError):
        tree.resolve("a/c/0")
    with pytest.raises(StaleError):
        make.directory("a/c")


def test_a_renamed_directory_leads_to_the_base_path_of_its_content(tree, make) -> None:
    directory = make.directory("a")
    del tree.root.entries["a"]
    directory.name = "moved"
    tree.root.entries["moved"] = directory
    assert tree.path_of(found(tree, "a/c/0")) == "moved/c/0"
    assert not directory.is_natural


def test_a_file_is_no_directory(tree, make) -> None:
    with pytest.raises(NotADirectoryTreeError):
        tree.directory("b")
    make.at("b")
    with pytest.raises(NotADirectoryTreeError):
        tree.directory("b")
    assert isinstance(tree.directory(1), DirNode)


def test_times_only_grow(tree, make) -> None:
    node = make.at("b")
    assert isinstance(node, FileNode)
    node.ctime_ns = 9_000
    assert tree.tick(node) == 9_001
    tree.content_time(node)
    assert node.mtime_ns == node.ctime_ns == 9_001
    assert tree.revision == 1


def test_retained_attributes_count_more_than_those_of_the_base(tree) -> None:
    tree.retained.add("a/c", [("0", 777, 4_000)])
    attr = tree.base_stat("a/c/0")
    assert (attr.ino, attr.mtime_ns, attr.size) == (777, 4_000, 5)
    assert found(tree, "a/c/0").attr.ino == 777
    assert tree.resolve(777) == BaseEntry("a/c/0", attr)
