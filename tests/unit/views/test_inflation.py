"""Decompression with a limit: bombs, and everything that is none."""

import bz2
import gzip
import lzma
import tracemalloc
import zlib

import numcodecs
import numpy as np
import pytest
import zstandard
from pcodec import ChunkConfig, standalone

from icefs.views.inflation import INFLATE, TooLargeError, inflate_pcodec

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
    "numcodecs.bz2": lambda data: bz2.compress(data[:5000]) + bz2.compress(data[5000:]) + b"no stream",
    "numcodecs.lzma": lambda data: lzma.compress(data[:5000]) + lzma.compress(data[5000:]) + b"no stream at all",
}


def test_all_are_here():
    assert COMPRESS.keys() == INFLATE.keys()


@pytest.mark.parametrize("name", COMPRESS)
def test_what_it_can_need_is_decompressed(name):
    found = INFLATE[name](memoryview(COMPRESS[name](DATA)), len(DATA), {})
    assert found in (None, DATA)


@pytest.mark.parametrize("name", COMPRESS)
def test_bombs_are_refused(name):
    with pytest.raises(TooLargeError, match="are the most that it can need"):
        INFLATE[name](memoryview(COMPRESS[name](BOMB)), 1000, {})


@pytest.mark.parametrize("name", ["gzip", "numcodecs.gzip", "numcodecs.zlib", "numcodecs.bz2", "numcodecs.lzma"])
def test_what_ends_early_is_refused(name):
    compress = {"numcodecs.bz2": bz2.compress, "numcodecs.lzma": lzma.compress}.get(name, zlib.compress)
    with pytest.raises(ValueError, match="end early"):
        INFLATE[name](memoryview(compress(DATA)[:-2]), len(DATA), {})


def test_a_bomb_behind_a_small_zstd_frame_is_refused():
    small, more = zstandard.compress(DATA[:100]), zstandard.compress(DATA[100:])
    assert INFLATE["zstd"](memoryview(small + more), len(DATA), {}) == DATA
    with pytest.raises(TooLargeError):
        INFLATE["zstd"](memoryview(small + zstandard.compress(BOMB)), 1000, {})


@pytest.mark.parametrize("name", ["numcodecs.bz2", "numcodecs.lzma"])
def test_what_is_no_stream_is_refused(name):
    with pytest.raises((OSError, lzma.LZMAError)):
        INFLATE[name](memoryview(b"no stream at all"), 100, {})


def test_many_small_members_take_no_long():
    data = gzip.compress(b"") * 5_000
    assert INFLATE["gzip"](memoryview(data), 10, {}) == b""


@pytest.mark.parametrize("name", ["numcodecs.bz2", "numcodecs.lzma", "numcodecs.zlib"])
def test_a_bomb_takes_little_memory(name):
    data = memoryview(numcodecs.get_codec({"id": name.removeprefix("numcodecs.")}).encode(bytes(1 << 26)))
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError):
            INFLATE[name](data, 1000, {})
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 1}]


def test_lzma_has_the_format_and_the_filters_of_its_codec():
    configuration = {"format": lzma.FORMAT_RAW, "filters": FILTERS}
    data = numcodecs.LZMA(**configuration).encode(DATA)
    assert INFLATE["numcodecs.lzma"](memoryview(data), len(DATA), configuration) == DATA
    with pytest.raises(TooLargeError, match="are the most"):
        INFLATE["numcodecs.lzma"](memoryview(data), 100, configuration)


def test_lzma_with_a_huge_dictionary_is_refused():
    huge = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    with pytest.raises(TooLargeError, match="dictionary"):
        INFLATE["numcodecs.lzma"](memoryview(b"1234"), 100, {"format": lzma.FORMAT_RAW, "filters": huge})
    header = lzma.compress(b"", lzma.FORMAT_ALONE)
    header = header[:1] + (1 << 30).to_bytes(4, "little") + header[5:]
    with pytest.raises(lzma.LZMAError, match="Memory"):
        INFLATE["numcodecs.lzma"](memoryview(header), 100, {"format": lzma.FORMAT_ALONE})


NUMBERS = np.arange(700, dtype="i4")


def test_pcodec_fills_an_array():
    found = np.empty((7, 100), "i4")
    inflate_pcodec(memoryview(standalone.simple_compress(NUMBERS, ChunkConfig())), found)
    np.testing.assert_array_equal(found.reshape(-1), NUMBERS)


@pytest.mark.parametrize("count", [1, 255, 256, 512, 699])
def test_more_numbers_than_the_array_has_are_refused(count):
    data = memoryview(standalone.simple_compress(NUMBERS, ChunkConfig()))
    with pytest.raises(ValueError, match=f"{count}"):
        inflate_pcodec(data, np.empty(count, "i4"))


def test_fewer_numbers_than_the_array_has_are_refused():
    with pytest.raises(ValueError, match="700 elements, and not 701"):
        inflate_pcodec(memoryview(standalone.simple_compress(NUMBERS, ChunkConfig())), np.empty(701, "i4"))
