"""Programs that read, written for the official library, run unchanged with icefs in its place.

Each program takes the module as `ic`, as a program would that says `import icechunk as ic` or `import icefs as ic`,
and returns plain values, which must be the same.
"""

import asyncio
import dataclasses
import pickle
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr

import icefs
from tests.conformance.official import GeneratedRepo
from tests.conformance.oracle import (
    diff_facts,
    error_facts,
    flag_facts,
    info_facts,
    status_facts,
    update_facts,
)

type Program = Callable[[ModuleType, Path], Any]


def opened(ic: ModuleType, path: Path) -> Any:
    return ic.Repository.open(ic.local_filesystem_storage(str(path)))


def read_arrays(ic: ModuleType, path: Path) -> Any:
    repo = opened(ic, path)
    found: dict[str, Any] = {}
    for name in sorted(repo.list_branches()):
        session = repo.readonly_session(branch=name)
        root = zarr.open_group(session.store, mode="r")
        for array_path, array in sorted(root.members(max_depth=None)):
            if isinstance(array, zarr.Array):
                found[f"{name}:{array_path}"] = (array.shape, array.chunks, str(array.dtype), array[...].tobytes())
            else:
                found[f"{name}:{array_path}"] = dict(array.attrs)
    return found


def read_some_of_each_array(ic: ModuleType, path: Path) -> Any:
    session = opened(ic, path).readonly_session("main")
    group = zarr.open_group(session.store, mode="r")
    found = {}
    for name, array in group.members(max_depth=None):
        if isinstance(array, zarr.Array) and array.ndim == 2 and array.size:
            found[name] = (
                array[1, 2].tobytes(),
                array[::3, -1].tobytes(),
                array.nchunks_initialized,
                array.nbytes_stored(),
            )
    return found


def time_travel(ic: ModuleType, path: Path) -> Any:
    repo = opened(ic, path)
    found = []
    for info in repo.ancestry(branch="main"):
        for session in (
            repo.readonly_session(snapshot_id=info.id),
            repo.readonly_session("main", as_of=info.written_at),
            repo.readonly_session(branch="main", as_of=info.written_at + timedelta(microseconds=0)),
        ):
            keys = sorted(asyncio.run(_collect(session.store.list())))
            found.append((info_facts(info), session.snapshot_id, session.read_only, session.branch, keys))
    return found


def history(ic: ModuleType, path: Path) -> Any:
    repo = opened(ic, path)
    first = list(repo.ancestry(branch="main"))[-1].id
    diff = repo.diff(from_snapshot_id=first, to_branch="main")
    tags = {tag: repo.lookup_tag(tag) for tag in repo.list_tags()}
    ancestry = {tag: [info.id for info in repo.ancestry(tag=tag)] for tag in tags}
    return diff_facts(diff), diff.is_empty(), tags, ancestry, repo.lookup_snapshot(first).message


def administration(ic: ModuleType, path: Path) -> Any:
    repo = opened(ic, path)
    storage = ic.local_filesystem_storage(str(path))
    found: list[Any] = [
        ic.Repository.exists(storage),
        int(ic.Repository.fetch_spec_version(storage)),
        int(repo.spec_version),
        repo.spec_version == ic.SpecVersion.v2,
        repo.authorized_virtual_container_prefixes,
    ]
    config = ic.Repository.fetch_config(storage)
    found.append(None if config is None else config.inline_chunk_threshold_bytes)
    if repo.spec_version == ic.SpecVersion.v2:
        found += [repo.metadata, repo.get_metadata(), status_facts(repo.status), flag_facts(repo.feature_flags())]
        found += [repo.status.availability == ic.RepoAvailability.online, repo.inspect_repo_info()]
        updates = list(repo.ops_log())
        found += [[update_facts(update) for update in updates]]
        found += [isinstance(updates[-1].kind, ic.UpdateType.RepoInitialized | ic.UpdateType.RepoMigrated)]
        found += [[each.kind.branch for each in updates if isinstance(each.kind, ic.UpdateType.NewCommit)]]
    return found


def chunks(ic: ModuleType, path: Path) -> Any:
    session = opened(ic, path).readonly_session("main")
    found: dict[str, Any] = {"locations": sorted(session.all_virtual_chunk_locations())}
    for name, array in zarr.open_group(session.store, mode="r").members(max_depth=None):
        node = f"/{name}"
        found[node] = session.get_node_id(node)
        if isinstance(array, zarr.Array):
            indices = sorted(asyncio.run(_collect(session.chunk_coordinates(node, batch_size=3))))
            types = {index: session.chunk_type(node, index) for index in indices}
            found[f"{node} chunks"] = {index: (str(kind), int(kind)) for index, kind in types.items()}
            found[f"{node} inline"] = [index for index, kind in types.items() if kind == ic.ChunkType.inline]
    return found


def asynchronous(ic: ModuleType, path: Path) -> Any:
    async def run() -> Any:
        storage = ic.local_filesystem_storage(str(path))
        repo = await ic.Repository.open_async(storage)
        session = await repo.readonly_session_async("main")
        ids = [info.id async for info in repo.async_ancestry(branch="main")]
        diff = await repo.diff_async(from_snapshot_id=ids[-1], to_snapshot_id=ids[0])
        group = await zarr.api.asynchronous.open_group(session.store, mode="r")
        names = sorted([name async for name, _ in group.members()])
        files = await repo.list_manifest_files_async(ids[0])
        return (
            ids,
            diff_facts(diff),
            names,
            await repo.list_branches_async(),
            await repo.lookup_branch_async("main"),
            sorted((file.id, file.size_bytes, file.num_chunk_refs) for file in files),
            await ic.Repository.exists_async(storage),
            await repo.inspect_snapshot_async(ids[0]),
        )

    return asyncio.run(run())


def sent_elsewhere(ic: ModuleType, path: Path) -> Any:
    repo = pickle.loads(pickle.dumps(opened(ic, path)))
    session = pickle.loads(pickle.dumps(repo.readonly_session("main")))
    store = pickle.loads(pickle.dumps(session.store))
    return session.snapshot_id, store.read_only, sorted(asyncio.run(_collect(store.list())))


def with_xarray(ic: ModuleType, path: Path) -> Any:
    session = opened(ic, path).readonly_session("main")
    with xr.open_zarr(session.store, consolidated=False, zarr_format=3) as dataset:
        eager = {name: (variable.dims, variable.to_numpy().tobytes()) for name, variable in dataset.variables.items()}
        lazy = float(dataset["data"].astype("float64").sum().compute())
    return eager, lazy


def mistakes(ic: ModuleType, path: Path) -> Any:
    repo = opened(ic, path)
    session = repo.readonly_session("main")
    nobody = "0" * 20
    nowhere = ic.local_filesystem_storage(str(path / "nowhere"))
    calls: dict[str, Callable[[], Any]] = {
        "open": lambda: ic.Repository.open(nowhere),
        "fetch_config": lambda: ic.Repository.fetch_config(nowhere),
        "lookup_branch": lambda: repo.lookup_branch("nothing"),
        "lookup_tag": lambda: repo.lookup_tag("nothing"),
        "bad id": lambda: repo.lookup_snapshot("nothing"),
        "empty id": lambda: repo.lookup_snapshot(""),
        "unknown id": lambda: repo.lookup_snapshot(nobody),
        "ancestry of nothing": lambda: list(repo.ancestry()),
        "ancestry of too much": lambda: list(repo.ancestry(branch="main", snapshot_id=nobody)),
        "ancestry of a branch": lambda: list(repo.ancestry(branch="nothing")),
        "ancestry of a tag": lambda: list(repo.ancestry(tag="nothing")),
        "ancestry of a snapshot": lambda: list(repo.ancestry(snapshot_id=nobody)),
        "ancestry of a bad id": lambda: list(repo.ancestry(snapshot_id="zz")),
        "session of nothing": lambda: repo.readonly_session(),
        "session of a branch": lambda: repo.readonly_session("nothing"),
        "session of a tag": lambda: repo.readonly_session(tag="nothing"),
        "session of a snapshot": lambda: repo.readonly_session(snapshot_id=nobody),
        "before the beginning": lambda: repo.readonly_session("main", as_of=datetime(2000, 1, 1, tzinfo=UTC)),
        "as_of alone": lambda: repo.readonly_session(as_of=datetime(2040, 1, 1, tzinfo=UTC)),
        "as_of of a tag": lambda: repo.readonly_session(tag="nothing", as_of=datetime(2040, 1, 1, tzinfo=UTC)),
        "as_of without zone": lambda: repo.readonly_session("main", as_of=datetime(2040, 1, 1)),
        "diff of the same": lambda: repo.diff(from_branch="main", to_branch="main"),
        "diff of nothing": lambda: repo.diff(),
        "diff backwards": lambda: repo.diff(from_branch="main", to_snapshot_id="1CECHNKREP0F1RSTCMT0"),
        "diff of a branch": lambda: repo.diff(from_branch="nothing", to_branch="main"),
        "chunk_type of a relative path": lambda: session.chunk_type("data", [0, 0]),
        "chunk_type of nothing": lambda: session.chunk_type("/nothing", [0, 0]),
        "chunk_type of a group": lambda: session.chunk_type("/", [0, 0]),
        "get_node_id of nothing": lambda: session.get_node_id("/nothing"),
        "get_node_id of a relative path": lambda: session.get_node_id("data"),
        "chunk_coordinates of nothing": lambda: asyncio.run(_collect(session.chunk_coordinates("/nothing"))),
        "chunk_coordinates of a group": lambda: asyncio.run(_collect(session.chunk_coordinates("/"))),
        "inspect_snapshot": lambda: repo.inspect_snapshot(nobody),
        "inspect_manifest": lambda: repo.inspect_manifest(nobody),
        "inspect_transaction_log": lambda: repo.inspect_transaction_log(nobody),
        "list_manifest_files": lambda: repo.list_manifest_files(nobody),
        "two sources of keys": lambda: ic.s3_credentials(anonymous=True, from_env=True),
        "half a pair of keys": lambda: ic.s3_credentials(access_key_id="id"),
    }
    return {name: _outcome(ic, call) for name, call in calls.items()}


def _outcome(ic: ModuleType, call: Callable[[], Any]) -> Any:
    """Returns the class and kind of the error that a call raises, after asking of it what programs may."""
    with pytest.raises((ic.IcechunkError, ValueError, TypeError)) as caught:
        call()
    error = caught.value
    assert isinstance(error, KeyError) or not isinstance(error, ic.NotFoundError)
    assert isinstance(error, ValueError) or not isinstance(error, ic.InvalidInputError)
    if isinstance(error, ic.IcechunkError):
        assert error.message
        assert ic.ErrorKind(error.kind)
    return error_facts(error)


# In spec version 1 the official library reports the file that is missing.
_UNKNOWN_SNAPSHOTS = {"unknown id", "ancestry of a snapshot", "session of a snapshot"}


async def _collect(items: Any) -> list[Any]:
    return [item async for item in items]


PROGRAMS: list[tuple[Program, tuple[str, ...]]] = [
    (read_arrays, ("quickstart-v1", "quickstart-v2", "dtypes-v1", "dtypes-v2")),
    (read_some_of_each_array, ("quickstart-v1", "quickstart-v2", "dtypes-v2")),
    (time_travel, ("quickstart-v1", "quickstart-v2", "history-v1", "history-v2", "moved-v2", "migrated-v2")),
    (history, ("quickstart-v1", "history-v2", "amended-v2", "expired-v2", "collected-v1", "collected-v2")),
    (administration, ("history-v1", "history-v2", "configured-v2", "migrated-v2", "long-ops-log-v2")),
    (chunks, ("quickstart-v1", "quickstart-v2", "split-manifests-v2", "virtual-v2", "many-virtual-v2")),
    (asynchronous, ("quickstart-v1", "quickstart-v2", "history-v2")),
    (sent_elsewhere, ("quickstart-v1", "quickstart-v2", "virtual-v2")),
    (with_xarray, ("quickstart-v1", "quickstart-v2")),
]


@pytest.mark.parametrize(
    ("program", "name"),
    [pytest.param(program, name, id=f"{program.__name__}-{name}") for program, names in PROGRAMS for name in names],
)
def test_a_program_gives_the_same_result(program: Program, name: str, generated: Callable[[str], GeneratedRepo]):
    path = generated(name).path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr-python warns of data types without a standard
        expected = program(icechunk, path)
        assert program(icefs, path) == expected
    assert expected


@pytest.mark.parametrize("name", ["quickstart-v1", "quickstart-v2"])
def test_mistakes_raise_the_same(generated: Callable[[str], GeneratedRepo], name: str):
    expected, found = (mistakes(module, generated(name).path) for module in (icechunk, icefs))
    assert expected.keys() == found.keys()
    different = {call: (error, found[call]) for call, error in expected.items() if found[call] != error}
    named = (("StorageError", "object-not-found"), ("SnapshotNotFoundError", "snapshot-not-found"))
    assert different == ({} if name.endswith("v2") else dict.fromkeys(_UNKNOWN_SNAPSHOTS, named))  # Divergence 35


def test_values_are_those_of_numpy(generated: Callable[[str], GeneratedRepo]):
    """No official library here: what the quickstart wrote is known."""
    repo = opened(icefs, generated("quickstart-v2").path)
    array = zarr.open_array(repo.readonly_session("main").store, path="data", mode="r")
    expected = np.arange(100, dtype="float32").reshape(10, 10)
    expected = np.concatenate([expected, expected[:5]])
    expected[:5, :5] = -1
    np.testing.assert_array_equal(array[...], expected)
    fields = {field.name for field in dataclasses.fields(icefs.SnapshotInfo)}
    assert fields == {"id", "parent_id", "written_at", "message", "metadata"}
