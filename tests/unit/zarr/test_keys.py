"""Zarr keys ↔ node paths and chunk indices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icefs.errors import InvalidInputError
from icefs.format.zarr_json import ChunkKeyEncoding
from icefs.zarr import keys
from icefs.zarr.keys import ChunkKeyLayout

ENCODINGS = [ChunkKeyEncoding(name, separator) for name in ("default", "v2") for separator in "/."]
SLASH, DOT, V2_SLASH, V2_DOT = ENCODINGS

indices = st.lists(st.integers(0, keys.MAX_COORDINATE), max_size=6).map(tuple)
encodings = st.sampled_from(ENCODINGS)


@pytest.mark.parametrize(
    ("encoding", "index", "key"),
    [
        (SLASH, (), "c"),
        (DOT, (), "c"),
        (V2_SLASH, (), "0"),
        (V2_DOT, (), "0"),
        (SLASH, (7,), "c/7"),
        (DOT, (7,), "c.7"),
        (V2_SLASH, (7,), "7"),
        (V2_DOT, (7,), "7"),
        (SLASH, (1, 20, 0), "c/1/20/0"),
        (DOT, (1, 20, 0), "c.1.20.0"),
        (V2_SLASH, (1, 20, 0), "1/20/0"),
        (V2_DOT, (1, 20, 0), "1.20.0"),
        (SLASH, (4294967295,), "c/4294967295"),
    ],
)
def test_the_key_of_an_index(encoding, index, key):
    assert keys.chunk_key(encoding, index) == key
    assert keys.parse_chunk_key(encoding, len(index), key) == index


@given(encodings, indices)
def test_a_formatted_key_parses_back_and_component_by_component(encoding, index):
    layout = ChunkKeyLayout.of(encoding, len(index))
    key = layout.format(index)
    assert layout.parse(key) == index
    components = key.split("/")
    assert len(components) == layout.depth == len(layout.widths)
    for level, component in enumerate(components):
        before = layout.coordinates_before(level)
        part = index[before : before + layout.widths[level]]
        assert layout.parse_component(level, component) == part
        assert layout.format_component(level, part) == component
        assert layout.parse_prefix(components[:level]) == index[:before]


@given(encodings, st.integers(0, 4), st.text(alphabet="c0123456789./+-_ é１", max_size=14))
def test_whatever_parses_is_what_formatting_gives(encoding, ndim, text):
    layout = ChunkKeyLayout.of(encoding, ndim)
    index = layout.parse(text)
    if index is not None:
        assert layout.format(index) == text
        assert keys.is_zarr_key(text)


@given(encodings, indices, st.integers(0, 6))
def test_a_key_of_another_rank_is_none_of_the_arrays(encoding, index, ndim):
    parsed = keys.parse_chunk_key(encoding, ndim, keys.chunk_key(encoding, index))
    # A scalar's v2 key is also that of the first chunk in one dimension.
    same_text = encoding.name == "v2" and {ndim, len(index)} == {0, 1} and index in {(), (0,)}
    if ndim != len(index) and not same_text:
        assert parsed is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        "01",
        "+1",
        "-1",
        " 1",
        "1 ",
        "1_0",
        "0x1",
        "1e3",
        "１",
        "²",
        "४",
        "4294967296",
        "99999999999",
        "9" * 5000,
        "1\n",
        "\x001",
        "c",
        "1.0",
    ],
)
def test_what_is_no_canonical_coordinate(text):
    assert keys.parse_coordinate(text) is None
    for encoding in ENCODINGS:
        for key in (text, f"c/{text}", f"c.{text}"):
            assert keys.parse_chunk_key(encoding, 1, key) is None


@pytest.mark.parametrize(
    ("encoding", "ndim", "key"),
    [
        (SLASH, 0, "c/"),
        (SLASH, 0, "c/0"),
        (SLASH, 0, "0"),
        (SLASH, 1, "c"),
        (SLASH, 1, "c/0/"),
        (SLASH, 1, "/c/0"),
        (SLASH, 1, "C/0"),
        (SLASH, 2, "c/0.0"),
        (SLASH, 2, "c.0.0"),
        (SLASH, 2, "c//0"),
        (SLASH, 2, "0/0"),
        (SLASH, 2, "c/0/0/0"),
        (DOT, 0, "c."),
        (DOT, 2, "c.0"),
        (DOT, 2, "c.0.0.0"),
        (DOT, 2, "c.0.00"),
        (DOT, 2, "c.0."),
        (DOT, 2, "c.0/0"),
        (DOT, 2, "c/0/0"),
        (DOT, 2, "0.0"),
        (V2_SLASH, 0, "c"),
        (V2_SLASH, 0, "1"),
        (V2_SLASH, 2, "0.0"),
        (V2_SLASH, 2, "c/0/0"),
        (V2_DOT, 0, "00"),
        (V2_DOT, 2, "0/0"),
        (V2_DOT, 2, ".0"),
        (V2_DOT, 2, "c.0.0"),
    ],
)
def test_what_is_no_chunk_key(encoding, ndim, key):
    assert keys.parse_chunk_key(encoding, ndim, key) is None


def test_the_levels_of_each_encoding():
    assert ChunkKeyLayout.of(SLASH, 2).widths == (0, 1, 1)
    assert ChunkKeyLayout.of(V2_SLASH, 2).widths == (1, 1)
    assert ChunkKeyLayout.of(DOT, 2).widths == ChunkKeyLayout.of(V2_DOT, 2).widths == (2,)
    assert [ChunkKeyLayout.of(encoding, 0).widths for encoding in ENCODINGS] == [(0,)] * 4


def test_a_prefix_longer_than_a_key_is_refused():
    assert ChunkKeyLayout.of(SLASH, 1).parse_prefix(["c", "0", "0"]) is None
    assert ChunkKeyLayout.of(SLASH, 1).parse_prefix(["x"]) is None
    assert ChunkKeyLayout.of(SLASH, 1).parse_prefix([]) == ()


@pytest.mark.parametrize(
    "encoding", [ChunkKeyEncoding("default", "-"), ChunkKeyEncoding("v3", "/"), ChunkKeyEncoding("", "")]
)
def test_an_unknown_encoding_is_refused(encoding):
    with pytest.raises(InvalidInputError) as caught:
        ChunkKeyLayout.of(encoding, 1)
    assert caught.value.kind == "bad-metadata"


@pytest.mark.parametrize(
    ("member", "key"),
    [
        (b'"chunk_key_encoding":{"name":"v2"}', "1.2"),
        (b'"chunk_key_encoding":{"name":"default","configuration":{"separator":"."}}', "c.1.2"),
        (b'"shape":[1]', "c/1/2"),
        (b'"chunk_key_encoding":{"name":"v3","configuration":{"separator":"-"}}', "c/1/2"),
        (b'"chunk_key_encoding":{"name":"default","configuration":{"separator":""}}', "c/1/2"),
        (b"not JSON", "c/1/2"),
    ],
)
def test_the_layout_that_metadata_name(member, key):
    assert ChunkKeyLayout.of_metadata(b"{" + member + b"}", 2).format((1, 2)) == key


@pytest.mark.parametrize("index", [(), (1,), (1, 2, 3), (-1, 0), (0, 2**32)])
def test_formatting_refuses_what_is_no_index(index):
    with pytest.raises(InvalidInputError, match="is not a chunk index"):
        ChunkKeyLayout.of(SLASH, 2).format(index)


@given(encodings, st.integers(0, 4), st.data())
def test_names_of_many_chunks_at_once_are_those_of_each(encoding, ndim, data):
    layout = ChunkKeyLayout.of(encoding, ndim)
    level = data.draw(st.integers(0, layout.depth - 1))
    width = layout.widths[level]
    row = st.tuples(*[st.integers(0, keys.MAX_COORDINATE)] * width)
    rows = data.draw(st.lists(row, max_size=5)) if width else [()]
    columns = [np.array([row[i] for row in rows], np.uint32) for i in range(width)]
    assert layout.format_names(level, columns) == [layout.format_component(level, row).encode() for row in rows]


def test_a_component_takes_exactly_its_coordinates():
    layout = ChunkKeyLayout.of(SLASH, 2)
    with pytest.raises(InvalidInputError):
        layout.format_component(1, (1, 2))
    with pytest.raises(InvalidInputError):
        layout.format_names(1, [])


@pytest.mark.parametrize(
    ("path", "key"), [("/", "zarr.json"), ("/a", "a/zarr.json"), ("/c/ü x%/0", "c/ü x%/0/zarr.json")]
)
def test_metadata_keys(path, key):
    assert keys.metadata_key(path) == key
    assert keys.parse_metadata_key(key) == path
    assert keys.metadata_key(path) == keys.node_prefix(path) + "zarr.json"


@pytest.mark.parametrize("key", ["", "xzarr.json", "a/xzarr.json", "zarr.json/a", "a/zarr.json/", "zarr.JSON"])
def test_what_is_no_metadata_key(key):
    assert keys.parse_metadata_key(key) is None


def test_a_chunk_key_may_belong_to_each_node_above_it():
    assert list(keys.split_candidates("a/c/0")) == [("/a/c", "0"), ("/a", "c/0"), ("/", "a/c/0")]
    assert list(keys.split_candidates("c")) == [("/", "c")]


@pytest.mark.parametrize(
    ("key", "normal"),
    [("", ""), ("/", ""), ("a/c/0", "a/c/0"), ("/a//c/0/", "a/c/0"), ("a./b", "a./b"), ("a.", "a."), ("..a", "..a")],
)
def test_slashes_are_normalised(key, normal):
    assert keys.normalize_key(key) == normal


@pytest.mark.parametrize("key", [".", "..", "a/../b", "./a", "a/.", "/..", "a//./b"])
def test_dot_segments_are_refused(key):
    with pytest.raises(InvalidInputError) as caught:
        keys.normalize_key(key)
    assert caught.value.kind == "invalid-key"


@pytest.mark.parametrize("key", ["zarr.json", "a/zarr.json", "c", "a/c", "a/c/0", "a/0.0", "a/c.0.0", "0"])
def test_keys_that_some_hierarchy_can_have(key):
    assert keys.is_zarr_key(key)


@pytest.mark.parametrize(
    "key", ["", "a", "README.md", "a/c/00", "c/", "a/0.", "a/c.", "a/c.x", "a/zarr.json.aux.xml", "0.__lock", "a/.0"]
)
def test_keys_that_no_hierarchy_can_have(key):
    assert not keys.is_zarr_key(key)
