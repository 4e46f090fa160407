"""Chunks of sizes that their codecs rule out are no part of a commit or an import, however they come about.

For each chain of codecs and each grid, chunks of sizes around what the codecs allow come to be in each way that there
is: written as new or over a chunk of the base, renamed one by one, in directories or with their array, or left as they
were under an edited `zarr.json`; and in a directory that is imported. `fsck` finds nothing afterwards.
"""

import itertools
import json
from dataclasses import dataclass
from typing import Any

import pytest

from icefs.engine.upkeep.fsck import fsck
from icefs.engine.write.repository import WritableRepository
from icefs.errors import InvalidInputError
from icefs.format.config.values import RepositoryConfig
from icefs.storage.memory import MemoryStorage
from icefs.transfer.directory_import import ImportRequest, import_directory
from icefs.zarr.reader import KeyReader
from tests.support.staging_bench import Bench, group

ITEM = 2
GRIDS: dict[str, tuple[list[int], dict[str, Any], dict[tuple[int, ...], int]]] = {
    "regular": (
        [3, 4],
        {"name": "regular", "configuration": {"chunk_shape": [2, 2]}},
        dict.fromkeys(itertools.product(range(2), range(2)), 4),
    ),
    "rectilinear": (
        [4, 5],
        {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": [[1, 3], [[2, 1], 3]]}},
        {(0, 0): 2, (0, 1): 3, (1, 0): 6, (1, 1): 9},
    ),
    "scalar": ([], {"name": "regular", "configuration": {"chunk_shape": []}}, {(): 1}),
}
INDEX = [{"name": "bytes", "configuration": {"endian": "little"}}]
CODECS: dict[str, tuple[list[Any], Any, bool]] = {
    "bytes": ([{"name": "bytes"}], lambda n: n * ITEM, True),
    "transpose": (
        [{"name": "transpose", "configuration": {"order": []}}, {"name": "bytes"}],
        lambda n: n * ITEM,
        True,
    ),
    "crc32c": ([{"name": "bytes"}, {"name": "crc32c"}], lambda n: n * ITEM + 4, True),
    "gzip": ([{"name": "bytes"}, {"name": "gzip"}], lambda n: 18, False),
    "zstd": ([{"name": "bytes"}, {"name": "zstd"}], lambda n: 4, False),
    "shards": (
        [{"name": "sharding_indexed", "configuration": {"chunk_shape": [1, 1], "index_codecs": INDEX}}],
        lambda n: 16 * n,
        False,
    ),
    "unknown": ([{"name": "bytes"}, {"name": "something-new"}], lambda n: 1, False),
}
KINDS = [(codec, grid) for codec in CODECS for grid in GRIDS if (codec, grid) != ("shards", "scalar")]


@dataclass
class Kind:
    """An array of some codecs over some grid."""

    codec: str
    grid: str

    def document(self, **members: Any) -> bytes:
        shape, grid, _ = GRIDS[self.grid]
        document = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": shape,
            "data_type": "int16",
            "chunk_grid": grid,
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": CODECS[self.codec][0],
            "attributes": {},
        }
        return json.dumps(document | members).encode()

    @property
    def indices(self) -> list[tuple[int, ...]]:
        return list(GRIDS[self.grid][2])

    def smallest(self, index: tuple[int, ...]) -> int:
        return CODECS[self.codec][1](GRIDS[self.grid][2][index])

    def allows(self, index: tuple[int, ...], size: int) -> bool:
        smallest = self.smallest(index)
        return size == smallest if CODECS[self.codec][2] else size >= smallest

    def files(self, above: str) -> dict[str, bytes]:
        """An array whose chunks all have a size that is allowed."""
        return {f"{above}/zarr.json": self.document()} | {
            key(above, index): b"g" * self.smallest(index) for index in self.indices
        }


def key(above: str, index: tuple[int, ...]) -> str:
    return "/".join([above, "c", *map(str, index)])


def sizes_of(kind: Kind, index: tuple[int, ...]) -> list[int]:
    smallest = kind.smallest(index)
    return sorted({0, 1, smallest - 1, smallest, smallest + 1, 3 * smallest})


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path / "tree", MemoryStorage())
    bench.write("zarr.json", group())
    yield bench
    bench.work.close()


def settle(bench: Bench, kind: Kind, sizes: dict[str, tuple[tuple[int, ...], int]]) -> None:
    """Commits a tree in which some files are chunks of some sizes: without those that cannot be, and then with all.

    Args:
        bench: The tree.
        kind: What the arrays are.
        sizes: The chunk that each file is of, and its length.
    """
    bad = {path: one for path, one in sizes.items() if not kind.allows(*one)}
    before = bench.tree()
    told = dict(bench.staged().invalid)
    assert told.keys() == bad.keys()
    for path, (index, size) in bad.items():
        array = path.partition("/c")[0]
        has = f"has {size} bytes; a chunk of this array has" if size else "is empty"
        assert told[path].startswith(f"is the chunk {list(index)} of /{array} and {has}")
        assert not size or told[path].endswith(f" {kind.smallest(index)}")
    if bad:
        with pytest.raises(InvalidInputError) as caught:
            bench.commit()
        assert dict(caught.value.facts["invalid"]) == told
        assert bench.tree() == before
        done = bench.commit(skip_invalid=True, allow_empty=True)
        committed = bench.committed()
        assert {path: data for path, data in before.items() if path not in bad}.items() <= committed.items()
        for one in done.facts["invalid"]:
            assert one["keeps"] == (one["path"] in committed)
        assert all(committed.get(path) != before[path] for path in bad)
        assert clean(bench.repository)
        assert bench.tree() == before
        assert dict(bench.staged().invalid) == told
        for path, (index, _) in bad.items():
            bench.write(path, b"f" * kind.smallest(index))
    bench.commit(allow_empty=True)
    assert bench.committed() == bench.tree()
    assert clean(bench.repository)
    assert not bench.work.has_changes()


def clean(repository: WritableRepository) -> bool:
    return not [one for one in fsck(repository.storage, deep=True).findings if one.kind == "size"]


@pytest.mark.parametrize(("codec", "grid"), KINDS)
@pytest.mark.parametrize("way", ["new", "rewritten"])
def test_a_written_chunk(bench, codec, grid, way):
    kind = Kind(codec, grid)
    arrays = {}
    for pick in range(6):
        above = f"a{pick}"
        bench.write_all(kind.files(above) if way == "rewritten" else {f"{above}/zarr.json": kind.document()})
        arrays[above] = {index: some[pick % len(some)] for index in kind.indices if (some := sizes_of(kind, index))}
    bench.commit()
    sizes = {key(above, index): (index, size) for above, one in arrays.items() for index, size in one.items()}
    for path, (_, size) in sizes.items():
        bench.write(path, b"w" * size)
    settle(bench, kind, sizes)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("way", ["files", "directories", "to another array"])
@pytest.mark.parametrize("grid", ["regular", "rectilinear"])
def test_a_chunk_that_a_rename_gives_another_place(bench, codec, grid, way):
    kind = Kind(codec, grid)
    before = kind.files("a") | kind.files("b")
    bench.write_all(before)
    bench.commit()
    size = {index: len(before[key("a", index)]) for index in kind.indices}
    if way == "files":
        bench.rename("a/c/0/1", "a/c/1/1")
        sizes = {"a/c/1/1": ((1, 1), size[0, 1])}
    elif way == "directories":
        bench.remove("a/c/1")
        bench.rename("a/c/0", "a/c/1")
        sizes = {f"a/c/1/{j}": ((1, j), size[0, j]) for j in range(2)}
    else:
        bench.remove("b/c/0")
        bench.rename("a/c/1", "b/c/0")
        sizes = {f"b/c/0/{j}": ((0, j), size[1, j]) for j in range(2)}
    settle(bench, kind, sizes)


@pytest.mark.parametrize(("codec", "now"), list(itertools.permutations(CODECS, 2)))
def test_an_array_that_is_renamed_and_encodes_otherwise(bench, codec, now):
    kind, other = Kind(codec, "rectilinear"), Kind(now, "rectilinear")
    before = kind.files("a")
    bench.write_all(before)
    bench.commit()
    bench.rename("a", "b")
    bench.write("b/zarr.json", other.document())
    settle(bench, other, {key("b", index): (index, kind.smallest(index)) for index in kind.indices})


@pytest.mark.parametrize(("codec", "now"), list(itertools.product(CODECS, CODECS)))
@pytest.mark.parametrize("rewritten", [0, 1, 4], ids=["none", "some", "all"])
def test_an_edit_that_rules_out_chunks_which_the_array_keeps(bench, codec, now, rewritten):
    kind, other = Kind(codec, "rectilinear"), Kind(now, "rectilinear")
    bench.write_all(kind.files("a"))
    bench.commit()
    before = bench.committed()
    bench.write("a/zarr.json", other.document(attributes={"edited": True}))
    for index in kind.indices[:rewritten]:
        bench.write(key("a", index), b"n" * other.smallest(index))
    bench.write("g/zarr.json", group())
    bad = [index for index in kind.indices[rewritten:] if not other.allows(index, kind.smallest(index))]
    shown, told = bench.tree(), dict(bench.staged().invalid)
    if bad:
        waiting = {key("a", index) for index in kind.indices[:rewritten]}
        assert told.keys() == {"a/zarr.json"} | waiting
        assert told["a/zarr.json"].startswith(f"rules out the size of {len(bad)} chunk")
        has = f"the chunk {list(bad[0])} has {kind.smallest(bad[0])} bytes; a chunk of this array has"
        assert has in told["a/zarr.json"]
        assert {told[path] for path in waiting} <= {"waits for a/zarr.json, which cannot be committed"}
        with pytest.raises(InvalidInputError, match="rules out the size of"):
            bench.commit()
        done = bench.commit(skip_invalid=True)
        assert all(one["keeps"] for one in done.facts["invalid"])
        assert bench.committed() == before | {"g/zarr.json": group()}
        assert bench.tree() == shown
        assert dict(bench.staged().invalid) == told
        for number, index in enumerate(bad):
            if number % 2:
                bench.remove(key("a", index))
            else:
                bench.write(key("a", index), b"f" * other.smallest(index))
    else:
        assert not told
    bench.commit()
    assert bench.committed() == bench.tree()
    assert clean(bench.repository)
    assert not bench.work.has_changes()


def test_an_edit_that_leaves_no_chunk_of_the_wrong_size_is_committed(bench):
    """Chunks outside of a smaller grid are dropped, removed ones are gone."""
    kind = Kind("bytes", "regular")
    bench.write_all(kind.files("a"))
    bench.commit()
    bench.write("a/zarr.json", kind.document(shape=[2, 4], data_type="int32"))
    bench.write("a/c/0/0", b"n" * 16)
    assert [path for path, _ in bench.staged().invalid] == ["a/zarr.json", "a/c/0/0"]
    bench.remove("a/c/0/1")
    bench.commit()
    assert bench.committed().keys() == {"zarr.json", "a/zarr.json", "a/c/0/0"}
    assert clean(bench.repository)


def test_what_others_have_committed_of_a_wrong_size_hinders_no_rename_and_no_edit_of_attributes(bench):
    kind = Kind("bytes", "regular")
    files = kind.files("a")
    bench.write_all(files)
    bench.commit()
    session = bench.repository.writable_session("main")
    session.nodes.put("/a", kind.document(codecs=[{"name": "something-new"}]))
    session.chunks.set("/a", (0, 0), b"bad")
    session.nodes.put("/a", kind.document())
    session.commit("bad")
    bench.rebase("fail")
    bench.rename("a", "b")
    bench.commit()
    bench.write("b/zarr.json", kind.document(attributes={"n": 1}))
    bench.commit()
    assert bench.committed()["b/c/0/0"] == b"bad"


@pytest.mark.parametrize(("codec", "grid"), KINDS)
def test_an_import(tmp_path, codec, grid):
    kind = Kind(codec, grid)
    repo = WritableRepository.create(MemoryStorage(), RepositoryConfig(inline_chunk_threshold_bytes=0))
    source, good, bad = tmp_path / "z", {"zarr.json": group()}, {}
    for number in range(6):
        above = f"a{number}"
        good[f"{above}/zarr.json"] = kind.document()
        for index in kind.indices:
            some = sizes_of(kind, index)
            size = some[number % len(some)]
            (good if kind.allows(index, size) else bad)[key(above, index)] = b"i" * size
    for path, data in (good | bad).items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(data)
    request = ImportRequest(str(source), tmp_path / "state")
    with pytest.raises(InvalidInputError) as caught:
        import_directory(repo, request)
    told = dict(caught.value.facts["invalid"])
    assert told.keys() == bad.keys()
    for path, data in bad.items():
        has = f"has {len(data)} bytes; a chunk of this array has" if data else "is empty"
        assert f"of /{path.partition('/c')[0]} and {has}" in told[path]
    import_directory(repo, ImportRequest(str(source), tmp_path / "state", skip_invalid=True))
    reader = KeyReader(repo.readonly_session("main"))
    assert {one: bytes(reader.read(one)) for batch in reader.list_batches() for one in batch} == good
    assert clean(repo)
