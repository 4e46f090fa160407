"""zarr-python's own tests of stores, on a LocalStore in a mounted branch.

They write what is no metadata into `zarr.json`, which a branch refuses: such values are replaced by metadata here.
"""

import itertools
from pathlib import Path
from typing import Any

import pytest
from zarr.core.buffer import Buffer, cpu
from zarr.storage import LocalStore
from zarr.testing.store import StoreTests

from tests.conformance.test_store_official import under_asyncio

GROUP = b'{"node_type": "group", "zarr_format": 3}'
NUMBERS = itertools.count()


class GroupStore(LocalStore):
    """A LocalStore that sets metadata where the tests set anything else under its name."""

    async def set(self, key: str, value: Buffer) -> None:
        is_metadata = isinstance(value, Buffer) and key.endswith("zarr.json")
        await super().set(key, cpu.Buffer.from_bytes(GROUP) if is_metadata else value)


@under_asyncio
class TestLocalStore(StoreTests[LocalStore, cpu.Buffer]):
    store_cls = GroupStore
    buffer_cls = cpu.Buffer

    async def get(self, store: LocalStore, key: str) -> Buffer:
        return cpu.Buffer.from_bytes((store.root / key).read_bytes())

    async def set(self, store: LocalStore, key: str, value: Buffer) -> None:
        path = store.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(GROUP if path.name == "zarr.json" else value.to_bytes())

    @pytest.fixture
    def store_kwargs(self, branch) -> dict[str, Any]:
        root = branch.path / f"store{next(NUMBERS)}"
        root.mkdir()
        return {"root": str(root)}

    @pytest.fixture
    def store(self, store_kwargs) -> LocalStore:
        store = GroupStore(**store_kwargs)
        store._is_open = True
        return store

    @pytest.fixture
    def store_not_open(self, store_kwargs) -> LocalStore:
        return GroupStore(**store_kwargs)

    @pytest.fixture(autouse=True)
    def _clean(self, branch):
        yield
        branch.mount.rpc({"op": "discard"}, branch.tree)

    def test_store_repr(self, store):
        assert str(store) == f"file://{Path(store.root).as_posix()}"

    def test_store_supports_writes(self, store):
        assert store.supports_writes

    def test_store_supports_listing(self, store):
        assert store.supports_listing

    @pytest.mark.parametrize("key", ["zarr.json", "c/0", "foo/c/0.0", "foo/0/0"])
    @pytest.mark.parametrize("data", [b"\x01\x02\x03\x04", b""])
    async def test_set(self, store, key, data):
        await store.set(key, cpu.Buffer.from_bytes(data))
        assert (await self.get(store, key)).to_bytes() == (GROUP if key == "zarr.json" else data)

    async def test_set_many(self, store):
        keys = ["zarr.json", "c/0", "foo/c/0.0", "foo/0/0"]
        await store._set_many((key, cpu.Buffer.from_bytes(key.encode())) for key in keys)
        for key in keys:
            assert (await self.get(store, key)).to_bytes() == (GROUP if key == "zarr.json" else key.encode())

    async def test_metadata_that_is_none_is_refused_and_leaves_what_was_there(self, store):
        await store.set("zarr.json", cpu.Buffer.from_bytes(GROUP))
        with pytest.raises(OSError, match="Invalid argument"):
            await LocalStore.set(store, "zarr.json", cpu.Buffer.from_bytes(b"\x01"))
        assert (await self.get(store, "zarr.json")).to_bytes() == GROUP
        assert [path.name for path in store.root.iterdir()] == ["zarr.json"]
