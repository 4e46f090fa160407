"""What is agreed on with the kernel, and what goes wrong at a mount."""

import os
import stat

import pytest

from icefs.fuse import abi
from icefs.fuse.connection import KernelTooOldError, MountError
from icefs.fuse.device import MAX_WRITE_BYTES, Device
from tests.support.fuse_kernel import FakeKernel, pack


@pytest.fixture
def kernel():
    kernel = FakeKernel()
    yield kernel
    kernel.close()


def answers(kernel):
    return abi.INIT_OUT.unpack(kernel.take().payload)


def test_what_the_kernel_can_is_agreed_on_and_no_more(kernel):
    everything = 0xFFFFFFFF
    kernel.send(abi.INIT, 2, body=abi.INIT_IN.pack(7, 45, 131072, everything, everything))
    kernel.device.agree()
    major, minor, max_readahead, flags, _, _, max_write, time_gran, max_pages, _, flags2 = answers(kernel)
    assert (major, minor, max_readahead, max_write, time_gran) == (7, 38, 131072, MAX_WRITE_BYTES, 1)
    assert max_pages * os.sysconf("SC_PAGE_SIZE") == MAX_WRITE_BYTES
    assert flags & abi.DO_READDIRPLUS
    assert flags & abi.ATOMIC_O_TRUNC
    assert flags2 == 0
    kernel.send(abi.INIT, 3, body=abi.INIT_IN.pack(7, 45, 4096, abi.ASYNC_READ | 1 << 31, 0))
    kernel.device.agree()
    assert answers(kernel)[3] == abi.ASYNC_READ


def test_an_older_kernel_sends_less(kernel):
    kernel.send(abi.INIT, 2, body=pack("IIII", 7, 31, 131072, abi.ASYNC_READ))
    kernel.device.agree()
    assert answers(kernel)[3] == abi.ASYNC_READ


def test_a_kernel_of_a_later_protocol_begins_again(kernel):
    kernel.send(abi.INIT, 2, body=pack("IIII", 8, 0, 0, 0))
    kernel.send(abi.INIT, 3, body=pack("IIII", 7, 40, 0, 0))
    kernel.device.agree()
    assert [kernel.take().unique, kernel.take().unique] == [2, 3]


def test_a_kernel_that_is_too_old_is_refused(kernel):
    kernel.send(abi.INIT, 2, body=pack("IIII", 7, 26, 0, 0))
    with pytest.raises(KernelTooOldError, match=r"version 7\.26 of FUSE") as caught:
        kernel.device.agree()
    assert caught.value.advice


def test_anything_else_is_no_beginning(kernel):
    kernel.send(abi.GETATTR, 2, 1)
    with pytest.raises(MountError, match="began with request 3"):
        kernel.device.agree()


def test_notifications_are_messages_without_a_request(kernel):
    kernel.device.invalidate_entry(7, b"name")
    assert kernel.take() == (0, abi.NOTIFY_INVAL_ENTRY, pack("QII", 7, 4, 0) + b"name\0")
    kernel.device.invalidate_inode(7)
    assert kernel.take() == (0, abi.NOTIFY_INVAL_INODE, pack("Qqq", 7, 0, 0))
    kernel.device.invalidate_inode(7, attr_only=True)
    assert kernel.take() == (0, abi.NOTIFY_INVAL_INODE, pack("Qqq", 7, -1, 0))


def script(tmp_path, monkeypatch, text):
    program = tmp_path / "fusermount3"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("echo 'fusermount3: mount failed:'; echo 'not permitted' >&2; exit 1", "not permitted"),
        ("exit 3", "fusermount3 ended with 3"),
        ('printf x >/dev/null; python3 -c "import os" 2>/dev/null; exit 0', "fusermount3 ended with 0"),
    ],
)
def test_a_refusal_says_why(tmp_path, monkeypatch, text, reason):
    script(tmp_path, monkeypatch, text)
    with pytest.raises(MountError, match=reason):
        Device.mount(str(tmp_path), [])


def test_the_descriptor_is_nobody_elses(tmp_path, monkeypatch):
    # What a child of the daemon held would keep the file system alive after the daemon's end.
    script(
        tmp_path,
        monkeypatch,
        "exec python3 -c 'import os, socket; "
        'socket.send_fds(socket.socket(fileno=int(os.environ["_FUSE_COMMFD"])), [b"x"], [0])\'',
    )
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb"):
        monkeypatch.setattr(Device, "agree", lambda device: None)
        device = Device.mount(str(tmp_path), [])
        assert not os.get_inheritable(device.fd)
        os.close(device.fd)
