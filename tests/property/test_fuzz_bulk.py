"""Hostile manifests, transaction logs and frames: each is read, or refused with `FormatError`; nothing else happens.

Real files and ones with every kind of reference are changed at random, in the file and in the flatbuffer inside of
it; the changes are the same in every run. A file that reads is then used: every array and every reference. The bombs at
the end are built to allocate or to loop.
"""

import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest

from icefs.errors import FormatError
from icefs.format.flat.bulk import BodyPlan, TableShape, put_offsets
from icefs.format.flat.columns import place_rows
from icefs.format.header import HEADER_BYTES, UNLIMITED_BELOW_BYTES, FileType, decode_file, encode_file
from icefs.format.ids import ManifestId, NodeId, SnapshotId
from icefs.format.manifest.locations import LocationCompression
from icefs.format.manifest.reader import parse_manifest
from icefs.format.manifest.writer import encode_manifest
from icefs.format.snapshot.nodes import NodeType
from icefs.format.transaction_log import Move, TransactionLog, encode_transaction_log, parse_transaction_log
from tests.property.strategies_refs import sample_arrays, sample_indices
from tests.support.fixture_files import fixture_files

NAME = "some/file"
EDGES = (0, 1, 2, 3, 4, 5, 7, 8, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)


@dataclass(frozen=True)
class Sample:
    name: str
    file_type: FileType
    data: bytes

    @property
    def body(self) -> bytes:
        return decode_file(self.data, file_type=self.file_type, name=self.name)[1]


def use_manifest(data: bytes) -> None:
    manifest = parse_manifest(data, name=NAME)
    assert sum(len(refs) for refs in manifest.arrays.values()) == manifest.num_chunk_refs
    for refs in manifest.arrays.values():
        for row in {*range(min(len(refs), 10)), len(refs) - 1} if len(refs) else ():
            assert refs.find(refs.index(row)) == row
            refs.ref(row)
        if len(refs):
            refs.bounding_box()
        if refs.ndim:
            refs.children(())
        refs.virtual_locations()


def use_transaction_log(data: bytes) -> None:
    log = parse_transaction_log(data, name=NAME)
    for chunks in log.updated_chunks.values():
        for row in range(min(len(chunks), 10)):
            assert chunks.index(row) in chunks


USE: dict[FileType, Callable[[bytes], None]] = {
    FileType.MANIFEST: use_manifest,
    FileType.TRANSACTION_LOG: use_transaction_log,
}


def samples() -> list[Sample]:
    """Real files of different sizes, and generated ones; small, so that a change is likely to matter."""
    found = []
    for directory, file_type in (("manifests", FileType.MANIFEST), ("transactions", FileType.TRANSACTION_LOG)):
        files = sorted(fixture_files(directory), key=lambda path: (path.stat().st_size, path.name))
        chosen = files[:: max(1, len(files) // 6)]
        found += [Sample(f"{path.parts[-3]}/{path.name}", file_type, path.read_bytes()) for path in chosen]
    manifest_id, compression = ManifestId(bytes(12)), LocationCompression(min_num_chunks=1)
    arrays = sample_arrays(20)
    for label, chosen_arrays, settings in (
        ("every kind", arrays, None),
        ("compressed", arrays, compression),
        ("virtual", arrays[3:4], None),
        ("native", arrays[1:2], None),
    ):
        data = encode_manifest(manifest_id, chosen_arrays, spec_version=2, location_compression=settings)
        found.append(Sample(label, FileType.MANIFEST, data))
    ids = tuple(NodeId(bytes(7) + bytes((number,))) for number in range(3))
    moves = (Move("/a", "/b", ids[0], NodeType.GROUP), Move("/a/ü", "/b/ü", ids[1], NodeType.ARRAY))
    log = TransactionLog(
        SnapshotId(bytes(12)), ids, ids, ids, (), ids, (), updated_chunks=sample_indices(), moved_nodes=moves
    )
    found.append(Sample("every change", FileType.TRANSACTION_LOG, encode_transaction_log(log, spec_version=2)))
    return found


def mutations(data: bytes, random: Random, count: int) -> Iterator[bytes]:
    """Yields changed copies: flipped bits, set bytes, truncations, insertions, and 16- and 32-bit words set."""
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(random.choice((1, 1, 1, 2, 5))):
            at = random.randrange(len(changed))
            how = random.randrange(10)
            if how < 2:
                changed[at] ^= 1 << random.randrange(8)
            elif how < 3:
                changed[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF))
            elif how < 4:
                del changed[max(8, at) :]
            elif how < 5:
                changed[at:at] = random.randbytes(random.choice((1, 2, 4, 8)))
            elif how < 6:
                at &= ~1
                changed[at : at + 2] = random.choice((0, 2, 4, 5, 6, 30, 0xFFFF)).to_bytes(2, "little")
            elif how < 9:
                at &= ~3
                value = random.choice((*EDGES, len(changed), len(changed) - at, random.randrange(len(changed))))
                changed[at : at + 4] = value.to_bytes(4, "little")
            else:
                at &= ~3
                old = int.from_bytes(changed[at : at + 4], "little")
                changed[at : at + 4] = (old + random.choice((-8, -4, -1, 1, 4, 8)) & 0xFFFFFFFF).to_bytes(4, "little")
        yield bytes(changed)


def outcome(sample: Sample, data: bytes) -> bool:
    """Reads and uses; tells whether it worked. Everything but success and `FormatError` passes through."""
    try:
        USE[sample.file_type](data)
    except FormatError as error:
        names_the_file = error.facts["file"] == NAME and bool(error.facts["reason"])
    else:
        return True
    assert names_the_file
    return False


@pytest.fixture(scope="module", name="corpus")
def corpus_fixture() -> list[Sample]:
    return samples()


@pytest.fixture(autouse=True)
def _numpy_is_strict() -> Iterator[None]:
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_the_unchanged_files_read(corpus: list[Sample]) -> None:
    assert all(outcome(sample, sample.data) for sample in corpus)
    assert {sample.file_type for sample in corpus} == set(USE)


@pytest.mark.slow
def test_changed_files(corpus: list[Sample]) -> None:
    """The frame's checks and zstd's see nearly all of these."""
    random, refused, total = Random(1), 0, 0
    for sample in corpus:
        for data in mutations(sample.data, random, 200):
            refused += not outcome(sample, data)
            total += 1
    assert total >= 3000
    assert refused > total * 0.7


@pytest.mark.slow
def test_changed_flatbuffers(corpus: list[Sample]) -> None:
    random, refused, total = Random(2), 0, 0
    for sample in corpus:
        for body in mutations(sample.body, random, 600):
            data = encode_file(body, file_type=sample.file_type, spec_version=2, level=1)
            refused += not outcome(sample, data)
            total += 1
    assert total >= 10_000
    # Both happen often: otherwise the changes test too little.
    assert total * 0.3 < refused < total * 0.95


def test_no_change_makes_a_small_file_allocate_much(corpus: list[Sample]) -> None:
    random = Random(3)
    for sample in corpus:
        for body in mutations(sample.body, random, 15):
            data = encode_file(body, file_type=sample.file_type, spec_version=2, level=1)
            assert peak_of(lambda data=data, sample=sample: outcome(sample, data)) < 4 << 20


def test_each_word_of_a_flatbuffer_set_to_the_edges(corpus: list[Sample]) -> None:
    """Every aligned word in turn, in one small file of each type: no offset or length is forgotten."""
    for label in ("virtual", "every change"):
        sample = next(sample for sample in corpus if sample.name == label)
        body = sample.body
        for at in range(0, min(len(body), 1200) - 3, 4):
            for value in (0, 0x7FFFFFFF, 0xFFFFFFFF, len(body) - at):
                changed = body[:at] + value.to_bytes(4, "little") + body[at + 4 :]
                outcome(sample, encode_file(changed, file_type=sample.file_type, spec_version=2, level=1))


def test_each_truncation(corpus: list[Sample]) -> None:
    for sample in (min(corpus, key=lambda s: len(s.data)), next(s for s in corpus if s.name == "every change")):
        for size in range(0, len(sample.data), 3):
            assert not outcome(sample, sample.data[:size])
        body = sample.body
        for size in range(0, len(body), 7):
            outcome(sample, encode_file(body[:size], file_type=sample.file_type, spec_version=2, level=1))


# Bombs


REFS_SHAPE = TableShape([(0, "<u4"), (5, "<u4")])
ARRAY_SHAPE = TableShape([(0, "V8"), (1, "<u4")])
ROOT_SHAPE = TableShape([(0, "V12"), (1, "<u4"), (3, "u1")])


def manifest_body(num_arrays: int, num_refs: int, ndim: int, location_bytes: int, claimed_refs: int = 0) -> bytes:
    """Makes a manifest in which all arrays share one vector of references, and these one location.

    Each reference has an index of its own if `ndim` is 1; otherwise they share one.
    """
    plan = BodyPlan()
    vtables = [plan.put(shape.vtable, 2) for shape in (ROOT_SHAPE, ARRAY_SHAPE, REFS_SHAPE)]
    root = plan.reserve(ROOT_SHAPE.size_bytes, 4)
    arrays_at = plan.reserve(4 + 4 * num_arrays, 4)
    arrays = plan.reserve(16 * num_arrays, 4) + 16 * np.arange(num_arrays)
    refs_at = plan.reserve(4 + 4 * num_refs, 4)
    refs = plan.reserve(12 * num_refs, 4) + 12 * np.arange(num_refs)
    indices = np.full(num_refs, 0)
    if ndim == 1:
        indices = plan.reserve(8 * num_refs, 4) + 8 * np.arange(num_refs)
    else:
        indices += plan.put(ndim.to_bytes(4, "little") + bytes(4 * ndim), 4)
    location = plan.put(location_bytes.to_bytes(4, "little") + b"x" * location_bytes + b"\0", 4)
    out = plan.build(root)
    head = ROOT_SHAPE.records(np.array([root]), vtables[0])
    head["1"] = arrays_at - (root + ROOT_SHAPE.offsets[1])
    place_rows(out, np.array([root]), head)
    put_offsets(out, arrays_at, arrays)
    heads = ARRAY_SHAPE.records(arrays, vtables[1])
    heads["0"] = np.arange(num_arrays, dtype=">u8").view("V8")
    heads["1"] = refs_at - (arrays + ARRAY_SHAPE.offsets[1])
    place_rows(out, arrays, heads)
    put_offsets(out, refs_at, refs)
    if claimed_refs:
        out[refs_at : refs_at + 4] = np.frombuffer(claimed_refs.to_bytes(4, "little"), np.uint8)
    tables = REFS_SHAPE.records(refs, vtables[2])
    tables["0"] = indices - (refs + REFS_SHAPE.offsets[0])
    tables["5"] = location - (refs + REFS_SHAPE.offsets[5])
    place_rows(out, refs, tables)
    if ndim == 1:
        place_rows(
            out, indices, np.stack([np.ones(num_refs), np.arange(num_refs)], axis=1).astype("<u4").view("V8")[:, 0]
        )
    return out.tobytes()


def peak_of(action: Callable[[], object]) -> int:
    """The most memory (of Python and numpy) in use at once beyond what was in use before."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refuse(data: bytes, match: str) -> None:
    with pytest.raises(FormatError, match=match):
        parse_manifest(data, name=NAME)


def as_manifest(body: bytes) -> bytes:
    return encode_file(body, file_type=FileType.MANIFEST, spec_version=2)


def test_the_bombs_are_well_formed_but_for_their_size() -> None:
    manifest = parse_manifest(as_manifest(manifest_body(3, 5, 1, 10)), name=NAME)
    assert [refs.virtual_locations() for refs in manifest.arrays.values()] == [["x" * 10] * 5] * 3


@pytest.mark.parametrize("claimed", [2**31, 2**32 - 1, 2**30, 2**28])
def test_a_vector_that_is_longer_than_the_file(claimed: int) -> None:
    data = as_manifest(manifest_body(1, 5, 1, 10, claimed_refs=claimed))
    assert peak_of(lambda: refuse(data, "outside")) < 1 << 20


def test_arrays_that_share_their_references() -> None:
    """Four thousand arrays of four thousand references each are sixteen million, in a hundred kilobytes."""
    data = as_manifest(manifest_body(4000, 4000, 1, 10))
    assert peak_of(lambda: refuse(data, "overlap")) < 16 << 20


def test_references_that_share_a_long_location() -> None:
    data = as_manifest(manifest_body(1, 10_000, 1, 1 << 20))
    assert peak_of(lambda: refuse(data, "overlap|describes")) < 16 << 20


def test_a_location_may_be_shared_in_reason() -> None:
    manifest = parse_manifest(as_manifest(manifest_body(1, 1000, 1, 100)), name=NAME)
    assert next(iter(manifest.arrays.values())).virtual_locations() == ["x" * 100] * 1000


def test_chunk_indices_of_very_many_dimensions() -> None:
    data = as_manifest(manifest_body(1, 100, 100_000, 1))
    assert peak_of(lambda: refuse(data, "dimensions")) < 8 << 20


def test_tables_that_refer_to_themselves() -> None:
    """An offset of zero refers to where it stands; the schema's depth ends such a walk."""
    body = manifest_body(2, 3, 1, 4)
    for at in range(0, len(body) - 3, 4):
        refused_or_read = encode_file(
            body[:at] + bytes(4) + body[at + 4 :], file_type=FileType.MANIFEST, spec_version=2, level=1
        )
        outcome(Sample("", FileType.MANIFEST, b""), refused_or_read)


def rle_frame(num_blocks: int, declared: int | None) -> bytes:
    """A zstd frame of blocks of 128 KiB zeros, four bytes each, that may declare its content's size."""
    if declared is None:
        frame = b"\x28\xb5\x2f\xfd" + bytes((0x00, 0x58))  # a window of 2 MiB
    else:
        frame = b"\x28\xb5\x2f\xfd" + bytes((0xE0,)) + declared.to_bytes(8, "little")
    size = 128 << 10
    blocks = [
        (size << 3 | 1 << 1 | (number == num_blocks - 1)).to_bytes(3, "little") + b"\0" for number in range(num_blocks)
    ]
    return frame + b"".join(blocks)


def in_file(frame: bytes) -> bytes:
    return encode_file(b"", file_type=FileType.MANIFEST, spec_version=2)[:HEADER_BYTES] + frame


def test_the_frames_of_the_bombs_are_right() -> None:
    for declared in (2 * (128 << 10), None):
        data = in_file(rle_frame(2, declared))
        assert decode_file(data, file_type=FileType.MANIFEST, name=NAME) == (2, bytes(256 << 10))


@pytest.mark.parametrize(
    ("blocks", "declared", "match"),
    [
        (1, 2**40, "declares"),
        (1, 2**31 - 1, "declares"),
        (10_000, 10_000 * (128 << 10), "larger than"),
        (10_000, None, "damaged"),
        (100_000, 2**63, "declares"),
    ],
)
def test_zstd_bombs(blocks: int, declared: int | None, match: str) -> None:
    """Up to 12 GiB in up to 400 kB; the stated limit bounds the allocation, and not the declared size."""
    data = in_file(rle_frame(blocks, declared))
    limit = UNLIMITED_BELOW_BYTES * 1.5 if declared is None else 1 << 20
    assert peak_of(lambda: refuse(data, match)) < limit
