"""`icefs init`: makes a repository."""

import contextlib

import click

from icefs.cli.support.options import json_option, print_json, say
from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage, redact
from icefs.words import command, quoted


@click.command()
@click.argument("repository", metavar="REPO")
@click.option("--spec-version", type=click.Choice(["1", "2"]), default="2", show_default=True, help="Of the format.")
@click.option(
    "--single-writer", is_flag=True, help="Make it also where the store ignores conditions of writes; see above."
)
@json_option
def init(repository: str, spec_version: str, single_writer: bool, as_json: bool) -> None:
    """Make an empty repository, with the branch main.

    REPO is a directory or prefix that holds nothing yet; a directory is made. On an object store, init first tries
    whether the store keeps the conditions of writes, with an object of its own for a moment. On a store that ignores
    them, of two commits at once one is lost without an error: use --single-writer only if there is never a second
    writer.
    """
    with contextlib.closing(open_storage(repository)) as storage:
        WritableRepository.create(storage, spec_version=int(spec_version), check_conditions=not single_writer).close()
        location = redact(storage.url)
    shown = redact(repository)
    if as_json:
        print_json({"repository": location, "spec_version": int(spec_version)})
    else:
        say(f"made {quoted(shown)}; mount it with '{command('mount', shown, 'MNT')}'")
