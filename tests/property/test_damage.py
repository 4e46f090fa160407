"""Newer and damaged objects under every command that writes: nothing unknown changes, nothing damaged is lost.

The cases are all kinds of objects × all kinds of damage × all operations, by a handle that was opened before the damage
and by one opened after it. `ICEFS_SOAK=1` flips many more bits.
"""

import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import pytest

from icefs.clock import system_clock
from icefs.engine.upkeep.expiration import ExpirationRequest, expire
from icefs.engine.upkeep.fsck import fsck, repair
from icefs.engine.upkeep.garbage import collect_garbage
from icefs.engine.upkeep.migrate import upgrade
from icefs.engine.write.repository import WritableRepository
from icefs.errors import FormatError, IcefsError, UnsupportedSpecVersionError
from icefs.format.config.values import RepositoryConfig
from icefs.format.header import HEADER_BYTES
from icefs.format.ids import SnapshotId
from icefs.format.layout import CONFIG_V1, REPO_INFO, manifest_key, snapshot_key, transaction_log_key
from icefs.format.repo.refs_v1 import branch_key
from icefs.storage.memory import MemoryStorage
from tests.support.soak import depth

FLIPS = depth(4, 60)
LATER = 10**13
GROUP = b'{"zarr_format":3,"node_type":"group","attributes":{}}'

type Objects = dict[str, bytes]
type Values = dict[str, bytes]


def array() -> bytes:
    grid = {"name": "regular", "configuration": {"chunk_shape": [8]}}
    codecs = [{"name": "bytes"}]
    document = {"zarr_format": 3, "node_type": "array", "shape": [32], "data_type": "uint8", "fill_value": 0}
    return json.dumps({**document, "chunk_grid": grid, "codecs": codecs, "attributes": {}}).encode()


class Base(NamedTuple):
    """A repository, its commits, and what the newest snapshot says; `/a` and `/b` have a manifest each."""

    objects: Objects
    ids: tuple[SnapshotId, ...]
    values: Values
    keys: dict[str, str]
    replacements: dict[str, str]


@cache
def base(spec_version: int) -> Base:
    storage = MemoryStorage()
    config = RepositoryConfig(inline_chunk_threshold_bytes=0)
    repository = WritableRepository.create(storage, config, spec_version=spec_version)
    ids = []
    for number in range(4):
        session = repository.writable_session("main")
        if not number:
            session.nodes.put("/", GROUP)
            session.nodes.put("/a", array())
            session.nodes.put("/b", array())
        for name in "ab":
            session.chunks.set(f"/{name}", (number,), f"{name}{number}......".encode())
        ids.append(session.commit(f"number {number}"))
    repository.create_branch("other", ids[1])
    repository.create_tag("v1", ids[2])
    tip = repository.session_at(ids[-1])
    manifests = {}
    for name in "ab":
        found = tip.node(f"/{name}").array
        assert found is not None
        manifests[name] = [manifest_key(ref.manifest_id) for ref in found.manifests]
    keys = {
        "snapshot": snapshot_key(ids[-1]),
        "old snapshot": snapshot_key(ids[0]),
        "manifest": manifests["a"][-1],
        "log": transaction_log_key(ids[-1]),
        "old log": transaction_log_key(ids[1]),
    }
    replacements = {
        "snapshot": snapshot_key(ids[0]),
        "old snapshot": snapshot_key(ids[-1]),
        "manifest": manifests["b"][-1],
        "log": transaction_log_key(ids[1]),
        "old log": transaction_log_key(ids[-1]),
    }
    if spec_version == 2:
        keys["repo"] = REPO_INFO
        replacements["repo"] = max(info.key for info in storage.iter_objects("overwritten/"))
    else:
        keys |= {"main": branch_key("main"), "other": branch_key("other"), "config": CONFIG_V1}
        replacements |= {"main": branch_key("other"), "other": branch_key("main")}
    objects = {info.key: storage.get(info.key).data for info in storage.iter_objects()}
    return Base(objects, tuple(ids), values_of(repository, ids[-1]), keys, replacements)


def values_of(repository: WritableRepository, snapshot_id: SnapshotId) -> Values:
    return {name: read(repository, snapshot_id, name) for name in "ab"}


def read(repository: WritableRepository, snapshot_id: SnapshotId, name: str) -> bytes:
    session = repository.session_at(snapshot_id)
    chunks = session.array_chunks(f"/{name}")
    found = []
    for index in range(4):
        ref = chunks.find((index,))
        found.append(b"-" if ref is None else bytes(session.read_chunk(ref)))
    return b"".join(found)


def damages(spec_version: int, what: str) -> Iterator[tuple[str, bytes | None]]:
    """Yields kinds of damage to an object, each with the bytes that are there then; None for no object."""
    made = base(spec_version)
    data = made.objects[made.keys[what]]
    if what not in ("main", "other", "config"):
        yield "newer", data[:36] + b"\x03" + data[37:]
    yield "cut", data[: len(data) // 2]
    yield "cut in its header", data[: min(20, len(data) // 3)]
    yield "empty", b""
    yield "gone", None
    if what in made.replacements:
        yield "replaced", made.objects[made.replacements[what]]
    rng = random.Random(f"{spec_version} {what}")
    for number in range(FLIPS):
        # Half of them in what is compressed, which has most of the bytes.
        start = HEADER_BYTES if number % 2 and len(data) > HEADER_BYTES else 0
        position = rng.randrange(start, len(data))
        bit = 1 << rng.randrange(8)
        yield (
            f"bit {bit} of byte {position}",
            data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :],
        )


OPERATIONS: dict[str, Callable[[WritableRepository, Base], object]] = {
    "gc": lambda repo, made: collect_garbage(repo, system_clock() + LATER),
    "expire": lambda repo, made: expire(repo, ExpirationRequest(system_clock() + LATER)),
    "expire, gc": lambda repo, made: (
        expire(repo, ExpirationRequest(system_clock() + LATER)),
        collect_garbage(repo, system_clock() + LATER),
    ),
    "repair": lambda repo, made: repair(repo.storage),
    "repair, gc": lambda repo, made: (
        repair(repo.storage),
        collect_garbage(WritableRepository.open(repo.storage), system_clock() + LATER),
    ),
    "upgrade": lambda repo, made: upgrade(repo),
    "commit": lambda repo, made: _commit(repo),
    "amend": lambda repo, made: _amend(repo),
    "rewrite manifests": lambda repo, made: repo.rewrite_manifests("anew", branch="main"),
    "branch create": lambda repo, made: repo.create_branch("new", made.ids[0]),
    "branch delete": lambda repo, made: repo.delete_branch("other"),
    "branch reset": lambda repo, made: repo.reset_branch("other", made.ids[0]),
    "tag create": lambda repo, made: repo.create_tag("v2", made.ids[0]),
    "tag delete": lambda repo, made: repo.delete_tag("v1"),
    "config set": lambda repo, made: repo.save_config(),
    "set metadata": lambda repo, made: repo.set_metadata({"a": 1}),
}
COLLECTING = ("gc", "expire, gc", "repair", "repair, gc")


def _commit(repo: WritableRepository) -> None:
    session = repo.writable_session("main")
    session.chunks.set("/a", (0,), b"changed!")
    session.commit("changed")


def _amend(repo: WritableRepository) -> None:
    session = repo.writable_session("main")
    session.chunks.set("/a", (0,), b"changed!")
    session.amend("changed")


CASES = [
    pytest.param(spec_version, what, id=f"v{spec_version}-{what}")
    for spec_version in (1, 2)
    for what in base(spec_version).keys
]


@pytest.mark.parametrize("opened", ["before", "after"])
@pytest.mark.parametrize(("spec_version", "what"), CASES)
def test_nothing_unknown_changes_and_nothing_damaged_is_lost(spec_version: int, what: str, opened: str) -> None:
    made = base(spec_version)
    key = made.keys[what]
    for damage, data in damages(spec_version, what):
        for operation, run in OPERATIONS.items():
            where = f"{damage} {what}, {operation}"
            storage = MemoryStorage()
            for name, content in made.objects.items():
                storage.put(name, content)
            handle = WritableRepository.open(storage) if opened == "before" else None
            if data is None:
                storage.delete([key])
            else:
                storage.put(key, data)
            before = contents(storage)
            outcome: IcefsError | None = None
            try:
                run(handle or WritableRepository.open(storage), made)
            except IcefsError as error:
                outcome = error
            after = contents(storage)
            if damage == "newer":
                assert after[key] == data, where
                gone = {name for name in before.keys() - after.keys() if not name.startswith("refs/")}
                # A log names no other object: snapshots that expired next to it are nobody's.
                assert not gone or "log" in what or operation == "upgrade", (where, gone)
                if operation in COLLECTING and what in ("repo", "snapshot", "manifest"):
                    assert isinstance(outcome, UnsupportedSpecVersionError), (where, outcome)
            elif data is not None and after.get(key) != data:
                is_wanted = may_replace(operation, what, outcome)
                assert is_wanted or data in after.values(), where
            if outcome is not None and "gc" in operation and isinstance(outcome, FormatError):
                assert deleted_only_known_garbage(before, after, operation), where


def may_replace(operation: str, what: str, outcome: IcefsError | None) -> bool:
    """Tells whether an operation is there to replace or to delete just this object."""
    if outcome is not None:
        return False
    return (
        (operation, what)
        in {
            ("upgrade", "main"),
            ("upgrade", "other"),
            ("upgrade", "config"),
            ("config set", "config"),
            ("commit", "main"),
            ("rewrite manifests", "main"),
            ("branch delete", "other"),
            ("branch reset", "other"),
        }
        or ("gc" in operation and what not in ("main", "other", "config", "repo"))
        or what in ("repo", "old snapshot")
    )


def deleted_only_known_garbage(before: Objects, after: Objects, operation: str) -> bool:
    gone = before.keys() - after.keys()
    return not gone or operation != "gc"


def contents(storage: MemoryStorage) -> Objects:
    return {info.key: storage.get(info.key).data for info in storage.iter_objects()}


@pytest.mark.parametrize(("spec_version", "what"), CASES)
def test_others_can_be_read_and_fsck_finds_what_readers_meet(spec_version: int, what: str) -> None:
    made = base(spec_version)
    for damage, data in damages(spec_version, what):
        storage = MemoryStorage()
        for name, content in made.objects.items():
            storage.put(name, content)
        if data is None:
            storage.delete([made.keys[what]])
        else:
            storage.put(made.keys[what], data)
        if what in ("old snapshot", "old log", "log", "other", "manifest"):
            repository = WritableRepository.open(storage)
            tip = made.ids[-1]
            assert repository.lookup_branch("main") == tip, damage
            names = "b" if what == "manifest" else "ab"
            for name in names:
                assert read(repository, tip, name) == made.values[name], damage
        assert_found(storage, made, f"{damage} {what}")


def assert_found(storage: MemoryStorage, made: Base, where: str) -> None:
    """Where fsck finds nothing, nothing fails that a reader does."""
    try:
        report = fsck(storage, deep=True)
    except IcefsError:
        return
    if report.findings:
        assert not report.orphans or report.status == "damaged"
        return
    repository = WritableRepository.open(storage)
    for branch in repository.list_branches():
        for info in repository.ancestry(branch=branch):
            session = repository.session_at(info.id)
            for node in session.list_nodes():
                if node.array is not None:
                    read(repository, info.id, node.path[1:])


@pytest.mark.parametrize("spec_version", [1, 2])
def test_what_is_whole_is_clean(spec_version: int) -> None:
    storage = MemoryStorage()
    for name, content in base(spec_version).objects.items():
        storage.put(name, content)
    report = fsck(storage, deep=True)
    assert (report.status, report.findings, report.orphans) == ("clean", [], {})
