"""`icefs import --virtual`: the import of references, and what is said of it."""

from typing import Any

import click

from icefs.cli.support.exit_codes import STORAGE
from icefs.cli.support.options import human_bytes, print_json, say
from icefs.cli.support.repos import open_writable
from icefs.cli.support.transfers import list_lines, transfer_bar
from icefs.transfer.virtual.importing import Referred, VirtualRequest, import_virtual
from icefs.words import command, node_key, node_name, plural, quoted, shell_word


def run_virtual(location: str, request: VirtualRequest, *, as_json: bool) -> None:
    """Imports references into the repository at a location, and says what was done.

    Raises:
        IcefsError: as `import_virtual`.
    """
    repository = open_writable(location)
    with transfer_bar("importing") as show:
        done = import_virtual(repository, request, show)
    if as_json:
        print_json(_facts(done, dry_run=request.dry_run))
    else:
        _say(done, location, dry_run=request.dry_run)
    if done.left_out:
        click.get_current_context().exit(STORAGE)


def _facts(done: Referred, *, dry_run: bool) -> dict[str, Any]:
    return {
        "snapshot_id": None if done.snapshot_id is None else str(done.snapshot_id),
        "files": done.files,
        "arrays": [
            {
                "path": node_key(array.path),
                "shape": list(array.shape),
                "chunk_shape": list(array.chunk_shape),
                "references": array.references,
                "bytes": array.bytes,
                "copied_chunks": array.copied_chunks,
                "copied_bytes": array.copied_bytes,
            }
            for array in done.arrays
        ],
        "containers": [container.url_prefix for container in done.containers],
        "allow_virtual": done.allow,
        "replaced": [node_key(path) for path in done.replaced],
        "invalid": [{"file": one.file, "path": one.path, "reason": one.reason} for one in done.left_out],
        "unchecked": done.unchecked,
        "codecs": done.codecs,
        "dry_run": dry_run,
    }


def _say(done: Referred, location: str, *, dry_run: bool) -> None:
    references = sum(array.references for array in done.arrays)
    what = (
        f"{plural(len(done.arrays), 'array')} of {plural(done.files, 'file')}, {plural(references, 'reference')} to "
        f"{human_bytes(sum(array.bytes for array in done.arrays))}"
    )
    click.echo(f"would refer to {what}" if dry_run else f"committed {done.snapshot_id}: {what}")
    for array in done.arrays if dry_run else ():
        shape, chunks = (" x ".join(map(str, sizes)) or "scalar" for sizes in (array.shape, array.chunk_shape))
        held = [f"{plural(array.references, 'reference')} to {human_bytes(array.bytes)}"] if array.references else []
        held += [f"{plural(array.copied_chunks, 'chunk')} copied"] if array.copied_chunks else []
        say(f"  {quoted(node_name(array.path))}  {shape}, chunks of {chunks}: {', '.join(held) or 'no chunks'}")
    list_lines("would replace" if dry_run else "replaced", [quoted(node_name(path)) for path in done.replaced])
    list_lines("left out", [f"{quoted(one.path)} of {quoted(one.file)}: {one.reason}" for one in done.left_out])
    list_lines("no checksum, as the server tells none:", [quoted(name) for name in done.unchecked])
    if done.codecs:
        say(f"readers need the codecs {', '.join(done.codecs)}")
    for container in done.containers:
        say(f"{'needs' if dry_run else 'added'} the virtual chunk container {quoted(container.url_prefix)}")
    if done.allow:
        options = "".join(f" --allow-virtual {shell_word(prefix)}" for prefix in done.allow)
        say(f"mount it with: {command('mount', location, 'DIRECTORY')}{options}")
