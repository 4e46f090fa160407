"""`icefs ls` and `icefs cat`: what a version of a repository holds, without mounting it."""

import contextlib
import sys
from collections.abc import Iterator
from itertools import chain
from typing import Any

import click

from icefs.cli.support.options import allow_virtual_option, json_option, print_json, print_rows, say
from icefs.cli.support.repos import locate, open_version
from icefs.engine.read.session import Session
from icefs.errors import ChunkNotFoundError, InvalidInputError, NodeNotFoundError
from icefs.format.layout import chunk_key
from icefs.format.manifest.refs import ChunkRef, NativeRef, VirtualRef
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.format.zarr_json import document_of
from icefs.words import node_key, node_name, quoted
from icefs.zarr.keys import node_prefix, normalize_key
from icefs.zarr.reader import KeyReader

_WINDOW_BYTES = 8 << 20
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

ref_option = click.option("--ref", help="The version, where REPO@REF cannot say it.")


@click.command()
@click.argument("repo", required=False)
@click.argument("key", default="")
@ref_option
@click.option("-l", "--long", "is_long", is_flag=True, help="Show types and shapes, or the kinds and sizes of chunks.")
@click.option("-R", "--recursive", is_flag=True, help="List all groups and arrays below.")
@click.option("--keys", is_flag=True, help="List all Zarr keys below, instead of groups and arrays.")
@json_option
def ls(repo: str | None, key: str, ref: str | None, is_long: bool, recursive: bool, keys: bool, as_json: bool) -> None:
    """List groups, arrays and chunks.

    KEY is a group (the default is the root), an array, or a prefix of an array's chunk keys. Groups show the
    groups and arrays in them, arrays their Zarr keys. Without @REF, REPO stands for its branch main. A path in a
    mount stands for what is there in the mounted tree, and KEY for what is below it.
    """
    source = locate(repo, ref)
    session = open_version(source)
    key = normalize_key(source.key(key))
    path = f"/{key}"
    node = session.get_node(path)
    # Icechunk holds nodes whose parents are no nodes: what `ds.to_zarr("mnt/surface")` leaves has no root group.
    is_group = node.array is None if node is not None else session.has_children(path)
    if keys or not is_group:
        _print_keys(session, key, is_long=is_long, as_json=as_json)
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


@click.command()
@click.argument("repo")
@click.argument("key")
@ref_option
@allow_virtual_option
@json_option
def cat(repo: str, key: str, ref: str | None, allow_virtual: tuple[str, ...], as_json: bool) -> None:
    """Write the bytes of a Zarr key to standard output.

    KEY is a key such as group/array/zarr.json or group/array/c/0/0. With --json, describe it instead: where its
    bytes are, and how many. Where REPO is a path in a mount, KEY is below it.
    """
    source = locate(repo, ref)
    session = open_version(source, allow_virtual)
    key = source.key(key)
    reader = KeyReader(session)
    try:
        found = reader.find(key)
    except InvalidInputError:
        if session.get_node(f"/{normalize_key(key)}") is None:
            raise
        found = None  # a group or array, whose name need not look like a key
    if found is None:
        raise _no_such_key(reader, key)
    if as_json:
        print_json(describe_key(key, found))
    elif isinstance(found, NodeSnapshot):
        sys.stdout.buffer.write(found.user_data)
    else:
        for start in range(0, found.length_bytes, _WINDOW_BYTES):
            sys.stdout.buffer.write(session.read_chunk(found, start, start + _WINDOW_BYTES))


def describe_node(node: NodeSnapshot) -> dict[str, Any]:
    """Describes a group or array for programs; what its zarr.json does not say is None.

    A zarr.json that cannot be read leaves the node with a `problem`; the others are described all the same.
    """
    metadata = document_of(node.user_data)
    told = metadata or {}
    grid = told.get("chunk_grid")
    configuration = grid.get("configuration") if isinstance(grid, dict) else None
    chunks = configuration if isinstance(configuration, dict) else {}
    return {
        "path": node_key(node.path),
        "type": str(node.node_type),
        "id": str(node.id),
        "shape": _list(told.get("shape")),
        "chunk_shape": _list(chunks.get("chunk_shape", chunks.get("chunk_shapes"))),
        "dtype": told.get("data_type"),
        "dimension_names": _list(told.get("dimension_names")),
        "problem": None if metadata is not None else "its zarr.json is no JSON object",
    }


def _list(value: Any) -> list[Any] | None:
    return value if isinstance(value, list) else None


def describe_key(key: str, found: ChunkRef | NodeSnapshot) -> dict[str, Any]:
    """Describes for programs what a key names: where its bytes are, and how many."""
    kind, size, location, offset = "metadata", 0, None, None
    match found:
        case NodeSnapshot():
            size = len(found.user_data)
        case NativeRef():
            location, offset = chunk_key(found.chunk_id), found.offset_bytes
        case VirtualRef():
            location, offset = found.location, found.offset_bytes
    if not isinstance(found, NodeSnapshot):
        kind, size = found.kind.name.lower(), found.length_bytes
    return {"key": normalize_key(key), "kind": kind, "size_bytes": size, "location": location, "offset_bytes": offset}


def _described_below(session: Session, path: str, *, recursive: bool) -> Iterator[dict[str, Any]]:
    """Describes the groups and arrays below a path; a parent of nodes that is no node is a group without an id."""
    if recursive:
        found = sorted(session.list_nodes(path), key=lambda below: below.path)
        yield from (describe_node(below) for below in found if below.path != path)
        return
    for name in session.children(path):
        child = f"/{node_prefix(path)}{name}"
        node = session.get_node(child)
        yield describe_node(node) if node is not None else {**_NO_NODE, "path": node_key(child)}


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


def _no_such_key(reader: KeyReader, key: str) -> NodeNotFoundError:
    """Says what a key that is missing could have been."""
    key = normalize_key(key)
    at = f"in snapshot {reader.session.snapshot_id}: {quoted(key)}"
    if reader.session.get_node(f"/{key}") is not None:
        return NodeNotFoundError(
            f"a group or array is not a key {at}", hint=f"its metadata is {node_prefix(f'/{key}')}zarr.json"
        )
    if isinstance(reader.locate(key), tuple):
        return ChunkNotFoundError(f"the array has no such chunk {at}")
    return NodeNotFoundError(f"no such key {at}")


def _shape(shape: list[Any] | None) -> str:
    return "-" if shape is None else "x".join(str(size).replace(" ", "") for size in shape) or "scalar"


def _dtype(entry: dict[str, Any]) -> str:
    dtype = entry["dtype"]
    if isinstance(dtype, dict):
        return str(dtype.get("name", "?"))
    return "-" if dtype is None else str(dtype)
