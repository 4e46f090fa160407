"""Programs that write, written for the official library, run unchanged with icefs in its place.

Each program takes the module as `ic` and a directory, and returns plain values, which must be the same; what one
library wrote, both must then read alike, byte for byte.
"""

import asyncio
import contextlib
import pickle
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.core.buffer import cpu

import icefs
from tests.conformance.official import GROUP, array_json
from tests.conformance.oracle import diff_facts, error_facts, flag_facts
from tests.conformance.programs import MODULES, Program, created, everything, messages, outcome, put


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr-python warns of data types without a standard
        yield


def quickstart(ic: ModuleType, path: Path) -> Any:
    repo = created(ic, path)
    session = repo.writable_session("main")
    group = zarr.group(session.store)
    array = group.create("my_array", shape=10, dtype="int32", chunks=(5,))
    array[:] = 1
    first = session.commit("first commit")
    session_2 = repo.writable_session("main")
    array = zarr.open_group(session_2.store)["my_array"]
    array[:] = 2
    status = diff_facts(session_2.status())
    second = session_2.commit("overwrite some values")
    history = list(repo.ancestry(branch="main"))
    assert [info.id for info in history[:2]] == [second, first]
    assert session.read_only
    assert session.branch is None
    old = zarr.open_array(repo.readonly_session(snapshot_id=first).store, path="my_array", mode="r")
    return status, array[:].tolist(), old[:].tolist(), messages(repo)


def with_zarr(ic: ModuleType, path: Path) -> Any:
    repo = created(ic, path)
    session = repo.writable_session("main")
    root = zarr.group(session.store, attributes={"title": "t"})
    array = root.create_group("a").create_array("data", shape=(6, 6), chunks=(2, 3), dtype="u2", compressors=None)
    array[...] = np.arange(36).reshape(6, 6)
    root.create_array("large", shape=(5000,), chunks=(1000,), dtype="f8", compressors=None)[...] = np.arange(5000)
    root.create_array("scalar0", shape=(), dtype="i4")[...] = 7
    session.commit("create")
    session = repo.writable_session("main")
    root = zarr.open_group(session.store, mode="r+")
    array = root["a/data"]
    array.resize((4, 6))
    array.append(np.full((3, 6), 9, "u2"))
    array[0, 0] = 0  # all other values of the chunk stay
    array.attrs["unit"] = "m"
    del root["scalar0"]
    root.create_array("large", shape=(3,), chunks=(3,), dtype="i1", overwrite=True)[...] = 1
    status = diff_facts(session.status())
    session.commit("change")
    root = zarr.open_group(repo.readonly_session("main").store, mode="r")
    members = sorted(name for name, _ in root.members(max_depth=None))
    return status, members, root["a/data"][...].tolist(), root["large"][...].tolist(), dict(root["a/data"].attrs)


def with_xarray(ic: ModuleType, path: Path) -> Any:
    repo = created(ic, path)
    data = xr.Dataset(
        {"t": (("time", "x"), np.arange(20.0).reshape(4, 5), {"unit": "K"})},
        coords={"time": np.arange(4), "x": list("abcde")},
    )
    with repo.transaction("main", message="write", metadata={"by": "xarray"}) as store:
        data.to_zarr(store, consolidated=False, zarr_format=3, mode="w")
    with repo.transaction("main", message="append") as store:
        data.assign_coords(time=np.arange(4, 8)).to_zarr(store, append_dim="time", consolidated=False, zarr_format=3)
    with repo.transaction("main", message="region") as store:
        part = (data.drop_vars("x") * 2).isel(time=slice(0, 2)).assign_coords(time=np.arange(2))
        part.to_zarr(store, region={"time": slice(0, 2)}, consolidated=False, zarr_format=3)
    with contextlib.suppress(ZeroDivisionError), repo.transaction("main", message="never") as store:
        data.to_zarr(store, group="other", consolidated=False, zarr_format=3)
        _ = 1 / 0
    with xr.open_zarr(repo.readonly_session("main").store, consolidated=False, zarr_format=3) as found:
        values = {name: (variable.dims, variable.to_numpy().tolist()) for name, variable in found.variables.items()}
    return values, messages(repo)


def conflicts(ic: ModuleType, path: Path) -> Any:
    repo = created(ic, path)
    session = repo.writable_session("main")
    put(session.store, "a/zarr.json", array_json([4], [1]))
    put(session.store, "g/zarr.json", GROUP)
    base = session.commit("base")
    ours, theirs = (repo.writable_session("main") for _ in range(2))
    for position in (0, 1):
        put(theirs.store, f"a/c/{position}", b"theirs")
    tip = theirs.commit("theirs")
    for position in (1, 2):
        put(ours.store, f"a/c/{position}", b"ours")
    with pytest.raises(ic.ConflictError) as moved:
        ours.commit("ours")
    assert (moved.value.expected_parent, moved.value.actual_parent) == (base, tip)
    assert ours.has_uncommitted_changes
    with pytest.raises(ic.RebaseFailedError) as failed:
        ours.rebase(ic.ConflictDetector())
    assert failed.value.snapshot == tip
    found = [
        (each.conflict_type == ic.ConflictType.ChunkDoubleUpdate, each.path, each.conflicted_chunks)
        for each in failed.value.conflicts
    ]
    with pytest.raises(ic.RebaseFailedError):
        ours.commit("ours", rebase_with=ic.BasicConflictSolver(on_chunk_conflict=ic.VersionSelection.Fail))
    ours.rebase(ic.BasicConflictSolver(on_chunk_conflict=ic.VersionSelection.UseTheirs))
    ours.commit("ours", {"who": "us"}, rebase_with=ic.ConflictDetector(), rebase_tries=3)
    late = repo.writable_session("main")
    with repo.transaction("main", message="between") as store:
        put(store, "b/zarr.json", GROUP)
    put(late.store, "a/c/3", b"late")
    late.commit("late", rebase_with=ic.ConflictDetector())
    return found, error_facts(moved.value), error_facts(failed.value), messages(repo)


def refs(ic: ModuleType, path: Path) -> Any:
    repo = created(ic, path)
    repo.set_default_commit_metadata({"who": "default", "more": 1})
    with repo.transaction("main", message="first", metadata={"who": "me"}) as store:
        put(store, "zarr.json", GROUP)
    first = repo.lookup_branch("main")
    session = repo.writable_session("main")
    put(session.store, "x/zarr.json", GROUP)
    session.amend("amended")
    empty = repo.writable_session("main").commit("nothing", allow_empty=True)
    repo.create_branch("dev", empty)
    repo.create_branch("old", empty)
    repo.delete_branch("old")
    repo.create_tag("v1", empty)
    repo.create_tag("gone", empty)
    repo.delete_tag("gone")
    flushed = repo.writable_session("dev")
    put(flushed.store, "flushed/zarr.json", GROUP)
    detached = flushed.flush("flushed", metadata={"a": 1})
    repo.reset_branch("dev", detached, from_snapshot_id=empty)
    rearranging = repo.rearrange_session("main")
    node_id, mode = rearranging.get_node_id("/x"), rearranging.mode
    rearranging.move("/x", "/y")
    assert rearranging.get_node_id("/y") == node_id
    moves = diff_facts(rearranging.status())
    rearranging.commit("move")
    repo.set_metadata({"a": 1, "b": 2})
    updated = repo.update_metadata({"b": 3})
    repo.set_feature_flag("create_tag", False)
    repo.set_status(ic.RepoStatus(ic.RepoAvailability.read_only, limited_availability_reason="why"))
    status = repo.get_status()
    assert isinstance(status.set_at, datetime)
    refused = outcome(ic, lambda: repo.writable_session("main"))
    repo.set_status(ic.RepoStatus(ic.RepoAvailability.online, datetime(2030, 1, 1, tzinfo=UTC)))
    updates = [type(update.kind).__name__ for update in repo.ops_log()]
    assert first not in {info.id for info in repo.ancestry(branch="main")}
    return (
        messages(repo), messages(repo, "dev"), sorted(repo.list_branches()), sorted(repo.list_tags()), int(mode), moves,
        updated, repo.get_metadata(), flag_facts(repo.feature_flags()),
        status.limited_availability_reason, refused, repo.get_status().set_at, updates, repo.default_commit_metadata(),
    )  # fmt: skip


def asynchronous(ic: ModuleType, path: Path) -> Any:
    async def run() -> Any:
        repo = await ic.Repository.create_async(ic.local_filesystem_storage(str(path)))
        session = await repo.writable_session_async("main")
        await session.store.set("zarr.json", cpu.Buffer.from_bytes(GROUP))
        await session.store.set_if_not_exists("zarr.json", cpu.Buffer.from_bytes(b"{}"))
        snapshot_id = await session.commit_async("first", {"a": 1})
        await repo.create_branch_async("dev", snapshot_id)
        await repo.create_tag_async("v1", snapshot_id)
        session = await repo.rearrange_session_async("dev")
        discarded = await repo.writable_session_async("dev")
        await discarded.store.delete("zarr.json")
        discarded.discard_changes()
        is_rearranging = session.mode == ic.SessionMode.rearrange
        return await repo.list_branches_async(), discarded.has_uncommitted_changes, is_rearranging

    return asyncio.run(run())


def mistakes(ic: ModuleType, path: Path) -> Any:
    repo = created(ic, path)
    done = repo.writable_session("main")
    put(done.store, "g/zarr.json", GROUP)
    put(done.store, "a/zarr.json", array_json([2], [1]))
    done.commit("done")
    tip, root = repo.lookup_branch("main"), "1CECHNKREP0F1RSTCMT0"
    session, reading = repo.writable_session("main"), repo.readonly_session("main")
    moving = repo.rearrange_session("main")
    calls: dict[str, Callable[[], Any]] = {
        "create twice": lambda: created(ic, path),
        "create again": lambda: created(ic, path, check_clean_root=False),
        "commit nothing": lambda: session.commit("nothing"),
        "amend nothing": lambda: session.amend("nothing"),
        "commit twice": lambda: done.commit("again"),
        "amend after": lambda: done.amend("again"),
        "rebase after": lambda: done.rebase(ic.ConflictDetector()),
        "discard after": lambda: done.discard_changes(),
        "write after": lambda: put(done.store, "z/zarr.json", GROUP),
        "commit reading": lambda: reading.commit("x"),
        "amend reading": lambda: reading.amend("x"),
        "rebase reading": lambda: reading.rebase(ic.ConflictDetector()),
        "discard reading": lambda: reading.discard_changes(),
        "write reading": lambda: put(reading.store, "z/zarr.json", GROUP),
        "move writing": lambda: session.move("/a", "/g/a"),
        "write moving": lambda: put(moving.store, "z/zarr.json", GROUP),
        "move onto": lambda: moving.move("/a", "/g"),
        "move into itself": lambda: moving.move("/g", "/g/x"),
        "move into an array": lambda: moving.move("/g", "/a/x"),
        "move nothing": lambda: moving.move("/nothing", "/g/x"),
        "move relative": lambda: moving.move("a", "/g/x"),
        "session nowhere": lambda: repo.writable_session("nothing"),
        "rearrange nowhere": lambda: repo.rearrange_session("nothing"),
        "branch twice": lambda: repo.create_branch("main", tip),
        "branch nowhere": lambda: repo.create_branch("x", "0" * 20),
        "branch bad id": lambda: repo.create_branch("x", "zz"),
        "delete main": lambda: repo.delete_branch("main"),
        "delete no branch": lambda: repo.delete_branch("nothing"),
        "reset no branch": lambda: repo.reset_branch("nothing", tip),
        "reset another": lambda: repo.reset_branch("main", tip, from_snapshot_id=root),
        "tag": lambda: repo.create_tag("t", tip),
        "tag twice": lambda: repo.create_tag("t", tip),
        "delete tag": lambda: repo.delete_tag("t"),
        "tag again": lambda: repo.create_tag("t", tip),
        "delete no tag": lambda: repo.delete_tag("nothing"),
        "flag": lambda: repo.set_feature_flag("nothing", True),
    }
    for sent in (session, session.store, moving):
        with pytest.raises(ValueError):
            pickle.dumps(sent)
    assert pickle.loads(pickle.dumps(done)).snapshot_id == tip
    return {name: outcome(ic, call) for name, call in calls.items()}


def columns(ic: ModuleType, path: Path) -> Any:
    prefixes = {f"s3://{name}/": None for name in ("one", "two")}
    containers = {
        "s3://one/": ic.VirtualChunkContainer("s3://one/", ic.s3_store(region="us-east-1"), name="first"),
        "s3://two/": ic.VirtualChunkContainer("s3://two/", ic.s3_store(region="us-east-1")),
    }
    config = ic.RepositoryConfig(inline_chunk_threshold_bytes=4, virtual_chunk_containers=containers)
    repo = created(ic, path, config=config, authorize_virtual_chunk_access=prefixes)
    session = repo.writable_session("main")
    put(session.store, "a/zarr.json", array_json([3, 4], [1, 1]))
    put(session.store, "s/zarr.json", array_json([], []))
    put(session.store, "s/c", b"5")
    for key, data in (("0/0", b"in"), ("0/1", b"native chunk"), ("2/3", b"line")):
        put(session.store, f"a/c/{key}", data)
    session.store.set_virtual_ref("a/c/1/0", "vcc://first/x/y", offset=2, length=3)
    session.store.set_virtual_ref("a/c/1/2", "s3://two/z", offset=0, length=1)

    async def read(session: Any, name: str, size: int) -> Any:
        rows: dict[Any, Any] = {}
        async for coords, kinds, places, offsets, lengths, inlined in session.store.array_chunk_iterator(name, size):
            types = [str(each.dtype) for each in (coords, kinds, offsets, lengths)]
            assert coords.shape[0] == len(kinds) == len(places) == len(offsets) == len(lengths) <= size
            for row, index in enumerate(coords.tolist()):
                kind = ic.ChunkType.native == kinds[row]
                place = len(places[row]) if kind else places[row]
                facts = int(kinds[row]), place, int(offsets[row]), int(lengths[row]), inlined.get(row), types
                assert rows.setdefault(tuple(index), facts) is facts
        return rows

    cases = [("/a", 2), ("a", 100), ("/s", 1)]
    found = [asyncio.run(read(session, *case)) for case in cases]
    session.commit("all kinds")
    for key in ("a/c/1/0", "a/c/1/2"):  # whose bytes nobody has
        with repo.transaction("main", message="drop") as store:
            asyncio.run(store.delete(key))
    return found, [asyncio.run(read(session, *case)) for case in cases]


def labels(ic: ModuleType, path: Path) -> Any:
    found = []
    wrong = ["a b", "", "a/b/c", "x" * 129, "a;b", "a=b", 'a"b', "(a", "a\\b", "\u00fc", "\n", "a/", "/a"]
    for label in [*wrong, "weather/1.2", "x" * 128, " x ", "a,b", "!#$%&'*+.^_`|~-"]:
        for name in ("client", "workload", "principal"):
            try:
                found.append((name, label, getattr(ic.Attribution(**{name: label}), name)))
            except ValueError:
                found.append((name, label, "refused"))
    given = ic.Attribution(client="weather/1.2", principal="ada")
    repo = created(ic, path, attribution=given)
    put((session := repo.writable_session("main")).store, "zarr.json", GROUP)
    session.commit("one")
    again = ic.Repository.open_or_create(ic.local_filesystem_storage(str(path)), attribution=given)
    assert repo.attribution == again.attribution == given != ic.Attribution()
    return found, (given.client, given.workload, given.principal)


PROGRAMS: list[Program] = [columns, labels, quickstart, with_zarr, with_xarray, conflicts, refs, asynchronous, mistakes]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_program_gives_the_same_result(program: Program, tmp_path: Path):
    official, ours = (program(module, tmp_path / module.__name__) for module in MODULES)
    assert ours == official
    for directory in (tmp_path / "icefs", tmp_path / "icechunk"):
        by_official, by_us = everything(icechunk, directory), everything(icefs, directory)
        assert by_us == by_official
        assert by_official
    # Nothing in these values depends on the library that wrote them.
    assert everything(icechunk, tmp_path / "icefs") == everything(icechunk, tmp_path / "icechunk")


@pytest.mark.parametrize("spec_version", [1, 2])
def test_each_library_goes_on_where_the_other_stopped(tmp_path: Path, spec_version: int):
    created(icefs, tmp_path / "repo", spec_version=spec_version)
    for number in range(6):
        ic = MODULES[number % 2]
        repo = ic.Repository.open(ic.local_filesystem_storage(str(tmp_path / "repo")))
        assert repo.spec_version == spec_version
        session = repo.writable_session("main")
        root = zarr.open_group(session.store, mode="a")
        if not number:
            root.create_array("a", shape=(0, 1000), chunks=(1, 1000), dtype="f8", compressors=None)
        root["a"].append(np.full((1, 1000), number, "f8"))
        root.create_group(f"g{number}")
        session.commit(f"commit {number}")
    assert everything(icefs, tmp_path / "repo") == everything(icechunk, tmp_path / "repo")
    repo = icefs.Repository.open(icefs.local_filesystem_storage(tmp_path / "repo"))
    assert [info.message for info in repo.log()][:-1] == [f"commit {number}" for number in reversed(range(6))]
    root = zarr.open_group(repo.readonly_session("main").store, mode="r")
    assert root["a"][:, 7].tolist() == list(range(6))
