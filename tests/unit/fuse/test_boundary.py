import errno

import pytest
import trio

from icefs import errors
from icefs.fuse.boundary import OPERATIONS, Boundary, FuseError
from icefs.vfs.interface import Vfs
from tests.support.fake_vfs import FakeRecorder, FakeVfs

READ = OPERATIONS.index("read")


@pytest.fixture
def recorder():
    return FakeRecorder()


@pytest.fixture
def vfs():
    return FakeVfs()


@pytest.fixture
def boundary(vfs, recorder):
    return Boundary(vfs, recorder)


def as_they_are(*given):
    return given


def test_every_operation_is_a_method_of_the_interface():
    assert all(callable(vars(Vfs)[name]) for name in OPERATIONS)


async def test_an_answer_passes_and_is_counted(boundary, recorder, vfs):
    vfs.answers["read"] = b"abc"
    assert await boundary.guard("read", as_they_are, vfs.read)(3, 0, 10) == b"abc"
    assert recorder.accesses == [(READ, 0, (3, None, 3))]
    assert not recorder.failures


async def test_a_failure_has_the_errno_of_the_recorder_and_a_path(boundary, recorder, vfs):
    vfs.error = errors.ReadOnlyError("x")
    for operation, given, where, subject in (
        ("read", (5, 0, 1), "/path/behind/5", (5, None, 0)),
        ("mkdir", (7, "x", 0, None), "/path/of/7/x", (7, "x", 0)),
        ("getxattr", (7, "user.x"), "/path/of/7", (7, "user.x", 0)),
        ("rename", (7, "x", 8, "y", 0), "/path/of/7/x", (7, "x -> y", 0)),
        ("link", (9, 7, "x"), "/path/of/9", (7, "x", 0)),
        ("statfs", (), "", (0, None, 0)),
    ):
        with pytest.raises(FuseError) as caught:
            await boundary.guard(operation, as_they_are, getattr(vfs, operation))(*given)
        assert caught.value.errno == errno.EROFS
        number = OPERATIONS.index(operation)
        assert recorder.failures.pop() == (number, vfs.error, where)
        assert recorder.accesses.pop() == (number, errno.EROFS, subject)


@pytest.mark.parametrize("bug", [ZeroDivisionError("x"), RecursionError(), StopAsyncIteration()])
async def test_a_bug_does_not_end_the_mount(bug, boundary, vfs):
    vfs.error = bug
    with pytest.raises(FuseError) as caught:
        await boundary.guard("read", as_they_are, vfs.read)(3)
    assert caught.value.errno == errno.EIO


async def test_arguments_that_cannot_be_read_are_a_failure_of_the_request(boundary, recorder, vfs):
    def read(*given):
        raise FuseError(errno.ENAMETOOLONG, "a name of 256 bytes")

    with pytest.raises(FuseError) as caught:
        await boundary.guard("mkdir", read, vfs.mkdir)(7, b"...")
    assert caught.value.errno == errno.ENAMETOOLONG
    [(_, _, where)] = recorder.failures
    assert where == "/path/of/7"
    assert recorder.accesses == [(OPERATIONS.index("mkdir"), errno.ENAMETOOLONG, (7, None, 0))]
    assert not vfs.calls


async def test_an_answer_that_programs_expect_is_no_failure(boundary, recorder):
    async def getxattr(ino, name):
        raise FuseError(errno.ENODATA)

    with pytest.raises(FuseError) as caught:
        await boundary.guard("getxattr", as_they_are, getxattr)(7, "user.none")
    assert caught.value.errno == errno.ENODATA
    assert not recorder.failures
    assert [error for _, error, _ in recorder.accesses] == [errno.ENODATA]


async def test_cancellation_passes_and_is_counted_as_an_interruption(boundary, recorder):
    async def read(fh):
        await trio.sleep_forever()

    with trio.move_on_after(0.01) as scope:
        await boundary.guard("read", as_they_are, read)(3)
    assert scope.cancelled_caught
    assert recorder.accesses == [(READ, errno.EINTR, (3, None, 0))]
    [(operation, cut, _)] = recorder.failures
    assert operation == READ
    assert isinstance(cut, trio.Cancelled)


async def test_forget_never_raises(boundary, recorder, vfs):
    vfs.error = ZeroDivisionError()
    await boundary.guard_forget(as_they_are)((1, 1))
    assert [error for _, error, _ in recorder.failures] == [vfs.error]
