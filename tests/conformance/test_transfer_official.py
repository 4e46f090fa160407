"""Round trips judged by the official library: its repositories are exported, imported again, and read by it."""

import asyncio
import hashlib
import json
import os
from pathlib import Path

import icechunk as ic
import numpy as np
import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype

from icefs.engine.history.key_times import KeyTimes
from icefs.engine.history.lineage import Lineages
from icefs.engine.repository import Repository
from icefs.engine.write.repository import WritableRepository
from icefs.storage.local.store import LocalStorage
from icefs.transfer.directory_export import ExportRequest, export_session
from icefs.transfer.directory_import import ImportRequest, import_directory
from tests.conformance import generate
from tests.conformance.official import GeneratedRepo, open_official
from tests.support.fixture_files import FIXTURES


def export(repo, snapshot_id, target, **options):
    session = repo.session_at(repo.resolve_ref(snapshot_id))
    times = KeyTimes(Lineages(repo.context), session.snapshot_id, session.snapshot.flushed_at)
    return export_session(
        session, times, ExportRequest(str(target), state_dir=Path(target).parent / "state", **options)
    )


def files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in Path(root).rglob("*") if path.is_file()}


def round_trip(source: GeneratedRepo, content, snapshot_id, tmp_path):
    """Exports a version and imports it into a new repository; compares with what the official library reads."""
    expected = content.values
    repo = Repository.open(
        LocalStorage(source.path), authorize_virtual_chunk_access=dict.fromkeys(source.virtual_prefixes)
    )
    done = export(repo, snapshot_id, tmp_path / "out")
    found = files(tmp_path / "out")
    if source.mountable:
        failed = {problem.path for problem in done.failed}
        # An array is damaged that has chunks of another rank than its own.
        damaged = tuple(path for path in failed if path.endswith("/")) if content.ragged else ()
        assert failed - set(damaged) == set(content.failing)
        assert found == {
            key: data
            for key, data in expected.items()
            if key.endswith("zarr.json") or not damaged or not key.startswith(damaged)
        }
    else:  # names that no directory can hold, or that are a file's and a directory's
        assert {key: expected[key] for key in found} == found
        assert len(found) < len(expected)
    nodes = {path for path in found if path.endswith("zarr.json")}
    if not nodes:
        return
    # The generated chunks have any size, which an import takes of arrays whose codecs allow it.
    for key in nodes:
        found[key] = found[key].replace(b'"codecs": [{"name": "bytes"}]', b'"codecs": [{"name": "some-codec"}]')
        (tmp_path / "out" / key).write_bytes(found[key])
    made = WritableRepository.create(LocalStorage(tmp_path / "made"), spec_version=source.spec_version)
    request = ImportRequest(str(tmp_path / "out"), tmp_path / "state", skip_invalid=not source.mountable)
    import_directory(made, request)
    store = open_official(GeneratedRepo("made", tmp_path / "made", source.spec_version)).readonly_session("main").store
    # Nothing is imported in the place of a mount's control directory.
    kept = {key: data for key, data in found.items() if not key.startswith(".icefs/")}
    assert read_all(store) == {content.official_key(key): data for key, data in kept.items()}


def read_all(store):
    """Returns every key of an official store with its bytes."""

    async def run():
        keys = [key async for key in store.list_prefix("")]
        return {key: (await store.get(key, default_buffer_prototype())).to_bytes() for key in keys}

    return asyncio.run(run())


@pytest.mark.parametrize("name", generate.NAMES)
def test_every_generated_repository(name, generated, oracle_of, tmp_path):
    told = oracle_of(name)
    tips = {*told.branches.values(), *told.tags.values()}
    for number, snapshot_id in enumerate(sorted(tips)[:2]):
        round_trip(generated(name), told.contents[snapshot_id], snapshot_id, tmp_path / str(number))


@pytest.mark.parametrize("name", ["basic-v1", "basic-v2", "history-v1", "history-v2"])
def test_the_fixtures(name, tmp_path):
    document = json.loads((FIXTURES / f"{name}.json").read_text())
    repo = Repository.open(LocalStorage(FIXTURES / name))
    for message, says in document["content"]["snapshots"].items():
        told = {key: (fact["size"], fact["sha256"]) for key, fact in says["keys"].items()}
        export(repo, document["ids"]["snapshots"][message]["id"], tmp_path / "out", delete=True)
        found = {key: (len(data), hashlib.sha256(data).hexdigest()) for key, data in files(tmp_path / "out").items()}
        assert found == told, message


def test_zarr_reads_what_was_imported_and_goes_on(tmp_path):
    rng = np.random.default_rng(1)
    group = zarr.open_group(tmp_path / "z", mode="w", zarr_format=3, attributes={"title": "weather"})
    small = group.create_array("small", shape=(60, 60), chunks=(10, 10), dtype="f8")
    small[:] = rng.random((60, 60))
    big = group.create_array("deep/er/big", shape=(1 << 20,), chunks=(1 << 18,), dtype="u1", compressors=None)
    big[:] = rng.integers(1, 255, 1 << 20, dtype="u1")
    sharded = group.create_array("sharded", shape=(64, 64), chunks=(8, 8), shards=(32, 32), dtype="i4")
    sharded[:] = rng.integers(0, 9, (64, 64))
    ic.Repository.create(ic.local_filesystem_storage(str(tmp_path / "repo")))
    ours = WritableRepository.open(LocalStorage(tmp_path / "repo"))
    import_directory(ours, ImportRequest(str(tmp_path / "z"), tmp_path / "state", message="all of it"))
    official = open_official(GeneratedRepo("made", tmp_path / "repo", 2))
    session = official.writable_session("main")
    theirs = zarr.open_group(session.store, mode="r+")
    assert theirs.attrs["title"] == "weather"
    for path in ("small", "deep/er/big", "sharded"):
        np.testing.assert_array_equal(theirs[path][:], group[path][:])
    assert next(iter(official.ancestry(branch="main"))).message == "all of it"
    theirs["small"][:5, :5] = -1
    session.commit("goes on")
    official.garbage_collect(next(iter(official.ancestry(branch="main"))).written_at)
    again = zarr.open_group(official.readonly_session("main").store, mode="r")
    assert (again["small"][:5, :5] == -1).all()
    np.testing.assert_array_equal(again["small"][5:], small[5:])
    np.testing.assert_array_equal(again["deep/er/big"][:], big[:])
    assert os.path.isdir(tmp_path / "z")
