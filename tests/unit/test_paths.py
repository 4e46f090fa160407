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
    node_path,
    parent,
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


def test_the_root_is_its_own_parent() -> None:
    assert (parent(ROOT_DIRECTORY), base_name(ROOT_DIRECTORY)) == (ROOT_DIRECTORY, "")
    assert node_path(ROOT_DIRECTORY) == ROOT_NODE
