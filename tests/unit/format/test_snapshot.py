"""Snapshot files: everything they can say, in both spec versions, what is refused, and the order of what is written."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from icefs.errors import FormatError, InvalidInputError, InvalidMetadataError
from icefs.format.flat.reader import FlatBuffer
from icefs.format.flat.writer import OFFSET, FlatBuilder
from icefs.format.header import FileType, decode_file, encode_file
from icefs.format.ids import NodeId, SnapshotId
from icefs.format.metadata import encode_value
from icefs.format.snapshot.nodes import ArrayData, DimensionShape, ManifestFileInfo, ManifestRef, NodeSnapshot, NodeType
from icefs.format.snapshot.reader import Snapshot, parse_snapshot
from icefs.format.snapshot.writer import encode_snapshot
from tests.support.repo_samples import (
    GROUP_JSON,
    NOW,
    manifest_id,
    node_id,
    sample_files,
    sample_nodes,
    sample_snapshot,
    snapshot_id,
)

NAME = "snapshots/X"


def encode(nodes: Sequence[NodeSnapshot] = (), spec_version: int = 2, **changes: Any) -> bytes:
    parts: dict[str, Any] = {
        "snapshot_id": snapshot_id(1),
        "flushed_at": NOW,
        "message": "m",
        "metadata": {},
        "nodes": nodes,
        "manifest_files": [],
        "spec_version": spec_version,
    }
    return encode_snapshot(**{**parts, **changes})


def parse(data: bytes) -> Snapshot:
    return parse_snapshot(data, name=NAME)


@pytest.mark.parametrize("spec_version", [1, 2])
def test_everything_round_trips(spec_version: int) -> None:
    snapshot = parse(sample_snapshot(spec_version))
    nodes = sorted(sample_nodes(), key=lambda node: node.path)
    assert snapshot.spec_version == spec_version
    assert snapshot.id == snapshot_id(1)
    assert isinstance(snapshot.id, SnapshotId)
    assert snapshot.parent_id == (snapshot_id(2) if spec_version == 1 else None)
    assert snapshot.flushed_at == NOW
    assert snapshot.message == "a messäge"
    assert snapshot.metadata == {"z": 1, "a": {"list": [1, None, 2.5]}}
    assert list(snapshot.metadata) == ["a", "z"]
    assert snapshot.extra == b"extra"
    assert list(snapshot.nodes()) == nodes
    assert list(snapshot.paths) == [node.path for node in nodes]
    assert len(snapshot) == len(nodes)
    assert dict(snapshot.manifest_files) == {info.id: info for info in sample_files()}
    assert list(snapshot.manifest_files) == sorted(info.id for info in sample_files())
    assert len(snapshot.manifest_files) == 3
    for node in nodes:
        assert snapshot.node(node.path) == node
        assert snapshot.node_by_id(node.id) == node
    assert snapshot.node("/nothing") is None
    assert snapshot.node("/b/") is None
    assert snapshot.node_by_id(NodeId(bytes(8))) is None
    assert manifest_id(99) not in snapshot.manifest_files


def test_node_types() -> None:
    found = {node.path: node.node_type for node in parse(sample_snapshot()).nodes()}
    assert found["/b"] == NodeType.GROUP == "group"
    assert found["/b-c"] == NodeType.ARRAY == "array"


def test_an_empty_snapshot() -> None:
    for spec_version in (1, 2):
        snapshot = parse(encode(spec_version=spec_version))
        assert (len(snapshot), list(snapshot.nodes()), dict(snapshot.manifest_files)) == (0, [], {})
        assert snapshot.parent_id is None
        assert snapshot.metadata == {}
        assert snapshot.node("/") is None
        assert snapshot.node_by_id(node_id(1)) is None


def test_nodes_are_written_in_the_order_of_their_paths_bytes() -> None:
    """The official reader searches this way, whatever the schema's comment says of components."""
    paths = ["/", "/a", "/a-b", "/a/b", "/a0", "/é", "/\ue000", "/🧊"]
    nodes = [NodeSnapshot(node_id(row), path, b"{}") for row, path in enumerate(paths)]
    assert list(parse(encode(nodes[::-1])).paths) == paths
    assert [path.encode() for path in paths] == sorted(path.encode() for path in paths)


def test_manifest_files_keep_their_extra() -> None:
    info = ManifestFileInfo(manifest_id(1), 1, 2, b"kept")
    found = parse(encode(manifest_files=[info, *sample_files()[1:]])).manifest_files
    assert found[info.id] == info
    assert found[manifest_id(2)].extra is None


def test_dimension_names_may_be_empty() -> None:
    shape = (DimensionShape(1, 1),) * 2
    node = NodeSnapshot(node_id(1), "/a", b"", ArrayData(shape, ("", "x"), ()))
    [found] = parse(encode([node])).nodes()
    assert found.array is not None
    assert found.array.dimension_names == (None, "x")


def test_spec_version_1_has_chunk_lengths() -> None:
    """The number of chunks comes back from the length of a chunk, for every regular grid."""
    for length in (*range(40), 2**63):
        for chunk in (1, 2, 3, 7, 39, 100):
            count = -(-length // chunk)
            if count > 2**32 - 1:
                continue
            shape = (DimensionShape(length, count),)
            [found] = parse(encode([NodeSnapshot(node_id(1), "/a", b"", ArrayData(shape, None, ()))], 1)).nodes()
            assert found.array is not None
            assert found.array.shape == shape


def test_one_look_up_does_not_use_up_the_next() -> None:
    nodes = [NodeSnapshot(node_id(row), f"/{row}", b"x" * 1000) for row in range(3)]
    snapshot = parse(encode(nodes))
    for _ in range(100):
        assert snapshot.node("/1") == nodes[1]
        assert list(snapshot.nodes()) == nodes


# What is refused when writing


@pytest.mark.parametrize("path", ["", "a", "a/b", "/a/", "//", "/a//b", "/.", "/..", "/a/../b", "/./a", "/a/."])
def test_paths_that_are_not_canonical(path: str) -> None:
    with pytest.raises(InvalidInputError, match="no path") as caught:
        encode([NodeSnapshot(node_id(1), path, b"")])
    assert caught.value.kind == "invalid-path"


@pytest.mark.parametrize("path", ["/", "/a", "/...", "/.a", "/a.", "/a/..b", "/ ", "/\n", "/c/c"])
def test_paths_that_are(path: str) -> None:
    assert parse(encode([NodeSnapshot(node_id(1), path, b"")])).paths == (path,)


def test_two_nodes_of_one_path() -> None:
    nodes = [NodeSnapshot(node_id(row), "/a", b"") for row in range(2)]
    with pytest.raises(InvalidInputError, match="two nodes") as caught:
        encode(nodes)
    assert caught.value.kind == "node-already-exists"


def test_more_chunks_than_can_be_counted() -> None:
    for spec_version in (1, 2):
        shape = (DimensionShape(2**33, 2**32),)
        with pytest.raises(InvalidMetadataError):
            encode([NodeSnapshot(node_id(1), "/a", b"", ArrayData(shape, None, ()))], spec_version)


def test_spec_version_1_cannot_hold_chunks_of_length_0() -> None:
    node = NodeSnapshot(node_id(1), "/a", b"", ArrayData((DimensionShape(5, 0),), None, ()))
    assert next(parse(encode([node])).nodes()) == node
    with pytest.raises(InvalidMetadataError):
        encode([node], 1)


@pytest.mark.parametrize("changes", [{"message": "\udcff"}, {"metadata": {"\udcff": 1}}])
def test_texts_that_are_no_unicode(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        encode(**changes)


# What is refused when reading

SNAPSHOT = ("12s", "12s", OFFSET, "Q", OFFSET, OFFSET, OFFSET, OFFSET, OFFSET)
NODE = ("8s", OFFSET, OFFSET, "B", OFFSET, OFFSET)


class Parts:
    """A snapshot of one node, of which single fields can be replaced or left out."""

    def __init__(self) -> None:
        self.builder = FlatBuilder()
        self.node: dict[int, Any] = {
            0: bytes(node_id(1)),
            1: self.builder.string("/a"),
            2: self.builder.byte_vector(GROUP_JSON),
            3: 2,
            4: self.builder.table((), ()),
        }
        self.root: dict[int, Any] = {
            0: bytes(snapshot_id(1)),
            3: NOW,
            4: self.builder.string("m"),
            5: self.builder.offsets([]),
            6: self.builder.vector(b"", 0, alignment=8),
            7: self.builder.offsets([]),
        }

    def body(self) -> bytes:
        table = self.builder.table(NODE, [self.node.get(slot) for slot in range(6)])
        self.root.setdefault(2, self.builder.offsets([table]))
        return self.builder.finish(self.builder.table(SNAPSHOT, [self.root.get(slot) for slot in range(9)]))

    def parse(self, spec_version: int = 2) -> Snapshot:
        return parse(encode_file(self.body(), file_type=FileType.SNAPSHOT, spec_version=spec_version))


def refused(parts: Parts, match: str) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        list(parts.parse().nodes())
    assert caught.value.facts["file"] == NAME
    assert NAME in caught.value.message


def test_the_parts_are_right() -> None:
    assert list(Parts().parse().nodes()) == [NodeSnapshot(node_id(1), "/a", GROUP_JSON)]


@pytest.mark.parametrize("slot", [0, 2, 4, 5, 6])
def test_a_required_field_is_missing(slot: int) -> None:
    parts = Parts()
    parts.root[slot] = None
    refused(parts, "required field")


@pytest.mark.parametrize("slot", [0, 1, 2, 4])
def test_a_required_field_of_a_node_is_missing(slot: int) -> None:
    parts = Parts()
    parts.node[slot] = None
    refused(parts, "required field")


@pytest.mark.parametrize("code", [None, 0, 3, 255])
def test_a_node_of_an_unknown_type_is_an_error_of_that_node(code: int | None) -> None:
    parts = Parts()
    parts.node[3] = code
    snapshot = parts.parse()
    assert snapshot.paths == ("/a",)
    with pytest.raises(FormatError, match="neither group nor array"):
        snapshot.node("/a")


@pytest.mark.parametrize("path", ["", "a", "/a/", "/a/../b", "/a//b", "/."])
def test_a_path_that_is_not_canonical(path: str) -> None:
    parts = Parts()
    parts.node[1] = parts.builder.string(path)
    refused(parts, "no path")


def test_a_path_that_is_no_utf8() -> None:
    parts = Parts()
    parts.node[1] = parts.builder.raw_string(b"/\xff")
    refused(parts, "UTF-8")


def test_two_nodes_of_one_path_in_a_file() -> None:
    parts = Parts()
    tables = []
    for number in (1, 2):
        parts.node[0] = bytes(node_id(number))
        parts.node[2] = parts.builder.byte_vector(b"%d" % number)
        tables.append(parts.builder.table(NODE, [parts.node.get(slot) for slot in range(6)]))
    parts.root[2] = parts.builder.offsets(tables)
    snapshot = parts.parse()
    assert (snapshot.shadowed, len(snapshot), len(snapshot.paths)) == (snapshot.paths, 1, 1)
    [node] = snapshot.nodes()
    assert (node.id, node.user_data) == (node_id(2), b"2")
    assert snapshot.node(node.path) == snapshot.node_by_id(node.id) == node
    assert snapshot.node_by_id(node_id(1)) is None


def test_nodes_in_any_order_are_found() -> None:
    parts = Parts()
    tables = []
    for path in ("/z", "/b", "/a", "/", "/b/c"):
        parts.node[1] = parts.builder.string(path)
        tables.append(parts.builder.table(NODE, [parts.node.get(slot) for slot in range(6)]))
    parts.root[2] = parts.builder.offsets(tables)
    snapshot = parts.parse()
    assert snapshot.paths == ("/z", "/b", "/a", "/", "/b/c")
    assert all(snapshot.node(path) for path in snapshot.paths)


@pytest.mark.parametrize(
    ("micros", "is_valid"), [(253_402_300_799_999_999, True), (253_402_300_800_000_000, False), (2**64 - 1, False)]
)
def test_times_beyond_the_year_9999(micros: int, is_valid: bool) -> None:
    parts = Parts()
    parts.root[3] = micros
    if is_valid:
        assert parts.parse().flushed_at == micros
    else:
        refused(parts, "9999")


def test_metadata_follow_the_files_own_version() -> None:
    for spec_version in (1, 2):
        parts = Parts()
        if spec_version == 1:
            parts.root[7] = None
        name, value = parts.builder.string("key"), parts.builder.byte_vector(encode_value([1, "x"], spec_version))
        parts.root[5] = parts.builder.offsets([parts.builder.table((OFFSET, OFFSET), (name, value))])
        assert parts.parse(spec_version).metadata == {"key": [1, "x"]}


def test_malformed_metadata_are_an_error_of_who_reads_them() -> None:
    parts = Parts()
    name, value = parts.builder.string("key"), parts.builder.byte_vector(b"\xc1")
    parts.root[5] = parts.builder.offsets([parts.builder.table((OFFSET, OFFSET), (name, value))])
    snapshot = parts.parse()
    assert snapshot.node("/a") is not None
    with pytest.raises(FormatError, match="metadata 'key'") as caught:
        _ = snapshot.metadata
    assert caught.value.kind == "deserialization"


@pytest.mark.parametrize("missing", [0, 1])
def test_a_metadata_item_is_incomplete(missing: int) -> None:
    parts = Parts()
    values: list[int | None] = [parts.builder.string("key"), parts.builder.byte_vector(b"\x05\x04\x01")]
    values[missing] = None
    parts.root[5] = parts.builder.offsets([parts.builder.table((OFFSET, OFFSET), values)])
    refused(parts, "lacks its name or value")


def test_a_manifest_file_without_id() -> None:
    parts = Parts()
    parts.root[7] = parts.builder.offsets([parts.builder.table(("12s", "Q"), (None, 5))])
    refused(parts, "lacks its id")


def test_an_array_of_version_1_with_chunks_of_length_0() -> None:
    parts = Parts()
    builder = parts.builder
    parts.node[3] = 1
    empty = builder.offsets([])
    shape = builder.vector((5).to_bytes(8, "little") + bytes(8), 1, alignment=8)
    parts.node[4] = builder.table((OFFSET, OFFSET, OFFSET), (shape, None, empty))
    refused(parts, "chunks of length 0")


@pytest.mark.parametrize("missing", [0, 2])
def test_an_array_lacks_a_required_field(missing: int) -> None:
    parts = Parts()
    builder = parts.builder
    parts.node[3] = 1
    values: list[int | None] = [builder.vector(b"", 0), None, builder.offsets([])]
    values[missing] = None
    parts.node[4] = builder.table((OFFSET, OFFSET, OFFSET), values)
    refused(parts, "required field")


@pytest.mark.parametrize("missing", [0, 1])
def test_a_manifest_reference_lacks_a_field(missing: int) -> None:
    parts = Parts()
    builder = parts.builder
    parts.node[3] = 1
    values: list[Any] = [bytes(12), builder.vector(b"", 0)]
    values[missing] = None
    manifests = builder.offsets([builder.table(("12s", OFFSET), values)])
    parts.node[4] = builder.table((OFFSET, OFFSET, OFFSET), (builder.vector(b"", 0), None, manifests))
    refused(parts, "required field")


def test_nodes_that_share_their_metadata_cannot_multiply() -> None:
    """A thousand nodes with the same megabyte: each is read, but not all of them at once."""
    parts = Parts()
    builder = parts.builder
    parts.node[2] = builder.byte_vector(bytes(1 << 20))
    tables = []
    for row in range(1000):
        parts.node[1] = builder.string(f"/{row}")
        tables.append(builder.table(NODE, [parts.node.get(slot) for slot in range(6)]))
    parts.root[2] = builder.offsets(tables)
    snapshot = parts.parse()
    node = snapshot.node("/999")
    assert node is not None
    assert len(node.user_data) == 1 << 20
    with pytest.raises(FormatError, match="overlap"):
        for _ in snapshot.nodes():
            pass


def test_other_files_are_refused() -> None:
    body = Parts().body()
    for file_type in (FileType.MANIFEST, FileType.REPO_INFO):
        with pytest.raises(FormatError, match="file type"):
            parse(encode_file(body, file_type=file_type, spec_version=2))
    with pytest.raises(FormatError, match="too few"):
        parse(encode_file(b"1234567", file_type=FileType.SNAPSHOT, spec_version=2))


def test_a_later_version_may_add_fields() -> None:
    parts = Parts()
    codes = (*SNAPSHOT, "Q", OFFSET)
    table = parts.builder.table(NODE, [parts.node.get(slot) for slot in range(6)])
    parts.root[2] = parts.builder.offsets([table])
    values = [*(parts.root.get(slot) for slot in range(9)), 7, parts.builder.string("new")]
    body = parts.builder.finish(parts.builder.table(codes, values))
    assert parse(encode_file(body, file_type=FileType.SNAPSHOT, spec_version=2)).paths == ("/a",)


def test_official_fields_are_present_even_when_empty() -> None:
    for spec_version, slots in ((1, (0, 2, 3, 4, 5, 6)), (2, (0, 2, 3, 4, 5, 6, 7))):
        body = decode_file(encode(spec_version=spec_version), file_type=FileType.SNAPSHOT, name=NAME)[1]
        root = FlatBuffer(body, name=NAME).root()
        assert [slot for slot in range(9) if root.has(slot)] == list(slots)


def test_arrays_of_version_2_have_an_empty_shape_of_version_1() -> None:
    for spec_version in (1, 2):
        node = NodeSnapshot(node_id(1), "/a", b"", ArrayData((DimensionShape(4, 2),), None, ()))
        body = decode_file(encode([node], spec_version), file_type=FileType.SNAPSHOT, name=NAME)[1]
        [table] = FlatBuffer(body, name=NAME).root().tables(2) or []
        array = table.table(4)
        assert array is not None
        assert array.has(0)
        assert (array.vector(0, 16) or (0, 0))[1] == (1 if spec_version == 1 else 0)
        assert array.has(3) == (spec_version == 2)


def test_values_compare() -> None:
    node = sample_nodes()[2]
    assert replace(node) == node
    assert hash(node) == hash(replace(node))
    assert replace(node, path="/x") != node
    assert ManifestRef(manifest_id(1), ()) != ManifestRef(manifest_id(2), ())
