"""Attributes and entries in the kernel's layout, read back by the structs of the kernel's header."""

import pytest

from icefs.fuse import abi
from icefs.fuse.entries import EntryBuffer, encode_attr, encode_entry
from icefs.vfs.attrs import ABSENT_FOREVER, BLOCK_SIZE, FOREVER_S, EntryRun
from tests.support.fake_vfs import FILE
from tests.support.fuse_kernel import read_entries

# ino, size, blocks, atime, mtime, ctime, their nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags
ATTR = (42, 1000, 2, 1, 3, 2, 3, 1, 2, 0o100444, 1, 7, 8, 0, BLOCK_SIZE, 0)


def test_attributes_are_copied_exactly():
    assert FILE[6:9] == (3_000_000_001, 2_000_000_002, 1_000_000_003)
    assert abi.ENTRY_OUT.unpack(encode_entry(FILE)) == (42, 0, int(FOREVER_S), 5, 0, 500_000_000, *ATTR)
    assert abi.ATTR_OUT.unpack(encode_attr(FILE)) == (5, 500_000_000, 0, *ATTR)


def test_times_before_the_epoch_are_times_too():
    values = abi.ATTR_OUT.unpack(encode_attr(FILE._replace(mtime_ns=-1)))
    assert (values[7], values[10]) == (-1, 999_999_999)


def test_a_name_that_does_not_exist_has_no_node():
    node_id, _, valid_s, *_ = abi.ENTRY_OUT.unpack(encode_entry(ABSENT_FOREVER))
    assert (node_id, valid_s) == (0, int(FOREVER_S))


NAMES = [b"x" * length for length in (1, 7, 8, 9, 16, 255)]
RUN = EntryRun(10, FILE, NAMES, list(range(100, 106)), [0, 1, 512, 513, 1 << 40, 5], [1, 2, 3, 4, 5 * 10**9 + 6, 7])


def test_entries_of_any_length_are_aligned():
    buffer = EntryBuffer(1 << 20)
    assert buffer.add_full(RUN, 0, 6) == 6
    entries = read_entries(buffer.encode())
    assert [(one.name, one.ino, one.position, one.size, one.mtime_ns) for one in entries] == list(
        zip(NAMES, RUN.inos, range(11, 17), RUN.sizes, RUN.mtimes_ns, strict=True)
    )
    assert all(one.node_id == one.ino and one.kind == 8 for one in entries)
    assert (1 << 20) - buffer.room == len(buffer.encode())


def test_bare_entries_have_names_and_numbers_alone():
    buffer = EntryBuffer(1 << 20)
    assert buffer.add_bare(RUN, 2, 5) == 5
    entries = read_entries(buffer.encode())
    assert entries == [(0, ino, position, 8, name, 0, 0, 0) for ino, position, name in zip(
        RUN.inos[2:5], (13, 14, 15), NAMES[2:5], strict=True)]  # fmt: skip


@pytest.mark.parametrize("add", [EntryBuffer.add_full, EntryBuffer.add_bare])
def test_a_buffer_is_never_overfilled(add):
    for room in range(0, 2000, 8):
        buffer = EntryBuffer(room)
        end = add(buffer, RUN, 0, 6)
        data = buffer.encode()
        assert len(data) + buffer.room == room
        assert len(read_entries(data)) == end
        # What was left out would not have fitted.
        assert end == 6 or buffer.room < 152 + -(-len(NAMES[end]) // 8) * 8
