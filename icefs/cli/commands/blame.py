"""`icefs blame`: which commit changed each chunk of an array last."""

from collections import Counter
from typing import Any

import click
import numpy as np

from icefs.cli.support.chunk_map import cell, draw, scale
from icefs.cli.support.lineages import open_lineage_cache
from icefs.cli.support.mounts import CONTROL, check_tree
from icefs.cli.support.options import human_time, json_option, print_json, ref_option
from icefs.cli.support.repos import DEFAULT_BRANCH, Source, locate, open_repository
from icefs.cli.support.snapshots import describe_commit, describe_origin
from icefs.cli.support.steps import steps
from icefs.clock import to_datetime
from icefs.engine.history.lineage import Lineages
from icefs.engine.history.original_commits import original_commits
from icefs.errors import InvalidInputError, NodeNotFoundError
from icefs.format.chunk_indices import ChunkIndices
from icefs.paths import ROOT_NODE, NodePath
from icefs.words import node_key, plural, quoted, visible
from icefs.zarr.keys import normalize_key

_SHOWN = 35


@click.command()
@click.argument("where", metavar="PATH | REPO NODE")
@click.argument("node_path", metavar="", required=False)
@ref_option
@json_option
def blame(where: str, node_path: str | None, ref: str | None, as_json: bool) -> None:
    """Show which commit changed each chunk of an array last.

    PATH is an array in a mounted tree; NODE is one in REPO or REPO@REF. The picture has a cell for each chunk, or
    block of chunks, with the number of its newest commit in the list below. Under a commit that merged, picked or
    restored others stand those that made the changes first.
    """
    source = locate(where, ref)
    if node_path is None:
        if source.mounted is None:
            raise InvalidInputError(f"which array of {where}?", hint="icefs blame REPO NODE")
        check_tree(source.mounted, where)
    path = _node_path(source, node_path or "")
    if source.mounted is not None and path.split("/")[1] == CONTROL:
        raise InvalidInputError(
            f"not an array, but the mount's control directory: {where}", hint="give the path of an array in the tree"
        )
    repository = open_repository(source.location)
    snapshot_id = repository.resolve_ref(source.ref or DEFAULT_BRANCH)
    session = repository.session_at(snapshot_id)
    node = session.get_node(path)
    if node is None or node.array is None:
        raise NodeNotFoundError(f"no array at {path} in {snapshot_id}", path=path)
    parts = [batch.coords for batch in session.array_chunks(node).iter_batches()]
    ndim = len(node.array.shape)
    count = 1 if parts and not ndim else sum(len(part[0]) for part in parts) if ndim else 0
    columns = (
        [np.concatenate([part[axis] for part in parts]) for axis in range(ndim)]
        if parts
        else [np.zeros(0, np.uint32)] * ndim
    )
    chunks = ChunkIndices(columns, count)
    with open_lineage_cache(repository) as cache, steps() as progress:
        lineages = Lineages(repository.context, cache, progress)
        lineage = lineages.lineage(snapshot_id, node.id)
        owners = lineage.owners_of(chunks)
        changed_by = [lineage.commits[owner][0] for owner in owners.tolist()]
        originals = original_commits(repository.context, lineages, node.id, chunks, changed_by)
    infos = {owner: repository.lookup_snapshot(lineage.commits[owner][0]) for owner in np.unique(owners).tolist()}
    grid = [dimension.num_chunks for dimension in node.array.shape]
    metadata = repository.lookup_snapshot(lineage.commits[lineage.metadata][0])
    counts = {owner: int((owners == owner).sum()) for owner in infos}
    if as_json:
        rows = zip(*(column.tolist() for column in columns), strict=True) if ndim else [()] * count
        print_json(
            {
                "path": node_key(path),
                "snapshot_id": str(snapshot_id),
                "grid_shape": grid,
                "metadata": describe_commit(metadata),
                "commits": [
                    {**describe_commit(info), "num_chunks": counts[owner], "origin": describe_origin(info)}
                    for owner, info in infos.items()
                ],
                "chunks": [
                    {"index": list(index), "commit": str(commit), "original": str(original)}
                    for index, commit, original in zip(rows, changed_by, originals, strict=True)
                ],
            }
        )
        return
    order = {owner: rank for rank, owner in enumerate(infos, 1)}
    ranks = np.array([order[owner] for owner in owners.tolist()], np.int64)
    if count:
        for line in draw(columns, ranks, grid):
            click.echo(f"  {line}")
    note = scale(grid)
    click.echo(
        f"{quoted(path)}: {plural(count, 'chunk')} in a grid of {' x '.join(map(str, grid)) or 'one'}"
        f"{f' ({note})' if note else ''}"
    )
    for owner, info in list(infos.items())[:_SHOWN]:
        click.echo(f"  {cell(order[owner])}  {_commit(info)}  {plural(counts[owner], 'chunk')}")
        brought = Counter(
            original for commit, original in zip(changed_by, originals, strict=True) if commit == info.id != original
        )
        for original, number in brought.most_common(_SHOWN):
            click.echo(f"     from {_commit(repository.snapshot_info(original))}  {plural(number, 'chunk')}")
    if len(infos) > _SHOWN:
        click.echo(f"  {cell(_SHOWN + 1)}  {plural(len(infos) - _SHOWN, 'older commit')}")
    click.echo(f"  zarr.json  {_commit(metadata)}")
    if not lineage.is_complete:
        click.echo("  some transaction logs are gone or damaged: older commits cannot be told apart", err=True)


def _node_path(source: Source, node_path: str) -> NodePath:
    """Returns the path of a node in the repository, "/" for the root, given one below what the user pointed at."""
    key = source.key(node_path).strip("/")
    return ROOT_NODE if key in ("", ".") else NodePath(f"/{normalize_key(key)}")


def _commit(info: Any) -> str:
    message = visible(info.message.partition("\n")[0])
    return f"{click.style(str(info.id), fg='yellow')}  {human_time(to_datetime(info.flushed_at))}  {message}"
