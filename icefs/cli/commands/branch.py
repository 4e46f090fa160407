"""`icefs branch`: lists, makes, deletes and moves branches."""

import click

from icefs.cli.support.options import Group, json_option
from icefs.cli.support.refs import (
    again,
    changing,
    listed_refs,
    listing_options,
    print_refs,
    ref_facts,
    repo_option,
    report,
    resolve,
    taken,
)
from icefs.words import command, quoted


@click.group(cls=Group)
def branch() -> None:
    """List, create, delete and reset branches."""


@branch.command("list")
@listing_options
def list_branches(where: str | None, repo: str | None, as_json: bool) -> None:
    """List the branches of a repository, and the snapshots they are at.

    The default is the repository of the current directory.
    """
    print_refs(listed_refs(where, repo).branches, "there are no branches", as_json=as_json)


# Changes.


@branch.command("create")
@click.argument("name")
@click.argument("ref", required=False)
@click.option("--force", is_flag=True, help="Also where a tag has the name, which then means the branch.")
@repo_option
@json_option
def create_branch(name: str, ref: str | None, force: bool, repo: str | None, as_json: bool) -> None:
    """Create the branch NAME at REF: a snapshot id, branch or tag.

    REF defaults to the snapshot of the mounted tree, and outside of a mount to the branch main.
    """
    with changing(repo) as (repository, source):
        snapshot_id = resolve(repository, source, ref)
        if name in repository.refs().tags and not force:
            raise taken(name, "tag", "branch", "choose another name, or use --force if the name is to mean the branch")
        repository.create_branch(name, snapshot_id)
    report(ref_facts(name, snapshot_id), f"created branch {quoted(name)} at {snapshot_id}", as_json=as_json)


@branch.command("delete")
@click.argument("name")
@repo_option
@json_option
def delete_branch(name: str, repo: str | None, as_json: bool) -> None:
    """Delete the branch NAME; its snapshots stay."""
    with changing(repo) as (repository, _):
        snapshot_id = repository.lookup_branch(name)
        repository.delete_branch(name)
        create = "branch create --force" if name in repository.refs().tags else "branch create"
    undo = command(create, name, str(snapshot_id), repo=again(repo))
    text = f"deleted branch {quoted(name)}, which was at {snapshot_id}; '{undo}' brings it back"
    report(ref_facts(name, snapshot_id), text, as_json=as_json)


@branch.command("reset")
@click.argument("name")
@click.argument("ref")
@repo_option
@json_option
def reset_branch(name: str, ref: str, repo: str | None, as_json: bool) -> None:
    """Point the branch NAME at REF: a snapshot id, branch or tag.

    Fails if another process commits to the branch at the same moment.
    """
    with changing(repo) as (repository, _):
        before = repository.lookup_branch(name)
        snapshot_id = repository.resolve_ref(ref)
        repository.reset_branch(name, snapshot_id, expected=before)
    undo = command("branch reset", name, str(before), repo=again(repo))
    text = f"branch {quoted(name)} is at {snapshot_id}; it was at {before}: '{undo}' brings it back"
    report({**ref_facts(name, snapshot_id), "previous_id": str(before)}, text, as_json=as_json)
