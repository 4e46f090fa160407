import errno
import threading

import pyfuse3
import pytest

from icefs.fuse.notifier import KernelNotifier


@pytest.fixture
def told(monkeypatch):
    """What the kernel was told, and on which thread."""
    seen = []

    def entry(parent, name):
        seen.append(("entry", parent, name, threading.current_thread().name))
        if name == b"unknown":
            raise OSError(errno.ENOENT, "not known")
        if name == b"refused":
            raise OSError(errno.EPERM, "refused")

    monkeypatch.setattr(pyfuse3, "invalidate_entry", entry)
    monkeypatch.setattr(pyfuse3, "invalidate_inode", lambda ino, attr_only: seen.append(("attr", ino, attr_only, "")))
    return seen


@pytest.fixture
def notifier():
    notifier = KernelNotifier()
    notifier.start()
    yield notifier
    notifier.stop()


async def test_the_kernel_is_told_in_order_and_from_another_thread(told, notifier):
    notifier.invalidate_entries([(1, b"a"), (2, b"b")])
    notifier.invalidate_attrs(iter([7]))
    notifier.invalidate_entries([])
    await notifier.drain()
    assert told == [("entry", 1, b"a", "icefs-notify"), ("entry", 2, b"b", "icefs-notify"), ("attr", 7, True, "")]
    assert notifier.sent == 3


async def test_pages_are_dropped_before_anything_else_happens(told, notifier, monkeypatch):
    monkeypatch.setattr(pyfuse3, "invalidate_inode", lambda ino: told.append((ino, threading.current_thread().name)))
    await notifier.drop_pages(7)
    assert told == [(7, "icefs-notify")]
    notifier.stop()
    await notifier.drop_pages(8)
    assert told == [(7, "icefs-notify")]


async def test_what_the_kernel_does_not_know_needs_no_forgetting(told, notifier, caplog):
    notifier.invalidate_entries([(1, b"unknown"), (1, b"refused"), (1, b"known")])
    await notifier.drain()
    assert notifier.sent == 1
    [record] = caplog.records
    assert "refused" in record.getMessage()


async def test_nothing_is_sent_after_the_end(told, notifier):
    notifier.stop()
    notifier.invalidate_entries([(1, b"a")])
    notifier.invalidate_attrs([1])
    await notifier.drain()
    assert told == []


async def test_nobody_waits_for_what_never_began():
    await KernelNotifier().drain()


async def test_a_long_job_is_cut_short_at_the_end(monkeypatch, notifier):
    reached, gate, seen = threading.Event(), threading.Event(), []

    def entry(parent, name):
        seen.append(parent)
        reached.set()
        gate.wait(5)

    monkeypatch.setattr(pyfuse3, "invalidate_entry", entry)
    notifier.invalidate_entries([(number, b"x") for number in range(1000)])
    assert reached.wait(5)
    notifier._is_open = False
    gate.set()
    notifier.stop()
    assert seen == [0]
