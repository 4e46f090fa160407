"""`icefs import`: a directory of Zarr v3, or files in other formats, into a repository."""

import os
from collections.abc import Mapping
from typing import Any

import click

from icefs.cli.support.commits import parse_metadata
from icefs.cli.support.mounts import absolute
from icefs.cli.support.options import dry_run_option, human_bytes, json_option, parse_size, print_json, size_text
from icefs.cli.support.repos import DEFAULT_BRANCH, Source, locate, open_writable
from icefs.cli.support.transfers import as_node_path, list_lines, state_home, transfer_bar
from icefs.engine.write.packing import DEFAULT_PACK_BYTES
from icefs.errors import InvalidInputError
from icefs.transfer.directory_import import ImportRequest, import_directory
from icefs.words import node_key, node_name, plural, quoted

_SHOWN = 20


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


def _refuse(options: Mapping[str, object], why: str) -> None:
    for name, value in options.items():
        if value:
            raise InvalidInputError(f"{name} {why}")


@click.command("import")
@click.argument("sources", metavar="ZARR_DIR|FILES...", nargs=-1, required=True)
@click.argument("repo")
@click.option("--branch", help="The branch to commit to (the default is main).")
@click.option(
    "--path",
    "--group",
    "path",
    default="/",
    show_default=True,
    help="The group or array that ZARR_DIR becomes, or that FILES go into, below REPO if that is in a mount.",
)
@click.option("-m", "--message", help="The commit message.")
@click.option("--meta", multiple=True, metavar="KEY=VALUE", help="Metadata of the commit (repeatable).")
@click.option("--overwrite", is_flag=True, help="Replace groups and arrays that exist.")
@click.option("--skip-invalid", is_flag=True, help="Leave out files that cannot be imported.")
@click.option(
    "--pack-size",
    type=parse_size,
    default=size_text(DEFAULT_PACK_BYTES),
    show_default=True,
    metavar="SIZE",
    help="How large an object may become that small chunks share; 0 gives each its own.",
)
@click.option("--virtual", is_flag=True, help="Refer to FILES where they are, instead of copying.")
@click.option("--copy", "copies", is_flag=True, help="Copy the values of FILES, which are NetCDF, HDF5, Zarr v2, …")
@click.option("--concat", metavar="DIM", help="Join FILES along a dimension, in their order.")
@click.option("--append", is_flag=True, help="With --concat: add to the arrays that are there.")
@click.option("--variable", "variables", multiple=True, metavar="NAME", help="Of FILES only this array (repeatable).")
@click.option("--drop", multiple=True, metavar="NAME", help="Of FILES not this array (repeatable).")
@click.option(
    "--loadable",
    multiple=True,
    metavar="NAME",
    help="With --virtual: copy the values of this array, too (repeatable).",
)
@dry_run_option
@json_option
def import_(
    sources: tuple[str, ...],
    repo: str,
    branch: str | None,
    path: str,
    message: str | None,
    meta: tuple[str, ...],
    overwrite: bool,
    skip_invalid: bool,
    pack_size: int,
    virtual: bool,
    copies: bool,
    concat: str | None,
    append: bool,
    variables: tuple[str, ...],
    drop: tuple[str, ...],
    loadable: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import a directory of Zarr v3, or files in other formats, as one commit.

    The files stay as they are: metadata byte for byte, and each chunk file becomes a chunk. An import that was
    interrupted has changed nothing; run again, it stores only what is missing. Groups and arrays that exist are kept,
    and the import refused, unless --overwrite replaces those that ZARR_DIR has; others are never touched.

    With --virtual the commit refers to the arrays of FILES (NetCDF, HDF5, Zarr, GRIB, TIFF, FITS; paths, patterns, and
    URLs: s3://, gs://, az://, http(s)://) where they are; 'icefs help transfer' says more. It needs: pip install
    'icefs[virtual]'. With --copy the commit holds the values of such files, and needs them no more.
    """
    source = locate(repo)
    if virtual and copies:
        raise InvalidInputError(
            "--virtual and --copy exclude each other", hint="--virtual --loadable NAME copies the values of one array"
        )
    if copies:
        # With numpy and what decodes, which an import of a directory does not need.
        from icefs.cli.support.copied_imports import run_copy
        from icefs.transfer.copied.importing import CopyRequest

        _refuse({"--skip-invalid": skip_invalid}, "does not go with --copy")
        _refuse({"--loadable": loadable}, "goes with --virtual only: --copy copies all values")
        values = CopyRequest(
            files=sources,
            branch=branch or _branch_of(source),
            path=as_node_path(source.key(path)),
            message=message or "",
            metadata=parse_metadata(meta) or None,
            concat=concat,
            append=append,
            overwrite=overwrite,
            variables=variables,
            drop=drop,
            dry_run=dry_run,
        )
        run_copy(source.location, values, as_json=as_json)
        return
    if virtual:
        # With numpy's work on references, which a copy does not need.
        from icefs.cli.support.virtual_imports import run_virtual
        from icefs.transfer.virtual.importing import VirtualRequest

        _refuse({"--skip-invalid": skip_invalid}, "does not go with --virtual")
        wanted = VirtualRequest(
            files=sources,
            branch=branch or _branch_of(source),
            path=as_node_path(source.key(path)),
            message=message or "",
            metadata=parse_metadata(meta) or None,
            concat=concat,
            append=append,
            overwrite=overwrite,
            variables=variables,
            drop=drop,
            loadable=loadable,
            dry_run=dry_run,
        )
        run_virtual(source.location, wanted, as_json=as_json)
        return
    _refuse(
        {"--concat": concat, "--append": append, "--variable": variables, "--drop": drop},
        "goes with --virtual or --copy only",
    )
    _refuse({"--loadable": loadable}, "goes with --virtual only")
    if len(sources) > 1:
        raise InvalidInputError(
            f"one directory is imported at a time, not {len(sources)}",
            hint="--virtual and --copy take many files; --path gives each directory a place of its own",
        )
    directory = sources[0]
    repository = open_writable(source.location)
    request = ImportRequest(
        source=str(absolute(directory)),
        state_dir=state_home(),
        branch=branch or _branch_of(source),
        path=as_node_path(source.key(path)),
        message=message or f"import {os.path.basename(os.path.abspath(directory))}",
        metadata=parse_metadata(meta) or None,
        overwrite=overwrite,
        skip_invalid=skip_invalid,
        dry_run=dry_run,
        pack_bytes=pack_size,
    )
    with transfer_bar("importing") as show:
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
    list_lines("replaced" if not dry_run else "would replace", [quoted(node_name(path)) for path in done.replaced])
    list_lines("left out", [f"{quoted(one.path)}: {one.reason}" for one in done.invalid])
    list_lines("not imported, as it is no Zarr key:", [quoted(path) for path in done.untracked])
