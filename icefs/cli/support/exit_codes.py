"""Exit codes: which one each error means, and what to do where the error itself gives no hint."""

from typing import NamedTuple

from icefs import errors

USAGE, NOT_FOUND, STATE, CONFLICT, FORBIDDEN, STORAGE, FORMAT, BUG = 2, 3, 4, 5, 6, 7, 8, 70
FAILED = 1
INTERRUPTED, PIPE_CLOSED = 130, 141  # what a shell reports of a process that SIGINT or SIGPIPE ended
EXIT_CODES: dict[int, str] = {
    0: "success",
    FAILED: "failed for a reason that has no code of its own",
    USAGE: "the command line or an argument is wrong",
    NOT_FOUND: "no such repository, branch, tag, snapshot, node, key or mount",
    STATE: "not possible in the present state (busy, exists already, nothing to do)",
    CONFLICT: "another process changed the same thing",
    FORBIDDEN: "not permitted (read-only, no access, not authorised)",
    STORAGE: "the object store or disk failed or does not answer",
    FORMAT: "a file of the repository is malformed, or of an unknown version",
    BUG: "a bug in icefs",
    INTERRUPTED: "interrupted",
}
"""The documented exit codes, in words for `icefs --help`."""


class Row(NamedTuple):
    """The exit code of a class of exceptions, and a hint for those that bring none.

    A hint stands here only if it helps with every command and in every case. Else the code that raises knows better,
    and no hint is better than a wrong one.
    """

    error: type[BaseException]
    exit_code: int
    hint: str | None = None


# The first row that matches counts, so a class stands before its bases. A test checks that each concrete class of
# `icefs.errors` has a row of its own.
ERROR_TABLE: tuple[Row, ...] = (
    Row(errors.RebaseFailedError, CONFLICT, "'icefs help conflicts' says how to go on"),
    Row(errors.BranchMovedError, CONFLICT, "rebase and try again"),
    Row(errors.ConflictError, CONFLICT, "try again"),
    Row(errors.ChunkNotFoundError, NOT_FOUND, "'icefs ls' on the array lists its chunks"),
    Row(errors.NodeNotFoundError, NOT_FOUND, "'icefs ls' lists what exists"),
    Row(errors.SnapshotNotFoundError, NOT_FOUND, "'icefs log' lists snapshots"),
    Row(errors.RefNotFoundError, NOT_FOUND, "'icefs branch list' and 'icefs tag list' list what exists"),
    Row(errors.RepositoryNotFoundError, NOT_FOUND, "check the location"),
    Row(errors.EntryNotFoundError, NOT_FOUND, "check the path"),
    Row(errors.NotFoundError, NOT_FOUND, "check the name"),
    Row(errors.AlreadyExistsError, STATE, "choose another name"),
    Row(errors.ReadOnlyError, FORBIDDEN),
    Row(errors.UnauthorizedContainerError, FORBIDDEN, "--allow-virtual URL_PREFIX authorises a container"),
    Row(errors.InvalidMetadataError, USAGE),
    Row(errors.FileTooLargeError, USAGE, "write a smaller file"),
    Row(errors.NameTooLongError, USAGE, "choose a shorter name"),
    Row(errors.ReservedNameError, USAGE, "choose another name"),
    Row(errors.InvalidInputError, USAGE),
    Row(errors.NotADirectoryTreeError, USAGE),
    Row(errors.IsADirectoryTreeError, USAGE, "name a file instead"),
    Row(errors.NotEmptyError, STATE, "choose an empty directory"),
    Row(errors.BadHandleError, FAILED),
    Row(errors.CrossTreeError, USAGE, "copy instead"),
    Row(errors.NotPermittedError, FORBIDDEN),
    Row(errors.TreeError, USAGE),
    Row(errors.NothingToCommitError, STATE, "change something first"),
    Row(errors.ChunksCollectedError, CONFLICT, "write the chunks again, and commit"),
    Row(errors.TreeInUseError, STATE, "unmount it there first"),
    Row(errors.SessionStateError, STATE),
    Row(errors.UntrustedMountError, FORBIDDEN, "run the command as the user who mounted it"),
    Row(errors.StaleError, STATE),
    Row(errors.NotShownError, FAILED),
    Row(errors.UnsupportedError, FAILED),
    Row(errors.UnsupportedSpecVersionError, FORMAT, "a newer icefs may read it"),
    Row(errors.DecodeError, FORMAT),
    Row(errors.FormatError, FORMAT, "the file is damaged: restore it from a copy"),
    Row(errors.ObjectNotFoundError, STORAGE, "the repository is incomplete: restore the object from a copy"),
    Row(errors.PreconditionFailedError, CONFLICT, "try again"),
    Row(errors.AccessDeniedError, FORBIDDEN),
    Row(errors.ThrottledError, STORAGE, "try again later"),
    Row(errors.BadAnswerError, STORAGE, "check the endpoint and the network, and what answers in the store's place"),
    Row(errors.UnreachableError, STORAGE, "check the endpoint and the network"),
    Row(errors.NoSpaceError, STORAGE, "make room and try again"),
    Row(errors.TooManyFilesError, STORAGE, "raise the limit of open files ('ulimit -n'), or close some"),
    Row(errors.InvalidObjectSizeError, STORAGE, "the object is damaged: restore it from a copy"),
    Row(errors.ObjectModifiedError, STORAGE, "the referenced file changed after it was referenced"),
    Row(errors.NotAnObjectError, STORAGE, "put a file there, or remove it"),
    Row(errors.DamagedStateError, STORAGE, "'icefs sessions' lists it, exports what it has and gives it up"),
    Row(errors.StorageError, STORAGE),
    Row(errors.InternalError, BUG, "please report this bug with the output of --debug"),
    Row(errors.IcefsError, FAILED),
    Row(FileNotFoundError, NOT_FOUND, "check the path"),
    Row(NotADirectoryError, USAGE, "check the path"),
    Row(PermissionError, FORBIDDEN),
    Row(OSError, FAILED),
    Row(Exception, BUG, "please report this bug with the output of --debug"),
)


def exit_row(exc: BaseException) -> Row:
    """Returns an exception's row in the table."""
    return next(row for row in ERROR_TABLE if isinstance(exc, row.error))
