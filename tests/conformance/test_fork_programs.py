"""Programs that write in many processes, or move chunks, run unchanged with icefs in the official library's place."""

import asyncio
import importlib
import multiprocessing
import pickle
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import dask
import dask.array
import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr

import icefs
from tests.conformance.fork_workers import write_rows, write_through_store
from tests.conformance.official import GROUP, array_json
from tests.conformance.oracle import diff_facts, error_facts
from tests.conformance.programs import MODULES, Program, created, everything, messages, outcome, put


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr-python warns of data types without a standard
        yield


def sent(session: Any) -> Any:
    return pickle.loads(pickle.dumps(session))


def values(session: Any, path: str = "a") -> Any:
    return zarr.open_array(session.store, path=path, mode="r")[...].tolist()


# Processes.


def coordinator(ic: ModuleType, path: Path) -> tuple[Any, Any, Any]:
    repo = created(ic, path)
    session = repo.writable_session("main")
    group = zarr.group(session.store)
    group.create_array("data", shape=(8, 4), chunks=(2, 4), dtype="i4", compressors=None)[0] = 7
    fork = session.fork()
    assert not fork.has_uncommitted_changes
    assert fork.snapshot_id != session.snapshot_id
    assert messages(repo) == [("Repository initialized", {"__icechunk": {"is_root": True}})]
    return repo, session, fork


def spawned_workers(ic: ModuleType, path: Path) -> Any:
    repo, session, fork = coordinator(ic, path)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        forks = list(pool.map(write_rows, [(fork, number) for number in range(2)]))
        stores = list(pool.map(write_through_store, [(session.fork().store, number) for number in (2, 3)]))
    assert {type(each) for each in forks} == {ic.ForkSession}
    session.merge(*forks, *(store.session for store in stores))
    status = diff_facts(session.status())
    session.commit("all workers")
    members = sorted(name for name, _ in zarr.open_group(repo.readonly_session("main").store, mode="r").members())
    return status, members, values(repo.readonly_session("main"), "data"), messages(repo)


@contextmanager
def workers(scheduler: str) -> Iterator[None]:
    """Makes dask use a scheduler, with one pool of processes for all that it does."""
    if scheduler == "threads":
        with dask.config.set(scheduler=scheduler, num_workers=2):
            yield
        return
    with (
        ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool,
        dask.config.set(scheduler=scheduler, pool=pool, num_workers=2),
    ):
        yield


def dask_processes(ic: ModuleType, path: Path) -> Any:
    repo, session, _ = coordinator(ic, path)
    store_dask = importlib.import_module(f"{ic.__name__}.dask").store_dask
    session.commit("before")
    results = []
    for scheduler in ("processes", "threads"):
        session = repo.writable_session("main")
        source = dask.array.arange(32, chunks=8).reshape(8, 4) + len(scheduler)
        with workers(scheduler):
            target = zarr.open_array(session.fork().store, path="data", mode="r+")
            parts = [source[:6], source[6:] * 2]
            regions = [(slice(0, 6), slice(0, 4)), (slice(6, 8), slice(0, 4))]
            session.merge(store_dask(sources=parts, targets=[target, target], regions=regions, split_every=2))
        session.commit(scheduler)
        results.append(values(repo.readonly_session("main"), "data"))
        assert results[-1] == dask.array.concatenate(parts).compute().tolist()
    return results, messages(repo)


def dataset(chunked: bool) -> xr.Dataset:
    times = np.array(["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04"], "datetime64[ns]")
    data = xr.Dataset(
        {"t": (("time", "x"), np.arange(20.0).reshape(4, 5), {"unit": "K"}), "s": ((), 3)},
        coords={"time": times, "x": list("abcde")},
    )
    return data.chunk({"time": 2, "x": 5}) if chunked else data


def xarray_in_processes(ic: ModuleType, path: Path) -> Any:
    repo = created(ic, path)
    to_icechunk = importlib.import_module(f"{ic.__name__}.xarray").to_icechunk
    encoding = {"t": {"chunks": (2, 5), "scale_factor": 0.5, "dtype": "i4", "_FillValue": -1}}
    with workers("processes"):
        for mode, data, more in (
            ("w", dataset(True), {"encoding": encoding}),
            (None, dataset(True).assign_coords(time=dataset(False).time + np.timedelta64(4, "D")),
             {"append_dim": "time"}),
            (None, (dataset(True)[["t"]].isel(time=slice(0, 2)) * 2).drop_vars("x"), {"region": "auto"}),
            ("a", dataset(False), {"group": "memory"}),
            (None, dataset(True)["t"], {"group": "array"}),
            (None, dataset(False)["t"].rename(None), {"group": "nameless"}),
            (None, dataset(False)["x"], {"group": "coordinate"}),
        ):  # fmt: skip
            session = repo.writable_session("main")
            to_icechunk(data, session, mode=mode, **more)
            session.commit(str(more))
    store = repo.readonly_session("main").store
    found = {}
    for group in (None, "memory", "array", "nameless", "coordinate"):
        with xr.open_zarr(store, group=group, consolidated=False, zarr_format=3) as opened:
            found[group] = opened.load().to_dict()
    return found


# One process.


def forked_sessions(ic: ModuleType, path: Path) -> Any:
    repo = created(ic, path)
    session = repo.writable_session("main")
    put(session.store, "a/zarr.json", array_json([4], [1]))
    same = session.fork()
    put(session.store, "a/c/0", b"0")
    fork = session.fork()
    facts: list[Any] = [
        type(fork) is ic.ForkSession,
        isinstance(fork, ic.Session),
        fork.branch,
        fork.read_only,
        fork.has_uncommitted_changes,
        type(fork.store.session) is ic.ForkSession,
        fork == fork,
        fork == session.fork(),
        sent(fork) == fork,
        fork.store == fork.store,
        type(sent(fork.store).session) is ic.ForkSession,
        values(same),
        values(fork),
    ]
    one, two = sent(fork), sent(fork)
    put(one.store, "a/c/1", b"1")
    put(one.store, "a/c/2", b"1")
    put(two.store, "a/c/2", b"2")
    asyncio.run(two.store.delete("a/c/0"))
    facts += [diff_facts(one.status()), diff_facts(two.status()), values(one), values(two)]
    child = sent(one.fork())
    put(child.store, "a/c/3", b"3")
    one.merge(child)
    asyncio.run(session.merge_async(one, two))
    facts += [values(session), diff_facts(session.status())]
    session.merge(one)  # again: now it is the last
    session.merge(session)
    facts += [values(session), diff_facts(session.status())]
    fork.discard_changes()
    session.commit("merged")
    return facts, values(repo.readonly_session("main")), messages(repo)


def refused_forks(ic: ModuleType, path: Path) -> Any:
    repo = created(ic, path)
    with repo.transaction("main", message="base") as store:
        put(store, "zarr.json", GROUP)
        put(store, "a/zarr.json", array_json([4], [1]))
    reading, moving, session = (repo.readonly_session("main"), repo.rearrange_session("main"),
                                repo.writable_session("main"))  # fmt: skip
    fork, done = session.fork(), repo.writable_session("main")
    done.commit("done", allow_empty=True)
    moving.move("/a", "/b")
    moved = moving.fork()
    put(moved.store, "b/c/0", b"x")
    calls: dict[str, Callable[[], Any]] = {
        "commit": lambda: fork.commit("x"),
        "amend": lambda: fork.amend("x"),
        "rebase": lambda: fork.rebase(ic.ConflictDetector()),
        "move": lambda: fork.move("/a", "/b"),
        "fork reading": lambda: reading.fork(),
        "fork committed": lambda: done.fork(),
        "merge into reading": lambda: reading.merge(fork),
        "merge into committed": lambda: done.merge(fork),
        "merge origin": lambda: fork.merge(session),
        "merge reading": lambda: session.merge(reading),
        "merge moves": lambda: session.merge(moving),
        "merge into moves": lambda: moving.merge(moved),
        "move again": lambda: moved.move("/b", "/c"),
        "pickle": lambda: pickle.dumps(session),
        "pickle moves": lambda: pickle.dumps(moving.store),
    }
    found = {name: outcome(ic, call) for name, call in calls.items()}
    for name in ("pickle", "pickle moves"):
        assert isinstance(_error(calls[name]), ValueError)
        found[name] = ("ValueError", None)
    return found


def _error(call: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


def merge_conflicts(ic: ModuleType, path: Path) -> Any:
    repo = created(ic, path)
    with repo.transaction("main", message="base") as store:
        put(store, "g/zarr.json", GROUP)
        for name in ("a", "b"):
            put(store, f"{name}/zarr.json", array_json([4], [1]))
            put(store, f"{name}/c/0", b"base")

    def delete(key: str) -> Callable[[Any], Any]:
        return lambda session: asyncio.run(session.store.delete(key))

    def make(key: str, data: bytes) -> Callable[[Any], Any]:
        return lambda session: put(session.store, key, data)

    def nothing(session: Any) -> None: ...

    new, longer = array_json([2], [1]), array_json([9], [1])
    anew = lambda session: (delete("a/zarr.json")(session), make("a/zarr.json", new)(session))  # noqa: E731
    cases = {
        "groups": (nothing, make("n/zarr.json", GROUP), make("n/zarr.json", GROUP)),
        "arrays": (nothing, make("n/zarr.json", new), make("n/zarr.json", new)),
        "resized alike": (nothing, make("a/zarr.json", longer), make("a/zarr.json", longer)),
        "resized differently": (nothing, make("a/zarr.json", longer), make("a/zarr.json", new)),
        "resized before and after": (make("a/zarr.json", longer), nothing, make("a/zarr.json", new)),
        "groups changed": (nothing, make("g/zarr.json", GROUP + b" "), make("g/zarr.json", GROUP + b"  ")),
        "deleted, written": (nothing, delete("a/zarr.json"), make("a/c/1", b"x")),
        "written, deleted": (nothing, make("a/c/1", b"x"), delete("a/zarr.json")),
        "deleted, resized": (nothing, delete("a/zarr.json"), make("a/zarr.json", longer)),
        "resized, deleted": (nothing, make("a/zarr.json", longer), delete("a/zarr.json")),
        "deleted twice": (nothing, delete("a/zarr.json"), delete("a/zarr.json")),
        "deleted, made anew": (nothing, delete("a/zarr.json"), anew),
        "made anew twice": (nothing, anew, anew),
        "deleted before, made": (delete("a/zarr.json"), nothing, make("a/zarr.json", new)),
        "made before, deleted": (make("n/zarr.json", new), nothing, delete("n/zarr.json")),
        "group made before, deleted": (make("n/zarr.json", GROUP), nothing, delete("n/zarr.json")),
        "group deleted, changed": (nothing, delete("g/zarr.json"), make("g/zarr.json", GROUP + b" ")),
        "different nodes": (nothing, make("a/zarr.json", longer), make("b/zarr.json", longer)),
        "chunks of one array": (nothing, make("a/c/1", b"one"), make("a/c/1", b"two")),
        "chunk and its delete": (nothing, make("a/c/1", b"one"), delete("a/c/1")),
        "metadata and chunks": (nothing, make("a/zarr.json", longer), make("a/c/1", b"two")),
        "made, below": (nothing, make("n/zarr.json", GROUP), make("n/x/zarr.json", GROUP)),
    }
    found: dict[str, Any] = {}
    for name, (before, one, two) in cases.items():
        session = repo.writable_session("main")
        before(session)
        forks = [sent(session.fork()) for _ in range(2)]
        one(forks[0])
        two(forks[1])
        session.merge(forks[0])
        merged = outcome(ic, lambda session=session, fork=forks[1]: session.merge(fork))
        repo.create_branch(name, repo.lookup_branch("main"))
        found[name] = merged, diff_facts(session.status())
        on_branch = repo.writable_session(name)
        on_branch.merge(forks[0])
        if merged == "no error" and before is nothing:
            on_branch.merge(forks[1])
            on_branch.commit(name, allow_empty=True)
    return found


# Moving chunks.


def grids(ic: ModuleType, path: Path) -> Any:
    repo = created(ic, path, config=ic.RepositoryConfig(inline_chunk_threshold_bytes=8))
    session = repo.writable_session("main")
    group = zarr.group(session.store)
    group.create_array("a", shape=(10,), chunks=(2,), dtype="i4", compressors=None)[...] = np.arange(10) + 1
    group.create_array("b", shape=(6, 5), chunks=(2, 2), dtype="i2")[...] = np.arange(30).reshape(6, 5) + 1
    group.create_array("s", shape=(), dtype="i4")[...] = 3
    sparse = group.create_array("sparse", shape=(12,), chunks=(2,), dtype="i4", compressors=None)
    sparse[0:2], sparse[6:8] = 1, 4
    session.commit("base")
    return repo


def shifts(ic: ModuleType, path: Path) -> Any:
    repo = grids(ic, path)
    found: dict[str, Any] = {}
    for name, offset in [("a", [n]) for n in (1, -1, 0, 4, 5, -7, 2**40, 2**63 - 1, -(2**63))] + [
        ("b", [1, -1]), ("b", (0, 1)), ("b", [-2, 2]), ("b", [3, 0]), ("s", []), ("sparse", [1]), ("sparse", [-1])
    ]:  # fmt: skip
        session = repo.writable_session("main")
        session.shift_array(f"/{name}", offset)
        found[f"{name} {offset}"] = values(session, name), diff_facts(session.status())
        repo.create_branch(f"{name}{offset}", session.snapshot_id)
        branch = repo.writable_session(f"{name}{offset}")
        branch.shift_array(f"/{name}", iter(offset))
        branch.commit("shift")
    session = repo.writable_session("main")
    array = zarr.open_array(session.store, path="a")
    array[4:6] = 50
    asyncio.run(session.store.delete("a/c/1"))
    array.resize((16,))
    session.shift_array("/a", [3])
    found["grown"] = values(session), diff_facts(session.status())
    array.resize((6,))
    session.shift_array("/a", [-1])
    array.resize((8,))
    found["shrunk"] = values(session), diff_facts(session.status())
    fork = session.fork()
    fork.shift_array("/a", [1])
    session.merge(fork)
    session.commit("all of it")
    return found


def reindexings(ic: ModuleType, path: Path) -> Any:
    repo = grids(ic, path)
    found: dict[str, Any] = {}
    right = lambda i: [i[0] + 1] if i[0] < 4 else None  # noqa: E731
    left = lambda i: [i[0] - 1] if i[0] else None  # noqa: E731
    cases: dict[str, tuple[str, Any, Any]] = {
        "reversed": ("a", lambda i: [4 - i[0]], None),
        "tuples": ("a", lambda i: tuple(4 - each for each in i), None),
        "numbers of numpy": ("a", lambda i: 4 - np.array(i), None),
        "to the right": ("a", right, None),
        "to the right, emptied": ("a", right, left),
        "nowhere": ("a", lambda i: None, None),
        "nowhere, emptied": ("a", lambda i: None, lambda i: None),
        "nowhere, from beyond": ("a", lambda i: None, lambda i: [99]),
        "all to one": ("a", lambda i: [2], None),
        "reversed, all given up": ("a", lambda i: [4 - i[0]], lambda i: None),
        "sparse": ("sparse", lambda i: [i[0] + 1], None),
        "sparse, emptied": ("sparse", lambda i: [i[0] + 1], left),
        "rolled": ("b", lambda i: [(i[0] + 1) % 3, i[1]], lambda i: [(i[0] - 1) % 3, i[1]]),
        "partly": ("b", lambda i: [2, i[1]] if i[0] == 0 else None, lambda i: None if i[0] == 0 else i),
        "scalar": ("s", lambda i: i, lambda i: i),
    }
    for name, (array, forward, backward) in cases.items():
        session = repo.writable_session("main")
        session.reindex_array(f"/{array}", forward, backward)
        found[name] = values(session, array), diff_facts(session.status())
        repo.create_branch(name, session.snapshot_id)
        branch = repo.writable_session(name)
        branch.reindex_array(f"/{array}", forward, backward)
        branch.commit(name, allow_empty=True)
    return found


def refused_moves(ic: ModuleType, path: Path) -> Any:
    repo = grids(ic, path)
    session, reading = repo.writable_session("main"), repo.readonly_session("main")
    moving = repo.rearrange_session("main")
    calls: dict[str, Callable[[], Any]] = {
        "group": lambda: session.shift_array("/", [1]),
        "nowhere": lambda: session.shift_array("/no", [1]),
        "relative": lambda: session.shift_array("a", [1]),
        "text": lambda: session.shift_array("/a", ["x"]),
        "float": lambda: session.shift_array("/a", [1.5]),
        "reading": lambda: reading.shift_array("/a", [1]),
        "moving": lambda: moving.shift_array("/a", [1]),
        "beyond": lambda: session.reindex_array("/a", lambda i: [i[0] + 1]),
        "reindex group": lambda: session.reindex_array("/", lambda i: i),
        "reindex nowhere": lambda: session.reindex_array("/no", lambda i: i),
        "reindex reading": lambda: reading.reindex_array("/a", lambda i: i),
        "reindex moving": lambda: moving.reindex_array("/a", lambda i: i),
    }
    found = {name: outcome(ic, call) for name, call in calls.items()}
    return found, session.has_uncommitted_changes


PROGRAMS: list[Program] = [
    forked_sessions, refused_forks, merge_conflicts, shifts, reindexings, refused_moves
]  # fmt: skip
IN_PROCESSES: list[Program] = [spawned_workers, dask_processes, xarray_in_processes]


def check(program: Program, tmp_path: Path) -> None:
    official, ours = (program(module, tmp_path / module.__name__) for module in MODULES)
    assert ours == official
    for directory in (tmp_path / "icefs", tmp_path / "icechunk"):
        by_official, by_us = everything(icechunk, directory), everything(icefs, directory)
        assert by_us == by_official
        assert by_official
    assert everything(icechunk, tmp_path / "icefs") == everything(icechunk, tmp_path / "icechunk")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_program_gives_the_same_result(program: Program, tmp_path: Path):
    check(program, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("program", IN_PROCESSES, ids=lambda program: program.__name__)
def test_a_program_of_many_processes_gives_the_same_result(program: Program, tmp_path: Path):
    check(program, tmp_path)


# What differs on purpose, and how.


def test_where_forks_and_moved_chunks_differ(tmp_path: Path):
    """Shows Divergences 67 and 68, 70, 72, 73 and 74 of both libraries; those of metadata are below."""
    found = [_differences(module, tmp_path / module.__name__) for module in MODULES]
    official, ours = found
    assert official == {
        "offset too long": "no error",
        "longer index": "no error",
        "own error": ("IcechunkError", "unknown"),
        "no index": ("IcechunkError", "unknown"),
        "two kinds": "no error",
        "kept of a failed merge": True,
        "mode": "SessionMode.readonly",
        "flush": ("IcechunkError", "unknown"),
        "other grid": ("IcechunkError", "unknown"),
    }
    assert ours == {
        "offset too long": ("InvalidInputError", "invalid-chunk-index"),
        "longer index": ("InvalidInputError", "invalid-chunk-index"),
        "own error": ("KeyError", None),
        "no index": ("InvalidInputError", "invalid-chunk-index"),
        "two kinds": ("SessionStateError", "merge-failed"),
        "kept of a failed merge": False,
        "mode": "SessionMode.writable",
        "flush": ("SessionStateError", "commit-not-allowed"),
        "other grid": ("UnsupportedError", "unimplemented"),
    }


def _differences(ic: ModuleType, path: Path) -> dict[str, Any]:
    repo = grids(ic, path)
    session = repo.writable_session("main")
    grid = {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": [[1, 3]]}}
    put(session.store, "r/zarr.json", array_json([4], [1], grid=grid))
    one, two, three = session.fork(), session.fork(), session.fork()
    put(one.store, "n/zarr.json", array_json([2], [1]))
    put(two.store, "n/zarr.json", GROUP)
    put(three.store, "n/zarr.json", array_json([2], [1]))

    def own_error(_: object) -> Any:
        raise KeyError("mine")

    calls: dict[str, Callable[[], Any]] = {
        "offset too long": lambda: repo.writable_session("main").shift_array("/a", [1, 2]),
        "longer index": lambda: repo.writable_session("main").reindex_array("/a", lambda i: [*i, 0]),
        "own error": lambda: session.reindex_array("/a", own_error),
        "no index": lambda: session.reindex_array("/a", lambda i: "x"),
        "two kinds": lambda: (s := repo.writable_session("main"), s.merge(one), s.merge(two)),
        "flush": lambda: one.flush("x"),
        "other grid": lambda: session.shift_array("/r", [1]),
    }
    found: dict[str, Any] = {name: _outcome(call) for name, call in calls.items()}
    whole = repo.writable_session("main")
    assert _outcome(lambda: whole.merge(one, three)) == ("SessionStateError", "merge-failed")
    found["kept of a failed merge"] = whole.has_uncommitted_changes
    found["mode"] = str(one.mode)
    return found


def _outcome(call: Callable[[], Any]) -> Any:
    try:
        call()
    except Exception as error:
        return error_facts(error)
    return "no error"


def test_metadata_that_a_fork_gave_to_what_its_origin_made(tmp_path: Path):
    """Shows Divergence 69: the official library loses the new shape and unit."""
    found = []
    for ic in MODULES:
        repo = created(ic, tmp_path / ic.__name__)
        session = repo.writable_session("main")
        put(session.store, "a/zarr.json", array_json([2], [1]))
        fork = session.fork()
        put(fork.store, "a/zarr.json", array_json([3], [1]))
        put(fork.store, "a/c/1", b"x")
        session.merge(fork)
        found.append((outcome(ic, lambda session=session: session.commit("x")), values(repo.readonly_session("main"))))
    official, ours = found
    assert ours == ("no error", [0, ord("x"), 0])
    assert official == ("no error", [0, ord("x")])


def test_forks_of_another_repository(tmp_path: Path):
    """Shows Divergence 71: the official library takes over references to chunks that are not there."""
    found = []
    for ic in MODULES:
        repos = [created(ic, tmp_path / ic.__name__ / name) for name in ("one", "two")]
        one, two = (repo.writable_session("main") for repo in repos)
        fork = two.fork()
        put(fork.store, "n/zarr.json", GROUP)
        found.append(outcome(ic, lambda one=one, fork=fork: one.merge(fork)))
    assert found == ["no error", ("SessionStateError", "merge-not-allowed")]
