"""Virtual references that both libraries are asked to write: what is stored, what is left out, what is refused."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import icechunk
import numpy as np
import pytest
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.core.sync import sync

import icefs
from icefs.engine.repository import Repository
from icefs.format.manifest.refs import ChunkRef
from icefs.storage.local.store import LocalStorage
from tests.conformance.official import GROUP, array_json
from tests.conformance.oracle import error_facts

BYTES = bytes(range(64))


class Place:
    """A new repository of one of the libraries, with containers, and the object `x` that chunks can be parts of."""

    def __init__(self, ic: ModuleType, directory: Path, objects: Path) -> None:
        self.ic = ic
        self.path = directory / ic.__name__
        self.prefix = objects.as_uri() + "/"
        config = ic.RepositoryConfig.default()
        config.set_virtual_chunk_container(
            ic.VirtualChunkContainer(self.prefix, ic.local_filesystem_store(str(objects)), name="named")
        )
        self.repo = ic.Repository.create(ic.local_filesystem_storage(str(self.path)), config)
        self.repo.save_config()
        self.session = self.repo.writable_session("main")
        self.store = self.session.store
        for key, value in {"a/zarr.json": array_json([4, 4], [1, 1]), "g/zarr.json": GROUP}.items():
            sync(self.store.set(key, cpu.Buffer.from_bytes(value)))

    def outcome(self, call: Callable[["Place"], Any]) -> Any:
        try:
            return call(self)
        except (self.ic.IcechunkError, ValueError, TypeError) as error:
            return error_facts(error)

    def locations(self) -> list[str]:
        return sorted(self.session.all_virtual_chunk_locations())

    def refs(self) -> dict[tuple[int, ...], ChunkRef]:
        """Returns all references as stored, checksums included."""
        repo = Repository.open(LocalStorage(self.path))
        chunks = repo.readonly_session("main").array_chunks("/a")
        return {
            batch.refs.index(row): batch.refs.ref(row) for batch in chunks.iter_batches() for row in range(len(batch))
        }

    def read(self, ic: ModuleType) -> dict[str, bytes]:
        access = ic.containers_credentials({self.prefix: ic.credentials.LocalFileSystemAccess})
        storage = ic.local_filesystem_storage(str(self.path))
        store = ic.Repository.open(storage, authorize_virtual_chunk_access=access).readonly_session("main").store

        async def run() -> dict[str, bytes]:
            prototype = default_buffer_prototype()
            return {key: (await store.get(key, prototype)).to_bytes() async for key in store.list()}

        return asyncio.run(run())


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    directory = tmp_path / "objects"
    directory.mkdir()
    for name in ("x", "ü {}^"):
        (directory / name).write_bytes(BYTES)
    return directory


@pytest.fixture
def places(tmp_path: Path, objects: Path) -> tuple[Place, Place]:
    return Place(icechunk, tmp_path, objects), Place(icefs, tmp_path, objects)


def specs(place: Place, *chunks: tuple[Any, ...]) -> list[Any]:
    return [place.ic.VirtualChunkSpec(*chunk) for chunk in chunks]


def columns(*values: int) -> Any:
    return np.array(values, np.uint64)


def single(key: str, location: str, **more: Any) -> Callable[[Place], Any]:
    options = {"offset": 0, "length": 4} | more
    return lambda place: place.store.set_virtual_ref(key, location.replace("PREFIX/", place.prefix), **options)


CALLS: dict[str, Callable[[Place], Any]] = {
    "plain": single("a/c/0/0", "PREFIX/x", offset=2, length=5),
    "scheme in capitals": single("a/c/0/1", "S3://b/x//y", validate_container=False),
    "named": single("a/c/0/2", "vcc://named/x", offset=7),
    "with a time": single("a/c/0/3", "PREFIX/x", checksum=datetime(2100, 1, 1, 0, 0, 0, 999, UTC)),
    "with an entity tag": single("a/c/1/0", "s3://b/y", checksum='"tag"', validate_container=False),
    "to be encoded": single("a/c/1/1", "PREFIX/./q/../ü%20{}^"),
    "empty": single("a/c/0/0", "PREFIX/x", length=0),
    "no URL": single("a/c/0/0", "nonsense"),
    "no URL, unchecked": single("a/c/0/0", "nonsense", validate_container=False),
    "no container": single("a/c/0/0", "s3://b/x"),
    "no such name": single("a/c/0/0", "vcc://nobody/x"),
    "no such name, unchecked": single("a/c/3/3", "vcc://named/z", validate_container=False),
    "metadata": single("a/zarr.json", "PREFIX/x"),
    "bad key": single("README", "PREFIX/x"),
    "no array": single("nothing/c/0", "PREFIX/x"),
    "outside": single("a/c/7/7", "PREFIX/x"),
    "time without zone": single("a/c/0/0", "PREFIX/x", checksum=datetime(2100, 1, 1)),
    "many": lambda place: place.store.set_virtual_refs(
        "/a",
        specs(place, ([2, 0], place.prefix + "x", 0, 1), ([2, 1], "s3://q/x", 0, 1), ([2, 0], "vcc://named/x", 5, 2)),
    ),
    "many, one bad": lambda place: place.store.set_virtual_refs(
        "a", specs(place, ([2, 2], place.prefix + "x", 0, 1), ([2, 3], "bad", 0, 1))
    ),
    "many, one outside": lambda place: place.store.set_virtual_refs("a", specs(place, ([9, 9], "vcc://named/x", 0, 1))),
    "many, no array": lambda place: place.store.set_virtual_refs("q", specs(place, ([0, 0], "vcc://named/x", 0, 1))),
    "columns": lambda place: place.store.set_virtual_refs_arr(
        "/a", (1, 3), ["vcc://named/x", "", "s3://q/x"], columns(3, 0, 0), columns(4, 0, 9), arr_offset=(3, 0)
    ),
    "columns of other lengths": lambda place: place.store.set_virtual_refs_arr(
        "a", (2, 2), ["b"], columns(0), columns(1)
    ),
    "columns elsewhere": lambda place: place.store.set_virtual_refs_arr(
        "a", (1, 1), ["vcc://named/x"], columns(0), columns(1), arr_offset=(7, 7)
    ),
    "columns and a flat offset": lambda place: place.store.set_virtual_refs_arr(
        "a", (1, 1), ["vcc://named/x"], columns(0), columns(1), arr_offset=(1,)
    ),
}  # fmt: skip


def test_both_write_the_same_references(places: tuple[Place, Place]):
    official, ours = places
    assert {name: ours.outcome(call) for name, call in CALLS.items()} == {
        name: official.outcome(call) for name, call in CALLS.items()
    }
    assert ours.locations() == official.locations()
    assert len(ours.locations()) == 9
    for place in places:
        place.session.commit("virtual")
    assert ours.refs() == official.refs()


def test_both_read_what_either_wrote(places: tuple[Place, Place], objects: Path):
    for place in places:
        for name in ("plain", "named", "with a time", "to be encoded", "many", "columns"):
            CALLS[name](place)
        place.session.commit("virtual")
        values = place.read(icechunk)
        assert values == place.read(icefs)
        assert values["a/c/0/0"] == BYTES[2:7]
        assert values["a/c/0/2"] == BYTES[7:11]
        assert values["a/c/2/0"] == BYTES[5:7]
        assert values["a/c/3/0"] == BYTES[3:7]
        assert values["a/c/1/1"] == BYTES[:4]


def test_a_store_that_only_reads_takes_none(places: tuple[Place, Place]):
    store = places[1].store.with_read_only(read_only=True)
    for call in (
        lambda: store.set_virtual_ref("a/c/0/0", "vcc://named/x", offset=0, length=1),
        lambda: store.set_virtual_refs("a", []),
        lambda: store.set_virtual_refs_arr("a", (0, 0), [], columns(), columns()),
        lambda: store.sync_clear(),
    ):
        with pytest.raises(icefs.ReadOnlyError):
            call()


def test_the_twins(places: tuple[Place, Place]):
    place = places[1]

    async def run() -> None:
        await place.store.set_virtual_ref_async("a/c/0/0", "vcc://named/x", offset=0, length=4)
        assert await place.store.set_virtual_refs_async("a", specs(place, ((0, 1), "vcc://nobody/x", 0, 1))) == [(0, 1)]
        with pytest.raises(icefs.NodeNotFoundError):
            await place.store.set_virtual_refs_arr_async("q", (1,), ["vcc://named/x"], columns(0), columns(1))

    asyncio.run(run())
    place.store.sync_clear()
    assert not asyncio.run(place.store.exists("a/zarr.json"))
    assert place.session.status().is_empty()
