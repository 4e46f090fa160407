"""A repository may come from anybody: whatever its files say, reading it ends, and ends in an icefs error at worst."""

import random
from itertools import islice

import pytest

from icefs.engine.history.changes import compare
from icefs.engine.history.diff import diff_snapshots
from icefs.engine.read.inspect import inspect_snapshot, inspect_transaction_log
from icefs.engine.read.repo_state import ops_log
from icefs.engine.repository import Repository
from icefs.errors import IcefsError, InternalError
from icefs.format.header import FileType, decode_file, encode_file
from icefs.format.manifest.refs import InlineRef, VirtualRef
from icefs.storage.memory import MemoryStorage
from tests.support.hex_storage import HexStorage
from tests.support.repo_builder import RepoBuilder, group, inline, snapshot_id

_TYPES = {
    "snapshots": FileType.SNAPSHOT,
    "manifests": FileType.MANIFEST,
    "transactions": FileType.TRANSACTION_LOG,
    "repo": FileType.REPO_INFO,
}


def small_repository(spec_version, storage=None) -> RepoBuilder:
    builder = RepoBuilder(storage, spec_version=spec_version)
    refs = {**inline((0, 0), (0, 1), (3, 2)), (1, 1): builder.chunk(b"0123456789")}
    boxes = [((0, 2), (0, 4)), ((2, 4), (0, 4))]
    nodes = [
        group("/", 1),
        group("/deep/implicit/group", 2),
        builder.array("/a", 3, (4, 4), refs, boxes=boxes),
        builder.array("/deep/v", 4, (3,), {(0,): VirtualRef("s3://b/k", 0, 5, "e"), (2,): InlineRef(b"x")}),
        builder.array("/s", 5, (), {(): InlineRef(b"1")}),
    ]
    builder.commit(nodes, new_groups=[1, 2], new_arrays=[3, 4, 5], chunks={3: list(refs)})
    refs[(3, 3)] = InlineRef(b"later")
    nodes[2] = builder.array("/a", 3, (4, 4), refs)
    builder.commit(nodes, chunks={3: [(3, 3)]})
    builder.tags["t"] = snapshot_id(1)
    builder.publish()
    return builder


def survey(repository: Repository) -> list[object]:
    """Reads all there is in bounded pieces, noting errors instead of raising them."""
    seen: list[object] = []

    def note(call):
        try:
            seen.append(call())
        except InternalError:
            raise
        except IcefsError as error:
            seen.append(type(error))

    note(lambda: [info.id for info in islice(repository.log("main"), 100)])
    note(lambda: diff_snapshots(repository.context, snapshot_id(1), snapshot_id(2)))
    note(lambda: list(islice(ops_log(repository.context), 100)))
    for number in (1, 2):
        note(lambda n=number: inspect_snapshot(repository.assets, snapshot_id(n)))
        note(lambda n=number: inspect_transaction_log(repository.context, snapshot_id(n)))
        try:
            session = repository.session_at(snapshot_id(number))
        except IcefsError:
            continue
        for path in session.snapshot.paths:
            note(lambda s=session, p=path: s.children(p))
            note(lambda s=session, p=path: s.node(p))
            note(lambda s=session, p=path: survey_array(s, p))
    note(lambda: compare(repository.session_at(snapshot_id(1)), repository.session_at(snapshot_id(2))))
    return seen


def survey_array(session, path):
    if session.node(path).array is None:
        return None
    chunks = session.array_chunks(path)
    chunks.children(())
    chunks.has_prefix((0,))
    found = []
    for batch in chunks.iter_batches():
        for position, index in enumerate(batch.indices()[:20].tolist()):
            ref = chunks.find(index)
            assert ref is None or ref == batch.ref(position)
            chunks.leaves(index[:-1])
            try:
                found.append(None if ref is None else session.read_chunk(ref))
            except IcefsError as error:
                found.append(type(error))
    return found


def damaged(builder: RepoBuilder, key: str, rng: random.Random) -> MemoryStorage:
    """Copies a repository, with some bytes of one file's flatbuffer replaced by others that are apt to hurt."""
    storage = MemoryStorage()
    for info in builder.storage.iter_objects():
        storage.put(info.key, builder.storage.get(info.key).data)
    kind = _TYPES[key.partition("/")[0]]
    spec_version, body = decode_file(storage.get(key).data, file_type=kind, name=key)
    changed = bytearray(body)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(changed))
        width = rng.choice((1, 1, 4, 8))
        value = rng.choice((0, 1, 2, 0x7F, 0xFF, 0xFFFFFFFF, 0x7FFFFFFF, rng.getrandbits(8 * width)))
        changed[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
    storage.put(key, encode_file(bytes(changed[: len(body)]), file_type=kind, spec_version=spec_version))
    return storage


@pytest.mark.slow
@pytest.mark.parametrize("spec_version", [1, 2])
@pytest.mark.parametrize("directory", list(_TYPES))
def test_a_damaged_file_is_an_icefs_error_at_worst(spec_version, directory, caplog):
    builder = small_repository(spec_version)
    keys = sorted(info.key for info in builder.storage.iter_objects() if info.key.partition("/")[0] == directory)
    if not keys:
        assert (spec_version, directory) == (1, "repo")
        return
    rng = random.Random(f"{spec_version} {directory}")
    sound = survey(Repository.open(builder.storage))
    differed = 0
    for _ in range(60):
        storage = damaged(builder, rng.choice(keys), rng)
        try:
            repository = Repository.open(storage)
        except IcefsError:
            differed += 1
            continue
        differed += survey(repository) != sound
        repository.close()
    assert differed > 20, "the damage does not reach what is read"


@pytest.mark.parametrize("spec_version", [1, 2])
def test_the_engine_reads_through_the_storage_interface_alone(spec_version):
    plain = small_repository(spec_version)
    hidden = small_repository(spec_version, HexStorage(MemoryStorage()))
    expected = survey(Repository.open(plain.storage))
    assert survey(Repository.open(hidden.storage)) == expected
    assert not [error for error in expected if isinstance(error, type) and spec_version == 2]
