"""Repositories that histories are exchanged between, as values that can be compared."""

from random import Random

from icefs.engine.repository import Repository
from icefs.engine.upkeep.fsck import fsck
from icefs.engine.write.repository import WritableRepository
from icefs.format.ids import SnapshotId
from icefs.paths import NodePath
from icefs.storage.base import Storage
from icefs.storage.memory import MemoryStorage
from tests.support.transactions import commit_start

A = NodePath("/a")

type Content = dict[tuple[int, ...], bytes]


def write(repository: WritableRepository, branch: str, seed: int) -> SnapshotId:
    """Commits some chunks: inline ones, native ones, and deleted ones."""
    random = Random(seed)
    session = repository.writable_session(branch)
    for _ in range(3):
        index = random.randrange(4), random.randrange(4)
        if random.random() < 0.2:
            session.chunks.delete_below(A, index)
        session.chunks.set(A, index, random.randbytes(random.choice([20, 700])))
    return session.commit(f"commit {seed} to {branch}")


def make(storage: Storage, spec_version: int = 2) -> WritableRepository:
    """Makes a repository with two branches and a tag."""
    made = WritableRepository.create(storage, spec_version=spec_version)
    commit_start(made)
    write(made, "main", 1)
    made.create_branch("dev", write(made, "main", 2))
    made.create_tag("v1", write(made, "dev", 3))
    write(made, "dev", 4)
    write(made, "main", 5)
    return made


def content(repository: Repository, snapshot_id: SnapshotId) -> Content:
    """Reads the chunks of a snapshot."""
    session = repository.session_at(snapshot_id)
    if session.get_node(A) is None:
        return {}
    refs = session.array_chunks(A)
    return {
        tuple(row): session.read_chunk(batch.ref(position))
        for batch in refs.iter_batches()
        for position, row in enumerate(batch.indices().tolist())
    }


def seen(storage: Storage) -> dict[tuple[str, str], list[tuple[str, str, Content]]]:
    """Reads all that refs lead to: of each history the ids, messages and chunks."""
    with Repository.open(storage) as opened:
        refs = opened.refs()
        named = {("branch", name): tip for name, tip in refs.branches.items()}
        named |= {("tag", name): tip for name, tip in refs.tags.items()}
        return {
            ref: [(str(each.id), each.message, content(opened, each.id)) for each in opened.ancestry(snapshot_id=tip)]
            for ref, tip in named.items()
        }


def copied(storage: Storage) -> MemoryStorage:
    """Copies a store into memory."""
    copy = MemoryStorage()
    for info in storage.iter_objects():
        copy.put(info.key, storage.get(info.key).data)
    return copy


def is_whole(storage: Storage) -> bool:
    """Tells whether a repository is there, and nothing that it needs is missing."""
    return fsck(storage, deep=True).status == "clean"
