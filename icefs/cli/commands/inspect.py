"""`icefs inspect`: a file of a repository as JSON."""

import contextlib
from typing import Any

import click

from icefs.cli.support.options import json_option, print_json
from icefs.cli.support.repos import locate, open_repository
from icefs.engine.read.inspect import inspect_manifest, inspect_repo_info, inspect_snapshot, inspect_transaction_log
from icefs.engine.repository import Repository
from icefs.errors import InvalidInputError, NotFoundError, ObjectNotFoundError
from icefs.format.ids import ManifestId
from icefs.format.layout import REPO_INFO
from icefs.words import quoted


@click.command()
@click.argument("repo", metavar="PATH|REPO")
@click.argument("what", metavar="[repo|REF|ID]", default=REPO_INFO)
@click.option("--transactions", is_flag=True, help="Show the snapshot's transaction log instead of the snapshot.")
@json_option
def inspect(repo: str, what: str, transactions: bool, as_json: bool) -> None:
    """Show a file of the repository as JSON.

    The repo info (the default), the snapshot or transaction log that a branch, tag or snapshot id names, or the
    manifest with an id.
    """
    print_json(_inspect(open_repository(locate(repo).location), what, transactions=transactions))


def _inspect(repository: Repository, what: str, *, transactions: bool) -> Any:
    if what == REPO_INFO and not transactions:
        return inspect_repo_info(repository.context)
    try:
        snapshot_id = repository.resolve_ref(what)
    except NotFoundError as error:
        if not transactions:
            with contextlib.suppress(InvalidInputError, ObjectNotFoundError):
                return inspect_manifest(repository.assets, ManifestId.parse(what))
        kinds = "branch, tag or snapshot" if transactions else "branch, tag, snapshot or manifest"
        raise type(error)(
            f"no {kinds} is called {quoted(what)}",
            hint="'icefs log' lists snapshots, and inspecting a snapshot lists manifests",
        ) from None
    if transactions:
        return inspect_transaction_log(repository.context, snapshot_id)
    return inspect_snapshot(repository.assets, snapshot_id)
