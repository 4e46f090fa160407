"""`icefs sessions export`: writes the changed files of a working tree that is not mounted to a directory."""

import shutil
from pathlib import Path
from typing import Final

import click

from icefs.cli.commands.sessions.given import GivenTree, given_tree
from icefs.cli.support.options import human_bytes, print_json, say
from icefs.cli.support.working_trees import KnownTree
from icefs.errors import InvalidInputError, SessionStateError
from icefs.words import plural, quoted, some
from icefs.worktree.spool.state import LOST_NAME, SPOOL_NAME

_SHOWN: Final = 20


@click.command("export")
@click.argument("identity", metavar="ID")
@click.argument("target", metavar="DIR", type=click.Path(file_okay=False))
@given_tree(has_repo=True)
def export_tree(given: GivenTree, target: str) -> None:
    """Write the changed files of a working tree that is not mounted to a directory; the working tree stays.

    DIR is made, or empty. Deletions are listed.
    """
    from icefs.cli.support.repos import open_writable
    from icefs.cli.support.steps import steps
    from icefs.vfs.headless import export_left

    tree = given.find()
    directory = Path(target).absolute()
    if directory.exists() and any(directory.iterdir()):
        raise InvalidInputError(f"not an empty directory: {directory}", hint="name one that does not exist yet")
    if not given.dry_run:
        directory.mkdir(parents=True, exist_ok=True)
    if tree.problem is not None:
        _export_raw(tree, directory, dry_run=given.dry_run, as_json=given.as_json)
        return
    with steps() as progress:
        done = export_left(
            open_writable(given.location_of(tree)), tree.directory, None if given.dry_run else directory, progress
        )
    if given.as_json:
        facts = {"files": done.files, "directories": done.directories, "deleted": done.deleted, "lost": done.lost}
        print_json(
            {"id": tree.id, "directory": str(directory), **facts, "bytes": done.num_bytes, "dry_run": given.dry_run}
        )
    else:
        verb = "would write" if given.dry_run else "wrote"
        say(f"{verb} {plural(len(done.files), 'file')}, {human_bytes(done.num_bytes)}, to {quoted(str(directory))}")
        for path in done.deleted[:_SHOWN]:
            say(f"deleted  {quoted(path)}")
        if len(done.deleted) > _SHOWN:
            click.echo(f"and {len(done.deleted) - _SHOWN} more that are deleted: see --json")
    if done.lost:
        were = "was" if len(done.lost) == 1 else "were"
        paths = some([quoted(path) for path in done.lost], 3)
        raise SessionStateError(
            f"{plural(len(done.lost), 'file')} {were} lost with the power, or the disk: {paths}",
            hint="the others were exported",
        )


def _export_raw(tree: KnownTree, directory: Path, *, dry_run: bool, as_json: bool) -> None:
    """Copies the bytes of a tree of which nobody knows any more what files they were of."""
    found = [
        path
        for name in (SPOOL_NAME, LOST_NAME)
        for path in sorted((tree.directory / name).rglob("*"))
        if path.is_file() and path.stat().st_size
    ]
    size_bytes = sum(path.stat().st_size for path in found)
    names = [str(path.relative_to(tree.directory)) for path in found]
    for path, name in zip(found, names, strict=True) if not dry_run else ():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, directory / name)
    if as_json:
        facts = {"files": names, "directories": [], "deleted": [], "lost": []}
        print_json({"id": tree.id, "directory": str(directory), **facts, "bytes": size_bytes, "dry_run": dry_run})
        return
    verb = "would write" if dry_run else "wrote"
    say(f"{verb} {plural(len(found), 'file')}, {human_bytes(size_bytes)}, to {quoted(str(directory))}")
    say("their names are not known: the working tree is damaged")
