"""`icefs info` and `icefs inspect`: facts about a repository, a mount, or one file of a repository."""

from typing import Any

import click

from icefs.cli.options import human_time, iso, json_option, print_json
from icefs.cli.repos import locate, open_repository
from icefs.clock import to_datetime
from icefs.engine.repository import Repository
from icefs.errors import InvalidInputError, NotFoundError, ObjectNotFoundError, SnapshotNotFoundError
from icefs.format.ids import ManifestId
from icefs.format.layout import REPO_INFO, SNAPSHOTS


@click.command()
@click.argument("repo", metavar="[PATH|REPO]", required=False)
@json_option
def info(repo: str | None, as_json: bool) -> None:
    """Show facts about a repository or a mount.

    For a path in a mount: what is mounted, and the tree that the path lies in.
    """
    source = locate(repo)
    if source.mounted is not None:
        facts = source.mounted.read_json("info.json")
    else:
        facts = describe_repository(open_repository(source.location))
    if as_json:
        print_json(facts)
    else:
        _print_facts(facts)


def describe_repository(repository: Repository) -> dict[str, Any]:
    """Describes a repository for programs; what spec version 1 does not have is None."""
    refs = repository.refs(refresh=False)
    facts: dict[str, Any] = {
        "location": repository.storage.url,
        "spec_version": repository.spec_version,
        "status": None,
        "branches": len(refs.branches),
        "tags": len(refs.tags),
        "snapshots": _count_snapshots(repository),
        "metadata": None,
        "feature_flags": None,
        "config": config_to_json(repository.config),
    }
    if repository.spec_version > 1:
        status = repository.get_status()
        facts["status"] = {
            "availability": status.availability.name.lower(),
            "set_at": iso(to_datetime(status.set_at)),
            "reason": status.limited_availability_reason,
        }
        facts["metadata"] = dict(repository.get_metadata())
        facts["feature_flags"] = {flag.name: flag.enabled for flag in repository.feature_flags()}
    return facts
