"""`icefs init`: makes a repository."""

import contextlib

import click

from icefs.cli.options import json_option, print_json, say
from icefs.engine.writing import WritableRepository
from icefs.storage.url import open_storage, redact
from icefs.words import command, quoted


@click.command()
@click.argument("repository", metavar="REPO")
@click.option("--spec-version", type=click.Choice(["1", "2"]), default="2", show_default=True, help="Of the format.")
@json_option
def init(repository: str, spec_version: str, as_json: bool) -> None:
    """Make an empty repository, with the branch main.

    REPO is a directory or prefix that holds nothing yet; a directory is made.
    """
    with contextlib.closing(open_storage(repository)) as storage:
        WritableRepository.create(storage, spec_version=int(spec_version)).close()
        location = redact(storage.url)
    shown = redact(repository)
    if as_json:
        print_json({"repository": location, "spec_version": int(spec_version)})
    else:
        say(f"made {quoted(shown)}; mount it with '{command('mount', shown, 'MNT')}'")
