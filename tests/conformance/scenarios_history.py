"""Repositories that are about time: refs, commits of every kind, expiry, collection, migration, the ops log."""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import icechunk as ic
import numpy as np
import zarr

from tests.conformance.official import GROUP, GeneratedRepo, array_json, commit, create, put, put_all, remove

ENCODED_NAMES = ("ünï", "100%", "[x]")
"""Names that the local object store percent-encodes; in version 1 they are file names."""

LINE = array_json([10], [1], dimension_names=["x"])


def _chunks(array: str, text: str, indices: range) -> dict[str, bytes]:
    return {f"{array}/c/{index}": f"{text} {index}".encode() for index in indices}


def _grow_and_shrink(repo: ic.Repository) -> None:
    """Resizes `/a`, so that references outside the grid are left, and must not come back."""
    commit(repo, "shrink", {"a/zarr.json": array_json([4], [1])})
    commit(repo, "touch after shrinking", {"a/c/0": b"touched"})
    commit(repo, "grow", {"a/zarr.json": array_json([12], [1])})
    commit(repo, "write at the end", {"a/c/11": b"the end"})


def _delete_and_recreate(repo: ic.Repository) -> None:
    session = repo.writable_session("main")
    remove(session.store, "g/b/zarr.json")
    put_all(session.store, {"g/b/zarr.json": LINE} | _chunks("g/b", "again", range(2, 4)))
    session.commit("delete and recreate in one commit")
    session = repo.writable_session("main")
    remove(session.store, "g/b/zarr.json")
    session.commit("delete")
    commit(repo, "recreate as a group", {"g/b/zarr.json": GROUP})
    session = repo.writable_session("main")
    remove(session.store, "a/c/0", "a/c/11", "a/c/5")
    session.commit("delete chunks")


def _concurrent(repo: ic.Repository) -> None:
    """Commits that were rebased, with both solvers, and forks that were merged."""
    for number, side in enumerate((ic.VersionSelection.UseOurs, ic.VersionSelection.UseTheirs)):
        first, second = repo.writable_session("main"), repo.writable_session("main")
        put_all(first.store, {"a/c/1": b"theirs", f"first{number}/zarr.json": GROUP})
        put_all(second.store, {"a/c/1": b"ours", "a/c/2": f"kept {number}".encode()})
        first.commit(f"first {number}")
        second.commit(f"rebased {number}", rebase_with=ic.BasicConflictSolver(on_chunk_conflict=side))
    session = repo.writable_session("main")
    forks = [session.fork() for _ in range(3)]
    for number, fork in enumerate(forks):
        put(fork.store, f"a/c/{number + 3}", f"fork {number}".encode())
    session.merge(*forks)
    session.commit("merged forks", {"forks": 3})
    session = repo.writable_session("main")
    remove(session.store, "first0/zarr.json")
    session.commit("delete a group")


def _refs(repo: ic.Repository, tips: dict[str, str], *, odd_names: bool) -> None:
    for name in ("dev", "doomed", "feature-1"):
        repo.create_branch(name, tips["base"])
    repo.create_tag("v1", tips["base"])
    repo.create_tag("to be deleted", tips["base"])
    repo.delete_tag("to be deleted")
    repo.delete_branch("doomed")
    repo.reset_branch("feature-1", "1CECHNKREP0F1RSTCMT0")
    if odd_names:
        for name in (*ENCODED_NAMES, "a b", "x" * 200, "tag.x", "-"):
            repo.create_branch(name, tips["base"])
            repo.create_tag(name, tips["base"])


def history(path: Path, spec_version: int, *, odd_names: bool = True, name: str = "history") -> GeneratedRepo:
    """Branches and tags made, reset and deleted; every way to commit."""
    repo = create(path, spec_version, inline_chunk_threshold_bytes=6)
    items = {"zarr.json": GROUP, "g/zarr.json": GROUP, "a/zarr.json": LINE, "g/b/zarr.json": LINE}
    base = commit(repo, "base", items | _chunks("a", "value", range(10)) | _chunks("g/b", "b", range(0, 10, 3)))
    _refs(repo, {"base": base}, odd_names=odd_names)
    _grow_and_shrink(repo)
    _delete_and_recreate(repo)
    _concurrent(repo)
    commit(repo, "on dev", {"a/c/9": b"dev", "dev/zarr.json": GROUP}, branch="dev")
    repo.writable_session("dev").commit("empty", allow_empty=True)
    repo.set_default_commit_metadata({"default": [1, 2], "author": "default"})
    commit(repo, "default metadata", {"a/c/9": b"meta"}, branch="dev", metadata={"author": "own"})
    session = repo.writable_session("dev")
    session.shift_array("/a", [2])
    session.commit("shifted")
    session = repo.writable_session("dev")
    session.reindex_array("/a", lambda index: [9 - index[0]], lambda index: [9 - index[0]])
    session.commit("reversed")
    session = repo.writable_session("main")
    session.store.sync_clear()
    put(session.store, "zarr.json", GROUP)
    thrown = session.commit("cleared")
    repo.reset_branch("main", repo.lookup_snapshot(thrown).parent_id or "")
    session = repo.writable_session("main")
    put(session.store, "a/c/7", b"flushed, not committed")
    flushed = session.flush("flushed", metadata={"detached": True})
    repo.create_tag("tip", repo.lookup_branch("main"))
    unlisted = ENCODED_NAMES if odd_names and spec_version == 1 else ()
    return GeneratedRepo(name, path, spec_version, snapshots=(thrown, flushed), unlisted_tags=unlisted)


def amended(path: Path, spec_version: int) -> GeneratedRepo:
    """Commits replaced by amending them, also one with moves."""
    repo = create(path, spec_version)
    items = {"zarr.json": GROUP, "g/zarr.json": GROUP, "a/zarr.json": LINE, "g/b/zarr.json": LINE}
    commit(repo, "base", items | _chunks("a", "v", range(4)))
    old = [
        commit(repo, "to be amended", {"a/c/1": b"first", "new/zarr.json": LINE, "new/c/0": b"n"}, metadata={"a": 1})
    ]
    session = repo.writable_session("main")
    put_all(session.store, {"a/c/2": b"amended", "new/c/1": b"n1"})
    remove(session.store, "g/b/zarr.json")
    old.append(session.amend("amended"))
    session = repo.writable_session("main")
    put(session.store, "a/c/3", b"amended twice")
    session.amend("amended twice", metadata={"b": 2})
    session = repo.rearrange_session("main")
    session.move("/a", "/g/a")
    old.append(session.commit("move"))
    session = repo.rearrange_session("main")
    session.move("/g/a", "/g/again")
    session.amend("moves, amended")
    return GeneratedRepo("amended", path, spec_version, snapshots=tuple(old))


def moved(path: Path, spec_version: int) -> GeneratedRepo:
    """Nodes and whole subtrees moved, into each other's places too."""
    repo = create(path, spec_version)
    items = {f"{name}zarr.json": GROUP for name in ("", "g/", "g/deep/", "h/")}
    items |= {"g/deep/a/zarr.json": LINE, "b/zarr.json": LINE, "g-b/zarr.json": GROUP}
    commit(repo, "base", items | _chunks("g/deep/a", "a", range(5)) | _chunks("b", "b", range(3)))
    for number, moves in enumerate(
        (
            [("/b", "/h/b")],
            [("/g", "/h/g")],
            [("/h/g/deep/a", "/a"), ("/h/g", "/g"), ("/a", "/g/deep/a2")],
            [("/h/b", "/x"), ("/g/deep", "/h/b"), ("/x", "/g/deep"), ("/h", "/ü h")],
            [("/g", "/swap"), ("/ü h", "/g"), ("/swap", "/ü h")],
        )
    ):
        session = repo.rearrange_session("main")
        for old, new in moves:
            session.move(old, new)
        session.commit(f"moves {number}")
        commit(repo, f"write after moves {number}", {"zarr.json": GROUP + b"\n" * (number + 1)})
    return GeneratedRepo("moved", path, spec_version)


def _linear(repo: ic.Repository, count: int, branch: str = "main") -> list[str]:
    return [
        commit(
            repo,
            f"{branch} {number}",
            {f"a/c/{number % 10}": f"{branch} {number}".encode() * 60, f"n{number}/zarr.json": GROUP},
            branch=branch,
        )
        for number in range(count)
    ]


def _expirable(path: Path, spec_version: int) -> tuple[ic.Repository, datetime]:
    repo = create(path, spec_version)
    commit(repo, "base", {"zarr.json": GROUP, "a/zarr.json": LINE})
    early = _linear(repo, 6)
    repo.create_branch("side", early[3])
    repo.create_branch("old-branch", early[2])
    repo.create_tag("old-tag", early[1])
    repo.create_tag("kept", early[4])
    _linear(repo, 2, "side")
    cutoff = repo.lookup_snapshot(_linear(repo, 3)[0]).written_at
    return repo, cutoff


def expired(path: Path, spec_version: int) -> GeneratedRepo:
    """Old snapshots expired in two runs, with refs on some of them."""
    repo, cutoff = _expirable(path, spec_version)
    repo.expire_snapshots(cutoff - timedelta(microseconds=1), delete_expired_branches=spec_version > 1)
    tips = _linear(repo, 4)
    repo = ic.Repository.open(ic.local_filesystem_storage(str(path)))
    repo.expire_snapshots(repo.lookup_snapshot(tips[2]).written_at, delete_expired_tags=True)
    return GeneratedRepo("expired", path, spec_version)


def collected(path: Path, spec_version: int) -> GeneratedRepo:
    """Expired, with branches deleted and flushed snapshots, then garbage-collected; commits after it."""
    repo, cutoff = _expirable(path, spec_version)
    session = repo.writable_session("main")
    put(session.store, "a/c/0", b"flushed" * 100)
    session.flush("flushed")
    repo.delete_branch("side")
    repo.expire_snapshots(cutoff, delete_expired_branches=True, delete_expired_tags=True)
    # Objects' times come from the file system's coarser clock.
    repo.garbage_collect(datetime.now(UTC) + timedelta(seconds=5))
    repo = ic.Repository.open(ic.local_filesystem_storage(str(path)))
    _linear(repo, 2)
    return GeneratedRepo("collected", path, spec_version)


def migrated(path: Path, spec_version: int) -> GeneratedRepo:
    """A version 1 history brought to version 2, and continued."""
    # Names that the local object store percent-encodes make the official migration fail.
    before = history(path, 1, odd_names=False, name="migrated")
    storage = ic.local_filesystem_storage(str(path))
    repo = ic.upgrade_icechunk_repository(ic.Repository.open(storage), dry_run=False)
    commit(repo, "after the migration", {"a/c/8": b"new", "added/zarr.json": GROUP}, metadata={"n": [1, 2.5, None]})
    session = repo.rearrange_session("dev")
    session.move("/dev", "/moved")
    session.commit("a move after the migration")
    repo.update_metadata({"migrated": True})
    reached = {info.id for branch in repo.list_branches() for info in repo.ancestry(branch=branch)}
    known = {snapshot["id"] for snapshot in repo.inspect_repo_info()["snapshots"]}
    return GeneratedRepo("migrated", path, 2, snapshots=tuple(sorted((known - reached) & set(before.snapshots))))


def long_ops_log(path: Path, spec_version: int) -> GeneratedRepo:
    """More than a thousand updates, few of them in one repo info file."""
    repo = create(path, spec_version, num_updates_per_repo_info_file=40)
    tip = commit(repo, "base", {"zarr.json": GROUP})
    chance = random.Random(7)
    for number in range(340):
        name = f"branch-{number}"
        repo.create_branch(name, tip)
        match chance.randrange(4):
            case 0:
                repo.update_metadata({f"k{number}": number})
            case 1:
                repo.create_tag(name, tip)
                repo.delete_tag(name)
            case 2:
                repo.reset_branch(name, "1CECHNKREP0F1RSTCMT0")
            case _:
                repo.set_feature_flag("move_node", chance.choice([True, False, None]))
        repo.delete_branch(name)
    return GeneratedRepo("long-ops-log", path, spec_version)


def configured(path: Path, spec_version: int) -> GeneratedRepo:
    """A configuration with every field set, repository metadata, status and feature flags."""
    preload = ic.ManifestPreloadCondition
    split, axes = ic.ManifestSplitCondition, ic.ManifestSplitDimCondition
    sizes = {
        (split.path_matches("/a.*") | split.name_matches("b")) & split.AnyArray(): {axes.Axis(0): 3, axes.Any(): 9},
        split.AnyArray(): {axes.DimensionName("lat|lon"): 5},
    }
    config = ic.RepositoryConfig(
        inline_chunk_threshold_bytes=77,
        get_partial_values_concurrency=3,
        compression=ic.CompressionConfig(algorithm=ic.CompressionAlgorithm.Zstd, level=7),
        max_concurrent_requests=99,
        max_concurrent_decodes=5,
        caching=ic.CachingConfig(1, 2, 3, 4, 5),
        storage=ic.StorageSettings(
            concurrency=ic.StorageConcurrencySettings(7, 8000),
            retries=ic.StorageRetriesSettings(3, 10, 1000),
            storage_class="STANDARD",
            chunks_storage_class="STANDARD_IA",
            minimum_size_for_multipart_upload=5_000_000,
            timeouts=ic.StorageTimeoutSettings(1, 2, 3, 4),
        ),
        virtual_chunk_containers={
            container.url_prefix: container
            for container in (
                ic.VirtualChunkContainer("file:///data/", ic.local_filesystem_store("/data"), name="local"),
                ic.VirtualChunkContainer("s3://bucket/p/", ic.s3_store(region="us-east-1", anonymous=True)),
                ic.VirtualChunkContainer(
                    "s3://other/",
                    ic.s3_store(
                        "eu-1", "http://localhost:9", allow_http=True, s3_compatible=True, force_path_style=True
                    ),
                    name="minio",
                ),
                ic.VirtualChunkContainer("https://example.org/x/", ic.http_store({"timeout": "5s"})),
                ic.VirtualChunkContainer("gs://bucket/", ic.gcs_store()),
                ic.VirtualChunkContainer("az://container/", ic.storage.azure_store(account="me")),
            )
        },
        manifest=ic.ManifestConfig(
            preload=ic.ManifestPreloadConfig(
                max_total_refs=5,
                preload_if=(preload.true() & preload.name_matches("x")) | preload.num_refs(3, None) | preload.false(),
                max_arrays_to_scan=9,
            ),
            splitting=ic.ManifestSplittingConfig.from_dict(sizes),
            virtual_chunk_location_compression=ic.ManifestVirtualChunkLocationCompressionConfig(
                10, dictionary_max_training_samples=20, dictionary_max_size_bytes=1000, compression_level=9
            ),
            max_concurrent_manifest_fetches_during_commit=4,
        ),
        num_updates_per_repo_info_file=50,
    )
    repo = create(path, spec_version)
    if spec_version > 1:  # in version 1 the second handle does not see the first one's save
        repo.save_config()
    repo = repo.reopen(config=config)
    repo.save_config()
    commit(repo, "base", {"zarr.json": GROUP, "a/zarr.json": LINE} | _chunks("a", "x" * 40, range(9)))
    if spec_version > 1:
        _tend(repo)
    return GeneratedRepo("configured", path, spec_version)


def _tend(repo: ic.Repository) -> None:
    repo.set_metadata({"replaced": 1})
    odd: dict[str, Any] = {"ü": [1, -1, 2**63, 1.5, None, True, "😀", {}, []], "deep": {"a": [{"b": [[1, "x"]]}]}}
    repo.set_metadata(odd)
    repo.update_metadata({"added": "later", "deep": 0})
    repo.set_feature_flag("move_node", False)
    repo.set_feature_flag("create_tag", True)
    repo.set_feature_flag("delete_tag", True)
    repo.set_feature_flag("delete_tag", None)
    repo.set_status(ic.RepoStatus(ic.RepoAvailability.read_only, None, "maintenance: ü"))


def quickstart(path: Path, spec_version: int) -> GeneratedRepo:
    """What a first program does: zarr-python arrays, two commits, an append."""
    repo = create(path, spec_version)
    values = np.arange(100, dtype="float32").reshape(10, 10)
    with repo.transaction("main", message="first", metadata={"n": 1}) as store:
        root = zarr.create_group(store, attributes={"title": "quickstart"})
        root.create_array("data", data=values, chunks=(5, 5), dimension_names=("y", "x"))
    with repo.transaction("main", message="second") as store:
        array = zarr.open_array(store, path="data")
        array[:5, :5] = -1
        array.append(values[:5])
    repo.create_tag("v1.0", repo.lookup_branch("main"))
    return GeneratedRepo("quickstart", path, spec_version)


SCENARIOS: dict[Callable[[Path, int], GeneratedRepo], tuple[int, ...]] = {
    quickstart: (1, 2),
    history: (1, 2),
    amended: (2,),
    moved: (2,),
    expired: (1, 2),
    collected: (1, 2),
    migrated: (2,),
    long_ops_log: (2,),
    configured: (1, 2),
}
