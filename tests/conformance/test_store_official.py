"""zarr-python's own tests of stores: the reading part, on repositories that the official library writes.

Each `set` of a test is a commit by the official library, which the store under test then follows. Values and keys
are Zarr's: the official library takes nothing else, so tests with others are given others here.
"""

import asyncio
import json
import pickle
from collections.abc import Iterable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

import pytest
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, cpu, default_buffer_prototype
from zarr.core.sync import _collect_aiterator
from zarr.testing.store import StoreTests

import icefs
from icefs.errors import InvalidInputError, ReadOnlyError
from icefs.zarr.store import IcechunkStore
from tests.conformance.official import GROUP, array_json, commit, create


def under_asyncio[T: type](cls: T) -> T:
    """Makes the coroutine tests of a class, inherited ones too, run under asyncio: pytest runs others under trio."""

    def synchronous(test: Any) -> Any:
        @wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            asyncio.run(test(*args, **kwargs))

        return run

    for name in dir(cls):
        if name.startswith("test_") and iscoroutinefunction(getattr(cls, name)):
            setattr(cls, name, synchronous(getattr(cls, name)))
    return cls


def _official_items(key: str, value: bytes) -> dict[str, bytes]:
    """Returns what the official library must write so that a key has a value: metadata, and the chunk it names."""
    if key.endswith("zarr.json"):
        return {key: value}
    parts = key.split("/")
    first = next(number for number, part in enumerate(parts) if part == "c" or part.replace(".", "").isdigit())
    array, chunk = "".join(f"{part}/" for part in parts[:first]), parts[first:]
    dotted = "." in chunk[-1]
    index = chunk[-1].split(".") if dotted else chunk[1:] if chunk[0] == "c" else chunk
    encoding = ("v2", ".") if dotted else ("default", "/") if chunk[0] == "c" else ("v2", "/")
    metadata = array_json([2000] * len(index), [1] * len(index), encoding=encoding)
    return {f"{array}zarr.json": metadata, "/".join([f"{array}c", *index]): value}


@under_asyncio
class TestReadingStore(StoreTests[IcechunkStore, cpu.Buffer]):
    store_cls = IcechunkStore
    buffer_cls = cpu.Buffer

    # What writes is refused, see `test_every_write_is_refused`.
    test_set = test_set_not_open = test_set_many = test_set_if_not_exists = None
    test_delete = test_delete_dir = test_delete_nonexistent_key_does_not_raise = test_clear = None
    test_set_sync = test_delete_sync = test_delete_sync_missing = None
    test_sync_async_set_get_parity = test_delete_sync_visible_to_async_get = None

    @pytest.fixture(params=[1, 2])
    def repos(self, request, tmp_path) -> tuple[Any, icefs.Repository]:
        official = create(tmp_path / "repo", request.param)
        return official, icefs.Repository.open(icefs.local_filesystem_storage(tmp_path / "repo"))

    @pytest.fixture
    def store_kwargs(self, repos) -> dict[str, Any]:
        self.official, self.repo = repos
        return {"session": self.repo.readonly_session("main")._engine}

    @pytest.fixture
    def store(self, store_kwargs) -> IcechunkStore:
        return self.repo.readonly_session("main").store

    @pytest.fixture
    def store_not_open(self, store_kwargs) -> IcechunkStore:
        return self.store_cls(**store_kwargs)

    def write(self, store: IcechunkStore, items: dict[str, bytes]) -> None:
        commit(self.official, "set", items)
        followed = IcechunkStore(self.repo.readonly_session("main")._engine)
        store._session, store._reader = followed._session, followed._reader

    async def set(self, store: IcechunkStore, key: str, value: Buffer) -> None:
        await self.set_many(store, [(key, value)])

    async def set_many(self, store: IcechunkStore, items: Iterable[tuple[str, Buffer]]) -> None:
        written: dict[str, bytes] = {}
        for key, value in items:
            written |= _official_items(key, value.to_bytes())
        await asyncio.to_thread(self.write, store, written)

    async def get(self, store: IcechunkStore, key: str) -> Buffer:
        raise NotImplementedError("nothing here writes through the store")

    def test_store_repr(self, store):
        assert "IcechunkStore" in repr(store)
        assert str(store.session.snapshot_id) in str(store)

    def test_store_supports_writes(self, store):
        assert store.supports_writes
        assert store.supports_deletes

    def test_store_supports_listing(self, store):
        assert store.supports_listing
        assert not store.supports_consolidated_metadata

    def test_store_read_only(self, store):
        assert store.read_only
        with pytest.raises(AttributeError):
            store.read_only = False

    def test_store_open_read_only(self, store, open_kwargs):
        opened = asyncio.run(self.store_cls.open(**open_kwargs, read_only=True))
        assert opened._is_open
        assert opened.read_only
        assert store._is_open

    async def test_serializable_store(self, store):
        await self.set(store, "zarr.json", self.buffer_cls.from_bytes(GROUP))
        copy = pickle.loads(pickle.dumps(store))
        assert copy == store
        assert copy.read_only == store.read_only
        assert (await copy.get("zarr.json", default_buffer_prototype())).to_bytes() == GROUP
        assert pickle.loads(pickle.dumps(store.with_read_only())) == store

    async def test_with_read_only_store(self, store):
        for copy in (store.with_read_only(read_only=False), store.with_read_only(read_only=True)):
            assert copy.read_only
            assert not copy._is_open
            with pytest.raises(ReadOnlyError):
                await copy.set("zarr.json", self.buffer_cls.from_bytes(GROUP))

    async def test_every_write_is_refused(self, store):
        await self.set(store, "zarr.json", self.buffer_cls.from_bytes(GROUP))
        buffer = self.buffer_cls.from_bytes(GROUP)
        kind, of_session = "read-only-store", "read-only-session"
        for expected, write in (
            (kind, store.set("zarr.json", buffer)),
            (kind, store.set("README.md", buffer)),
            (kind, store.set_if_not_exists("zarr.json", buffer)),  # Divergence 34
            (kind, store.set_if_not_exists("a/zarr.json", buffer)),
            (of_session, store.delete("zarr.json")),
            (of_session, store.delete("a/zarr.json")),
            (kind, store.delete_dir("")),
            (of_session, store.clear()),
            (kind, asyncio.to_thread(store.set_sync, "zarr.json", buffer)),
            (of_session, asyncio.to_thread(store.delete_sync, "zarr.json")),
        ):
            with pytest.raises(ReadOnlyError) as caught:
                await write
            assert caught.value.kind == expected
            assert isinstance(caught.value, ValueError)
        assert await _collect_aiterator(store.list()) == ("zarr.json",)

    @pytest.mark.parametrize("key", ["c/0", "foo/c/0", "foo/0.0", "foo/0/0"])
    @pytest.mark.parametrize("data", [b"\x01\x02\x03\x04", b"x" * 5000])
    @pytest.mark.parametrize(
        "byte_range",
        [None, RangeByteRequest(1, 4), OffsetByteRequest(1), SuffixByteRequest(1), RangeByteRequest(0, 10**6)],
    )
    async def test_get(self, store, key, data, byte_range):
        await super().test_get(store, key, data, byte_range)

    @pytest.mark.parametrize("key", ["c/0", "foo/c/0", "foo/0.0", "foo/0/0"])
    @pytest.mark.parametrize("data", [b"\x01\x02\x03\x04", b"x" * 5000])
    async def test_getsize(self, store, key, data):
        await super().test_getsize(store, key, data)

    async def test_get_many(self, store):
        keys = [f"a/c/{number}" for number in range(10)]
        await self.set_many(store, [(key, self.buffer_cls.from_bytes(key.encode())) for key in keys])
        requests = [(key, default_buffer_prototype(), None) for key in keys]
        observed = await _collect_aiterator(store._get_many(requests))
        assert sorted((key, value.to_bytes()) for key, value in observed) == [(key, key.encode()) for key in keys]

    async def test_getsize_prefix(self, store):
        value = self.buffer_cls.from_bytes(b"\x01\x02\x03\x04")
        keys = [f"a/c/{row}/{column}" for row in range(2) for column in range(2)]
        await self.set_many(store, [(key, value) for key in [*keys, "a/cc/c/0"]])
        assert await store.getsize_prefix("a/c") == 16
        assert await store.getsize_prefix("a/c/1/") == 8
        assert await store.getsize_prefix("a/cc/c") == 4
        assert await store.getsize_prefix("a/c/7") == await store.getsize_prefix("b") == 0

    @pytest.mark.parametrize(
        "key_ranges",
        [
            [],
            [("zarr.json", RangeByteRequest(0, 2))],
            [("c/0", RangeByteRequest(0, 2)), ("zarr.json", None)],
            [("a/c/0/0", RangeByteRequest(0, 2)), ("a/c/0/1", SuffixByteRequest(2)), ("a/c/0/2", OffsetByteRequest(2))],
        ],
    )
    async def test_get_partial_values(self, store, key_ranges):
        values = {key: GROUP if key == "zarr.json" else key.encode() for key, _ in key_ranges}
        if "c/0" in values:
            del values["zarr.json"]
        if values:
            await self.set_many(store, [(key, self.buffer_cls.from_bytes(value)) for key, value in values.items()])
        observed = await store.get_partial_values(default_buffer_prototype(), iter(key_ranges))
        expected = [await store.get(key, default_buffer_prototype(), byte_range) for key, byte_range in key_ranges]
        assert [buffer.to_bytes() for buffer in observed] == [buffer.to_bytes() for buffer in expected]

    async def test_partial_values_of_missing_keys(self, store):
        await self.set(store, "a/c/0", self.buffer_cls.from_bytes(b"here"))
        asked = [("a/c/1", None), ("a/c/0", None), ("b/zarr.json", None), ("a/c/5", RangeByteRequest(0, 1))]
        observed = await store.get_partial_values(default_buffer_prototype(), asked)
        assert [None if buffer is None else buffer.to_bytes() for buffer in observed] == [None, b"here", None, None]

    async def test_exists(self, store):
        await self.set(store, "foo/c/0", self.buffer_cls.from_bytes(b"bar"))
        assert await store.exists("foo/zarr.json")
        assert await store.exists("foo/c/0")
        for missing in ("foo/c/1", "foo/c", "foo/c/0/0", "zarr.json", "bar/zarr.json", "foo/.zarray", ".zgroup"):
            assert not await store.exists(missing)
        with pytest.raises(InvalidInputError):
            await store.exists("foo")

    async def test_is_empty(self, store):
        assert await store.is_empty("")
        await self.set(store, "foo/bar/zarr.json", self.buffer_cls.from_bytes(GROUP))
        assert not await store.is_empty("")
        assert await store.is_empty("foob")
        assert not await store.is_empty("foo/")
        assert not await store.is_empty("foo")
        assert await store.is_empty("spam/")

    async def test_list(self, store):
        assert await _collect_aiterator(store.list()) == ()
        keys = [f"foo/c/{number}" for number in range(10)]
        await self.set_many(store, [(key, self.buffer_cls.from_bytes(b"x")) for key in keys])
        assert sorted(await _collect_aiterator(store.list())) == [*keys, "foo/zarr.json"]

    async def test_list_prefix(self, store):
        prefixes = ("", "a/", "a/b/", "a/b/c/")
        await self.set_many(store, [(f"{prefix}zarr.json", self.buffer_cls.from_bytes(GROUP)) for prefix in prefixes])
        for prefix in prefixes:
            expected = sorted(f"{other}zarr.json" for other in prefixes if other.startswith(prefix))
            assert sorted(await _collect_aiterator(store.list_prefix(prefix))) == expected

    async def test_list_empty_path(self, store):
        keys = ["foo/bar/c/1", "foo/baz/c/0"]
        await self.set_many(store, [(key, self.buffer_cls.from_bytes(b"x")) for key in keys])
        everything = sorted([*keys, "foo/bar/zarr.json", "foo/baz/zarr.json"])
        assert sorted(await _collect_aiterator(store.list())) == everything
        assert sorted(await _collect_aiterator(store.list_prefix(""))) == everything
        below = ["foo/bar/c/1", "foo/bar/zarr.json"]
        for prefix in ("foo/bar/", "foo/bar", "/foo/bar"):
            assert sorted(await _collect_aiterator(store.list_prefix(prefix))) == below

    async def test_list_dir(self, store):
        assert await _collect_aiterator(store.list_dir("")) == ()
        assert await _collect_aiterator(store.list_dir("foo")) == ()
        values = {"foo/c/1": b"\x01", "foo/bar/zarr.json": GROUP, "v2/1.5": b"\x01", "scalar/c": b"\x01"}
        await self.set_many(store, [(key, self.buffer_cls.from_bytes(value)) for key, value in values.items()])
        for directory, names in {
            "": ["foo", "scalar", "v2"],
            "foo": ["bar", "c", "zarr.json"],
            "foo/": ["bar", "c", "zarr.json"],
            "foo/c": ["1"],
            "foo/c/1": [],
            "foo/bar": ["zarr.json"],
            "v2": ["1.5", "zarr.json"],
            "scalar": ["c", "zarr.json"],
            "scalar/c": [],
            "nothing": [],
        }.items():
            assert sorted(await _collect_aiterator(store.list_dir(directory))) == names

    def test_get_sync(self, store):
        asyncio.run(self.set(store, "a/c/0", self.buffer_cls.from_bytes(b"\x01\x02\x03\x04")))
        assert store.get_sync("a/c/0").to_bytes() == b"\x01\x02\x03\x04"
        assert store.get_sync("a/c/0", byte_range=SuffixByteRequest(2)).to_bytes() == b"\x03\x04"

    def test_get_sync_missing(self, store):
        assert store.get_sync("nonexistent/zarr.json") is None
        assert store.get_sync("nonexistent/c/0") is None

    @pytest.mark.parametrize(
        "byte_range",
        [None, RangeByteRequest(1, 4), OffsetByteRequest(1), SuffixByteRequest(1), RangeByteRequest(2, 20)],
    )
    async def test_get_sync_byte_range_parity(self, store, byte_range):
        await self.set(store, "a/c/0", self.buffer_cls.from_bytes(b"\x01\x02\x03\x04"))
        asynchronous = await store.get("a/c/0", default_buffer_prototype(), byte_range)
        assert store.get_sync("a/c/0", byte_range=byte_range).to_bytes() == asynchronous.to_bytes()

    async def test_get_ranges(self, store):
        data = bytes(range(256)) * 20
        await self.set(store, "a/c/0", self.buffer_cls.from_bytes(data))
        asked = [RangeByteRequest(5, 10), RangeByteRequest(100, 2000), SuffixByteRequest(3)]
        found: dict[int, bytes] = {}
        async for group in store.get_ranges("a/c/0", asked, prototype=default_buffer_prototype()):
            found |= {number: buffer.to_bytes() for number, buffer in group}
        assert found == {0: data[5:10], 1: data[100:2000], 2: data[-3:]}
        synchronous = store.get_ranges_sync("a/c/0", asked, prototype=default_buffer_prototype())
        assert {number: buffer.to_bytes() for number, buffer in synchronous} == found

    async def test_get_json(self, store):
        document = json.loads(GROUP)
        await self.set(store, "zarr.json", self.buffer_cls.from_bytes(GROUP))
        value = await store.get("zarr.json", default_buffer_prototype())
        assert json.loads(value.to_bytes()) == document
        assert isinstance(store, Store)
