"""The mount's own directories, `branches`, `tags` and `snapshots`, and the trees that they lead to."""

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from icefs.engine.read.refs import Refs
from icefs.errors import (
    InvalidInputError,
    IsADirectoryTreeError,
    NotFoundError,
    TreeError,
)
from icefs.format.ids import SnapshotId
from icefs.inode import Ino
from icefs.vfs.attrs import ABSENT, ABSENT_FOREVER, Attr, EntryRun
from icefs.vfs.branches.branch_tree import BranchTree
from icefs.vfs.branches.settings import WorkingSettings
from icefs.vfs.inodes.numbers import CONTROL_SLOT, ROOT_SLOT, reserve_fixed
from icefs.vfs.interface import DirHandle, FileHandle, Tree, TreeChanges, not_a_directory
from icefs.vfs.names import decode_ref, encode_ref
from icefs.vfs.refs.as_of import AS_OF_NAME, AsOfTree
from icefs.vfs.refs.snapshot_times import SnapshotTimes
from icefs.vfs.trees.context import TreeContext, TreeIdentity
from icefs.vfs.trees.control_dir import CONTROL_NAME, ControlDir
from icefs.vfs.trees.listing import Listing, NamedEntries, Section
from icefs.vfs.trees.snapshot_tree import Keeper, SnapshotTree

_BRANCHES, _TAGS, _SNAPSHOTS = 250, 251, 252
_DIRECTORIES: Final = {"branches": _BRANCHES, "tags": _TAGS, "snapshots": _SNAPSHOTS}
_NAMES: Final = {slot: name for name, slot in _DIRECTORIES.items()}

DIRECTORY_NAMES: Final = tuple(_DIRECTORIES)
"""The directories of refs."""


class ControlMaker(Protocol):
    """Makes the control directories of a mount."""

    def for_root(self, root: "RootTree") -> ControlDir:
        """Makes that of a mount of a whole repository."""

    def for_branch(self, branch: BranchTree) -> ControlDir:
        """Makes a branch's, which is the mount's too where the branch is all that is mounted."""

    def for_snapshot(self, tree: SnapshotTree) -> ControlDir:
        """Makes that of a tag or snapshot, which may be all that is mounted as well."""


class RootTree(Tree):
    """The top of a mount that shows the whole repository.

    Trees are made when a program looks at them: a repository may have tens of thousands of snapshots.

    Attributes:
        refs: The refs as last seen.
        branches: The branch trees that were made, by name.
        tags: The tag trees that were made, by name.
        snapshots: The snapshot trees that were made, by id.
    """

    def __init__(
        self,
        context: TreeContext,
        working: WorkingSettings | None,
        refs: Refs,
        controls: ControlMaker,
        keeper: Keeper,
        now_ns: int,
    ) -> None:
        """Makes the directories, without any tree.

        Args:
            context: What all trees share.
            working: What branches share that can be written to; None in a mount that only reads.
            refs: The refs as last seen.
            controls: Makes control directories.
            keeper: Bounds how many trees of tags and snapshots are in memory.
            now_ns: The time that the directories have.
        """
        self.refs = refs
        self.branches: dict[str, BranchTree] = {}
        self.tags: dict[str, SnapshotTree] = {}
        self.snapshots: dict[SnapshotId, SnapshotTree] = {}
        self.fixed = reserve_fixed(context.space, self, is_root=True)
        self._context = context
        self._working = working
        self._controls = controls
        self._keeper = keeper
        self._changed_ns = dict.fromkeys((ROOT_SLOT, *_NAMES), now_ns)
        self._times = SnapshotTimes(context.repository)
        self._as_of = AsOfTree(context, lambda: self.refs, self._shown_snapshot, self.fixed.root_ino, now_ns)
        self._control = controls.for_root(self)
        self._dir_mode = context.ownership.dir_mode(writable=False)

    @property
    def label(self) -> str:
        """The root has no label."""
        return ""

    def path_of(self, ino: Ino) -> str:
        """Returns the path of an inode below the mountpoint."""
        slot = ino - self.fixed.start
        if slot == ROOT_SLOT:
            return "/"
        return f"/{_NAMES[slot]}" if slot in _NAMES else self._control.path_of(slot)

    @property
    def changes(self) -> TreeChanges:
        """Nothing changes the root: these refuse."""
        return TreeChanges(self.path_of)

    def trees(self) -> list[SnapshotTree]:
        """Returns all trees that were made."""
        return [*(branch.tree for branch in self.branches.values()), *self.tags.values(), *self.snapshots.values()]

    # Attributes.

    def _attr(self, slot: int) -> Attr:
        return self._context.ownership.attr(self.fixed.ino(slot), self._dir_mode, 2, 0, self._changed_ns[slot])

    def getattr(self, ino: Ino) -> Attr:
        """Returns attributes."""
        slot = ino - self.fixed.start
        return self._attr(slot) if slot in self._changed_ns else self._control.getattr(slot)

    def touch(self, names: Iterable[str], now_ns: int) -> list[Ino]:
        """Gives directories of the root a new time; returns their inodes."""
        slots = [_DIRECTORIES[name] for name in names]
        for slot in slots:
            self._changed_ns[slot] = now_ns
        return [self.fixed.ino(slot) for slot in slots]

    def directory_ino(self, name: str) -> Ino:
        """Returns the inode of `branches`, `tags` or `snapshots`."""
        return self.fixed.ino(_DIRECTORIES[name])

    # Names.

    def lookup(self, parent: Ino, name: str) -> Attr:
        """Finds a directory of the root, or the tree of a ref or snapshot."""
        slot = parent - self.fixed.start
        if slot == ROOT_SLOT:
            if name == CONTROL_NAME:
                return self._control.dir_attr()
            if name == AS_OF_NAME:
                return self._as_of.getattr(self._as_of.ino)
            return self._attr(_DIRECTORIES[name]) if name in _DIRECTORIES else ABSENT_FOREVER
        if slot == CONTROL_SLOT:
            return self._control.lookup(name)
        if slot not in _NAMES:
            raise not_a_directory(self.path_of(parent))
        tree = self._find_tree(slot, name)
        if tree is None:
            return ABSENT
        if isinstance(tree, SnapshotTree):
            tree.kernel_refs += 1
        return tree.root_attr()

    def find_tree(self, directory: str, text: str) -> SnapshotTree | BranchTree | None:
        """Returns the tree of a name in `branches`, `tags` or `snapshots`; None if there is none."""
        return self._find_tree(_DIRECTORIES[directory], text)

    def names(self, directory: str) -> list[str]:
        """Returns the names in `branches`, `tags` or `snapshots`, without making a tree."""
        if directory == "snapshots":
            return [str(snapshot_id) for snapshot_id in self._times.reachable(self.refs)]
        names = self.refs.branches if directory == "branches" else self.refs.tags
        return [text for name in names if (text := encode_ref(name)) is not None]

    def _find_tree(self, slot: int, text: str) -> SnapshotTree | BranchTree | None:
        if slot == _SNAPSHOTS:
            try:
                snapshot_id = SnapshotId.parse(text)
            except InvalidInputError:
                return None
            # One directory must not have two names, so the other spellings of an id lead nowhere.
            return self._snapshot_tree(snapshot_id) if str(snapshot_id) == text else None
        name = decode_ref(text)
        if name is None:
            return None
        kind = "branch" if slot == _BRANCHES else "tag"
        try:
            tip = self.refs.branch(name) if kind == "branch" else self.refs.tag(name)
        except NotFoundError:
            return None
        return self._branch_tree(name, tip) if kind == "branch" else self._tag_tree(name, tip)

    def _branch_tree(self, name: str, tip: SnapshotId) -> BranchTree:
        branch = self.branches.get(name)
        if branch is None:
            identity = TreeIdentity("branch", name, f"branches/{encode_ref(name)}", self.fixed.ino(_BRANCHES))
            flushed_at = self._times.require_one(tip) or 0
            branch = self.branches[name] = BranchTree(
                self._context, self._working, identity, tip, flushed_at, self._controls.for_branch
            )
        return branch

    def _tag_tree(self, name: str, snapshot_id: SnapshotId) -> SnapshotTree:
        tree = self.tags.get(name)
        if tree is None:
            identity = TreeIdentity("tag", name, f"tags/{encode_ref(name)}", self.fixed.ino(_TAGS))
            tree = self.tags[name] = self._make_tree(identity, snapshot_id, self._times.require_one(snapshot_id) or 0)
        return tree

    def _make_tree(self, identity: TreeIdentity, snapshot_id: SnapshotId, flushed_at: int) -> SnapshotTree:
        return immutable_tree(self._context, identity, snapshot_id, flushed_at, self._controls, self._keeper)

    def _snapshot_tree(self, snapshot_id: SnapshotId) -> SnapshotTree | None:
        tree = self.snapshots.get(snapshot_id)
        if tree is None:
            flushed_at = self._times.require_one(snapshot_id)
            if flushed_at is None:
                self._times.forget(snapshot_id)  # a commit may make it
                return None
            identity = TreeIdentity("snapshot", "", f"snapshots/{snapshot_id}", self.fixed.ino(_SNAPSHOTS))
            tree = self.snapshots[snapshot_id] = self._make_tree(identity, snapshot_id, flushed_at)
        return tree

    def _shown_snapshot(self, branch: str) -> SnapshotId | None:
        tree = self.branches.get(branch)
        return None if tree is None else tree.snapshot_id

    def forget_tree(self, tree: SnapshotTree) -> None:
        """Lets go of an immutable tree; it is made again at the next look."""
        if self.tags.get(tree.identity.name) is tree:
            del self.tags[tree.identity.name]
        if self.snapshots.get(tree.snapshot_id) is tree:
            del self.snapshots[tree.snapshot_id]

    # Listing.

    def opendir(self, ino: Ino) -> DirHandle:
        """Opens a directory."""
        slot = ino - self.fixed.start
        if slot != ROOT_SLOT and slot != CONTROL_SLOT and slot not in _NAMES:
            raise not_a_directory(self.path_of(ino))
        return Listing(ino, lambda: self._list(slot), self._note_entered)

    def _note_entered(self, run: EntryRun, first: int, end: int) -> None:
        for ino in run.inos[first:end]:
            found = self._context.space.find(ino)
            if found is not None and isinstance(found.tree, SnapshotTree):
                found.tree.kernel_refs += 1

    def _list(self, slot: int) -> Sequence[Section]:
        if slot == CONTROL_SLOT:
            return self._control.listing(self.fixed.root_ino)
        own = self._attr(slot)
        # The kernel's own numbers for the two dots are never taken for references, so they need no counting.
        entries = [(b".", own.ino, 0, own.mtime_ns), (b"..", self.fixed.root_ino, 0, own.mtime_ns)]
        if slot == ROOT_SLOT:
            for name, number in _DIRECTORIES.items():
                attr = self._attr(number)
                entries.append((name.encode(), attr.ino, 0, attr.mtime_ns))
            attr = self._as_of.getattr(self._as_of.ino)
            entries.append((AS_OF_NAME.encode(), attr.ino, 0, attr.mtime_ns))
        else:
            for text, tree in self._list_trees(slot):
                attr = tree.root_attr()
                entries.append((text.encode(), attr.ino, 0, attr.mtime_ns))
        is_writable = slot == _BRANCHES and self._working is not None
        template = own._replace(mode=self._context.ownership.dir_mode(writable=is_writable))
        return [NamedEntries(own, entries[:2]), NamedEntries(template, entries[2:])]

    def _list_trees(self, slot: int) -> list[tuple[str, SnapshotTree | BranchTree]]:
        found: list[tuple[str, SnapshotTree | BranchTree]] = []
        if slot == _SNAPSHOTS:
            for snapshot_id in self._times.reachable(self.refs):
                tree = self._snapshot_tree(snapshot_id)
                if tree is not None:
                    found.append((str(snapshot_id), tree))
            return found
        names = self.refs.branches if slot == _BRANCHES else self.refs.tags
        shown = [(text, name, tip) for name, tip in names.items() if (text := encode_ref(name)) is not None]
        self._times.require(tip for _, _, tip in shown)
        for text, name, tip in shown:
            found.append((text, self._branch_tree(name, tip) if slot == _BRANCHES else self._tag_tree(name, tip)))
        return found

    # Files.

    def readlink(self, ino: Ino) -> str:
        """Returns where a link in the control directory leads."""
        slot = ino - self.fixed.start
        if slot in self._changed_ns:
            raise TreeError("not a symbolic link", ino=ino)
        return self._control.readlink(slot)

    def open(self, ino: Ino, flags: int) -> FileHandle:
        """Opens a control file."""
        slot = ino - self.fixed.start
        if slot in self._changed_ns or slot == CONTROL_SLOT:
            raise IsADirectoryTreeError(f"{self.path_of(ino)} is a directory")
        return self._control.open(slot, flags)


def immutable_tree(
    context: TreeContext,
    identity: TreeIdentity,
    snapshot_id: SnapshotId,
    flushed_at: int,
    controls: ControlMaker,
    keeper: Keeper | None,
) -> SnapshotTree:
    """Makes the tree of a tag or snapshot; see `SnapshotTree`."""

    def make() -> ControlDir:
        return controls.for_snapshot(tree)

    tree = SnapshotTree(context, identity, snapshot_id, flushed_at, make, keeper=keeper)
    return tree
