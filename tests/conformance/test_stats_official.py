"""Sizes of chunks and rewritten manifests: icefs and the official library agree."""

import random

import icechunk as ic
import pytest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

import icefs
from icefs.engine.upkeep.storage_stats import StorageStats, snapshot_stats
from icefs.engine.write.repository import WritableRepository
from icefs.format.config.manifest import (
    ManifestConfig,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    ManifestSplittingConfig,
)
from icefs.format.config.values import RepositoryConfig
from icefs.storage.url import open_storage
from tests.conformance.official import GROUP, array_json, commit, create, put_all


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def repo(tmp_path, request):
    """Native, inline and virtual chunks, some of them overwritten, some shared."""
    rng = random.Random(request.param)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_bytes(rng.randbytes(4000))
    prefix = f"file://{tmp_path}/data/"
    container = ic.VirtualChunkContainer(prefix, ic.local_filesystem_store(f"{tmp_path}/data"))
    official = create(
        tmp_path / "repo",
        request.param,
        virtual=[prefix],
        inline_chunk_threshold_bytes=8,
        virtual_chunk_containers={prefix: container},
    )
    items = {"zarr.json": GROUP, "a/zarr.json": array_json([400], [20]), "b/zarr.json": array_json([40], [4])}
    items |= {f"a/c/{number}": rng.randbytes(20) for number in range(20)}
    items |= {f"b/c/{number}": rng.randbytes(4) for number in range(10)}
    commit(official, "first", items)
    commit(official, "second", {f"a/c/{number}": rng.randbytes(rng.choice([7, 20])) for number in range(5)})
    session = official.writable_session("main")
    put_all(session.store, {"v/zarr.json": array_json([100], [10])})
    for number in range(10):
        session.store.set_virtual_ref(f"v/c/{number}", f"{prefix}file", offset=number // 2 * 10, length=10)
    session.commit("virtual")
    official.create_branch("side", official.lookup_branch("main"))
    commit(official, "side", {"b/c/1": b"xyz"}, branch="side")
    return tmp_path / "repo", official


def test_sizes_as_officially(repo):
    path, official = repo
    told = official.chunk_storage_stats()
    found = icefs.Repository.open(icefs.local_filesystem_storage(str(path))).chunk_storage_stats()
    assert (found.native_bytes, found.virtual_bytes, found.inlined_bytes) == (
        told.native_bytes, told.virtual_bytes, told.inlined_bytes
    )  # fmt: skip
    assert found.total_bytes() == told.total_bytes() > 0
    assert found.non_virtual_bytes() == told.non_virtual_bytes()


def test_sizes_by_array(repo):
    engine = WritableRepository.open(open_storage(str(repo[0])))
    by_array = snapshot_stats(engine.readonly_session("main"))
    assert by_array["/b"] == StorageStats(0, 0, 40, 10)
    assert by_array["/v"] == StorageStats(0, 50, 0, 5)
    assert by_array["/a"].num_chunks == 20
    assert by_array["/a"].native_bytes % 20 == 0
    assert sum(by_array.values(), StorageStats()).virtual_bytes == 50


@pytest.mark.parametrize("method", ["new_commit", "amend"])
def test_manifests_are_divided_anew(repo, method):
    path, official = repo
    spec_version = 1 if (path / "refs").exists() else 2
    splitting = ManifestSplittingConfig.from_dict(
        {ManifestSplitCondition.AnyArray(): {ManifestSplitDimCondition.Any(): 3}}
    )
    config = RepositoryConfig(inline_chunk_threshold_bytes=8, manifest=ManifestConfig(splitting=splitting))
    ours = icefs.Repository.open(icefs.local_filesystem_storage(str(path)), config)
    before = {key: official_bytes(official, key) for key in ("a/c/0", "a/c/19", "b/c/3")}
    tip = ours.lookup_branch("main")
    if spec_version == 1 and method == "amend":
        with pytest.raises(icefs.IcechunkError):
            ours.rewrite_manifests("divided", branch="main", commit_method=method)
        return
    made = ours.rewrite_manifests("divided", branch="main", metadata={"who": "ada"}, commit_method=method)
    again = ic.Repository.open(ic.local_filesystem_storage(str(path)))
    assert again.lookup_branch("main") == made
    [info, *others] = again.ancestry(branch="main")
    assert (tip in [other.id for other in others]) == (method == "new_commit")
    assert info.metadata["who"] == "ada"
    split = {"split_sizes": [["any_array", [{"condition": "Any", "num_chunks": 3}]]]}
    assert info.metadata["__icechunk"]["splitting_config"] == split
    assert len(again.list_manifest_files(made)) == 7 + 4 + 4
    assert {key: official_bytes(again, key) for key in before} == before
    assert again.chunk_storage_stats().native_bytes == ours.chunk_storage_stats().native_bytes


def official_bytes(repo, key):
    return sync(repo.readonly_session("main").store.get(key, default_buffer_prototype())).to_bytes()
