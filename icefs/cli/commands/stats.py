"""`icefs stats`: how many bytes chunks take."""

from typing import Any

import click

from icefs.cli.support.options import (
    human_bytes,
    json_option,
    print_json,
    print_rows,
    repo_argument,
)
from icefs.cli.support.repos import DEFAULT_BRANCH, locate, open_repository
from icefs.cli.support.steps import steps
from icefs.engine.upkeep.storage_stats import history_stats, snapshot_stats, stats_to_json
from icefs.errors import NodeNotFoundError
from icefs.paths import NodePath
from icefs.words import node_name


@click.command()
@repo_argument
@click.option("--history", is_flag=True, help="Count what all branches and tags need, not one version's arrays.")
@json_option
def stats(repo: str | None, history: bool, as_json: bool) -> None:
    """Show how many bytes chunks take, by array or of all versions.

    The arrays are those of one version, and for a path in a mount those at and below it; --history counts what all
    branches and tags need. Chunks that several references share count once.
    """
    source = locate(repo)
    repository = open_repository(source.location)
    if history:
        with steps() as progress:
            total = history_stats(repository, progress)
        facts: dict[str, Any] = dict(total.to_json())
        rows = [("all versions", total)]
    else:
        session = repository.session_at(repository.resolve_ref(source.ref or DEFAULT_BRANCH))
        below = None if not source.inside else [node.path for node in session.list_nodes(NodePath(f"/{source.inside}"))]
        if below == []:
            raise NodeNotFoundError(f"no group or array at /{source.inside} in snapshot {session.snapshot_id}")
        by_array = snapshot_stats(session, below)
        facts, rows = stats_to_json(by_array), [(node_name(path), each) for path, each in by_array.items()]
        if len(rows) > 1:
            rows.append(("all arrays", sum((each for _, each in rows[1:]), rows[0][1])))
    if as_json:
        print_json(facts)
        return
    print_rows(
        ("", "chunks", "native", "inline", "virtual"),
        [
            (
                name,
                f"{each.num_chunks:,}",
                human_bytes(each.native_bytes),
                human_bytes(each.inlined_bytes),
                human_bytes(each.virtual_bytes),
            )
            for name, each in rows
        ],
        folding=("",),
        none="there is nothing to count",
    )
