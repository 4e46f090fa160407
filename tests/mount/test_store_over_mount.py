"""zarr-python's own tests of stores, on its `LocalStore` over a mounted branch.

Nothing is committed here: the tests put bytes under keys, which need not make a hierarchy yet. These do not apply
as they are:

- What the tests write is metadata, under every key (`Documents`): a `zarr.json` that is none is EINVAL at the rename.
  `test_get_many`, which knows its bytes, writes no `zarr.json`.
- Each test has a directory of its own, so that one mount serves all of them.
"""

import json
from typing import Any

import pytest
from zarr.core.buffer import Buffer, cpu
from zarr.core.common import BytesLike
from zarr.storage import LocalStore
from zarr.testing.store import StoreTests

from tests.conformance.official import GROUP, commit, create
from tests.conformance.test_store_official import under_asyncio
from tests.support.mounting import mounted


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("store")
    commit(create(scratch / "repo", 2), "first", {"zarr.json": GROUP})
    with mounted(scratch / "repo", branch="main", state_dir=str(scratch / "state")) as mount:
        yield mount.path


class Documents(cpu.Buffer):
    """Buffers that are metadata, whatever bytes a test makes them from, so that they can be a `zarr.json`, too."""

    @classmethod
    def from_bytes(cls, bytes_like: BytesLike) -> "Documents":
        attributes = {"data": bytes(bytes_like).hex()}
        text = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes})
        return super().from_bytes(text.encode())


@under_asyncio
class TestLocalStoreOverMount(StoreTests[LocalStore, Documents]):
    store_cls = LocalStore
    buffer_cls = Documents

    @pytest.fixture
    def store_kwargs(self, place, request) -> dict[str, Any]:
        name = "".join(char if char.isalnum() else "-" for char in request.node.name)
        root = place / name
        root.mkdir()
        return {"root": str(root)}

    @pytest.fixture
    def store(self, store_kwargs) -> LocalStore:
        store = LocalStore(**store_kwargs)
        store._is_open = True
        return store

    @pytest.fixture
    def store_not_open(self, store_kwargs) -> LocalStore:
        return LocalStore(**store_kwargs)

    async def set(self, store: LocalStore, key: str, value: Buffer) -> None:
        path = store.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value.to_bytes())

    async def get(self, store: LocalStore, key: str) -> Buffer:
        return cpu.Buffer.from_bytes((store.root / key).read_bytes())

    async def test_get_many(self, store):
        self.buffer_cls = cpu.Buffer
        await super().test_get_many(store)

    def test_store_repr(self, store):
        assert str(store) == f"file://{store.root.as_posix()}"

    def test_store_supports_writes(self, store):
        assert store.supports_writes

    def test_store_supports_listing(self, store):
        assert store.supports_listing
