"""Decoded elements, against zarr-python's own reading of the same arrays."""

import bz2
import json
import logging
import lzma
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from math import prod

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from pcodec import ChunkConfig, standalone
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
    numcodecs,
)
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from icefs.engine.repository import Repository
from icefs.errors import DecodeError, NodeNotFoundError, NotShownError, UnreachableError
from icefs.views.codecs import codec_of
from icefs.views.decoder import Decoding, DecodingLimits, ZarrDecoder
from icefs.views.hierarchy import SessionHierarchy
from icefs.views.raw_pieces import RawPieces
from tests.support.repo_builder import RepoBuilder, group
from tests.support.viewed import commit_arrays, hierarchy_of, repository_of
from tests.support.zarr_documents import array_document


@pytest.fixture
def decoding():
    decoding = Decoding()
    yield decoding
    decoding.close()


class Counted(SessionHierarchy):
    """Counts the chunks that are read, by key."""

    def __init__(self, session):
        super().__init__(session)
        self.reads = []
        self.index_reads = []
        self.error = None

    def read(self, key, start=0, stop=None):
        if not key.endswith("zarr.json"):
            self.reads.append(key)
            if start < 0:
                self.index_reads.append(key)
            if self.error is not None:
                raise self.error
        return super().read(key, start, stop)

    def lasting(self, key):
        found = super().lasting(key)
        return None if found is None else replace(found, read=partial(self.read, key))

    def counts(self):
        return {key: self.reads.count(key) for key in set(self.reads)}


def counted(write):
    return Counted(repository_of(write).readonly_session("main"))


COMPRESSORS = [None, ZstdCodec(level=1), ZstdCodec(checksum=True), GzipCodec(level=1), BloscCodec(), Crc32cCodec()]
TYPES = ["bool", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "c16", "M8[s]", "m8[10us]", "U3", "S4"]


@st.composite
def arrays(draw):
    """What zarr-python makes an array of, and its values."""
    shape = draw(st.lists(st.integers(1, 9), max_size=4).map(tuple))
    inner = draw(st.tuples(*(st.integers(1, 5) for _ in shape)))
    dtype = np.dtype(draw(st.sampled_from(TYPES)))
    chain = [draw(st.sampled_from([None, TransposeCodec(order=tuple(reversed(range(len(shape))))) if shape else None]))]
    chain = [codec for codec in chain if codec is not None]
    if dtype.kind in "US":
        chain.append(BytesCodec(endian="little"))
    else:
        chain.append(BytesCodec(endian=draw(st.sampled_from(["little", "big"]))))
    compressor = draw(st.sampled_from(COMPRESSORS))
    if compressor is not None:
        chain.append(compressor)
    chunks = inner
    if draw(st.booleans()):
        location = draw(st.sampled_from(["start", "end"]))
        chunks = tuple(length * draw(st.integers(1, 3)) for length in inner)
        chain = [ShardingCodec(chunk_shape=inner, codecs=chain, index_location=location)]
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = generator.integers(0, 100, shape).astype(dtype)
    missing = generator.random(shape) < draw(st.sampled_from([0, 0.5, 1]))
    fill_value = np.array(draw(st.integers(0, 9))).astype(dtype)
    if dtype.kind != "b":
        values = np.where(missing, fill_value, values)
    return {"shape": shape, "chunks": chunks, "codecs": chain, "dtype": dtype, "fill": fill_value}, values, inner


@given(arrays(), st.data())
def test_any_range_is_that_of_zarr_python(array, data):
    how, values, inner = array

    def write(root):
        zarr.create(
            store=root.store, path="a", shape=how["shape"], chunks=how["chunks"], codecs=how["codecs"],
            dtype=how["dtype"], fill_value=how["fill"][()], zarr_format=3,
        )[...] = values  # fmt: skip

    hierarchy = hierarchy_of(write)
    decoding = Decoding(DecodingLimits(cache_bytes=data.draw(st.sampled_from([1, 2000, 1 << 20]))))
    try:
        elements = ZarrDecoder(hierarchy, decoding).open("/a")
        assert (elements.shape, elements.dtype, elements.chunk_shape) == (how["shape"], how["dtype"], inner)
        expected = values.astype(how["dtype"]).reshape(-1)
        np.testing.assert_array_equal(elements.read(0, expected.size), expected)
        step = max(1, expected.size // data.draw(st.integers(1, 40)))
        steps = [elements.read(at, min(at + step, expected.size)) for at in range(0, expected.size, step)]
        np.testing.assert_array_equal(np.concatenate(steps), expected)
        for _ in range(3):
            start = data.draw(st.integers(0, expected.size))
            stop = data.draw(st.integers(start, expected.size))
            found = elements.read(start, stop)
            assert found.dtype == how["dtype"]
            np.testing.assert_array_equal(found, expected[start:stop])
            at_hand = elements.at_hand(start, stop)
            if at_hand is not None:
                assert at_hand.dtype == how["dtype"]
                np.testing.assert_array_equal(at_hand, expected[start:stop])
        index = tuple(data.draw(st.integers(0, (n - 1) // c)) for n, c in zip(how["shape"], inner, strict=True))
        chunk = elements.chunk(index)
        assert chunk.shape == inner
        cut = values[tuple(slice(i * c, (i + 1) * c) for i, c in zip(index, inner, strict=True))]
        np.testing.assert_array_equal(chunk[tuple(map(slice, cut.shape))], cut)
    finally:
        decoding.close()


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("string", ["a", "", "ß" * 100, "c"]),
        ("variable_length_bytes", [b"a", b"", b"\xff" * 100, b"c"]),
        (np.dtype([("a", "<i4"), ("b", "<f8")]), [(1, 2.5), (3, 4.5), (0, 0.0), (5, 6.5)]),
        ("V4", [b"abcd", b"\0\0\0\0", b"efgh", b"ijkl"]),
    ],
    ids=["strings", "bytes", "structs", "raw"],
)
def test_types_without_a_plain_size(dtype, values, decoding):
    def write(root):
        array = root.create_array("a", shape=(4,), chunks=(3,), dtype=dtype)
        array[:] = np.array(values, array.dtype)

    elements = ZarrDecoder(hierarchy_of(write), decoding).open("/a")
    assert elements.read(0, 4).tolist() == np.array(values, elements.dtype).tolist()
    assert elements.read(2, 3).tolist() == np.array(values, elements.dtype)[2:3].tolist()


class Backwards(BytesBytesCodec):
    """A codec that can only be awaited."""

    is_fixed_size = True

    @classmethod
    def from_dict(cls, data):
        return cls()

    def to_dict(self):
        return {"name": "test.backwards"}

    def compute_encoded_size(self, size, spec):
        return size

    async def _decode_single(self, data, spec):
        return spec.prototype.buffer.from_bytes(data.to_bytes()[::-1])

    _encode_single = _decode_single


LITTLE = BytesCodec(endian="little")
SWAPPED = TransposeCodec(order=(1, 0))
CHAINS = {
    "transposed shards": [SWAPPED, ShardingCodec(chunk_shape=(2, 2), codecs=[LITTLE, ZstdCodec()])],
    "compressed shards": [ShardingCodec(chunk_shape=(2, 2), codecs=[LITTLE]), GzipCodec()],
    "shards in shards": [
        ShardingCodec(
            chunk_shape=(2, 4), codecs=[ShardingCodec(chunk_shape=(2, 2), codecs=[SWAPPED, LITTLE]), Crc32cCodec()]
        )
    ],
    "numcodecs": [numcodecs.Delta(dtype="<i4"), LITTLE, numcodecs.Shuffle(elementsize=4), numcodecs.Zlib(level=1)],
    "scaled": [numcodecs.FixedScaleOffset(offset=-3, scale=2, dtype="<i4", astype="<i2"), LITTLE, numcodecs.LZ4()],
    "slow and small": [LITTLE, numcodecs.BZ2(), numcodecs.LZMA()],
    "pcodec": [SWAPPED, numcodecs.PCodec(), numcodecs.LZMA(format=2)],
    "pcodec in shards in shards": [
        ShardingCodec(chunk_shape=(4, 2), codecs=[ShardingCodec(chunk_shape=(2, 2), codecs=[numcodecs.PCodec()])])
    ],
    "awaited": [LITTLE, Backwards(), ZstdCodec()],
    "awaited in shards": [ShardingCodec(chunk_shape=(2, 2), codecs=[LITTLE, Backwards()])],
    "awaited in transposed shards": [SWAPPED, ShardingCodec(chunk_shape=(2, 2), codecs=[LITTLE, Backwards()])],
}


@pytest.fixture
def backwards():
    zarr.registry.register_codec("test.backwards", Backwards)


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.filterwarnings("ignore")  # zarr-python warns of codecs without a specification
def test_any_chain_of_codecs(name, decoding, backwards):
    values = np.arange(7 * 9, dtype="i4").reshape(7, 9)

    def write(root):
        array = zarr.create(
            store=root.store, path="a", shape=(7, 9), chunks=(4, 4), codecs=CHAINS[name], dtype="i4", zarr_format=3
        )
        array[...] = values

    elements = ZarrDecoder(hierarchy_of(write), decoding).open("/a")
    np.testing.assert_array_equal(elements.read(0, 63), values.reshape(-1))
    np.testing.assert_array_equal(elements.read(11, 40), values.reshape(-1)[11:40])


def test_a_scalar_and_an_empty_array(decoding):
    def write(root):
        root.create_array("scalar", shape=(), dtype="f8")[...] = 1.5
        root.create_array("empty", shape=(3, 0, 2), chunks=(1, 1, 1), dtype="f8")

    decoder = ZarrDecoder(hierarchy_of(write), decoding)
    assert decoder.open("/scalar").read(0, 1).tolist() == [1.5]
    assert decoder.open("/scalar").chunk(()) == 1.5
    assert decoder.open("/empty").read(0, 0).size == 0
    with pytest.raises(ValueError, match="elements 0 to 1 of 0"):
        decoder.open("/empty").read(0, 1)


@pytest.mark.parametrize("index", [(2, 0), (0, -1), (0,), (0, 0, 0)])
def test_chunks_outside_of_the_grid_are_refused(index, decoding):
    elements = ZarrDecoder(hierarchy_of(lambda root: square(root, (4, 4), (2, 2))), decoding).open("/a")
    with pytest.raises(ValueError, match="of a grid of"):
        elements.chunk(index)


def square(root, shape, chunks, **how):
    values = np.arange(prod(shape), dtype="i4").reshape(shape)
    root.create_array("a", shape=shape, chunks=chunks, dtype="i4", fill_value=-1, **how)[...] = values


# How often a chunk is decoded.


def read_through(elements, step):
    size = prod(elements.shape)
    found = [elements.read(at, min(at + step, size)) for at in range(0, size, step)]
    np.testing.assert_array_equal(np.concatenate(found), np.arange(size))


def waiting(decoding):
    """Waits until no thread decodes ahead."""
    while decoding.workers.pending:
        time.sleep(0.001)


@pytest.mark.parametrize(("shape", "chunks"), [((64, 64), (16, 16)), ((64, 64), (8, 64)), ((4096,), (256,))])
@pytest.mark.parametrize("step", [64, 1000])
def test_from_front_to_back_each_chunk_is_decoded_once(shape, chunks, step):
    hierarchy = counted(lambda root: square(root, shape, chunks))
    decoding = Decoding(DecodingLimits(cache_bytes=16 * 1024 * 4))
    elements = ZarrDecoder(hierarchy, decoding).open("/a")
    read_through(elements, step)
    waiting(decoding)
    assert set(hierarchy.counts().values()) == {1}
    assert len(hierarchy.counts()) == prod(elements.shape) // prod(chunks)


def test_a_shard_s_index_is_read_once():
    hierarchy = counted(lambda root: square(root, (64, 64), (8, 8), shards=(32, 32)))
    decoding = Decoding()
    elements = ZarrDecoder(hierarchy, decoding).open("/a")
    read_through(elements, 100)
    waiting(decoding)
    assert sorted(hierarchy.index_reads) == ["a/c/0/0", "a/c/0/1", "a/c/1/0", "a/c/1/1"]
    assert max(hierarchy.counts().values()) <= 16 + 1


def test_neighbours_in_a_shard_are_read_at_once(decoding):
    hierarchy = counted(lambda root: square(root, (64, 1024), (32, 32), shards=(64, 1024), compressors=None))
    elements = ZarrDecoder(hierarchy, decoding).open("/a")
    elements.read(0, 32 * 1024)
    waiting(decoding)
    before = len(hierarchy.reads)
    elements.read(32 * 1024 - 10, 32 * 1024)
    waiting(decoding)
    # The second row of chunks was decoded ahead, 32 chunks of 4 KiB each.
    assert len(hierarchy.reads) == before + 1
    read_through(elements, 5000)
    assert len(hierarchy.reads) == before + 1


def test_a_chunk_that_does_not_decode_spares_its_neighbours(decoding):
    builder = RepoBuilder()
    chunks = [np.arange(at, at + 100, dtype="<i4").tobytes() for at in range(0, 400, 100)]
    table = np.array([[0, 400], [400, 400], [800, 390], [1200, 400]], "<u8").tobytes()
    data = b"".join(chunks) + table
    codecs = [
        {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [100],
                "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
                "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            },
        }
    ]
    document = array_document(
        shape=[400], data_type="int32", fill_value=0, codecs=codecs,
        chunk_grid={"name": "regular", "configuration": {"chunk_shape": [400]}},
    )  # fmt: skip
    builder.commit([group("/", 1), builder.array("/a", 2, (1,), {(0,): builder.chunk(data)}, user_data=document)])
    hierarchy = Counted(Repository.open(builder.publish()).readonly_session("main"))
    elements = ZarrDecoder(hierarchy, decoding).open("/a")
    elements.read(0, 10)
    elements.read(10, 20)
    waiting(decoding)
    assert len(hierarchy.reads) == 3
    assert elements.at_hand(300, 400).tolist() == list(range(300, 400))
    with pytest.raises(DecodeError, match="chunk \\(2\\)"):
        elements.read(250, 260)


def test_missing_chunks_are_looked_for_once_and_take_no_memory():
    hierarchy = counted(lambda root: root.create_array("a", shape=(1000, 1000), chunks=(1000, 1000), dtype="f8"))
    decoding = Decoding()
    elements = ZarrDecoder(hierarchy, decoding).open("/a")
    for start in (0, 10, 999_999):
        assert elements.read(start, start + 1).tolist() == [0]
    assert hierarchy.reads == ["a/c/0/0"]
    assert decoding.cache.used_bytes < 1000


def test_a_row_of_chunks_that_does_not_fit_is_decoded_in_bands():
    # 32 chunks of 64 KiB are 2 MiB, in a cache of 1 MiB; a reader line by line would decode each 128 times.
    shape, chunks = (128, 32 * 128), (128, 128)
    hierarchy = counted(lambda root: square(root, shape, chunks))
    decoding = Decoding(DecodingLimits(cache_bytes=1 << 20))
    elements = ZarrDecoder(hierarchy, decoding).open("/a")
    read_through(elements, 4096)
    waiting(decoding)
    assert max(hierarchy.counts().values()) <= 20
    assert decoding.cache.used_bytes <= 1 << 20


def test_a_chunk_larger_than_the_cache_is_not_decoded_twice_in_a_row():
    hierarchy = counted(lambda root: square(root, (4, 1000), (2, 1000)))
    decoding = Decoding(DecodingLimits(cache_bytes=1000))
    elements = ZarrDecoder(hierarchy, decoding).open("/a")
    for start in (1500, 0, 700, 300, 1999):
        elements.read(start, start + 1)
    assert hierarchy.reads == ["a/c/0/0"]
    elements.read(2000, 2001)
    assert hierarchy.reads == ["a/c/0/0", "a/c/1/0"]


def test_a_reader_in_order_has_the_next_chunks_decoded():
    hierarchy = counted(lambda root: square(root, (100_000,), (10_000,)))
    decoding = Decoding()
    elements = ZarrDecoder(hierarchy, decoding).open("/a")
    elements.read(0, 100)
    assert hierarchy.reads == ["a/c/0"]
    elements.read(100, 200)
    waiting(decoding)
    assert set(hierarchy.reads) >= {"a/c/0", "a/c/1", "a/c/2"}
    assert set(hierarchy.counts().values()) == {1}


@pytest.mark.parametrize(
    ("shape", "chunks", "how"),
    [
        ((64, 64), (16, 16), {}),
        ((64, 64), (16, 64), {}),
        ((60, 50), (16, 16), {"shards": (32, 32)}),
        ((9, 8, 7), (2, 8, 3), {}),
        ((4096,), (256,), {}),
    ],
)
def test_decoded_chunks_are_at_hand(shape, chunks, how):
    hierarchy = counted(lambda root: square(root, shape, chunks, **how))
    decoding = Decoding()
    elements = ZarrDecoder(hierarchy, decoding).open("/a")
    size = prod(shape)
    assert elements.at_hand(0, 10) is None
    assert hierarchy.reads == []
    elements.read(0, size)
    waiting(decoding)
    read = len(hierarchy.reads)
    width = prod(chunks) // 2
    for start in range(0, size - width, width):
        found = elements.at_hand(start, start + width)
        # Where chunks follow each other, one alone is.
        assert found is not None or start // prod(chunks) != (start + width - 1) // prod(chunks)
        assert found is None or found.tolist() == list(range(start, start + width))
    waiting(decoding)
    assert len(hierarchy.reads) == read
    assert elements.at_hand(size - 1, size + 1) is None


def appended(root):
    """Appends a chunk, and changes another one."""
    for name in ("plain", "sharded"):
        array = root[name]
        array.resize((5000,))
        array[4000:] = 7
        array[1500] = -5


@pytest.mark.parametrize("name", ["plain", "sharded"])
def test_chunks_that_two_versions_share_are_decoded_once(name, decoding):
    def write(root):
        for one, how in (("plain", {}), ("sharded", {"shards": (2000,)})):
            array = root.create_array(one, shape=(4000,), chunks=(1000,), dtype="i4", compressors=None, **how)
            array[...] = np.arange(4000)

    repository = repository_of(write)
    first = Counted(repository.readonly_session("main"))
    before = ZarrDecoder(first, decoding).open(f"/{name}")
    assert before.read(0, 4000).tolist() == list(range(4000))
    commit_arrays(repository, appended)
    second = Counted(repository.readonly_session("main"))
    after = ZarrDecoder(second, decoding).open(f"/{name}")
    expected = [*range(1500), -5, *range(1501, 4000), *(1000 * [7])]
    assert after.read(0, 5000).tolist() == expected
    # The shard with the change is another object, and that of the new elements is new.
    assert set(second.reads) == ({"plain/c/1", "plain/c/4"} if name == "plain" else {"sharded/c/0", "sharded/c/2"})
    assert before.read(0, 4000).tolist() == list(range(4000))
    assert after.read(1400, 1600).tolist() == expected[1400:1600]


def test_the_same_bytes_decoded_otherwise_are_another_chunk(decoding):
    values = np.arange(4000, dtype="f4")

    def write(root):
        root.create_array("a", shape=(4000,), chunks=(1000,), dtype="f4", compressors=None)[...] = values

    def retype(root):
        document = sync(root.store.get("a/zarr.json", default_buffer_prototype())).to_bytes()
        document = document.replace(b'"float32"', b'"int32"').replace(b'"fill_value": 0.0', b'"fill_value": 0')
        sync(root.store.set("a/zarr.json", default_buffer_prototype().buffer.from_bytes(document)))

    repository = repository_of(write)
    before = ZarrDecoder(Counted(repository.readonly_session("main")), decoding).open("/a")
    np.testing.assert_array_equal(before.read(0, 4000), values)
    commit_arrays(repository, retype)
    after = ZarrDecoder(Counted(repository.readonly_session("main")), decoding).open("/a")
    assert after.dtype == np.dtype("i4")
    np.testing.assert_array_equal(after.read(0, 4000), values.view("i4"))


def test_a_band_and_missing_chunks_are_at_hand():
    def write(root):
        square(root, (128, 32 * 128), (128, 128))
        root.create_array("missing", shape=(1 << 20,), chunks=(1 << 20,), dtype="f8", fill_value=2.5)

    hierarchy = counted(write)
    decoding = Decoding(DecodingLimits(cache_bytes=1 << 20))
    decoder = ZarrDecoder(hierarchy, decoding)
    elements, missing = decoder.open("/a"), decoder.open("/missing")
    for row in range(20):
        elements.read(row * 4096, row * 4096 + 4096)
    waiting(decoding)
    read = len(hierarchy.reads)
    assert any(elements.at_hand(row * 4096, row * 4096 + 4096) is not None for row in range(20))
    assert len(hierarchy.reads) == read
    missing.read(0, 10)
    found = missing.at_hand(5, 1000)
    assert found.tolist() == [2.5] * 995
    assert decoding.cache.used_bytes <= 1 << 20


def test_reads_at_hand_are_in_order_too():
    hierarchy = counted(lambda root: square(root, (100_000,), (10_000,)))
    decoding = Decoding(DecodingLimits(cache_bytes=1 << 20))
    elements = ZarrDecoder(hierarchy, decoding).open("/a")
    elements.read(0, 100)
    assert elements.at_hand(100, 200).tolist() == list(range(100, 200))
    waiting(decoding)
    assert set(hierarchy.reads) >= {"a/c/0", "a/c/1", "a/c/2"}


def test_sixteen_readers_and_one_decode_of_each_chunk():
    hierarchy = counted(lambda root: square(root, (64, 64), (16, 16)))
    decoding, at_once = Decoding(), threading.Barrier(16)
    elements = ZarrDecoder(hierarchy, decoding).open("/a")

    def read():
        at_once.wait(30)
        read_through(elements, 333)

    with ThreadPoolExecutor(16) as pool:
        for future in [pool.submit(read) for _ in range(16)]:
            future.result(60)
    waiting(decoding)
    assert set(hierarchy.counts().values()) == {1}


# Large chunks without compression.


@pytest.mark.parametrize("chunks", [(1000, 700), (700, 700), (400, 1100), (300, 600)])
def test_large_raw_chunks_are_read_in_pieces(chunks, decoding):
    values = np.arange(700 * 1000 * 3, dtype="i4").reshape(700, 1000, 3)
    shape = (*chunks, 3)
    hierarchy = counted(
        lambda root: root.create_array("a", shape=values.shape, chunks=shape, dtype="i4", compressors=None).__setitem__(
            ..., values
        )
    )
    elements = ZarrDecoder(hierarchy, decoding).open("/a")
    assert prod(elements.chunk_shape) * 4 <= 4 << 20 < prod(shape) * 4 or elements.chunk_shape == shape
    np.testing.assert_array_equal(elements.read(0, values.size), values.reshape(-1))
    np.testing.assert_array_equal(elements.read(123_456, 1_234_567), values.reshape(-1)[123_456:1_234_567])


def test_a_chunk_of_a_tebibyte_is_read_where_it_is_needed(decoding):
    grid = {"name": "regular", "configuration": {"chunk_shape": [1 << 20, 1 << 18]}}
    document = document_with(shape=[1 << 20, 1 << 18], chunk_grid=grid)
    builder = RepoBuilder()
    builder.commit(
        [
            group("/", 1),
            builder.array("/a", 2, (1, 1), {(0, 0): builder.chunk(bytes(range(256)) * 64)}, user_data=document),
        ]
    )
    elements = ZarrDecoder(
        SessionHierarchy(Repository.open(builder.publish()).readonly_session("main")), decoding
    ).open("/a")
    assert prod(elements.chunk_shape) == 1 << 20
    with pytest.raises(DecodeError, match="bytes 0 to 4194304 are not in chunk"):
        elements.read(0, 1)


def test_raw_pieces_are_ranges_of_the_chunk():
    chunk = np.arange(5 * 7 * 3).reshape(5, 7, 3)
    for shape in [(1, 4, 3), (2, 7, 3), (1, 1, 2)]:
        pieces = RawPieces(chunk.shape, shape, 8)
        for index in np.ndindex(pieces.per_chunk):
            start, stop = pieces.range_of(index)
            cut = chunk[tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, shape, strict=True))]
            assert chunk.tobytes()[start:stop] == cut.tobytes()
    assert RawPieces.of((100,), (100,), 8) is None
    assert RawPieces.of((1 << 20,), (1 << 20,), 8).shape == (1 << 19,)
    assert RawPieces.of((1_000_003,), (1_000_003,), 8).shape == (1 << 19,)
    assert RawPieces.of((1 << 30,), (1_000_003,), 8) is None  # a prime: no piece of it could be a grid's
    assert RawPieces.of((1 << 30,), (1_000_002,), 8).shape == (500_001,)
    assert RawPieces.of((9, 1 << 20), (3, 1 << 20), 8).shape == (1, 1 << 19)


# What cannot be shown.


def document_with(**changes):
    found = {
        "zarr_format": 3, "node_type": "array", "shape": [4], "data_type": "int32", "fill_value": 0, "attributes": {},
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2]}},
        "chunk_key_encoding": {"name": "default"},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    }  # fmt: skip
    return json.dumps(found | changes).encode()


def hierarchy_with(document):
    """A repository may have any document, whatever icefs would refuse to commit."""
    builder = RepoBuilder()
    builder.commit([group("/", 1), builder.array("/a", 2, (4,), user_data=document)])
    return SessionHierarchy(Repository.open(builder.publish()).readonly_session("main"))


class Growing(Backwards):
    """A codec of another package, which may make any number of bytes."""

    is_fixed_size = False

    def to_dict(self):
        return {"name": "test.growing"}


@pytest.fixture
def growing():
    zarr.registry.register_codec("test.growing", Growing)


BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


def sharded(chunk_shape, codecs):
    configuration = {"chunk_shape": chunk_shape, "codecs": codecs, "index_codecs": [BYTES]}
    return {"name": "sharding_indexed", "configuration": configuration}


NOT_SHOWN = [
    ({"codecs": [BYTES, {"name": "test.growing"}]}, "'test.growing', which may make any number of bytes"),
    ({"codecs": [sharded([1], [BYTES, {"name": "test.growing"}])]}, "test.growing"),
    ({"codecs": [sharded([1], [BYTES, {"name": "test.growing"}]), {"name": "crc32c"}]}, "test.growing"),
    ({"codecs": [sharded([2], [sharded([1], [BYTES, {"name": "test.growing"}])])]}, "test.growing"),
    ({"data_type": "int3"}, "int3"),
    ({"data_type": {"name": "r12"}}, "r12"),
    ({"codecs": [BYTES, {"name": "squash"}]}, "its codec 'squash' is not installed"),
    ({"codecs": [sharded([1], [BYTES, {"name": "squash"}])]}, "its codec 'squash' is not installed"),
    ({"codecs": [{"name": "numcodecs.zfpy", "configuration": {"mode": 1}}]}, "zfpy"),
    ({"codecs": [BYTES, {"name": "numcodecs.nothing"}]}, "its codec 'numcodecs.nothing' is not installed"),
    ({"codecs": []}, "ArrayBytesCodec"),
    ({"chunk_grid": {"name": "hexagonal"}}, "hexagonal"),
    ({"storage_transformers": [{"name": "mangle"}]}, "storage transformers"),
    (
        {
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1 << 40]}},
            "codecs": [BYTES, {"name": "crc32c"}],
        },
        "are the most",
    ),
    ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0]}}}, "no length"),
    ({"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2, 2]}}}, "dimensions"),
    ({"fill_value": "red"}, "red"),
    (
        {"shape": [1] * 65, "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1] * 65}}},
        "maximum supported dimension",
    ),
    ({"shape": [4, 4]}, "dimensions"),
]


@pytest.mark.parametrize(("changes", "named"), NOT_SHOWN, ids=[named for _, named in NOT_SHOWN])
def test_what_is_not_known_is_named(changes, named, decoding, growing):
    decoder = ZarrDecoder(hierarchy_with(document_with(**changes)), decoding)
    for _ in range(2):
        with pytest.raises(NotShownError, match=named) as error:
            decoder.open("/a")
        assert error.value.facts["path"] == "/a"
        assert not error.value.own_message.startswith("/a")  # what lists arrays names them itself


def test_huge_shard_indices_are_refused(decoding):
    sharding = {"name": "sharding_indexed", "configuration": {
        "chunk_shape": [1], "codecs": [BYTES], "index_codecs": [BYTES], "index_location": "end",
    }}  # fmt: skip
    grid = {"name": "regular", "configuration": {"chunk_shape": [1 << 40]}}
    hierarchy = hierarchy_with(document_with(codecs=[sharding], chunk_grid=grid, shape=[1 << 41]))
    with pytest.raises(NotShownError, match=r"shard indices of .* bytes"):
        ZarrDecoder(hierarchy, decoding).open("/a")


def test_arrays_that_differ_in_attributes_share_a_codec_and_others_do_not():
    one, other = (codec_of(path, document_with(attributes={"of": path}), 1 << 20) for path in ("/a", "/b"))
    assert one is other
    assert codec_of("/a", document_with(shape=[5]), 1 << 20).shape == (5,)
    assert codec_of("/a", document_with(fill_value=7), 1 << 20).fill_value == 7
    for document in (b"nonsense", b"[]", b"[" * 100_000, document_with(attributes=3)):
        with pytest.raises(NotShownError) as caught:
            codec_of("/a", document, 1 << 20)
        assert caught.value.facts["path"] == "/a"


def test_no_array_is_said(decoding):
    with pytest.raises(NodeNotFoundError, match="no array at /b"):
        ZarrDecoder(hierarchy_with(document_with()), decoding).open("/b")


# Chunks that do not decode.


def damaged(data, codecs=None):
    """Makes the hierarchy of an array whose second chunk of two is `data`."""

    def write(root):
        session = root.store._session
        session.nodes.put("/a", document_with(codecs=codecs or [BYTES, {"name": "zstd", "configuration": {}}]))
        session.chunks.set("/a", (1,), data)

    return hierarchy_of(write)


def shard(*chunks):
    """A shard of these inner chunks, one after the other, and an index at its end."""
    ends = np.cumsum([len(chunk) for chunk in chunks])
    index = [[end - len(chunk), len(chunk)] for chunk, end in zip(chunks, ends, strict=True)]
    return b"".join(chunks) + np.array(index, "<u8").tobytes()


MANY = np.zeros(1 << 20, "<i4")
ZSTD_BOMB = ZstdCodec(level=1)._zstd_codec.encode(bytes(1 << 20))
BZ2_BOMB, LZMA_BOMB = bz2.compress(MANY.tobytes()), lzma.compress(MANY.tobytes())
PCODEC_BOMB = standalone.simple_compress(MANY, ChunkConfig())
BZ2, LZMA, PCODEC = ({"name": f"numcodecs.{name}", "configuration": {}} for name in ("bz2", "lzma", "pcodec"))


UNDECODABLE = {
    "a bz2 bomb": (BZ2_BOMB, [BYTES, BZ2]),
    "an lzma bomb": (LZMA_BOMB, [BYTES, LZMA]),
    "a pcodec bomb": (PCODEC_BOMB, [PCODEC]),
    "a bz2 bomb in a shard in a shard": (
        shard(shard(BZ2_BOMB, BZ2_BOMB)),
        [sharded([2], [sharded([1], [BYTES, BZ2])])],
    ),
    "an lzma bomb in a shard in a shard": (
        shard(shard(LZMA_BOMB, LZMA_BOMB)),
        [sharded([2], [sharded([1], [BYTES, LZMA])])],
    ),
    "a pcodec bomb in a shard in a shard": (
        shard(shard(PCODEC_BOMB, PCODEC_BOMB)),
        [sharded([2], [sharded([1], [PCODEC])])],
    ),
    "a shard that is a bomb": (LZMA_BOMB, [sharded([1], [BYTES]), LZMA]),
    "an inner chunk outside of its shard in a shard": (
        shard(np.array([[0, 4], [1 << 50, 4]], "<u8").tobytes()),
        [sharded([2], [sharded([1], [BYTES])])],
    ),
    "no zstd": (b"nonsense", None),
    "a zstd bomb": (ZSTD_BOMB, None),
    "too short": (b"1234", [BYTES]),
    "too long": (b"12345678abcd", [BYTES]),
    "much too long": (bytes(200_000), [BYTES]),
    "a wrong checksum": (b"12345678abcd", [BYTES, {"name": "crc32c"}]),
    "a string of four thousand million items": (b"\xff\xff\xff\xff" + bytes(8), [{"name": "vlen-utf8"}]),
    "no shard": (
        b"short",
        [
            {
                "name": "sharding_indexed",
                "configuration": {"chunk_shape": [1], "codecs": [BYTES], "index_codecs": [BYTES]},
            }
        ],
    ),
}


@pytest.mark.parametrize("why", UNDECODABLE)
def test_a_chunk_that_does_not_decode_fails_those_that_meet_it(why, decoding, caplog):
    elements = ZarrDecoder(damaged(*UNDECODABLE[why]), decoding).open("/a")
    with caplog.at_level(logging.WARNING, "icefs.views"):
        for _ in range(2):
            assert elements.read(0, 2).tolist() == [0, 0]
            for start, stop in ((1, 3), (2, 4), (3, 4)):
                with pytest.raises(DecodeError, match=r"of /a does not decode: \S+") as error:
                    elements.read(start, stop)
                assert error.value.facts["array"] == "/a"
                assert ("bomb" in why) == ("are the most that it can need" in str(error.value))
    waiting(decoding)
    assert len(caplog.records) <= 2
    assert len(set(caplog.messages)) == len(caplog.messages)
    assert "(1)" in caplog.messages[0]


def test_an_inner_chunk_outside_of_its_shard_does_not_decode(decoding):
    index = np.array([[0, 4], [1 << 50, 4]], "<u8").tobytes()
    sharding = {"name": "sharding_indexed", "configuration": {
        "chunk_shape": [1], "codecs": [BYTES], "index_codecs": [BYTES], "index_location": "end",
    }}  # fmt: skip
    elements = ZarrDecoder(damaged(b"\7\0\0\0" + index, [sharding]), decoding).open("/a")
    assert elements.read(0, 3).tolist() == [0, 0, 7]
    with pytest.raises(DecodeError, match=r"chunk \(3\) of /a does not decode: 4 bytes at .* are not in its shard"):
        elements.read(3, 4)


def test_a_store_that_is_away_is_asked_again():
    hierarchy = counted(lambda root: square(root, (4,), (2,)))
    decoding = Decoding()
    elements = ZarrDecoder(hierarchy, decoding).open("/a")
    hierarchy.error = UnreachableError("away")
    with pytest.raises(UnreachableError):
        elements.read(0, 1)
    hierarchy.error = None
    assert elements.read(0, 1).tolist() == [0]


def test_decoding_imports_zarr_python_with_the_first_array():
    script = (
        "import sys, icefs.views.decoder as d; d.ZarrDecoder(None, d.Decoding()); "
        "assert not {'zarr', 'numcodecs'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
