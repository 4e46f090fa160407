"""Which commit changed what last: against a plain account, with and without what was kept."""

import contextlib
import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from icefs.clock import system_clock
from icefs.engine.history import lineage_cache
from icefs.engine.history.lineage import Lineages
from icefs.engine.history.lineage_cache import LineageCache
from icefs.engine.upkeep.expiration import ExpirationRequest, expire
from icefs.engine.write.repository import WritableRepository
from icefs.format.chunk_indices import ChunkIndices
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from tests.support.children import running

GROUP = b'{"zarr_format":3,"node_type":"group","attributes":{}}'
LATER = 10**15


def array(shape, **attributes):
    grid = {"name": "regular", "configuration": {"chunk_shape": [1] * len(shape)}}
    document = {
        "zarr_format": 3, "node_type": "array", "shape": shape, "chunk_grid": grid, "attributes": attributes
    }  # fmt: skip
    return json.dumps(document).encode()


class Story:
    """A repository, and an account of the last change of everything."""

    def __init__(self, spec_version=2):
        self.repo = WritableRepository.create(MemoryStorage(), spec_version=spec_version)
        self.owner = {}
        self.metadata = {}
        self.touched = []

    def commit(self, chunks=(), metadata=(), deleted=()):
        session = self.repo.writable_session("main")
        for path, document in metadata:
            session.nodes.put(path, document)
        for path, index in chunks:
            session.chunks.set(path, index, b"x")
        for path, index in deleted:
            session.chunks.delete(path, ChunkIndices.from_indices(len(index), [index]))
        tip = session.commit(f"number {len(self.touched)}")
        self.metadata.update({path: tip for path, _ in metadata})
        for path, index in (*chunks, *deleted):
            self.owner[path, index] = tip
        self.touched.append((tip, {path for path, _ in (*metadata, *chunks, *deleted)}))
        return tip

    def check(self, lineages):
        session = self.repo.readonly_session("main")
        for path, changed_by in self.metadata.items():
            found = lineages.lineage(session.snapshot_id, session.node(path).id)
            assert found.is_complete
            assert found.commits[found.metadata][0] == changed_by
            mine = {index: tip for (where, index), tip in self.owner.items() if where == path}
            assert {index: found.commits[found.owner(index)][0] for index in mine} == mine
            if mine:
                indices = ChunkIndices.from_indices(len(next(iter(mine))), mine)
                owners = found.owners_of(indices)
                assert [found.commits[owner][0] for owner in owners] == [mine[index] for index in indices]
            expected = [tip for tip, paths in reversed(self.touched) if path in paths]
            assert [commit for commit, _ in found.commits] == expected


def tell(seed, spec_version=2, length=12):
    rng = random.Random(seed)
    story = Story(spec_version)
    story.commit(metadata=[("/", GROUP), ("/a", array([4, 4])), ("/scalar", array([]))])
    for number in range(length):
        chunks = [("/a", (rng.randrange(4), rng.randrange(4))) for _ in range(rng.randrange(4))]
        chunks = list(dict.fromkeys(chunks))
        metadata = [("/a", array([4, 4], number=number))] if rng.random() < 0.2 else []
        if number == 5:
            metadata.append(("/late", array([9])))
        if rng.random() < 0.3:
            chunks.append(("/scalar", ()))
        deleted = []
        if chunks and rng.random() < 0.2 and chunks[-1][1]:
            present = [key for key in story.owner if key[0] == "/a" and key not in chunks]
            deleted = present[:1]
        if not (chunks or metadata or deleted):
            chunks = [("/a", (0, 0))]
        story.commit(chunks, metadata, [key for key in deleted if key not in chunks])
    return story


@pytest.mark.parametrize("spec_version", [2, 1])
@pytest.mark.parametrize("seed", range(8))
def test_owners_are_those_of_the_account(seed, spec_version, tmp_path):
    story = tell(seed, spec_version)
    story.check(Lineages(story.repo.context))
    with LineageCache(tmp_path / "history.db") as cache:
        lineages = Lineages(story.repo.context, cache)
        for _ in range(2):
            story.check(lineages)
        for number in range(6):  # the cache is built upon
            story.commit([("/a", (number % 4, 1))])
            story.check(lineages)
    with LineageCache(tmp_path / "history.db") as cache:
        story.check(Lineages(story.repo.context, cache))


def test_what_is_kept_needs_no_log(tmp_path):
    story = tell(3)
    tip = story.repo.lookup_branch("main")
    with LineageCache(tmp_path / "history.db") as cache:
        story.check(Lineages(story.repo.context, cache))
        told = [(info.id, touched) for info, touched in Lineages(story.repo.context, cache).touches(tip)]
    storage = story.repo.storage
    storage.delete([info.key for info in storage.iter_objects("transactions/")])
    again = WritableRepository.open(storage)
    story.repo = again
    with LineageCache(tmp_path / "history.db") as cache:
        story.check(Lineages(again.context, cache))
        assert [(info.id, touched) for info, touched in Lineages(again.context, cache).touches(tip)] == told


def test_touches_name_what_was_done():
    story = Story()
    first = story.commit([("/a", (1,))], [("/", GROUP), ("/a", array([9]))])
    second = story.commit([("/a", (1,)), ("/a", (2,))], [("/a", array([9], more=1))])
    session = story.repo.readonly_session("main")
    node = session.node("/a").id
    told = {info.id: touched.get(node) for info, touched in Lineages(story.repo.context).touches(second)}
    assert (told[first].words, told[first].num_chunks) == (("new",), 1)
    assert (told[second].words, told[second].num_chunks) == (("metadata",), 2)


def test_expired_commits_count_for_the_one_that_stands_for_them():
    story = tell(5)
    tip = story.commit([("/a", (3, 3))])
    expire(story.repo, ExpirationRequest(system_clock() + LATER))
    session = story.repo.readonly_session("main")
    node = session.node("/a").id
    found = Lineages(story.repo.context).lineage(tip, node)
    assert [commit for commit, _ in found.commits] == [tip]
    assert found.is_complete
    assert len(found.chunks) > 3
    storage = story.repo.storage
    storage.delete([info.key for info in storage.iter_objects("transactions/") if str(tip) not in info.key])
    found = Lineages(WritableRepository.open(storage).context).lineage(tip, node)
    assert [commit for commit, _ in found.commits] == [tip]
    assert not found.is_complete


@pytest.mark.parametrize("damage", ["bytes", "empty", "version", "value", "directory"])
def test_a_damaged_database_is_made_anew(tmp_path, damage, caplog):
    story = tell(1)
    path = tmp_path / "cache/history.db"
    with LineageCache(path) as cache:
        story.check(Lineages(story.repo.context, cache))
    rng = np.random.default_rng(1)
    match damage:
        case "bytes":
            path.write_bytes(rng.bytes(path.stat().st_size))
        case "empty":
            path.write_bytes(b"")
        case "directory":
            path.unlink()
            path.mkdir()
        case _:
            connection = sqlite3.connect(path)
            if damage == "version":
                connection.execute("pragma user_version = 99")
            else:
                connection.execute("update lineages set value = ?", (b"nonsense",))
                connection.execute("update touches set value = ?", (b"nonsense",))
                connection.commit()
            connection.close()
    with LineageCache(path) as cache:
        for _ in range(2):
            story.check(Lineages(story.repo.context, cache))
            assert len(list(Lineages(story.repo.context, cache).touches(story.repo.lookup_branch("main")))) == 14


class Gathering(MemoryStorage):
    """Answers for transaction logs only when so many are asked for at once, or all that are left."""

    capabilities = replace(MemoryStorage.capabilities, concurrency=32)
    together = 0

    def __init__(self):
        super().__init__()
        self.lock = threading.Condition()
        self.waiting = self.most = 0
        self.asked = []

    def get(self, key, *, start=0, end=None):
        if self.together and key.startswith("transactions/"):
            with self.lock:
                self.asked.append(key)
                self.waiting += 1
                self.most = max(self.most, self.waiting)
                self.lock.notify_all()
                many = self.lock.wait_for(lambda: self.most >= self.together or len(self.asked) <= 8, 10)
                self.waiting -= 1
            assert many, f"{self.most} at a time"
        return super().get(key, start=start, end=end)


def test_a_long_history_is_fetched_side_by_side_and_each_log_once(tmp_path):
    storage, told = Gathering(), []
    repo = WritableRepository.create(storage)
    with repo.transaction("main", message="0") as session:
        session.nodes.put("/", GROUP)
        session.nodes.put("/a", array([100]))
    for number in range(99):
        with repo.transaction("main", message=str(number + 1)) as session:
            session.chunks.set("/a", (number,), b"x")
    cold = WritableRepository.open(storage)
    tip = cold.lookup_branch("main")
    storage.together = 30
    with LineageCache(tmp_path / "history.db") as cache:
        touched = list(Lineages(cold.context, cache, lambda *what: told.append(what)).touches(tip))
        assert len(touched) == 101
        assert (storage.most <= 32, len(storage.asked), len(set(storage.asked))) == (True, 101, 101)
        assert told == [("commits looked at", number + 1) for number in range(101)]
        # What the newest commit did needs few logs; and what is kept none.
        storage.asked.clear()
        assert list(Lineages(WritableRepository.open(storage).context, cache).touches(tip)) == touched
        assert storage.asked == []
        node = cold.readonly_session("main").node("/a").id
        lineage = Lineages(cold.context, cache).lineage(tip, node)
        assert len(lineage.commits) == 100
        with cold.transaction("main", message="last") as session:
            session.chunks.set("/a", (0,), b"y")
        fresh = WritableRepository.open(storage)
        assert Lineages(fresh.context, cache).lineage(fresh.lookup_branch("main"), node).owner((0,)) == 0
        assert len(storage.asked) == 1  # the one log that came since
    newest = next(Lineages(WritableRepository.open(storage).context).touches(tip))
    assert newest[0].id == tip
    cold.close()


_SHARE = """
import sys
from pathlib import Path
from icefs.engine.history import lineage_cache
from icefs.engine.history.lineage import Lineages
from icefs.engine.history.lineage_cache import LineageCache
from icefs.engine.repository import Repository
from icefs.storage.local.store import LocalStorage
repo = Repository.open(LocalStorage(sys.argv[1]))
tip = repo.refs().branch("main")
print("ready", flush=True)
sys.stdin.readline()
with LineageCache(Path(sys.argv[2])) as cache:
    lineages = Lineages(repo.context, cache)
    node = repo.session_at(tip).node("/a").id
    lineage = lineages.lineage(tip, node)
    print([str(commit) for commit, _ in lineage.commits], lineage.owners.tolist())
    print([(str(info.id), sorted((str(node), str(touch)) for node, touch in touched.items()))
           for info, touched in lineages.touches(tip)])
repo.close()
"""


def test_processes_share_what_is_kept(tmp_path, caplog):
    repo = WritableRepository.create(LocalStorage(tmp_path / "repo"))
    for number in range(40):
        with repo.transaction("main", message=str(number)) as session:
            if not number:
                session.nodes.put("/a", array([100]))
            session.chunks.set("/a", (number,), b"x")
    place = tmp_path / "history.db"
    command = [sys.executable, "-c", _SHARE, str(tmp_path / "repo"), str(place)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(running(command, **pipes)) for _ in range(3)]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:  # all at once, on a database that none has made yet
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = {process.communicate(timeout=60)[0] for process in processes}
        assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(answers) == 1
    assert answers.pop().count("\n") == 2
    # Their cache is whole, and needs no log.
    repo.storage.delete([info.key for info in repo.storage.iter_objects("transactions/")])
    again = WritableRepository.open(repo.storage)
    tip = again.lookup_branch("main")
    with LineageCache(place) as cache:
        assert sum(bool(touched) for _, touched in Lineages(again.context, cache).touches(tip)) == 40
        assert (
            len(Lineages(again.context, cache).lineage(tip, again.readonly_session("main").node("/a").id).commits) == 40
        )
    assert "damaged" not in caplog.text
    again.close()
    repo.close()


def kept(directory):
    return {path.stem for path in directory.glob("*.db")}


def test_databases_that_nobody_used_for_long_go(tmp_path):
    for name in ("old", "young"):
        LineageCache(tmp_path / f"{name}.db").close()
    long_ago = time.time() - lineage_cache.MAX_UNUSED_S - 10
    os.utime(tmp_path / "old.db", (long_ago, long_ago))
    LineageCache(tmp_path / "mine.db").close()
    assert kept(tmp_path) == {"young", "mine"}
    os.utime(tmp_path / "mine.db", (long_ago, long_ago))
    LineageCache(tmp_path / "mine.db").close()  # which is use enough
    LineageCache(tmp_path / "young.db").close()
    assert kept(tmp_path) == {"young", "mine"}


def test_the_directory_has_a_limit_and_what_was_used_longest_ago_goes(tmp_path):
    now = time.time()
    for age, name in enumerate(("new", "older", "oldest"), 1):
        with open(tmp_path / f"{name}.db", "wb") as file:
            file.truncate(lineage_cache.MAX_DIRECTORY_BYTES * 2 // 5)  # without taking room
        os.utime(tmp_path / f"{name}.db", (now - 60 * age,) * 2)
    LineageCache(tmp_path / "mine.db").close()
    assert kept(tmp_path) == {"new", "older", "mine"}
