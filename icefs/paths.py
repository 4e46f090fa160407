"""The two kinds of paths in a repository, and the only conversions between them.

NodePath    "/", "/a/b"            a group or an array, as Icechunk's snapshots have it
TreePath    "", "a/b/c/0"          a file or directory of a tree, from the tree's root; also a Zarr key
"""

from collections.abc import Iterator
from typing import NewType

NodePath = NewType("NodePath", str)
TreePath = NewType("TreePath", str)

ROOT_NODE = NodePath("/")
ROOT_DIRECTORY = TreePath("")


def node_path(directory: TreePath) -> NodePath:
    """Returns the path of the node whose directory this is."""
    return NodePath(f"/{directory}")


def tree_path(node: NodePath) -> TreePath:
    """Returns the path of a node's directory."""
    return TreePath(node[1:])


def child_node(node: NodePath, name: str) -> NodePath:
    """Returns the path of a node below another one."""
    return NodePath(f"{node}{name}" if node == "/" else f"{node}/{name}")


def parent_node(node: NodePath) -> NodePath:
    """Returns the path of the group that a node is in; the root's is the root."""
    return NodePath(node.rpartition("/")[0] or ROOT_NODE)


def node_and_ancestors(node: NodePath) -> Iterator[NodePath]:
    """Yields a node's path and the paths of all nodes that may be above it, the root last."""
    while node != ROOT_NODE:
        yield node
        node = parent_node(node)
    yield ROOT_NODE


def child(directory: TreePath, name: str) -> TreePath:
    """Returns the path of an entry of a directory."""
    return TreePath(f"{directory}/{name}" if directory else name)


def parent(path: TreePath) -> TreePath:
    """Returns the path of the directory that an entry is in; the root's is the root."""
    return TreePath(path.rpartition("/")[0])


def base_name(path: TreePath) -> str:
    """Returns the last component of a path; the root's is empty."""
    return path.rpartition("/")[2]


def split(path: TreePath) -> tuple[TreePath, str]:
    """Returns the directory that an entry is in, and its name there; of the root, the root and an empty name."""
    above, _, name = path.rpartition("/")
    return TreePath(above), name


def ancestors(path: TreePath) -> Iterator[TreePath]:
    """Yields the directories that a path lies in, the nearest first, the root last."""
    while path:
        path = TreePath(path.rpartition("/")[0])
        yield path


def lineage(path: TreePath) -> Iterator[TreePath]:
    """Yields a path and those it lies below, but for the root."""
    while path:
        yield path
        path = TreePath(path.rpartition("/")[0])


def is_below(path: TreePath, ancestor: TreePath) -> bool:
    """Tells whether `path` is `ancestor` or lies below it."""
    return not ancestor or path == ancestor or path.startswith(f"{ancestor}/")


def relative(path: TreePath, directory: TreePath) -> TreePath:
    """Returns a path that lies in a directory, or is it, as seen from there."""
    return TreePath(path[len(directory) + 1 :] if directory else path)
