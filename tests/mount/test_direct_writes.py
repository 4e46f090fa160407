"""What the maker of a file writes past the kernel's page cache is what everybody reads, at once and ever after."""

import mmap
import os
import random
import struct
import threading
from pathlib import Path

import pytest

from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.support.mounting import mounted

PAGE = 4096
MAKES = os.O_WRONLY | os.O_CREAT | os.O_EXCL
SEED = int(os.environ.get("ICEFS_TEST_SEED", "1"))


@pytest.fixture(scope="module")
def mount(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("direct")
    WritableRepository.create(open_storage(str(scratch / "repo"))).close()
    with mounted(scratch / "repo", branch="main", state_dir=str(scratch / "state")) as mount:
        yield mount


@pytest.fixture
def path(mount, request):
    return mount / request.node.name


def count(mount, operation):
    return mount.control("stats.json")["operations"].get(operation, {"count": 0})["count"]


def test_the_kernel_asks_for_no_capabilities(mount, path):
    """That it does for each write through the page cache shows that these go past it."""
    asked = count(mount, "getxattr")
    for number in range(10):
        fd = os.open(f"{path}.{number}", MAKES, 0o644)
        os.write(fd, b"x" * 10_000)
        os.close(fd)
    assert count(mount, "getxattr") == asked
    with open(f"{path}.0", "r+b") as file:
        file.write(b"y")
    assert count(mount, "getxattr") > asked
    assert Path(f"{path}.1").read_bytes() == b"x" * 10_000


def test_readers_see_every_write(path):
    """Through a descriptor, mappings shared and private made before and after, and at every size."""
    rng = random.Random(SEED)
    maker = os.open(path, MAKES, 0o644)
    reader = os.open(path, os.O_RDONLY)
    content = bytearray()
    for step in range(400):
        size = rng.choice([1, 100, PAGE, rng.randrange(1, 3 * PAGE)])
        offset = rng.choice([len(content), rng.randrange(len(content) + 1), rng.randrange(40 * PAGE)])
        data = rng.randbytes(size)
        mapped = mmap.mmap(reader, len(content), mmap.MAP_SHARED, mmap.PROT_READ) if content else None
        before = None if mapped is None else mapped[:]
        assert before is None or before == content
        assert os.pwrite(maker, data, offset) == size
        content.extend(bytes(max(0, offset - len(content))))
        content[offset : offset + size] = data
        if mapped is not None:
            assert mapped[:] == content[: len(mapped)], step
            mapped.close()
        assert os.pread(reader, 1 << 20, 0) == content, step
        assert os.fstat(reader).st_size == len(content)
        with mmap.mmap(reader, len(content), mmap.MAP_PRIVATE, mmap.PROT_READ) as private:
            assert private[:] == content
        if rng.random() < 0.1:
            cut = rng.randrange(len(content) + 1)
            os.ftruncate(maker, cut)
            del content[cut:]
    os.close(maker)
    assert os.pread(reader, 1 << 20, 0) == content
    os.close(reader)
    assert path.read_bytes() == content


def test_no_zeros_beyond_what_was_the_end(path):
    maker = os.open(path, MAKES, 0o644)
    with open(path, "rb", buffering=0) as reader:
        content = b""
        for number in range(1, 200):
            piece = bytes([number]) * 77
            os.write(maker, piece)
            content += piece
            reader.seek(0)
            assert reader.read() == content
    os.close(maker)


def test_readers_race_the_writer(path):
    """A reader that begins when a write has returned reads its bytes, or something newer.

    A write of several requests leaves readers the time to cache what the later of them are about to overwrite.
    """
    size, rounds = 4 << 20, 40
    maker = os.open(path, MAKES, 0o644)
    os.write(maker, bytes(size))
    acknowledged = 0
    stale: list[str] = []
    finished = threading.Event()

    def read(seed):
        fd = os.open(path, os.O_RDONLY)
        mapped = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
        rng = random.Random(seed)
        while not finished.is_set():
            at = rng.randrange(size // 8) * 8
            for how, take in (("pread", lambda at: os.pread(fd, 8, at)), ("mmap", lambda at: mapped[at : at + 8])):
                least = acknowledged
                number = struct.unpack("q", take(at))[0]
                if number < least:
                    stale.append(f"{how}: {number} at {at}, where {least} was written before")
        mapped.close()
        os.close(fd)

    readers = [threading.Thread(target=read, args=[SEED + number]) for number in range(3)]
    for reader in readers:
        reader.start()
    for number in range(1, rounds + 1):
        assert os.pwrite(maker, struct.pack("q", number) * (size // 8), 0) == size
        acknowledged = number
    finished.set()
    for reader in readers:
        reader.join()
    assert not stale, stale[:5]
    os.close(maker)
    assert path.read_bytes() == struct.pack("q", rounds) * (size // 8)


def test_another_writes_through_a_mapping(path):
    """Neither overwrites what the other wrote before, in one page."""
    maker = os.open(path, MAKES, 0o644)
    os.write(maker, bytes(2 * PAGE))
    other = os.open(path, os.O_RDWR)
    content = bytearray(2 * PAGE)
    rng = random.Random(SEED)
    with mmap.mmap(other, 2 * PAGE, mmap.MAP_SHARED) as mapped:
        for _ in range(200):
            mine, theirs = rng.randrange(2 * PAGE - 10), rng.randrange(2 * PAGE - 10)
            content[theirs : theirs + 10] = mapped[theirs : theirs + 10] = rng.randbytes(10)
            data = rng.randbytes(10)
            os.pwrite(maker, data, mine)
            content[mine : mine + 10] = data
            assert mapped[:] == content
    os.close(maker)
    os.close(other)
    assert path.read_bytes() == content


def test_two_append(path):
    maker = os.open(path, MAKES | os.O_APPEND, 0o644)
    other = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    content = b""
    for number in range(100):
        for fd, sign in ((maker, b"m"), (other, b"o")):
            line = sign + b"%d\n" % number
            os.write(fd, line)
            content += line
    os.close(maker)
    assert path.read_bytes() == content
    os.write(other, b"end")
    os.close(other)
    assert path.read_bytes() == content + b"end"


def test_who_reads_and_writes_may_map(path):
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
    os.ftruncate(fd, PAGE)
    with mmap.mmap(fd, PAGE) as mapped:
        mapped[:5] = b"hello"
    os.close(fd)
    assert path.read_bytes()[:5] == b"hello"


def test_large_writes_are_few_requests(mount, path):
    data = os.urandom(1 << 20)
    before = count(mount, "write")
    fd = os.open(path, MAKES, 0o644)
    assert os.write(fd, data) == len(data)
    os.close(fd)
    assert count(mount, "write") - before <= 2, "a buffer that begins within a page is two requests"
    assert path.read_bytes() == data
