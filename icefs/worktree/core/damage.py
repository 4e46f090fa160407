"""What of a working tree is damaged, as far as opening it could tell: what is said of it until it is healed."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from icefs.paths import TreePath
from icefs.worktree.core.tree_core import TreeCore
from icefs.worktree.model.nodes import CHANGED, CUT, LOST
from icefs.worktree.spool.state import LOST_NAME, aside_usage


@dataclass(frozen=True, slots=True)
class Damage:
    """What is damaged.

    Attributes:
        notes: What was damaged and made again, in sentences.
        lost: The files of which no byte is left.
        cut: The files of which bytes are missing, or that have too many; no commit takes them.
        changed: The files that were changed after their last close: by a program that was writing when the process
            died, or by damage.
        aside_files: How many files are kept of which nobody knows where they belong.
        aside_bytes: Their bytes.
        aside: Where they are.
    """

    notes: tuple[str, ...]
    lost: tuple[TreePath, ...]
    cut: tuple[TreePath, ...]
    changed: tuple[TreePath, ...]
    aside_files: int
    aside_bytes: int
    aside: str

    def __bool__(self) -> bool:
        return bool(self.notes or self.lost or self.cut or self.changed or self.aside_files)

    def to_json(self) -> dict[str, Any]:
        """Describes it in JSON."""
        return asdict(self)


class DamageReport:
    """Reports the damage that opening a tree found, as long as it is not healed.

    Concurrency: may be called from any thread.
    """

    def __init__(self, directory: Path, core: TreeCore) -> None:
        """Takes what opening the tree found."""
        self._aside = directory / LOST_NAME
        self._core = core

    def now(self) -> Damage:
        """Returns what is damaged now."""
        core = self._core
        found: dict[int, list[TreePath]] = {LOST: [], CUT: [], CHANGED: []}
        with core.lock:
            for node in list(core.doubtful):
                flag = next((flag for flag in found if node.flags & flag), None)
                if flag is None or node.parent is None:
                    del core.doubtful[node]
                else:
                    found[flag].append(core.path_of(node))
            notes = core.journal.notes()
        files, size = aside_usage(self._aside.parent)
        lost, cut, changed = (tuple(sorted(found[flag])) for flag in (LOST, CUT, CHANGED))
        return Damage(tuple(notes), lost, cut, changed, files, size, str(self._aside))
