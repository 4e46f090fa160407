"""`icefs export`: a version of a repository as plain files of Zarr v3."""

import click

from icefs.cli.support.lineages import open_lineage_cache
from icefs.cli.support.mounts import absolute
from icefs.cli.support.options import (
    allow_virtual_option,
    dry_run_option,
    human_bytes,
    json_option,
    print_json,
    ref_option,
    say,
)
from icefs.cli.support.repos import DEFAULT_BRANCH, locate, open_repository
from icefs.cli.support.transfers import as_node_path, list_lines, state_home, transfer_bar
from icefs.engine.history.key_times import KeyTimes
from icefs.engine.history.lineage import Lineages
from icefs.storage.url import redact
from icefs.transfer.directory_export import ExportRequest, export_session
from icefs.words import command, plural, quoted

_DAMAGED = 7


@click.command()
@click.argument("repo", metavar="REPO[@REF]")
@click.argument("directory", metavar="DIR")
@click.argument("node", default="")
@ref_option
@click.option("--force", is_flag=True, help="Write also into a directory that has other files.")
@click.option("--delete", is_flag=True, help="Delete keys in DIR that this version does not have.")
@allow_virtual_option
@dry_run_option
@json_option
def export(
    repo: str,
    directory: str,
    node: str,
    ref: str | None,
    force: bool,
    delete: bool,
    allow_virtual: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Export a version as plain files of Zarr v3.

    DIR becomes the root group, or the group or array NODE; below REPO where that is a path in a mount. The time of each
    file is that of the commit that changed it last, as in a mount. Files that are there already are not written again:
    an export that was interrupted goes on, and one of another version changes only what differs. An array gets its
    zarr.json when all of its chunks are there. Chunks that cannot be read are listed, the others are exported, and the
    exit code is 7.
    """
    source = locate(repo, ref)
    repository = open_repository(source.location, allow_virtual)
    session = repository.session_at(repository.resolve_ref(source.ref or DEFAULT_BRANCH))
    request = ExportRequest(
        str(absolute(directory)), as_node_path(source.key(node)), force, delete, dry_run, state_home()
    )
    with open_lineage_cache(repository) as cache, transfer_bar("exporting") as show:
        times = KeyTimes(Lineages(repository.context, cache), session.snapshot_id, session.snapshot.flushed_at)
        done = export_session(session, times, request, show)
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
            say(
                f"{plural(len(done.left), 'key')} of other versions {are} still there; --delete deletes {them}",
                err=True,
            )
        list_lines("cannot be exported:", [f"{quoted(one.path)}: {one.reason}" for one in done.failed])
        if done.failed:
            rest = "all else would be" if dry_run else "all else is there"
            say(
                f"{rest}; '{command('fsck', redact(source.location))}' says whether the repository is damaged", err=True
            )
    if done.failed:
        click.get_current_context().exit(_DAMAGED)
