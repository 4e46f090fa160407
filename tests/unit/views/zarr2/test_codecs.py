"""Codecs of Zarr v3 that Zarr v2 has names for."""

import pytest

from icefs.views.zarr2.codecs import Kept, kept
from icefs.views.zarr2.documents import Codec

BYTES = Codec("bytes", {"endian": "little"})


@pytest.mark.parametrize(
    ("compressor", "expected"),
    [
        (Codec("gzip", {"level": 6}), {"id": "gzip", "level": 6}),
        (Codec("zstd", {"level": 3, "checksum": False}), {"id": "zstd", "level": 3}),
        (Codec("zstd", {"level": 3, "checksum": True}), {"id": "zstd", "level": 3, "checksum": True}),
        (Codec("zstd", {}), {"id": "zstd", "level": 0}),
        (Codec("numcodecs.zlib", {"level": 9}), {"id": "zlib", "level": 9}),
        (
            Codec("blosc", {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "typesize": 4, "blocksize": 0}),
            {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 2, "blocksize": 0},
        ),
    ],
)
def test_a_compressor_keeps_its_members(compressor, expected):
    assert kept([BYTES, compressor], 2) == Kept("C", False, expected)


def test_byte_order_and_a_transposition_of_all_axes_are_known():
    big = Codec("bytes", {"endian": "big"})
    assert kept([Codec("transpose", {"order": [2, 1, 0]}), big], 3) == Kept("F", True, None)
    assert kept([Codec("transpose", {"order": [0, 1]}), BYTES], 2) == Kept("C", False, None)
    assert kept([Codec("vlen-utf8", {})], 1) == Kept("C", False, None, [{"id": "vlen-utf8"}])


@pytest.mark.parametrize(
    "unknown",
    [
        [],
        [Codec("sharding_indexed", {"chunk_shape": [1]})],
        [Codec("transpose", {"order": [1, 0, 2]}), BYTES],
        [Codec("transpose", {"order": "F"}), BYTES],
        [BYTES, Codec("crc32c", {})],
        [BYTES, Codec("zstd", {}), Codec("crc32c", {})],
        [BYTES, Codec("blosc", {"cname": 1})],
        [BYTES, Codec("blosc", {"cname": "lz4", "clevel": 1, "shuffle": "sideways"})],
        [Codec("numcodecs.delta", {}), BYTES],
        [Codec("gzip", {})],
    ],
)
def test_other_chunks_are_decoded(unknown):
    assert kept(unknown, 3) is None
