"""Forks under their official names, and the helpers around them, on storage in memory and in one process."""

import asyncio
import importlib
import pickle

import dask
import dask.array
import numpy as np
import pytest
import xarray as xr
import zarr

import icefs
from icefs.dask import session_merge_reduction, store_dask
from icefs.distributed import extract_session, merge_sessions
from icefs.xarray import to_icechunk


@pytest.fixture
def repo() -> icefs.Repository:
    repo = icefs.Repository.create(icefs.in_memory_storage())
    with repo.transaction("main", message="base") as store:
        zarr.create_array(store, name="a", shape=(8,), chunks=(2,), dtype="i4")[...] = 0
    return repo


def opened(session: icefs.Session, path: str = "a") -> zarr.Array:
    return zarr.open_array(session.store, path=path, mode="r+")


def test_a_fork_is_a_session_that_can_be_sent(repo):
    session = repo.writable_session("main")
    fork = session.fork()
    assert isinstance(fork, icefs.ForkSession)
    assert (fork.branch, fork.read_only, fork.mode) == (None, False, icefs.SessionMode.writable)  # Divergence 73
    opened(fork)[0] = 1
    copy = pickle.loads(pickle.dumps(fork))
    assert isinstance(copy, icefs.ForkSession)
    assert isinstance(copy.store.session, icefs.ForkSession)
    assert isinstance(pickle.loads(pickle.dumps(copy.store)).session, icefs.ForkSession)
    assert (copy == fork, fork == fork.store.session) == (False, True)
    opened(copy)[2] = 2
    session.merge(fork, copy)
    assert opened(session)[...].tolist() == [1, 0, 2, 0, 0, 0, 0, 0]
    for refused in (session, session.store):
        with pytest.raises(ValueError, match="cannot be pickled"):
            pickle.dumps(refused)


@pytest.mark.parametrize("call", ["commit", "amend", "flush"])
def test_a_fork_is_not_committed(repo, call):
    with pytest.raises(icefs.SessionStateError) as caught:
        getattr(repo.writable_session("main").fork(), call)("no")
    assert caught.value.kind == icefs.ErrorKind.COMMIT_NOT_ALLOWED  # of flush: Divergence 74


def test_twins_fork_merge_and_move(repo):
    async def run() -> list[int]:
        session = repo.writable_session("main")
        fork = await session.fork_async()
        await asyncio.to_thread(opened(fork).__setitem__, 0, 5)
        await fork.shift_array_async("/a", [1])
        await fork.reindex_array_async("/a", lambda i: [3 - i[0]])
        await session.merge_async(fork)
        return await asyncio.to_thread(lambda: opened(session)[...].tolist())

    assert asyncio.run(run()) == [0, 0, 5, 0, 5, 0, 0, 0]


def test_extracting_and_merging(repo):
    session = repo.writable_session("main")
    forks = [session.fork() for _ in range(4)]
    for number, fork in enumerate(forks):
        opened(fork)[2 * number] = number + 1
    assert extract_session(opened(forks[0]), axis=0, keepdims=True) == forks[0]
    merged = merge_sessions(forks[0], [forks[1], [forks[2], forks[3]]])
    assert merged is forks[0]
    session.merge(merged)
    assert opened(session)[...].tolist() == [1, 0, 2, 0, 3, 0, 4, 0]
    for wrong in ([session], [forks[0], session], []):
        with pytest.raises(TypeError):
            merge_sessions(*wrong)
    with pytest.raises(TypeError, match="IcechunkStore"):
        extract_session(zarr.zeros(3))


def test_stored_arrays_are_merged(repo):
    session = repo.writable_session("main")
    target = opened(session.fork())
    stored = dask.array.store(
        [dask.array.arange(8, chunks=2)], [target], compute=False, return_stored=True, load_stored=False, lock=False
    )
    session.merge(session_merge_reduction(stored, split_every=3))
    assert opened(session)[...].tolist() == list(range(8))
    with pytest.raises(TypeError, match="Expected a dask array"):
        session_merge_reduction([target], split_every=None)


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
@pytest.mark.parametrize("split_every", [None, 2])
def test_dask_arrays_go_into_a_fork(repo, scheduler, split_every):
    session = repo.writable_session("main")
    target = opened(session.fork())
    with dask.config.set(scheduler=scheduler):
        one = store_dask(sources=[dask.array.arange(8, chunks=2)], targets=[target], split_every=split_every)
        two = store_dask(
            sources=[dask.array.ones(2, chunks=2), dask.array.zeros(2, chunks=2)],
            targets=[target, target],
            regions=[(slice(6, 8),), (slice(0, 2),)],
        )
    session.merge(one, two)
    assert opened(session)[...].tolist() == [0, 0, 2, 3, 4, 5, 1, 1]


def test_datasets_of_both_kinds_are_written(repo):
    session = repo.writable_session("main")
    data = xr.Dataset({"t": ("x", np.arange(4.0))}, coords={"x": list("abcd")})
    to_icechunk(data, session, group="memory")
    with dask.config.set(scheduler="synchronous"):
        to_icechunk(data.chunk(x=2), session, group="dask")
        to_icechunk(data.t.chunk(x=2) + 1, session, group="dask", mode="a", append_dim="x")
    for group, expected in (("memory", [0, 1, 2, 3]), ("dask", [0, 1, 2, 3, 1, 2, 3, 4])):
        with xr.open_zarr(session.store, group=group, consolidated=False) as found:
            assert found.t.values.tolist() == expected
    with pytest.raises(ValueError, match="read-only"):
        to_icechunk(data, repo.readonly_session("main"))


@pytest.mark.parametrize("name", ["dask", "distributed", "xarray"])
def test_helpers_are_found_as_submodules(name):
    module = importlib.import_module(f"icefs.{name}")
    assert module.__all__
    assert all(callable(getattr(module, each)) for each in module.__all__)
