"""Lost bytes of a file, and bytes that the disk takes and gives in pieces, by themselves."""

import errno
import os
from pathlib import Path

import pytest

from icefs.errors import NoSpaceError, StorageError
from icefs.inode import Ino
from icefs.worktree.core.lost_bytes import check_there, check_whole
from icefs.worktree.model import lost
from icefs.worktree.model.nodes import LOST, FileNode, Perm
from icefs.worktree.spool.files import DiskIo, read_bytes, write_bytes


def lossy(*ranges: tuple[int, int]) -> FileNode:
    node = FileNode(2, Ino(7), Perm(0o644, 0, 0), 100, 0)
    node.name, node.flags = "f", LOST
    for start, end in ranges:
        node.lost = lost.add(node.lost, start, end)
    return node


def test_lost_bytes_are_refused_and_no_others() -> None:
    node = lossy((10, 20), (50, 60))
    check_there(node, 0, 10)
    check_there(node, 20, 50)
    for start, end in ((0, 11), (19, 20), (15, 55)):
        with pytest.raises(StorageError, match="bytes of 'f' were lost"):
            check_there(node, start, end)
    with pytest.raises(StorageError):
        check_whole(node)
    assert not node.is_all_lost


def test_of_a_file_without_ranges_every_byte_is_lost() -> None:
    node = lossy()
    assert node.is_all_lost
    with pytest.raises(StorageError):
        check_there(node, 0, 0)
    node.flags = 0
    check_there(node, 0, 100)
    check_whole(node)


class Pieces(DiskIo):
    """A disk that takes and gives three bytes at a time, and becomes full."""

    def __init__(self, room: int) -> None:
        self.room = room

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return super().pread(fd, min(size, 3), offset)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "no space")
        count = super().pwrite(fd, memoryview(data)[: min(3, self.room)], offset)
        self.room -= count
        return count


@pytest.mark.parametrize(("room", "written"), [(100, 10), (7, 7)])
def test_bytes_come_and_go_in_pieces(tmp_path: Path, room: int, written: int) -> None:
    io, data = Pieces(room), b"0123456789"
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        assert write_bytes(io, fd, data, 5) == written
        assert read_bytes(io, fd, 5, 10) == data[:written]
        assert read_bytes(io, fd, 6, 4) == data[1:5]
        assert read_bytes(io, fd, 100, 4) == b""
    finally:
        os.close(fd)


def test_a_full_disk_is_an_error_only_if_it_takes_nothing(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        with pytest.raises(NoSpaceError):
            write_bytes(Pieces(0), fd, b"x", 0)
    finally:
        os.close(fd)
