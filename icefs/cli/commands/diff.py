"""`icefs diff`: what changed between two versions of a repository, or is not committed yet in a mounted branch."""

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from icefs.cli.support.mounts import check_tree, require_mount
from icefs.cli.support.options import json_option, print_json, print_painted, say
from icefs.errors import InvalidInputError
from icefs.vfs.control.status_text import SHOWN, diff_lines
from icefs.words import node_key, node_name, plural, quoted

if TYPE_CHECKING:
    from icefs.engine.history.diff import Diff

_DOTS: Final = "..."


@click.command()
@click.argument("where", metavar="[PATH|REPO] [REF1 REF2|REF1...REF2]", nargs=-1)
@click.option(
    "--chunks",
    "with_chunks",
    is_flag=True,
    help="List every chunk, also where there are many.",
)
@click.option("--map/--no-map", "with_map", default=None, help="Draw where chunks changed; by default on a terminal.")
@json_option
def diff(where: tuple[str, ...], with_chunks: bool, with_map: bool | None, as_json: bool) -> None:
    """Show what changed between two versions, or what is not committed yet.

    Without versions: what differs in a mounted branch from the snapshot that it stands on, with the sizes of
    each chunk before and after; + is a new chunk, ~ one that was rewritten, - a deleted one.

    From REF1, which is older, to REF2, which is later in the same history (of two branches, the error names the newest
    snapshot that both have, to compare from): groups and arrays that were added (A),
    deleted (D) or moved (R), whose metadata was written (M), and chunks that were set or deleted (C).

    REF1...REF2 is what REF2 has that REF1 has not: from the newest snapshot that both have, merges counted in, to REF2.
    """
    if len(where) > 3:
        raise InvalidInputError(f"too many arguments: {where[3]}", hint="give a path, or two versions")
    shows_map = sys.stdout.isatty() if with_map is None else with_map
    if where and len(where) < 3 and _DOTS in where[-1] and not os.path.lexists(where[-1]):
        old, _, new = where[-1].partition(_DOTS)
        place = where[0] if len(where) == 2 else None
        _show_between(place, old, new, with_chunks=with_chunks, with_map=shows_map, as_json=as_json, is_common=True)
    elif len(where) < 2:
        path = where[0] if where else "."
        _show_uncommitted(path, with_chunks=with_chunks, with_map=shows_map, as_json=as_json)
    else:
        *repo, old, new = where
        _show_between(repo[0] if repo else None, old, new, with_chunks=with_chunks, with_map=shows_map, as_json=as_json)


def _show_uncommitted(path: str, *, with_chunks: bool, with_map: bool, as_json: bool) -> None:
    mounted = require_mount(path)
    check_tree(mounted, path)
    facts = mounted.read_json("diff.json")
    if as_json:
        print_json(facts)
    else:
        print_painted(diff_lines(facts, sys.maxsize if with_chunks else SHOWN))
        if with_map:
            from icefs.cli.support.diff_map import staged_map_lines  # numpy, which only a picture needs

            for line in staged_map_lines(mounted.tree, facts):
                click.echo(line)


def _show_between(
    repo: str | None, old: str, new: str, *, with_chunks: bool, with_map: bool, as_json: bool, is_common: bool = False
) -> None:
    from icefs.cli.support.repos import locate, open_repository  # the engine, which a diff of a mount does without
    from icefs.engine.history.diff import Diff, diff_snapshots
    from icefs.engine.history.versus import changes_since_common

    repository = open_repository(locate(repo).location)
    old_id, new_id = repository.resolve_ref(old), repository.resolve_ref(new)
    if is_common:
        old_id, changes = changes_since_common(repository.context, old_id, new_id)
    else:
        changes = Diff.empty() if old_id == new_id else diff_snapshots(repository.context, old_id, new_id)
    if as_json:
        print_json({"from": str(old_id), "to": str(new_id), **describe(changes)})
        return
    for line in summarise(changes, with_chunks=with_chunks):
        say(line)
    if with_map:
        from icefs.cli.support.diff_map import map_lines

        for line in map_lines(repository.session_at(old_id), repository.session_at(new_id), changes):
            click.echo(line)


def describe(changes: "Diff") -> dict[str, Any]:
    """Describes a diff for programs; paths have no leading slash."""
    named = ("new_groups", "new_arrays", "deleted_groups", "deleted_arrays", "updated_groups", "updated_arrays")
    return {
        **{name: sorted(map(node_key, getattr(changes, name))) for name in named},
        "updated_chunks": {
            node_key(path): [list(index) for index in indices] for path, indices in changes.updated_chunks.items()
        },
        "moved_nodes": [
            {"from": node_key(move.from_path), "to": node_key(move.to_path)} for move in changes.moved_nodes
        ],
    }


def summarise(changes: "Diff", *, with_chunks: bool) -> Iterator[str]:
    """Yields the lines for people: a letter and a path, sorted by path; moves come first, as they happened."""
    for move in reversed(changes.moved_nodes):
        yield f"R  {_shown(move.from_path)} -> {_shown(move.to_path)}"
    lines: list[tuple[str, str, str]] = []
    for letter, groups, arrays in (
        ("A", changes.new_groups, changes.new_arrays),
        ("D", changes.deleted_groups, changes.deleted_arrays),
        ("M", changes.updated_groups, changes.updated_arrays),
    ):
        lines += [(path, letter, f"{quoted(node_name(path).rstrip('/') + '/')}") for path in groups]
        lines += [(path, letter, _shown(path)) for path in arrays]
    for path, indices in changes.updated_chunks.items():
        lines.append((path, "C", f"{_shown(path)}: {plural(len(indices), 'chunk')}"))
        if with_chunks:
            lines += [(path, "C", f"  {'/'.join(map(str, index)) or 'scalar'}") for index in indices]
    # Stable: of one path, the letters stay in the order above and chunks in theirs.
    for _, letter, text in sorted(lines, key=lambda line: line[0]):
        yield f"{letter}  {text}"


def _shown(path: str) -> str:
    return quoted(node_name(path))
