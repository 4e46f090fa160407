"""`icefs branch` and `icefs tag`: lists, makes, deletes and moves refs."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from icefs.cli.support.options import Group, json_option, print_json, print_rows, say
from icefs.cli.support.repos import DEFAULT_BRANCH, Source, locate, open_repository, open_writable
from icefs.engine.read.refs import Refs
from icefs.engine.write.repository import WritableRepository
from icefs.errors import AlreadyExistsError, IcefsError
from icefs.format.ids import SnapshotId
from icefs.storage.url import redact
from icefs.words import command, quoted

_repo_option = click.option(
    "--repo", metavar="PATH|REPO", help="The repository, or its mount; by default that of the current directory."
)


@click.group(cls=Group)
def branch() -> None:
    """List, create, delete and reset branches."""


@click.group(cls=Group)
def tag() -> None:
    """List, create and delete tags."""


def _listing_options[F: Callable[..., Any]](command: F) -> F:
    """Adds the repository as an argument, and as the option that the other commands of the group have."""
    return click.argument("where", metavar="[PATH|REPO]", required=False)(_repo_option(json_option(command)))


def _listed(where: str | None, repo: str | None) -> Refs:
    if where is not None and repo is not None:
        raise click.UsageError("the repository is given twice", click.get_current_context())
    source = locate(where) if repo is None else locate(repo, is_repo=True)
    return open_repository(source.location).refs()


@branch.command("list")
@_listing_options
def list_branches(where: str | None, repo: str | None, as_json: bool) -> None:
    """List the branches of a repository, and the snapshots they are at.

    The default is the repository of the current directory.
    """
    _print_refs(_listed(where, repo).branches, "there are no branches", as_json=as_json)


@tag.command("list")
@_listing_options
def list_tags(where: str | None, repo: str | None, as_json: bool) -> None:
    """List the tags of a repository, and the snapshots they name.

    The default is the repository of the current directory.
    """
    _print_refs(_listed(where, repo).tags, "there are no tags", as_json=as_json)


def _print_refs(refs: Mapping[str, SnapshotId], none: str, *, as_json: bool) -> None:
    if as_json:
        print_json([{"name": name, "snapshot_id": str(refs[name])} for name in sorted(refs)])
    else:
        rows = [(name, str(refs[name])) for name in sorted(refs)]
        print_rows(("name", "snapshot"), rows, folding=("name",), none=none)


# Changes.


@contextlib.contextmanager
def _changing(repo: str | None) -> Iterator[tuple[WritableRepository, Source]]:
    """Opens a repository for a change, which its mount, where we came through one, then shows at once."""
    source = locate(repo, is_repo=True)
    yield open_writable(source.location), source
    if source.mounted is not None:
        # The change is made whether or not the mount answers; it looks by itself in a moment.
        with contextlib.suppress(IcefsError, OSError):
            source.mounted.ask("refresh")


def _resolve(repository: WritableRepository, source: Source, ref: str | None) -> SnapshotId:
    """Returns the snapshot that was asked for; by default that of the mounted tree, or the tip of main."""
    return repository.resolve_ref(ref or source.ref or DEFAULT_BRANCH)


def _tell(facts: Mapping[str, str], text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(facts)
    else:
        say(text)


@branch.command("create")
@click.argument("name")
@click.argument("ref", required=False)
@click.option("--force", is_flag=True, help="Also where a tag has the name, which then means the branch.")
@_repo_option
@json_option
def create_branch(name: str, ref: str | None, force: bool, repo: str | None, as_json: bool) -> None:
    """Create the branch NAME at REF: a snapshot id, branch or tag.

    REF defaults to the snapshot of the mounted tree, and outside of a mount to the branch main.
    """
    with _changing(repo) as (repository, source):
        snapshot_id = _resolve(repository, source, ref)
        if name in repository.refs().tags and not force:
            raise _taken(name, "tag", "branch", "choose another name, or use --force if the name is to mean the branch")
        repository.create_branch(name, snapshot_id)
    _tell(_facts(name, snapshot_id), f"created branch {quoted(name)} at {snapshot_id}", as_json=as_json)


@branch.command("delete")
@click.argument("name")
@_repo_option
@json_option
def delete_branch(name: str, repo: str | None, as_json: bool) -> None:
    """Delete the branch NAME; its snapshots stay."""
    with _changing(repo) as (repository, _):
        snapshot_id = repository.lookup_branch(name)
        repository.delete_branch(name)
        create = "branch create --force" if name in repository.refs().tags else "branch create"
    undo = command(create, name, str(snapshot_id), repo=_again(repo))
    text = f"deleted branch {quoted(name)}, which was at {snapshot_id}; '{undo}' brings it back"
    _tell(_facts(name, snapshot_id), text, as_json=as_json)


@branch.command("reset")
@click.argument("name")
@click.argument("ref")
@_repo_option
@json_option
def reset_branch(name: str, ref: str, repo: str | None, as_json: bool) -> None:
    """Point the branch NAME at REF: a snapshot id, branch or tag.

    Fails if somebody commits to the branch at the same moment.
    """
    with _changing(repo) as (repository, _):
        before = repository.lookup_branch(name)
        snapshot_id = repository.resolve_ref(ref)
        repository.reset_branch(name, snapshot_id, expected=before)
    undo = command("branch reset", name, str(before), repo=_again(repo))
    text = f"branch {quoted(name)} is at {snapshot_id}; it was at {before}: '{undo}' brings it back"
    _tell({**_facts(name, snapshot_id), "previous_id": str(before)}, text, as_json=as_json)


@tag.command("create")
@click.argument("name")
@click.argument("ref", required=False)
@_repo_option
@json_option
def create_tag(name: str, ref: str | None, repo: str | None, as_json: bool) -> None:
    """Create the tag NAME at REF: a snapshot id, branch or tag.

    REF defaults to the snapshot of the mounted tree, and outside of a mount to the branch main.
    """
    with _changing(repo) as (repository, source):
        snapshot_id = _resolve(repository, source, ref)
        if name in repository.refs().branches:
            raise _taken(name, "branch", "tag", "choose another name")
        repository.create_tag(name, snapshot_id)
    _tell(_facts(name, snapshot_id), f"created tag {quoted(name)} at {snapshot_id}", as_json=as_json)


@tag.command("delete")
@click.argument("name")
@_repo_option
@json_option
def delete_tag(name: str, repo: str | None, as_json: bool) -> None:
    """Delete the tag NAME; its snapshot stays. The name cannot be used again, which is part of the format."""
    with _changing(repo) as (repository, _):
        snapshot_id = repository.lookup_tag(name)
        repository.delete_tag(name)
    other = command("tag create", "NAME", str(snapshot_id), repo=_again(repo))
    was = f"deleted tag {quoted(name)}, which was at {snapshot_id}"
    text = f"{was}; its name cannot be used again; '{other}' makes another"
    _tell(_facts(name, snapshot_id), text, as_json=as_json)


def _taken(name: str, by: str, kind: str, hint: str) -> AlreadyExistsError:
    """Makes the error for a second ref of one name: where a name means both, commands take the branch."""
    return AlreadyExistsError(
        f"there is a {by} {quoted(name)}: where a {kind} has the same name, no command can name the tag",
        hint=hint,
        name=name,
    )


def _again(repo: str | None) -> str | None:
    """Returns the repository for a command that is printed."""
    return None if repo is None else redact(repo)


def _facts(name: str, snapshot_id: SnapshotId) -> dict[str, str]:
    return {"name": name, "snapshot_id": str(snapshot_id)}
