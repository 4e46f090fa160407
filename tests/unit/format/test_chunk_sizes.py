"""The sizes that codecs allow for chunks: those of zarr-python's chunks, and where codecs fix them, no other."""

import itertools
import json
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ShardingCodec, TransposeCodec, ZstdCodec
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.storage import MemoryStore

from icefs.format.chunk_sizes import Bounds, chunk_sizes
from tests.support.zarr_documents import array_document

_DTYPES = [
    "bool", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "c16", "M8[s]", "m8[ms]", "U3", "S5", "V3",
    np.dtype([("x", "i4"), ("y", "f8")]),
]  # fmt: skip
_CODECS: dict[str, tuple[list[Any], bool]] = {
    "bytes": ([BytesCodec()], True),
    "transpose": ([TransposeCodec(order=(1, 0)), BytesCodec()], True),
    "checksum": ([BytesCodec(), Crc32cCodec()], True),
    "gzip": ([BytesCodec(), GzipCodec()], False),
    "blosc": ([BytesCodec(), BloscCodec()], False),
    "zstd": ([BytesCodec(), ZstdCodec(), Crc32cCodec()], False),
    "shards": ([ShardingCodec(chunk_shape=(1, 3))], False),
}


def _stored(store: dict[str, Buffer]) -> dict[str, bytes]:
    return {key: value.to_bytes() for key, value in store.items()}


def _make(dtype: Any, codecs: list[Any]) -> dict[str, bytes]:
    """Writes an array of 5 by 7 elements in chunks of 2 by 3; returns what is stored, by key."""
    found: dict[str, Buffer] = {}
    store = MemoryStore(found)
    zarr.create_array(store, shape=(5, 7), chunks=(2, 3), dtype=dtype)
    document = json.loads(found["zarr.json"].to_bytes())
    document["codecs"] = [codec.to_dict() for codec in codecs]
    found["zarr.json"] = default_buffer_prototype().buffer.from_bytes(json.dumps(document).encode())
    with zarr.config.set({"array.write_empty_chunks": True}):
        array = zarr.open_array(store, mode="r+")
        array[:] = np.zeros((5, 7), array.dtype)
    return _stored(found)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("dtype", "how"), list(itertools.product(_DTYPES, _CODECS)), ids=str)
def test_what_zarr_writes_is_possible_and_what_is_cut_is_not(dtype: Any, how: str) -> None:
    codecs, is_fixed = _CODECS[how]
    stored = _make(dtype, codecs)
    sizes = chunk_sizes(stored.pop("zarr.json"))
    assert len(stored) == 9
    for key, data in stored.items():
        index = tuple(map(int, key.split("/")[1:]))
        assert sizes.reason(index, len(data)) is None
        assert sizes.reason(index, 0) is not None
        if is_fixed:
            assert sizes.bounds(index) == Bounds(len(data), len(data))
            assert sizes.reason(index, len(data) - 1) is not None
            assert sizes.reason(index, len(data) + 1) is not None
        else:
            assert sizes.bounds(index).largest is None
            assert sizes.reason(index, sizes.bounds(index).smallest - 1) is not None
    index_columns = [np.array(column, np.uint32) for column in zip(*itertools.product(range(3), range(3)), strict=True)]
    lengths = np.array([len(stored[f"c/{i}/{j}"]) for i, j in itertools.product(range(3), range(3))], np.uint64)
    assert not sizes.impossible(index_columns, lengths).any()
    lengths[4] = 0
    assert sizes.impossible(index_columns, lengths).tolist() == [row == 4 for row in range(9)]


@pytest.mark.filterwarnings("ignore")
def test_a_shard_has_at_least_its_index() -> None:
    stored = _make("i4", [ShardingCodec(chunk_shape=(1, 3))])
    assert chunk_sizes(stored["zarr.json"]).uniform == Bounds(2 * 16 + 4, None)


def test_chunks_of_a_rectilinear_grid_differ() -> None:
    grid = {"name": "rectilinear", "configuration": {"chunk_shapes": [[1, [3, 2]], 2]}}
    document = array_document(shape=[7, 3], chunk_grid=grid, data_type="int16", codecs=[{"name": "bytes"}, "crc32c"])
    sizes = chunk_sizes(document)
    assert sizes.uniform is None
    assert [sizes.bounds((i, 1)).smallest for i in range(3)] == [1 * 2 * 2 + 4, 3 * 2 * 2 + 4, 3 * 2 * 2 + 4]
    coords = [np.array([0, 0, 1, 2, 2], np.uint32), np.array([0, 1, 0, 0, 1], np.uint32)]
    lengths = np.array([8, 16, 16, 8, 16], np.uint64)
    assert sizes.impossible(coords, lengths).tolist() == [False, True, False, True, False]


def test_texts_have_at_least_their_lengths() -> None:
    document = array_document(data_type="string", codecs=[{"name": "vlen-utf8"}])
    assert chunk_sizes(document).uniform == Bounds(4 + 4 * 2, None)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[1",
        b"[]",
        b"[" * 100_000,
        array_document("codecs"),
        array_document("data_type"),
        array_document(codecs=[]),
        array_document(codecs=[5]),
        array_document(codecs=[{"name": "cast_value"}, {"name": "bytes"}]),
        array_document(codecs=[{"name": "packbits"}]),
        array_document(data_type="int4"),
        array_document(data_type={"name": "struct", "configuration": {"fields": [["x", "int8"], ["y"]]}}),
        array_document(chunk_grid={"name": "regular", "configuration": {"chunk_shape": ["2"]}}),
        array_document(chunk_grid={"name": "hexagonal", "configuration": {"chunk_shape": [2]}}),
        array_document(chunk_grid={"name": "rectilinear", "configuration": {"chunk_shapes": [[1, [2]]]}}),
        array_document(data_type={"name": "raw_bytes", "configuration": {"length_bytes": 0}}),
    ],
    ids=lambda document: document[:40].decode(),
)
def test_of_what_is_not_known_any_size_but_none_is_possible(document: bytes) -> None:
    assert chunk_sizes(document).uniform == Bounds(1, None)


def test_sizes_beyond_any_file_are_no_trouble() -> None:
    grid = {"name": "regular", "configuration": {"chunk_shape": [2**63, 2**40]}}
    sizes = chunk_sizes(array_document(shape=[2**63, 2**40], chunk_grid=grid, data_type="float64"))
    assert sizes.reason((0, 0), 2**62) == f"has {2**62} bytes; a chunk of this array has {2**106}"
    column = np.zeros(1, np.uint32)
    assert sizes.impossible([column, column], np.array([2**63], np.uint64)).all()


def test_a_scalar_has_one_chunk_of_one_element() -> None:
    grid: dict[str, Any] = {"name": "regular", "configuration": {"chunk_shape": []}}
    sizes = chunk_sizes(array_document(shape=[], chunk_grid=grid, data_type="float64"))
    assert sizes.bounds(()) == Bounds(8, 8)
    assert sizes.impossible([], np.array([7], np.uint64)).tolist() == [True]
