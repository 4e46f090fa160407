"""`icefs branch`: lists, makes, deletes and moves branches."""

import click

from icefs.cli.support import refs
from icefs.cli.support.options import Group, json_option
from icefs.words import command, quoted


@click.group(cls=Group)
def branch() -> None:
    """List, create, delete and reset branches."""


@branch.command("list")
@refs.listing_options
def list_branches(where: str | None, repo: str | None, as_json: bool) -> None:
    """List the branches of a repository, and the snapshots they are at.

    The default is the repository of the current directory.
    """
    refs.print_refs(refs.listed_refs(where, repo).branches, "there are no branches", as_json=as_json)


# Changes.


@branch.command("create")
@click.argument("name")
@click.argument("ref", required=False)
@click.option("--force", is_flag=True, help="Also where a tag has the name, which then means the branch.")
@refs.repo_option
@json_option
def create_branch(name: str, ref: str | None, force: bool, repo: str | None, as_json: bool) -> None:
    """Create the branch NAME at REF: a snapshot id, branch or tag.

    REF defaults to the snapshot of the mounted tree, and outside of a mount to the branch main.
    """
    with refs.changing(repo) as (repository, source):
        snapshot_id = refs.resolve(repository, source, ref)
        if name in repository.refs().tags and not force:
            raise refs.taken(
                name, "tag", "branch", "choose another name, or use --force if the name is to mean the branch"
            )
        repository.create_branch(name, snapshot_id)
    refs.report(refs.ref_facts(name, snapshot_id), f"created branch {quoted(name)} at {snapshot_id}", as_json=as_json)


@branch.command("delete")
@click.argument("name")
@refs.repo_option
@json_option
def delete_branch(name: str, repo: str | None, as_json: bool) -> None:
    """Delete the branch NAME; its snapshots stay."""
    with refs.changing(repo) as (repository, _):
        snapshot_id = repository.lookup_branch(name)
        repository.delete_branch(name)
        create = "branch create --force" if name in repository.refs().tags else "branch create"
    undo = command(create, name, str(snapshot_id), repo=refs.again(repo))
    text = f"deleted branch {quoted(name)}, which was at {snapshot_id}; '{undo}' brings it back"
    refs.report(refs.ref_facts(name, snapshot_id), text, as_json=as_json)


@branch.command("reset")
@click.argument("name")
@click.argument("ref")
@refs.repo_option
@json_option
def reset_branch(name: str, ref: str, repo: str | None, as_json: bool) -> None:
    """Point the branch NAME at REF: a snapshot id, branch or tag.

    Fails if another process commits to the branch at the same moment.
    """
    with refs.changing(repo) as (repository, _):
        before = repository.lookup_branch(name)
        snapshot_id = repository.resolve_ref(ref)
        repository.reset_branch(name, snapshot_id, expected=before)
    undo = command("branch reset", name, str(before), repo=refs.again(repo))
    text = f"branch {quoted(name)} is at {snapshot_id}; it was at {before}: '{undo}' brings it back"
    refs.report({**refs.ref_facts(name, snapshot_id), "previous_id": str(before)}, text, as_json=as_json)
