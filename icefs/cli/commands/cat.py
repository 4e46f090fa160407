"""`icefs cat`: writes the bytes of a Zarr key to standard output."""

import sys

import click

from icefs.cli.support.described import describe_key
from icefs.cli.support.options import allow_virtual_option, json_option, print_json, ref_option
from icefs.cli.support.repos import locate, open_version
from icefs.errors import ChunkNotFoundError, InvalidInputError, NodeNotFoundError
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.paths import node_path
from icefs.words import quoted
from icefs.zarr.keys import metadata_key, normalize_key
from icefs.zarr.reader import KeyReader

_WINDOW_BYTES = 8 << 20


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
        if session.get_node(node_path(normalize_key(key))) is None:
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


def _no_such_key(reader: KeyReader, key: str) -> NodeNotFoundError:
    """Says what a key that is missing could have been."""
    wanted = normalize_key(key)
    path = node_path(wanted)
    at = f"in snapshot {reader.session.snapshot_id}: {quoted(wanted)}"
    if reader.session.get_node(path) is not None:
        return NodeNotFoundError(f"a group or array is not a key {at}", hint=f"its metadata is {metadata_key(path)}")
    if isinstance(reader.locate(wanted), tuple):
        return ChunkNotFoundError(f"the array has no such chunk {at}")
    return NodeNotFoundError(f"no such key {at}")
