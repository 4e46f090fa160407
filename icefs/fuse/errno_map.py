"""The one place where an exception becomes an errno, and the boundary that every handler runs behind.

Code below this module raises what happened; `ERRNO_TABLE` says what the kernel is told about it, and how loud the log
is. A handler raises nothing but `FuseError`.
"""

import errno
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from time import perf_counter_ns
from typing import Any, Concatenate, Final, NamedTuple, Protocol

import trio

from icefs import errors
from icefs.daemon.logs import branch_in
from icefs.vfs.observe.stats import Subject

logger = logging.getLogger(__name__)


class FuseError(Exception):
    """The answer to a request that fails.

    Attributes:
        errno: What the system call fails with.
    """

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode.get(number, str(number)))
        self.errno = number


class ErrnoRow(NamedTuple):
    """What a class of exceptions means to a system call.

    Attributes:
        error: The class, with all below it that have no row of their own.
        errno: What the system call fails with.
        level: The level of the log line. DEBUG is for what programs ask for and expect to fail.
        why: The reason for the choice where there was one.
    """

    error: type[BaseException]
    errno: int
    level: int
    why: str = ""


_QUIET, _NOTE, _BROKEN, _BUG = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

ERRNO_TABLE: Final[tuple[ErrnoRow, ...]] = (
    # The first row that an exception is an instance of counts, so a class stands before its bases.
    ErrnoRow(errors.RebaseFailedError, errno.ESTALE, _NOTE),
    ErrnoRow(errors.BranchMovedError, errno.ESTALE, _NOTE),
    ErrnoRow(errors.ConflictError, errno.ESTALE, _NOTE, "what the caller stood on is no longer the newest"),
    ErrnoRow(errors.ChunkNotFoundError, errno.ENOENT, _QUIET),
    ErrnoRow(errors.NodeNotFoundError, errno.ENOENT, _QUIET),
    ErrnoRow(errors.SnapshotNotFoundError, errno.ENOENT, _NOTE),
    ErrnoRow(errors.RefNotFoundError, errno.ENOENT, _NOTE),
    ErrnoRow(errors.RepositoryNotFoundError, errno.EIO, _BROKEN, "it was there when it was mounted"),
    ErrnoRow(errors.EntryNotFoundError, errno.ENOENT, _QUIET),
    ErrnoRow(errors.NotFoundError, errno.ENOENT, _QUIET, "zarrita.js takes ENOENT alone for a missing chunk"),
    ErrnoRow(errors.AlreadyExistsError, errno.EEXIST, _QUIET),
    ErrnoRow(errors.ReadOnlyError, errno.EROFS, _QUIET),
    ErrnoRow(errors.UnauthorizedContainerError, errno.EACCES, _BROKEN),
    ErrnoRow(errors.InvalidMetadataError, errno.EINVAL, _NOTE),
    ErrnoRow(errors.NameTooLongError, errno.ENAMETOOLONG, _QUIET),
    ErrnoRow(errors.ReservedNameError, errno.EPERM, _NOTE, "GDAL shows it at open; EINVAL would be taken for a bug"),
    ErrnoRow(errors.FileTooLargeError, errno.EFBIG, _QUIET),
    ErrnoRow(errors.InvalidInputError, errno.EINVAL, _NOTE),
    ErrnoRow(errors.NotADirectoryTreeError, errno.ENOTDIR, _QUIET),
    ErrnoRow(errors.IsADirectoryTreeError, errno.EISDIR, _QUIET),
    ErrnoRow(errors.NotEmptyError, errno.ENOTEMPTY, _QUIET),
    ErrnoRow(errors.BadHandleError, errno.EBADF, _NOTE),
    ErrnoRow(errors.CrossTreeError, errno.EXDEV, _QUIET),
    ErrnoRow(errors.NotPermittedError, errno.EPERM, _QUIET, "symlinks and device nodes: what link(2), mknod(2) say"),
    ErrnoRow(errors.TreeError, errno.EINVAL, _QUIET),
    ErrnoRow(errors.NothingToCommitError, errno.ENODATA, _NOTE),
    ErrnoRow(errors.ChunksCollectedError, errno.ESTALE, _NOTE, "chunks that the caller stored are gone from the store"),
    ErrnoRow(errors.TreeInUseError, errno.EBUSY, _BROKEN),
    ErrnoRow(errors.SessionStateError, errno.EPERM, _NOTE),
    ErrnoRow(errors.UntrustedMountError, errno.EACCES, _NOTE),
    ErrnoRow(errors.StaleError, errno.ESTALE, _QUIET, "makes the kernel look the path up anew and try once more"),
    ErrnoRow(errors.UnsupportedError, errno.EOPNOTSUPP, _QUIET),
    ErrnoRow(errors.UnsupportedSpecVersionError, errno.EIO, _BROKEN),
    ErrnoRow(errors.FormatError, errno.EIO, _BROKEN, "never zeros, never another path's bytes"),
    ErrnoRow(errors.ObjectNotFoundError, errno.EIO, _BROKEN, "a reference to it exists, so ENOENT would read as fill"),
    ErrnoRow(errors.PreconditionFailedError, errno.EIO, _BROKEN),
    ErrnoRow(errors.AccessDeniedError, errno.EACCES, _BROKEN),
    ErrnoRow(errors.ThrottledError, errno.EIO, _BROKEN, "EAGAIN would make some programs spin"),
    ErrnoRow(errors.BadAnswerError, errno.EIO, _BROKEN),
    ErrnoRow(errors.UnreachableError, errno.EIO, _BROKEN),
    ErrnoRow(errors.TooManyFilesError, errno.ENFILE, _BROKEN, "EMFILE would be the program's own limit"),
    ErrnoRow(errors.NoSpaceError, errno.ENOSPC, _BROKEN),
    ErrnoRow(errors.InvalidObjectSizeError, errno.EIO, _BROKEN),
    ErrnoRow(errors.ObjectModifiedError, errno.EIO, _BROKEN),
    ErrnoRow(errors.NotAnObjectError, errno.EIO, _BROKEN, "nothing in a repository is followed out of it"),
    ErrnoRow(errors.DamagedStateError, errno.EIO, _BROKEN),
    ErrnoRow(errors.StorageError, errno.EIO, _BROKEN),
    ErrnoRow(errors.InternalError, errno.EIO, _BUG),
    ErrnoRow(errors.IcefsError, errno.EIO, _BROKEN),
    # Not ours, but said plainly by the system.
    ErrnoRow(MemoryError, errno.ENOMEM, _BROKEN),
)

_UNEXPECTED: Final = ErrnoRow(Exception, errno.EIO, _BUG, "a bug: the log has the traceback")

# What an OSError may say to the program behind a request: the machine's limits. Anything else that the operating
# system refused us happened to the daemon's files and not to the caller's, and is EIO. It is the daemon that has
# too many open files, so EMFILE becomes ENFILE.
_PASSED_ON: Final = {
    errno.ENOSPC: errno.ENOSPC,
    errno.EDQUOT: errno.EDQUOT,
    errno.ENOMEM: errno.ENOMEM,
    errno.ENFILE: errno.ENFILE,
    errno.EMFILE: errno.ENFILE,
}


def unwrap(exc: BaseException) -> BaseException:
    """Takes the one exception out of the groups that a nursery wraps it in."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


def to_errno(exc: BaseException) -> ErrnoRow:
    """Finds what an exception means; what is in no row is a bug, and EIO."""
    exc = unwrap(exc)
    for row in ERRNO_TABLE:
        if isinstance(exc, row.error):
            return row
    if isinstance(exc, OSError):
        return ErrnoRow(OSError, _PASSED_ON.get(exc.errno or 0, errno.EIO), _BROKEN)
    return _UNEXPECTED


class Recorder(Protocol):
    """Where requests are counted and failures remembered."""

    def record(self, operation: int, started_ns: int, elapsed_ns: int, error: int, subject: Subject) -> None:
        """Counts one request that was answered, well or not."""

    def record_failure(self, operation: int, error: BaseException, row_errno: int, level: int, where: str) -> None:
        """Remembers a failure."""


class HasBoundary(Protocol):
    """An object whose handlers run behind the boundary."""

    recorder: Recorder

    def describe(self, operation: str, args: tuple[Any, ...]) -> str:
        """Says which path a request is about."""


OPERATIONS: Final[tuple[str, ...]] = (
    "lookup", "getattr", "setattr", "readlink", "mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "link",
    "open", "create", "read", "write", "flush", "release", "fsync", "opendir", "readdir", "releasedir", "fsyncdir",
    "statfs", "setxattr", "getxattr", "listxattr", "removexattr", "access", "forget", "fallocate",
    "ioctl",
)  # fmt: skip
"""The requests that are answered, in the order of the counters."""

_NUMBERS: Final = {name: number for number, name in enumerate(OPERATIONS)}

type _Describe = Callable[[tuple[Any, ...], Any], Subject]


def _named(args: tuple[Any, ...], result: object) -> Subject:
    return args[0], args[1], 0


def _plain(args: tuple[Any, ...], result: object) -> Subject:
    return args[0], None, 0


# What the access log keeps of a request and its answer, which is None after a failure. No buffers, for they are large;
# paths are found out by whoever reads the log.
_SUBJECTS: Final[dict[str, _Describe]] = {
    **dict.fromkeys(("lookup", "mknod", "mkdir", "unlink", "rmdir", "symlink", "setxattr", "getxattr"), _named),
    "rename": lambda args, result: (args[0], args[1] + b" -> " + args[3], 0),
    "link": lambda args, result: (args[1], args[2], 0),
    "open": lambda args, result: (args[0], result and result.fh, 0),
    "create": lambda args, result: (args[0], args[1] if result is None else (args[1], result[0].fh), 0),
    "opendir": lambda args, result: (args[0], result, 0),
    "read": lambda args, result: (args[0], None, 0 if result is None else len(result)),
    "write": lambda args, result: (args[0], None, result or 0),
    "statfs": lambda args, result: (0, None, 0),
}


def handler[S: HasBoundary, **P, R](
    function: Callable[Concatenate[S, P], Awaitable[R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Wraps a handler: counts it, times it, and turns whatever it raises into `FuseError`.

    `trio.Cancelled` passes: the request is cut off (`interrupts`), and counted as such. So does `KeyboardInterrupt`.
    """
    name = getattr(function, "__name__", "")
    number = _NUMBERS[name]
    subject: _Describe = _SUBJECTS.get(name, _plain)

    @functools.wraps(function)
    async def guarded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        started = perf_counter_ns()
        try:
            result = await function(self, *args, **kwargs)
        except FuseError as exc:  # said on purpose, by the adapter itself
            self.recorder.record(number, started, perf_counter_ns() - started, exc.errno, subject(args, None))
            raise
        except Exception as exc:  # noqa: BLE001  (the boundary that keeps the mount up)
            code = _answer(self, name, number, exc, args)
            self.recorder.record(number, started, perf_counter_ns() - started, code, subject(args, None))
            raise FuseError(code) from None
        except trio.Cancelled as cut:  # by `interrupts`, or with the whole mount
            self.recorder.record_failure(number, cut, errno.EINTR, _QUIET, "")
            self.recorder.record(number, started, perf_counter_ns() - started, errno.EINTR, subject(args, None))
            raise
        self.recorder.record(number, started, perf_counter_ns() - started, 0, subject(args, result))
        return result

    guarded.__is_handler__ = True  # type: ignore[attr-defined]
    return guarded


def silent_handler[S: HasBoundary, **P](
    function: Callable[Concatenate[S, P], None],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, None]]:
    """Wraps a handler whose request takes no answer, so that nothing may be raised at all (`forget`)."""
    name = getattr(function, "__name__", "")
    number = _NUMBERS[name]

    @functools.wraps(function)
    async def guarded(self: S, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(self, *args, **kwargs)
        except Exception as exc:  # noqa: BLE001  (the boundary that keeps the mount up)
            _answer(self, name, number, exc, args)

    guarded.__is_handler__ = True  # type: ignore[attr-defined]
    return guarded


async def in_background[R](what: str, work: Callable[[], Awaitable[R]]) -> R | None:
    """Runs what nobody waits for; a failure is logged, and never ends the mount.

    Returns:
        The result, or None after a failure.
    """
    try:
        return await work()
    except errors.IcefsError as exc:
        if not isinstance(exc, errors.InternalError):
            logger.warning("%s: %s: %s", what, type(exc).__name__, exc)
            return None
        logger.exception("%s", what)
    except Exception:
        logger.exception("%s", what)
    return None


def _answer(operations: HasBoundary, name: str, number: int, exc: Exception, args: tuple[Any, ...]) -> int:
    """Logs a failure as loudly as its row says, and returns its errno. Never raises."""
    row = to_errno(exc)
    exc = unwrap(exc)  # type: ignore[assignment]
    try:
        where = operations.describe(name, args) if row.level >= logging.INFO else ""
        operations.recorder.record_failure(number, exc, row.errno, row.level, where)
        code = errno.errorcode.get(row.errno, str(row.errno))
        trace = exc if row.level >= logging.ERROR else None
        about = {"branch": branch_in(where)}
        logger.log(
            row.level, "%s %s: %s: %s: %s", name, where, code, type(exc).__name__, exc, exc_info=trace, extra=about
        )
    except Exception:
        # A failure to describe a failure must not become the end of the mount.
        logger.exception("%s: while reporting %r", name, exc)
    return row.errno
