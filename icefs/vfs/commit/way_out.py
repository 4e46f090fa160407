"""What to do about the conflicts of a rebase in a mounted branch, in words; the command line says it, too."""

from dataclasses import dataclass
from typing import Final

from icefs.words import command, some

_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class WayOut:
    """How conflicts can be got rid of.

    Attributes:
        discard: Paths in the branch's tree to discard, in this order; the empty path is the whole tree.
        sides: The ways to rebase that settle the conflicts that have sides; none where there are no such conflicts.
    """

    discard: tuple[str, ...] = ()
    sides: tuple[str, ...] = ()

    def text(self, place: str = "") -> str:
        """Returns the commands to type; `place` is the root of the branch's tree, as the user gave it."""

        def rebase(side: str | None = None) -> str:
            words = "rebase" if side is None else f"rebase --{side}"
            return f"'{command(words, *([place] if place else []))}'"

        sides = " or ".join(rebase(side) for side in self.sides)
        if not self.discard:
            return f"choose a side with {sides}" if sides else f"run {rebase()} again"
        commands = [f"'{_discard(path, place)}'" for path in self.discard]
        then = sides or rebase()
        return f"save a copy of the change, run {some(commands, _SHOWN)}, then {then}, and make the change again"

    def text_without_mount(self) -> str:
        """Returns what to do where the tree is not mounted: nothing can be discarded there but all of it."""
        if self.discard:
            return f"mount the branch again where it was, and there {self.text()}"
        return f"choose a side with {' or '.join(f'--rebase {side}' for side in self.sides)}"


def _discard(path: str, place: str) -> str:
    if not path:
        return command("discard --all", *([place] if place else []))
    return command("discard", f"{place.rstrip('/')}/{path}" if place else path)
