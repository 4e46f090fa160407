import errno
import inspect
import logging

import pytest
import trio

from icefs import errors
from icefs.fuse.errno_map import (
    ERRNO_TABLE,
    OPERATIONS,
    FuseError,
    handler,
    in_background,
    silent_handler,
    to_errno,
)
from tests.support.fake_vfs import FakeRecorder

CONCRETE = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, errors.IcefsError) and cls.__module__ == "icefs.errors"
]

EXPECTED = {
    "ConflictError": errno.ESTALE,
    "RebaseFailedError": errno.ESTALE,
    "BranchMovedError": errno.ESTALE,
    "NotFoundError": errno.ENOENT,
    "NodeNotFoundError": errno.ENOENT,
    "ChunkNotFoundError": errno.ENOENT,
    "SnapshotNotFoundError": errno.ENOENT,
    "RefNotFoundError": errno.ENOENT,
    "RepositoryNotFoundError": errno.EIO,
    "EntryNotFoundError": errno.ENOENT,
    "AlreadyExistsError": errno.EEXIST,
    "ReadOnlyError": errno.EROFS,
    "InvalidInputError": errno.EINVAL,
    "InvalidMetadataError": errno.EINVAL,
    "NameTooLongError": errno.ENAMETOOLONG,
    "UnauthorizedContainerError": errno.EACCES,
    "ReservedNameError": errno.EPERM,
    "TreeError": errno.EINVAL,
    "NotADirectoryTreeError": errno.ENOTDIR,
    "IsADirectoryTreeError": errno.EISDIR,
    "NotEmptyError": errno.ENOTEMPTY,
    "BadHandleError": errno.EBADF,
    "CrossTreeError": errno.EXDEV,
    "NotPermittedError": errno.EPERM,
    "SessionStateError": errno.EPERM,
    "TreeInUseError": errno.EBUSY,
    "DamagedStateError": errno.EIO,
    "NothingToCommitError": errno.ENODATA,
    "ChunksCollectedError": errno.ESTALE,
    "StaleError": errno.ESTALE,
    "UnsupportedError": errno.EOPNOTSUPP,
    "FormatError": errno.EIO,
    "UnsupportedSpecVersionError": errno.EIO,
    "StorageError": errno.EIO,
    "ObjectNotFoundError": errno.EIO,
    "PreconditionFailedError": errno.EIO,
    "AccessDeniedError": errno.EACCES,
    "ThrottledError": errno.EIO,
    "UnreachableError": errno.EIO,
    "BadAnswerError": errno.EIO,
    "TooManyFilesError": errno.ENFILE,
    "FileTooLargeError": errno.EFBIG,
    "NoSpaceError": errno.ENOSPC,
    "InvalidObjectSizeError": errno.EIO,
    "ObjectModifiedError": errno.EIO,
    "NotAnObjectError": errno.EIO,
    "UntrustedMountError": errno.EACCES,
    "InternalError": errno.EIO,
    "IcefsError": errno.EIO,
}


@pytest.mark.parametrize("cls", CONCRETE, ids=lambda cls: cls.__name__)
def test_every_error_has_a_row_of_its_own(cls):
    row = to_errno(cls("it happened"))
    assert row.error is cls
    assert row.errno == EXPECTED[cls.__name__]


def test_no_row_hides_behind_one_before_it():
    for number, row in enumerate(ERRNO_TABLE):
        assert not any(issubclass(row.error, earlier.error) for earlier in ERRNO_TABLE[:number]), row.error


def test_groups_of_one_are_unwrapped():
    inner = errors.NoSpaceError("full")
    assert to_errno(ExceptionGroup("a", [ExceptionGroup("b", [inner])])).errno == errno.ENOSPC


def test_a_group_of_several_is_a_bug():
    row = to_errno(ExceptionGroup("a", [errors.NoSpaceError("full"), KeyError("x")]))
    assert (row.errno, row.level) == (errno.EIO, logging.ERROR)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (errno.ENOSPC, errno.ENOSPC),
        (errno.EDQUOT, errno.EDQUOT),
        (errno.ENOMEM, errno.ENOMEM),
        (errno.EMFILE, errno.ENFILE),
        (errno.ENOENT, errno.EIO),
        (errno.EACCES, errno.EIO),
        (None, errno.EIO),
    ],
)
def test_what_the_system_said_to_the_daemon_is_not_said_to_the_caller(given, told):
    assert to_errno(OSError(given, "x") if given else OSError("x")).errno == told


class Guarded:
    def __init__(self):
        self.recorder = FakeRecorder()
        self.error = None

    def describe(self, operation, args):
        return "/somewhere"

    @handler
    async def read(self, fh):
        if self.error is not None:
            raise self.error
        return b"abc"

    @silent_handler
    def forget(self, pairs):
        raise self.error


async def test_an_answer_passes_and_is_counted():
    guarded = Guarded()
    assert await guarded.read(3) == b"abc"
    assert guarded.recorder.accesses == [(OPERATIONS.index("read"), 0, (3, None, 3))]


@pytest.mark.parametrize("cls", CONCRETE, ids=lambda cls: cls.__name__)
async def test_every_error_becomes_its_errno(cls):
    guarded = Guarded()
    guarded.error = cls("it happened")
    with pytest.raises(FuseError) as caught:
        await guarded.read(3)
    assert caught.value.errno == EXPECTED[cls.__name__]
    [(operation, error, number, _, _)] = guarded.recorder.failures
    assert (OPERATIONS[operation], error, number) == ("read", guarded.error, EXPECTED[cls.__name__])
    assert guarded.recorder.accesses == [(OPERATIONS.index("read"), EXPECTED[cls.__name__], (3, None, 0))]


@pytest.mark.parametrize("bug", [ZeroDivisionError("x"), RecursionError(), AssertionError(), StopAsyncIteration()])
async def test_a_bug_is_logged_with_its_traceback_and_is_eio(bug, caplog):
    guarded = Guarded()
    guarded.error = bug
    with pytest.raises(FuseError) as caught:
        await guarded.read(3)
    assert caught.value.errno == errno.EIO
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert "/somewhere" in record.getMessage()


async def test_what_programs_expect_to_fail_is_not_in_the_log(caplog):
    guarded = Guarded()
    guarded.error = errors.EntryNotFoundError("no such name")
    with pytest.raises(FuseError):
        await guarded.read(3)
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]


async def test_a_damaged_file_is_a_warning_with_path_and_reason(caplog):
    guarded = Guarded()
    guarded.error = errors.FormatError("manifest M is broken", file="M", reason="broken")
    with pytest.raises(FuseError):
        await guarded.read(3)
    assert caplog.records[-1].getMessage() == "read /somewhere: EIO: FormatError: manifest M is broken"


async def test_cancellation_passes_and_is_counted_as_an_interruption(caplog):
    guarded = Guarded()

    @handler
    async def read(self, fh):
        await trio.sleep_forever()

    with trio.move_on_after(0.01) as scope:
        await read(guarded, 3)
    assert scope.cancelled_caught
    number = OPERATIONS.index("read")
    assert guarded.recorder.accesses == [(number, errno.EINTR, (3, None, 0))]
    [(operation, _, code, level, _)] = guarded.recorder.failures
    assert (operation, code, level) == (number, errno.EINTR, logging.DEBUG)
    assert not caplog.records


async def test_a_failure_to_describe_a_failure_is_only_logged(caplog):
    guarded = Guarded()
    guarded.describe = None
    guarded.error = ZeroDivisionError()
    with pytest.raises(FuseError):
        await guarded.read(3)
    assert "while reporting" in caplog.text


async def test_forget_never_raises(caplog):
    guarded = Guarded()
    guarded.error = ZeroDivisionError()
    await guarded.forget([(1, 1)])
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("error", [errors.UnreachableError("gone"), ZeroDivisionError(), errors.InternalError("x")])
async def test_work_in_the_background_never_raises(error, caplog):
    async def work():
        raise error

    assert await in_background("polling", work) is None
    assert "polling" in caplog.text
