"""Finds the mount that a path lies in, and reads its control files.

The kernel's mount table alone tells what is mounted where, and by whom, even when a daemon is dead: a directory with a
`.icefs` in it is no mount. Nothing in a mount is read before that, nor where another user has mounted it. A mount of
root's or of this user answers for itself through `.icefs`, by plain file access. Nothing of the engine is imported,
so that `icefs status` is quick.
"""

import contextlib
import errno
import json
import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from icefs import errors
from icefs.cli.support.conversation import Conversation
from icefs.daemon.earlier import describe_open_files
from icefs.daemon.mountinfo import FILESYSTEM_TYPE, MountEntry, mount_of, mount_table
from icefs.errors import (
    EntryNotFoundError,
    FormatError,
    IcefsError,
    InvalidInputError,
    NotPermittedError,
    ReadOnlyError,
    StaleError,
    TreeInUseError,
    UntrustedMountError,
)
from icefs.words import command, quoted

CONTROL = ".icefs"
_TREES: Final = ("branches", "tags", "snapshots")
_PLACES: Final = {
    **{name: f"in the directory of all {name}" for name in _TREES},
    "as-of": "in the directory of all versions by time",
}
"""What the directories at the root of a mount are called in messages."""
DEAD = frozenset((errno.ENOTCONN, errno.ECONNABORTED))
"""What the kernel answers for a daemon that has ended; the second one while it is ending."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """Where a path lies in an icefs mount.

    Attributes:
        root: The mountpoint.
        tree: The branch, tag or snapshot that the path is in, or the mount's root.
        info: The root's `info.json`: `pid`, `version`, `repository`, `mountpoint` and more.
    """

    root: Path
    tree: Path
    info: dict[str, Any]

    @property
    def repository(self) -> str:
        """The location of the repository that is mounted; without secrets, which come from the environment."""
        return str(self.info["repository"])

    @property
    def tree_info(self) -> dict[str, Any]:
        """What the tree says of itself: `kind`, `name`, `snapshot` and more; nothing at the root of a repository."""
        return parse_object(self.tree / CONTROL / "info.json")

    @property
    def shown_tree(self) -> str:
        """The tree's path for a command to type: from the current directory if the tree is below it, else absolute."""
        with contextlib.suppress(OSError):  # the current directory may be gone
            relative = os.path.relpath(self.tree)
            if relative.split("/")[0] != "..":
                return relative
        return str(self.tree)

    def inside(self, path: str | os.PathLike[str]) -> str:
        """Returns where a path is in the tree, as a key; nothing at the tree's root, and outside of any tree."""
        if self.tree_info.get("kind") is None:
            return ""
        where = absolute(path).resolve()
        return "" if where == self.tree else where.relative_to(self.tree).as_posix()

    @property
    def whole(self) -> "Mounted":
        """The whole mount, of which this may be one tree; it alone is asked for what concerns the daemon."""
        return Mounted(self.root, self.root, self.info)

    @property
    def ref(self) -> str | None:
        """The id of the snapshot that the tree shows, or None at the root of a whole repository."""
        return self.tree_info.get("snapshot")

    def ask(
        self, operation: str, *, on_progress: Callable[[dict[str, Any]], None] | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """Asks the daemon to do something with the tree, and returns its answer when it is done.

        Args:
            operation: What to do.
            on_progress: Gets the progress, again and again.
            arguments: What else the request says.

        Raises:
            IcefsError: what the daemon could not do; the error that it raised itself.
            OSError: the daemon could not be asked.
        """
        try:
            conversation = Conversation(self.tree / CONTROL / "rpc")
        except PermissionError:
            raise self._not_ours(operation) from None
        with conversation:
            for line in conversation.ask(json.dumps({"op": operation, **arguments}).encode()):
                answer: dict[str, Any] = json.loads(line)
                kind = answer.pop("type")
                if kind == "error":
                    raise raised(answer)
                if kind == "result":
                    return answer
                if on_progress is not None:
                    on_progress(answer)
        raise StaleError(f"the daemon gave no answer: process {self.info['pid']}", hint="look into its log file")

    def _not_ours(self, operation: str) -> NotPermittedError:
        name = user_name(os.stat(self.tree / CONTROL / "rpc").st_uid)
        return NotPermittedError(
            f"only {name}, whose mount it is, can {operation} here: {self.tree}",
            hint=f"ask {name}, or mount the repository yourself",
        )

    def read_text(self, name: str) -> str:
        """Reads a control file of the tree.

        Raises:
            IcefsError: the working tree of the branch cannot be opened.
            OSError: the file cannot be read for another reason.
        """
        try:
            return (self.tree / CONTROL / name).read_text()
        except OSError as error:
            raise self._reason() or error from None

    def read_json(self, name: str) -> Any:
        """Reads a JSON control file of the tree; raises as `read_text`, and FormatError for what is no JSON."""
        try:
            return _parse(self.tree / CONTROL / name)
        except OSError as error:
            raise self._reason() or error from None

    def branches_with_work(self) -> list[dict[str, Any]]:
        """Returns the mount's branches with changes, or with a working tree that is damaged or cannot be opened."""
        branches: list[dict[str, Any]] = self.whole.ask("uncommitted")["branches"]
        return branches

    def _reason(self) -> IcefsError | None:
        """Returns why the tree's working tree cannot be opened, which an errno does not tell; None if it can be."""
        try:
            branches = self.branches_with_work()
        except (IcefsError, OSError):
            return None
        for branch in branches:
            if self.root / branch["path"] == self.tree and branch["error"] is not None:
                return raised(branch["error"])
        return None


def raised(answer: dict[str, Any]) -> IcefsError:
    """Makes the error again that the daemon raised, so that it means the same exit code."""
    error = getattr(errors, str(answer.pop("error", "")), IcefsError)
    if not (isinstance(error, type) and issubclass(error, IcefsError)):
        error = IcefsError
    found = error(answer.pop("message"), kind=answer.pop("kind"), hint=answer.pop("hint"), **answer)
    if isinstance(found, TreeInUseError):
        # An earlier mount that was detached: only open files keep it.
        files = describe_open_files()
        if files is not None:
            found.hint = f"close the files that are open in it: {files}"
    return found


def absolute(path: str | os.PathLike[str]) -> Path:
    """Makes a path absolute and resolves links, without asking a (perhaps dead) mount at its last component."""
    path = os.path.abspath(path)  # a dead mountpoint must not be stat'ed, and `..` is textual here
    return Path(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def find_mount(path: str | os.PathLike[str]) -> Mounted | None:
    """Walks up from a path to the mount that holds it; None where it is in none.

    Raises:
        StaleError: the path lies in a mount whose daemon has ended.
        EntryNotFoundError: the path does not exist, or only a part of a mount is there.
        UntrustedMountError: the mount is another user's.
        NotPermittedError: it is, and lets nobody else in.
    """
    start = absolute(path)
    try:
        status = start.stat()
    except OSError as exc:
        if exc.errno in DEAD:
            raise _dead(start) from None
        if exc.errno in (errno.ENOENT, errno.ENOTDIR):
            raise EntryNotFoundError(f"no such file or directory: {path}") from None
        if exc.errno in (errno.EACCES, errno.EPERM):
            _explain_refusal(start)
        raise
    start = start.resolve()
    entry = _icefs_mount(str(start), status.st_dev)
    if entry is None:
        return None
    require_trusted(entry)
    root = Path(entry.mountpoint)
    try:
        info = parse_object(root / CONTROL / "info.json")
    except OSError as exc:
        if exc.errno in DEAD:
            raise _dead(root) from None
        raise
    return Mounted(root, _tree_of(root, start, info), info)


def _icefs_mount(path: str, device: int) -> MountEntry | None:
    """Returns the mount of icefs that a path lies in, as the kernel's table has it; None where it is in none.

    Raises:
        EntryNotFoundError: only a part of an icefs mount is there, which cannot answer for the whole.
    """
    entry = mount_of(path, device)
    if entry is None or not entry.is_icefs:
        return None
    if entry.root != "/":
        raise EntryNotFoundError(
            f"only a part of an icefs mount is bound to {entry.mountpoint}: {entry.root}",
            hint="give a path in the mount itself; 'findmnt -t fuse.icefs' lists the mounts",
        )
    return entry


def require_trusted(entry: MountEntry) -> None:
    """Refuses to believe a mount of another user, whose daemon may say anything of itself.

    Raises:
        UntrustedMountError: neither root nor this user has mounted it.
    """
    if not entry.is_trusted:
        raise UntrustedMountError(
            f"the mount at {entry.mountpoint} is another user's (uid {entry.user_id}), and is not believed",
            hint="run the command as that user, or give the repository",
            mountpoint=entry.mountpoint,
        )


def _explain_refusal(path: Path) -> None:
    """Says whose mount it is that lets nobody else in, not even root, where a path that may not be seen is in one.

    Raises:
        NotPermittedError: it is in such a mount.
    """
    # The kernel refuses the mountpoint itself; a real path to what is below it cannot be had.
    entry = mount_of(str(path))
    if entry is None or not entry.is_icefs or entry.user_id in (None, os.geteuid()):
        return
    who = f"user {user_name(entry.user_id).removeprefix('user ')}"
    raise NotPermittedError(
        f"the mount at {entry.mountpoint} is private to {who}: {path}",
        hint=f"run the command as {who}, or let {who} mount it with --allow-other",
        mountpoint=entry.mountpoint,
    )


def user_name(number: int | None) -> str:
    """Returns a user's name, or the number where it has none."""
    try:
        return pwd.getpwuid(-1 if number is None else number).pw_name
    except (KeyError, OverflowError):
        return f"user {number}"


def _tree_of(root: Path, place: Path, info: dict[str, Any]) -> Path:
    """Returns the tree of a mount that a place is in; the layout tells, for a tree may hold files of any name."""
    parts = place.relative_to(root).parts
    if info.get("kind") is None and len(parts) > 1 and parts[0] in _TREES:
        return root / parts[0] / parts[1]
    return root


def require_mount(path: str | os.PathLike[str]) -> Mounted:
    """Like `find_mount`, for commands that need one.

    Raises:
        EntryNotFoundError: the path does not exist or lies in no mount.
    """
    mounted = find_mount(path)
    if mounted is None:
        raise EntryNotFoundError(
            f"not in an icefs mount: {absolute(path)}", hint="give a path in a mount, or 'icefs mount' a repository"
        )
    return mounted


def require_branch(path: str | os.PathLike[str]) -> Mounted:
    """Like `require_mount`, for commands that change a branch.

    Raises:
        InvalidInputError: the path lies in no branch, tag or snapshot.
        ReadOnlyError: the path lies in a tag or a snapshot, or the whole mount is read-only.
    """
    mounted = require_mount(path)
    check_branch(mounted, path)
    return mounted


def check_tree(mounted: Mounted, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns what the tree of a path in a mount says of itself.

    Raises:
        InvalidInputError: the path lies in no tree, but above all of them.
    """
    info = mounted.tree_info
    if info.get("kind") is None:
        parts = absolute(path).resolve().relative_to(mounted.root).parts
        where = _PLACES.get(parts[0] if parts else "", "at the root of a mount")
        raise InvalidInputError(
            f"not in a branch, but {where}: {path}", hint=f"give a path in a branch, as {_some_branch(mounted.root)}"
        )
    return info


def check_branch(mounted: Mounted, path: str | os.PathLike[str]) -> None:
    """Refuses a path in a mount that lies in no writable branch, as `require_branch` does.

    Raises:
        ReadOnlyError: it lies in a tag or snapshot, or the mount is read-only.
        InvalidInputError: it lies in no tree.
    """
    info = check_tree(mounted, path)
    if info.get("writable"):
        return
    kind, name, root = info["kind"], info.get("name"), mounted.root
    if kind == "branch":
        raise ReadOnlyError(
            f"this mount is read-only: {root}", hint="unmount it, and mount the branch again without --read-only"
        )
    start = name or info["snapshot"]
    raise ReadOnlyError(
        f"this tree is read-only: {kind} {quoted(str(start))}",
        hint=f"give a path in a branch; '{command('branch create', 'NAME', str(start), repo=str(root))}'"
        f" makes one of this {kind}",
    )


def _some_branch(root: Path) -> str:
    """Returns the path of a branch in a mount: `main`, or the first one."""
    branches = root / "branches"
    names = sorted(os.listdir(branches))
    return str(branches / ("main" if "main" in names or not names else names[0]))


def require_place(path: str | os.PathLike[str]) -> tuple[Mounted, str]:
    """Like `require_mount`, for a place that need not exist (any more).

    Returns:
        The mount, and where the place is in its tree, without a leading slash.
    """
    place = absolute(path)
    try:
        os.lstat(place)
    except PermissionError:
        _explain_refusal(place)
        raise
    except OSError:
        pass  # it need not be there
    above = place
    while not os.path.lexists(above) and above != above.parent:
        above = above.parent
    mounted = require_mount(above)
    where = above.resolve() / place.relative_to(above)
    return mounted, "" if where == mounted.tree else str(where.relative_to(mounted.tree))


def _dead(path: Path) -> StaleError:
    mountpoints = {Path(entry.mountpoint) for entry in mount_table() if entry.filesystem_type == FILESYSTEM_TYPE}
    mountpoint = next((place for place in (path, *path.parents) if place in mountpoints), path)
    return StaleError(
        f"the daemon of the mount has ended: {mountpoint}",
        hint=f"run '{command('umount', str(mountpoint))}' and mount again",
    )


def parse_object(path: Path) -> dict[str, Any]:
    """Reads a control file that holds a JSON object.

    Raises:
        FormatError: it holds something else.
        OSError: it cannot be read; ENOTCONN if the daemon is dead.
    """
    value = _parse(path)
    if not isinstance(value, dict):
        raise FormatError(f"not a JSON object: {path}", hint="is this an icefs mount?")
    return value


def _parse(path: Path) -> Any:
    text = path.read_text()
    try:
        return json.loads(text)
    except ValueError as exc:
        raise FormatError(f"not JSON: {path}: {exc}", hint="is this an icefs mount?") from exc
