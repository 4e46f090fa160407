"""The one place where an exception becomes an errno.

Code below this module raises what happened; `ERRNO_TABLE` says which errno the system call fails with, and how loud the
log is. `RequestRecorder` applies it to the requests of a mount.
"""

import errno
import logging
from collections.abc import Callable
from typing import Final, NamedTuple

import trio

from icefs import errors
from icefs.daemon.logs import branch_in
from icefs.fuse.boundary import FuseError
from icefs.vfs.observe.stats import Stats

logger = logging.getLogger(__name__)


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
    ErrnoRow(errors.StaleError, errno.ESTALE, _QUIET, "makes the kernel look the path up again and try once more"),
    ErrnoRow(errors.NotShownError, errno.EOPNOTSUPP, _NOTE, "a view leaves it out, or its file is too large"),
    ErrnoRow(errors.UnsupportedError, errno.EOPNOTSUPP, _QUIET),
    ErrnoRow(errors.UnsupportedSpecVersionError, errno.EIO, _BROKEN),
    ErrnoRow(errors.DecodeError, errno.EIO, _BROKEN, "for the reads that meet the chunk; others read on"),
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
    ErrnoRow(trio.Cancelled, errno.EINTR, _QUIET, "the program is being killed, or the whole mount ends"),
)

_UNEXPECTED: Final = ErrnoRow(Exception, errno.EIO, _BUG, "a bug: the log has the traceback")

# Errnos of an OSError that the program behind a request gets as they are: the machine's limits. Any other happened to
# the daemon's files and not to the program's, and becomes EIO. It is the daemon that has too many open files, so EMFILE
# becomes ENFILE.
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
    """Returns the row of an exception; one that is in no row is a bug, and EIO."""
    exc = unwrap(exc)
    if isinstance(exc, FuseError):  # a name that no file system can have, or a request that none answers
        return ErrnoRow(FuseError, exc.errno, _NOTE if exc.errno == errno.EINVAL else _QUIET)
    for row in ERRNO_TABLE:
        if isinstance(exc, row.error):
            return row
    if isinstance(exc, OSError):
        return ErrnoRow(OSError, _PASSED_ON.get(exc.errno or 0, errno.EIO), _BROKEN)
    return _UNEXPECTED


class RequestRecorder:
    """Counts the requests of a mount, logs failures, and chooses their errnos; implements `boundary.Recorder`."""

    def __init__(self, stats: Stats) -> None:
        self.record = stats.record
        self._stats = stats

    def failed(self, operation: int, error: BaseException, where: Callable[[], str]) -> int:
        """Logs a failure as loudly as its row says, counts it, and returns its errno. Never raises."""
        row = to_errno(error)
        error = unwrap(error)
        name = self._stats.operations[operation]
        try:
            path = where() if row.level >= logging.INFO else ""
            self._stats.record_failure(operation, error, row.errno, row.level, path)
            code = errno.errorcode.get(row.errno, str(row.errno))
            trace = error if row.level >= logging.ERROR else None
            about = {"branch": branch_in(path)}
            logger.log(
                row.level, "%s %s: %s: %s: %s", name, path, code, type(error).__name__, error,
                exc_info=trace, extra=about,
            )  # fmt: skip
        except Exception:
            # A failure to describe a failure must not become the end of the mount.
            logger.exception("%s: while reporting %r", name, error)
        return row.errno
