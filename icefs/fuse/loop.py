"""The native connection: reads requests, and sends their answers.

Most requests are answered from memory, without a wait: one task reads, answers, and reads again, and trio's scheduler
has nothing to do with it. A request that does wait keeps its task, and another one takes over the reading:

    reader ── request waits ──► answers it, later; then reads again if no task does, or stands by
    stand-by, or a new task ──► reader

A request costs a `read`, a `write`, and no switch of tasks: the switches, and the calls of the kernel's epoll that come
with each, would be most of the time of a small request. While no request waits, nothing but timers waits for the event
loop, so that it may poll for a moment for a program's next request (`linger`).
"""

import errno
import logging
import os
import types
from collections.abc import Coroutine, Generator, Iterable, Mapping
from time import perf_counter
from typing import Any, Final

import trio

from icefs.fuse import abi
from icefs.fuse.boundary import FuseError, Recorder
from icefs.fuse.device import BUFFER_BYTES, Device, is_over
from icefs.fuse.interrupts import Interrupts
from icefs.fuse.linger import Linger
from icefs.fuse.requests import BoundRequest, Caller, bind
from icefs.vfs.interface import Vfs

logger = logging.getLogger(__name__)

STAND_BY: Final = 4
_TURN_S: Final = 0.001
"""How long requests are answered before other tasks have a turn."""

# The program behind a request has gone before it was read, or before it was answered.
_GONE: Final = frozenset((errno.ENOENT, errno.EINTR))
_BUG: Final = errno.EIO


MAX_TASKS: Final = 256
"""Requests in flight; more than chunk fetches, so that a slow store does not keep names from being looked up."""


class NativeConnection:
    """A file system that icefs itself has mounted, and whose protocol it speaks; implements `connection.Connection`.

    Raises:
        MountError: the kernel or `fusermount3` refused, or the kernel is too old.
    """

    def __init__(self, mountpoint: str, options: Iterable[str], vfs: Vfs, recorder: Recorder) -> None:
        self._device = Device.mount(mountpoint, options)
        self._loop = RequestLoop(self._device, bind(vfs, recorder), MAX_TASKS)
        self.serve = self._loop.run
        self.stop = self._loop.stop
        self.invalidate_entry = self._device.invalidate_entry
        self.invalidate_inode = self._device.invalidate_inode
        self.close = self._device.close


class RequestLoop:
    """Answers the requests of one mount until it is unmounted or `stop` is called.

    Attributes:
        num_tasks: How many tasks there are.
        num_waiting: How many requests wait.
        has_reader: Whether a task reads.
        is_over: Whether no more requests are read.

    INVARIANT: `has_reader` says that exactly one task reads, or was given the role and will; no other task touches
        `_buffer`.

    Concurrency: on the event loop's thread. At each await of a handler another task may become the reader, so a
    request whose body its handler may still look at takes the buffer along.
    """

    def __init__(
        self,
        device: Device,
        requests: Mapping[int, BoundRequest],
        max_tasks: int,
        interrupts: Interrupts | None = None,
    ) -> None:
        self._device = device
        self._requests = requests
        self._max_tasks = max_tasks
        self._nursery: trio.Nursery | None = None
        self._stand_by = trio.lowlevel.ParkingLot()
        self.has_reader = False
        self.is_over = False
        self.num_tasks = 0
        self.num_waiting = 0
        self._linger = Linger(device.fd)
        self._interrupts = Interrupts() if interrupts is None else interrupts
        self._buffer = _new_buffer()
        self._spare: list[memoryview] = []

    async def run(self) -> None:
        """Returns when the file system was unmounted; or after `stop`, when all earlier requests are answered."""
        async with trio.open_nursery() as watching:
            watching.start_soon(self._interrupts.run)
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._add_task()
            watching.cancel_scope.cancel()

    def stop(self) -> None:
        """Reads no more requests."""
        if not self.is_over:
            self.is_over = True
            trio.lowlevel.notify_closing(self._device.fd)
            self._stand_by.unpark_all()

    def _add_task(self) -> None:
        assert self._nursery is not None  # `run` has opened it
        self.num_tasks += 1
        self.has_reader = True
        self._nursery.start_soon(self._work)

    def _hand_over(self) -> None:
        """Makes another task the reader; if there are too many, the next that has answered its request becomes it."""
        self.has_reader = False
        if self._stand_by:
            self.has_reader = True
            self._stand_by.unpark()
        elif self.num_tasks < self._max_tasks:
            self._add_task()

    async def _work(self) -> None:
        """Is a task: begins as the reader."""
        try:
            while await self._read_on():
                if self.is_over:
                    return
                if self.has_reader:
                    if len(self._stand_by) >= STAND_BY:
                        return
                    await self._stand_by.park()  # the task that wakes this one has given it the role
                self.has_reader = True
        finally:
            self.num_tasks -= 1

    async def _read_on(self) -> bool:
        """Reads and answers requests until one has waited and is answered; False at the end of all."""
        fd, requests = self._device.fd, self._requests
        readv, unpack, header_bytes = os.readv, abi.IN_HEADER.unpack_from, abi.IN_HEADER.size
        turn_began = perf_counter()
        while not self.is_over:
            buffer = self._buffer
            try:
                readv(fd, (buffer,))
            except BlockingIOError:
                if not self.num_waiting and self._linger.is_asked_soon():
                    continue
                if not await self._until_readable():
                    return False
                turn_began = perf_counter()
                continue
            except OSError as error:
                if error.errno in _GONE:
                    continue
                if not is_over(error):
                    raise
                # Requests that still wait for the store read ahead, or are of programs that are gone.
                self._interrupts.cut_all()
                self.stop()
                return False
            length, opcode, unique, ino, uid, gid, pid, _, _ = unpack(buffer)
            request = requests.get(opcode)
            body = buffer[header_bytes:length]
            if request is None:
                if opcode == abi.INTERRUPT:
                    # It is not answered: with EAGAIN the kernel would send it again at once, and for ever.
                    self._interrupts.interrupt(abi.INTERRUPT_IN.unpack_from(body)[0])
                else:
                    self._refuse(unique, errno.ENOSYS)
                continue
            try:
                answering = request.handle(ino, body, Caller(uid, gid, pid))
                trap = answering.send(None)
            except StopIteration as answered:
                self._answer(request, unique, answered.value)
            except FuseError as error:
                self._refuse(unique, error.errno)
            except Exception:
                # A bug in the boundary.
                logger.exception("request %d", opcode)
                self._refuse(unique, _BUG)
            else:
                may_be_cut = request.may_be_cut is not None and request.may_be_cut(body)
                await self._finish(request, unique, pid if may_be_cut else None, answering, trap)
                return True
            if perf_counter() - turn_began > _TURN_S:
                await trio.lowlevel.checkpoint()
                turn_began = perf_counter()
        return False

    async def _until_readable(self) -> bool:
        try:
            await trio.lowlevel.wait_readable(self._device.fd)
        except trio.ClosedResourceError:
            return False
        return True

    async def _finish(
        self, request: BoundRequest, unique: int, pid: int | None, answering: Coroutine[Any, Any, Any], trap: Any
    ) -> None:
        """Answers a request that waits, while another task reads; one that may be interrupted has a `pid`."""
        buffer = None
        if request.keeps_body:
            buffer = self._buffer
            self._buffer = self._spare.pop() if self._spare else _new_buffer()
        self._hand_over()
        self.num_waiting += 1
        try:
            if pid is None:
                result = await _resume(answering, trap)
            else:
                result = await self._unless_cut(unique, pid, request.may_be_fault, _resume(answering, trap))
        except FuseError as error:
            self._refuse(unique, error.errno)
        except Exception:
            logger.exception("request %d", unique)
            self._refuse(unique, _BUG)
        else:
            self._answer(request, unique, result)
        finally:
            self.num_waiting -= 1
            if buffer is not None and len(self._spare) < STAND_BY:
                self._spare.append(buffer)

    async def _unless_cut(self, unique: int, pid: int, may_be_fault: bool, answering: Coroutine[Any, Any, Any]) -> Any:
        """Returns the answer of a handler that may be interrupted.

        The handler must not open a cancel scope before it first waits: this one would lie within it.
        """
        with self._interrupts.cutting(unique, pid, may_be_fault):
            return await answering
        raise FuseError(errno.EINTR)

    def _answer(self, request: BoundRequest, unique: int, result: Any) -> None:
        if request.encode is None:
            return
        try:
            payload = request.encode(result)
        except Exception:  # a bug, which must not end the mount
            logger.exception("an answer cannot be laid out")
            self._refuse(unique, _BUG)
            return
        try:
            self._device.answer(unique, payload)
        except OSError as error:
            if error.errno in _GONE and request.undo is not None and self._nursery is not None:
                self._nursery.start_soon(_taken_back, request.undo(result))
            elif error.errno not in _GONE:
                self._note(error)

    def _refuse(self, unique: int, number: int) -> None:
        try:
            self._device.refuse(unique, number)
        except OSError as error:
            if error.errno not in _GONE:
                self._note(error)

    def _note(self, error: OSError) -> None:
        if not is_over(error):
            logger.error("the kernel did not take an answer: %s", error)


def _new_buffer() -> memoryview:
    return memoryview(bytearray(BUFFER_BYTES))


@types.coroutine
def _resume(answering: Coroutine[Any, Any, Any], trap: Any) -> Generator[Any, Any, Any]:
    """Goes on with a coroutine that began without trio, and now waits for the event of `trap`."""
    try:
        while True:
            try:
                sent = yield trap
            except BaseException as error:  # noqa: BLE001  (passed on whole, trio's cancellation most of all)
                trap = answering.throw(error)
            else:
                trap = answering.send(sent)
    except StopIteration as answered:
        return answered.value


async def _taken_back(undo: Coroutine[Any, Any, Any]) -> None:
    try:
        await undo
    except Exception:
        logger.warning("the result of a request whose program has gone could not be taken back", exc_info=True)
