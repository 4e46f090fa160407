"""The disk cache: it returns the bytes that were written, whatever happens to its files, and it keeps to its room."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icefs.errors import InvalidInputError
from icefs.storage.cache import disk as disk_cache
from icefs.storage.cache.disk import DiskCache
from icefs.storage.cache.entry import BLOCK_BYTES, CachedFile, DamagedEntryError, checksums

SMALL = 100
LARGE = 2 * BLOCK_BYTES + 777


def pattern(size, seed=0):
    return random.Random(seed).randbytes(size)


@pytest.fixture
def cache(tmp_path):
    cache = DiskCache(tmp_path / "cache", 64 << 20, reserve_bytes=0)
    yield cache
    cache.close()


def entry_files(cache):
    return [path for path in cache.directory.glob("v1/??/*") if path.is_file()]


@pytest.mark.parametrize("size", [0, 1, SMALL, 4096, 16 << 10, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, LARGE])
def test_what_is_put_is_got(cache, size):
    view, data = cache.view("repo"), pattern(size)
    assert view.get("chunks/A", 0, size) is None
    view.put("chunks/A", data, 0, size)
    cache.flush()
    assert view.get("chunks/A", 0, size) == data
    assert view.has("chunks/A", 0, size)
    assert cache.view("other").get("chunks/A", 0, size) is None
    assert view.get("chunks/A", 1, size + 1) is None
    assert view.get("chunks/A") is None
    assert cache.used_bytes() % 4096 == 0


@given(st.integers(0, LARGE), st.integers(0, LARGE), st.booleans())
def test_ranges_of_an_open_entry(tmp_path_factory, first, second, nowait):
    start, end = sorted((first, second))
    cache = DiskCache(tmp_path_factory.mktemp("cache"), 1 << 30, reserve_bytes=0)
    data = pattern(LARGE)
    cache.put(b"d" * 16, data)
    found = cache.open(b"d" * 16)
    if start < end:
        got = found.read(start, end - start, nowait=nowait)
        assert got is None if nowait and got is None else bytes(got) == data[start:end]
    found.close()
    cache.close()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_damage_anywhere_is_noticed(cache, size):
    """One byte after the other in the header and near it, and a sample of the rest."""
    data, digest = pattern(size), b"x" * 16
    cache.put(digest, data)
    [path] = entry_files(cache)
    whole = path.read_bytes()
    places = [*range(80), *random.Random(1).sample(range(len(whole)), 40), len(whole) - 1]
    for number, place in enumerate(place for place in places if place < len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 1 << number % 8
        path.write_bytes(broken)
        assert cache.get(digest) is None, place
        assert not path.exists()
    for broken in (b"", whole[:-1], whole + b"x", whole[:40], b"\0" * len(whole)):
        path.write_bytes(broken)
        assert cache.get(digest) is None
        assert not path.exists()
    assert cache.counters.damaged > 40
    assert cache.put(digest, data)
    assert cache.get(digest) == data


def test_damage_behind_an_open_entry_is_noticed(cache):
    data, digest = pattern(LARGE), b"x" * 16
    cache.put(digest, data)
    [path] = entry_files(cache)
    found = cache.open(digest)
    assert isinstance(found, CachedFile)
    assert found.read(0, 10) == data[:10]
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(bytes([data[-1] ^ 1]))
    assert found.read(0, 10) == data[:10]
    with pytest.raises(DamagedEntryError):
        found.read(LARGE - 10, 10)
    found.close()
    assert not path.exists()


def test_entries_under_each_others_names_are_not_believed(cache):
    cache.put(b"a" * 16, b"aaaa")
    cache.put(b"b" * 16, b"bbbb")
    first, second = entry_files(cache)
    os.replace(first, second)
    assert {cache.get(b"a" * 16), cache.get(b"b" * 16)} == {None}


@given(st.binary(max_size=3000), st.data())
def test_displaced_bytes_have_another_sum(data, draw):
    if len(data) >= 2:
        at = draw.draw(st.integers(0, len(data) - 1))
        turned = data[at:] + data[:at]
        assert (checksums(turned) == checksums(data)) == (turned == data)


def test_blocks_of_rows_cannot_be_exchanged():
    data = pattern(BLOCK_BYTES)
    for unit in (8, 64, 512, 4096, 1 << 16):
        swapped = data[unit : 2 * unit] + data[:unit] + data[2 * unit :]
        assert checksums(swapped) != checksums(data)


def test_it_keeps_to_its_size_and_what_was_used_last(tmp_path):
    cache = DiskCache(tmp_path / "cache", 1 << 20, reserve_bytes=0, touch_s=0)
    for number in range(100):
        cache.put(bytes([number]) * 16, pattern(30_000, number))
        assert cache.used_bytes() <= 1 << 20
        assert cache.get(b"\0" * 16) == pattern(30_000)  # the first one is used all the time
    assert cache.counters.evicted > 50
    kept = [number for number in range(100) if cache.get(bytes([number]) * 16) is not None]
    assert len(kept) >= 25
    assert kept[1:] == list(range(kept[1], 100))
    assert not cache.put(b"h" * 16, bytes(1 << 20))
    cache.close()


def test_a_cache_that_got_a_smaller_limit_shrinks(tmp_path):
    with_room = DiskCache(tmp_path / "cache", 1 << 20, reserve_bytes=0)
    for number in range(20):
        with_room.put(bytes([number]) * 16, pattern(30_000, number))
    with_room.close()
    cache = DiskCache(tmp_path / "cache", 1 << 18, reserve_bytes=0)
    cache.put(b"n" * 16, b"new")
    assert cache.used_bytes() <= 1 << 18
    assert cache.get(b"n" * 16) == b"new"
    cache.close()


def test_the_disk_keeps_its_reserve(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path / "cache", 1 << 30, reserve_bytes=1 << 20)
    free = 2 << 20
    monkeypatch.setattr(cache, "_free_bytes", lambda: free - cache.used_bytes())
    for number in range(60):
        cache.put(bytes([number]) * 16, pattern(30_000, number))
        assert free - cache.used_bytes() >= 1 << 20
    assert cache.counters.evicted > 0
    assert cache.get(bytes([59]) * 16) is not None
    free = 1 << 19  # somebody else filled the disk
    assert not cache.put(b"n" * 16, b"new")
    assert cache.used_bytes() == 0
    cache.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_refuses_is_no_error(cache, monkeypatch, number):
    def refuse(path, head, data):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(disk_cache, "_write", refuse)
        assert not cache.put(b"a" * 16, b"data")
        assert cache.get(b"a" * 16) is None
    assert list(cache.directory.glob("v1/tmp/*")) == []
    assert not cache.put(b"a" * 16, b"data")  # it is left alone for a while
    cache._paused_until = 0
    assert cache.put(b"a" * 16, b"data")


def test_a_lost_or_damaged_count_is_made_anew(tmp_path):
    for damage in (b"", b"garbage", b"\0" * 48, b"x" * 48):
        cache = DiskCache(tmp_path / "cache", 200_000, reserve_bytes=0)
        (tmp_path / "cache/v1/usage").write_bytes(damage)
        for number in range(12):
            cache.put(os.urandom(16), pattern(30_000, number))
            assert cache.used_bytes() <= 200_000
        cache.close()


def test_directories_of_others_are_refused(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(InvalidInputError, match="others"):
        DiskCache(tmp_path / "open", 1 << 20)
    DiskCache(tmp_path / "new/below", 1 << 20).close()
    assert (tmp_path / "new/below").stat().st_mode & 0o777 == 0o700


def test_threads_share_a_cache(cache):
    view = cache.view("repo")

    def work(seed):
        chosen = random.Random(seed)
        for _ in range(50):
            number = chosen.randrange(20)
            size = 1 + number * 9_000
            got = view.get(f"k{number}", 0, size)
            assert got in (None, pattern(size, number))
            view.put(f"k{number}", pattern(size, number), 0, size)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cache.flush()
    assert len(entry_files(cache)) == 20
    assert list(cache.directory.glob("v1/tmp/*")) == []


CHILD = """
import os, random, sys
from icefs.storage.cache.disk import DiskCache
cache = DiskCache(sys.argv[1], int(sys.argv[2]), reserve_bytes=0)
chosen = random.Random(int(sys.argv[3]))
print("started", flush=True)
while True:
    number = chosen.randrange(200)
    data = random.Random(number).randbytes(1 + number * 700)
    digest = number.to_bytes(16, "little")
    got = cache.get(digest)
    if got is not None and got != data:
        os.write(1, b"WRONG\\n")
    cache.put(digest, data)
"""


def test_processes_that_are_killed_leave_a_sound_cache_within_its_limit(tmp_path):
    limit, rounds = 4 << 20, int(os.environ.get("ICEFS_TEST_ROUNDS", "2"))
    watcher = DiskCache(tmp_path / "cache", limit, reserve_bytes=0)
    for round_number in range(rounds):
        children = [
            subprocess.Popen(
                [sys.executable, "-c", CHILD, tmp_path / "cache", str(limit), str(round_number * 10 + child)],
                stdout=subprocess.PIPE,
            )
            for child in range(3)
        ]
        for child in children:
            assert child.stdout.readline() == b"started\n"
        deadline = time.monotonic() + 0.7
        while time.monotonic() < deadline:
            for child in children:
                child.send_signal(signal.SIGSTOP)
            for child in children:
                os.waitid(os.P_PID, child.pid, os.WSTOPPED)
            assert watcher.used_bytes() <= limit
            for child in children:
                child.send_signal(signal.SIGCONT)
            time.sleep(0.005)
        for child in children:
            child.send_signal(signal.SIGKILL)
            assert child.communicate()[0] == b""
    assert watcher.used_bytes() <= limit
    for number in range(200):
        data = random.Random(number).randbytes(1 + number * 700)
        assert watcher.get(number.to_bytes(16, "little")) in (None, data)
    assert watcher.counters.damaged == 0
    # What the killed ones were writing goes when room is needed and it is old.
    for path in (tmp_path / "cache/v1/tmp").iterdir():
        os.utime(path, (1, 1))
    with watcher._locked():
        watcher._make_room(limit)
    assert list((tmp_path / "cache/v1/tmp").iterdir()) == []
    watcher.close()


def test_what_is_taken_and_what_waits_is_told(tmp_path):
    cache = DiskCache(tmp_path / "cache", 1 << 20, reserve_bytes=0)
    assert (cache.counted_bytes(), cache.queued_bytes) == (None, 0)  # nobody has looked yet
    cache.put_soon(b"d" * 16, bytes(10_000))
    assert cache.queued_bytes >= 10_000
    cache.flush()
    assert cache.queued_bytes == 0
    assert cache.counted_bytes() == cache.used_bytes() > 10_000
    cache.close()
