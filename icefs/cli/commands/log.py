"""`icefs log`: the history of a branch, tag or snapshot."""

import json
from collections.abc import Callable, Iterator
from itertools import islice

import click

from icefs.cli.support.graph import graph_lines, rows_of
from icefs.cli.support.options import human_time, json_option, print_json
from icefs.cli.support.repos import DEFAULT_BRANCH, locate, open_repository
from icefs.cli.support.snapshots import Names, describe_snapshot
from icefs.cli.support.steps import steps
from icefs.clock import to_datetime
from icefs.engine.history.origins import origin_of
from icefs.engine.repository import Repository
from icefs.errors import NodeNotFoundError
from icefs.format.ids import SnapshotId
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.paths import node_path
from icefs.words import quoted, visible, visible_json, visible_lines
from icefs.zarr.keys import normalize_key

_OWN = "__icechunk"  # what the format's libraries note for themselves; --json has it


class _LogCommand(click.Command):
    """Takes what stands behind `--` as the path to follow, as git does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the command line."""
        if "--" in args:
            cut = args.index("--")
            if len(args) > cut + 2:
                raise click.UsageError("one path can be followed at a time: give one behind --", ctx)
            args = [*args[:cut], *(f"--follow={path}" for path in args[cut + 1 :])]
        return super().parse_args(ctx, args)


@click.command(cls=_LogCommand)
@click.argument("repo", metavar="[PATH|REPO]", required=False)
@click.argument("ref", metavar="[REF] [-- NODE]", required=False)
@click.option("-n", "--max-count", type=click.IntRange(min=0), metavar="N", help="Show at most N snapshots.")
@click.option("--follow", metavar="NODE", help="Show only commits that touched this group or array; as '-- NODE'.")
@click.option("--graph", is_flag=True, help="Draw the branches and tags next to it; all of them without REF.")
@click.option("--oneline", is_flag=True, help="One line for each snapshot.")
@json_option
def log(
    repo: str | None,
    ref: str | None,
    max_count: int | None,
    follow: str | None,
    graph: bool,
    oneline: bool,
    as_json: bool,
) -> None:
    """Show the history of a branch, tag or snapshot.

    Newest first. REF defaults to the branch main, and in a mounted tree to that tree's version. A node is followed
    through renames, a group with all that is below it. The graph shows merges, and what they brought.
    """
    source = locate(repo, ref)
    repository = open_repository(source.location)
    names = Names.of(repository.refs(refresh=False))
    if graph:
        if follow is not None:
            raise click.UsageError("--graph goes with no path: leave one of them out")
        if as_json:
            shown = (row.info for row in rows_of(repository, names, source.ref) if row.info is not None)
            print_json([describe_snapshot(info, names) for info in islice(shown, max_count)])
            return
        for line in islice(graph_lines(repository, names, source.ref), max_count):
            click.echo(line)
        return
    version = source.ref if source.ref is not None else DEFAULT_BRANCH
    history: Iterator[SnapshotInfo] = repository.log(version)
    if follow is not None:
        with steps() as progress:  # which is over before anything is printed
            found = _touching(repository, repository.resolve_ref(version), follow, progress)
            history = iter(list(islice(found, max_count)))
    history = islice(history, max_count)
    if as_json:
        print_json([describe_snapshot(info, names) for info in history])
        return
    for number, info in enumerate(history):
        if oneline:
            click.echo(f"{_headline(info, names)} {visible(info.message.partition('\n')[0])}")
        else:
            click.echo(("\n" if number else "") + _entry(info, names))


def _touching(
    repository: Repository, snapshot_id: SnapshotId, path: str, progress: Callable[[str, int], None]
) -> Iterator[SnapshotInfo]:
    """Yields the commits that touched a node, or anything below it."""
    from icefs.cli.support.lineages import open_lineage_cache
    from icefs.engine.history.lineage import Lineages

    session = repository.session_at(snapshot_id)
    wanted = {node.id for node in session.list_nodes(node_path(normalize_key(path.strip("/"))))}
    if not wanted:
        raise NodeNotFoundError(f"nothing at {path} in {snapshot_id}", path=path)
    with open_lineage_cache(repository) as cache:
        for info, touched in Lineages(repository.context, cache, progress).touches(snapshot_id):
            if not wanted.isdisjoint(touched):
                yield info


def _entry(info: SnapshotInfo, names: Names) -> str:
    lines = [f"snapshot {_headline(info, names)}", f"Date: {human_time(to_datetime(info.flushed_at))}"]
    origin = origin_of(info.metadata)
    if origin is not None:
        lines.append(f"{origin.kind.capitalize().replace('_', '-')}: {origin.snapshot_id}")
    for key, value in info.metadata.items():
        if not key.startswith(_OWN):
            lines.append(f"{quoted(key)}: {visible_json(json.dumps(value, ensure_ascii=False))}")
    return "\n".join([*lines, "", *(f"    {line}" for line in visible_lines(info.message).split("\n"))])


def _headline(info: SnapshotInfo, names: Names) -> str:
    here = names.labels(info.id)
    text = click.style(str(info.id), fg="yellow")
    return f"{text} ({click.style(here, bold=True)})" if here else text
