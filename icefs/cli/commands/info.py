"""`icefs info` and `icefs inspect`: facts about a repository, a mount, or one file of a repository."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from icefs.cli.support.options import iso, json_option, print_json, say
from icefs.cli.support.repos import locate, open_repository
from icefs.clock import to_datetime
from icefs.engine.read import repo_state
from icefs.engine.repository import Repository
from icefs.errors import UnsupportedError
from icefs.format.config.codec import encode_config
from icefs.format.config.values import RepositoryConfig
from icefs.format.flat.flexbuffer import decode_flexbuffer
from icefs.format.layout import SNAPSHOTS
from icefs.words import quoted


@click.command()
@click.argument("repo", metavar="[PATH|REPO]", required=False)
@json_option
def info(repo: str | None, as_json: bool) -> None:
    """Show facts about a repository or a mount.

    For a path in a mount: what is mounted, and the tree that the path lies in.
    """
    source = locate(repo)
    if source.mounted is not None:
        facts = source.mounted.info | source.mounted.tree_info
    else:
        repository = open_repository(source.location)
        facts = describe_repository(repository)
        if not as_json:  # to people, only what differs from the defaults says something
            facts["config"] = _config(repository.config)
    if as_json:
        print_json(facts)
    else:
        for line in _lines(facts):
            say(line)


def describe_repository(repository: Repository) -> dict[str, Any]:
    """Describes a repository for programs; what spec version 1 does not have is None."""
    refs = repository.refs(refresh=False)
    facts: dict[str, Any] = {
        "repository": repository.storage.url,
        "spec_version": repository.spec_version,
        "status": None,
        "branches": len(refs.branches),
        "tags": len(refs.tags),
        "snapshots": _count_snapshots(repository),
        "metadata": None,
        "feature_flags": None,
        "config": _config(repository.config.effective()),
    }
    if repository.spec_version > 1:
        status = repo_state.status(repository.context)
        facts["status"] = {
            "availability": status.availability.name.lower(),
            "set_at": iso(to_datetime(status.set_at)),
            "reason": status.limited_availability_reason,
        }
        facts["metadata"] = dict(repo_state.metadata(repository.context))
        facts["feature_flags"] = {flag.name: flag.enabled for flag in repo_state.feature_flags(repository.context)}
    return facts


def _config(config: RepositoryConfig) -> Any:
    """Returns a configuration as the repository itself would write it, less what is unset."""

    def prune(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: prune(inner) for name, inner in value.items() if inner is not None}
        return value

    return prune(decode_flexbuffer(encode_config(config)))


def _count_snapshots(repository: Repository) -> int | None:
    """Counts the snapshots in the repo info, or in spec version 1 the files; None where they cannot be listed."""
    if repository.spec_version > 1:
        return len(repository.assets.fetch_repo_info(refresh=False)[0].snapshots)
    try:
        return sum(1 for _ in repository.storage.list_dir(f"{SNAPSHOTS}/"))
    except UnsupportedError:  # a web server
        return None


def _lines(facts: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Yields `name: value` lines for people; unset values are left out."""
    for name, value in facts.items():
        is_time = name.endswith("_s") and isinstance(value, int | float)
        label = f"{indent}{quoted((name.removesuffix('_s') if is_time else name).replace('_', ' '))}:"
        if isinstance(value, dict) and value:
            yield label
            yield from _lines(value, indent + "  ")
        elif value is not None and value not in ({}, []):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{label} {value:g} s" if is_time else f"{label} {text}"
