"""Inode numbers and times over a change of base: which are retained, and which must not lead to what they led to.

Programs find a file that they committed under the number that it had. Files that others changed have another number,
and the directories above them another time: the kernel has the former content under the old ones.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from icefs.errors import FormatError, StorageError
from icefs.inode import NO_INO, Entry, Ino, Invalidations
from icefs.paths import TreePath, lineage, parent, split
from icefs.worktree.base import BaseAttr, BaseEntry
from icefs.worktree.core.tree_core import TreeCore
from icefs.worktree.freeze.frozen_index import FrozenIndex
from icefs.worktree.model.nodes import DirNode, FileNode, Node
from icefs.worktree.rebase.new_base import AskedOnce, NewBase
from icefs.worktree.rebase.plan import BasePlan


def follow(
    core: TreeCore, new: NewBase, committed: FrozenIndex | None, dropped: Sequence[tuple[TreePath, Ino, int]]
) -> None:
    """Has the retained attributes follow what a commit renamed, and adds those of what it took. The lock is held.

    Args:
        core: The tree.
        new: The base that it stands on now.
        committed: The frozen tree that the base was made of; None if it was made by others.
        dropped: (path, inode number, mtime_ns) of what the base provides now.
    """
    if committed is not None:
        files = {old: now for old, now in new.moved_files.items() if old != now}
        dirs = {path: frozen.path for path, frozen in committed.by_base_path.items() if path != frozen.path}
        hidden = sorted(set(committed.hidden_paths()))
        core.retained.follow(files | dirs, hidden)
        core.retained.regions.follow(dirs, hidden)
    core.retained.forget_numbers([ino for _, ino, _ in dropped])
    core.retained.add_paths(dropped)


def retain_renamed(core: TreeCore, asked: AskedOnce, plan: BasePlan) -> None:
    """Retains the attributes of renamed directories of chunks, where the new base has them. The lock is held."""
    retained = core.retained
    retained.regions.add({path: region for path, region in plan.renamed.regions.items() if _surely_has(asked, path)})
    retained.regions.forget(plan.yielded)
    retained.add_paths(
        (path, *attr)
        for path, attr in plan.renamed.names.items()
        if path not in plan.yielded and retained.get(path) is None and _surely_has(asked, path)
    )


def _surely_has(asked: AskedOnce, path: TreePath) -> bool:
    with suppress(FormatError, StorageError):  # it is too late to fail
        return asked.stat(path) is not None
    return False


def give_up(core: TreeCore, changed: Sequence[TreePath]) -> list[TreePath]:
    """Gives up the attributes of what others changed; returns the paths that had retained some. The lock is held.

    At no moment may a retained number lead to other content.
    """
    retained = core.retained
    known = [path for path in (*changed, *_above(changed)) if path[-1:] != "/" and retained.get(path) is not None]
    retained.forget(changed)
    return known


def renew_above(core: TreeCore, changed: Sequence[TreePath], given_up: Sequence[TreePath]) -> Invalidations:
    """Gives the directories above what others changed another time.

    Takes the lock for moments, as the base may have to be fetched. An unreadable path is taken to be gone: the kernel
    asks again for entries without a retained number.

    Args:
        core: The tree, on its new base.
        changed: What others changed.
        given_up: What `give_up` returned.
    """
    above = _above(changed)
    with core.lock:
        tree = core.base_tree
        known = [path for path in above if path in core.base_dirs or core.retained.get(path) is not None]
    found: dict[TreePath, BaseAttr] = {}
    for path in {*known, *(parent(path) for path in given_up)}:
        with suppress(FormatError, StorageError):
            attr = tree.stat(path)
            if attr is not None:
                found[path] = attr
    there = {path: found[path] for path in known if path in found}
    with core.lock:
        core.retained.forget(path for path in known if path not in there)
        inodes = [ino for path, attr in there.items() if (ino := core.renew_dir(path, attr.mtime_ns)) is not None]
        return Invalidations(list(base_entries(core, (path for path in given_up if path not in there))), inodes)


def base_entries(core: TreeCore, paths: Iterable[TreePath]) -> Iterator[Entry]:
    """Yields the entries at base paths whose directories are there. The lock is held."""
    inos: dict[TreePath, Ino] = {}
    for path in paths:
        above, name = split(path)
        if above not in inos:
            inos[above] = _directory_ino(core, above)
        if inos[above]:
            yield inos[above], _encoded(name)


def _directory_ino(core: TreeCore, path: TreePath) -> Ino:
    """Returns the number of a base directory, 0 if it is not there or cannot be read."""
    node = core.base_dirs.get(path)
    if node is not None:
        return node.ino
    with suppress(FormatError, StorageError):
        attr = core.base_stat(path)
        return NO_INO if attr is None else attr.ino
    return NO_INO


def tree_entries(core: TreeCore, paths: Iterable[TreePath]) -> Iterator[Entry]:
    """Yields the entries at paths of the merged tree whose directories are there. The lock is held."""
    inos: dict[TreePath, Ino] = {}
    for path in dict.fromkeys(paths):
        above, name = split(path)
        if above not in inos:
            with suppress(FormatError, StorageError):
                found = _find(core, above)
                attr = None if found is None else core.entry(found).attr
                inos[above] = attr.ino if attr is not None and attr.is_dir else NO_INO
        if inos.get(above):
            yield inos[above], _encoded(name)


def _find(core: TreeCore, path: TreePath) -> Node | BaseEntry | None:
    found: Node | BaseEntry | None = core.root
    for name in path.split("/") if path else ():
        if found is None or isinstance(found, FileNode) or (isinstance(found, BaseEntry) and not found.attr.is_dir):
            return None
        found = core.child(found if isinstance(found, DirNode) else found.path, name)
    return found


def shown_again(plan: BasePlan) -> Iterator[TreePath]:
    """Yields the tree paths that lead elsewhere now because a plan says so, with those above yielded ones."""
    yield from plan.cut_off
    for path in plan.yielded:
        yield from lineage(path)


def renamed_entries(committed: FrozenIndex | None) -> list[Entry]:
    """Returns the entries of the directories that were renamed in a frozen tree. The lock is held."""
    if committed is None:
        return []
    return [
        (node.parent.ino, _encoded(node.name))
        for node, frozen in committed.dirs.items()
        if frozen.is_redirect and node.parent is not None
    ]


def _encoded(name: str) -> bytes:
    return name.encode(errors="surrogatepass")


def _above(paths: Iterable[TreePath]) -> set[TreePath]:
    """Returns the directories above paths; that of a path with a slash at its end is the path itself."""
    above: set[TreePath] = set()
    for path in paths:
        while path and (path := parent(path)) not in above:
            above.add(path)
    return above
