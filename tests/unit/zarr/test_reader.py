"""A snapshot read by its Zarr keys."""

import json
import random
import subprocess
import sys

import pytest

from icefs.engine.repository import Repository
from icefs.engine.write.repository import WritableRepository
from icefs.errors import FormatError, InvalidInputError, ObjectNotFoundError
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.layout import chunk_key
from icefs.storage.memory import MemoryStorage
from icefs.zarr.reader import ByteRange, KeyMissingError, KeyReader
from tests.support.repo_builder import RepoBuilder, group, inline


def metadata(name="default", separator="/") -> bytes:
    encoding = {"name": name, "configuration": {"separator": separator}}
    return json.dumps({"node_type": "array", "chunk_key_encoding": encoding}).encode()


@pytest.fixture
def builder() -> RepoBuilder:
    return RepoBuilder()


@pytest.fixture
def reader(builder) -> KeyReader:
    """A hierarchy with every encoding, arrays over several manifests, and parents that are no nodes."""
    square = [(row, column) for row in range(4) for column in range(3) if row != 2]
    native = builder.chunk(b"native bytes" * 100)
    nodes = [
        group("/", 1),
        group("/g", 2),
        builder.array("/g/plain", 3, (4, 3), inline(*square), boxes=[((0, 2), (0, 3)), ((2, 4), (0, 3))]),
        builder.array("/g/dotted", 4, (4, 3), inline(*square), user_data=metadata("default", ".")),
        builder.array("/g/v2", 5, (4, 3), inline(*square), user_data=metadata("v2", "/")),
        builder.array("/g/v2dotted", 6, (4, 3), inline(*square), user_data=metadata("v2", ".")),
        builder.array("/scalar", 7, (), inline(())),
        builder.array("/empty", 8, (5,)),
        builder.array("/implicit/parent/native", 9, (2,), {(1,): native}),
        builder.array("/c", 10, (3,), inline((2,))),
        group("/c/c", 11),
        builder.array("/c/c/c", 12, (3, 3, 3), inline((0, 1, 2))),
        builder.array("/%d/100%", 13, (3,), inline((0,))),
    ]
    builder.commit(nodes)
    return opened(builder)


def opened(builder: RepoBuilder) -> KeyReader:
    return KeyReader(Repository.open(builder.publish()).readonly_session("main"))


def listed(reader: KeyReader, prefix: str = "") -> list[str]:
    return sorted(key for batch in reader.list_batches(prefix) for key in batch)


CHUNKS_OF_SQUARE = 9


VALUES = [
    ("g/plain/c/0/1", b"(0, 1)"),
    ("g/plain/c/3/2", b"(3, 2)"),
    ("g/dotted/c.3.2", b"(3, 2)"),
    ("g/v2/3/2", b"(3, 2)"),
    ("g/v2dotted/3.2", b"(3, 2)"),
    ("scalar/c", b"()"),
    ("implicit/parent/native/c/1", b"native bytes" * 100),
    ("c/c/2", b"(2,)"),
    ("c/c/c/c/0/1/2", b"(0, 1, 2)"),
    ("%d/100%/c/0", b"(0,)"),
    ("/g//plain/c/0/1/", b"(0, 1)"),
    ("zarr.json", b'{"node_type":"group","zarr_format":3}'),
    ("g/v2/zarr.json", metadata("v2", "/")),
]

MISSING = [
    "g/plain/c/2/0",
    "g/plain/c/9/9",
    "g/plain/c/00/1",
    "g/plain/c/+0/1",
    "g/plain/c/0",
    "g/plain/c/0/0/0",
    "g/plain/c",
    "g/plain/c.0.1",
    "g/plain/0/1",
    "g/dotted/c/0/1",
    "g/v2/0.1",
    "g/v2dotted/0/1",
    "scalar/0",
    "scalar/c/0",
    "empty/c/0",
    "c",
    "c/0",
    "nothing/zarr.json",
    "nothing/c/0",
    "implicit/zarr.json",
    ".zgroup",
    "g/plain/.zarray",
    "g/.zmetadata",
]


@pytest.mark.parametrize(("key", "value"), VALUES)
def test_values(reader, key, value):
    assert reader.read(key) == value
    assert reader.size(key) == len(value)
    assert reader.exists(key)


@pytest.mark.parametrize("key", MISSING)
def test_missing_keys(reader, key):
    assert reader.read(key) is None
    assert not reader.exists(key)
    with pytest.raises(KeyMissingError) as caught:
        reader.size(key)
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, FileNotFoundError)
    assert caught.value.kind == "key-not-found"


REFUSED = [
    "",
    "g",
    "README.md",
    "g/plain/c/0/01",
    "g/plain/c/0/+1",
    "g/plain/c/0/-1",
    "g/plain/c/0/１",
    "g/../zarr.json",
]


@pytest.mark.parametrize("key", REFUSED)
def test_keys_of_no_hierarchy_are_refused(reader, key):
    for ask in (reader.read, reader.exists, reader.size):
        with pytest.raises(InvalidInputError) as caught:
            ask(key)
        assert caught.value.kind == "invalid-key"


def test_many_chunks_are_looked_up_together_as_each_alone(reader, builder):
    writing = WritableRepository.open(builder.storage).writable_session("main")
    for node in writing.list_nodes():
        if node.array is not None and node.path != "/empty":
            writing.chunks.delete(
                node.path, ChunkIndices.from_indices(len(node.array.shape), [(0,) * len(node.array.shape)])
            )
    keys = [*(key for key, _ in VALUES), *MISSING, *REFUSED, *listed(reader), "g/plain/", "g/./plain/c/0/1", "//", "/"]
    random.Random(1).shuffle(keys)
    for asked in (reader, KeyReader(writing)):
        expected = [asked.size(key) if key in listed(asked) and "zarr.json" not in key else None for key in keys]
        assert asked.chunk_lengths(keys) == expected
        assert sum(length is not None for length in expected) > 3 * CHUNKS_OF_SQUARE
        assert asked.chunk_lengths([]) == []


def test_listing_everything(reader):
    keys = listed(reader)
    assert len(keys) == len(set(keys)) == 13 + 4 * CHUNKS_OF_SQUARE + 6 - 1
    assert {"zarr.json", "g/v2/3/2", "g/dotted/c.0.0", "scalar/c", "%d/100%/c/0", "c/c/2", "empty/zarr.json"} <= set(
        keys
    )
    for key in keys:
        assert reader.exists(key), key


@pytest.mark.parametrize(
    ("prefix", "keys"),
    [
        ("scalar", ["scalar/c", "scalar/zarr.json"]),
        ("scalar/c", []),
        ("g/plain/c/1", ["g/plain/c/1/0", "g/plain/c/1/1", "g/plain/c/1/2"]),
        ("g/v2/3", ["g/v2/3/0", "g/v2/3/1", "g/v2/3/2"]),
        ("g/plain/c/2", []),
        ("g/v2dotted/3", []),
        ("implicit", ["implicit/parent/native/c/1", "implicit/parent/native/zarr.json"]),
        ("imp", []),
        ("empty/", ["empty/zarr.json"]),
        ("c/c", ["c/c/2", "c/c/c/c/0/1/2", "c/c/c/zarr.json", "c/c/zarr.json"]),
        ("/%d//100%/", ["%d/100%/c/0", "%d/100%/zarr.json"]),
    ],
)
def test_listing_a_directory_and_below(reader, prefix, keys):
    assert listed(reader, prefix) == keys
    assert reader.is_empty(prefix) is not bool(keys)
    assert reader.size_below(prefix) == sum(map(reader.size, keys))


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        ("", ["%d", "c", "empty", "g", "implicit", "scalar", "zarr.json"]),
        ("g", ["dotted", "plain", "v2", "v2dotted", "zarr.json"]),
        ("g/plain", ["c", "zarr.json"]),
        ("g/plain/c", ["0", "1", "3"]),
        ("g/plain/c/3", ["0", "1", "2"]),
        ("g/plain/c/3/0", []),
        ("g/plain/c/2", []),
        ("g/plain/x", []),
        ("g/v2", ["0", "1", "3", "zarr.json"]),
        ("g/v2dotted", [f"{row}.{column}" for row in (0, 1, 3) for column in range(3)] + ["zarr.json"]),
        ("scalar", ["c", "zarr.json"]),
        ("empty", ["zarr.json"]),
        ("empty/c", []),
        ("implicit", ["parent"]),
        ("c", ["c", "zarr.json"]),
        ("c/c", ["2", "c", "zarr.json"]),
        ("nothing", []),
    ],
)
def test_listing_the_names_in_a_directory(reader, prefix, names):
    assert sorted(reader.list_directory(prefix)) == names
    assert sorted(reader.list_directory(f"/{prefix}/")) == names


def test_batches_are_bounded(reader):
    assert max(map(len, reader.list_batches("", 4))) == 4
    assert sorted(key for batch in reader.list_batches("", 1) for key in batch) == listed(reader)


def test_an_empty_repository(builder):
    builder.commit([])
    reader = opened(builder)
    assert listed(reader) == reader.list_directory() == []
    assert reader.is_empty()
    assert reader.read("zarr.json") is None
    assert reader.size_below() == 0


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, None, (0, 10)),
        (3, None, (3, 10)),
        (9, None, (9, 10)),
        (0, 10, (0, 10)),
        (2, 5, (2, 5)),
        (2, 11, (2, 10)),
        (9, 10**30, (9, 10)),
        (4, 4, (4, 4)),
        (0, 0, (0, 0)),
        (10, 10, (10, 10)),
        (-3, None, (7, 10)),
        (-10, None, (0, 10)),
        (-11, None, (0, 10)),
    ],
)
def test_byte_ranges(start, end, expected):
    assert ByteRange(start, end).resolve(10, "key") == expected


@pytest.mark.parametrize(("start", "end"), [(10, None), (11, None), (10, 12), (11, 11), (5, 4), (10, 4)])
def test_byte_ranges_that_are_refused(start, end):
    with pytest.raises(InvalidInputError) as caught:
        ByteRange(start, end).resolve(10, "key")
    assert caught.value.kind == "invalid-byte-range"


@pytest.mark.parametrize("key", ["g/plain/c/0/1", "implicit/parent/native/c/1", "zarr.json"])
def test_ranges_of_every_kind_of_value(reader, key):
    whole = reader.read(key)
    for byte_range in (ByteRange(1, 4), ByteRange(2, None), ByteRange(-3, None), ByteRange(0, 0), ByteRange(1, 10**6)):
        start, end = byte_range.resolve(len(whole), key)
        assert reader.read(key, byte_range) == whole[start:end]
    with pytest.raises(InvalidInputError):
        reader.read(key, ByteRange(len(whole), None))


def test_a_broken_manifest_breaks_its_own_array_only(builder):
    good, bad = builder.array("/good", 2, (3,), inline((0,))), builder.array("/bad", 3, (3,), inline((0,)))
    builder.commit([group("/", 1), good, bad])
    (ref,) = bad.array.manifests
    builder.storage.put(f"manifests/{ref.manifest_id}", b"no manifest")
    reader = opened(builder)
    for ask in (reader.read, reader.exists, reader.size):
        with pytest.raises(FormatError):
            ask("bad/c/0")
    assert reader.read("bad/zarr.json")
    assert reader.read("bad/c/2") is None, "outside of the manifest's extents"
    assert reader.read("good/c/0") == b"(0,)"
    assert sorted(reader.list_directory()) == ["bad", "good", "zarr.json"]
    assert listed(reader, "good") == ["good/c/0", "good/zarr.json"]
    with pytest.raises(FormatError):
        listed(reader)


def test_a_lost_chunk_object_is_an_error_and_no_missing_key(builder):
    native = builder.chunk(b"x" * 1000)
    builder.commit([builder.array("/a", 1, (1,), {(0,): native})])
    reader = opened(builder)
    builder.storage.delete([chunk_key(native.chunk_id)])
    assert reader.size("a/c/0") == 1000
    with pytest.raises(ObjectNotFoundError):
        reader.read("a/c/0")


def test_looking_up_unknown_paths_leaves_nothing_behind(reader):
    for number in range(100):
        assert reader.read(f"no/such/{number}/c/0") is None
    assert reader._arrays.keys() <= {"/"}


def test_an_unknown_encoding_reads_as_the_default_one(builder):
    builder.commit([builder.array("/a", 1, (2,), inline((1,)), user_data=metadata("v7", "-"))])
    reader = opened(builder)
    assert listed(reader) == ["a/c/1", "a/zarr.json"]
    assert reader.read("a/c/1") == b"(1,)"


def test_reading_by_key_needs_no_zarr_python():
    code = "import sys, icefs.zarr.reader; sys.exit('zarr' in sys.modules or 'botocore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_million_keys_are_listed_without_a_loop_over_them(builder):
    """A wide array's directory costs what its names cost."""
    builder.commit([builder.array("/a", 1, (1000, 2000), inline(*[(row, 7) for row in range(1000)]))])
    reader = opened(builder)
    assert len(reader.list_directory("a/c")) == 1000
    assert isinstance(builder.storage, MemoryStorage)


def test_a_session_that_writes_is_read_with_its_changes(builder):
    builder.commit([group("/", 1), builder.array("/a", 2, (9,), inline((0,)))])
    session = WritableRepository.open(builder.publish()).writable_session("main")
    reader = KeyReader(session)
    assert listed(reader) == ["a/c/0", "a/zarr.json", "zarr.json"]
    session.nodes.put("/b", metadata_of((4, 4)))
    session.chunks.set("/b", (1, 1), b"new")
    session.chunks.set("/a", (0,), b"changed")
    assert reader.read("b/1.1") == b"new"
    assert reader.read("a/c/0") == b"changed"
    assert listed(reader) == ["a/c/0", "a/zarr.json", "b/1.1", "b/zarr.json", "zarr.json"]
    assert sorted(reader.list_directory("b")) == ["1.1", "zarr.json"]
    session.nodes.delete("/b")
    session.chunks.set_ref("/a", (0,), None)
    assert listed(reader) == ["a/zarr.json", "zarr.json"]
    assert reader.read("b/1.1") is reader.read("a/c/0") is None
    assert reader.list_directory("a") == ["zarr.json"]


def metadata_of(shape: tuple[int, ...]) -> bytes:
    grid = {"name": "regular", "configuration": {"chunk_shape": [1] * len(shape)}}
    encoding = {"name": "v2", "configuration": {"separator": "."}}
    document = {"zarr_format": 3, "node_type": "array", "shape": shape, "chunk_grid": grid}
    return json.dumps({**document, "chunk_key_encoding": encoding}).encode()
