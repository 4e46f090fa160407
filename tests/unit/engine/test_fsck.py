"""Checking repositories: damage is found and named, and mended where it can be."""

import json

import numpy as np
import pytest

from icefs.engine.upkeep.fsck import fsck, repair
from icefs.engine.write.repository import WritableRepository
from icefs.format.layout import chunk_key
from icefs.format.manifest.refs import NativeRef
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from tests.support.faulty import FaultyStorage

GROUP = b'{"zarr_format":3,"node_type":"group","attributes":{}}'


def array(size):
    grid = {"name": "regular", "configuration": {"chunk_shape": [1]}}
    document = {"zarr_format": 3, "node_type": "array", "shape": [size], "chunk_grid": grid, "attributes": {}}
    return json.dumps(document).encode()


def commit(repo, message, index, branch="main"):
    session = repo.writable_session(branch)
    if session.get_node("/a") is None:
        session.nodes.put("/", GROUP)
        session.nodes.put("/a", array(100))
    session.chunks.set("/a", (index,), message.encode() * 200)
    return session.commit(message)


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def repo(request):
    repo = WritableRepository.create(MemoryStorage(), spec_version=request.param)
    for number in range(4):
        commit(repo, f"number {number}", number)
    repo.create_branch("side", repo.lookup_branch("main"))
    commit(repo, "side", 50, "side")
    repo.create_tag("v1", repo.lookup_branch("side"))
    return repo


def some(repo, directory, number=0):
    return sorted(info.key for info in repo.storage.iter_objects(f"{directory}/"))[number]


def kinds(report):
    return {(one.kind, one.key.partition("/")[0]) for one in report.findings}


def test_a_whole_repository_is_clean(repo):
    for deep in (False, True):
        report = fsck(repo.storage, deep=deep)
        assert (report.status, report.findings, report.orphans, report.lost) == ("clean", [], {}, [])
        assert report.checked["snapshots"] == 6
        assert report.checked["chunks"] == 5
        assert report.checked["manifests"] == 5
    assert repair(repo.storage).status == "clean"


@pytest.mark.parametrize("directory", ["snapshots", "transactions", "manifests", "chunks"])
def test_what_is_gone_is_missed(repo, directory):
    key = chunk_of(repo) if directory == "chunks" else some(repo, directory)
    repo.storage.delete([key])
    report = fsck(repo.storage)
    assert report.status == "damaged"
    assert ("missing", directory) in kinds(report)
    assert any(one.key == key for one in report.findings)


def chunk_of(repo):
    ref = repo.readonly_session("main").chunk_ref("/a", (1,))
    assert isinstance(ref, NativeRef)
    return chunk_key(ref.chunk_id)


@pytest.mark.parametrize("directory", ["snapshots", "transactions", "manifests"])
def test_what_is_garbled_is_named(repo, directory):
    rng = np.random.default_rng(5)
    for number in range(3):
        key = some(repo, directory, number)
        whole = repo.storage.get(key).data
        for damaged in (b"", whole[: len(whole) // 2], rng.bytes(len(whole))):
            repo.storage.put(key, damaged)
            report = fsck(repo.storage)
            assert ("malformed", directory) in kinds(report)
        repo.storage.put(key, whole)
    assert fsck(repo.storage).status == "clean"


def test_what_was_exchanged_is_noticed(repo):
    for directory in ("snapshots", "transactions", "manifests"):
        one, other = some(repo, directory), some(repo, directory, 1)
        whole = repo.storage.get(one).data
        repo.storage.put(one, repo.storage.get(other).data)
        assert ("malformed", directory) in kinds(fsck(repo.storage))
        repo.storage.put(one, whole)


def test_a_chunk_object_that_is_too_short(repo):
    key = chunk_of(repo)
    repo.storage.put(key, repo.storage.get(key).data[:-1])
    [finding] = fsck(repo.storage).findings
    assert (finding.kind, finding.key) == ("size", key)
    assert "/a" not in finding.message
    assert "chunk [1]" in finding.message


def test_chunks_are_read_if_asked_for(repo):
    storage = FaultyStorage(repo.storage)
    key = chunk_of(repo)
    storage.fail(methods="get", keys=key)
    assert fsck(storage).status == "clean"
    report = fsck(storage, deep=True)
    assert [(one.kind, one.key) for one in report.findings] == [("unreadable", key)]


def test_orphans_are_counted_and_are_no_damage(repo):
    session = repo.writable_session("main")
    session.chunks.set("/a", (7,), b"x" * 1000)
    report = fsck(repo.storage)
    assert report.status == "clean"
    assert report.orphans == {"chunks": {"objects": 1, "bytes": 1000}}


def test_a_commit_during_the_check_is_no_damage(repo):
    done = []

    def meanwhile(what, count):
        if what == "chunks listed" and not done:
            done.append(commit(repo, "meanwhile", 60))

    report = fsck(repo.storage, progress=meanwhile)
    assert (report.status, len(done)) == ("clean", 1)


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_the_newest_backup_takes_the_place_of_a_repo_that_is_gone(damage):
    repo = WritableRepository.create(MemoryStorage())
    first = commit(repo, "first", 1)
    commit(repo, "second", 2)
    if damage is None:
        repo.storage.delete(["repo"])
    else:
        repo.storage.put("repo", damage)
    assert fsck(repo.storage).status == "damaged"
    report = repair(repo.storage)
    assert report.status == "repaired"
    assert "repo is what it was" in report.repaired[0]
    assert WritableRepository.open(repo.storage).lookup_branch("main") == first


def overwrite(storage, change, other):
    """Lets two writers change `repo`, of whom the second has not seen the first, but makes its backup after it."""
    before = storage.get("repo").data
    change()
    between = storage.get("repo").data
    storage.put("repo", before)
    other()
    backup = next(info.key for info in storage.iter_objects("overwritten/") if storage.get(info.key).data == before)
    storage.put(f"{backup[:-3]}000", between)


def test_a_lost_commit_is_found_and_brought_back(tmp_path):
    storage = LocalStorage(tmp_path)
    repo = WritableRepository.create(storage)
    commit(repo, "start", 0)
    lost = []

    def loser():
        lost.append(commit(repo, "lost one", 1))
        lost.append(commit(repo, "lost two", 2))

    overwrite(storage, loser, lambda: commit(WritableRepository.open(storage), "winner", 3))
    report = fsck(storage)
    assert report.status == "damaged"
    assert {one.snapshot_id for one in report.lost} == set(lost)
    assert all("NewCommit of 'main'" in one.message for one in report.findings)
    report = repair(storage)
    assert report.status == "repaired"
    name = f"recovered-main-{str(lost[1])[:8].lower()}"
    again = WritableRepository.open(storage)
    assert [info.message for info in again.ancestry(branch=name)][:3] == ["lost two", "lost one", "start"]
    assert [info.message for info in again.ancestry(branch="main")][:2] == ["winner", "start"]
    assert len(report.repaired) == 1
    assert repair(storage).status == "clean"


def test_lost_refs_are_made_again():
    storage = MemoryStorage()
    repo = WritableRepository.create(storage)
    tip = commit(repo, "start", 0)

    def loser():
        repo.create_branch("mine", tip)
        repo.create_tag("v9", tip)
        repo.set_metadata({"who": "lost"})

    overwrite(storage, loser, lambda: WritableRepository.open(storage).create_branch("theirs", tip))
    report = repair(storage)
    assert report.status == "repaired"
    again = WritableRepository.open(storage)
    assert again.lookup_branch("mine") == again.lookup_tag("v9") == tip
    assert {"mine", "theirs", "main"} == set(again.refs().branches)
    # Updates that cannot be repeated without asking are listed.
    assert [type(one.kind).__name__ for one in report.lost] == ["MetadataChanged"]
