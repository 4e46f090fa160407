import errno
import inspect
import logging

import pytest
import trio

from icefs import errors
from icefs.daemon.background import in_background
from icefs.daemon.errno_map import ERRNO_TABLE, RequestRecorder, to_errno
from icefs.fuse.boundary import OPERATIONS, FuseError
from icefs.vfs.observe.stats import Stats

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
    "DecodeError": errno.EIO,
    "NotShownError": errno.EOPNOTSUPP,
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


READ = OPERATIONS.index("read")


@pytest.fixture
def stats():
    return Stats(OPERATIONS)


@pytest.fixture
def recorder(stats):
    return RequestRecorder(stats)


def failed(recorder, error):
    return recorder.failed(READ, error, lambda: "/somewhere")


@pytest.mark.parametrize("cls", CONCRETE, ids=lambda cls: cls.__name__)
def test_every_failure_is_counted_under_its_errno(cls, recorder, stats):
    number = failed(recorder, cls("it happened"))
    assert number == EXPECTED[cls.__name__]
    assert stats.errors_of(READ) == {errno.errorcode[number]: 1}


@pytest.mark.parametrize("bug", [ZeroDivisionError("x"), RecursionError(), AssertionError(), StopAsyncIteration()])
def test_a_bug_is_logged_with_its_traceback_and_is_eio(bug, recorder, caplog):
    assert failed(recorder, bug) == errno.EIO
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert "/somewhere" in record.getMessage()


def test_what_programs_expect_to_fail_is_not_in_the_log(recorder, caplog):
    failed(recorder, errors.EntryNotFoundError("no such name"))
    failed(recorder, FuseError(errno.ENAMETOOLONG, "a name of 256 bytes"))
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]


def test_a_damaged_file_is_a_warning_with_path_and_reason(recorder, stats, caplog):
    failed(recorder, errors.FormatError("manifest M is broken", file="M", reason="broken"))
    assert caplog.messages == ["read /somewhere: EIO: FormatError: manifest M is broken"]
    [failure] = stats.failures
    assert (failure["operation"], failure["path"], failure["errno"]) == ("read", "/somewhere", "EIO")


def test_a_name_that_is_not_utf8_is_noted(recorder, caplog):
    caplog.set_level(logging.INFO)
    assert failed(recorder, FuseError(errno.EINVAL, "b'x' is not UTF-8")) == errno.EINVAL
    assert caplog.messages == ["read /somewhere: EINVAL: FuseError: b'x' is not UTF-8"]


async def test_a_cancelled_request_is_an_interrupted_one(recorder, stats, caplog):
    async def interrupted():
        with pytest.raises(trio.Cancelled) as caught:
            await trio.sleep_forever()
        assert failed(recorder, caught.value) == errno.EINTR

    with trio.move_on_after(0):
        await interrupted()
    assert stats.errors_of(READ) == {"EINTR": 1}
    assert not caplog.records


def test_a_failure_to_describe_a_failure_is_only_logged(recorder, caplog):
    def where():
        raise LookupError

    assert recorder.failed(READ, ZeroDivisionError(), where) == errno.EIO
    assert "while reporting" in caplog.text


@pytest.mark.parametrize("error", [errors.UnreachableError("gone"), ZeroDivisionError(), errors.InternalError("x")])
async def test_work_in_the_background_never_raises(error, caplog):
    async def work():
        raise error

    assert await in_background("polling", work) is None
    assert "polling" in caplog.text
