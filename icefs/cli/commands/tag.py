"""`icefs tag`: lists, makes and deletes tags."""

import click

from icefs.cli.support import refs
from icefs.cli.support.options import Group, json_option
from icefs.words import command, quoted


@click.group(cls=Group)
def tag() -> None:
    """List, create and delete tags."""


@tag.command("list")
@refs.listing_options
def list_tags(where: str | None, repo: str | None, as_json: bool) -> None:
    """List the tags of a repository, and the snapshots they name.

    The default is the repository of the current directory.
    """
    refs.print_refs(refs.listed_refs(where, repo).tags, "there are no tags", as_json=as_json)


@tag.command("create")
@click.argument("name")
@click.argument("ref", required=False)
@refs.repo_option
@json_option
def create_tag(name: str, ref: str | None, repo: str | None, as_json: bool) -> None:
    """Create the tag NAME at REF: a snapshot id, branch or tag.

    REF defaults to the snapshot of the mounted tree, and outside of a mount to the branch main.
    """
    with refs.changing(repo) as (repository, source):
        snapshot_id = refs.resolve(repository, source, ref)
        if name in repository.refs().branches:
            raise refs.taken(name, "branch", "tag", "choose another name")
        repository.create_tag(name, snapshot_id)
    refs.report(refs.ref_facts(name, snapshot_id), f"created tag {quoted(name)} at {snapshot_id}", as_json=as_json)


@tag.command("delete")
@click.argument("name")
@refs.repo_option
@json_option
def delete_tag(name: str, repo: str | None, as_json: bool) -> None:
    """Delete the tag NAME; its snapshot stays. The name cannot be used again, which is part of the format."""
    with refs.changing(repo) as (repository, _):
        snapshot_id = repository.lookup_tag(name)
        repository.delete_tag(name)
    other = command("tag create", "NAME", str(snapshot_id), repo=refs.again(repo))
    was = f"deleted tag {quoted(name)}, which was at {snapshot_id}"
    text = f"{was}; its name cannot be used again; '{other}' makes another"
    refs.report(refs.ref_facts(name, snapshot_id), text, as_json=as_json)
