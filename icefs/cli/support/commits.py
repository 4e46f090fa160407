"""Commits of mounted branches: the request, its errors, and the answer in words."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from icefs.cli.support.mounts import Mounted
from icefs.cli.support.options import say
from icefs.cli.support.progress import CommitProgress
from icefs.errors import ConflictError, InvalidInputError, RebaseFailedError
from icefs.vfs.commit.way_out import WayOut
from icefs.vfs.control.status_text import dropped_text
from icefs.words import node_name, plural, quoted, some

WAYS = ("ours", "theirs", "fail")
"""How a conflict is resolved: with these changes, with the others', or not at all."""

_SHOWN = 5
_LISTED = 20


def parse_metadata(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Reads KEY=VALUE; a value is JSON, or else text.

    Raises:
        InvalidInputError: something is no such pair.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not key or not equals:
            raise InvalidInputError(f"not KEY=VALUE: {pair!r}", hint="--meta author=ada")
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text
    return found


def run_commit(mounted: Mounted, **request: Any) -> dict[str, Any]:
    """Commits, showing progress where it takes long."""
    with explaining(mounted), CommitProgress(mounted) as progress:
        return mounted.ask("commit", on_progress=progress, **request)


@contextlib.contextmanager
def explaining(mounted: Mounted | None = None) -> Iterator[None]:
    """Lets the line of a conflict name the commits that came in between, the chunks, and what to do at which path.

    Args:
        mounted: The mounted branch; None for a working tree that is not mounted.

    Raises:
        ConflictError: there was one; it says all that.
    """
    try:
        yield
    except ConflictError as error:
        hint = error.hint
        if "discard" in error.facts and "sides" in error.facts:
            way = WayOut(tuple(error.facts["discard"]), tuple(error.facts["sides"]))
            hint = way.text_without_mount() if mounted is None else way.text(mounted.shown_tree)
        raise type(error)(explain(error), kind=error.kind, hint=hint, **error.facts) from error


def explain(error: ConflictError) -> str:
    """Says what a conflict is about, as far as there is room for it in one line."""
    commits = [f"{one['id']} ({one['message'].partition('\n')[0]})" for one in error.facts.get("commits") or ()]
    if isinstance(error, RebaseFailedError):
        conflicts = [conflict_text(one) for one in error.conflicts if isinstance(one, dict)]
        whose = next((text for text in commits if text.startswith(str(error.snapshot))), error.snapshot)
        if not conflicts:
            return error.own_message
        amended = error.facts.get("amended")
        said = f"; {amended['from']} was amended to {amended['to']}" if amended else ""
        return f"commit {whose} conflicts with these changes: {some(conflicts, _SHOWN, '; ')}{said}"
    return f"{error.own_message}; others have committed {some(commits, _SHOWN)}" if commits else error.own_message


def conflict_text(conflict: Mapping[str, Any]) -> str:
    """Says what conflicts, for a line."""
    text = f"{conflict['type']} at {quoted(node_name(conflict['path']))}" if conflict["path"] else str(conflict["type"])
    if not conflict["chunks"]:
        return text
    chunks = ["/".join(map(str, index)) or "scalar" for index in conflict["chunks"]]
    return f"{text}, {'chunk' if len(chunks) == 1 else 'chunks'} {some(chunks, _SHOWN)}"


def describe_commit(answer: dict[str, Any]) -> None:
    """Prints what was committed, and what was not."""
    nodes, chunks = answer["nodes"], answer["chunks"]
    click.echo(f"committed {answer['snapshot']}: {plural(nodes, 'node')}, {plural(chunks, 'chunk')}")
    for one in answer.get("dropped_chunks", ()):
        say(dropped_text(one))
    for note in answer.get("notes", ()):
        say(f"note: {quoted(note)}")
    for line in left_out_lines(answer):
        say(line)


def left_out_lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yields a line for each path that a commit left out, as far as there is room."""
    kept = {True: " (the commit keeps what it was)", False: ""}
    lines = {
        "open": [f"left out: {quoted(one['path'])} {one['reason']}" for one in answer.get("open", ())],
        "invalid": [
            f"left out: {quoted(one['path'])} {one['reason']}{kept[one['keeps']]}" for one in answer.get("invalid", ())
        ],
        "untracked": [f"untracked, not committed: {quoted(name)}" for name in answer.get("untracked", ())],
    }
    for kind, texts in lines.items():
        yield from texts[:_LISTED]
        count = answer.get("left_out", {}).get(kind, len(texts))
        if count > _LISTED:
            words = {"open": "left out, open for writing", "invalid": "left out, invalid"}.get(kind, kind)
            yield f"and {count - _LISTED} more ({words}): 'icefs status' lists them"
