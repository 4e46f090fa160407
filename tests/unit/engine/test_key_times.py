"""The times of keys: those of the commits that changed them last, against a plain account."""

import gc
import random

import numpy as np
import pytest

from icefs.clock import system_clock
from icefs.engine.history.key_times import KeyTimes
from icefs.engine.history.lineage import Lineages
from icefs.engine.history.lineage_cache import LineageCache
from icefs.engine.upkeep.expiration import ExpirationRequest, expire
from icefs.engine.write.repository import WritableRepository
from icefs.errors import UnreachableError
from icefs.storage.memory import MemoryStorage
from tests.support.faulty import FaultyStorage
from tests.unit.engine.test_lineage import GROUP, LATER, Story, array, tell


def times_of(repo, cache=None, tip=None):
    session = repo.session_at(tip or repo.lookup_branch("main"))
    return session, KeyTimes(Lineages(repo.context, cache), session.snapshot_id, session.snapshot.flushed_at)


def when(repo, snapshot_id):
    return repo.lookup_snapshot(snapshot_id).flushed_at


def check(story, cache=None):
    session, times = times_of(story.repo, cache)
    for path, tip in story.metadata.items():
        node = session.node(path).id
        assert times.metadata(node) == times.known_metadata(node) == when(story.repo, tip)
        mine = {index: when(story.repo, by) for (where, index), by in story.owner.items() if where == path}
        assert times.newest(node) == max([when(story.repo, tip), *mine.values()])
        there = {index: time for index, time in mine.items() if session.chunk_ref(path, index) is not None}
        if there:
            chunks = times.chunks(node)
            assert {index: chunks.of(index) for index in there} == there
            found = chunks.of_all([np.array(column, np.uint32) for column in zip(*there, strict=True)], len(there))
            expected = list(there.values())
            assert set(expected) == {chunks.uniform} if found is None else found.tolist() == expected


@pytest.mark.parametrize("spec_version", [1, 2])
@pytest.mark.parametrize("seed", range(6))
def test_times_are_those_of_the_account(seed, spec_version, tmp_path):
    story = tell(seed, spec_version)
    check(story)
    with LineageCache(tmp_path / "history.db") as cache:
        for _ in range(2):
            check(story, cache)


def test_a_moved_node_changed_when_it_was_moved():
    story = Story()
    story.commit([("/a", (1,)), ("/b/c", (1,)), ("/b/c", (2,))], [("/", GROUP), ("/b", GROUP)] + [
        (path, array([9])) for path in ("/a", "/b/c")
    ])  # fmt: skip
    story.commit([("/b/c", (2,))])
    session = story.repo.rearrange_session("main")
    session.nodes.move("/b", "/d")
    moved = when(story.repo, session.commit("moves"))
    session, times = times_of(story.repo)
    node = session.node("/d/c").id
    assert times.metadata(session.node("/d").id) == times.metadata(node) == moved
    assert {times.chunks(node).of((at,)) for at in (1, 2)} == {moved}
    assert times.metadata(session.node("/a").id) < moved
    later = story.repo.writable_session("main")
    later.chunks.set("/d/c", (1,), b"again")
    last = when(story.repo, later.commit("later"))
    session, times = times_of(story.repo)
    assert [times.chunks(node).of((at,)) for at in (1, 2)] == [last, moved]


def test_only_an_array_that_several_commits_wrote_needs_its_logs_chunks(monkeypatch):
    story = Story()
    story.commit([("/a", (1,)), ("/b", (1,))], [("/", GROUP), ("/a", array([9])), ("/b", array([9]))])
    story.commit([("/b", (2,))])
    asked = []
    lineage = Lineages.lineage
    monkeypatch.setattr(Lineages, "lineage", lambda self, *about: asked.append(about) or lineage(self, *about))
    session, times = times_of(story.repo)
    for path in ("/a", "/b", "/a", "/b"):
        times.chunks(session.node(path).id)
    assert [node for _, node in asked] == [session.node("/b").id]


@pytest.mark.parametrize("spec_version", [1, 2])
@pytest.mark.parametrize("damage", ["deleted", "garbage"])
def test_what_logs_no_longer_tell_is_of_the_snapshot_that_stands_for_them(damage, spec_version, tmp_path):
    story = tell(5, spec_version)
    tip = story.commit([("/a", (3, 3))])
    with LineageCache(tmp_path / "before.db") as cache:
        check(story, cache)  # what is kept of it from before must not be taken for the whole
        expire(story.repo, ExpirationRequest(system_clock() + LATER))
        storage = story.repo.storage
        repo = WritableRepository.open(storage)
        session, times = times_of(repo, cache)
        assert {times.metadata(session.node(path).id) for path in story.metadata} == {when(repo, tip)}
    for info in list(storage.iter_objects("transactions/")):
        if str(tip) not in info.key:
            storage.delete([info.key]) if damage == "deleted" else storage.put(info.key, b"garbage")
    session, times = times_of(WritableRepository.open(storage))
    for path in story.metadata:
        assert times.metadata(session.node(path).id) == when(repo, tip)
        assert times.chunks(session.node(path).id).of((3, 3)) == when(repo, tip)


def test_a_store_that_is_away_is_asked_again():
    story = tell(2)
    inner = story.repo.storage
    for number in range(1, 30):
        faulty = FaultyStorage(inner)
        repo = WritableRepository.open(faulty)
        session, times = times_of(repo)
        rule = faulty.fail(at=number, keys="transactions/")
        nodes = [session.node(path).id for path in story.metadata]
        failed = 0
        for node in [*nodes, *nodes]:
            try:
                times.chunks(node)
            except UnreachableError:
                failed += 1
        if not rule.fired:
            break
        assert failed == 1 if number == 1 else failed <= 1  # what is fetched ahead may not be needed
        _, fresh = times_of(story.repo)
        assert [times.metadata(node) for node in nodes] == [fresh.metadata(node) for node in nodes]
        assert [times.chunks(node).of((1, 1)) for node in nodes] == [fresh.chunks(node).of((1, 1)) for node in nodes]
    assert number > 5


def test_many_nodes_take_one_walk():
    story = Story()
    story.commit(metadata=[("/", GROUP), *((f"/g{number}", GROUP) for number in range(300))])
    rng = random.Random(1)
    for _ in range(5):
        story.commit(metadata=[(f"/g{rng.randrange(300)}", array([1]).replace(b"array", b"group"))])
    faulty = FaultyStorage(story.repo.storage)
    session, times = times_of(WritableRepository.open(faulty))
    faulty.clear()
    for path, tip in story.metadata.items():
        assert times.metadata(session.node(path).id) == when(story.repo, tip)
    assert len([call for call in faulty.calls if call.key.startswith("transactions/")]) <= 7


def test_times_that_are_known_do_not_keep_the_list_of_all_snapshots():
    story = Story()
    for number in range(40):
        story.commit(metadata=[(f"/g{number}", GROUP)])
    session, times = times_of(story.repo)
    for number in (39, 30):
        assert times.metadata(session.node(f"/g{number}").id) == when(story.repo, story.metadata[f"/g{number}"])
    known = story.repo.assets.fetch_repo_info()[0].snapshots
    before, kind = id(known), type(known)
    del known
    story.commit(metadata=[("/last", GROUP)])
    gc.collect()
    assert before not in {id(one) for one in gc.get_objects() if isinstance(one, kind)}
    for number in (5, 15, 0):
        assert times.metadata(session.node(f"/g{number}").id) == when(story.repo, story.metadata[f"/g{number}"])


def test_a_repository_without_commits():
    repo = WritableRepository.create(MemoryStorage())
    session, times = times_of(repo)
    assert times.metadata(story_node()) == session.snapshot.flushed_at


def story_node():
    from icefs.format.ids import NodeId

    return NodeId(bytes(8))
