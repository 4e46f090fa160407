"""Branches and tags: lists, changes and reports that `icefs branch` and `icefs tag` have in common."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from icefs.cli.support.options import json_option, print_json, print_rows, say
from icefs.cli.support.repos import DEFAULT_BRANCH, Source, locate, open_repository, open_writable
from icefs.engine.read.refs import Refs
from icefs.engine.write.repository import WritableRepository
from icefs.errors import AlreadyExistsError, IcefsError
from icefs.format.ids import SnapshotId
from icefs.storage.url import redact
from icefs.words import quoted

repo_option = click.option(
    "--repo", metavar="PATH|REPO", help="The repository, or its mount; by default that of the current directory."
)


def listing_options[F: Callable[..., Any]](command: F) -> F:
    """Adds the repository as an argument, and as the option that the other commands of the group have."""
    return click.argument("where", metavar="[PATH|REPO]", required=False)(repo_option(json_option(command)))


def listed_refs(where: str | None, repo: str | None) -> Refs:
    """Reads the refs of a repository that is given in one of two ways, or of the mount of the current directory.

    Raises:
        click.UsageError: it is given in both ways.
        IcefsError: it cannot be opened.
    """
    if where is not None and repo is not None:
        raise click.UsageError(
            "the repository is given twice, as an argument and with --repo: leave one out", click.get_current_context()
        )
    source = locate(where) if repo is None else locate(repo, is_repo=True)
    return open_repository(source.location).refs()


def print_refs(refs: Mapping[str, SnapshotId], none: str, *, as_json: bool) -> None:
    """Prints refs and their snapshots by name; `none` is the sentence for an empty list."""
    if as_json:
        print_json([{"name": name, "snapshot_id": str(refs[name])} for name in sorted(refs)])
    else:
        rows = [(name, str(refs[name])) for name in sorted(refs)]
        print_rows(("name", "snapshot"), rows, folding=("name",), none=none)


@contextlib.contextmanager
def changing(repo: str | None) -> Iterator[tuple[WritableRepository, Source]]:
    """Opens a repository for a change, which its mount, where we came through one, then shows at once."""
    source = locate(repo, is_repo=True)
    yield open_writable(source.location), source
    if source.mounted is not None:
        # The change is made whether or not the mount answers; it looks by itself in a moment.
        with contextlib.suppress(IcefsError, OSError):
            source.mounted.ask("refresh")


def resolve(repository: WritableRepository, source: Source, ref: str | None) -> SnapshotId:
    """Returns the snapshot of a ref; by default that of the mounted tree, or the tip of main."""
    return repository.resolve_ref(ref or source.ref or DEFAULT_BRANCH)


def report(facts: Mapping[str, str], text: str, *, as_json: bool) -> None:
    """Prints what was done: facts for programs, or a sentence."""
    if as_json:
        print_json(facts)
    else:
        say(text)


def taken(name: str, by: str, kind: str, hint: str) -> AlreadyExistsError:
    """Makes the error for a second ref of one name: where a name means both, commands take the branch."""
    return AlreadyExistsError(
        f"there is a {by} {quoted(name)}: where a {kind} has the same name, no command can name the tag",
        hint=hint,
        name=name,
    )


def again(repo: str | None) -> str | None:
    """Returns the repository for a command that is printed."""
    return None if repo is None else redact(repo)


def ref_facts(name: str, snapshot_id: SnapshotId) -> dict[str, str]:
    """Describes a ref in JSON."""
    return {"name": name, "snapshot_id": str(snapshot_id)}
