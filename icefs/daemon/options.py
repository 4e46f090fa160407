"""The options of a mount: plain values that travel from the command line to the daemon as JSON.

Imports nothing heavy, since the command line needs it before it knows whether there is anything to do.
"""

import json
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

from icefs.engine.write.packing import DEFAULT_PACK_BYTES
from icefs.errors import InvalidInputError
from icefs.real_path import real_path

MAX_ID: Final = (1 << 32) - 2
"""The largest number of a user or group; the one above it means none."""

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
LOG_FORMATS: Final = ("text", "json")
NATIVE: Final = "native"
PYFUSE3: Final = "pyfuse3"
FUSE_LIBRARIES: Final = (NATIVE, PYFUSE3)
"""The ways to the kernel; see `connect`."""

DEFAULT_CACHE_SIZE: Final = 10 << 30
"""The size of the disk cache in bytes where a command or a configuration file does not say it."""

MAX_PACK_SIZE: Final = 1 << 30
"""Objects that chunks share are put together in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountOptions:
    """The options of one mount; each is defined here, and nowhere else.

    Attributes:
        repository: The repository's location: a path or URL.
        mountpoint: An empty directory.
        branch: Shows this branch alone, at the mountpoint itself.
        tag: Shows this tag alone.
        snapshot: Shows the snapshot with this id alone.
        as_of: With `branch`: shows what its tip was at this time, in microseconds since the epoch.
        read_only: Refuses all writes, in branches too.
        allow_other: Lets other users in.
        uid: The owner of all files; None for the user that mounts.
        gid: The group of all files; None for the group of the user that mounts.
        umask: Permission bits that are taken away.
        poll_interval_s: How often branches and tags are looked at; 0 for never.
        allow_virtual: The URL prefixes that virtual chunks may be followed into.
        state_dir: Where the working trees of branches are kept; None for the default place under `$XDG_STATE_HOME`.
        pack_size: How many bytes an object may have that small chunks of a commit share; 0 gives each its own.
        upload_after_s: How long a file must not have changed before it is uploaded in the background to a remote
            store; 0 for not before the commit.
        memory_bytes: How much of fetched chunks is kept in memory.
        cache_dir: Where what was read from a remote store is kept; None for the default place under `$XDG_CACHE_HOME`.
        cache_size: How much of it is kept there; 0 for nothing.
        log_file: Where the daemon logs; None for a file under `$XDG_STATE_HOME`, or stderr in the foreground.
        log_level: One of `LOG_LEVELS`.
        log_format: One of `LOG_FORMATS`.
        metrics: Where metrics are served over HTTP, as HOST:PORT; None for nowhere.
        view: The format that the mount shows in place of Zarr keys, with its options after commas; None for Zarr keys.
        view_cache: How much of decoded chunks is kept in memory, once a view is read.
        fuse_library: One of `FUSE_LIBRARIES`.
        fsname: What `mount` and `df` show as the source; None for the repository's location.
        foreground: Stays attached to the terminal, and logs there.
    """

    repository: str
    mountpoint: str
    branch: str | None = None
    tag: str | None = None
    snapshot: str | None = None
    as_of: int | None = None
    read_only: bool = False
    allow_other: bool = False
    uid: int | None = None
    gid: int | None = None
    umask: int = 0o022
    poll_interval_s: float = 5.0
    allow_virtual: tuple[str, ...] = ()
    state_dir: str | None = None
    pack_size: int = DEFAULT_PACK_BYTES
    upload_after_s: float = 5.0
    memory_bytes: int = 128 << 20
    cache_dir: str | None = None
    cache_size: int = 0
    log_file: str | None = None
    log_level: str = "info"
    log_format: str = "text"
    metrics: str | None = None
    view: str | None = None
    view_cache: int = 256 << 20
    fuse_library: str = NATIVE
    fsname: str | None = None
    foreground: bool = False

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.branch, self.tag, self.snapshot)) > 1:
            raise InvalidInputError("give one of branch, tag and snapshot", hint="leave the others out")
        if self.as_of is not None and self.branch is None:
            raise InvalidInputError("as-of goes with a branch", hint="add --branch main")
        if self.log_level not in LOG_LEVELS:
            raise InvalidInputError(f"unknown log level {self.log_level!r}", hint=f"one of {', '.join(LOG_LEVELS)}")
        if self.log_format not in LOG_FORMATS:
            raise InvalidInputError(f"unknown log format {self.log_format!r}", hint=f"one of {', '.join(LOG_FORMATS)}")
        if self.fuse_library not in FUSE_LIBRARIES:
            raise InvalidInputError(
                f"unknown FUSE library {self.fuse_library!r}", hint=f"one of {', '.join(FUSE_LIBRARIES)}"
            )
        if self.view is not None:
            check_view(self.view)
        if self.view_cache < 0:
            raise InvalidInputError(f"a view cache of {self.view_cache} bytes")
        if self.metrics is not None:
            parse_address(self.metrics)
        if not self.poll_interval_s >= 0:
            raise InvalidInputError(f"not a poll interval: {self.poll_interval_s} s", hint="0 for never, or more")
        if not self.upload_after_s >= 0:
            raise InvalidInputError(
                f"not a time after which to upload: {self.upload_after_s} s",
                hint="0 for not before the commit, or more",
            )
        if not 0 <= self.pack_size <= MAX_PACK_SIZE:
            raise InvalidInputError(
                f"not a pack size: {self.pack_size} bytes",
                hint=f"at most {MAX_PACK_SIZE}; 0 gives each chunk its own object",
            )
        for name, number in (("uid", self.uid), ("gid", self.gid)):
            if number is not None and not 0 <= number <= MAX_ID:
                raise InvalidInputError(f"{number} is no {name}: they go up to {MAX_ID}")
        if not 0 <= self.umask <= 0o777:
            raise InvalidInputError(f"not a umask: {self.umask:o}", hint="three octal digits, such as 022")

    @property
    def is_writable(self) -> bool:
        """Whether anything that is shown can be written to: branches, unless all writes are refused."""
        is_fixed = self.tag is not None or self.snapshot is not None or self.as_of is not None or self.view is not None
        return not self.read_only and not is_fixed

    def resolved(self) -> Self:
        """Returns the same with absolute paths, so that the daemon may leave the directory."""
        log_file = self.log_file
        if log_file is None and not self.foreground:
            log_file = str(default_log_file(self.mountpoint))
        state_dir = self.state_dir
        if state_dir is None and self.is_writable:
            state_dir = str(default_state_dir())
        repository = self.repository
        if "://" not in repository and not repository.startswith("memory:"):
            repository = real_path(repository)
        return replace(
            self,
            repository=repository,
            mountpoint=real_path(self.mountpoint),
            log_file=None if log_file is None else real_path(log_file),
            state_dir=None if state_dir is None else real_path(state_dir),
            cache_dir=None if self.cache_dir is None else real_path(self.cache_dir),
        )

    def to_json(self) -> str:
        """Returns the options as JSON, for the daemon."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Reads what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        known = {field.name for field in fields(cls)}
        chosen = {name: value for name, value in values.items() if name in known}
        chosen["allow_virtual"] = tuple(chosen.get("allow_virtual", ()))
        return cls(**chosen)


def check_view(text: str) -> None:
    """Checks that a view can be shown here.

    Raises:
        InvalidInputError: there is no such format, or it has no such option.
        UnsupportedError: a library that it needs is not installed.
    """
    from icefs.views.formats import parse_format  # numpy comes with it, which other mounts need not wait for here

    parse_format(text).check()


def parse_address(text: str) -> tuple[str, int]:
    """Reads HOST:PORT, [HOST]:PORT, or a port of this machine alone.

    Raises:
        InvalidInputError: it is none.
    """
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise InvalidInputError(f"{text!r} is no address to serve metrics at", hint="give HOST:PORT, or PORT")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def default_log_file(mountpoint: str) -> Path:
    """Returns the default log file of the daemon of a mountpoint."""
    name = quote(real_path(mountpoint).strip("/") or "root", safe="", errors="surrogateescape").replace("%2F", "-")
    return _state_home() / "log" / f"{name[-200:]}.log"


def default_state_dir() -> Path:
    """Returns the default place of working trees."""
    return _state_home() / "trees"


def _state_home() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "icefs")
