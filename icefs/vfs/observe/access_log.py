"""The access log: the last requests, with the paths that they were about.

The ring of `Stats` holds numbers, for a path costs more than most requests. Paths are found out when a program looks:
of an inode that is gone since, or a handle that was opened too long ago, the number is all there is to tell.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from time import perf_counter_ns
from typing import Any, Final, Protocol

from icefs.inode import Ino
from icefs.vfs.interface import Detail
from icefs.vfs.observe.stats import Access, Stats, errno_name
from icefs.words import node_key, node_name, quoted

logger = logging.getLogger(__name__)

_BY_HANDLE = frozenset(
    ("read", "write", "fallocate", "ioctl", "flush", "release", "fsync", "readdir", "releasedir", "fsyncdir")
)
_PATHLESS = frozenset(("statfs",))
_ATTRIBUTES = frozenset(("setxattr", "getxattr"))

_CONTROL: Final = ".icefs"

type _Opened = tuple[int, str | None]


class Describes(Protocol):
    """The paths of inodes and handles."""

    def describe_inode(self, ino: Ino) -> str:
        """Returns the path of an inode below the mountpoint; never raises."""

    def describe_handle(self, fh: int) -> str:
        """Returns the path of an open file or directory; never raises."""


def recent_accesses(stats: Stats, paths: Describes, limit: int) -> list[dict[str, Any]]:
    """Describes the last requests, oldest first; on the event loop's thread."""
    accesses = list(stats.recent)
    shown = accesses[max(0, len(accesses) - limit) :]
    handles = dict(_opened(stats, accesses))
    offset_ns = time.time_ns() - perf_counter_ns()
    return [_facts(stats, paths, handles, access, offset_ns) for access in shown]


def programs_accesses(
    stats: Stats, paths: Describes, limit: int, window: tuple[float, float]
) -> tuple[list[dict[str, Any]], dict[str, dict[str, int]]]:
    """Describes the last requests but for those of the control files, with which programs watch the mount.

    On the event loop's thread.

    Args:
        stats: The requests.
        paths: Their paths.
        limit: How many requests to describe.
        window: Two uptimes of the mount, in seconds.

    Returns:
        The requests, oldest first; and how many requests of control files ended within the window, with their bytes,
        by operation.
    """
    accesses = list(stats.recent)
    handles = dict(_opened(stats, accesses))
    offset_ns = time.time_ns() - perf_counter_ns()
    found: list[dict[str, Any]] = []
    control: dict[str, dict[str, int]] = {}
    begin_ns, end_ns = ((stats.started_at + uptime_s) * 1e9 - offset_ns for uptime_s in window)
    for access in reversed(accesses):
        if len(found) == limit:
            break
        facts = _facts(stats, paths, handles, access, offset_ns)
        if _CONTROL not in facts["path"].split("/"):
            found.append(facts)
        elif begin_ns <= access[1] + access[2] < end_ns:
            counted = control.setdefault(facts["op"], {"count": 0, "bytes": 0})
            counted["count"] += 1
            counted["bytes"] += facts["bytes"]
    return found[::-1], control


def _opened(stats: Stats, accesses: Iterable[Access]) -> Iterator[tuple[int, _Opened]]:
    """Yields the handles that were opened, with their inodes, or with the directory and name of a new file."""
    for operation, _, _, error, (where, detail, _) in accesses:
        if error == 0 and isinstance(detail, int) and stats.operations[operation] in ("open", "opendir"):
            yield detail, (where, None)
        elif isinstance(detail, tuple):
            yield detail[1], (where, detail[0])


def _facts(
    stats: Stats, paths: Describes, handles: dict[int, _Opened], access: Access, offset_ns: int
) -> dict[str, Any]:
    operation, started_ns, elapsed_ns, error, (where, detail, size) = access
    name = stats.operations[operation]
    return {
        "time": _moment(started_ns + offset_ns),
        "op": name,
        "path": node_key(_path(name, paths, handles, where, detail)),
        "bytes": size,
        "us": round(elapsed_ns / 1000, 1),
        "result": "ok" if error == 0 else errno_name(error),
    }


def _path(operation: str, paths: Describes, handles: dict[int, _Opened], where: int, detail: Detail) -> str:
    if operation in _PATHLESS:
        return "/"
    if operation in _BY_HANDLE:
        opened = handles.get(where)
        if opened is None:
            return paths.describe_handle(where)
        where, detail = opened
    path = paths.describe_inode(Ino(where))
    name = detail[0] if isinstance(detail, tuple) else detail
    if not isinstance(name, str):
        return path
    return f"{path} {name}" if operation in _ATTRIBUTES else f"{path.rstrip('/')}/{name}"


def _moment(time_ns: int) -> str:
    moment = datetime.fromtimestamp(time_ns / 1e9, UTC)
    return moment.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def as_text(accesses: Iterable[dict[str, Any]]) -> bytes:
    """Writes accesses one a line: time, operation, result, duration, bytes, path."""
    lines = []
    for one in accesses:
        numbers = f"{one['us']:>10.1f} us {one['bytes']:>9}"
        lines.append(f"{one['time']} {one['op']:<10} {one['result']:<8} {numbers} {quoted(node_name(one['path']))}\n")
    return "".join(lines).encode(errors="backslashreplace")


def log_accesses(stats: Stats, paths: Describes, *, enabled: bool) -> None:
    """Begins or ends to log each request, at level DEBUG; costs as much as the log does."""
    remember = stats.recent.append
    if not enabled:
        stats.on_access = remember
        return

    handles: dict[int, _Opened] = {}

    def log(access: Access) -> None:
        remember(access)
        handles.update(_opened(stats, [access]))
        operation, _, elapsed_ns, error, (where, detail, size) = access
        name = stats.operations[operation]
        result = "ok" if error == 0 else errno_name(error)
        path = _path(name, paths, handles, where, detail)
        logger.debug("%s %s: %s, %d bytes, %.1f us", name, path, result, size, elapsed_ns / 1000)
        if name in ("release", "releasedir"):
            handles.pop(where, None)

    stats.on_access = log
