"""Dropping uncommitted changes, and telling whether there are any."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from icefs.errors import SessionStateError
from icefs.inode import Ino, Invalidations
from icefs.paths import TreePath, child, lineage
from icefs.worktree.core.tree_core import Change, TreeCore
from icefs.worktree.model.nodes import ATTRS, FROM_BASE, LOST, DirNode, Entry, FileNode, Node
from icefs.worktree.model.reappearing import Reappearing
from icefs.worktree.ops.removal import Removal


@dataclass(slots=True)
class Discarded:
    """What a discard dropped.

    Attributes:
        paths: The paths that were changed, and are no longer.
        changed: The entries that are others now, their directories, and the inodes that are gone or have other content.
        num_changes: How many names of files lead elsewhere than in the base, and how many directories were
            renamed; at least one for anything. Of the directories above them none counts.
    """

    paths: list[TreePath] = field(default_factory=list)
    changed: Invalidations = field(default_factory=Invalidations)
    num_changes: int = 0


def discard(core: TreeCore, removal: Removal, path: TreePath, opened: Iterable[TreePath] = ()) -> Discarded:
    """Drops all changes at a path of the merged tree and below it; `""` drops all there are.

    A renamed directory or file has two ends, and dropping the change at the place it left would show it twice: the
    place it went to has to be discarded first (or together with it).

    Args:
        core: The tree.
        removal: Takes its entries out.
        path: Where.
        opened: The base paths of files that are open and of which the tree does not know it.

    Raises:
        SessionStateError: a commit is under way, or something was renamed away from there.
    """
    with core.change() as op:
        if any(view.is_durable for view in core.views):
            raise SessionStateError(
                "nothing can be discarded while a commit is under way",
                kind="commit-not-allowed",
                hint="wait for its end: 'icefs status' shows how far it is",
            )
        reappearing = Reappearing(core, opened)
        places = _places(core, path)
        dropping = _Dropping(core, removal, op)
        for directory, name in places:
            dropping.collect(directory, name)
        dropping.check_renames()
        dropping.drop()
        if not path:
            row = core.row(core.root)
            op.write = lambda _: core.journal.replace_tree([row], [])
        op.commit()
        reappearing.renumber()
        return dropping.discarded


def _places(core: TreeCore, path: TreePath) -> list[tuple[DirNode, str]]:
    """Returns the upper entries that a path stands for."""
    directory = core.root
    names = path.split("/") if path else []
    for position, name in enumerate(names):
        entry = directory.entries.get(name)
        if position == len(names) - 1:
            return [] if entry is None else [(directory, name)]
        if not isinstance(entry, DirNode):
            return []
        directory = entry
    return [(directory, name) for name in directory.entries]


class _Dropping:
    def __init__(self, core: TreeCore, removal: Removal, op: Change) -> None:
        self._core = core
        self._removal = removal
        self._op = op
        self._entries: list[tuple[DirNode, str, Entry]] = []
        self._nodes: set[Node] = set()
        self.discarded = Discarded()

    def collect(self, directory: DirNode, name: str) -> None:
        """Lists an entry with everything below it, what is below first."""
        waiting = [(directory, name)]
        found = []
        for above, below in waiting:
            entry = above.entries[below]
            found.append((above, below, entry))
            if isinstance(entry, DirNode):
                waiting.extend((entry, inner) for inner in entry.entries)
        self._entries.extend(reversed(found))

    def check_renames(self) -> None:
        """Refuses to show again what is to be seen elsewhere."""
        core = self._core
        places = {(directory, name) for directory, name, _ in self._entries}
        self._nodes = {
            entry
            for _, _, entry in self._entries
            if isinstance(entry, DirNode) or (isinstance(entry, FileNode) and places.issuperset(entry.links()))
        }
        shown = {
            child(directory.base_path, name) for directory, name, _ in self._entries if directory.base_path is not None
        }
        origins: list[tuple[TreePath, Node]] = [*core.base_dirs.items(), *core.base_files.items()]
        for origin, node in origins:
            if node in self._nodes or node is core.root or _is_in_place(node):
                continue
            if isinstance(node, FileNode) and node.parent is None:
                continue
            for path in lineage(origin):
                if path in shown:
                    place = core.path_of(node)
                    raise SessionStateError(
                        f"{origin!r} was renamed to {place!r}, which is not discarded",
                        hint=f"discard {place} first",
                        path=place,
                    )

    def drop(self) -> None:
        """Takes the listed entries out."""
        core, op = self._core, self._op
        self.discarded.num_changes = self._count()
        entries: list[tuple[Ino, bytes]] = []
        inodes: list[Ino] = []
        for directory, name, entry in self._entries:
            self.discarded.paths.append(child(directory.path(), name))
            entries.append((directory.ino, name.encode(errors="surrogatepass")))
            op.touch(directory)
            if directory.hidden is not None:
                directory.hidden.discard(name)
            op.put(directory.entries, name, None)
            op.links.append((directory, name, None))
            if isinstance(entry, FileNode):
                inodes.append(entry.ino)
                self._removal.drop_link(op, entry, directory, name)
                if entry.parent is None and entry.origin is not None and core.base_files.get(entry.origin) is entry:
                    # It may be open still; the base file that is to be seen again is another one.
                    op.put(core.base_files, entry.origin, None)
            elif isinstance(entry, DirNode):
                inodes.append(entry.ino)
                self._removal.drop_dir(op, entry)
        self.discarded.paths.reverse()
        self.discarded.changed = Invalidations(entries, [*inodes, *(directory for directory, _ in entries)])

    def _count(self) -> int:
        """Counts the changes among the listed entries; a renamed directory is one, with the name that it left."""
        renamed = {
            entry.base_path
            for _, _, entry in self._entries
            if isinstance(entry, DirNode) and entry.base_path is not None and not entry.is_natural
        }
        count = len(renamed)
        for directory, name, entry in self._entries:
            if isinstance(entry, FileNode):
                count += not _is_lower(directory, name, entry)
            elif not isinstance(entry, DirNode):
                count += _place(directory, name) not in renamed
        return max(count, min(len(self._entries), 1))


def _is_in_place(node: Node) -> bool:
    if isinstance(node, DirNode):
        return node.is_natural
    parent = node.parent
    return parent is not None and parent.base_path is not None and node.origin == child(parent.base_path, node.name)


def _place(directory: DirNode, name: str) -> str | None:
    """Returns where the base would have a name; None if its directory is a new one."""
    return None if directory.base_path is None else child(directory.base_path, name)


def _is_lower(directory: DirNode, name: str, file: FileNode) -> bool:
    """Tells whether a name leads to the file that the base has there."""
    return file.flags & (FROM_BASE | LOST) == FROM_BASE and file.origin == _place(directory, name)


def has_changes(core: TreeCore) -> bool:
    """Tells whether the tree shows anything else than its base, times and modes aside."""
    return count_changes(core, 1) > 0


def count_changes(core: TreeCore, limit: int) -> int:
    """Counts the names that lead elsewhere than in the base, new directories among them, up to a limit."""
    count = 0
    with core.lock:
        waiting = [core.root]
        for directory in waiting:
            for name, entry in directory.entries.items():
                if isinstance(entry, DirNode):
                    waiting.append(entry)
                    count += not entry.is_natural
                else:
                    count += not (isinstance(entry, FileNode) and _is_lower(directory, name, entry))
                if count >= limit:
                    return limit
    return count


def is_clean(core: TreeCore) -> bool:
    """Tells whether a tree shows nothing but its base, also in modes, owners and times that somebody set."""
    return not has_changes(core) and not any(node.flags & ATTRS for node in list(core.by_ino.values()))


def count_entries(core: TreeCore) -> int:
    """Counts the files, directories and whiteouts that a tree has. For one that nobody uses any more."""
    return sum(len(node.entries) for node in core.by_ino.values() if isinstance(node, DirNode))


def own_content(core: TreeCore) -> tuple[int, int]:
    """Returns how many files have content of their own, and how many bytes that is."""
    with core.lock:
        nodes = list(core.by_ino.values())
    sizes = [node.size for node in nodes if isinstance(node, FileNode) and node.parent and node.spool_id]
    return len(sizes), sum(sizes)
