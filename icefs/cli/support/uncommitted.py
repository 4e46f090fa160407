"""Uncommitted changes of mounted branches, of which commands that read versions know nothing."""

from icefs.cli.support.mounts import CONTROL
from icefs.cli.support.options import say
from icefs.cli.support.repos import DEFAULT_BRANCH, Source
from icefs.errors import NotPermittedError
from icefs.words import command, quoted


def warn_of_uncommitted(source: Source, view_format: str | None) -> None:
    """Says that the version that a user pointed at in a mount lacks changes that the mount shows, if there are any.

    Args:
        source: The version; nothing is said of a repository that is named by its own path.
        view_format: The format that is made of it; None for plain Zarr v3.
    """
    if source.mounted is None:
        return
    try:
        branches = source.mounted.branches_with_work()
    except NotPermittedError:
        return  # another user's mount says nothing of what its user has not committed
    meant = source.mounted_branch or source.ref or DEFAULT_BRANCH
    for branch in branches:
        if branch["has_changes"] and branch["name"] == meant:
            tree = source.mounted.root / branch["path"]
            shown = tree if view_format is None else tree / CONTROL / "views" / view_format
            say(
                f"icefs: warning: the uncommitted changes of branch {quoted(branch['name'])} are not in it; "
                f"'{command('commit', str(tree))}' first, or copy {quoted(str(shown))}, which shows them",
                err=True,
            )
