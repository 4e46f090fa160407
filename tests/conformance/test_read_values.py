"""Every key of every snapshot of every generated repository: bytes, sizes, listings, references."""

import asyncio

import pytest
from zarr.core.buffer import default_buffer_prototype

from icefs.errors import FormatError, IcefsError
from icefs.format.ids import SnapshotId
from icefs.zarr.store import IcechunkStore
from tests.conformance.generate import NAMES
from tests.conformance.oracle import RepoContent, SnapshotContent, directories, error_facts
from tests.conformance.reading import collect, open_icefs, readers, session_at

# Divergence 11: an array with references of another rank has no readable chunks.
RAGGED = {"a", "only", "scalar"}


def _visible(content: SnapshotContent) -> set[str]:
    keys = content.values.keys() | content.failing.keys()
    broken = {key.split("/")[0] for key in content.ragged}
    assert broken <= RAGGED
    return {key for key in keys if key.endswith("zarr.json") or key.split("/")[0] not in broken}


@pytest.fixture(params=list(NAMES))
def repo_name(request) -> str:
    return request.param


@pytest.fixture
def content(repo_name, oracle_of) -> RepoContent:
    return oracle_of(repo_name)


@pytest.fixture
def repo(repo_name, generated):
    return open_icefs(generated(repo_name))


def test_every_value_has_its_bytes_and_size(repo, content):
    for snapshot_id, reader in readers(repo, content.contents):
        expected = content.contents[snapshot_id]
        for key in _visible(expected) & expected.values.keys():
            assert reader.read(key) == expected.values[key], (snapshot_id, key)
            assert reader.size(key) == len(expected.values[key]), (snapshot_id, key)
            assert reader.exists(key), (snapshot_id, key)


def test_what_cannot_be_read_fails_alike(repo, content):
    for snapshot_id, reader in readers(repo, content.contents):
        for key, (cls, kind) in content.contents[snapshot_id].failing.items():
            with pytest.raises(IcefsError) as caught:
                reader.read(key)
            if kind == "virtual-chunk-fetch" and caught.value.kind == "invalid-object-size":
                continue  # Divergence 30
            assert error_facts(caught.value) == (cls, kind), (snapshot_id, key)


def test_exactly_the_keys_are_listed(repo, content):
    for snapshot_id, reader in readers(repo, content.contents):
        expected = content.contents[snapshot_id]
        if expected.ragged:
            with pytest.raises(FormatError):  # Divergence 11
                list(reader.list_batches())
            continue
        listed = [key for batch in reader.list_batches(max_rows=100) for key in batch]
        assert len(listed) == len(set(listed)), snapshot_id
        assert set(listed) == _visible(expected), snapshot_id


def test_every_directory_lists_what_the_keys_below_it_say(repo, content):
    for snapshot_id, reader in readers(repo, content.contents):
        expected = content.contents[snapshot_id]
        if expected.ragged:
            continue
        for directory, names in directories(_visible(expected)).items():
            listed = reader.list_directory(directory)
            assert len(listed) == len(set(listed)), (snapshot_id, directory)
            assert set(listed) == names, (snapshot_id, directory)
            below = [key for batch in reader.list_batches(directory) for key in batch]
            prefix = f"{directory}/" if directory else ""
            assert set(below) == {key for key in _visible(expected) if key.startswith(prefix)}, (snapshot_id, directory)
            assert len(below) == len(set(below)), (snapshot_id, directory)


def test_groups_list_as_officially(repo, content):
    for snapshot_id, reader in readers(repo, content.contents):
        expected = content.contents[snapshot_id]
        tree = directories(_visible(expected))
        for path, official in expected.list_dir.items():
            if expected.ragged or f"/{path}" in expected.refs:
                continue  # Divergence 14
            listed = set(reader.list_directory(path))
            # Divergence 15: directories that are no nodes.
            prefix = f"{path}/" if path else ""
            implicit = {name for name in listed - {"zarr.json"} if f"/{prefix}{name}" not in expected.node_ids}
            assert implicit <= tree.keys() | tree[path]
            assert listed - implicit == official, (snapshot_id, path)


def test_sizes_below_directories(repo, content):
    for snapshot_id, reader in readers(repo, content.contents):
        expected = content.contents[snapshot_id]
        if expected.ragged or expected.failing:
            continue
        for directory in list(directories(expected.values))[:50]:
            prefix = f"{directory}/" if directory else ""
            total = sum(len(value) for key, value in expected.values.items() if key.startswith(prefix))
            assert reader.size_below(directory) == total, (snapshot_id, directory)


def test_references(repo, content):
    for snapshot_id, expected in content.contents.items():
        session = session_at(repo, snapshot_id)
        assert {path: str(session.node(path).id) for path in expected.node_ids} == expected.node_ids
        assert {node.path for node in session.list_nodes()} == expected.node_ids.keys()
        if expected.ragged:
            continue
        for path, refs in expected.refs.items():
            chunks = session.array_chunks(path)
            found = {}
            for batch in chunks.iter_batches():
                for position, index in enumerate(map(tuple, batch.indices().tolist())):
                    ref = batch.ref(position)
                    location = str(getattr(ref, "chunk_id", "")) or getattr(ref, "location", "")
                    if location.startswith("vcc://"):
                        location = repo._engine.virtual.expand(location)
                    found[index] = (int(ref.kind), location, getattr(ref, "offset_bytes", 0), ref.length_bytes)
                    assert chunks.find(index) == ref
                    assert chunks.length(index) == ref.length_bytes
            assert found == refs, (snapshot_id, path)
            assert chunks.num_chunks == len(refs)


def test_virtual_locations(repo, content):
    for snapshot_id, expected in content.contents.items():
        if not expected.ragged:
            session = session_at(repo, snapshot_id)
            assert sorted(session.iter_virtual_chunk_locations()) == expected.virtual_locations


def test_the_store_answers_as_the_reader(repo, content):
    """The asynchronous store, over one snapshot of each repository."""
    snapshot_id = max(content.contents, key=lambda each: len(content.contents[each].values))
    expected = content.contents[snapshot_id]
    if expected.ragged:
        return  # Divergence 11 leaves nothing to list
    prototype = default_buffer_prototype()

    async def run() -> None:
        store = IcechunkStore(repo._engine.session_at(SnapshotId.parse(snapshot_id)))
        assert set(await collect(store.list())) == _visible(expected)
        keys = list(expected.values)
        for buffer, key in zip(
            await store.get_partial_values(prototype, [(key, None) for key in keys]), keys, strict=True
        ):
            assert buffer is not None
            assert buffer.to_bytes() == expected.values[key], key
        assert await asyncio.gather(*map(store.exists, keys)) == [True] * len(keys)
        assert await asyncio.gather(*map(store.getsize, keys)) == [len(expected.values[key]) for key in keys]
        for key in keys[:20]:
            synchronous = store.get_sync(key)
            assert synchronous is not None
            assert synchronous.to_bytes() == expected.values[key]
        if not expected.failing:
            assert await store.getsize_prefix("") == sum(map(len, expected.values.values()))
        for key, (cls, _) in expected.failing.items():
            with pytest.raises(IcefsError) as caught:
                await store.get(key, prototype)
            assert error_facts(caught.value)[0] == cls

    asyncio.run(run())
