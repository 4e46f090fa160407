"""A change of base as two values: the plan, made before the tree is locked, and the outcome."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from icefs.errors import SessionStateError
from icefs.inode import Entry, Invalidations
from icefs.paths import TreePath
from icefs.worktree.freeze.frozen_index import FrozenIndex
from icefs.worktree.model.retained_regions import Region, RetainedAttr


class TreeChangedError(SessionStateError):
    """The working tree is not what it was compared as; compare it again."""

    default_kind = "tree-changed"


@dataclass(frozen=True, slots=True)
class RenamedChunks:
    """The inode numbers and times of renamed directories of chunks, which the new base would number otherwise.

    Attributes:
        regions: Whole directories, by new path.
        names: Single files and directories, by new path.
    """

    regions: Mapping[TreePath, Region] = field(default_factory=dict)
    names: Mapping[TreePath, RetainedAttr] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BasePlan:
    """A change of base, as far as the working tree cannot know it by itself.

    Attributes:
        base: The snapshot to stand on.
        committed: The frozen tree that the snapshot was made of; None where others made the snapshot.
        yielded: The paths at which the new base is to be seen, also where the tree has changed or removed them.
        changed: The paths at and below which others changed something: no inode number is retained there. A slash at
            the end leaves out the path itself.
        cut_off: The names below which chunks lay that the array's grid no longer reaches.
        renamed: What the commit renamed.
        revision: The revision that the tree must still have; None for any.
    """

    base: str
    committed: FrozenIndex | None = None
    yielded: frozenset[TreePath] = frozenset()
    changed: Sequence[TreePath] = ()
    cut_off: Sequence[TreePath] = ()
    renamed: RenamedChunks = field(default_factory=RenamedChunks)
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class BaseOutcome:
    """What a change of base did.

    Attributes:
        changed: What the kernel has to ask for again.
        renamed: The entries of the directories that were renamed. Files below them have the numbers that the new base
            gives them, unless `BasePlan.renamed` has others.
        kept_back: Paths that the new base does not have as they were frozen, although it was made of them; they stay in
            the tree as changes.
        remaining: How many files, directories and whiteouts the working tree still has.
    """

    changed: Invalidations
    renamed: Sequence[Entry]
    kept_back: Sequence[TreePath]
    remaining: int
