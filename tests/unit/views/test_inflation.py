"""Decompression with a limit: bombs, and everything that is none."""

import gzip
import zlib

import numcodecs
import pytest
import zstandard

from icefs.views.inflation import INFLATE, TooLargeError

DATA = bytes(range(256)) * 40
BOMB = bytes(1 << 20)


def streamed_zstd(data):
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(data) + compressor.flush()  # a frame that does not say how much it is


COMPRESS = {
    "zstd": zstandard.compress,
    "numcodecs.zstd": streamed_zstd,
    "gzip": gzip.compress,
    "numcodecs.gzip": lambda data: gzip.compress(data[:5000]) + gzip.compress(data[5000:]) + bytes(7),
    "numcodecs.zlib": zlib.compress,
    "blosc": numcodecs.Blosc("zstd").encode,
    "numcodecs.blosc": numcodecs.Blosc("lz4").encode,
    "numcodecs.lz4": numcodecs.LZ4().encode,
}


def test_all_are_here():
    assert COMPRESS.keys() == INFLATE.keys()


@pytest.mark.parametrize("name", COMPRESS)
def test_what_it_can_need_is_decompressed(name):
    found = INFLATE[name](memoryview(COMPRESS[name](DATA)), len(DATA))
    assert found in (None, DATA)


@pytest.mark.parametrize("name", COMPRESS)
def test_bombs_are_refused(name):
    with pytest.raises(TooLargeError, match="are the most that it can need"):
        INFLATE[name](memoryview(COMPRESS[name](BOMB)), 1000)


@pytest.mark.parametrize("name", ["gzip", "numcodecs.gzip", "numcodecs.zlib"])
def test_what_ends_early_is_refused(name):
    with pytest.raises(ValueError, match="end early"):
        INFLATE[name](memoryview(zlib.compress(DATA)[:-2]), len(DATA))


def test_many_small_members_take_no_long():
    data = gzip.compress(b"") * 5_000
    assert INFLATE["gzip"](memoryview(data), 10) == b""
