"""zarr-python's own tests of stores, on the store of a session that writes.

Values and keys are Zarr's: the store takes nothing else, so tests with others are given others here, as the official
library's tests of its store are.
"""

import asyncio
import json
import pickle
from typing import Any

import pytest
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, cpu, default_buffer_prototype
from zarr.core.sync import _collect_aiterator
from zarr.testing.store import StoreTests

import icefs
from icefs.engine.write.session import WritableSession
from icefs.errors import AlreadyExistsError, InvalidInputError, NodeNotFoundError, ReadOnlyError, SessionStateError
from icefs.zarr.store import IcechunkStore
from tests.conformance.official import GROUP, array_json
from tests.conformance.test_store_official import under_asyncio

ENCODINGS = {
    "c/{}/{}": ("default", "/"),
    "c.{}.{}": ("default", "."),
    "{}/{}": ("v2", "/"),
    "{}.{}": ("v2", "."),
}
OTHER_GROUP = b'{ "node_type": "group", "zarr_format": 3, "attributes": {"a": 1} }\n'


def buffer(data: bytes) -> Buffer:
    return cpu.Buffer.from_bytes(data)


@under_asyncio
class TestWritingStore(StoreTests[IcechunkStore, cpu.Buffer]):
    store_cls = IcechunkStore
    buffer_cls = cpu.Buffer

    @pytest.fixture(params=[1, 2])
    def session(self, request) -> WritableSession:
        """A session of a new repository, of either version of the format."""
        repo = icefs.Repository.create(icefs.in_memory_storage(), spec_version=request.param)
        return repo.writable_session("main")._engine

    @pytest.fixture
    def store_kwargs(self, session) -> dict[str, Any]:
        return {"session": session}

    @pytest.fixture
    def store(self, session) -> IcechunkStore:
        store = IcechunkStore(session)
        store._is_open = True
        return store

    @pytest.fixture
    def store_not_open(self, session) -> IcechunkStore:
        return IcechunkStore(session)

    def make_array(self, store: IcechunkStore, key: str) -> None:
        """Makes the array that a chunk key belongs to, if none is there."""
        parts = key.split("/")
        first = next(number for number, part in enumerate(parts) if part == "c" or part.replace(".", "").isdigit())
        chunk = parts[first:]
        index = chunk[-1].split(".") if "." in chunk[-1] else chunk[1:] if chunk[0] == "c" else chunk
        encoding = ("v2", ".") if "." in chunk[-1] else ("default", "/") if chunk[0] == "c" else ("v2", "/")
        path = "/" + "/".join(parts[:first])
        if store._session.get_node(path) is None:
            metadata = array_json([2000] * len(index), [1] * len(index), encoding=encoding)
            store._session.nodes.put(path, metadata)

    async def set(self, store: IcechunkStore, key: str, value: Buffer) -> None:
        if key.endswith("zarr.json"):
            store._session.nodes.put("/" + key.removesuffix("zarr.json").rstrip("/"), value.to_bytes())
            return
        self.make_array(store, key)
        target = store._writer.target(key)
        store._session.chunks.set(target.path, target.index, value.to_bytes())

    async def get(self, store: IcechunkStore, key: str) -> Buffer:
        if key.endswith("zarr.json"):
            return buffer(store._session.node("/" + key.removesuffix("zarr.json").rstrip("/")).user_data)
        target = store._writer.target(key)
        ref = store._session.chunk_ref(target.path, target.index)
        assert ref is not None
        return buffer(store._session.read_chunk(ref))

    def test_store_repr(self, store):
        assert "IcechunkStore" in repr(store)
        assert "main" in str(store)

    def test_store_supports_writes(self, store):
        assert store.supports_writes
        assert store.supports_deletes

    def test_store_supports_listing(self, store):
        assert store.supports_listing

    async def test_serializable_store(self, store):
        """A session that writes has its changes here and nowhere else."""
        await self.set(store, "zarr.json", buffer(GROUP))
        with pytest.raises(ValueError, match="cannot be pickled") as caught:
            pickle.dumps(store)
        assert isinstance(caught.value, SessionStateError)
        store._session.commit("now it reads")
        copy = pickle.loads(pickle.dumps(store))
        assert copy.read_only
        assert (await copy.get("zarr.json", default_buffer_prototype())).to_bytes() == GROUP

    async def check_refused(self, store):
        """The official library looks at the store before it sets a key, and at the session before it deletes one."""
        for kind, write in (
            ("read-only-store", store.set("zarr.json", buffer(OTHER_GROUP))),
            ("read-only-session", store.delete("zarr.json")),
            ("read-only-session", store.clear()),
        ):
            with pytest.raises(ReadOnlyError) as caught:
                await write
            assert caught.value.kind == kind

    async def test_with_read_only_store(self, store):
        reader = store.with_read_only(read_only=True)
        writer = reader.with_read_only(read_only=False)
        await writer.set("zarr.json", buffer(GROUP))
        assert (await reader.get("zarr.json", default_buffer_prototype())).to_bytes() == GROUP
        await self.check_refused(reader)

    @pytest.mark.parametrize("key", ["zarr.json", "c/0", "foo/c/0", "foo/0.0", "foo/0/0"])
    @pytest.mark.parametrize("data", [b"\x01\x02\x03\x04", b"x" * 5000])
    async def test_set(self, store, key, data):
        if key == "zarr.json":
            data = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"a": data.decode()}}).encode()
        else:
            self.make_array(store, key)
        await super().test_set(store, key, data)

    async def test_set_not_open(self, store_not_open):
        self.make_array(store_not_open, "c/0")
        await super().test_set_not_open(store_not_open)

    async def test_set_many(self, store):
        values = {
            "a/c/0": b"small",
            "a/zarr.json": array_json([4], [1]),
            "a/c/1": b"large" * 1000,
            "zarr.json": GROUP,
        }
        await store._set_many((key, buffer(value)) for key, value in values.items())
        for key, value in values.items():
            assert (await self.get(store, key)).to_bytes() == value

    async def test_set_if_not_exists(self, store):
        await store.set_if_not_exists("zarr.json", buffer(GROUP))
        await store.set_if_not_exists("zarr.json", buffer(OTHER_GROUP))
        assert (await self.get(store, "zarr.json")).to_bytes() == GROUP
        await store.set("a/zarr.json", buffer(array_json([4], [1])))
        for value in (b"first", b"second", b"large" * 1000):
            await store.set_if_not_exists("a/c/0", buffer(value))
        assert (await self.get(store, "a/c/0")).to_bytes() == b"first"
        await store.delete("a/c/0")
        await asyncio.gather(*(store.set_if_not_exists("a/c/0", buffer(bytes([n]) * 5000)) for n in range(9)))
        assert len({*(await self.get(store, "a/c/0")).to_bytes()}) == 1

    async def test_delete(self, store):
        await store.set("foo/zarr.json", buffer(array_json([4], [1])))
        await store.set("foo/c/0", buffer(b"bar"))
        await store.delete("foo/c/0")
        assert not await store.exists("foo/c/0")
        await store.set("foo/c/0", buffer(b"bar"))
        await store.delete("foo/zarr.json")
        assert not await store.exists("foo/zarr.json")
        assert not await store.exists("foo/c/0")
        assert await _collect_aiterator(store.list()) == ()

    async def test_delete_dir(self, store):
        chunks = [f"foo/c/{row}/{column}" for row in range(2) for column in range(2)]
        nodes = {"zarr.json": GROUP, "foo-bar/zarr.json": GROUP, "foo/zarr.json": array_json([4, 4], [1, 1])}
        await store._set_many([(key, buffer(value)) for key, value in nodes.items()])
        await store._set_many([(key, buffer(b"chunk")) for key in chunks])
        for nothing in ("nothing", "foo/c/0/0", "foo/c/7", "f"):
            await store.delete_dir(nothing)
        assert sorted(await _collect_aiterator(store.list())) == sorted([*nodes, *chunks])
        await store.delete_dir("foo/c/0")
        assert sorted(await _collect_aiterator(store.list())) == sorted([*nodes, *chunks[2:]])
        await store.delete_dir("foo/")
        assert sorted(await _collect_aiterator(store.list())) == ["foo-bar/zarr.json", "zarr.json"]
        with pytest.raises(InvalidInputError):
            await store.delete_dir("foo/../x")

    async def test_delete_nonexistent_key_does_not_raise(self, store):
        await store.set("g/zarr.json", buffer(GROUP))
        await store.set("a/zarr.json", buffer(array_json([4], [1])))
        missing = ["a/c/0", "a/c/9", "a/c/0/0", "g/c/0", "nothing/c/0", "nothing/zarr.json", ".zgroup", "a/.zarray"]
        for key in missing:
            await store.delete(key)
        assert sorted(await _collect_aiterator(store.list())) == ["a/zarr.json", "g/zarr.json"]
        with pytest.raises(InvalidInputError) as caught:
            await store.delete("nonexistent_key")
        assert caught.value.kind == "invalid-key"

    async def test_clear(self, store):
        await store.set("foo/bar/zarr.json", buffer(GROUP))
        await store.set("a/zarr.json", buffer(array_json([4], [1])))
        await store.set("a/c/0", buffer(b"x" * 5000))
        await store.clear()
        assert await store.is_empty("")

    @pytest.mark.parametrize("key", ["c/0", "foo/c/0", "foo/0.0", "foo/0/0"])
    @pytest.mark.parametrize("data", [b"\x01\x02\x03\x04", b"x" * 5000])
    async def test_get(self, store, key, data):
        await super().test_get(store, key, data, None)

    @pytest.mark.parametrize("key", ["c/0", "foo/c/0", "foo/0.0", "foo/0/0"])
    @pytest.mark.parametrize("data", [b"\x01\x02\x03\x04", b"x" * 5000])
    async def test_getsize(self, store, key, data):
        await super().test_getsize(store, key, data)

    async def test_get_many(self, store):
        self.make_array(store, "a/c/0")
        keys = [f"a/c/{number}" for number in range(10)]
        await store._set_many([(key, buffer(key.encode())) for key in keys])
        observed = await _collect_aiterator(store._get_many([(key, default_buffer_prototype(), None) for key in keys]))
        assert sorted((key, value.to_bytes()) for key, value in observed) == [(key, key.encode()) for key in keys]

    async def test_getsize_prefix(self, store):
        self.make_array(store, "c/0/0")
        self.make_array(store, "cc/0")
        await super().test_getsize_prefix(store)

    @pytest.mark.parametrize("key", ["c/0", "foo/0.0"])
    async def test_get_partial_values(self, store, key):
        await self.set(store, key, buffer(b"0123456789"))
        asked = [(key, RangeByteRequest(0, 2)), (key, SuffixByteRequest(3)), (key, None)]
        found = await store.get_partial_values(default_buffer_prototype(), iter(asked))
        assert [value.to_bytes() for value in found] == [b"01", b"789", b"0123456789"]

    async def test_exists(self, store):
        await store.set("foo/zarr.json", buffer(GROUP))
        assert await store.exists("foo/zarr.json")
        assert not await store.exists("zarr.json")

    async def test_is_empty(self, store):
        assert await store.is_empty("")
        await store.set("foo/bar/zarr.json", buffer(GROUP))
        assert not await store.is_empty("")
        assert await store.is_empty("f")
        assert not await store.is_empty("foo/")
        assert not await store.is_empty("foo")

    async def test_list(self, store):
        assert await _collect_aiterator(store.list()) == ()
        values = {"foo/zarr.json": array_json([10], [1]), **{f"foo/c/{number}": b"x" for number in range(10)}}
        await store._set_many([(key, buffer(value)) for key, value in values.items()])
        assert sorted(await _collect_aiterator(store.list())) == sorted(values)

    async def test_list_prefix(self, store):
        prefixes = ("", "a/", "a/b/", "a/b/c/")
        await store._set_many([(f"{prefix}zarr.json", buffer(GROUP)) for prefix in prefixes])
        for prefix in prefixes:
            expected = sorted(f"{other}zarr.json" for other in prefixes if other.startswith(prefix))
            assert sorted(await _collect_aiterator(store.list_prefix(prefix))) == expected

    async def test_list_empty_path(self, store):
        values = {"foo/bar/zarr.json": array_json([2], [1]), "foo/bar/c/1": b"x", "foo/baz/zarr.json": GROUP}
        await store._set_many([(key, buffer(value)) for key, value in values.items()])
        for everything in (store.list(), store.list_prefix("")):
            assert sorted(await _collect_aiterator(everything)) == sorted(values)
        below = ["foo/bar/c/1", "foo/bar/zarr.json"]
        assert sorted(await _collect_aiterator(store.list_prefix("foo/bar/"))) == below

    async def test_list_dir(self, store):
        assert await _collect_aiterator(store.list_dir("")) == ()
        values = {"foo/zarr.json": array_json([2], [1]), "foo/c/1": b"x", "foo/bar/zarr.json": GROUP}
        await store._set_many([(key, buffer(value)) for key, value in values.items()])
        assert sorted(await _collect_aiterator(store.list_dir("foo"))) == ["bar", "c", "zarr.json"]
        assert sorted(await _collect_aiterator(store.list_dir("foo/c/"))) == ["1"]

    def test_set_sync(self, store):
        self.make_array(store, "a/c/0")
        for data in (b"small", b"x" * 5000):
            store.set_sync("a/c/0", buffer(data))
            assert store.get_sync("a/c/0").to_bytes() == data
        store.set_sync("zarr.json", buffer(GROUP))
        assert store.get_sync("zarr.json").to_bytes() == GROUP

    def test_delete_sync(self, store):
        asyncio.run(self.set(store, "a/c/0", buffer(b"x")))
        store.delete_sync("a/c/0")
        assert store.get_sync("a/c/0") is None

    def test_delete_sync_missing(self, store):
        store.delete_sync("nothing/c/0")

    def test_sync_async_set_get_parity(self, store):
        self.make_array(store, "a/c/0")
        store.set_sync("a/c/0", buffer(b"one"))
        asyncio.run(store.set("a/c/1", buffer(b"two")))
        assert asyncio.run(store.get("a/c/0", default_buffer_prototype())).to_bytes() == b"one"
        assert store.get_sync("a/c/1").to_bytes() == b"two"

    async def test_delete_sync_visible_to_async_get(self, store):
        await self.set(store, "a/c/0", buffer(b"x"))
        store.delete_sync("a/c/0")
        assert await store.get("a/c/0", default_buffer_prototype()) is None

    def test_get_sync(self, store):
        asyncio.run(self.set(store, "a/c/0", buffer(b"\x01\x02")))
        assert store.get_sync("a/c/0").to_bytes() == b"\x01\x02"

    def test_get_sync_missing(self, store):
        assert store.get_sync("nothing/c/0") is None

    @pytest.mark.parametrize("byte_range", [None, RangeByteRequest(1, 4), SuffixByteRequest(1), RangeByteRequest(2, 9)])
    async def test_get_sync_byte_range_parity(self, store, byte_range):
        await self.set(store, "a/c/0", buffer(b"\x01\x02\x03\x04"))
        expected = await store.get("a/c/0", default_buffer_prototype(), byte_range)
        assert store.get_sync("a/c/0", byte_range=byte_range).to_bytes() == expected.to_bytes()

    # Ours.

    @pytest.mark.parametrize(("template", "encoding"), ENCODINGS.items())
    async def test_chunk_keys_are_those_of_the_array(self, store, template, encoding):
        """Divergence 10."""
        await store.set("a/zarr.json", buffer(array_json([2, 2], [1, 1], encoding=encoding)))
        for other in ENCODINGS:
            key = f"a/{other.format(1, 0)}"
            if other == template:
                await store.set(key, buffer(b"x"))
            else:
                with pytest.raises(InvalidInputError):
                    await store.set(key, buffer(b"x"))
        assert store._session.chunk_ref("/a", (1, 0)) is not None
        assert sorted(await _collect_aiterator(store.list())) == sorted([f"a/{template.format(1, 0)}", "a/zarr.json"])

    @pytest.mark.parametrize(
        ("key", "value", "error", "kind"),
        [
            ("README.md", b"x", InvalidInputError, "invalid-key"),
            ("a/c.0.0", b"x", InvalidInputError, "invalid-key"),
            ("a/0/0", b"x", InvalidInputError, "invalid-key"),
            ("a/../b/zarr.json", GROUP, InvalidInputError, "invalid-key"),
            ("a/c/9/9", b"x", InvalidInputError, "invalid-chunk-index"),
            ("a/c/0/0/0", b"x", InvalidInputError, "invalid-chunk-index"),
            ("a/c/0/0", b"", InvalidInputError, "zero-length-chunk"),
            ("g/c/0", b"x", InvalidInputError, "not-an-array"),
            ("nothing/c/0", b"x", NodeNotFoundError, "node-not-found"),
            (".zgroup", b"{}", SessionStateError, "unimplemented"),
            ("b/zarr.json", b"{", InvalidInputError, "bad-metadata"),
            ("b/zarr.json", b"{}", InvalidInputError, "bad-metadata"),
            ("a/zarr.json", GROUP, AlreadyExistsError, "node-already-exists"),
        ],
    )
    async def test_what_is_refused(self, store, key, value, error, kind):
        await store.set("a/zarr.json", buffer(array_json([2, 2], [1, 1])))
        await store.set("g/zarr.json", buffer(GROUP))
        before = list(store._session.context.storage.iter_objects())
        for write in (store.set(key, buffer(value)), asyncio.to_thread(store.set_sync, key, buffer(value))):
            with pytest.raises(error) as caught:
                await write
            assert caught.value.kind == kind
        assert list(store._session.context.storage.iter_objects()) == before
        with pytest.raises(TypeError):
            await store.set("zarr.json", GROUP)

    async def test_a_committed_session_writes_no_more(self, store):
        await store.set("zarr.json", buffer(GROUP))
        store._session.commit("done")
        await self.check_refused(store)
        assert (await store.get("zarr.json", default_buffer_prototype())).to_bytes() == GROUP

    async def test_writers_wait_for_a_commit_without_blocking_the_event_loop(self, store):
        await store.set("zarr.json", buffer(GROUP))
        session = store._session
        entered, leave = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def commit() -> None:
            with session.draft.frozen():
                loop.call_soon_threadsafe(entered.set)
                asyncio.run_coroutine_threadsafe(leave.wait(), loop).result(20)

        committing = asyncio.create_task(asyncio.to_thread(commit))
        await entered.wait()
        writing = asyncio.create_task(store.set("a/zarr.json", buffer(GROUP)))
        await asyncio.sleep(0.05)
        assert not writing.done()
        assert (await store.get("zarr.json", default_buffer_prototype())).to_bytes() == GROUP
        leave.set()
        await asyncio.gather(committing, writing)
        assert await store.exists("a/zarr.json")
