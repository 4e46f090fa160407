"""`icefs log`: the history of a branch, tag or snapshot."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import click

from icefs.cli.options import human_time, iso, json_option, print_json, printable
from icefs.cli.repos import DEFAULT_BRANCH, locate, open_repository
from icefs.clock import to_datetime
from icefs.engine.refs import Refs
from icefs.format.ids import SnapshotId
from icefs.format.repo_info import SnapshotInfo


@click.command()
@click.argument("repo", metavar="[PATH|REPO]", required=False)
@click.argument("ref", required=False)
@click.option("-n", "--max-count", type=click.IntRange(min=0), metavar="N", help="Show at most N snapshots.")
@click.option("--oneline", is_flag=True, help="One line for each snapshot.")
@json_option
def log(repo: str | None, ref: str | None, max_count: int | None, oneline: bool, as_json: bool) -> None:
    """Show the history of a branch, tag or snapshot.

    Newest first. REF defaults to the branch main, and in a mounted tree to that tree's version.
    """
    source = locate(repo, ref)
    repository = open_repository(source.location)
    history = islice(repository.log(source.ref if source.ref is not None else DEFAULT_BRANCH), max_count)
    names = Names.of(repository.refs(refresh=False))
    if as_json:
        print_json([describe_snapshot(info, names) for info in history])
        return
    for number, info in enumerate(history):
        if oneline:
            click.echo(f"{_headline(info, names)} {printable(info.message.partition('\n')[0])}")
        else:
            click.echo(("\n" if number else "") + _entry(info, names))


@dataclass(frozen=True, slots=True)
class Names:
    """Which branches and tags are at each snapshot, sorted."""

    branches: Mapping[SnapshotId, list[str]]
    tags: Mapping[SnapshotId, list[str]]

    @classmethod
    def of(cls, refs: Refs) -> "Names":
        """Turns refs around."""
        return cls(_turned(refs.branches), _turned(refs.tags))


def _turned(refs: Mapping[str, SnapshotId]) -> dict[SnapshotId, list[str]]:
    names: dict[SnapshotId, list[str]] = {}
    for name in sorted(refs):
        names.setdefault(refs[name], []).append(name)
    return names


def describe_snapshot(info: SnapshotInfo, names: Names) -> dict[str, Any]:
    """Describes a snapshot for programs."""
    return {
        "id": str(info.id),
        "parent_id": None if info.parent_id is None else str(info.parent_id),
        "written_at": iso(to_datetime(info.flushed_at)),
        "message": info.message,
        "metadata": dict(info.metadata),
        "branches": names.branches.get(info.id, []),
        "tags": names.tags.get(info.id, []),
    }


def _entry(info: SnapshotInfo, names: Names) -> str:
    lines = [f"snapshot {_headline(info, names)}", f"Date: {human_time(to_datetime(info.flushed_at))}"]
    lines += [printable(f"{key}: {json.dumps(value, ensure_ascii=False)}") for key, value in info.metadata.items()]
    return "\n".join([*lines, "", *(f"    {line}" for line in printable(info.message).splitlines())])


def _headline(info: SnapshotInfo, names: Names) -> str:
    here = names.branches.get(info.id, []) + [f"tag: {name}" for name in names.tags.get(info.id, [])]
    text = click.style(str(info.id), fg="yellow")
    return f"{text} ({click.style(printable(', '.join(here)), bold=True)})" if here else text
