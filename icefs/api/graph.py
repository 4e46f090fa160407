"""A drawing of the history, under its official name."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Final

from icefs.engine.history.graph import Mark, Row
from icefs.engine.history.origins import parents_of
from icefs.format.ids import SnapshotId

_COLOURS: Final = ("#3a7d44", "#1f6fb2", "#9b4f96", "#008b8b", "#b22222", "#b8860b")
_GREY: Final = "#666666"
_LANE_PX: Final = 20
_ROW_PX: Final = 28
_SYMBOLS: Final = {Mark.NOTHING: " ", Mark.LINE: "│", Mark.SNAPSHOT: "●"}
_ID_LENGTH: Final = 8


class AncestryGraph:
    """A drawing of the history: text for `print`, a picture in notebooks.

    It shows the history at the time of the call of `Repository.ancestry_graph`.
    """

    def __init__(self, rows: Iterator[Row], refs: Mapping[SnapshotId, list[str]], *, plain: bool) -> None:
        """Takes the rows, the names of the refs at each snapshot, and whether to do without colours."""
        self._rows = list(rows)
        self._refs = refs
        self._plain = plain

    def __str__(self) -> str:
        return "".join(f"{self._lanes(row)}{self._label(row)}\n" for row in self._rows)

    __repr__ = __str__

    def _repr_svg_(self) -> str:
        """Draws the history for notebooks."""
        rows = [row for row in self._rows if row.info is not None]
        at = {row.info.id: (row.marks.index(Mark.SNAPSHOT), number) for number, row in enumerate(rows) if row.info}
        left = _LANE_PX * (1 + max((len(row.marks) for row in rows), default=0))
        labels = [self._label(row, plain=True) for row in rows]
        width = left + 9 * max(map(len, labels), default=0)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_ROW_PX * len(rows)}" '
            'style="font-family: monospace; font-size: 13px;">'
        ]
        for row in rows:
            assert row.info is not None  # the others were left out
            lane, number = at[row.info.id]
            x, y = _centre(lane, number)
            colour = "currentColor" if self._plain else _COLOURS[lane % len(_COLOURS)]
            for parent in filter(None, map(at.get, parents_of(row.info))):
                x2, y2 = _centre(*parent)
                # A history that was merged has a lane of its own, which leads down from the merge's row.
                turn = f"{x2},{y + _ROW_PX / 2}" if parent[0] > lane else f"{x},{y2 - _ROW_PX / 2}"
                points = f"{x},{y} {turn} {x2},{y2}"
                parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" />')
            parts.append(f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}" />')
            parts.append(f'<text x="{left}" y="{y + 4}" fill="currentColor">{escape(labels[number])}</text>')
        return "\n".join([*parts, "</svg>"])

    def _lanes(self, row: Row) -> str:
        cells = [self._coloured(_SYMBOLS[mark], _COLOURS[lane % len(_COLOURS)]) for lane, mark in enumerate(row.marks)]
        if row.forks is not None:
            begins = self._coloured("─╮", _COLOURS[row.forks % len(_COLOURS)])
            return " ".join([" ".join(cells[: row.forks]) + begins, *cells[row.forks + 1 :]])
        if row.joins is None:
            return " ".join(cells)
        colour = _COLOURS[row.joins % len(_COLOURS)]
        before = self._coloured("─", colour).join(cells[row.into : row.joins])
        return " ".join([*cells[: row.into], before + self._coloured("─╯", colour), *cells[row.joins + 1 :]])

    def _label(self, row: Row, *, plain: bool = False) -> str:
        if row.info is None:
            return ""
        names = self._refs.get(row.info.id)
        refs = f" ({', '.join(names)})" if names else ""
        short = str(row.info.id)[:_ID_LENGTH]
        # What is in a repository must not steer the terminal.
        refs, message = (
            "".join(char if char.isprintable() else "\ufffd" for char in text)
            for text in (refs, row.info.message.partition("\n")[0])
        )
        return f" {short if plain else self._coloured(short, _GREY)}{refs} {message}"

    def _coloured(self, text: str, colour: str) -> str:
        if self._plain or not text.strip():
            return text
        red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
        return f"\033[38;2;{red};{green};{blue}m{text}\033[0m"


def _centre(lane: int, number: int) -> tuple[float, float]:
    return _LANE_PX * (lane + 0.75), _ROW_PX * (number + 0.5)
