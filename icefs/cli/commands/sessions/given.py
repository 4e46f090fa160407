"""The working tree that a command is given, with the options that several commands have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final

import click

from icefs.cli.support.options import dry_run_option, json_option
from icefs.cli.support.working_trees import KnownTree, find_tree, require_unmounted

STATE_DIR: Final = "icefs.sessions.state_dir"
"""Where the group leaves its own `--state-dir` for its commands, in the `meta` of their contexts."""

state_dir_option = click.option(
    "--state-dir",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Where working trees are kept; by default under $XDG_STATE_HOME.",
)
_repo_option = click.option(
    "--repo", metavar="REPO", help="The repository, where its location needs more than the working tree remembers."
)


@dataclass(frozen=True, slots=True)
class GivenTree:
    """An unmounted working tree, as the command line names it, and what is to be done with it.

    Attributes:
        identity: The beginning of its id, or its directory.
        state_dir: Where it is looked for; None for the default directories.
        repo: Its repository's location; None for the one that the tree remembers.
        dry_run: Whether the command only says what it would do.
        as_json: Whether it prints JSON.
    """

    identity: str
    state_dir: str | None
    repo: str | None
    dry_run: bool
    as_json: bool

    def find(self) -> KnownTree:
        """Finds the tree.

        Raises:
            EntryNotFoundError: there is none of this name.
            InvalidInputError: there are several.
            SessionStateError: it is mounted.
        """
        tree = find_tree(self.identity, self.state_dir)
        require_unmounted(tree)
        return tree

    def location_of(self, tree: KnownTree) -> str:
        """Returns the location of the repository that the tree belongs to."""
        return tree.repository if self.repo is None else self.repo


def given_state_dir(state_dir: str | None) -> str | None:
    """Returns the state directory that was given to the command, or before it."""
    return state_dir if state_dir is not None else click.get_current_context().meta.get(STATE_DIR)


def given_tree(*, has_repo: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a decorator that adds the options that a `GivenTree` holds, and passes that as the first argument.

    Args:
        has_repo: Whether `--repo` is one of them.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def run(
            *,
            identity: str,
            state_dir: str | None,
            dry_run: bool,
            as_json: bool,
            repo: str | None = None,
            **others: Any,
        ) -> None:
            function(GivenTree(identity, given_state_dir(state_dir), repo, dry_run, as_json), **others)

        run = dry_run_option(state_dir_option(json_option(run)))
        return _repo_option(run) if has_repo else run

    return add
