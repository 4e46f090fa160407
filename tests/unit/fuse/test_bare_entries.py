"""Directory entries without attributes, and the readers that get them."""

import pytest

from icefs.fuse.bare_entries import SPARSE, Listers
from icefs.fuse.listings import Listings
from icefs.vfs.attrs import EntryRun
from tests.support.fake_vfs import FILE, FakeVfs
from tests.support.fuse_kernel import read_entries


def sent_bare(lister, count=1):
    lister.ignored += count


def test_a_process_that_looks_nothing_up_gets_no_more_attributes():
    listers = Listers()
    listers.begin(1, pid=10)
    listers.begin(2, pid=20)
    assert listers.of(1).is_full
    sent_bare(listers.of(1).lister, 4)
    sent_bare(listers.of(2).lister, 4)
    listers.looked_up(20)
    # A program may read a directory to its end before it looks at the first name.
    assert listers.of(1).is_full
    listers.end(1)
    listers.begin(3, pid=10)
    assert not listers.of(3).is_full
    listers.begin(4, pid=20)
    assert listers.of(4).is_full
    listers.looked_up(10)
    listers.begin(5, pid=10)
    assert listers.of(5).is_full


def test_a_very_large_directory_is_settled_once_more():
    listers = Listers()
    listers.begin(1, pid=10)
    listing = listers.of(1)
    sent_bare(listing.lister, 100)
    listing.sent((1 << 17) - 1)
    assert listing.is_full
    listing.sent(1)
    assert not listing.is_full
    listers.looked_up(10)
    listing.sent(1 << 17)
    assert listing.is_full


def test_a_process_that_looks_up_is_tried_less_and_less():
    listers = Listers()
    listers.begin(1, pid=10)
    lister = listers.of(1).lister
    gaps = [lister.gap]
    for _ in range(12):
        listers.looked_up(10)
        gaps.append(lister.gap)
    assert gaps[0] == SPARSE
    assert gaps == sorted(gaps)
    assert gaps[-1] == 4096


def test_a_handle_that_nobody_opened_gets_attributes():
    assert Listers().of(99).is_full


def test_only_the_latest_processes_are_remembered():
    listers = Listers()
    for pid in range(1000):
        listers.begin(pid, pid)
        sent_bare(listers.of(pid).lister, 9)
        listers.end(pid)
    listers.begin(5000, pid=999)
    listers.begin(5001, pid=1)
    assert not listers.of(5000).is_full
    assert listers.of(5001).is_full


class Kernel:
    """Takes entries a bufferful at a time, and notes those without attributes."""

    def __init__(self, listings, room):
        self.listings = listings
        self.size = room * (152 + 8)

    async def list(self, fh):
        self.names, self.bare, position = [], [], 0
        while entries := read_entries(await self.listings.readdir(fh, position, self.size)):
            self.names += [entry.name for entry in entries]
            self.bare += [entry.name for entry in entries if entry.node_id == 0]
            position = entries[-1].position
        return self.names


FILES = EntryRun(0, FILE, [b"%d" % i for i in range(1000)], list(range(100, 1100)))


@pytest.fixture
def listings():
    vfs = FakeVfs()
    vfs.runs = [FILES]
    return Listings(vfs)


async def listed(listings, kernel, pid, fh=3):
    listings.vfs.answers["opendir"] = fh
    await listings.opendir(2, pid)
    assert await kernel.list(fh) == FILES.names
    entered = sum(args[2] - args[1] for name, args in listings.vfs.calls if name == "entered")
    listings.vfs.calls.clear()
    await listings.releasedir(fh)
    # Every entry that brings attributes is a reference of the kernel, and no other.
    assert entered == len(FILES.names) - len(kernel.bare)
    return len(kernel.bare)


@pytest.mark.parametrize("room", [1, 7, 100, 5000])
async def test_names_alone_are_soon_listed_without_attributes(listings, room):
    kernel = Kernel(listings, room)
    assert [await listed(listings, kernel, pid=7) for _ in range(3)] == [63, 1000, 1000]


@pytest.mark.parametrize("room", [1, 7, 100, 5000])
async def test_who_looks_names_up_is_hardly_asked_to(listings, room):
    kernel = Kernel(listings, room)
    counts = []
    for _ in range(20):
        counts.append(await listed(listings, kernel, pid=7))
        for name in kernel.bare:
            await listings.lookup(2, name.decode(), 7)
    assert counts[0] == 63
    assert sum(counts[1:]) <= 6
