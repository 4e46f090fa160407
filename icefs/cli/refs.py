"""`icefs branch list` and `icefs tag list`."""

from collections.abc import Mapping

import click

from icefs.cli.options import json_option, print_json, print_rows
from icefs.cli.repos import locate, open_repository
from icefs.format.ids import SnapshotId


@click.group()
def branch() -> None:
    """List branches."""


@click.group()
def tag() -> None:
    """List tags."""


@branch.command("list")
@click.argument("repo", required=False)
@json_option
def list_branches(repo: str | None, as_json: bool) -> None:
    """List the branches of a repository, and the snapshots they are at.

    REPO may be a path in a mount, and defaults to the current directory.
    """
    _print_refs(open_repository(locate(repo).location).refs().branches, as_json=as_json)


@tag.command("list")
@click.argument("repo", required=False)
@json_option
def list_tags(repo: str | None, as_json: bool) -> None:
    """List the tags of a repository, and the snapshots they name.

    REPO may be a path in a mount, and defaults to the current directory.
    """
    _print_refs(open_repository(locate(repo).location).refs().tags, as_json=as_json)


def _print_refs(refs: Mapping[str, SnapshotId], *, as_json: bool) -> None:
    if as_json:
        print_json([{"name": name, "snapshot_id": str(refs[name])} for name in sorted(refs)])
    else:
        print_rows(("name", "snapshot"), [(name, str(refs[name])) for name in sorted(refs)])
