"""`icefs ls` and `icefs cat`: what a version of a repository holds, without mounting it."""

import contextlib
from collections.abc import Iterator
from itertools import chain
from typing import Any

import click

from icefs.cli.support.described import describe_key, describe_node
from icefs.cli.support.options import allow_virtual_option, json_option, print_json, print_rows, ref_option, say
from icefs.cli.support.repos import locate, open_version
from icefs.engine.read.session import Session
from icefs.errors import InvalidInputError, NodeNotFoundError
from icefs.paths import NodePath, child_node, node_path
from icefs.words import node_key, node_name, quoted
from icefs.zarr.keys import node_prefix, normalize_key
from icefs.zarr.reader import KeyReader

_NO_NODE = {
    "path": "",
    "type": "group",
    "id": None,
    "shape": None,
    "chunk_shape": None,
    "dtype": None,
    "dimension_names": None,
    "problem": None,
}


@click.command()
@click.argument("repo", required=False)
@click.argument("key", default="")
@ref_option
@click.option("-l", "--long", "is_long", is_flag=True, help="Show types and shapes, or the kinds and sizes of chunks.")
@click.option("-R", "--recursive", is_flag=True, help="List all groups and arrays below.")
@click.option("--keys", is_flag=True, help="List all Zarr keys below, instead of groups and arrays.")
@click.option(
    "--view",
    "view_format",
    metavar="FORMAT",
    help="List the files of a view instead, with their sizes: netcdf, netcdf3, zarr2 or npy ('icefs help views').",
)
@allow_virtual_option
@json_option
def ls(
    repo: str | None,
    key: str,
    ref: str | None,
    is_long: bool,
    recursive: bool,
    keys: bool,
    view_format: str | None,
    allow_virtual: tuple[str, ...],
    as_json: bool,
) -> None:
    """List groups, arrays and chunks.

    KEY is a group (the default is the root), an array, or a prefix of an array's chunk keys. Groups show the
    groups and arrays in them, arrays their Zarr keys. Without @REF, REPO stands for its branch main. A path in a
    mount stands for what is there in the mounted tree, and KEY for what is below it.

    With --view, KEY stands for a group or an array, and all files are listed that a view of it has; then what the
    format does not show, with the reason. Uncommitted changes of a mounted branch are not in it. The sizes of some
    files depend on chunks: those whose chunks cannot be read are named, and the exit code is 7.
    """
    source = locate(repo, ref)
    if view_format is not None:
        if is_long or recursive or keys:
            raise click.UsageError("--view lists all files with their sizes, and goes with none of -l, -R and --keys")
        from icefs.cli.support.view_listing import print_view  # decoders, which groups and arrays do not need

        print_view(source, key, view_format, allow_virtual, as_json=as_json)
        return
    session = open_version(source, allow_virtual)
    inside = normalize_key(source.key(key))
    path = node_path(inside)
    node = session.get_node(path)
    # Icechunk holds nodes whose parents are no nodes: what `ds.to_zarr("mnt/surface")` leaves has no root group.
    is_group = node.array is None if node is not None else session.has_children(path)
    if keys or not is_group:
        _print_keys(session, inside, is_long=is_long, as_json=as_json)
        return
    prefix = node_prefix(path)
    described = list(_described_below(session, path, recursive=recursive))
    if as_json:
        print_json(described)
        return
    rows = []
    for entry in described:
        name = node_name(entry["path"]) if recursive else entry["path"].removeprefix(prefix)
        name += "/" if entry["type"] == "group" else ""
        rows.append((entry["type"], *map(_shape, (entry["shape"], entry["chunk_shape"])), _dtype(entry), name))
    if is_long:
        print_rows(
            ("type", "shape", "chunks", "dtype", "name"),
            rows,
            folding=("shape", "chunks", "name"),
            none="there are no groups or arrays in it",
        )
    else:
        for row in rows:
            click.echo(quoted(row[-1]))
    for entry in described:
        if entry["problem"] is not None:
            say(f"icefs: {quoted(node_name(entry['path']))}: {entry['problem']}; see it with 'icefs cat'", err=True)


def _described_below(session: Session, path: NodePath, *, recursive: bool) -> Iterator[dict[str, Any]]:
    """Describes the groups and arrays below a path; a parent of nodes that is no node is a group without an id."""
    if recursive:
        found = sorted(session.list_nodes(path), key=lambda below: below.path)
        yield from (describe_node(below) for below in found if below.path != path)
        return
    for name in session.children(path):
        below = child_node(path, name)
        node = session.get_node(below)
        yield describe_node(node) if node is not None else {**_NO_NODE, "path": node_key(below)}


def _print_keys(session: Session, prefix: str, *, is_long: bool, as_json: bool) -> None:
    reader = KeyReader(session)
    batches = reader.list_batches(prefix)
    first = next((batch for batch in batches if batch), None)
    if first is None and prefix:
        with contextlib.suppress(InvalidInputError):  # what cannot be a key is missing like any other name
            first = [prefix] if reader.find(prefix) is not None else None
        if first is None:
            raise NodeNotFoundError(
                f"no such group, array or key in snapshot {session.snapshot_id}: {quoted(prefix)}", key=prefix
            )
    listing = chain([first or []], batches)
    if not (as_json or is_long):
        for keys in listing:
            if keys:
                click.echo("\n".join(map(quoted, keys)))
        return
    described = [
        describe_key(key, found) for keys in listing for key in keys if (found := reader.find(key)) is not None
    ]
    if as_json:
        print_json(described)
    else:
        print_rows(
            ("kind", "size", "key"),
            [(e["kind"], str(e["size_bytes"]), e["key"]) for e in described],
            folding=("key",),
            none="there are no keys in it",
        )


def _shape(shape: list[Any] | None) -> str:
    return "-" if shape is None else "x".join(str(size).replace(" ", "") for size in shape) or "scalar"


def _dtype(entry: dict[str, Any]) -> str:
    dtype = entry["dtype"]
    if isinstance(dtype, dict):
        return str(dtype.get("name", "?"))
    return "-" if dtype is None else str(dtype)
