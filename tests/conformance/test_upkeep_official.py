"""Expiration and garbage collection: official library and icefs agree object by object, on copies of a repository.

Histories are drawn at random: branches, tags, resets, amended and detached snapshots, files old and young.
"""

import os
import random
import shutil
from datetime import UTC, datetime, timedelta

import icechunk as ic
import pytest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from icefs.clock import to_datetime
from icefs.engine.upkeep.expiration import ExpirationRequest, expire
from icefs.engine.upkeep.garbage import collect_garbage
from icefs.engine.write.repository import WritableRepository
from icefs.errors import ReadOnlyError
from icefs.storage.url import open_storage
from tests.conformance.official import GROUP, array_json, create, put_all

SEEDS = range(int(os.environ.get("ICEFS_TEST_ROUNDS", "12")))
NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def build(path, seed, spec_version):
    """Makes a repository with some history."""
    rng = random.Random(seed)
    repo = create(path, spec_version, inline_chunk_threshold_bytes=4)
    session = repo.writable_session("main")
    put_all(
        session.store, {"zarr.json": GROUP, "a/zarr.json": array_json([40], [4]), "b/zarr.json": array_json([9], [3])}
    )
    ids = [session.commit("the arrays")]
    branches = ["main"]
    for number in range(rng.randint(3, 9)):
        branch = rng.choice(branches)
        session = repo.writable_session(branch)
        chunks = {
            f"{name}/c/{rng.randrange(count)}": rng.randbytes(rng.choice([3, size]))
            for name, count, size in rng.choices([("a", 10, 4), ("b", 3, 9)], k=3)
        }
        put_all(session.store, chunks)
        match rng.randrange(5) if spec_version == 2 else 0:
            case 1 if repo.lookup_branch(branch) != ids[0]:
                ids.append(session.amend(f"amended {number}"))
            case 2:
                ids.append(session.flush(f"detached {number}"))
            case _:
                ids.append(session.commit(f"commit {number}"))
        match rng.randrange(6):
            case 0 | 1:
                name = f"branch{number}"
                repo.create_branch(name, rng.choice(ids))
                branches.append(name)
            case 2:
                repo.create_tag(f"tag{number}", rng.choice(ids))
            case 3:
                repo.reset_branch(branch, rng.choice(ids))
            case 4 if branch != "main":
                repo.delete_branch(branch)
                branches.remove(branch)
    return rng


def age(path, rng):
    """Gives files random ages of up to ten days."""
    for file in sorted(each for each in path.rglob("*") if each.is_file()):
        then = (NOW - rng.random() * 10 * DAY).timestamp()
        os.utime(file, (then, then))


def objects(path):
    """All objects but those whose names are new in every run."""
    return {
        str(file.relative_to(path))
        for file in path.rglob("*")
        if file.is_file() and file.relative_to(path).parts[0] not in ("overwritten", "icefs.lock#0")
    }


def history(repo, spec_version):
    """What refs and ancestries a repository has, and what can be read of it."""
    if spec_version == 1:
        return {
            **{name: [each.id for each in repo.ancestry(branch=name)] for name in repo.list_branches()},
            **{f"tag {name}": [each.id for each in repo.ancestry(tag=name)] for name in repo.list_tags()},
        }
    info = repo.inspect_repo_info()
    info.pop("header", None)
    for update in info["latest_updates"]:
        update.pop("updated_at"), update.pop("backup_path", None)
    info.pop("repo_before_updates", None)
    return info


def ours(path):
    return WritableRepository.open(open_storage(str(path)))


def official(path):
    return ic.Repository.open(ic.local_filesystem_storage(str(path)))


def micros(moment):
    return int(moment.timestamp() * 1_000_000)


def two(path, tmp_path):
    """Two copies of a repository, with the times of its files."""
    copies = tmp_path / "theirs", tmp_path / "ours"
    for copy in copies:
        shutil.copytree(path, copy)
    return copies


@pytest.mark.parametrize("spec_version", [2, 1])
@pytest.mark.parametrize("seed", SEEDS)
def test_expiration_and_collection_as_officially(tmp_path, seed, spec_version):
    rng = build(tmp_path / "repo", seed, spec_version)
    age(tmp_path / "repo", rng)
    theirs, mine = two(tmp_path / "repo", tmp_path)
    with_refs = {"delete_expired_branches": rng.random() < 0.5, "delete_expired_tags": rng.random() < 0.5}
    times = sorted(snapshot_times(mine))
    for _ in range(2):
        cutoff = rng.choice(times) + timedelta(microseconds=rng.choice([0, 1]))
        released = official(theirs).expire_snapshots(cutoff, **with_refs)
        request = ExpirationRequest(
            micros(cutoff), with_refs["delete_expired_branches"], with_refs["delete_expired_tags"], dry_run=True
        )
        kept = objects(mine)
        with_dry_run = expire(ours(mine), request)
        assert objects(mine) == kept
        done = expire(ours(mine), ExpirationRequest(request.older_than, request.delete_branches, request.delete_tags))
        assert {str(each) for each in done.released} == released
        assert done.released == with_dry_run.released or spec_version == 1  # there an edit shortens the next history
        assert history(official(theirs), spec_version) == history(official(mine), spec_version)
        assert objects(theirs) == objects(mine)

        cutoff = NOW - rng.random() * 10 * DAY
        planned = collect_garbage(ours(mine), micros(cutoff), dry_run=True)
        assert counts(planned) == counts(official(theirs).garbage_collect(cutoff, dry_run=True))
        assert objects(theirs) == objects(mine)
        told = official(theirs).garbage_collect(cutoff)
        collected = collect_garbage(ours(mine), micros(cutoff))
        assert counts(collected) == counts(told)
        assert objects(theirs) == objects(mine)
        assert history(official(theirs), spec_version) == history(official(mine), spec_version)
    assert_readable(mine)


def counts(summary):
    names = ("bytes", "chunks", "manifests", "snapshots", "transaction_logs")
    return {name: getattr(summary, f"{name}_deleted") for name in names}


def snapshot_times(path):
    repo = ours(path)
    refs = repo.refs()
    tips = {*refs.branches.values(), *refs.tags.values()}
    return {to_datetime(each.flushed_at) for tip in tips for each in repo.ancestry(snapshot_id=tip)}


def assert_readable(path):
    """Everything that refs lead to is still there, by the official library's account."""
    repo = official(path)
    versions = [{"branch": name} for name in repo.list_branches()] + [{"tag": name} for name in repo.list_tags()]
    for version in versions:
        for info in repo.ancestry(**version):
            store = repo.readonly_session(snapshot_id=info.id).store
            read = sync(_read_all(store))
            assert all(data for data in read.values())
            assert info.parent_id is None or "zarr.json" in read


async def _read_all(store):
    prototype = default_buffer_prototype()
    return {key: (await store.get(key, prototype)).to_bytes() async for key in store.list()}


def test_a_repository_that_is_not_online_is_left_alone(tmp_path):
    build(tmp_path / "repo", 1, 2)
    official(tmp_path / "repo").set_status(ic.RepoStatus(ic.RepoAvailability.read_only))
    with pytest.raises(ReadOnlyError):
        collect_garbage(ours(tmp_path / "repo"), micros(NOW + DAY))
    with pytest.raises(ReadOnlyError):
        expire(ours(tmp_path / "repo"), ExpirationRequest(micros(NOW + DAY)))
