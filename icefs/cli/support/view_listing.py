"""The files of a view of a version: what `icefs ls` prints with `--view`."""

from dataclasses import dataclass, field
from typing import Any

import click

from icefs.cli.support.exit_codes import STORAGE
from icefs.cli.support.options import print_json, print_rows
from icefs.cli.support.repos import DEFAULT_BRANCH, Source, open_repository
from icefs.cli.support.transfers import as_node_path, list_lines
from icefs.cli.support.views import branch_of, opened_view
from icefs.transfer.export_files import OF_ONE_FILE
from icefs.views.formats import parse_format
from icefs.views.interface import LeftOut, ViewDirectory
from icefs.views.walk import walk
from icefs.words import node_key, node_name, quoted


@dataclass(slots=True)
class ViewListing:
    """The files of a view.

    Attributes:
        files: The path and the size in bytes of each.
        left_out: Groups and arrays that the format does not show, or not wholly.
        failed: The path of each file whose size cannot be worked out, and why.
    """

    files: list[tuple[str, int]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)


def list_view(view: ViewDirectory) -> ViewListing:
    """Lists a view.

    Raises:
        StorageError: the store does not answer.
    """
    listing = ViewListing(left_out=sorted(view.left_out(), key=lambda one: (one.path, one.reason)))
    for path, file in walk(view):
        if file is None:
            continue
        try:
            listing.files.append((path, file.layout().size))
        except OF_ONE_FILE as error:
            listing.failed.append((path, error.own_message))
    return listing


def print_view(source: Source, key: str, view_format: str, allow_virtual: tuple[str, ...], *, as_json: bool) -> None:
    """Prints the files of a view of a version; the command fails where the size of one cannot be worked out.

    Args:
        source: The version.
        key: The group or array that the view begins with, below the path that the user pointed at.
        view_format: The format as the user wrote it.
        allow_virtual: URL prefixes of containers that virtual chunks may be followed into.
        as_json: Whether a program reads it.
    """
    choice = parse_format(view_format)
    node = as_node_path(source.key(key))
    repository = open_repository(source.location, allow_virtual)
    ref = source.ref if source.ref is not None else DEFAULT_BRANCH
    session = repository.session_at(repository.resolve_ref(ref))
    with opened_view(session, source.mounted_branch or branch_of(repository, ref), choice, node) as (view, _):
        listing = list_view(view)
    if as_json:
        print_json(
            {
                "snapshot_id": str(session.snapshot_id),
                "format": str(choice),
                "files": [{"path": path, "size_bytes": size} for path, size in listing.files],
                "left_out": [_reasoned(node_key(one.path), one.reason) for one in listing.left_out],
                "failed": [_reasoned(path, reason) for path, reason in listing.failed],
            }
        )
    else:
        rows = [(str(size), path) for path, size in listing.files]
        print_rows(("size", "path"), rows, folding=("path",), none="there are no files in this view")
        shown = [f"{quoted(node_name(one.path))}: {one.reason}" for one in listing.left_out]
        list_lines(f"not shown as {choice}:", shown)
        list_lines("cannot be read:", [f"{quoted(path)}: {reason}" for path, reason in listing.failed])
    if listing.failed:
        click.get_current_context().exit(STORAGE)


def _reasoned(path: str, reason: str) -> dict[str, Any]:
    return {"path": path, "reason": reason}
