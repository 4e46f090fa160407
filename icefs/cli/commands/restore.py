"""`icefs restore`: has a chunk, an array or a group of a branch be as in another version."""

import os
from pathlib import Path

import click

from icefs.cli.support import refs
from icefs.cli.support.bringing import branch_option, branch_to_change, facts_of
from icefs.cli.support.mounts import find_mount
from icefs.cli.support.options import dry_run_option, json_option, print_json, say
from icefs.engine.merge.operations import Way
from icefs.engine.merge.operations import restore as restore_wanted
from icefs.words import plural, quoted
from icefs.zarr.wanted import wanted_at


@click.command()
@click.argument("path")
@click.option("--from", "ref", metavar="REF", required=True, help="The version: a snapshot id, branch or tag.")
@click.option("-m", "--message", help="The commit message, in place of one that says what was done.")
@branch_option
@refs.repo_option
@dry_run_option
@json_option
def restore(
    path: str, ref: str, message: str | None, branch: str | None, repo: str | None, dry_run: bool, as_json: bool
) -> None:
    """Have a chunk, array or group of the branch be as in REF, as one commit.

    PATH is a path in a mounted branch; with --repo it is a group or array of the repository, or the key of a chunk. A
    group comes back with all below it, and nodes and chunks that were made in it since are deleted. No chunk is read
    or copied.
    """
    where, name = (repo, path) if repo is not None else _mounted_place(path)
    with refs.changing(where) as (repository, source):
        way = Way(branch or branch_to_change(source), message=message, dry_run=dry_run)
        version = repository.session_at(repository.resolve_ref(ref))
        done = restore_wanted(repository, ref, wanted_at(version, name), way)
    if as_json:
        print_json(facts_of(done, way))
        return
    what = f"{quoted(name) or '/'} from {quoted(ref)}"
    counts = f"{plural(done.nodes, 'node')}, {plural(done.chunks, 'chunk')}"
    if not done.is_new:
        say(f"the branch {way.branch} has it already: {what}")
    elif done.snapshot_id is None:
        say(f"would restore {what}: {counts}")
    else:
        say(f"committed {done.snapshot_id}: restored {what}: {counts}")


def _mounted_place(path: str) -> tuple[str | None, str]:
    """Returns the mounted tree that a path is in, and where; outside of mounts the current repository.

    The path itself may be what is to come back, and not be there.
    """
    existing, missing = Path(path), ""
    while existing.parent != existing and not os.path.lexists(existing):
        existing, missing = existing.parent, f"{existing.name}/{missing}"
    mounted = find_mount(existing)
    if mounted is None:
        return None, path
    return str(mounted.tree), f"{mounted.inside(existing)}/{missing}"
