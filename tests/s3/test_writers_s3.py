"""Many processes commit to one repository at once, icefs's and the official library's, and nothing gets lost."""

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import icechunk
import pytest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from icefs.engine.upkeep.fsck import fsck
from icefs.storage.s3.store import S3Storage
from tests.conformance.official import GROUP, array_json, commit
from tests.support.children import running
from tests.support.mounting import mounted
from tests.support.s3_server import ADMIN, SeaweedServer
from tests.support.s3_writers import SPAN, Task, official_storage, payload

HOW = ("official", "engine", "official", "mount", "official", "engine", "official", "mount")
COMMITS = int(os.environ.get("ICEFS_TEST_ROUNDS", "4"))
"""How many commits each writer makes; 25 is what the project promises."""

pytestmark = pytest.mark.timeout(120 if COMMITS < 10 else 900)


@pytest.fixture
def place(s3_server: SeaweedServer, s3_prefix: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    keys = {"access_key_id": ADMIN.access_key_id, "secret_access_key": ADMIN.secret_access_key}
    return {"bucket": "icefs-tests", "prefix": s3_prefix, "endpoint_url": s3_server.endpoint_url, **keys}


def run_writers(tasks: list[Task]) -> list[Any]:
    """Runs writers at once, and returns all that was acknowledged."""
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                running(
                    [sys.executable, "-m", "tests.support.s3_writers", task.to_json()],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd=Path(__file__).parents[2],
                )
            )
            for task in tasks
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b'"ready"\n', process.communicate()[1].decode()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
        told = []
        for process in processes:
            out, err = process.communicate(timeout=600)
            assert process.returncode == 0, err.decode()
            told += [json.loads(line) for line in out.splitlines()]
        return told


def test_eight_writers_of_both_libraries_lose_nothing(
    place: dict[str, str], s3_storage: S3Storage, tmp_path: Path
) -> None:
    repo = icechunk.Repository.create(official_storage(place))
    array = array_json((600 * len(HOW) * SPAN,), (600,))
    start = commit(repo, "start", {"zarr.json": GROUP, "a/zarr.json": array})
    for name in [*(f"own-{writer}" for writer in range(len(HOW))), "shared"]:
        repo.create_branch(name, start)
    repo.create_tag("before", start)
    url = f"s3://{place['bucket']}/{place['prefix']}?endpoint_url={place['endpoint_url']}"
    with contextlib.ExitStack() as mounts:
        tasks = []
        for writer, how in enumerate(HOW):
            where = dict(place)
            if how == "mount":
                # Mounts on machines of their own.
                options = {"state_dir": str(tmp_path / str(writer)), "poll_interval_s": 0.2}
                where["path"] = str(mounts.enter_context(mounted(url, may_complain=True, **options)).path)
            tasks.append(Task(how, writer, COMMITS, ["main", f"own-{writer}", "main", "shared"], where))
        told = run_writers(tasks)
    check(place, start, told)
    report = fsck(s3_storage)
    assert (report.status, report.lost) == ("clean", [])


def check(place: dict[str, str], start: str, told: list[Any]) -> None:
    """Compares the repository, as the official library sees it, with what was acknowledged."""
    repo = icechunk.Repository.open(official_storage(place))
    commits = [entry[1:] for entry in told if entry[0] == "commit"]
    assert len(commits) == len(HOW) * COMMITS
    tags = {name: snapshot for kind, name, snapshot, *_ in told if kind == "tag"}
    assert {name: repo.lookup_tag(name) for name in repo.list_tags()} == {**tags, "before": start}
    branches = {"main", "shared", *(f"own-{writer}" for writer in range(len(HOW)))}
    assert set(repo.list_branches()) == branches
    for branch in branches:
        history = [(info.message, info.id) for info in repo.ancestry(branch=branch)]
        assert history[-2:][0] == ("start", start)
        acknowledged = Counter((message, snapshot) for at, message, snapshot in commits if at == branch)
        assert Counter(history[:-2]) == acknowledged, branch
        store = repo.readonly_session(branch).store
        found = {key: sync(store.get(key, default_buffer_prototype())).to_bytes() for key in chunk_keys(store)}
        assert found == {
            f"a/c/{int(writer) * SPAN + int(number)}": payload(int(writer), int(number))
            for writer, number in (message.split(".") for at, message, _ in commits if at == branch)
        }


def chunk_keys(store: Any) -> list[str]:
    async def keys() -> list[str]:
        return [key async for key in store.list_prefix("a") if key.startswith("a/c/")]

    return sync(keys())
