"""fsck finds the chunks that no reader can decode: empty ones, and sizes that their codecs rule out."""

import json
import re

import pytest

from icefs.engine.upkeep.fsck import fsck
from icefs.engine.write.repository import WritableRepository
from icefs.format.config.values import RepositoryConfig
from icefs.format.ids import ChunkId
from icefs.format.layout import chunk_key
from icefs.format.manifest.refs import InlineRef, NativeRef, VirtualRef
from icefs.storage.memory import MemoryStorage

GROUP = b'{"zarr_format":3,"node_type":"group","attributes":{}}'
REGULAR = {"name": "regular", "configuration": {"chunk_shape": [2, 2]}}
RECTILINEAR = {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": [[1, 3], [4]]}}


def array(*, shape=(4, 4), grid=REGULAR, codecs=("bytes",), encoding=("default", "/"), fill=0):
    name, separator = encoding
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": "int32",
            "fill_value": fill,
            "chunk_grid": grid,
            "chunk_key_encoding": {"name": name, "configuration": {"separator": separator}},
            "codecs": [{"name": codec} for codec in codecs],
            "attributes": {},
        }
    ).encode()


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def repo(request):
    config = RepositoryConfig(inline_chunk_threshold_bytes=0)
    return WritableRepository.create(MemoryStorage(), config, spec_version=request.param)


def ref_of(repo, kind, size):
    if kind == "inline":
        return InlineRef(b"x" * size)
    if kind == "virtual":
        return VirtualRef("file:///somewhere/else", 100, size)
    chunk_id = ChunkId.random()
    repo.storage.put(chunk_key(chunk_id), b"x" * size)
    return NativeRef(chunk_id, 0, size)


def commit(repo, document, chunks, path="/g/a"):
    """Commits an array with references as they are given, past all checks."""
    session = repo.writable_session("main")
    session.nodes.put("/", GROUP)
    session.nodes.put("/g", GROUP)
    node = session.nodes.put(path, document)
    with session.draft.lock:
        for index, ref in chunks.items():
            session.draft.changes.chunk_changes(node).set(index, ref)
    return session.commit("sizes", allow_empty=True)


def found(repo):
    report = fsck(repo.storage, deep=True)
    return sorted(one.message for one in report.findings if one.kind == "size")


@pytest.mark.parametrize("kind", ["inline", "native", "virtual"])
@pytest.mark.parametrize("size", [0, 1, 15, 17])
def test_a_chunk_of_a_size_that_cannot_be(repo, kind, size):
    commit(repo, array(), {(0, 1): ref_of(repo, kind, size), (1, 1): ref_of(repo, kind, 16)})
    [message] = found(repo)
    assert message.startswith(f"the {kind} chunk [0, 1] of /g/a ")
    assert ("is empty" in message) == (not size)
    assert size == 0 or f"has {size} bytes; a chunk of this array has 16" in message
    assert "remove g/a/c/0/1 in a mount of the branch 'main', then commit" in message


@pytest.mark.parametrize("codecs", [("bytes", "gzip"), ("something", "new")])
def test_any_size_but_none_is_possible_where_it_is_not_known(repo, codecs):
    commit(repo, array(codecs=codecs), {(0, 0): ref_of(repo, "native", 18), (0, 1): ref_of(repo, "native", 0)})
    [message] = found(repo)
    assert "chunk [0, 1] of /g/a is empty" in message


@pytest.mark.parametrize(
    ("encoding", "shape", "index", "key"),
    [
        (("default", "."), (4, 4), (1, 0), "g/a/c.1.0"),
        (("v2", "."), (4, 4), (1, 0), "g/a/1.0"),
        (("v2", "/"), (4, 4), (1, 0), "g/a/1/0"),
        (("default", "/"), (), (), "g/a/c"),
        (("v2", "."), (), (), "g/a/0"),
    ],
)
def test_the_file_to_remove_is_named(repo, encoding, shape, index, key):
    grid = {"name": "regular", "configuration": {"chunk_shape": [2] * len(shape)}}
    commit(repo, array(shape=shape, grid=grid, encoding=encoding), {index: ref_of(repo, "inline", 3)})
    [message] = found(repo)
    assert f"remove {key} in a mount" in message


def test_chunks_of_many_shapes():
    repo = WritableRepository.create(MemoryStorage(), RepositoryConfig(inline_chunk_threshold_bytes=0))
    document = array(grid=RECTILINEAR)
    commit(repo, document, {(0, 0): ref_of(repo, "native", 48), (1, 0): ref_of(repo, "native", 48)})
    [message] = found(repo)
    assert "chunk [0, 0] of /g/a has 48 bytes; a chunk of this array has 16" in message


def test_what_only_earlier_snapshots_have_is_told_apart(repo):
    commit(repo, array(), {(0, 0): ref_of(repo, "native", 7)})
    session = repo.writable_session("main")
    session.nodes.delete("/g/a")
    session.commit("gone")
    [message] = found(repo)
    assert "only earlier snapshots have it" in message


def test_references_outside_of_the_grid_are_no_chunks(repo):
    commit(repo, array(), {(0, 0): ref_of(repo, "native", 16), (1, 1): ref_of(repo, "native", 16)})
    commit(repo, array(shape=(2, 2)), {})
    assert found(repo) == []


def test_many_are_counted(repo):
    document = array(shape=(200, 2), grid=REGULAR)
    commit(repo, document, {(row, 0): InlineRef(b"odd") for row in range(100)})
    messages = found(repo)
    assert len(messages) == 21
    assert any(re.fullmatch(r"80 more of its chunks have sizes that they cannot have", one) for one in messages)


def test_whole_chunks_are_clean(repo):
    commit(repo, array(), {(0, 0): ref_of(repo, "native", 16), (1, 0): InlineRef(b"x" * 16)})
    assert fsck(repo.storage, deep=True).status == "clean"
