"""The loop that reads requests, over a socket in the kernel's place."""

import errno
import logging
import os

import pytest
import trio

from icefs import errors
from icefs.fuse import abi, interrupts, loop
from icefs.fuse.interrupts import Interrupts
from icefs.fuse.loop import RequestLoop
from icefs.fuse.requests import bind
from tests.support.fake_vfs import FakeRecorder, FakeVfs
from tests.support.fuse_kernel import FakeKernel, names, pack
from tests.support.vfs_driver import until

GETATTR = pack("IIQ", 0, 0, 0)


class SlowVfs(FakeVfs):
    """Answers what it is asked of inode 100 and above, and of handles there, when it is let."""

    def __init__(self):
        super().__init__()
        self.gates = {}
        self.written = {}

    async def _wait(self, number):
        if number >= 100:
            await self.gates.setdefault(number, trio.Event()).wait()

    def let(self, number):
        self.gates.setdefault(number, trio.Event()).set()

    async def getattr(self, ino):
        await self._wait(ino)
        return await self._attr("getattr", ino)

    async def read(self, fh, offset, size):
        await self._wait(fh)
        return b"data"

    async def open(self, ino, flags):
        await self._wait(ino)
        return await super().open(ino, flags)

    async def write(self, fh, offset, data, is_write_back):
        await self._wait(fh)
        self.written[fh] = bytes(data)
        return len(data)


@pytest.fixture
def kernel():
    kernel = FakeKernel()
    yield kernel
    kernel.close()


@pytest.fixture
def vfs():
    return SlowVfs()


@pytest.fixture
def ending():
    """The threads that are to end."""
    return set()


@pytest.fixture
def recorder():
    return FakeRecorder()


@pytest.fixture
def interruptible(ending):
    """The requests that wait and may be interrupted."""
    return Interrupts(lambda pid, may_be_fault: pid in ending)


@pytest.fixture
def requests(kernel, vfs, interruptible, recorder):
    return RequestLoop(kernel.device, bind(vfs, recorder), max_tasks=8, interrupts=interruptible)


async def taken(kernel):
    """Takes the next answer while the loop runs."""
    return await trio.to_thread.run_sync(kernel.take)


@pytest.fixture
async def running(requests, nursery):
    nursery.start_soon(requests.run)
    yield requests
    requests.stop()


def writing(fh, data):
    return pack("QQIIQII", fh, 0, len(data), 0, 0, 0, 0) + data


async def test_requests_are_answered_in_order(kernel, running):
    for unique in range(1, 20):
        kernel.send(abi.GETATTR, unique, 9, GETATTR)
    answers = [await taken(kernel) for _ in range(1, 20)]
    assert [answer.unique for answer in answers] == list(range(1, 20))
    assert {(answer.error, len(answer.payload)) for answer in answers} == {(0, abi.ATTR_OUT.size)}


async def test_a_request_that_waits_holds_up_no_other(kernel, vfs, running):
    for ino in (100, 101, 102, 9):
        kernel.send(abi.GETATTR, ino, ino, GETATTR)
    assert (await taken(kernel)).unique == 9
    for ino in (101, 100, 102):
        vfs.let(ino)
        assert (await taken(kernel)).unique == ino
    kernel.send(abi.GETATTR, 8, 8, GETATTR)
    assert (await taken(kernel)).unique == 8


async def test_no_more_than_so_many_wait_at_once(kernel, vfs, running):
    for ino in range(100, 120):
        kernel.send(abi.GETATTR, ino, ino, GETATTR)
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert sorted(vfs.gates) == list(range(100, 108))
    for ino in range(100, 120):
        vfs.let(ino)
    assert sorted([(await taken(kernel)).unique for _ in range(20)]) == list(range(100, 120))
    await trio.testing.wait_all_tasks_blocked(0.02)
    # Those that nobody needs any more have ended.
    assert running.num_tasks <= 1 + loop.STAND_BY
    assert running.has_reader


async def test_bytes_stay_what_they_were_while_a_write_waits(kernel, vfs, running):
    for fh in range(100, 105):
        kernel.send(abi.WRITE, fh, 9, writing(fh, bytes([fh]) * 5000))
    kernel.send(abi.WRITE, 5, 9, writing(5, b"now" * 1000))
    assert (await taken(kernel)).unique == 5
    for fh in range(100, 105):
        vfs.let(fh)
        assert (await taken(kernel)).payload == pack("II", 5000, 0)
    assert vfs.written == {5: b"now" * 1000} | {fh: bytes([fh]) * 5000 for fh in range(100, 105)}


async def test_failures_are_errnos(kernel, vfs, running):
    vfs.error = errors.ReadOnlyError("x")
    kernel.send(abi.UNLINK, 1, 1, names(b"x"))
    assert await taken(kernel) == (1, -errno.EROFS, b"")
    kernel.send(abi.GETATTR, 2, 100, GETATTR)
    vfs.let(100)
    assert await taken(kernel) == (2, -errno.EROFS, b"")
    kernel.send(9999, 3, 1)
    assert await taken(kernel) == (3, -errno.ENOSYS, b"")


async def test_what_passes_the_boundary_does_not_end_the_mount(kernel, vfs, running, recorder, caplog):
    kernel.send(abi.GETXATTR, 1, 1, b"")  # shorter than its struct
    assert await taken(kernel) == (1, -errno.EIO, b"")
    assert len(recorder.failures) == 1
    vfs.answers["opendir"] = "no number"
    kernel.send(abi.OPENDIR, 2, 1, pack("II", 0, 0))
    assert await taken(kernel) == (2, -errno.EIO, b"")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    caplog.clear()
    kernel.send(abi.GETATTR, 3, 1, GETATTR)
    assert (await taken(kernel)).error == 0


async def test_forgetting_is_not_answered(kernel, vfs, running):
    kernel.send(abi.FORGET, 1, 9, pack("Q", 3))
    kernel.send(abi.GETATTR, 3, 9, GETATTR)
    assert (await taken(kernel)).unique == 3
    assert ("forget", (9, 3)) in vfs.calls


# Requests that are interrupted.

READER = 77
"""The thread behind the requests of a `FakeKernel`."""


def interrupt(kernel, unique):
    kernel.send(abi.INTERRUPT, unique | 1, 0, pack("Q", unique))


def reading(fh):
    return pack("QQIIQII", fh, 0, 4096, 0, 0, 0, 0)


async def quiet(kernel):
    """Tells whether nothing is answered, when everything has been that is asked."""
    await trio.testing.wait_all_tasks_blocked(0.02)
    return kernel.is_quiet()


@pytest.fixture
def patient(monkeypatch):
    """Nobody is looked at without an INTERRUPT."""
    monkeypatch.setattr(interrupts, "LOOK_S", 3600)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("opcode", "body"), [(abi.GETATTR, GETATTR), (abi.READ, reading(100)), (abi.OPEN, pack("II", 0, 0))]
)
async def test_a_program_that_is_to_end_does_not_wait(
    opcode, body, kernel, vfs, running, ending, interruptible, recorder, caplog
):
    kernel.send(opcode, 2, 100, body)
    kernel.send(abi.GETATTR, 4, 101, GETATTR)
    assert await quiet(kernel)
    ending.add(READER)
    interrupt(kernel, 2)
    assert await taken(kernel) == (2, -errno.EINTR, b"")
    # Only that one, and only once; what the store brings later is nobody's.
    interrupt(kernel, 2)
    vfs.let(100)
    assert await quiet(kernel)
    vfs.let(101)
    assert (await taken(kernel))[:2] == (4, 0)
    assert [error for _, error, _ in recorder.accesses] == [errno.EINTR, 0]
    assert not caplog.records
    assert not interruptible
    assert running.num_waiting == 0


@pytest.mark.usefixtures("patient")
async def test_a_signal_that_a_program_handles_costs_it_nothing(kernel, vfs, running):
    kernel.send(abi.READ, 2, 9, reading(100))
    await trio.testing.wait_all_tasks_blocked(0.02)
    for _ in range(3):
        interrupt(kernel, 2)
    assert await quiet(kernel)
    vfs.let(100)
    assert await taken(kernel) == (2, 0, b"data")


@pytest.fixture
def watchful(monkeypatch):
    """Waiting programs are looked at again and again."""
    monkeypatch.setattr(interrupts, "LOOK_S", 0.001)


@pytest.mark.usefixtures("watchful")
async def test_a_signal_that_comes_later_is_found(kernel, vfs, running, ending, interruptible):
    kernel.send(abi.READ, 2, 9, reading(100))
    await until(lambda: 100 in vfs.gates)
    interrupt(kernel, 2)
    kernel.send(abi.GETATTR, 4, 9, GETATTR)
    assert (await taken(kernel)).unique == 4
    ending.add(READER)
    assert await taken(kernel) == (2, -errno.EINTR, b"")
    # And again, after a time when nothing waited.
    await until(lambda: interruptible.is_asleep)
    kernel.send(abi.READ, 6, 9, reading(101))
    assert await taken(kernel) == (6, -errno.EINTR, b"")


@pytest.mark.usefixtures("watchful")
async def test_a_signal_is_found_when_so_many_wait_that_nobody_reads(kernel, vfs, running, ending):
    for number in range(9):
        kernel.send(abi.GETATTR, number, 100 + number, GETATTR)
    await until(lambda: len(vfs.gates) == 8)
    assert not running.has_reader
    ending.add(READER)
    answers = [await taken(kernel) for _ in range(9)]
    assert sorted(answers) == [(number, -errno.EINTR, b"") for number in range(9)]


@pytest.mark.usefixtures("watchful")
async def test_what_changes_something_is_finished(kernel, vfs, running, ending):
    vfs.acting.add(101)
    kernel.send(abi.WRITE, 2, 9, writing(100, b"data"))
    kernel.send(abi.READ, 4, 9, reading(101))
    kernel.send(abi.OPEN, 6, 102, pack("II", os.O_WRONLY, 0))
    await until(lambda: len(vfs.gates) == 3)
    ending.add(READER)
    for unique in (2, 4, 6):
        interrupt(kernel, unique)
    kernel.send(abi.READ, 8, 9, reading(103))
    assert await taken(kernel) == (8, -errno.EINTR, b"")  # the one that changes nothing
    for number, unique in ((100, 2), (101, 4), (102, 6)):
        vfs.let(number)
        assert (await taken(kernel))[:2] == (unique, 0)


async def test_an_interruption_of_nothing_is_not_answered(kernel, running, ending):
    ending.add(READER)
    kernel.send(abi.GETATTR, 2, 9, GETATTR)
    assert (await taken(kernel))[:2] == (2, 0)
    for unique in (2, 4):  # one that was answered before, and one that never was
        interrupt(kernel, unique)
    kernel.send(abi.GETATTR, 6, 9, GETATTR)
    assert (await taken(kernel))[:2] == (6, 0)
    assert kernel.is_quiet()


async def test_what_nobody_waits_for_any_more_is_taken_back(kernel, vfs, running, monkeypatch):
    def gone(unique, payload):
        raise OSError(errno.ENOENT, "nobody waits")

    monkeypatch.setattr(kernel.device, "answer", gone)
    kernel.send(abi.LOOKUP, 1, 1, names(b"x"))
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert vfs.calls == [("lookup", (1, "x")), ("forget", (42, 1))]


async def test_other_tasks_have_their_turn_while_requests_never_end(kernel, requests, nursery, monkeypatch):
    turns = []

    async def other():
        while not requests.is_over:
            turns.append(None)
            await trio.lowlevel.checkpoint()

    def endless(fd, buffers):
        if len(turns) > 3:
            requests.stop()
        buffers[0][: abi.IN_HEADER.size] = abi.IN_HEADER.pack(abi.IN_HEADER.size + 8, abi.FORGET, 1, 9, 0, 0, 0, 0, 0)
        return abi.IN_HEADER.size + 8

    monkeypatch.setattr(os, "readv", endless)
    nursery.start_soon(other)
    with trio.fail_after(10):
        await requests.run()


async def test_the_loop_ends_when_it_is_unmounted(kernel, requests, monkeypatch):
    def unmounted(fd, buffers):
        raise OSError(errno.ENODEV, "unmounted")

    monkeypatch.setattr(os, "readv", unmounted)
    with trio.fail_after(10):
        await requests.run()


async def test_what_was_asked_before_the_end_is_answered(kernel, vfs, requests, nursery):
    ended = trio.Event()

    async def run():
        await requests.run()
        ended.set()

    nursery.start_soon(run)
    kernel.send(abi.GETATTR, 1, 100, GETATTR)
    await trio.testing.wait_all_tasks_blocked(0.02)
    requests.stop()
    kernel.send(abi.GETATTR, 2, 9, GETATTR)
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert not ended.is_set()
    vfs.let(100)
    assert (await taken(kernel)).unique == 1
    with trio.fail_after(10):
        await ended.wait()
    assert kernel.is_quiet()
