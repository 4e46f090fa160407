"""`icefs sessions`: the working trees of this machine, mounted or left behind, and what becomes of the latter."""

import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from icefs.cli.support.commits import describe_commit, explaining, parse_metadata
from icefs.cli.support.mounts import CONTROL, Mounted, parse_object
from icefs.cli.support.options import Group, human_bytes, json_option, print_json, print_rows, say
from icefs.daemon.mountinfo import mounted_at
from icefs.daemon.options import default_state_dir
from icefs.errors import EntryNotFoundError, IcefsError, InvalidInputError, SessionStateError
from icefs.vfs.commit.staged_report import count_changes
from icefs.vfs.names import encode_ref
from icefs.words import command, plural, quoted, some, visible_lines
from icefs.worktree.spool.left import LeftTree, left_trees, look_at
from icefs.worktree.spool.state import DATABASE_NAME, LOCK_NAME, LOST_NAME, SPOOL_NAME, is_in_use, remove_state

SERVICE_TREES = Path("/var/lib/icefs/trees")
"""Where the services of `icefs serve` keep their working trees (`StateDirectory` of the unit)."""

_WAYS = ("ours", "theirs", "fail")
_MIN_ID = 4
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))
_SHOWN = 20
_STATE_DIR = "icefs.sessions.state_dir"


@dataclass(frozen=True, slots=True)
class Session:
    """A working tree, as far as it is known without opening it.

    Attributes:
        id: What names it here: the end of its directory's name.
        directory: Its state directory.
        repository: Where it belongs to, without secrets.
        branch: The branch.
        base: The snapshot that it stands on.
        mountpoint: Where it is, or was, mounted; None where that is not known.
        state: `mounted`, `unmounted`, or `damaged`: it cannot be opened.
        pid: The process that has it.
        num_changes: How many changes it has, more or less; None where that is unknown.
        size_bytes: What it takes on the disk.
        changed_at: When it changed last, in seconds since the epoch.
        problem: Why it cannot be opened.
        is_clean: Whether nothing would be lost with it.
    """

    id: str
    directory: Path
    repository: str
    branch: str
    base: str
    mountpoint: str | None
    state: str
    pid: int | None
    num_changes: int | None
    size_bytes: int
    changed_at: float
    problem: str | None = None
    is_clean: bool = False

    def to_json(self) -> dict[str, Any]:
        """Describes it in JSON."""
        return {
            "id": self.id,
            "repository": self.repository,
            "branch": self.branch,
            "state": self.state,
            "mountpoint": self.mountpoint,
            "pid": self.pid,
            "base": self.base,
            "num_changes": self.num_changes,
            "size_bytes": self.size_bytes,
            "changed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.changed_at)),
            "age_s": round(max(0.0, time.time() - self.changed_at)),
            "directory": str(self.directory),
            "problem": self.problem,
        }


def find_sessions(state_root: Path) -> list[Session]:
    """Lists the working trees under a state root."""
    return [_describe(tree) for tree in left_trees(state_root)]


def _describe(tree: LeftTree) -> Session:
    directory, info = tree.directory, tree.info
    size_bytes, changed_at = _usage(directory)
    mountpoint = info.mountpoint or None
    count, base = tree.num_changes, info.base
    if tree.is_in_use:
        count, shown = _ask_mount(mountpoint, info.branch)
        base = shown or base
    return Session(
        directory.name.rpartition("-")[2],
        directory,
        info.repository,
        info.branch,
        base,
        mountpoint,
        "mounted" if tree.is_in_use else "unmounted" if tree.problem is None else "damaged",
        _holder(directory) if tree.is_in_use else None,
        count,
        size_bytes,
        changed_at,
        tree.problem,
        tree.is_clean,
    )


def _usage(directory: Path) -> tuple[int, float]:
    """Returns how many bytes files take, and when the newest of them that holds changes was written."""
    total, newest = 0, 0.0
    for place, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):  # it goes while we look
                status = os.lstat(os.path.join(place, name))
                total += status.st_blocks * 512
                # Opening a tree touches the other files, too.
                if place != str(directory) or name.startswith(DATABASE_NAME):
                    newest = max(newest, status.st_mtime)
    return total, newest


def _holder(directory: Path) -> int | None:
    try:
        return int((directory / LOCK_NAME).read_text())
    except (OSError, ValueError):
        return None


def _ask_mount(mountpoint: str | None, branch: str) -> tuple[int | None, str | None]:
    """Asks the mount for the number of changes and the base; None where it is not known, or does not answer."""
    entry = None if mountpoint is None else mounted_at(mountpoint)
    if mountpoint is None or entry is None or not entry.is_icefs or not entry.is_trusted:
        return None, None
    try:
        place = Path(mountpoint)
        info = parse_object(place / CONTROL / "info.json")
        name = encode_ref(branch)
        tree = place if (info.get("options") or {}).get("branch") or name is None else place / "branches" / name
        status = Mounted(place, tree, info).ask("status")
    except (IcefsError, OSError):
        return None, None
    return count_changes(status), status.get("snapshot")


state_dir_option = click.option(
    "--state-dir",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Where working trees are kept; by default under $XDG_STATE_HOME.",
)
repo_option = click.option(
    "--repo", metavar="REPO", help="The repository, where its location needs more than the working tree remembers."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")


def _root(state_dir: str | None) -> Path:
    return default_state_dir() if state_dir is None else Path(state_dir).absolute()


def _roots(state_dir: str | None) -> list[Path]:
    """Returns where working trees are looked for: root also looks for those of services."""
    places = [_root(state_dir)]
    if state_dir is None and SERVICE_TREES.is_dir() and os.access(SERVICE_TREES, os.R_OK | os.X_OK):
        places.append(SERVICE_TREES)
    return places


def _find(identity: str, state_dir: str | None) -> Session:
    """Finds a working tree by the beginning of its id, or by its directory's name."""
    root = _root(state_dir)
    name = identity.rstrip("/").rpartition("/")[2]
    states = [
        tree
        for place in _roots(state_dir)
        for tree in left_trees(place)
        if tree.directory.name == name
        or (len(name) >= _MIN_ID and tree.directory.name.rpartition("-")[2].startswith(name))
    ]
    if not states:
        raise EntryNotFoundError(f"there is no working tree {identity!r} in {root}", hint="'icefs sessions' lists them")
    if len(states) > 1:
        raise InvalidInputError(f"{len(states)} working trees begin with {identity!r}", hint="give more of the id")
    return _describe(states[0])


def _require_free(session: Session) -> None:
    if is_in_use(session.directory):
        where = session.mountpoint or f"process {session.pid}"
        end = command("umount", session.mountpoint or "MNT")
        raise SessionStateError(
            f"the working tree {session.id} is mounted: {where}",
            hint=f"use 'icefs commit' or 'icefs discard' there, or '{end}' first",
        )


@click.group(cls=Group, invoke_without_command=True)
@state_dir_option
@json_option
@click.pass_context
def sessions(ctx: click.Context, state_dir: str | None, as_json: bool) -> None:
    """List working trees; commit, discard or export one unmounted.

    A working tree holds what was written to a mounted branch and is not committed. It is left behind when the mount
    ends ('icefs umount' keeps it) or its daemon dies, and found again by a mount of the same branch at the same place.
    """
    ctx.meta[_STATE_DIR] = state_dir
    if ctx.invoked_subcommand is not None:
        return
    everything = [session for root in _roots(state_dir) for session in find_sessions(root)]
    found = [session for session in everything if not session.is_clean]
    if as_json:
        print_json([session.to_json() for session in found])
        return
    print_rows(
        ("id", "state", "branch", "changes", "size", "age", "base", "repository", "mountpoint"),
        [
            (
                one.id,
                one.state,
                one.branch,
                "?" if one.num_changes is None else str(one.num_changes),
                human_bytes(one.size_bytes),
                _age(time.time() - one.changed_at),
                one.base,
                one.repository,
                one.mountpoint or "?",
            )
            for one in found
        ],
        folding=("branch", "repository", "mountpoint"),
        none="there are no working trees with changes",
    )
    for one in found:
        if one.problem is not None:
            say(f"{one.id}: {one.problem}")
            root = str(one.directory.parent)
            rescue = command("sessions export", one.id, "DIR", state_dir=root)
            end = command("sessions discard", one.id, state_dir=root)
            say(f"  '{rescue}' copies the bytes that it has; '{end}' gives it up")
    if len(everything) > len(found):
        what = plural(len(everything) - len(found), "working tree")
        say(f"{what} without changes not shown; 'icefs sessions prune' removes them", err=True)


def _age(seconds: float) -> str:
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


@sessions.command("commit")
@click.argument("identity", metavar="ID")
@click.option("-m", "--message", required=True, help="The commit message.")
@click.option("--meta", multiple=True, metavar="KEY=VALUE", help="Metadata; the value is JSON, or else text.")
@click.option("--rebase", type=click.Choice(_WAYS), help="Where others have committed, put the changes on top of that.")
@click.option("--skip-invalid", is_flag=True, help="Leave out files that cannot be committed.")
@repo_option
@dry_run_option
@state_dir_option
@json_option
def commit_session(
    identity: str,
    message: str,
    meta: tuple[str, ...],
    rebase: str | None,
    skip_invalid: bool,
    repo: str | None,
    dry_run: bool,
    state_dir: str | None,
    as_json: bool,
) -> None:
    """Commit the changes in a working tree that is not mounted. Uncommitted ones stay in it."""
    from icefs.vfs.commit.request import CommitRequest  # the engine, which a list of sessions does not need
    from icefs.vfs.headless import commit_left, list_left

    session = _find(identity, _given(state_dir))
    _require_free(session)
    repository = _open(session, repo)
    if dry_run:
        status = list_left(repository, session.directory)
        facts = {key: status[key] for key in ("staged", "untracked", "invalid", "open", "tip_moved")}
        if as_json:
            print_json({"id": session.id, "branch": session.branch, "dry_run": True, **facts})
        else:
            from icefs.vfs.control.status_text import status_lines, to_text

            click.echo(visible_lines(to_text(status_lines(status))), nl=False)
        return
    with explaining():
        answer = commit_left(
            repository,
            session.directory,
            CommitRequest(message, parse_metadata(meta), rebase, skip_invalid=skip_invalid),
        )
    if session.directory.exists() and look_at(session.directory).is_clean:
        remove_state(session.directory)
    if as_json:
        print_json({"id": session.id, "branch": session.branch, "dry_run": False, **answer})
    else:
        describe_commit(answer)


@sessions.command("discard")
@click.argument("identity", metavar="ID")
@dry_run_option
@state_dir_option
@json_option
def discard_session(identity: str, dry_run: bool, state_dir: str | None, as_json: bool) -> None:
    """Give up what is in a working tree that is not mounted, all of it and for good."""
    session = _find(identity, _given(state_dir))
    _require_free(session)
    if not dry_run:
        remove_state(session.directory)
        if session.directory.exists():
            raise SessionStateError(
                f"the working tree could not be removed: {session.directory}",
                hint="see which processes use it, and its permissions",
            )
    facts = {**session.to_json(), "dry_run": dry_run}
    if as_json:
        print_json(facts)
        return
    changes = "? changes" if session.num_changes is None else plural(session.num_changes, "change")
    verb = "would drop" if dry_run else "dropped"
    say(f"{verb} {changes} of branch {quoted(session.branch)}: {human_bytes(session.size_bytes)}")


@sessions.command("prune")
@dry_run_option
@state_dir_option
@json_option
def prune_sessions(dry_run: bool, state_dir: str | None, as_json: bool) -> None:
    """Remove the working trees that are not mounted and have no changes."""
    clean = [one for root in _roots(_given(state_dir)) for one in find_sessions(root) if one.is_clean]
    for session in clean if not dry_run else ():
        remove_state(session.directory)
    gone = [one for one in clean if dry_run or not one.directory.exists()]
    if as_json:
        print_json({"removed": [one.to_json() for one in gone], "dry_run": dry_run})
        return
    verb = "would remove" if dry_run else "removed"
    say(f"{verb} {plural(len(gone), 'working tree')}, {human_bytes(sum(one.size_bytes for one in gone))}")


@sessions.command("export")
@click.argument("identity", metavar="ID")
@click.argument("target", metavar="DIR", type=click.Path(file_okay=False))
@repo_option
@dry_run_option
@state_dir_option
@json_option
def export_session(
    identity: str, target: str, repo: str | None, dry_run: bool, state_dir: str | None, as_json: bool
) -> None:
    """Write the changed files of a working tree that is not mounted to a directory; the working tree stays.

    DIR is made, or empty. Deletions are listed.
    """
    from icefs.cli.support.steps import steps
    from icefs.vfs.headless import export_left

    session = _find(identity, _given(state_dir))
    _require_free(session)
    place = Path(target).absolute()
    if place.exists() and any(place.iterdir()):
        raise InvalidInputError(f"not an empty directory: {place}", hint="name one that does not exist yet")
    if not dry_run:
        place.mkdir(parents=True, exist_ok=True)
    if session.problem is not None:
        _export_raw(session, place, dry_run=dry_run, as_json=as_json)
        return
    with steps() as progress:
        done = export_left(_open(session, repo), session.directory, None if dry_run else place, progress)
    if as_json:
        facts = {"files": done.files, "directories": done.directories, "deleted": done.deleted, "lost": done.lost}
        print_json({"id": session.id, "directory": str(place), **facts, "bytes": done.num_bytes, "dry_run": dry_run})
    else:
        verb = "would write" if dry_run else "wrote"
        say(f"{verb} {plural(len(done.files), 'file')}, {human_bytes(done.num_bytes)}, to {quoted(str(place))}")
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


def _export_raw(session: Session, place: Path, *, dry_run: bool, as_json: bool) -> None:
    """Copies the bytes of a tree of which nobody knows any more what files they were of."""
    found = [
        path
        for name in (SPOOL_NAME, LOST_NAME)
        for path in sorted((session.directory / name).rglob("*"))
        if path.is_file() and path.stat().st_size
    ]
    size_bytes = sum(path.stat().st_size for path in found)
    names = [str(path.relative_to(session.directory)) for path in found]
    for path, name in zip(found, names, strict=True) if not dry_run else ():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place / name)
    if as_json:
        facts = {"files": names, "directories": [], "deleted": [], "lost": []}
        print_json({"id": session.id, "directory": str(place), **facts, "bytes": size_bytes, "dry_run": dry_run})
        return
    verb = "would write" if dry_run else "wrote"
    say(f"{verb} {plural(len(found), 'file')}, {human_bytes(size_bytes)}, to {quoted(str(place))}")
    say("their names are not known: the working tree is damaged")


def _given(state_dir: str | None) -> str | None:
    """Returns the state directory that was given to the command, or before it."""
    return state_dir if state_dir is not None else click.get_current_context().meta.get(_STATE_DIR)


def _open(session: Session, repo: str | None) -> Any:
    from icefs.cli.support.repos import open_writable

    return open_writable(session.repository if repo is None else repo)
