"""What `icefs doctor` looks at: each check says what it found, and what to do where something is wrong."""

import contextlib
import errno
import fcntl
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from icefs.cli.support.exit_codes import exit_row
from icefs.cli.support.options import human_bytes
from icefs.daemon import mountinfo, mountpoints
from icefs.daemon.options import default_state_dir
from icefs.errors import AccessDeniedError, IcefsError, ObjectNotFoundError, UnreachableError
from icefs.storage.base import Storage
from icefs.storage.cache.disk import default_cache_dir
from icefs.storage.kinds import KINDS
from icefs.storage.proxies import proxy_of
from icefs.storage.url import Location, open_storage, parse_location, redact
from icefs.words import command, plural, quoted
from icefs.worktree.spool.state import LOST_NAME
from icefs.worktree.spool.summary import TreeSummary, damaged_files, tree_summaries

OK, WARNING, PROBLEM = "ok", "warning", "problem"

_LITTLE_SPACE: Final = 1 << 30
_NO_SPACE: Final = 64 << 20
_SKEW_WARNING_S: Final = 60
_SKEW_PROBLEM_S: Final = 15 * 60  # from here on S3 refuses signatures
_SLOW_S: Final = 0.5
_PROBES: Final = 3
_SHOWN: Final = 20
_PATIENCE_S: Final = 5.0
_OLD_KERNEL: Final = (5, 4)
_NETWORK: Final = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "lustre", "gpfs", "beegfs", "afs", "glusterfs")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's.

    Attributes:
        check: What was looked at.
        status: `ok`, `warning` or `problem`.
        message: What was found.
        todo: What to do about it; None where there is nothing.
    """

    check: str
    status: str
    message: str
    todo: str | None = None


def examine(check: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Runs a check; a thing that it cannot look at is a problem, too."""
    try:
        yield from look()
    except IcefsError as error:
        yield Finding(check, PROBLEM, error.own_message, error.hint or exit_row(error).hint)
    except OSError as error:
        yield Finding(check, PROBLEM, f"{error.strerror or error}: {error.filename or ''}".rstrip(": "))


def check_versions() -> Iterator[Finding]:
    """Tells the versions of everything that a mount is made of."""
    for name in ("icefs", "trio"):
        try:
            yield Finding("versions", OK, f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding("versions", PROBLEM, f"{name} is not installed", f"pip install {name}")
    yield Finding("versions", OK, f"Python {platform.python_version()}")
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers < _OLD_KERNEL:
        yield Finding("versions", WARNING, f"Linux {release} is old", "use 5.4 or newer")
    else:
        yield Finding("versions", OK, f"Linux {release}")


def check_fuse() -> Iterator[Finding]:
    """Looks whether this user can mount."""
    mountpoints.check_fuse(allow_other=False)
    if "\tfuse\n" not in Path("/proc/filesystems").read_text():
        yield Finding("fuse", PROBLEM, "the kernel module is not loaded", "run 'modprobe fuse'")
    os.close(os.open(mountpoints.FUSE_DEVICE, os.O_RDWR))
    yield Finding("fuse", OK, f"{mountpoints.FUSE_DEVICE} can be opened")
    program = shutil.which("fusermount3")
    assert program is not None  # `check_fuse` has found it
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=_PATIENCE_S)
    yield Finding("fuse", OK, f"{told.stdout.strip() or 'fusermount3'} at {program}")
    mountpoints.check_privileges()
    if os.geteuid() == 0:
        return
    if not os.stat(program).st_mode & stat.S_ISUID:
        text = f"{program} is not setuid root, so only root can mount"
        yield Finding("fuse", PROBLEM, text, f"as root, run 'chmod u+s {program}', or install fuse3 again")
    try:
        mountpoints.check_fuse(allow_other=True)
        yield Finding("fuse", OK, "--allow-other is possible")
    except IcefsError as error:
        yield Finding("fuse", WARNING, error.own_message, error.hint)


def check_mounts() -> Iterator[Finding]:
    """Looks for mounts whose daemon is dead, or does not answer."""
    ours = [entry for entry in mountinfo.mount_table() if entry.filesystem_type == mountinfo.FILESYSTEM_TYPE]
    alive = 0
    for entry in ours:
        error = _ask(entry.mountpoint)
        if error is None:
            alive += 1
        elif error in (errno.ENOTCONN, errno.ECONNABORTED):
            text = f"the daemon of {entry.mountpoint} has died"
            yield Finding("mounts", PROBLEM, text, f"run '{command('umount', entry.mountpoint)}' and mount again")
        elif error == errno.ETIMEDOUT:
            text = f"{entry.mountpoint} does not answer"
            yield Finding(
                "mounts", PROBLEM, text, f"look into its log; '{command('umount', entry.mountpoint)}' ends it"
            )
        elif error in (errno.EACCES, errno.EPERM):
            alive += 1  # another user's
        elif mountinfo.mounted_at(entry.mountpoint) is not None:
            yield Finding("mounts", WARNING, f"{entry.mountpoint}: {os.strerror(error)}")
    if mountpoints.updatedb_reads_mounts():
        yield Finding("mounts", WARNING, *mountpoints.UPDATEDB.rsplit(": ", 1))
    yield Finding("mounts", OK, f"{alive} of {plural(len(ours), 'mount')} answer{'s' * (len(ours) == 1)}")


def _ask(mountpoint: str) -> int | None:
    """Returns the errno with which a mount answers; None if all is well."""
    answer: list[int | None] = []

    def ask() -> None:
        try:
            os.statvfs(mountpoint)
            answer.append(None)
        except OSError as error:
            answer.append(error.errno)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    return answer[0] if answer else errno.ETIMEDOUT


def check_directories(state_dir: Path | None, cache_dir: Path | None) -> Iterator[Finding]:
    """Looks whether changes and cached chunks can be kept."""
    state_root = state_dir or default_state_dir()
    for name, place in (("state directory", state_root), ("cache directory", cache_dir or default_cache_dir())):
        yield from examine(name, lambda name=name, place=place: _check_directory(name, place))  # type: ignore[misc]
    left = [tree for tree in tree_summaries(state_root) if not tree.is_in_use and not tree.is_clean]
    if left:
        text = f"{plural(len(left), 'working tree')} in {state_root} {'is' if len(left) == 1 else 'are'} not mounted"
        yield Finding("state directory", OK, text, "'icefs sessions' lists them")
    for tree in left:
        if tree.problem is not None:
            yield Finding("state directory", PROBLEM, f"{tree.directory}: {tree.problem}", "run 'icefs sessions'")
            continue
        yield from examine("state directory", lambda tree=tree: _check_left(tree))  # type: ignore[misc]
        if tree.aside_files:
            text = f"{plural(tree.aside_files, 'file')} of unknown names in {tree.directory / LOST_NAME}"
            yield Finding("state directory", WARNING, text, "look at them, and remove that directory")


def _check_left(tree: TreeSummary) -> Iterator[Finding]:
    """Looks for files of a tree that nobody has mounted whose bytes are not all there."""
    for path in damaged_files(tree.directory)[:_SHOWN]:
        branch = quoted(tree.info.branch)
        text = f"{tree.directory}: branch {branch}: {quoted(path)} has not the bytes that were written"
        mountpoint = quoted(tree.info.mountpoint or "?")
        todo = f"'icefs mount' of the same branch at {mountpoint} lets you write it again or remove it"
        yield Finding("state directory", WARNING, text, todo)


def _check_directory(name: str, place: Path) -> Iterator[Finding]:
    above = place
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        yield Finding(name, PROBLEM, f"{above} is not a directory", "remove it, or name another place")
        return
    if not os.access(above, os.W_OK | os.X_OK):
        yield Finding(
            name, PROBLEM, f"nothing can be written to {above}", "change its permissions, or name another place"
        )
        return
    disk = os.statvfs(above)
    free = disk.f_bavail * disk.f_frsize
    text = f"{place} has {human_bytes(free)} free"
    if free < _NO_SPACE:
        yield Finding(name, PROBLEM, text, "make room, or name another place")
    elif free < _LITTLE_SPACE:
        yield Finding(name, WARNING, text, "make room, or name another place")
    else:
        yield Finding(name, OK, text)
    kind = _filesystem_type(above)
    if name == "state directory" and kind in _NETWORK:
        text = f"{place} is on a network file system ({kind})"
        yield Finding(name, WARNING, text, "keep working trees on a local disk: --state-dir, or $XDG_STATE_HOME")


def _filesystem_type(place: Path) -> str:
    """Returns the type of the file system that a directory is on."""
    real = os.path.realpath(place)
    found = ""
    kind = ""
    for entry in mountinfo.mount_table():
        point = entry.mountpoint.rstrip("/")
        if (real == point or real.startswith(f"{point}/")) and len(point) >= len(found):
            found, kind = point, entry.filesystem_type
    return kind


# The repository.


def check_repository(location: str) -> Iterator[Finding]:
    """Looks whether a repository can be reached, read and written."""
    parsed = parse_location(location)
    is_remote = KINDS[parsed.scheme].is_remote
    if parsed.scheme == "file":
        yield from examine("repository", lambda: _check_local(Path(parsed.root)))
    storage = open_storage(location, **({"max_tries": 2} if is_remote else {}))
    try:
        is_there = True
        for finding in examine("store", lambda: _check_store(storage, is_remote=is_remote)):
            is_there = is_there and finding.status != PROBLEM
            yield finding
        if is_remote:
            endpoint = _endpoint(parsed, storage)
            if endpoint is not None:
                yield from examine("clock", lambda: _check_clock(endpoint))
        if is_there:
            yield from examine("repository", lambda: _check_readable(storage))
        if is_there and storage.capabilities.must_be_tried:
            yield from examine("conditional writes", lambda: _check_conditions(storage))
    finally:
        storage.close()


def _check_local(root: Path) -> Iterator[Finding]:
    if not root.is_dir():
        yield Finding("repository", PROBLEM, f"there is no directory {root}", "check the location, or run 'icefs init'")
        return
    if not os.access(root, os.R_OK | os.X_OK):
        yield Finding("repository", PROBLEM, f"{root} cannot be read", "change its permissions")
        return
    if not os.access(root, os.W_OK):
        yield Finding("repository", WARNING, f"{root} cannot be written", "mount it with --read-only, or change that")
        return
    kind = _filesystem_type(root)
    if _locks_work(root):
        text = f"locks work in {root}"
        if kind in _NETWORK:
            text += f", on a network file system ({kind}), for processes of this machine at least"
        yield Finding("repository", WARNING if kind in _NETWORK else OK, text, _one_writer(kind))
    else:
        yield Finding(
            "repository",
            PROBLEM,
            f"files cannot be locked in {root} ({kind}), so nothing can be committed there",
            "mount the file system with locks, or move the repository to a local disk or an object store",
        )


def _one_writer(kind: str) -> str | None:
    return "let one machine write at a time" if kind in _NETWORK else None


def _locks_work(root: Path) -> bool:
    """Takes a lock twice, which must fail once."""
    with tempfile.NamedTemporaryFile(dir=root, prefix=".icefs-doctor-") as file, open(file.name, "rb+") as other:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        try:
            fcntl.flock(other.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _check_store(storage: Storage, *, is_remote: bool) -> Iterator[Finding]:
    """Asks for an object that every repository of the present format has."""
    place = redact(storage.url)
    times = []
    try:
        for _ in range(_PROBES):
            started = time.perf_counter()
            try:
                storage.head("repo")
            except ObjectNotFoundError:
                if "refs/" not in set(storage.list_dir()):  # which those of the first version have instead
                    text = f"there is no repository at {place}"
                    yield Finding("store", PROBLEM, text, "check the location, or run 'icefs init'")
                    return
            times.append(time.perf_counter() - started)
    except AccessDeniedError as error:
        todo = error.hint
        if todo is None and storage.url.startswith("s3://"):
            todo = "check the AWS environment and configuration files, or add ?anonymous=true"
        yield Finding("credentials" if is_remote else "permissions", PROBLEM, error.own_message, todo)
        return
    except UnreachableError as error:
        yield Finding(
            "endpoint", PROBLEM, error.own_message, error.hint or "check endpoint_url, region and the network"
        )
        return
    if is_remote:
        yield Finding("endpoint", OK, f"{place} answers")
        yield Finding("credentials", OK, "objects can be read")
    for remark in storage.remarks():
        yield Finding("store", OK, f"{place}: {remark}")
    best = min(times)
    text = f"a request takes {best * 1000:.1f} ms"
    if best > _SLOW_S:
        yield Finding(
            "latency", WARNING, text, "work nearer to the store; --cache-dir and 'icefs warmup' help with reading"
        )
    else:
        yield Finding("latency", OK, text)


def _endpoint(location: Location, storage: Storage) -> str | None:
    """Returns the URL of the service whose clock counts; None where it is not known."""
    match location.scheme:
        case "http":
            return location.root
        case "s3":
            return _endpoint_of(location.options)
        case "gcs" | "azure":
            # The second word of its identity; an account that cannot be found is a finding of its own.
            with contextlib.suppress(IcefsError):
                return storage.identity.split(" ")[1]
    return None


def _check_clock(endpoint: str) -> Iterator[Finding]:
    """Compares this machine's clock with the store's."""
    import urllib3  # lazy: a mount of a local directory does without

    parts = urlsplit(endpoint)
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    proxy = proxy_of(place)
    pool = urllib3.PoolManager() if proxy is None else urllib3.ProxyManager(proxy)
    try:
        told = pool.request("HEAD", f"{place}/", timeout=_PATIENCE_S, retries=False).headers.get("Date")
        told_at = None if told is None else parsedate_to_datetime(told)
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        yield Finding("clock", WARNING, f"{place} does not tell its time: {type(error).__name__}")
        return
    finally:
        pool.clear()
    if told_at is None:
        yield Finding("clock", WARNING, f"{place} does not tell its time")
        return
    skew = time.time() - told_at.timestamp()
    text = f"this clock differs by {abs(skew):.0f} s from the store's"
    if abs(skew) >= _SKEW_PROBLEM_S:
        yield Finding("clock", PROBLEM, text, "set the clock: requests are refused")
    elif abs(skew) >= _SKEW_WARNING_S:
        yield Finding("clock", WARNING, text, "set the clock, or let NTP do it")
    else:
        yield Finding("clock", OK, text)


def _endpoint_of(options: object) -> str:
    given = options if isinstance(options, dict) else {}
    endpoint = given.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = given.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    return str(endpoint or f"https://s3.{region}.amazonaws.com")


def _check_conditions(storage: Storage) -> Iterator[Finding]:
    """Tries whether the store keeps the conditions of writes, without which commits are lost."""
    from icefs.engine.write.store_probe import ignored_conditions

    check = "conditional writes"
    try:
        ignored = ignored_conditions(storage)
    except AccessDeniedError as error:
        yield Finding(check, WARNING, f"nothing can be written: {error.own_message}", "mount it with --read-only")
        return
    if ignored:
        text = f"{redact(storage.url)} ignores {' and '.join(ignored)}: of two commits at once one is lost"
        todo = "use a store that keeps them, look for a proxy that drops them, or let one program write at a time"
        yield Finding(check, PROBLEM, text, todo)
    else:
        yield Finding(check, OK, "the store refuses a write over another version")


def _check_readable(storage: Storage) -> Iterator[Finding]:
    from icefs.engine.read.store_settings import unheeded_fields
    from icefs.engine.repository import Repository  # what a broken store would not get to

    with Repository.open(storage) as repository:
        refs = repository.refs()
        counts = f"{plural(len(refs.branches), 'branch', 'branches')}, {plural(len(refs.tags), 'tag')}"
        text = f"spec version {repository.spec_version}, {counts}"
        unheeded = unheeded_fields(repository.storage, repository.config)
    yield Finding("repository", OK, text)
    if unheeded:
        text = f"{', '.join(unheeded)}: no effect in icefs"
        yield Finding("configuration", WARNING, text, "leave it to other programs, or 'icefs config set --unset FIELD'")
