import errno
import threading

import pytest
import trio

from icefs.fuse.device import Device
from icefs.fuse.notifier import KernelNotifier
from icefs.inode import Invalidations
from tests.support.vfs_driver import until


class Kernel(Device):
    """Records its calls, and their threads."""

    def __init__(self):
        super().__init__(-1, "/mnt")
        self.told = []

    def invalidate_entry(self, parent, name):
        self.told.append(("entry", parent, name, threading.current_thread().name))
        if name == b"unknown":
            raise OSError(errno.ENOENT, "not known")
        if name == b"refused":
            raise OSError(errno.EPERM, "refused")

    def invalidate_inode(self, ino, *, attr_only=False):
        self.told.append(("attr" if attr_only else "all", ino, threading.current_thread().name))


@pytest.fixture
def kernel():
    return Kernel()


@pytest.fixture
def told(kernel):
    return kernel.told


@pytest.fixture
def notifier(kernel):
    notifier = KernelNotifier()
    notifier.start(kernel)
    yield notifier
    notifier.stop()


async def test_the_kernel_is_told_in_order_and_from_another_thread(told, notifier):
    notifier.invalidate(Invalidations([(1, b"a"), (2, b"b")]))
    notifier.invalidate(Invalidations(inodes=[7]))
    notifier.invalidate(Invalidations())
    await notifier.drain()
    assert told == [("entry", 1, b"a", "icefs-notify"), ("entry", 2, b"b", "icefs-notify"), ("attr", 7, "icefs-notify")]
    assert notifier.sent == 3


async def test_pages_are_dropped_before_anything_else_happens(told, notifier):
    await notifier.drop_pages([7, 9])
    dropped = [("all", 7, "icefs-notify"), ("all", 9, "icefs-notify")]
    assert told == dropped
    await notifier.drop_pages([])
    notifier.stop()
    await notifier.drop_pages([8])
    assert told == dropped
    assert (notifier.sent, notifier.failed, notifier.pending) == (2, 0, 0)


async def test_what_the_kernel_does_not_know_needs_no_forgetting(told, notifier, caplog):
    notifier.invalidate(Invalidations([(1, b"unknown"), (1, b"refused"), (1, b"known")]))
    await notifier.drain()
    assert (notifier.sent, notifier.failed, notifier.pending) == (1, 1, 0)
    [record] = caplog.records
    assert "refused" in record.getMessage()


async def test_nothing_is_sent_after_the_end(told, notifier):
    notifier.stop()
    notifier.invalidate(Invalidations([(1, b"a")], [1]))
    await notifier.drain()
    assert told == []


async def test_nobody_waits_for_what_never_began():
    await KernelNotifier().drain()


async def test_a_long_job_is_cut_short_at_the_end(monkeypatch, kernel, notifier):
    reached, gate, seen = threading.Event(), threading.Event(), []

    def entry(self, parent, name):
        seen.append(parent)
        reached.set()
        gate.wait(5)

    monkeypatch.setattr(Device, "invalidate_entry", entry)
    monkeypatch.delattr(Kernel, "invalidate_entry")
    notifier.invalidate(Invalidations([(number, b"x") for number in range(1000)], [1, 2]))
    assert reached.wait(5)
    assert (notifier.sent, notifier.pending) == (0, 1002)
    stopping = threading.Thread(target=notifier.stop)
    stopping.start()
    await until(lambda: not notifier.is_open)
    gate.set()
    await trio.to_thread.run_sync(stopping.join)
    assert seen == [0]
    assert (notifier.sent, notifier.pending) == (1, 0)
