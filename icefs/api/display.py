"""The text of the API's values: the facts that the official library prints, in its order, one a line."""

from dataclasses import fields
from typing import Any

DIFF_TITLES = {
    "new_groups": "Groups created",
    "new_arrays": "Arrays created",
    "updated_groups": "Group definitions updated",
    "updated_arrays": "Array definitions updated",
    "deleted_groups": "Groups deleted",
    "deleted_arrays": "Arrays deleted",
}
"""The sets of paths in a diff, in the order in which they are printed, and their headings."""

_SHOWN_CHUNKS = 10  # of each array; the official library prints as many


def fields_text(value: Any, **written: str) -> str:
    """Returns the name of a dataclass's type and each of its fields on a line; `written` has other texts for some."""
    lines = [f"{each.name}: {written.get(each.name, getattr(value, each.name))}\n" for each in fields(value)]
    return f"<icefs.{type(value).__name__}>\n" + "".join(lines)


def diff_text(diff: Any) -> str:
    """Returns what a `Diff` created, updated, deleted and moved, with the first ten chunks of each array."""
    parts = [
        f"{title}:\n" + "".join(f"    {path}\n" for path in sorted(getattr(diff, name)))
        for name, title in DIFF_TITLES.items()
        if getattr(diff, name)
    ]
    if diff.updated_chunks:
        chunks = "".join(_chunks_text(path, indices) for path, indices in sorted(diff.updated_chunks.items()))
        parts.append(f"Chunks updated:\n{chunks}")
    if diff.moved_nodes:
        parts.append("Nodes moved/renamed:\n" + "".join(f"    {old} -> {new}\n" for old, new in diff.moved_nodes))
    return "\n".join(parts)


def _chunks_text(path: str, indices: list[list[int]]) -> str:
    lines = "".join(f"        {index}\n" for index in indices[:_SHOWN_CHUNKS])
    more = len(indices) - _SHOWN_CHUNKS
    return f"    {path}:\n{lines}" + (f"        ... {more} more\n" if more > 0 else "")
