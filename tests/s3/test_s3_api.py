"""The Python API on a real S3 server, with what the official library wrote there."""

import asyncio
import pickle
from types import ModuleType
from typing import Any

import icechunk
import numpy as np
import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype

import icefs

DATA = bytes(range(256))


@pytest.fixture
def place(s3_server, s3_prefix) -> dict[str, Any]:
    """The arguments of `s3_storage`, the same for both libraries."""
    options = s3_server.options()
    return {
        "bucket": "icefs-tests",
        "prefix": f"{s3_prefix}/repo",
        "region": "us-east-1",
        "endpoint_url": options.endpoint_url,
        "allow_http": True,
        "force_path_style": True,
        "access_key_id": options.credentials.access_key_id,
        "secret_access_key": options.credentials.secret_access_key,
    }


@pytest.fixture
def virtual_prefix(s3_storage, s3_prefix) -> str:
    s3_storage.put("data/some file.bin", DATA)
    return f"s3://icefs-tests/{s3_prefix}/data/"


def access(ic: ModuleType, place: dict[str, Any], prefix: str) -> Any:
    keys = {name: place[name] for name in ("access_key_id", "secret_access_key")}
    return ic.containers_credentials({prefix: ic.s3_credentials(**keys)})


def read(ic: ModuleType, place: dict[str, Any], prefix: str) -> Any:
    storage = ic.s3_storage(**place)
    repo = ic.Repository.open(storage, authorize_virtual_chunk_access=access(ic, place, prefix))
    session = pickle.loads(pickle.dumps(repo.readonly_session("main")))
    array = zarr.open_array(session.store, path="array", mode="r")
    virtual = asyncio.run(session.store.get("virtual/c/0", default_buffer_prototype())).to_bytes()
    history = [(info.id, info.message) for info in repo.ancestry(branch="main")]
    return ic.Repository.exists(storage), history, array[...].tolist(), virtual


@pytest.mark.parametrize("spec_version", [1, 2])
def test_both_libraries_read_the_same(place, virtual_prefix, spec_version):
    icechunk.set_logs_filter("off")
    store = icechunk.s3_store(
        region="us-east-1",
        endpoint_url=place["endpoint_url"],
        allow_http=True,
        force_path_style=True,
        s3_compatible=True,
    )
    config = icechunk.RepositoryConfig(
        virtual_chunk_containers={virtual_prefix: icechunk.VirtualChunkContainer(virtual_prefix, store)}
    )
    storage = icechunk.s3_storage(**place)
    repo = icechunk.Repository.create(storage, config=config, spec_version=spec_version)
    values = np.arange(3000, dtype="i4").reshape(30, 100)
    with repo.transaction("main", message="arrays") as writing:
        zarr.create_array(writing, name="array", data=values, chunks=(10, 50), compressors=None)
        zarr.create_array(writing, name="virtual", shape=(2,), chunks=(1,), dtype="u1", compressors=None)
        location = f"{virtual_prefix}some%20file.bin"
        writing.set_virtual_ref("virtual/c/0", location, offset=7, length=1)
    official = read(icechunk, place, virtual_prefix)
    assert official[2:] == (values.tolist(), DATA[7:8])
    assert read(icefs, place, virtual_prefix) == official
    unauthorised = icefs.Repository.open(icefs.s3_storage(**place)).readonly_session("main")
    with pytest.raises(icefs.InvalidInputError) as caught:
        unauthorised.store.get_sync("virtual/c/0")
    assert caught.value.kind == "unauthorized-virtual-chunk-container"


def test_wrong_keys_are_a_storage_error(place):
    with pytest.raises(icefs.StorageError):
        icefs.Repository.open(icefs.s3_storage(**place | {"secret_access_key": "wrong"}))
    with pytest.raises(icefs.RepositoryNotFoundError):
        icefs.Repository.open(icefs.s3_storage(**place | {"prefix": "nothing/here"}))


def test_forks_come_back_through_pickles(place):
    """Keys of the service travel with a fork, labels too; its objects there are the origin's."""
    labels = icefs.Attribution(client="tests/1")
    repo = icefs.Repository.create(icefs.s3_storage(**place), attribution=labels)
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="a", shape=(4, 1000), chunks=(1, 1000), dtype="i4", compressors=None)
    fork = session.fork()
    copies = [pickle.loads(pickle.dumps(fork)) for _ in range(3)]
    for number, copy in enumerate(copies):
        zarr.open_array(copy.store, path="a", mode="r+")[number] = number + 1
    session.merge(*map(pickle.loads, map(pickle.dumps, copies)))
    session.shift_array("/a", [1, 0])
    session.commit("merged")
    official = icechunk.Repository.open(icechunk.s3_storage(**place)).readonly_session("main")
    found = zarr.open_array(official.store, path="a", mode="r")[...]
    assert found.tolist() == [[number] * 1000 for number in range(4)]
