"""Where a frozen tree differs from its base, by directory; the base itself is not asked.

A directory of the base that was renamed is one `RenamedDirectory`, however much is below it: what lies there is worked
out from the base's columns (`stage.renames`), not by listing it.
"""

from dataclasses import dataclass, field

from icefs.paths import ROOT_DIRECTORY, NodePath, TreePath, child, node_path
from icefs.worktree.freeze.frozen import FrozenDir, FrozenFile
from icefs.worktree.model.nodes import WHITEOUT
from icefs.zarr.keys import METADATA_NAME


@dataclass(slots=True)
class RenamedDirectory:
    """A directory of the base that stands elsewhere, with everything below it.

    Attributes:
        base_path: Where the base has it.
        path: Where it is now.
        excluded: Base paths at and below which it shows something else, or nothing.
    """

    base_path: TreePath
    path: TreePath
    excluded: list[TreePath] = field(default_factory=list)


@dataclass(slots=True)
class Differences:
    """What is not as in the base.

    Attributes:
        metadata: The `zarr.json` files that were written or renamed, by node path.
        files: The other such files, by directory, with their names.
        hidden: The names at which the base's own entry is not to be seen any more, by directory.
        renamed: The directories of the base that were renamed.
    """

    metadata: dict[NodePath, FrozenFile] = field(default_factory=dict)
    files: dict[TreePath, list[tuple[str, FrozenFile]]] = field(default_factory=dict)
    hidden: dict[TreePath, list[str]] = field(default_factory=dict)
    renamed: list[RenamedDirectory] = field(default_factory=list)


def differences(root: FrozenDir) -> Differences:
    """Goes through the upper entries of a frozen tree."""
    found = Differences()
    waiting: list[tuple[FrozenDir, RenamedDirectory | None]] = [(root, None)]
    while waiting:
        directory, renamed = waiting.pop()
        is_in_place = renamed is None and (directory.is_natural or not directory.path)
        hidden: list[str] = []
        files: list[tuple[str, FrozenFile]] = []
        for name, entry in directory.entries.items():
            if isinstance(entry, FrozenFile):
                if entry.is_natural:
                    continue
                if name == METADATA_NAME:
                    found.metadata[node_path(directory.path)] = entry
                else:
                    files.append((name, entry))
                if renamed is not None:
                    renamed.excluded.append(child(directory.base_path or ROOT_DIRECTORY, name))
            elif entry is not WHITEOUT and entry.is_natural:
                waiting.append((entry, renamed))
            else:
                if is_in_place:
                    hidden.append(name)
                elif renamed is not None:
                    renamed.excluded.append(child(directory.base_path or ROOT_DIRECTORY, name))
                if entry is not WHITEOUT:
                    waiting.append((entry, _renamed_directory(entry, found)))
        if hidden:
            found.hidden[directory.path] = hidden
        if files:
            found.files[directory.path] = files
    return found


def _renamed_directory(directory: FrozenDir, found: Differences) -> RenamedDirectory | None:
    if directory.base_path is None:
        return None
    renamed = RenamedDirectory(directory.base_path, directory.path)
    found.renamed.append(renamed)
    return renamed
