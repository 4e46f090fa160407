"""Which files are written past the kernel's page cache, and when the kernel has to drop their pages."""

from icefs.vfs.branches.working_handles import DirectWriters
from tests.support.fake_vfs import FakeNotifier


async def test_pages_are_dropped_where_others_have_the_file_open():
    notifier = FakeNotifier()
    direct = DirectWriters(notifier, (6, 6))
    assert direct.begin(7)
    assert direct.begin(8)
    await direct.written(7)
    assert notifier.dropped == []
    direct.opened(7)
    direct.opened(9)
    for ino in (7, 8, 9):
        await direct.written(ino)
    assert notifier.dropped == [7]
    direct.end(7)
    await direct.written(7)
    assert notifier.dropped == [7]


def test_older_kernels_write_through_their_cache():
    """They would write a dirty page of somebody's mapping over what was written directly after it."""
    assert not DirectWriters(FakeNotifier(), (6, 5)).begin(7)
