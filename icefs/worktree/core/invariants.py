"""Whether a tree is what its classes say it is; for tests."""

from icefs.worktree.core.tree_core import TreeCore
from icefs.worktree.model.nodes import DIRTY, FROM_BASE, LOST, STORED, WHITEOUT, DirNode, FileNode, Node


def check_invariants(core: TreeCore) -> None:
    """Raises AssertionError if a stated invariant does not hold; for tests."""
    with core.lock:
        seen: dict[Node, None] = {}
        _check_directory(core, core.root, seen)
        open_orphans = {node for node in core.by_ino.values() if node.parent is None and node is not core.root}
        for orphan in open_orphans:
            assert isinstance(orphan, FileNode), orphan
            assert orphan.io is not None, orphan
        assert set(core.by_ino.values()) == set(seen) | open_orphans
        assert len(core.by_ino) == len(seen) + len(open_orphans)
        dirs = {node.base_path: node for node in seen if isinstance(node, DirNode) and node.base_path is not None}
        assert core.base_dirs == dirs
        files = [node for node in core.by_ino.values() if isinstance(node, FileNode) and node.origin is not None]
        assert core.base_files.items() <= {(node.origin, node) for node in files}
        assert {node for node in files if node.parent is not None} <= set(core.base_files.values())
        for node in seen:
            if isinstance(node, FileNode) and node.flags & DIRTY:
                assert node in core.behind, node
        for node in core.unfinished:
            assert node.io is not None, node
            assert node.io.writable > 0, node
        numbers = list(core.retained.numbers())
        assert len(numbers) == len(set(numbers)), "a retained number leads to two paths"
        for path, handles in core.base_handles.items():
            assert handles, f"no handle of {path!r} is open"
            assert all(handle.path == path and handle.node is None for handle in handles), path
        assert core.spool_limit == max((view.limit for view in core.views), default=0)


def _check_directory(core: TreeCore, directory: DirNode, seen: dict[Node, None]) -> None:
    assert directory not in seen, f"{directory} is in two places"
    seen[directory] = None
    for name, entry in directory.entries.items():
        if entry is WHITEOUT:
            assert directory.base_path is not None, f"{directory} has a whiteout for {name!r} and nothing to hide"
        elif isinstance(entry, DirNode):
            assert entry.parent is directory, entry
            assert entry.name == name, entry
            _check_directory(core, entry, seen)
        else:
            assert (directory, name) in entry.links(), entry
            _check_file(core, entry)
            seen[entry] = None
        if entry is not WHITEOUT:
            assert core.by_ino.get(entry.ino) is entry, entry
            if entry.flags & STORED:
                assert directory.flags & STORED, f"{entry} has a row, {directory} has none"


def _check_file(core: TreeCore, node: FileNode) -> None:
    if node.flags & FROM_BASE:
        assert node.origin is not None, node
        assert node.spool_id == 0, node
    elif not node.spool_id:
        assert node.size == 0 or node.flags & LOST, node
    if node.lost:
        assert node.flags & LOST, node
        assert node.lost[-1][1] <= node.size, node
    assert node.id < core.next_id, node
    assert node.spool_id < core.next_id, node
    if node.extra is not None:
        assert node.extra, node
    for parent, name in node.links():
        if parent.entries.get(name) is not node:
            raise AssertionError(f"{node} is not at {name!r} of {parent}")
