"""`icefs import --copy`: the import of values, and what is said of it."""

from typing import Any

import click

from icefs.cli.support.exit_codes import STORAGE
from icefs.cli.support.options import human_bytes, print_json, say
from icefs.cli.support.repos import open_writable
from icefs.cli.support.transfers import list_lines, transfer_bar
from icefs.transfer.copied.importing import CopiedFiles, CopyRequest, import_copies
from icefs.words import node_key, node_name, plural, quoted


def run_copy(location: str, request: CopyRequest, *, as_json: bool) -> None:
    """Imports values into the repository at a location, and says what was done.

    Raises:
        IcefsError: as `import_copies`.
    """
    repository = open_writable(location)
    with transfer_bar("importing") as show:
        done = import_copies(repository, request, show)
    if as_json:
        print_json(_facts(done, dry_run=request.dry_run))
    else:
        _say(done, dry_run=request.dry_run)
    if done.left_out:
        click.get_current_context().exit(STORAGE)


def _facts(done: CopiedFiles, *, dry_run: bool) -> dict[str, Any]:
    return {
        "snapshot_id": None if done.snapshot_id is None else str(done.snapshot_id),
        "files": done.files,
        "arrays": [
            {
                "path": node_key(array.path),
                "shape": list(array.shape),
                "chunk_shape": list(array.chunk_shape),
                "chunks": array.chunks,
                "bytes": array.bytes,
                "codecs": list(array.codecs),
            }
            for array in done.arrays
        ],
        "replaced": [node_key(path) for path in done.replaced],
        "invalid": [{"file": one.file, "path": one.path, "reason": one.reason} for one in done.left_out],
        "dry_run": dry_run,
    }


def _say(done: CopiedFiles, *, dry_run: bool) -> None:
    what = (
        f"{plural(len(done.arrays), 'array')} of {plural(done.files, 'file')}, "
        f"{human_bytes(sum(array.bytes for array in done.arrays))}"
    )
    click.echo(f"would copy {what}" if dry_run else f"committed {done.snapshot_id}: {what}")
    for array in done.arrays if dry_run else ():
        shape, chunks = (" x ".join(map(str, sizes)) or "scalar" for sizes in (array.shape, array.chunk_shape))
        say(
            f"  {quoted(node_name(array.path))}  {shape}, {human_bytes(array.bytes)} in "
            f"{plural(array.chunks, 'chunk')} of {chunks}, {', '.join(array.codecs)}"
        )
    list_lines("would replace" if dry_run else "replaced", [quoted(node_name(path)) for path in done.replaced])
    list_lines("left out", [f"{quoted(one.path)} of {quoted(one.file)}: {one.reason}" for one in done.left_out])
