"""Conversions between the paths of nodes and of files."""

import pytest

from icefs.paths import (
    ROOT_DIRECTORY,
    ROOT_NODE,
    NodePath,
    TreePath,
    base_name,
    child,
    child_node,
    node_and_ancestors,
    node_path,
    parent,
    parent_node,
    tree_path,
)

PAIRS = [("/", ""), ("/a", "a"), ("/a/b.c", "a/b.c"), ("/ü/ ", "ü/ ")]


@pytest.mark.parametrize(("node", "directory"), PAIRS)
def test_a_node_has_one_directory_and_a_directory_one_node(node: str, directory: str) -> None:
    assert tree_path(NodePath(node)) == directory
    assert node_path(TreePath(directory)) == node


@pytest.mark.parametrize(("node", "directory"), PAIRS)
def test_a_child_lies_in_its_parent(node: str, directory: str) -> None:
    path = child(TreePath(directory), "x")
    assert (parent(path), base_name(path)) == (directory, "x")
    assert node_path(path) == child_node(NodePath(node), "x")
    assert parent_node(child_node(NodePath(node), "x")) == node


def test_the_root_is_its_own_parent() -> None:
    assert (parent(ROOT_DIRECTORY), base_name(ROOT_DIRECTORY)) == (ROOT_DIRECTORY, "")
    assert node_path(ROOT_DIRECTORY) == ROOT_NODE
    assert parent_node(ROOT_NODE) == ROOT_NODE


def test_the_nodes_above_a_node_end_with_the_root() -> None:
    assert list(node_and_ancestors(NodePath("/a/b"))) == ["/a/b", "/a", "/"]
    assert list(node_and_ancestors(ROOT_NODE)) == ["/"]
