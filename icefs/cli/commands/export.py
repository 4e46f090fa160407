"""`icefs export`: a version of a repository as plain files: of Zarr v3, or of another format."""

from datetime import datetime

import click

from icefs.cli.support.lineages import open_lineage_cache
from icefs.cli.support.mounts import absolute
from icefs.cli.support.options import (
    allow_virtual_option,
    dry_run_option,
    human_bytes,
    json_option,
    parse_as_of,
    print_json,
    ref_option,
    say,
)
from icefs.cli.support.repos import DEFAULT_BRANCH, locate, open_repository
from icefs.cli.support.transfers import as_node_path, list_lines, state_home, transfer_bar
from icefs.cli.support.uncommitted import warn_of_uncommitted
from icefs.cli.support.views import branch_of, views_of_versions
from icefs.engine.history.key_times import KeyTimes
from icefs.engine.history.lineage import Lineages
from icefs.storage.url import redact
from icefs.transfer.directory_export import ExportRequest, export_session
from icefs.transfer.view_export import export_view
from icefs.views.formats import parse_format
from icefs.words import command, node_name, plural, quoted

_DAMAGED = 7


@click.command()
@click.argument("repo", metavar="REPO[@REF]")
@click.argument("directory", metavar="DIR")
@click.argument("node", default="")
@ref_option
@click.option("--as-of", type=parse_as_of, metavar="TIME", help="Export the branch (by default main) as it was then.")
@click.option(
    "--format",
    "view_format",
    metavar="FORMAT",
    help="Write the files of a view instead: netcdf, netcdf3, zarr2 or npy ('icefs help views').",
)
@click.option("--force", is_flag=True, help="Write also into a directory that has other files.")
@click.option(
    "--delete", is_flag=True, help="Delete keys, or files of the format, in DIR that this version does not have."
)
@allow_virtual_option
@dry_run_option
@json_option
def export(
    repo: str,
    directory: str,
    node: str,
    ref: str | None,
    as_of: datetime | None,
    view_format: str | None,
    force: bool,
    delete: bool,
    allow_virtual: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Export a version as plain files of Zarr v3, or of another format.

    DIR becomes the root group, or the group or array NODE; below REPO where that is a path in a mount. The time of each
    file is that of the commit that changed it last, as in a mount. Files that are there already are not written again:
    an export that was interrupted goes on, and one of another version changes only what differs. An array gets its
    zarr.json when all of its chunks are there. Chunks that cannot be read are listed, the others are exported, and the
    exit code is 7. Uncommitted changes of a mounted branch are not in it; a warning says so.

    With --format, DIR gets the files that a view of the version shows, byte for byte. Arrays that the format cannot
    show are listed, and the exit code is 7 then too. Over another version of the view, only bytes that differ are
    decoded. An array of Zarr v2 of which a chunk cannot be read gets no .zarray.
    """
    choice = parse_format(view_format) if view_format is not None else None
    source = locate(repo, ref)
    if as_of is None:
        warn_of_uncommitted(source, None if choice is None else str(choice))
    repository = open_repository(source.location, allow_virtual)
    ref, mounted_branch = source.ref or DEFAULT_BRANCH, source.mounted_branch
    found = (
        repository.resolve_ref(ref) if as_of is None else repository.resolve(branch=mounted_branch or ref, as_of=as_of)
    )
    session = repository.session_at(found)
    request = ExportRequest(
        str(absolute(directory)), as_node_path(source.key(node)), force, delete, dry_run, state_home()
    )
    with open_lineage_cache(repository) as cache, transfer_bar("exporting") as show:
        lineages = Lineages(repository.context, cache)
        if choice is None:
            times = KeyTimes(lineages, session.snapshot_id, session.snapshot.flushed_at)
            done = export_session(session, times, request, show)
        else:
            # A mount of the branch as it was shows a snapshot, too.
            branch = mounted_branch or branch_of(repository, ref) if as_of is None else ""
            with views_of_versions(repository, choice, request.node, lineages) as views:
                view, facts = views.open(session, branch)
                done = export_view(view, facts, str(choice), request, show, views.open_earlier)
    if as_json:
        print_json(
            {
                "snapshot_id": str(session.snapshot_id),
                "files": done.files,
                "bytes": done.bytes,
                "written_files": done.written_files,
                "written_bytes": done.written_bytes,
                "deleted": done.deleted,
                "left": done.left,
                "failed": [{"path": one.path, "reason": one.reason} for one in done.failed],
                "dry_run": dry_run,
                "format": None if choice is None else str(choice),
                "left_out": [{"path": one.path, "reason": one.reason} for one in done.left_out],
            }
        )
    else:
        would = "would write" if dry_run else "wrote"
        deleted = f", {'would delete' if dry_run else 'deleted'} {len(done.deleted):,}" if done.deleted else ""
        click.echo(
            f"{session.snapshot_id}: {would} {done.written_files:,} of {plural(done.files, 'file')}"
            f" ({human_bytes(done.written_bytes)} of {human_bytes(done.bytes)}){deleted}"
        )
        if done.left:
            are, them = ("is", "it") if len(done.left) == 1 else ("are", "them")
            what = "key" if choice is None else "file"
            say(
                f"{plural(len(done.left), what)} of other versions {are} still there; --delete deletes {them}",
                err=True,
            )
        list_lines(f"not shown as {choice}:", [f"{quoted(node_name(one.path))}: {one.reason}" for one in done.left_out])
        list_lines("cannot be exported:", [f"{quoted(one.path)}: {one.reason}" for one in done.failed])
        if done.failed:
            rest = "all else would be" if dry_run else "all else is there"
            say(
                f"{rest}; '{command('fsck', redact(source.location))}' says whether the repository is damaged", err=True
            )
    if done.failed or done.left_out:
        click.get_current_context().exit(_DAMAGED)
