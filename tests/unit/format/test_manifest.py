"""Manifests: real ones, every kind of reference, what is refused, and what encoding leaves plain."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
import zstandard

from icefs.errors import FormatError, InvalidInputError
from icefs.format.flat.reader import FlatBuffer, Table
from icefs.format.header import FileType, decode_file, encode_file
from icefs.format.ids import ChunkId, ManifestId, NodeId
from icefs.format.manifest.locations import MAX_COMPRESSIBLE_BYTES, LocationCompression
from icefs.format.manifest.reader import Manifest, parse_manifest
from icefs.format.manifest.refs import ArrayRefs, ChunkKind, InlineRef, NativeRef, VirtualRef
from icefs.format.manifest.writer import encode_manifest
from tests.property.strategies_refs import as_map, kinds_in, sample_arrays
from tests.support.fixture_files import fixture_files

NAME = "manifests/X"
MANIFEST_ID = ManifestId(b"manifest-id.")
NODE = NodeId(b"node-id.")
COMPRESS = LocationCompression(min_num_chunks=1)


def encode(*arrays: ArrayRefs, spec_version: int = 2, compression: LocationCompression | None = None) -> bytes:
    return encode_manifest(MANIFEST_ID, arrays, spec_version=spec_version, location_compression=compression)


def body_of(data: bytes) -> bytes:
    return decode_file(data, file_type=FileType.MANIFEST, name=NAME)[1]


def parse_body(body: bytes) -> Manifest:
    return parse_manifest(encode_file(body, file_type=FileType.MANIFEST, spec_version=2), name=NAME)


def virtual_array(locations: list[str], **columns: object) -> ArrayRefs:
    count = len(locations)
    return ArrayRefs.from_columns(
        NODE, [np.arange(count)], kinds=ChunkKind.VIRTUAL, lengths=np.ones(count), locations=locations, **columns
    )


# Real files


@pytest.mark.parametrize("spec_version", [1, 2])
def test_the_fixtures_survive_reading_and_writing(spec_version: int) -> None:
    files = fixture_files("manifests")
    seen = set()
    for path in files:
        manifest = parse_manifest(path.read_bytes(), name=path.name)
        assert str(manifest.id) == path.name
        assert manifest.num_chunk_refs == sum(map(len, manifest.arrays.values())) > 0
        again = parse_manifest(
            encode_manifest(
                manifest.id,
                list(manifest.arrays.values()),
                spec_version=spec_version,
                location_compression=COMPRESS,
            ),
            name=path.name,
        )
        assert again.arrays == manifest.arrays
        assert (again.id, again.spec_version) == (manifest.id, spec_version)
        for refs in manifest.arrays.values():
            seen |= kinds_in(refs)
            assert ArrayRefs.from_refs(refs.node_id, refs.ndim, reversed(as_map(refs).items())) == refs
    assert len(files) > 100
    assert seen >= {ChunkKind.INLINE, ChunkKind.NATIVE}


# Every kind


@pytest.mark.parametrize("compression", [None, COMPRESS], ids=["plain", "compressed"])
@pytest.mark.parametrize("spec_version", [1, 2])
def test_every_kind_survives_writing_and_reading(spec_version: int, compression: LocationCompression | None) -> None:
    arrays = sample_arrays()
    manifest = parse_manifest(encode(*reversed(arrays), spec_version=spec_version, compression=compression), name=NAME)
    assert list(manifest.arrays) == [refs.node_id for refs in arrays]
    for refs in arrays:
        found = manifest.arrays[refs.node_id]
        assert found == refs
        assert as_map(found) == as_map(refs)
        assert found.virtual_locations() == [
            ref.location for ref in as_map(refs).values() if isinstance(ref, VirtualRef)
        ]
    assert set().union(*map(kinds_in, arrays)) == {ChunkKind.INLINE, ChunkKind.NATIVE, ChunkKind.VIRTUAL}


def test_a_reference_is_what_was_written() -> None:
    chunk_id = ChunkId(b"chunk-id....")
    written = {
        (0, 5): InlineRef(b"abc"),
        (0, 6): InlineRef(b""),
        (2, 0): NativeRef(chunk_id, 2**63, 2**64 - 1),
        (2, 1): VirtualRef("s3://b/k", 1, 2),
        (3, 0): VirtualRef("", 1, 2, "etag", 0),
        (3, 1): VirtualRef("gs://ü", 1, 2, "", 2**32 - 1),
        (2**32 - 1, 7): VirtualRef("x", 0, 0, None, 1),
    }
    manifest = parse_manifest(encode(ArrayRefs.from_refs(NODE, 2, written.items())), name=NAME)
    refs = manifest.arrays[NODE]
    assert as_map(refs) == written
    assert [ref.kind for ref in as_map(refs).values()] == refs.kinds.tolist()
    assert [ref.length_bytes for ref in as_map(refs).values()] == refs.lengths.tolist()
    assert refs.offsets.tolist() == [0, 0, 2**63, 1, 1, 1, 0]
    assert refs.chunk_ids[2].tobytes() == chunk_id
    assert not refs.chunk_ids[[0, 1, 3, 4, 5, 6]].any()
    assert refs.bounding_box() == ((0, 2**32), (0, 8))
    with pytest.raises(IndexError):
        refs.ref(7)


def test_columns_are_read_only() -> None:
    refs = parse_manifest(encode(*sample_arrays()), name=NAME).arrays[sample_arrays()[4].node_id]
    for column in (*refs.coords, refs.kinds, refs.lengths, refs.offsets, refs.chunk_ids):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1


def test_a_manifest_does_not_keep_the_file() -> None:
    """41 bytes a native reference in three dimensions, where 60 are allowed."""
    count = 50_000
    coords = np.unravel_index(np.arange(count), (50, 50, 20))
    ids = np.arange(count * 12, dtype=np.uint32).astype(np.uint8).reshape(count, 12)
    data = encode(ArrayRefs.from_columns(NODE, coords, kinds=1, lengths=np.arange(count), chunk_ids=ids))
    parse_manifest(data, name=NAME)
    tracemalloc.start()
    try:
        manifest = parse_manifest(data, name=NAME)
        refs = manifest.arrays[NODE]
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert used < 45 * count
    assert manifest.nbytes == refs.nbytes == 41 * count


# Locations


def test_compressed_locations_are_smaller_and_stay_compressed_in_memory() -> None:
    locations = [f"s3://some-bucket/a/rather/long/path/{number % 7}/{number:07}.nc" for number in range(2000)]
    refs = virtual_array(locations)
    plain, packed = body_of(encode(refs)), body_of(encode(refs, compression=LocationCompression()))
    assert len(packed) < len(plain) * 0.8
    assert b"rather/long/path" not in packed.replace(_dictionary(packed), b"")
    found = parse_body(packed).arrays[NODE]
    assert found == refs
    assert found.virtual_locations() == locations
    assert found.virtual is not None
    assert found.virtual.locations.nbytes < sum(map(len, locations)) * 0.8


def _dictionary(body: bytes) -> bytes:
    return bytes(FlatBuffer(body, name=NAME).root().byte_vector(2) or b"")


@pytest.mark.parametrize(
    ("locations", "settings", "spec_version"),
    [
        (["s3://bucket/key"] * 999, LocationCompression(), 2),
        (["s3://bucket/key"] * 10, None, 2),
        (["s3://bucket/key"] * 10, COMPRESS, 1),
        (["short"] * 10, COMPRESS, 2),
        ([""] * 10, COMPRESS, 2),
        (["s3://bucket/key"] * 10, LocationCompression(1, dictionary_max_size_bytes=10), 2),
        (["s3://bucket/key"] * 10, LocationCompression(1, dictionary_max_training_samples=0), 2),
    ],
    ids=["too few", "off", "spec 1", "too short", "empty", "small dictionary", "no samples"],
)
def test_locations_that_stay_plain(
    locations: list[str], settings: LocationCompression | None, spec_version: int
) -> None:
    body = body_of(encode(virtual_array(locations), spec_version=spec_version, compression=settings))
    root = FlatBuffer(body, name=NAME).root()
    assert not root.has(2)
    assert root.u8(3, 1) == 0
    assert parse_body(body).arrays[NODE].virtual_locations() == locations


def test_long_locations_stay_plain_among_compressed_ones() -> None:
    """The official reader cannot read a compressed location of more than 1024 bytes."""
    lengths = (20, MAX_COMPRESSIBLE_BYTES, MAX_COMPRESSIBLE_BYTES + 1, 5000)
    locations = [f"s3://bucket/{number}".ljust(lengths[number % 4], "x") for number in range(1000)]
    body = body_of(encode(virtual_array(locations), compression=LocationCompression()))
    assert FlatBuffer(body, name=NAME).root().u8(3) == 1
    found = parse_body(body).arrays[NODE]
    assert found.virtual_locations() == locations
    assert [found.ref(row).location for row in range(8)] == locations[:8]


def test_joining_references_with_different_dictionaries() -> None:
    def packed(prefix: str, first: int) -> ArrayRefs:
        locations = [f"s3://{prefix}/{number:09}" for number in range(100)]
        array = ArrayRefs.from_columns(
            NODE, [np.arange(first, first + 100)], kinds=2, lengths=np.ones(100), locations=locations
        )
        return parse_manifest(encode(array, compression=COMPRESS), name=NAME).arrays[NODE]

    one, two = packed("one", 0), packed("two", 100)
    for parts in ([one, two], [one, one.select([])], [one.select([1, 2]), one.select([5])]):
        joined = ArrayRefs.concat(parts)
        assert joined.virtual_locations() == [location for part in parts for location in part.virtual_locations()]
    assert ArrayRefs.merge(one, two) == ArrayRefs.concat([two, one])


# What other writers may write


def make(
    add_ref: Callable[[flatbuffers.Builder, int], None],
    *,
    count: int = 1,
    algorithm: int | None = 0,
    dictionary: bytes | None = None,
    ids: list[bytes] | None = None,
) -> bytes:
    """Builds a manifest with the flatbuffers runtime; `add_ref` fills the open table of a reference."""
    builder = flatbuffers.Builder(64)
    refs = []
    for number in range(count):
        add_ref(builder, number)
        refs.append(builder.EndObject())
    arrays = []
    for node_id in ids if ids is not None else [NODE]:
        vector = _offsets(builder, refs)
        builder.StartObject(3)
        if node_id:
            _struct(builder, 0, node_id)
        builder.PrependUOffsetTRelativeSlot(1, vector, 0)
        arrays.append(builder.EndObject())
    vector = _offsets(builder, arrays)
    dictionary_at = builder.CreateByteVector(dictionary) if dictionary is not None else 0
    builder.StartObject(5)
    _struct(builder, 0, MANIFEST_ID)
    builder.PrependUOffsetTRelativeSlot(1, vector, 0)
    builder.PrependUOffsetTRelativeSlot(2, dictionary_at, 0)
    if algorithm is not None:
        builder.PrependUint8Slot(3, algorithm, 1)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def _offsets(builder: flatbuffers.Builder, tables: list[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for offset in reversed(tables):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _struct(builder: flatbuffers.Builder, slot: int, raw: bytes) -> None:
    builder.Prep(1, len(raw))
    for byte in reversed(raw):
        builder.PrependByte(byte)
    builder.PrependStructSlot(slot, builder.Offset(), 0)


def start(builder: flatbuffers.Builder, index: list[int] | None, **parts: bytes | int) -> None:
    """Opens the table of a reference with these parts, by their names in the schema."""
    slots = {"inline": 1, "location": 5, "checksum_etag": 6, "compressed_location": 8}
    index_at = None if index is None else builder.CreateNumpyVector(np.array(index, np.uint32))
    found = {slots[name]: builder.CreateByteVector(raw) for name, raw in parts.items() if name in slots}
    builder.StartObject(10)
    if index_at is not None:
        builder.PrependUOffsetTRelativeSlot(0, index_at, 0)
    for slot, offset in found.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    if "chunk_id" in parts:
        _struct(builder, 4, parts["chunk_id"])
    builder.PrependUint64Slot(2, parts.get("offset", 0), 0)
    builder.PrependUint64Slot(3, parts.get("length", 0), 0)
    builder.PrependUint32Slot(7, parts.get("last_modified", 0), 0)


def only_ref(body: bytes) -> object:
    refs = parse_body(body).arrays[NODE]
    assert len(refs) == 1
    return refs.ref(0)


def test_the_first_of_several_kinds_counts() -> None:
    """By precedence: chunk id, compressed location, location, inline data."""
    everything = {"chunk_id": b"c" * 12, "compressed_location": b"raw", "location": b"plain", "inline": b"data"}
    expected = [
        NativeRef(ChunkId(b"c" * 12), 3, 4),
        VirtualRef("raw", 3, 4),
        VirtualRef("plain", 3, 4),
        InlineRef(b"data"),
    ]
    for ref in expected:
        parts = dict(everything)
        assert only_ref(make(lambda b, _, parts=parts: start(b, [1], offset=3, length=4, **parts))) == ref
        everything.pop(next(iter(everything)))
    with pytest.raises(FormatError, match="none of"):
        parse_body(make(lambda b, _: start(b, [1], offset=3, length=4)))


def test_a_location_compressed_with_any_dictionary() -> None:
    dictionary = b"s3://some/very/long/prefix/that/all/share/" * 4
    location = "s3://some/very/long/prefix/that/all/share/ü"
    compressor = zstandard.ZstdCompressor(dict_data=zstandard.ZstdCompressionDict(dictionary))
    frame = compressor.compress(location.encode())

    def body(raw: bytes, **options: object) -> bytes:
        return make(lambda b, _: start(b, [1], compressed_location=raw), **{"dictionary": dictionary, **options})

    for algorithm in (1, None):
        assert only_ref(body(frame, algorithm=algorithm)) == VirtualRef(location, 0, 0)
    for raw, reason in (
        (frame[:-1], "damaged"),
        (b"", "damaged"),
        (frame + b"\0", "damaged"),
        (compressor.compress(b"\xff"), "UTF-8"),
        (compressor.compress(bytes(1025)), "longer than 1024"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1025)), "damaged"),
    ):
        refs = parse_body(body(raw, algorithm=1)).arrays[NODE]
        for read in (lambda refs=refs: refs.ref(0), refs.virtual_locations):
            with pytest.raises(FormatError, match=reason) as caught:
                read()
            assert caught.value.facts["file"] == NAME
    assert only_ref(body(compressor.compress(b"x" * 1024), algorithm=1)) == VirtualRef("x" * 1024, 0, 0)
    with pytest.raises(FormatError, match="algorithm 2"):
        parse_body(body(frame, algorithm=2))
    with pytest.raises(FormatError, match="location_dictionary"):
        parse_body(body(frame, algorithm=1, dictionary=None))
    with pytest.raises(FormatError, match="longer than 1024"):
        parse_body(body(b"x" * 1025, algorithm=0))


def test_what_is_refused() -> None:
    def indices(*found: list[int] | None) -> Callable[[flatbuffers.Builder, int], None]:
        return lambda builder, number: start(builder, found[number], inline=b"")

    refused: list[tuple[bytes, str]] = [
        (make(indices(None)), "no index"),
        (make(indices([1], [1, 2]), count=2), "number of dimensions"),
        (make(indices([1], []), count=2), "number of dimensions"),
        (make(indices([], []), count=2), "not sorted"),
        (make(indices([2], [1]), count=2), "not sorted"),
        (make(indices([1, 1], [1, 1]), count=2), "not sorted"),
        (make(indices([1, 2], [1, 1]), count=2), "not sorted"),
        (make(indices([0] * 129)), "dimensions"),
        (make(indices([1]), ids=[b"node-id.", b"node-id."]), "node ids"),
        (make(indices([1]), ids=[b"node-id2", b"node-id1"]), "node ids"),
        (make(indices([1]), ids=[b""]), "no node id"),
        (make(lambda b, _: start(b, [1], location=b"\xff")), "UTF-8"),
        (make(lambda b, _: start(b, [1], location=b"x", checksum_etag=b"\xff")), "UTF-8"),
        # Two locations that are UTF-8 only together.
        (make(lambda b, n: start(b, [n], location=(b"\xc3", b"\xbc")[n]), count=2), "UTF-8"),
    ]
    for body, reason in refused:
        with pytest.raises(FormatError, match=reason) as caught:
            parse_body(body)
        assert caught.value.facts["file"] == NAME
    parse_body(make(indices([0] * 128)))
    assert len(parse_body(make(indices(), count=0)).arrays[NODE]) == 0
    assert not parse_body(make(indices(), count=0, ids=[])).arrays


def test_another_file_type_is_refused(tmp_path: Path) -> None:
    data = encode_file(body_of(encode(*sample_arrays())), file_type=FileType.SNAPSHOT, spec_version=2)
    with pytest.raises(FormatError, match="SNAPSHOT"):
        parse_manifest(data, name=str(tmp_path))


def test_required_fields_of_the_root() -> None:
    builder = flatbuffers.Builder(64)
    builder.StartObject(1)
    builder.Finish(builder.EndObject())
    with pytest.raises(FormatError, match="required field id"):
        parse_body(bytes(builder.Output()))
    builder = flatbuffers.Builder(64)
    builder.StartObject(2)
    _struct(builder, 0, MANIFEST_ID)
    builder.Finish(builder.EndObject())
    with pytest.raises(FormatError, match="required field arrays"):
        parse_body(bytes(builder.Output()))


# The layout


def test_scalars_are_aligned_and_strings_end_in_nul() -> None:
    """The official reader's verifier insists on it."""
    for compression in (None, COMPRESS):
        body = body_of(encode(*sample_arrays(), compression=compression))
        arrays = FlatBuffer(body, name=NAME).root().tables(1)
        assert arrays is not None
        assert body[4:8] == b"Ichk"
        for array in arrays:
            refs = array.tables(1)
            assert refs is not None
            for ref in refs:
                _check_ref(body, ref)


def _check_ref(body: bytes, ref: Table) -> None:
    assert ref.position % 4 == 0
    for slot, size in ((0, 4), (1, 4), (2, 8), (3, 8), (5, 4), (6, 4), (7, 4), (8, 4)):
        assert ref.field(slot) % size == 0
    for slot in (0, 1, 5, 6, 8):
        found = ref.vector(slot, 4 if slot == 0 else 1)
        if found is not None:
            assert found[0] % 4 == 0
            if slot in (5, 6):
                assert body[found[0] + found[1]] == 0


def test_what_cannot_be_written() -> None:
    array = sample_arrays()[0]
    for arrays, reason in (([], "without"), ([ArrayRefs.empty(NODE, 2)], "without"), ([array, array], "twice")):
        with pytest.raises(InvalidInputError, match=reason):
            encode(*arrays)
    with pytest.raises(InvalidInputError):
        encode(array, spec_version=3)


def test_arrays_without_references_are_left_out() -> None:
    array = sample_arrays()[0]
    assert dict(parse_manifest(encode(ArrayRefs.empty(NODE, 2), array), name=NAME).arrays) == {array.node_id: array}


# Columns that do not fit


@pytest.mark.parametrize(
    "columns",
    [
        {"coords": [[1, 2], [1]]},
        {"coords": [[1, -2]]},
        {"coords": [[1, 2**32]]},
        {"coords": [[1.5, 2]]},
        {"coords": [[1, 1]]},
        {"coords": []},
        {"lengths": [1]},
        {"kinds": [1, 4]},
        {"kinds": [0, 1]},
        {"offsets": [1]},
        {"chunk_ids": np.zeros((2, 11), np.uint8)},
        {"kinds": [1, 3]},
        {"kinds": [1, 2]},
        {"inline": [b"x"]},
        {"locations": ["x"]},
        {"etags": ["x"]},
    ],
    ids=str,
)
def test_columns_that_do_not_fit_together(columns: dict[str, object]) -> None:
    good = {"coords": [[1, 2]], "kinds": 1, "lengths": [1, 2], "chunk_ids": np.zeros((2, 12), np.uint8)}
    ArrayRefs.from_columns(NODE, **good)
    with pytest.raises(InvalidInputError):
        ArrayRefs.from_columns(NODE, **{**good, **columns})


def test_references_that_do_not_fit_together() -> None:
    one = ArrayRefs.from_refs(NODE, 1, [((1,), InlineRef(b""))])
    other = ArrayRefs.from_refs(NodeId(bytes(8)), 1, [((2,), InlineRef(b""))])
    flat = ArrayRefs.from_refs(NODE, 0, [((), InlineRef(b""))])
    for join in (
        lambda: ArrayRefs.concat([one, other]),
        lambda: ArrayRefs.concat([one, one]),
        lambda: ArrayRefs.concat([flat, flat]),
        lambda: ArrayRefs.merge(one, other),
        lambda: ArrayRefs.merge(one, flat),
        lambda: ArrayRefs.from_refs(NODE, 2, [((1,), InlineRef(b""))]),
        lambda: ArrayRefs.from_refs(NODE, 1, [((1,), InlineRef(b"")), ((1,), InlineRef(b""))]),
        lambda: ArrayRefs.from_refs(NODE, 0, [((), InlineRef(b"")), ((), InlineRef(b""))]),
        lambda: ArrayRefs.concat([one, ArrayRefs.from_refs(NODE, 1, [((2,), InlineRef(b""))])]).select([1, 0]),
    ):
        with pytest.raises(InvalidInputError):
            join()
