"""What `icefs merge`, `cherry-pick`, `revert` and `restore` have in common: options, conflicts and words."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import click

from icefs.cli.support import refs
from icefs.cli.support.commits import conflict_text
from icefs.cli.support.options import dry_run_option, json_option, say
from icefs.cli.support.repos import DEFAULT_BRANCH, Source
from icefs.engine.merge.operations import Brought, Way
from icefs.engine.write.conflicts import Conflict, VersionSelection
from icefs.engine.write.repository import WritableRepository
from icefs.errors import InvalidInputError, RebaseFailedError
from icefs.vfs.control.rpc import conflict_facts
from icefs.words import command, plural, some

_SHOWN: Final = 5
_SIDES: Final = {
    None: VersionSelection.Fail,
    "ours": VersionSelection.UseOurs,
    "theirs": VersionSelection.UseTheirs,
}


branch_option = click.option(
    "--branch", help=f"The branch to commit to; by default that of the mounted tree, or {DEFAULT_BRANCH}."
)


def bringing_options[F: Callable[..., Any]](function: F) -> F:
    """Adds the options of the three commands."""
    options = (
        click.option("-m", "--message", help="The commit message, in place of one that says what was done."),
        click.option("--ours", "side", flag_value="ours", help="Where both changed something, the branch's counts."),
        click.option("--theirs", "side", flag_value="theirs", help="Where both changed something, the other counts."),
        branch_option,
        refs.repo_option,
        dry_run_option,
        json_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


@contextlib.contextmanager
def bringing(
    name: str, words: tuple[str, ...], repo: str | None, branch: str | None, **how: Any
) -> Iterator[tuple[WritableRepository, Way]]:
    """Opens the repository, and has the line of a conflict name paths and chunks, and what to type next.

    Args:
        name: The command.
        words: Its arguments.
        repo: Where the user said that the repository is.
        branch: The branch that the user named.
        how: The options `side`, `message` and `dry_run`.
    """
    with refs.changing(repo) as (repository, source):
        way = Way(branch or branch_to_change(source), _SIDES[how["side"]], how["message"], dry_run=how["dry_run"])
        try:
            yield repository, way
        except RebaseFailedError as error:
            made, remain = error.facts.get("made"), tuple(error.facts.get("remain", words))
            again = {"branch": branch, "repo": refs.again(repo)}
            sides = [f"'{command(f'{name} --{side}', *remain, **again)}'" for side in ("ours", "theirs")]
            before = f"the commits before are made ({some(made, _SHOWN)}); " if made else ""
            said = some([conflict_text(conflict_facts(one)) for one in error.conflicts], _SHOWN, "; ")
            raise RebaseFailedError(
                f"{error.snapshot} conflicts with the branch {way.branch!r}: {said}",
                hint=f"{before}choose a side with {' or '.join(sides)}, or make the change by hand",
                **error.facts,
            ) from error


def branch_to_change(source: Source) -> str:
    """Returns the branch of the mounted tree; main outside of all trees.

    Raises:
        InvalidInputError: the tree is a tag or a snapshot.
    """
    info = {} if source.mounted is None else source.mounted.tree_info
    kind, name = info.get("kind"), str(info.get("name"))
    if kind in (None, "branch"):
        return DEFAULT_BRANCH if kind is None else name
    raise InvalidInputError(f"the mounted tree is a {kind}, which gets no commits", hint="name a branch: --branch NAME")


def facts_of(done: Brought, way: Way) -> dict[str, Any]:
    """Describes what was done, or would be, for programs."""
    return {
        "branch": way.branch,
        "previous_id": str(done.tip),
        "base_id": str(done.base),
        "incoming_id": str(done.incoming),
        "snapshot_id": None if done.snapshot_id is None else str(done.snapshot_id),
        "is_new": done.is_new,
        "nodes": done.nodes,
        "chunks": done.chunks,
        "conflicts": _listed(done.conflicts),
        "settled": _listed(done.settled),
        "dry_run": way.dry_run,
    }


def _listed(conflicts: list[Conflict]) -> list[Mapping[str, Any]]:
    return [conflict_facts(one) for one in conflicts]


def print_done(done: Brought, way: Way, verb: tuple[str, str], what: str) -> None:
    """Prints what was done, or would be, for people.

    Args:
        done: The outcome.
        way: How it was asked for.
        verb: What the command does, as in "merge" and "merged".
        what: To what.
    """
    counts = f"{plural(done.nodes, 'node')}, {plural(done.chunks, 'chunk')}"
    if not done.is_new:
        say(f"the branch {way.branch} has it already: {what}")
    elif done.snapshot_id is not None:
        say(f"committed {done.snapshot_id}: {verb[1]} {what}: {counts}")
    elif not done.conflicts:
        say(f"would {verb[0]} {what}: {counts}")
    else:
        say(f"cannot {verb[0]} {what}: {plural(len(done.conflicts), 'conflict')}")
    for conflict in done.conflicts:
        say(f"conflict: {conflict_text(conflict_facts(conflict))}")
    for conflict in done.settled:
        side = "the branch's" if way.side is VersionSelection.UseOurs else "the other side's"
        say(f"{side} counts: {conflict_text(conflict_facts(conflict))}")
