"""What a listing of a directory is sent."""

import pytest

from icefs import errors
from icefs.fuse.listings import Listings
from icefs.vfs.attrs import EntryRun
from tests.support.fake_vfs import DIRECTORY, FILE, FakeVfs
from tests.support.fuse_kernel import read_entries


@pytest.fixture
def vfs():
    return FakeVfs()


@pytest.fixture
def listings(vfs):
    return Listings(vfs)


RUNS = [
    EntryRun(0, DIRECTORY, [b".", b".."], [2, 1]),
    EntryRun(2, FILE, [b"a", b"b", b"c"], [10, 11, 12], [1, 2, 3], [7, 8, 9]),
    EntryRun(5, FILE, [b"d"], [13], [4]),
]


async def test_a_directory_is_sent_whole_where_there_is_room(listings, vfs):
    vfs.runs = RUNS
    entries = read_entries(await listings.readdir(5, 0, 4096))
    assert [entry.name for entry in entries] == [b".", b"..", b"a", b"b", b"c", b"d"]
    assert entries[0] == (2, 2, 1, 4, b".", 0, DIRECTORY.mode, DIRECTORY.mtime_ns)
    assert entries[2] == (10, 10, 3, 8, b"a", 1, FILE.mode, 7)
    # One of the files comes without attributes, to see whether anybody misses them.
    assert entries[3] == (0, 11, 4, 8, b"b", 0, 0, 0)
    # What one run set does not leak into the next.
    assert entries[5] == (13, 13, 6, 8, b"d", 4, FILE.mode, FILE.mtime_ns)
    assert [call[1][1:] for call in vfs.calls if call[0] == "entered"] == [(0, 2), (2, 3), (4, 5), (5, 6)]


@pytest.mark.parametrize("room", [1, 2, 3, 4])
async def test_a_directory_is_sent_in_pieces_without_loss(room, listings, vfs):
    vfs.runs = RUNS
    sent, position = [], 0
    while entries := read_entries(await listings.readdir(5, position, room * 160)):
        assert len(entries) <= room
        sent += entries
        position = entries[-1].position
    assert [entry.name for entry in sent] == [b".", b"..", b"a", b"b", b"c", b"d"]
    references = sum(args[2] - args[1] for name, args in vfs.calls if name == "entered")
    assert references == sum(entry.node_id != 0 for entry in sent)


async def test_entries_that_the_kernel_is_not_sent_are_not_counted(listings, vfs, monkeypatch):
    vfs.runs = RUNS

    async def readdir(fh, position):
        if position >= 5:
            raise errors.UnreachableError("away")
        return await FakeVfs.readdir(vfs, fh, position)

    monkeypatch.setattr(vfs, "readdir", readdir)
    with pytest.raises(errors.UnreachableError):
        await listings.readdir(5, 0, 4096)
    assert not [call for call in vfs.calls if call[0] == "entered"]
