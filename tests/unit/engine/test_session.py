import itertools
import os
import threading

import pytest

from icefs.engine.read.session import Session
from icefs.engine.repository import Repository
from icefs.errors import (
    FormatError,
    InvalidInputError,
    InvalidObjectSizeError,
    NodeNotFoundError,
    ObjectNotFoundError,
    UnauthorizedContainerError,
)
from icefs.format.config.storage import LocalFileSystemStore, VirtualChunkContainer
from icefs.format.config.values import RepositoryConfig
from icefs.format.ids import ChunkId
from icefs.format.manifest.refs import ChunkKind, InlineRef, NativeRef, VirtualRef
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from tests.support.repo_builder import RepoBuilder, group, inline, node_id


def open_tip(builder: RepoBuilder, **options) -> Session:
    return Repository.open(builder.publish(), **options).readonly_session("main")


PATHS = ["/", "/a", "/a-b", "/a/b", "/a/b-c", "/a/b/c/d", "/a/b/x", "/implicit/parents/only", "/z", "/ünï/ç", "/a/b c"]


def test_children_are_names_of_nodes_and_of_ancestors_of_nodes():
    builder = RepoBuilder()
    builder.commit([group(path, number) for number, path in enumerate(PATHS)])
    session = open_tip(builder)
    assert session.children("/") == ["a", "a-b", "implicit", "z", "ünï"]
    assert session.children("/a") == ["b", "b c", "b-c"]
    assert session.children("/a/b") == ["c", "x"]
    assert session.children("/a/b/c") == ["d"]
    assert session.children("/implicit") == ["parents"]
    assert session.children("/a/b/c/d") == session.children("/nothing") == session.children("/a/")[:0] == []
    for path in ("/", "/a", "/implicit", "/implicit/parents", "/ünï"):
        assert session.has_children(path)
    for path in ("/z", "/a-b", "/a/b/c/d", "/imp", "/nothing"):
        assert not session.has_children(path)
    assert session.get_node("/implicit") is None
    assert sorted(node.path for node in session.list_nodes("/a")) == [
        "/a",
        "/a/b",
        "/a/b c",
        "/a/b-c",
        "/a/b/c/d",
        "/a/b/x",
    ]
    assert sorted(node.path for node in session.list_nodes()) == sorted(PATHS)


def test_children_agree_with_a_plain_tree_for_many_names():
    names = ["a", "a-", "a.", "a0", "a b", "-", "é", "\U0001f9ca", "ab"]
    paths = [
        "".join(f"/{name}" for name in parts) for size in (1, 2) for parts in itertools.product(names, repeat=size)
    ]
    chosen = paths[::3] + paths[1::7]
    builder = RepoBuilder()
    builder.commit([group(path, number) for number, path in enumerate(dict.fromkeys(chosen))])
    session = open_tip(builder)
    for directory in ["/", *paths]:
        stem = directory.rstrip("/") + "/"
        expected = {path[len(stem) :].split("/")[0] for path in chosen if path.startswith(stem)}
        assert set(session.children(directory)) == expected
        assert len(session.children(directory)) == len(expected)
        assert session.has_children(directory) == bool(expected)


def test_listing_a_directory_does_not_look_at_what_lies_deep_below(monkeypatch):
    builder = RepoBuilder()
    builder.commit([group(f"/d{top}/x{low}", 1000 * top + low) for top in range(3) for low in range(1000)])
    session = open_tip(builder)
    session.children("/")
    looked = []

    class Noting(list):
        def __getitem__(self, at):
            looked.append(at)
            return super().__getitem__(at)

    session._sorted_paths = Noting(session._sorted_paths)
    assert session.children("/") == ["d0", "d1", "d2"]
    assert len(looked) < 100


def test_deep_paths_cost_no_more_than_they_are_long():
    deep = "/x" * 20_000
    builder = RepoBuilder()
    builder.commit([group(deep, 1), group(deep + "/y", 2)])
    session = open_tip(builder)
    assert session.children("/") == ["x"]
    assert session.children("/x" * 19_999) == ["x"]
    assert session.children(deep) == ["y"]


def test_nodes(tmp_path):
    builder = RepoBuilder()
    array = builder.array("/g/a", 2, (3,), inline((0,)), user_data=b" {verbatim}\n")
    builder.commit([group("/g", 1), array])
    session = open_tip(builder)
    assert session.node("/g/a").user_data == b" {verbatim}\n"
    assert session.node("/g/a").id == node_id(2)
    with pytest.raises(NodeNotFoundError) as caught:
        session.node("/nothing")
    assert caught.value.kind == "node-not-found"
    with pytest.raises(NodeNotFoundError):
        session.array_chunks("/nothing")
    with pytest.raises(InvalidInputError):
        session.array_chunks("/g")
    assert session.array_chunks("/g/a") is session.array_chunks(session.node("/g/a"))
    assert not session.has_uncommitted_changes


def test_reading_chunks():
    builder = RepoBuilder()
    native = builder.chunk(b"0123456789")
    part = NativeRef(native.chunk_id, 2, 5)
    builder.commit([builder.array("/a", 1, (3,), {(0,): native, (1,): part, (2,): InlineRef(b"ABCDEF")})])
    session = open_tip(builder)
    refs = [session.chunk_ref("/a", (position,)) for position in range(3)]
    assert [session.read_chunk(ref) for ref in refs] == [b"0123456789", b"23456", b"ABCDEF"]
    assert [session.read_chunk(ref, 1, 4) for ref in refs] == [b"123", b"345", b"BCD"]
    assert [session.read_chunk(ref, 4) for ref in refs] == [b"456789", b"6", b"EF"]
    assert [session.read_chunk(ref, 3, 1000) for ref in refs] == [b"3456789", b"56", b"DEF"]
    assert (
        [session.read_chunk(ref, 1000) for ref in refs] == [session.read_chunk(ref, 2, 2) for ref in refs] == [b""] * 3
    )
    assert session.chunk_ref("/a", (7,)) is None
    assert session.chunk_type("/a", (2,)) == ChunkKind.INLINE
    assert session.chunk_type("/a", (7,)) == ChunkKind.UNINITIALIZED
    for ref in refs:
        with pytest.raises(InvalidInputError):
            session.read_chunk(ref, -1)
    assert [batch.tolist() for batch in session.chunk_coordinates("/a", 2)] == [[[0], [1]], [[2]]]


def test_a_chunk_object_that_is_gone_or_short_is_never_zeros():
    builder = RepoBuilder()
    native = builder.chunk(b"0123456789")
    session = open_tip(builder)
    for ref in (NativeRef(native.chunk_id, 8, 5), NativeRef(native.chunk_id, 20, 5), NativeRef(native.chunk_id, 0, 11)):
        with pytest.raises(InvalidObjectSizeError):
            session.read_chunk(ref)
    with pytest.raises(ObjectNotFoundError):
        session.read_chunk(NativeRef(ChunkId(bytes(12)), 0, 5))


@pytest.mark.parametrize("local", [False, True])
def test_references_with_absurd_numbers_are_errors(local, tmp_path):
    builder = RepoBuilder(LocalStorage(tmp_path) if local else None)
    native = builder.chunk(b"0123456789")
    top = (1 << 64) - 1
    absurd = {(0,): NativeRef(native.chunk_id, top, top), (1,): NativeRef(native.chunk_id, 0, 1 << 62)}
    absurd[(2,)] = VirtualRef("file:///etc/passwd", top, 1)
    builder.commit([builder.array("/a", 1, (3,), absurd)])
    session = open_tip(builder)
    assert session.array_chunks("/a").length((0,)) == top
    with pytest.raises(FormatError):
        session.read_chunk(session.chunk_ref("/a", (0,)), 0, 10)
    with pytest.raises(InvalidObjectSizeError):
        session.read_chunk(session.chunk_ref("/a", (1,)))
    with pytest.raises(FormatError):
        session.read_chunk(session.chunk_ref("/a", (2,)))


def test_local_chunks_are_files(tmp_path):
    builder = RepoBuilder(LocalStorage(tmp_path))
    native = builder.chunk(b"0123456789")
    session = open_tip(builder)
    with os.fdopen(session.open_chunk_file(native.chunk_id), "rb") as file:
        assert file.read() == b"0123456789"
    assert open_tip(RepoBuilder(MemoryStorage())).open_chunk_file(native.chunk_id) is None


def test_virtual_chunks_are_read_where_that_was_allowed(tmp_path):
    (tmp_path / "data.bin").write_bytes(b"0123456789")
    prefix = tmp_path.as_uri() + "/"
    builder = RepoBuilder()
    refs = {(0,): VirtualRef(f"{prefix}data.bin", 2, 5), (1,): VirtualRef("vcc://here/data.bin", 0, 3)}
    builder.commit([builder.array("/a", 1, (2,), refs), builder.array("/b", 2, (2,), inline((0,))), group("/", 3)])
    container = VirtualChunkContainer(prefix, LocalFileSystemStore(str(tmp_path)), "here")
    config = RepositoryConfig(virtual_chunk_containers={prefix: container})
    session = open_tip(builder, config=config, authorize_virtual_chunk_access={prefix: None})
    assert session.read_chunk(session.chunk_ref("/a", (0,))) == b"23456"
    assert session.read_chunk(session.chunk_ref("/a", (0,)), 1, 3) == b"34"
    assert session.read_chunk(session.chunk_ref("/a", (1,))) == b"012"
    assert list(session.iter_virtual_chunk_locations()) == [f"{prefix}data.bin"] * 2
    assert set(session.context.authorizations) == {prefix}
    session = open_tip(builder, config=config)
    with pytest.raises(UnauthorizedContainerError):
        session.read_chunk(session.chunk_ref("/a", (0,)))


def test_large_native_chunks_come_in_parts_where_requests_are_slow():
    builder = RepoBuilder()
    data = bytes(range(256)) * (120 << 10)
    native = builder.chunk(data)
    session = open_tip(builder)
    asked, real = [], builder.storage.get

    def noting(key, *, start=0, end=None):
        asked.append((start, end))
        return real(key, start=start, end=end)

    builder.storage.get = noting
    assert session.read_chunk(NativeRef(native.chunk_id, 5, len(data) - 5)) == data[5:]
    assert len(asked) == 8
    assert max(end - start for start, end in asked) <= 4 << 20


def test_threads_read_the_same_session():
    builder = RepoBuilder()
    grid = list(itertools.product(range(12), range(12)))
    boxes = [((row, row + 1), (0, 12)) for row in range(12)]
    builder.commit([builder.array("/a", 1, (12, 12), inline(*grid), boxes=boxes)])
    session = open_tip(builder)
    failures = []

    def read(offset):
        try:
            for index in grid[offset:] + grid[:offset]:
                assert session.read_chunk(session.chunk_ref("/a", index)) == str(index).encode()
            assert session.array_chunks("/a").children(()).tolist() == list(range(12))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=read, args=(17 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not failures
    assert len(session.context.assets.manifests) == 12
    session.context.assets.manifests.check_invariants()
