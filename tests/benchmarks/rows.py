"""Lines of the table, and how two sides are compared."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was done.
        ours: Median seconds (or megabytes) of icefs.
        theirs: The same of what it is compared with, or None.
        ratio: How many times faster icefs is (below 1: slower), or None where there is no other side.
        target: What the project aims at, in words.
        met: Whether it was reached in this run.
    """

    what: str
    ours: float
    theirs: float | None
    ratio: float | None
    target: str
    met: bool


def compare(what: str, ours: Callable[[], float], theirs: Callable[[], float], target: float, rounds: int) -> Row:
    """Runs both sides in turn and takes medians; `target` is the least acceptable ratio theirs/ours."""
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    ratio = statistics.median(b / a for a, b in pairs)
    return Row(
        what,
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        ratio,
        f"≥ {target:g}×",
        ratio >= target,
    )


def limit(what: str, measure: Callable[[], float], most: float, unit: str, rounds: int) -> Row:
    """Measures one figure that has an upper bound."""
    value = statistics.median(measure() for _ in range(rounds))
    return Row(what, value, None, None, f"≤ {most:g} {unit}", value <= most)
