"""`icefs init`: makes a repository."""

import contextlib

import click

from icefs.cli.support.interrupts import ending_soon
from icefs.cli.support.options import json_option, print_json, say
from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.store_probe import UPDATE, ignored_conditions
from icefs.format.config.storage import StorageSettings
from icefs.format.config.values import RepositoryConfig
from icefs.storage.base import Storage
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
    writer. It saves in the configuration that the store has no conditional writes, for all programs that commit.
    """
    with ending_soon(), contextlib.closing(open_storage(repository)) as storage:
        config = _without_conditions(storage) if single_writer else None
        WritableRepository.create(
            storage, config, spec_version=int(spec_version), check_conditions=not single_writer
        ).close()
        location = redact(storage.url)
    shown = redact(repository)
    if as_json:
        print_json({"repository": location, "spec_version": int(spec_version)})
    else:
        say(f"made {quoted(shown)}; mount it with '{command('mount', shown, 'MNT')}'")


def _without_conditions(storage: Storage) -> RepositoryConfig | None:
    """Returns the configuration of a repository on a store that ignores conditions; None where it keeps them."""
    ignored = ignored_conditions(storage)
    if not ignored:
        return None
    if UPDATE in ignored:
        return RepositoryConfig(storage=StorageSettings(unsafe_use_conditional_update=False))
    return RepositoryConfig(storage=StorageSettings(unsafe_use_conditional_create=False))
