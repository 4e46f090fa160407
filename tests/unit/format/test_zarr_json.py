"""zarr.json: the verdicts are those of the official library (tests/conformance asks it the same questions)."""

import json
from typing import Any

import pytest

from icefs.errors import InvalidMetadataError
from icefs.format.snapshot.nodes import DimensionShape, NodeType
from icefs.format.zarr_json import ChunkKeyEncoding, ZarrMetadata, chunk_key_encoding_of, parse_zarr_json
from tests.support.zarr_documents import ARRAY, DOCUMENTS, Verdict, array_document


def parse(data: bytes, spec_version: int = 2) -> ZarrMetadata:
    return parse_zarr_json(data, name="a/zarr.json", spec_version=spec_version)


@pytest.mark.parametrize("name", list(DOCUMENTS))
def test_verdicts(name: str) -> None:
    data, verdict = DOCUMENTS[name]
    for spec_version in (1, 2):
        accepted = verdict is Verdict.ACCEPTED or (verdict is not Verdict.REFUSED and spec_version == 2)
        if accepted:
            parse(data, spec_version)
        else:
            with pytest.raises(InvalidMetadataError) as caught:
                parse(data, spec_version)
            assert caught.value.kind == "bad-metadata"
            assert caught.value.facts["file"] == "a/zarr.json"
            assert caught.value.own_message.startswith("a/zarr.json: ")


def test_a_group() -> None:
    found = parse(b'{"zarr_format":3,"node_type":"group","attributes":{"shape":5}}')
    assert found == ZarrMetadata(NodeType.GROUP)
    assert found.dimensions() == ()


def test_an_array() -> None:
    found = parse(
        array_document(
            shape=[10, 0, 7],
            chunk_grid={"name": "regular", "configuration": {"chunk_shape": [3, 5, 7]}},
            dimension_names=["t", None, ""],
            chunk_key_encoding={"name": "default", "configuration": {"separator": "."}},
        )
    )
    assert found == ZarrMetadata(
        NodeType.ARRAY,
        3,
        (10, 0, 7),
        "regular",
        (4, 0, 1),
        ("t", None, None),
        ChunkKeyEncoding("default", "."),
    )
    assert found.dimensions() == (DimensionShape(10, 4), DimensionShape(0, 0), DimensionShape(7, 1))


@pytest.mark.parametrize(
    ("shape", "chunk_shape", "grid_shape"),
    [
        ([], [], ()),
        ([1], [1], (1,)),
        ([1], [100], (1,)),
        ([0], [0], (0,)),
        ([5], [0], (0,)),
        ([5, 5], [2, 5, 9], (3, 1)),
        ([2**64 - 1], [1], (2**64 - 1,)),
        ([2**40], [2**10], (2**30,)),
    ],
)
def test_regular_grids(shape: list[int], chunk_shape: list[int], grid_shape: tuple[int, ...]) -> None:
    grid = {"name": "regular", "configuration": {"chunk_shape": chunk_shape}}
    assert parse(array_document(shape=shape, chunk_grid=grid)).grid_shape == grid_shape


@pytest.mark.parametrize(
    ("axis", "count"),
    [([4], 1), ([1, 2, 1], 3), ([[1, 4]], 4), ([[1, 2], 2], 3), ([[1, 2], [2, 1]], 3), ([], 0), (2, 2), (3, 2), (4, 1)],
)
def test_rectilinear_grids(axis: Any, count: int) -> None:
    """A bare number is what zarr writes for an axis of equal chunks."""
    grid = {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": [axis]}}
    found = parse(array_document(shape=[4], chunk_grid=grid))
    assert found.chunk_grid == "rectilinear"
    assert found.grid_shape == (count,)
    with pytest.raises(InvalidMetadataError, match="spec version 1"):
        parse(array_document(shape=[4], chunk_grid=grid), spec_version=1)


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        (None, ("default", "/")),
        ({"name": "default"}, ("default", "/")),
        ("default", ("default", "/")),
        ("v2", ("v2", ".")),
        ({"name": "default", "configuration": {"separator": "."}}, ("default", ".")),
        ({"name": "v2"}, ("v2", ".")),
        ({"name": "v2", "configuration": {"separator": "/"}}, ("v2", "/")),
        ({"name": "weird", "configuration": {"separator": "!"}}, ("weird", "!")),
        ({"name": "v2", "configuration": {"separator": 5}}, ("v2", ".")),
        ({"name": "v2", "configuration": []}, ("v2", ".")),
        ({"name": 5}, ("default", "/")),
        ([], ("default", "/")),
        (7, ("default", "/")),
    ],
)
def test_chunk_key_encodings(encoding: Any, expected: tuple[str, str]) -> None:
    document = array_document(chunk_key_encoding=encoding)
    assert parse(document).chunk_key_encoding == ChunkKeyEncoding(*expected)
    assert chunk_key_encoding_of(document) == ChunkKeyEncoding(*expected)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"5", b"null", b"\xff", b"[" * 100_000, b'{"chunk_key_encoding":5}']
)
def test_the_encoding_of_what_is_no_metadata_is_the_default(data: bytes) -> None:
    assert chunk_key_encoding_of(data) == ChunkKeyEncoding()


def test_too_deep() -> None:
    for opening in (b"[", b'{"a":'):
        with pytest.raises(InvalidMetadataError, match="deep"):
            parse(ARRAY[:-1] + b',"attributes":' + opening * 100_000)


def test_very_long_numbers_take_no_time() -> None:
    assert parse(ARRAY[:-1] + b',"attributes":' + b"9" * 1_000_000 + b"}").shape == (4,)
    with pytest.raises(InvalidMetadataError, match="shape"):
        parse(array_document(shape=[10**30]))


def test_other_buffers() -> None:
    assert parse(memoryview(ARRAY)) == parse(bytearray(ARRAY)) == parse(ARRAY)  # type: ignore[arg-type]
    assert json.loads(ARRAY)["shape"] == [4]
