"""`status` and `diff` for people, made of their JSON: lines, each with the role that says how it is painted.

Imports nothing heavy: the command line makes the same text as the daemon, in colour.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from icefs.words import node_name, plural, quoted, visible

type Line = tuple[str, str]
"""A role (`plain`, `notice`, `staged`, `dropped`, `untracked` or `invalid`) and a text without a newline at its end."""

SHOWN: Final = 50
"""How many paths, or chunks of one array, are listed before "and N more"."""

OPEN: Final = "is open for writing"
"""The reason to leave out a file that a program has open and has changed."""

_MARKS: Final = {"new": "+", "rewritten": "~", "deleted": "-"}


def to_text(lines: Iterable[Line]) -> str:
    """Joins lines without colours."""
    return "".join(f"{visible(text)}\n" for _, text in lines)


# Status.


def status_lines(status: Mapping[str, Any]) -> Iterator[Line]:
    """Yields a tree's `status`."""
    yield from _where(status)
    if not status["writable"]:
        yield from _notes(status)
        yield "plain", "Nothing staged; this tree is read-only"
        return
    staged, untracked, invalid = status["staged"], status["untracked"], status["invalid"]
    if any(staged.values()):
        yield "plain", "Staged for the next commit:"
        yield from _staged(staged)
    dropped = staged.get("dropped_chunks", ())  # a daemon that was started before an update does not tell
    if dropped:
        yield "plain", "Committed chunks that the edited zarr.json leaves no place for; the commit drops them:"
        yield from _some("dropped", [f"  {dropped_text(one)}" for one in dropped])
    if invalid:
        yield "plain", "Cannot be committed; correct or remove them:"
        yield from _some("invalid", [f"  {_about(one)}" for one in invalid])
    refused = status.get("refused", ())
    if refused:
        yield "plain", "Refused when they were written, the last ones:"
        yield from _some("invalid", [f"  {_about(one)}" for one in refused])
    waiting = status.get("open", ())  # a daemon that was started before an update does not tell
    if waiting:
        yield "plain", "Open for writing, so that a commit leaves it out (--include-open takes it as it is):"
        yield from _some("notice", [f"  {open_text(one)}" for one in waiting])
    if untracked:
        yield "plain", "Untracked, not part of any commit:"
        lost = frozenset(status.get("lost", ()))
        rows = [f"  {quoted(path)}{' (its bytes were lost)' * (path in lost)}" for path in untracked]
        yield from _some("untracked", rows)
    yield from _notes(status)
    if not any(staged.values()):
        yield "plain", "Nothing to commit"


def _notes(status: Mapping[str, Any]) -> Iterator[Line]:
    for note in status.get("notes", ()):  # a daemon that was started before an update does not tell
        yield "notice", f"Note: {note}"


def _where(status: Mapping[str, Any]) -> Iterator[Line]:
    kind, name = status["kind"], status["name"]
    yield "plain", f"On {kind} {quoted(name)}" if name else f"On {kind}"
    message = (status["message"] or "").partition("\n")[0]
    about = ", ".join(text for text in (status["flushed_at"], message) if text)
    yield "plain", f"Base snapshot {status['snapshot']}" + (f" ({about})" if about else "")
    for line in damage_texts(status.get("damage")):
        yield "notice", line
    if status.get("problem"):
        yield "notice", f"Not following the tip: {status['problem']}"
    elif status.get("tip_moved"):
        ahead = status.get("tip_ahead")
        by = "" if ahead is None else f" by {plural(ahead, 'commit')}"
        hint = "; 'icefs rebase' puts the changes on top of it" if status["writable"] else ""
        yield "notice", f"The tip has moved{by} to {status['tip']}{hint}"
    if status.get("pending_commit"):
        yield "notice", f"It is not known yet whether the commit {status['pending_commit']} was made; asked again soon"
    progress = status.get("uploading")
    if progress is not None:
        yield "notice", f"A commit is under way: {progress_text(progress)}"
    background = status.get("background")
    if background is not None and (background["pending"] or background["error"]):
        yield (
            "plain",
            f"Waiting for upload: {plural(background['pending'], 'chunk')}, " + size_text(background["pending_bytes"]),
        )
        if background["error"]:
            yield "notice", f"The last upload failed: {background['error']}"


def damage_texts(damage: Mapping[str, Any] | None) -> Iterator[str]:
    """Yields the lines about a damaged working tree: the damage, its paths, the next step."""
    for what, todo in damage_lines(damage):
        yield f"Damage: {what}; {todo}" if todo else f"Damage: {what}"


def damage_lines(damage: Mapping[str, Any] | None) -> Iterator[tuple[str, str | None]]:
    """Yields what happened to which paths, and what to do about it, if anything."""
    if damage is None:
        return
    yield from ((note, None) for note in damage["notes"])
    for key, what, todo in (
        ("lost", "lost its bytes", "write it again, or remove it"),
        ("cut", "has not the bytes that were written", "look at it, and write it again or remove it"),
        ("changed", "was changed after it was last closed", "look at it before you commit"),
    ):
        paths = damage[key]
        yield from ((f"{quoted(path)} {what}", todo) for path in paths[:SHOWN])
        if len(paths) > SHOWN:
            yield f"… and {plural(len(paths) - SHOWN, 'more path')} of this kind", "see status.json"
    if damage["aside_files"]:
        kept = f"{plural(damage['aside_files'], 'file')} ({size_text(damage['aside_bytes'])})"
        yield f"{kept} of unknown names kept in {damage['aside']}", "remove that directory if you do not need it"


def progress_text(progress: Mapping[str, Any]) -> str:
    """Says how far an upload is."""
    files, total = progress["files"], progress["total_files"]
    if not total:
        return "looking at what is staged"
    sizes = f"{size_text(progress['bytes'])} of {size_text(progress['total_bytes'])}"
    return f"{files} of {plural(total, 'chunk')}, {sizes} stored"


def _staged(staged: Mapping[str, Any]) -> Iterator[Line]:
    for key, word in (("new_nodes", "new"), ("updated_nodes", "updated"), ("deleted_nodes", "deleted")):
        yield from _some("staged", [f"  {word:9}{_node(path)}" for path in staged[key]])
    yield from _some("staged", [f"  {_renamed(one)}" for one in staged["renamed_nodes"]])
    yield from _some(
        "staged", [f"  chunks   {_node(path)}: {_counts(counts)}" for path, counts in staged["chunks"].items()]
    )


def _renamed(one: Mapping[str, Any]) -> str:
    return f"renamed  {_node(one['from'])} -> {_node(one['to'])}"


def _node(path: str) -> str:
    return quoted(node_name(path))


def _about(one: Mapping[str, Any]) -> str:
    return f"{quoted(one['path'])}: {one['reason']}"


def _counts(counts: Mapping[str, int]) -> str:
    rewritten, deleted = counts["rewritten"], counts["deleted"]
    new = counts["written"] - rewritten
    parts = [f"{n} {word}" for n, word in ((new, "new"), (rewritten, "rewritten"), (deleted, "deleted")) if n]
    return ", ".join(parts)


def dropped_text(dropped: Mapping[str, Any]) -> str:
    """Says which chunks go because of what a zarr.json says."""
    return f"dropped  {_node(dropped['path'])}: {plural(dropped['count'], 'chunk')}; {dropped['reason']}"


def open_text(one: Mapping[str, str]) -> str:
    """Names a file that a commit leaves out because of a writer, and the reason where that is another file."""
    return quoted(one["path"]) if one["reason"] == OPEN else f"{quoted(one['path'])}: {one['reason']}"


def _some(role: str, texts: Sequence[str]) -> Iterator[Line]:
    for text in texts[:SHOWN]:
        yield role, text
    if len(texts) > SHOWN:
        yield role, f"  … and {len(texts) - SHOWN} more"


# Diff.


def diff_lines(diff: Mapping[str, Any], shown: int = SHOWN) -> Iterator[Line]:
    """Yields a working tree's `diff`: nodes and chunks with their sizes before and after."""
    for one in diff["renamed_nodes"]:
        yield "staged", _renamed(one)
    for path in diff["deleted_nodes"]:
        yield "staged", f"deleted  {_node(path)}"
    paths = sorted(diff["metadata"].keys() | diff["chunks"].keys())
    new = set(diff["new_nodes"])
    for path in paths:
        sizes = diff["metadata"].get(path)
        word = "new" if path in new else "changed"
        about = "" if sizes is None else f"  zarr.json {_sizes(sizes)}"
        yield "staged", f"{word:9}{_node(path)}{about}"
        if path in diff["chunks"]:
            yield from _chunk_lines(diff["chunks"][path], shown)
    for one in diff.get("dropped_chunks", ()):
        yield "dropped", dropped_text(one)
        yield from _row_lines(one["chunks"], shown, "dropped")
    waiting = diff.get("open", ())
    for one in waiting[:shown]:
        yield "notice", f"open  {open_text(one)}"
    if len(waiting) > shown:
        yield "plain", f"… and {len(waiting) - shown} more that are open"
    for path in diff["untracked"][:shown]:
        yield "untracked", f"untracked  {quoted(path)}"
    for one in diff["invalid"][:shown]:
        yield "invalid", f"invalid  {_about(one)}"
    for key in ("untracked", "invalid"):
        if len(diff[key]) > shown:
            yield "plain", f"… and {len(diff[key]) - shown} more {key}"


def _chunk_lines(changes: Mapping[str, Sequence[Mapping[str, Any]]], shown: int) -> Iterator[Line]:
    return _row_lines([*changes["written"], *changes["deleted"]], shown, "staged")


def _row_lines(rows: Sequence[Mapping[str, Any]], shown: int, role: str) -> Iterator[Line]:
    for row in islice(rows, shown):
        mark = _MARKS[_kind(row)]
        yield role, f"  {mark} {'/'.join(map(str, row['index'])) or 'scalar'}  {_sizes(row)}"
    rest = rows[shown:]
    if rest:
        kinds = [_kind(row) for row in rest]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in _MARKS if kind in kinds)
        yield role, f"  … and {len(rest)} more: {counts}"


def _kind(row: Mapping[str, Any]) -> str:
    if row["new_bytes"] is None:
        return "deleted"
    return "new" if row["old_bytes"] is None else "rewritten"


def _sizes(row: Mapping[str, Any]) -> str:
    old, new = row["old_bytes"], row["new_bytes"]
    if old is None or new is None:
        known = new if old is None else old
        return "" if known is None else size_text(known)
    return f"{size_text(old)} -> {size_text(new)}"


# Words.


def size_text(size_bytes: int) -> str:
    """Writes a size for people."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size_bytes} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
