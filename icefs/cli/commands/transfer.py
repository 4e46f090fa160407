"""`icefs import` and `icefs export`: whole directories of Zarr v3 into a repository, and out of it."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from icefs.cli.commands.committing import parse_metadata
from icefs.cli.commands.read import ref_option
from icefs.cli.commands.upkeep import dry_run_option
from icefs.cli.support.lineages import open_lineage_cache
from icefs.cli.support.mounts import absolute
from icefs.cli.support.options import allow_virtual_option, human_bytes, json_option, parse_size, print_json, say
from icefs.cli.support.progress import PATIENCE_S
from icefs.cli.support.repos import DEFAULT_BRANCH, Source, locate, open_repository, open_writable
from icefs.engine.history.key_times import KeyTimes
from icefs.engine.history.lineage import Lineages
from icefs.errors import InvalidInputError
from icefs.storage.url import redact
from icefs.transfer.exporting import ExportRequest, export_session
from icefs.transfer.importing import ImportRequest, import_directory
from icefs.transfer.storing import Transferred
from icefs.words import command, node_key, node_name, plural, quoted
from icefs.zarr.keys import normalize_key

_SHOWN = 20
_DAMAGED = 7


def _branch_of(source: Source) -> str:
    """Returns the branch that an import goes to by default: that of the mounted tree, REPO@BRANCH, or main.

    Raises:
        InvalidInputError: the tree is that of a tag or snapshot.
    """
    if source.mounted is None or source.ref != source.mounted.ref:
        return source.ref or DEFAULT_BRANCH
    tree = source.mounted.tree_info
    if tree.get("kind") in (None, "branch"):
        return tree.get("name") or DEFAULT_BRANCH
    raise InvalidInputError(
        f"the mounted tree is a {tree['kind']}, which nothing can be imported into: {source.mounted.tree}",
        hint="name a branch with --branch",
    )


def _node_path(text: str) -> str:
    return "/" + normalize_key(text.strip("/")).removeprefix(".")


@click.command("import")
@click.argument("directory", metavar="ZARR_DIR")
@click.argument("repo")
@click.option("--branch", help="The branch to commit to (the default is main).")
@click.option(
    "--path",
    default="/",
    show_default=True,
    help="The group or array that ZARR_DIR becomes, below REPO if that is in a mount.",
)
@click.option("-m", "--message", help="The commit message.")
@click.option("--meta", multiple=True, metavar="KEY=VALUE", help="Metadata of the commit (repeatable).")
@click.option("--overwrite", is_flag=True, help="Replace groups and arrays that exist.")
@click.option("--skip-invalid", is_flag=True, help="Leave out files that cannot be imported.")
@click.option(
    "--pack-size",
    type=parse_size,
    default="8M",
    show_default=True,
    metavar="SIZE",
    help="How large an object may become that small chunks share; 0 gives each its own.",
)
@dry_run_option
@json_option
def import_(
    directory: str,
    repo: str,
    branch: str | None,
    path: str,
    message: str | None,
    meta: tuple[str, ...],
    overwrite: bool,
    skip_invalid: bool,
    pack_size: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import a directory of Zarr v3 as one commit.

    The files stay as they are: metadata byte for byte, and each chunk file becomes a chunk. An import that was
    interrupted has changed nothing; run again, it stores only what is missing. Groups and arrays that exist are kept,
    and the import refused, unless --overwrite replaces those that ZARR_DIR has; others are never touched.
    """
    source = locate(repo)
    repository = open_writable(source.location)
    request = ImportRequest(
        source=str(absolute(directory)),
        state_dir=_state_dir(),
        branch=branch or _branch_of(source),
        path=_node_path(source.key(path)),
        message=message or f"import {os.path.basename(os.path.abspath(directory))}",
        metadata=parse_metadata(meta) or None,
        overwrite=overwrite,
        skip_invalid=skip_invalid,
        dry_run=dry_run,
        pack_bytes=pack_size,
    )
    with _bar("importing") as show:
        done = import_directory(repository, request, show)
    facts: dict[str, Any] = {
        "snapshot_id": None if done.snapshot_id is None else str(done.snapshot_id),
        "repeated": done.is_repeated,
        "nodes": done.nodes,
        "chunks": done.chunks,
        "bytes": done.bytes,
        "stored_chunks": done.stored_chunks,
        "stored_bytes": done.stored_bytes,
        "replaced": [node_key(replaced) for replaced in done.replaced],
        "invalid": [{"path": one.path, "reason": one.reason} for one in done.invalid],
        "untracked": done.untracked,
        "dry_run": dry_run,
    }
    if as_json:
        print_json(facts)
        return
    what = f"{plural(done.nodes, 'node')}, {plural(done.chunks, 'chunk')}, {human_bytes(done.bytes)}"
    if dry_run:
        click.echo(f"would import {what}")
    elif done.is_repeated:
        click.echo(f"imported already, as {facts['snapshot_id']}: {what}")
    elif done.snapshot_id is None:
        click.echo(f"nothing to import: all of it is there already ({what})")
    else:
        click.echo(f"committed {facts['snapshot_id']}: {what}")
    _list("replaced" if not dry_run else "would replace", [quoted(node_name(path)) for path in done.replaced])
    _list("left out", [f"{quoted(one.path)}: {one.reason}" for one in done.invalid])
    _list("not imported, as it is no Zarr key:", [quoted(path) for path in done.untracked])


def _list(what: str, lines: list[str]) -> None:
    for line in lines[:_SHOWN]:
        say(f"{what} {line}", err=True)
    if len(lines) > _SHOWN:
        click.echo(f"and {len(lines) - _SHOWN:,} more; --json lists them all", err=True)


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
        str(absolute(directory)), _node_path(source.key(node)), force, delete, dry_run, _state_dir()
    )
    with open_lineage_cache(repository) as cache, _bar("exporting") as show:
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
        _list("cannot be exported:", [f"{quoted(one.path)}: {one.reason}" for one in done.failed])
        if done.failed:
            rest = "all else would be" if dry_run else "all else is there"
            say(
                f"{rest}; '{command('fsck', redact(source.location))}' says whether the repository is damaged", err=True
            )
    if done.failed:
        click.get_current_context().exit(_DAMAGED)


def _state_dir() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "icefs")


@contextmanager
def _bar(what: str) -> Iterator[Callable[[Transferred], None]]:
    """Shows a bar if it takes long and somebody looks; gives what to tell it."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console  # 100 ms that a pipe does not pay
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TextColumn("{task.fields[files]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=None, files="")
    started = time.monotonic()

    def show(done: Transferred) -> None:
        if time.monotonic() - started > PATIENCE_S:
            bar.start()
        files = f"{done.files:,}/{plural(done.total_files, 'file')}"
        bar.update(task, completed=done.bytes, total=done.total_bytes or None, files=files)

    try:
        yield show
    finally:
        bar.stop()
