"""What views of a mount take at most: memory, processor time and headers, whatever is in the repository."""

import errno
import gzip
import json
import os
import random
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import zarr
from zarr.codecs import GzipCodec, ZstdCodec

from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.support.mounting import Mount, mounted
from tests.support.viewed import commit_arrays

MIB = 1 << 20
CHUNKS = 3
LARGE = 16 * MIB  # elements of a chunk of 64 MiB
MANY = 256  # chunks of 1 MiB


def write(root: zarr.Group) -> None:
    large = root.create_array(
        "large/values", shape=(CHUNKS * LARGE,), chunks=(LARGE,), dtype="i4", compressors=[ZstdCodec()]
    )
    for number in range(CHUNKS):
        large[number * LARGE : (number + 1) * LARGE] = np.arange(LARGE, dtype="i4") * (number + 1)
    many = root.create_array(
        "many/values", shape=(MANY, MIB // 4), chunks=(1, MIB // 4), dtype="i4", compressors=[ZstdCodec()]
    )
    many[...] = np.arange(MANY, dtype="i4")[:, None]
    root.create_array("few", shape=(4,), chunks=(2,), dtype="i4", compressors=[GzipCodec()])[:] = [1, 2, 3, 4]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Returns a repository of large chunks, and of many."""
    place = str(tmp_path_factory.mktemp("limits") / "repository")
    with WritableRepository.create(open_storage(place)) as repository:
        commit_arrays(repository, write)
    return place


@pytest.fixture(scope="module")
def mount(place):
    """Mounts it with a small cache of decoded chunks; a first view is read, so the libraries are in memory."""
    with mounted(place, branch="main", view_cache=16 * MIB, may_complain=True) as mount:
        for name in ("npy/few.npy", "netcdf/root.nc"):
            with (mount / ".icefs/views" / name).open("rb") as file:
                assert file.read(4096)
        yield mount


def processor_s(mount: Mount) -> float:
    fields = Path(f"/proc/{mount.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(mount: Mount, field: str) -> int:
    [line] = [line for line in Path(f"/proc/{mount.pid}/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) << 10


class Growth:
    """How much more memory the daemon had at most than when the cache had small chunks alone."""

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        # A chunk that is larger than the cache stays in it until another one comes.
        with (mount / ".icefs/views/npy/many/values.npy").open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.read(32 * MIB)
        self._before = resident(mount, "VmRSS")
        Path(f"/proc/{mount.pid}/clear_refs").write_text("5")

    def most(self) -> int:
        return resident(self._mount, "VmHWM") - self._before


@pytest.mark.parametrize("view", ["npy/large/values.npy", "netcdf/large.nc"])
def test_a_chunk_of_64_mib_is_not_decoded_twice_in_a_row_at_random_offsets(mount, view):
    """The chunk is larger than the whole cache."""
    path = mount / ".icefs/views" / view
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    if view.startswith("npy"):
        start = os.fstat(file).st_size - CHUNKS * LARGE * 4
    else:
        with netCDF4.Dataset(path) as dataset:  # the first element that differs from zero tells where they begin
            head = dataset["values"][:4].tolist()
        data = os.pread(file, MIB, 0)
        start = data.index(np.array(head, "i4").tobytes())
    offsets = random.Random(1).sample(range(LARGE), 60)

    def read(number: int, at: int) -> int:
        data = os.pread(file, 4, start + (number * LARGE + at) * 4)
        return int(np.frombuffer(data, "i4")[0])

    def expected(number: int, at: int) -> int:
        return int((np.arange(at, at + 1, dtype="i4") * (number + 1))[0])

    try:
        before = processor_s(mount)
        assert read(1, 7) == expected(1, 7)
        one = processor_s(mount) - before
        before, asked = processor_s(mount), mount.requests()["read"]
        assert [read(1, at) for at in offsets] == [expected(1, at) for at in offsets]
        rest = processor_s(mount) - before
        assert mount.requests()["read"] - asked >= len(offsets)
        assert rest < 10 * max(one, 0.02), (one, rest)
        # The next chunk takes its place, and is decoded once, too.
        before = processor_s(mount)
        assert [read(2, at) for at in offsets] == [expected(2, at) for at in offsets]
        assert processor_s(mount) - before < 10 * max(one, 0.02)
    finally:
        os.close(file)


@pytest.mark.parametrize("view", ["npy/many/values.npy", "netcdf3/many.nc", "zarr2/many/values"])
def test_memory_for_decoded_chunks_is_bounded(mount, view):
    path = mount / ".icefs/views" / view
    grown = Growth(mount)
    for one in sorted(path.iterdir()) if path.is_dir() else [path]:
        with one.open("rb") as file:
            while file.read(4 * MIB):
                pass
    assert grown.most() < 64 * MIB  # of 256 MiB


def test_a_chunk_that_would_fill_the_memory_does_not_decode(mount):
    few = mount / "few/c/0"
    few.write_bytes(gzip.compress(bytes(512 * MIB), 1))
    grown = Growth(mount)
    with pytest.raises(OSError, match="Input/output") as caught:
        np.load(mount / ".icefs/views/npy/few.npy")
    assert caught.value.errno == errno.EIO
    assert grown.most() < 64 * MIB
    assert "chunk (0) of /few does not decode" in mount.log.read_text()
    # Past the page cache, whose pages have both chunks.
    file = os.open(mount / ".icefs/views/npy/few.npy", os.O_RDONLY | os.O_DIRECT)
    assert np.frombuffer(os.pread(file, 8, os.fstat(file).st_size - 8), "i4").tolist() == [3, 4]
    os.close(file)
    (mount / ".icefs/discard").write_text("yes\n")


def test_headers_are_bounded_and_say_what_they_leave_out(mount):
    document = json.loads((mount / "few/zarr.json").read_text())
    document["attributes"] = {"units": "K", "large": "x" * (2 * MIB), "nested": {"inside": ["x" * MIB, "y" * MIB]}}
    (mount / "few/zarr.json").write_text(json.dumps(document))
    views = mount / ".icefs/views"
    for name in ("netcdf", "netcdf3"):
        with netCDF4.Dataset(views / name / "root.nc") as dataset:
            assert dataset["few"].ncattrs() == ["units"]
            left_out = dataset.getncattr("icefs_left_out")
            assert "attribute large" in left_out
            assert "attribute nested" in left_out
            assert dataset["few"][:].tolist() == [1, 2, 3, 4]
    (mount / ".icefs/discard").write_text("yes\n")
