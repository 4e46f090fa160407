"""Handles of spec version 1 after somebody upgraded the repository: whatever they do is refused, and does nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import icechunk
import pytest

from icefs.clock import system_clock
from icefs.engine.upkeep.expiration import ExpirationRequest, expire
from icefs.engine.upkeep.garbage import collect_garbage
from icefs.engine.upkeep.migrate import upgrade
from icefs.engine.write.conflicts import ConflictDetector
from icefs.engine.write.repository import WritableRepository
from icefs.errors import SessionStateError, StaleError
from icefs.format.repo.refs_v1 import branch_key
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from tests.support.faulty import FaultyStorage

GROUP = b'{"zarr_format":3,"node_type":"group","attributes":{}}'
GRID = {"name": "regular", "configuration": {"chunk_shape": [1000]}}
ARRAY = json.dumps(
    {"zarr_format": 3, "node_type": "array", "shape": [4000], "chunk_grid": GRID, "attributes": {}}
).encode()
LATER = 10**10

icechunk.set_logs_filter("off")


class Stale:
    """A handle and a session of spec version 1, and a base commit."""

    def __init__(self, storage) -> None:
        self.handle = WritableRepository.create(storage, spec_version=1)
        with self.handle.transaction("main", message="base") as session:
            session.nodes.put("/", GROUP)
            session.nodes.put("/a", ARRAY)
            session.chunks.set("/a", (0,), b"x" * 1000)
        self.base = self.handle.lookup_branch("main")
        with self.handle.transaction("main", message="tip") as session:
            session.chunks.set("/a", (0,), b"y" * 1000)
        self.handle.create_branch("other", self.base)
        self.handle.create_tag("v1", self.base)
        self.session = self.handle.writable_session("main")
        self.session.chunks.set("/a", (1,), b"z" * 1000)


def contents(storage):
    return {info.key: storage.get(info.key).data for info in storage.iter_objects()}


USES: dict[str, Callable[[Stale], object]] = {
    "commit": lambda stale: stale.session.commit("hours of work"),
    "flush": lambda stale: stale.session.flush("detached"),
    "amend": lambda stale: stale.session.amend("better"),
    "rebase": lambda stale: stale.session.rebase(ConflictDetector()),
    "writable_session": lambda stale: stale.handle.writable_session("main"),
    "rewrite_manifests": lambda stale: stale.handle.rewrite_manifests("anew", branch="main"),
    "create_branch": lambda stale: stale.handle.create_branch("new", stale.base),
    "create_tag": lambda stale: stale.handle.create_tag("v2", stale.base),
    "delete_branch": lambda stale: stale.handle.delete_branch("other"),
    "delete_tag": lambda stale: stale.handle.delete_tag("v1"),
    "reset_branch": lambda stale: stale.handle.reset_branch("main", stale.base),
    "save_config": lambda stale: stale.handle.save_config(),
    "set_metadata": lambda stale: stale.handle.set_metadata({"a": 1}),
    "expire": lambda stale: expire(stale.handle, ExpirationRequest(system_clock() + LATER)),
    "gc": lambda stale: collect_garbage(stale.handle, system_clock() + LATER),
    "list_branches": lambda stale: stale.handle.list_branches(),
    "lookup_tag": lambda stale: stale.handle.lookup_tag("v1"),
    "history": lambda stale: list(stale.handle.log()),
}


def upgrade_here(storage, *, keep):
    upgrade(WritableRepository.open(storage), delete_unused_v1_files=not keep)


@pytest.mark.parametrize("keep", [False, True], ids=["deleted", "kept"])
@pytest.mark.parametrize("use", USES)
def test_what_a_stale_handle_does_is_refused(use: str, keep: bool) -> None:
    storage = MemoryStorage()
    stale = Stale(storage)
    upgrade_here(storage, keep=keep)
    before = contents(storage)
    with pytest.raises(StaleError) as caught:
        USES[use](stale)
    assert caught.value.kind == "repository-upgraded"
    assert "open it again" in str(caught.value.hint)
    after = contents(storage)
    assert before.items() <= after.items()
    assert {key.partition("/")[0] for key in after.keys() - before.keys()} <= {
        "manifests",
        "snapshots",
        "transactions",
    }
    if use in ("commit", "flush", "amend", "rebase"):
        assert stale.session.has_uncommitted_changes


@pytest.mark.parametrize("use", ["commit", "create_branch", "save_config", "expire", "gc"])
def test_after_an_upgrade_by_the_official_library(tmp_path: Path, use: str) -> None:
    storage = LocalStorage(tmp_path / "repo")
    stale = Stale(storage)
    icechunk.upgrade_icechunk_repository(
        icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path / "repo"))),
        dry_run=False,
        delete_unused_v1_files=False,
    )
    before = contents(storage)
    with pytest.raises(StaleError):
        USES[use](stale)
    assert before.items() <= contents(storage).items()
    reopened = WritableRepository.open(storage)
    assert reopened.spec_version == 2
    assert bytes(reopened.readonly_session("main").read_chunk(_chunk(reopened))) == b"y" * 1000


def _chunk(repository):
    chunks = repository.readonly_session("main").array_chunks("/a")
    return chunks.find((0,))


@pytest.mark.parametrize("keep", [False, True], ids=["deleted", "kept"])
@pytest.mark.parametrize("use", ["commit", "create_branch", "create_tag", "reset_branch", "delete_branch", "gc"])
def test_an_upgrade_at_any_moment_of_what_a_stale_handle_does(use: str, keep: bool) -> None:
    """Either the upgraded repository has what was done, or it was refused, and nothing that it needs is gone."""
    at, has_met = 0, True
    while has_met:
        at += 1
        plain = MemoryStorage()
        storage = FaultyStorage(plain)
        stale = Stale(storage)
        rule = storage.interfere(lambda plain=plain: upgrade_here(plain, keep=keep), at=at)
        refused = None
        made = None
        try:
            made = USES[use](stale)
        except (StaleError, SessionStateError) as error:
            refused = error
        has_met = bool(rule.fired)
        if not has_met:
            break
        now = WritableRepository.open(plain)
        assert now.spec_version == 2
        assert_readable(now)
        if refused is None:
            check_done(use, now, made, stale)


def assert_readable(repository: WritableRepository) -> None:
    refs = repository.refs()
    for tip in {*refs.branches.values(), *refs.tags.values()}:
        for info in repository.ancestry(snapshot_id=tip):
            session = repository.session_at(info.id)
            for node in session.list_nodes():
                if node.array is not None:
                    for batch in session.array_chunks(node).iter_batches():
                        for row in range(len(batch)):
                            assert len(session.read_chunk(batch.ref(row))) == 1000


def check_done(use: str, now: WritableRepository, made: object, stale: Stale) -> None:
    match use:
        case "commit":
            assert now.lookup_branch("main") == made
        case "create_branch":
            assert now.lookup_branch("new") == stale.base
        case "create_tag":
            assert now.lookup_tag("v2") == stale.base
        case "reset_branch":
            assert now.lookup_branch("main") == stale.base
        case "delete_branch":
            assert "other" not in now.list_branches()


def test_nothing_is_collected_where_main_is_gone() -> None:
    for spec_version in (1, 2):
        storage = MemoryStorage()
        repository = WritableRepository.create(storage, spec_version=spec_version)
        with repository.transaction("main", message="base") as session:
            session.nodes.put("/", GROUP)
        if spec_version == 1:
            repository.create_branch("other", repository.lookup_branch("main"))
            storage.delete([branch_key("main")])
            before = contents(storage)
            with pytest.raises(SessionStateError, match="no branch 'main'"):
                collect_garbage(repository, system_clock() + LATER)
            assert contents(storage) == before
