"""A repository's life on Azure Blob Storage: by the engine, the official library, and both at once."""

import contextlib
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import icechunk
import numpy as np
import pytest
import zarr

import icefs
from icefs.engine.upkeep.fsck import fsck
from icefs.engine.write.store_probe import ignored_conditions
from tests.support.azurite import ACCOUNT, CONTAINER, KEY
from tests.support.children import running

COMMITS = int(os.environ.get("ICEFS_TEST_ROUNDS", "3"))
"""How many commits each writer makes."""


@pytest.fixture
def official(azurite, azure_prefix, monkeypatch):
    """The place, opened by the official library in its emulator mode."""
    icechunk.set_logs_filter("off")
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", azurite.root_url)
    return icechunk.azure_storage(
        account=ACCOUNT,
        container=CONTAINER,
        prefix=azure_prefix,
        access_key=KEY,
        config={"azure_storage_use_emulator": "true"},
    )


@pytest.fixture
def location(azurite, azure_prefix, monkeypatch):
    for name, value in azurite.environment().items():
        monkeypatch.setenv(name, value)
    return f"az://{CONTAINER}/{azure_prefix}?endpoint_url={azurite.endpoint_url}"


def test_conditions_hold(azure_storage):
    assert ignored_conditions(azure_storage) == []
    assert list(azure_storage.iter_objects()) == []


def test_a_repository_lives_through_commits_conflicts_and_upkeep(azure_storage, official):
    repo = icefs.Repository.create(azure_storage)
    values = np.arange(100, dtype="f8")
    with repo.transaction("main", message="start") as store:
        zarr.create_array(store, name="a", data=values, chunks=(25,), compressors=None)
        zarr.create_array(store, name="b", data=np.zeros(10), chunks=(10,), compressors=None)
    first, second = repo.writable_session("main"), repo.writable_session("main")
    zarr.open_array(first.store, path="a")[:25] = values[:25] = -1
    zarr.open_array(second.store, path="b")[:] = 2
    first.commit("first")
    with pytest.raises(icefs.ConflictError):
        second.commit("second")
    second.commit("second", rebase_with=icefs.BasicConflictSolver())
    repo.create_tag("two", repo.lookup_branch("main"))

    theirs = icechunk.Repository.open(official)
    assert [info.message for info in theirs.ancestry(tag="two")] == [info.message for info in repo.ancestry(tag="two")]
    with theirs.transaction("main", message="theirs") as store:
        group = zarr.open_group(store, mode="a")
        np.testing.assert_array_equal(group["a"][:], values)
        group["a"][:] = values[:] = 7
    np.testing.assert_array_equal(zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")[:], values)

    repo.reset_branch("main", repo.lookup_tag("two"))
    later = datetime.now(UTC) + timedelta(minutes=1)
    repo.expire_snapshots(later)
    assert repo.garbage_collect(later).snapshots_deleted == 3
    report = fsck(azure_storage)
    assert (report.status, report.lost) == ("clean", [])
    ours = zarr.open_array(icechunk.Repository.open(official).readonly_session("main").store, path="a", mode="r")
    assert ours[:26].tolist() == [-1.0] * 25 + [25.0]


WRITER = f"""
import json, os, sys
how, writer, commits, url, prefix = json.loads(sys.argv[1])
import numpy as np, zarr
if how == "icefs":
    import icefs as ic
    from icefs.storage.url import open_storage
    repo = ic.Repository.open(open_storage(url))
else:
    import icechunk as ic
    ic.set_logs_filter("off")
    config = {{"azure_storage_use_emulator": "true"}}
    repo = ic.Repository.open(ic.azure_storage(
        account={ACCOUNT!r}, container={CONTAINER!r}, prefix=prefix, access_key={KEY!r}, config=config
    ))
print("ready", flush=True)
sys.stdin.readline()
for number in range(commits):
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="a")[writer * 100 + number] = 1000 * writer + number + 1
    print(session.commit(f"{{writer}}.{{number}}", rebase_with=ic.ConflictDetector(), rebase_tries=1000), flush=True)
"""


def test_writers_of_both_libraries_lose_nothing(azurite, azure_storage, official, location, azure_prefix):
    repo = icefs.Repository.create(azure_storage)
    with repo.transaction("main", message="start") as store:
        zarr.create_array(store, name="a", shape=(400,), chunks=(1,), dtype="i4", fill_value=0)
    hows = ("icefs", "official", "icefs", "official")
    tasks = [json.dumps([how, writer, COMMITS, location, azure_prefix]) for writer, how in enumerate(hows)]
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(
                running([sys.executable, "-c", WRITER, task], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for task in tasks
        ]
        for child in children:
            assert child.stdout.readline() == "ready\n"
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        told = [child.communicate(timeout=100)[0].split() for child in children]
        assert [child.returncode for child in children] == [0] * 4
    acknowledged = {snapshot for snapshots in told for snapshot in snapshots}
    assert len(acknowledged) == 4 * COMMITS
    for library in (repo, icechunk.Repository.open(official)):
        history = list(library.ancestry(branch="main"))
        assert acknowledged <= {info.id for info in history}
        wrote = {f"{writer}.{number}" for writer in range(4) for number in range(COMMITS)}
        assert sorted(info.message for info in history) == sorted({"start", "Repository initialized"} | wrote)
        found = zarr.open_array(library.readonly_session("main").store, path="a", mode="r")[:]
        for writer in range(4):
            expected = [1000 * writer + number + 1 for number in range(COMMITS)]
            assert found[writer * 100 :][:COMMITS].tolist() == expected
    assert fsck(azure_storage).status == "clean"
