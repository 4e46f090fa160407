"""State directories: where working trees are kept, which process uses one, and which there are.

    <state root>/<repository>-<branch>-<hash>/
        info.json   for people, and for listing them; and the version (see `versions`)
        lock        locked (flock) by the one process that has the tree open
        tree.db     journal
        rows.log    the rows of tree.db once more (`row_log`), and rows.end
        spool/      bytes
        spool.lost/ bytes of which nobody knows any more what file they were of (`recovery`)
        damaged/    databases that others took the place of (`opening`)

The hash is of the repository's URL, the branch and, if given, the mountpoint; the words before it are for people.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from icefs.errors import AccessDeniedError, IcefsError, SessionStateError, StorageError, TreeInUseError
from icefs.real_path import real_path
from icefs.worktree.spool.files import DiskIo, disk_error
from icefs.worktree.spool.row_log import LOG_NAME
from icefs.worktree.spool.versions import INFO_NAME, STATE_VERSION, VERSION_KEY, read_facts, sealed

DATABASE_NAME: Final = "tree.db"
SPOOL_NAME: Final = "spool"
LOST_NAME: Final = "spool.lost"
LOCK_NAME: Final = "lock"

_PARTS: Final = frozenset({DATABASE_NAME, SPOOL_NAME, LOG_NAME, INFO_NAME})
_PAUSE_S: Final = 0.05
_MAX_TRIES: Final = 100
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@dataclass(frozen=True, slots=True)
class StateInfo:
    """What is said of a state directory.

    Attributes:
        repository: The repository's URL, without secrets.
        branch: The branch.
        base: The snapshot that the tree stood on when it was last closed, or opened.
        entries: The files, directories and whiteouts it had then; -1 while it is not known.
        mountpoint: The directory that it was mounted on; empty where that is not known.
    """

    repository: str
    branch: str
    base: str
    entries: int
    mountpoint: str = ""

    def to_json(self) -> dict[str, str | int]:
        """Describes it as `info.json` does."""
        facts = asdict(self)
        facts["place"] = facts.pop("mountpoint")
        return facts


def state_dir_for(state_root: Path, repository_url: str, branch: str, mountpoint: str = "") -> Path:
    """Returns the state directory of a branch of a repository; the same one at every call.

    Args:
        state_root: Where all of them are.
        repository_url: Identifies the repository.
        branch: The branch's name.
        mountpoint: Tells the working trees of one branch apart.
    """
    key = json.dumps([repository_url, branch, mountpoint])
    digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:16]
    words = [re.sub(r"[^A-Za-z0-9._]+", "_", word).strip("._")[-40:] for word in (repository_url, branch)]
    return state_root / "-".join([*(word for word in words if word), digest])


def make_directory(path: Path, io: DiskIo) -> None:
    """Makes a directory with all above it, so that they survive power loss.

    Raises:
        NoSpaceError: the disk is full.
        AccessDeniedError: nothing can be written there.
    """
    try:
        missing = []
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for directory in reversed(missing):
            directory.mkdir(exist_ok=True, mode=0o700)
            io.sync_dir(os.fspath(directory.parent))
    except OSError as error:
        raise unusable(path, error) from error


def unusable(directory: Path, error: OSError) -> IcefsError:
    """Returns the error to raise where a state directory cannot be used."""
    if error.errno in _DENIED:
        return AccessDeniedError(
            f"nothing can be written to {directory}, where working trees are kept: {error.strerror}",
            hint="give another --state-dir",
            kind="io",
            directory=str(directory),
        )
    return disk_error(error, f"opening {directory}")


def write_info(directory: Path, info: StateInfo) -> None:
    """Writes `info.json`, whole or not at all.

    Raises:
        NoSpaceError: the disk is full.
    """
    path = directory / f"{INFO_NAME}.new"
    try:
        path.write_text(sealed({VERSION_KEY: STATE_VERSION, **info.to_json()}))
        path.replace(directory / INFO_NAME)
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise disk_error(error, f"writing {path}") from error


def read_info(directory: Path) -> StateInfo | None:
    """Reads `info.json`, None if there is none that can be understood."""
    facts = read_facts(directory)
    try:
        return (
            None
            if facts is None
            else StateInfo(
                str(facts["repository"]),
                str(facts["branch"]),
                str(facts["base"]),
                int(facts.get("entries", -1)),
                str(facts.get("place", "")),
            )
        )
    except (ValueError, KeyError, TypeError):
        return None


def has_state(directory: Path) -> bool:
    """Tells whether there is anything of a working tree in a state directory.

    Raises:
        AccessDeniedError: it cannot be looked into.
    """
    try:
        return any(os.path.lexists(directory / name) for name in os.listdir(directory) if name in _PARTS)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unusable(directory, error) from error


def same_repository(one: object, other: str) -> bool:
    """Tells whether two locations, without secrets, name one repository."""
    return one == other or (isinstance(one, str) and one[:1] == other[:1] == "/" and real_path(one) == real_path(other))


def find_directory(state_root: Path, repository: str, branch: str, mountpoint: str) -> Path:
    """Returns the state directory of a branch that is to be mounted on a directory, however both are spelled.

    Raises:
        AccessDeniedError: working trees cannot be looked for.
    """
    repository = real_path(repository) if repository.startswith("/") else repository
    directory = state_dir_for(state_root, repository, branch, mountpoint)
    if not has_state(directory) and state_root.is_dir():
        for other in sorted(state_root.iterdir()):
            info = read_info(other)
            if (
                info is not None
                and info.branch == branch
                and info.mountpoint
                and real_path(info.mountpoint) == mountpoint
                and same_repository(info.repository, repository)
            ):
                return other
    return directory


def check_usable(state_root: Path, directory: Path | None, patience_s: float = 5.0) -> None:
    """Looks, before a mount, whether working trees can be kept, and whether that of its branch is free.

    Args:
        state_root: Where they are kept. One that cannot be written to is no error: the mount can be read.
        directory: The state directory of the one branch that is mounted.
        patience_s: How long to wait for another process, which may be about to end, to give it free.

    Raises:
        TreeInUseError: another process has it.
        StorageError: files cannot be locked there.
    """
    with contextlib.suppress(IcefsError):
        make_directory(state_root, DiskIo())
    try:
        with tempfile.TemporaryFile(dir=state_root) as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (*_DENIED, errno.ENOENT, errno.ENOSPC, errno.EDQUOT):
            raise _cannot_lock(state_root, error) from error
    if directory is None:
        return
    deadline = time.monotonic() + patience_s
    while True:
        try:
            with contextlib.suppress(FileNotFoundError, AccessDeniedError), StateLock(directory, must_exist=True):
                pass
        except TreeInUseError as error:
            if time.monotonic() < deadline:
                time.sleep(_PAUSE_S)
                continue
            raise TreeInUseError(
                f"an earlier mount of this branch, process {error.facts['pid'] or '?'}, has not ended",
                hint="close the files that are open in it, and mount again",
                directory=str(directory),
                pid=error.facts["pid"],
            ) from None
        return


def _cannot_lock(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"files cannot be locked where working trees are kept: {path}: {error.strerror}",
        kind="io",
        hint="give another --state-dir, on a local disk",
    )


def check_owner(directory: Path, meta: Mapping[str, object], repository: str, branch: str) -> None:
    """Refuses a working tree that belongs to another repository or branch.

    Raises:
        SessionStateError: it does.
    """
    found = meta.get("repository"), meta.get("branch")
    if found[0] is not None and not (same_repository(found[0], repository) and found[1] == branch):
        raise SessionStateError(
            f"{directory} holds the working tree of branch {found[1]} of {found[0]}",
            hint="give another --state-dir",
            repository=found[0],
            branch=found[1],
        )


def remove_state(directory: Path) -> None:
    """Removes a state directory with all that is in it, unless somebody has it open.

    Where that does not work, it stays, and is found as after the death of the process.
    """
    with contextlib.suppress(SessionStateError, OSError), StateLock(directory, must_exist=True):
        # What lists state directories looks for this one first.
        (directory / INFO_NAME).unlink(missing_ok=True)
        shutil.rmtree(directory)


def is_in_use(directory: Path) -> bool:
    """Tells whether a living process has a state directory open."""
    try:
        with StateLock(directory, must_exist=True):
            return False
    except SessionStateError:
        return True
    except FileNotFoundError:
        return False


class StateLock:
    """The lock of a state directory. It goes with the process that holds it, so a dead one's is simply free."""

    def __init__(self, directory: Path, *, must_exist: bool = False) -> None:
        """Takes the lock.

        Raises:
            SessionStateError: another process has it.
            FileNotFoundError: there is no lock file, and it must exist.
        """
        path = directory / LOCK_NAME
        flags = os.O_RDWR | os.O_CLOEXEC | (0 if must_exist else os.O_CREAT)
        try:
            self._fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise unusable(directory, error) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._check_there(path)
        except FileNotFoundError:
            os.close(self._fd)
            raise
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            os.close(self._fd)
            if not isinstance(error, BlockingIOError):
                raise _cannot_lock(path, error) from error
            raise TreeInUseError(
                f"the working tree in {directory} is in use by process {holder or '?'}",
                hint="unmount it there first, or give another --state-dir",
                directory=str(directory),
                pid=holder,
            ) from None
        if not must_exist:
            with contextlib.suppress(OSError):  # on a full disk the lock names no process
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def _check_there(self, path: Path) -> None:
        """Raises FileNotFoundError if the former holder of the lock removed the directory."""
        if not os.path.samestat(os.fstat(self._fd), os.stat(path)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    def release(self) -> None:
        """Gives the lock back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


def make_and_lock(directory: Path, io: DiskIo) -> StateLock:
    """Makes a state directory where there is none, and takes its lock.

    Raises:
        TreeInUseError: another process has it.
        NoSpaceError, AccessDeniedError, StorageError: it cannot be made, or locked.
    """
    for _ in range(_MAX_TRIES):
        make_directory(directory / SPOOL_NAME, io)
        # A mount that ends removes a tree without changes.
        with contextlib.suppress(FileNotFoundError):
            return StateLock(directory)
    raise StorageError(f"{directory} is removed again and again", kind="io", hint="give another --state-dir")


def aside_usage(directory: Path) -> tuple[int, int]:
    """Returns how many spool files of a state directory were set aside, and their bytes."""
    try:
        with os.scandir(directory / LOST_NAME) as entries:
            sizes = [entry.stat(follow_symlinks=False).st_size for entry in entries]
    except OSError:
        return 0, 0
    return len(sizes), sum(sizes)
