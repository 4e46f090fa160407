"""Random interleavings of sessions that write and programs that collect, with a model of what each commit says.

    world = World(open_storage, random.Random(seed), official=…)
    world.run(steps)

Actors: sessions of the API and forks of them, a working tree whose chunks are uploaded in the background, imports,
collections and expirations by icefs or by the official library with any cutoff, refs that are reset, `fsck --repair`,
and once an upgrade to spec 2. After each commit the new snapshot is read by a fresh reader: every chunk has the model's
value. A commit that is refused leaves its changes; when the chunks that it names were written again, it goes through.
Handles from before an upgrade refuse whatever they are asked for, and a new session takes their changes over.
"""

import json
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from icefs.clock import system_clock
from icefs.engine.upkeep.expiration import ExpirationRequest, expire
from icefs.engine.upkeep.fsck import repair
from icefs.engine.upkeep.garbage import collect_garbage
from icefs.engine.upkeep.migrate import upgrade
from icefs.engine.write.conflicts import BasicConflictSolver, VersionSelection
from icefs.engine.write.context import WriteContext
from icefs.engine.write.forks import fork, merge
from icefs.engine.write.pickling import restore_session, session_state
from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.session import WritableSession
from icefs.errors import (
    BranchMovedError,
    ChunksCollectedError,
    NothingToCommitError,
    ObjectNotFoundError,
    SessionStateError,
    SnapshotNotFoundError,
    StaleError,
)
from icefs.format.config.values import RepositoryConfig
from icefs.format.ids import INITIAL_SNAPSHOT_ID, SnapshotId
from icefs.storage.base import Storage
from icefs.transfer.directory_import import ImportRequest, import_directory
from icefs.worktree.upload.options import UploadOptions
from icefs.worktree.upload.uploader import storing_again
from tests.support.staged_chunks import StagedChunks

GROUP: Final = b'{"zarr_format":3,"node_type":"group","attributes":{}}'
SIZE: Final = 6
HOUR: Final = 3_600_000_000
CUTOFFS: Final = (10_000_000, 0, -HOUR, -24 * HOUR)
"""What a collection takes: what is older than so many microseconds after now."""
OURS: Final = BasicConflictSolver(on_chunk_conflict=VersionSelection.UseOurs)
CONFIG: Final = RepositoryConfig(inline_chunk_threshold_bytes=0)

type Values = dict[tuple[int, ...], bytes]
type Collect = Callable[[int], None]
"""Runs a collection of the official library with a cutoff in microseconds since the epoch."""


def array() -> bytes:
    """Returns the `zarr.json` of an array of `SIZE` chunks of 8 bytes."""
    grid = {"name": "regular", "configuration": {"chunk_shape": [8]}}
    codecs = [{"name": "bytes"}]
    document = {"zarr_format": 3, "node_type": "array", "shape": [8 * SIZE], "data_type": "uint8", "fill_value": 0}
    return json.dumps({**document, "chunk_grid": grid, "codecs": codecs, "attributes": {}}).encode()


def values_of(repository: WritableRepository, snapshot_id: SnapshotId) -> Values:
    """Reads all chunks of `/a` in a snapshot."""
    session = repository.session_at(snapshot_id)
    if session.get_node("/a") is None:
        return {}
    found: Values = {}
    for batch in session.array_chunks("/a").iter_batches():
        for row in range(len(batch)):
            found[batch.refs.index(row)] = bytes(session.read_chunk(batch.ref(row)))
    return found


@dataclass
class Writer:
    """A session of the API, and what its commit would say."""

    session: WritableSession
    base: Values
    changes: Values = field(default_factory=dict)

    @property
    def values(self) -> Values:
        return self.base | self.changes


class World:
    """One repository and everybody at work on it."""

    def __init__(
        self,
        storage: Storage,
        rng: random.Random,
        directory: Path,
        *,
        spec_version: int = 2,
        collect_officially: Collect | None = None,
        expire_officially: Collect | None = None,
    ) -> None:
        self.storage = storage
        self.rng = rng
        self.directory = directory
        self.spec_version = spec_version
        self.official = collect_officially
        self.official_expire = expire_officially
        self.upgraded = 0
        self.stale = 0
        self.repository = WritableRepository.create(storage, CONFIG, spec_version=spec_version)
        self.repository.save_config()
        session = self.repository.writable_session("main")
        session.nodes.put("/", GROUP)
        session.nodes.put("/a", array())
        self.snapshots: dict[SnapshotId, Values] = {session.commit("arrays"): {}}
        self.writers: list[Writer] = []
        self.number = 0
        self.refused = 0

    def run(self, steps: int) -> None:
        actions = [self.open, self.write, self.write, self.fork, self.collect, self.collect, self.expire, self.commit]
        actions += [self.commit, self.reset, self.import_all, self.amend, self.rebase]
        actions += [self.repair]
        upgrade_at = self.rng.randrange(steps) if self.spec_version == 1 and self.rng.random() < 0.7 else None
        for step in range(steps):
            (self.upgrade if step == upgrade_at else self.rng.choice(actions))()
        while self.writers:
            self.commit()

    # What writers do.

    def value(self) -> bytes:
        self.number += 1
        return f"{self.number:08d}".encode()

    def tip(self) -> SnapshotId:
        return WritableRepository.open(self.storage).lookup_branch("main")

    def open(self) -> None:
        if len(self.writers) < 4:
            opened_by = self.rng.choice([self.repository, WritableRepository.open(self.storage)])
            if self.is_stale(opened_by):
                self.refuses(lambda: opened_by.writable_session("main"))
                return
            session = opened_by.writable_session("main")
            self.writers.append(Writer(session, self.snapshots[session.snapshot_id]))

    def pick(self) -> Writer | None:
        """Chooses a session; one from before the upgrade refuses to commit, and a new session takes its place."""
        if not self.writers:
            return None
        writer = self.rng.choice(self.writers)
        session = writer.session
        if not self.is_stale(session.context):
            return writer
        had_changes = session.has_uncommitted_changes
        self.refuses(lambda: session.commit("stale", allow_empty=True))
        assert session.has_uncommitted_changes == had_changes
        anew = WritableRepository.open(self.storage).writable_session("main")
        self.writers.remove(writer)
        self.writers.append(Writer(anew, self.snapshots[anew.snapshot_id], dict(writer.changes)))
        for index, value in writer.changes.items():
            anew.chunks.set("/a", index, value)
        return self.writers[-1]

    def is_stale(self, repository: WritableRepository | WriteContext) -> bool:
        return repository.spec_version < self.spec_version

    def refuses(self, attempt: Callable[[], object]) -> None:
        """Checks that a handle from before the upgrade does nothing."""
        before = {(info.key, info.version) for info in self.storage.iter_objects("refs/")}
        try:
            attempt()
        except StaleError:
            self.stale += 1
        else:
            raise AssertionError("a handle from before the upgrade did something")
        assert {(info.key, info.version) for info in self.storage.iter_objects("refs/")} == before

    def write(self) -> None:
        writer = self.pick()
        if writer is not None:
            index, value = (self.rng.randrange(SIZE),), self.value()
            writer.session.chunks.set("/a", index, value)
            writer.changes[index] = value

    def fork(self) -> None:
        """Writes through a fork that was sent away, perhaps with a collection before it comes back."""
        writer, index, value = self.pick(), (self.rng.randrange(SIZE),), self.value()
        if writer is None:
            return
        try:
            sent = restore_session(*pickle.loads(pickle.dumps(session_state(fork(writer.session)))))
        except (SnapshotNotFoundError, ObjectNotFoundError):
            assert self.tip() != writer.session.snapshot_id
            return  # nothing has been written: what the session stands on was reset away and collected
        assert isinstance(sent, WritableSession)
        sent.chunks.set("/a", index, value)
        back = restore_session(*pickle.loads(pickle.dumps(session_state(sent))))
        if self.rng.random() < 0.5:
            self.collect()
        merge(writer.session, [back])
        writer.changes[index] = value

    def commit(self) -> None:
        writer = self.pick()
        if writer is not None:
            self.finish(writer, "commit")

    def amend(self) -> None:
        writer = self.pick()
        if writer is not None and self.spec_version == 2 and writer.session.snapshot_id != INITIAL_SNAPSHOT_ID:
            self.finish(writer, "amend")

    def rebase(self) -> None:
        writer = self.pick()
        if writer is not None and not self.put_on_tip(writer):
            self.writers.remove(writer)

    def put_on_tip(self, writer: Writer) -> bool:
        """Rebases; false where the manifests are gone that would tell what came in between."""
        try:
            writer.session.rebase(OURS)
        except SessionStateError as error:
            if error.kind != "rebase-tx-log-pruned":
                raise
            return False
        writer.base = self.snapshots[writer.session.snapshot_id]
        return True

    def finish(self, writer: Writer, how: str) -> None:
        """Commits; what is refused keeps its changes, and goes through when the chunks were written again."""
        session = writer.session
        while True:
            try:
                made = session.commit("c") if how == "commit" else session.amend("a", allow_empty=True)
            except BranchMovedError:
                if not self.put_on_tip(writer):
                    break
            except NothingToCommitError:
                break
            except ChunksCollectedError as error:
                self.refused += 1
                assert session.has_uncommitted_changes
                for path, index in error.facts["chunks"]:
                    assert path == "/a"
                    session.chunks.set(path, index, writer.changes[tuple(index)])
            else:
                self.check(made, writer.values)
                break
        self.writers.remove(writer)

    def check(self, made: SnapshotId, values: Values) -> None:
        self.snapshots[made] = values
        assert values_of(WritableRepository.open(self.storage), made) == values

    def import_all(self) -> None:
        """Imports a directory, with a collection while it is under way."""
        root = self.directory / "source"
        (root / "a" / "c").mkdir(parents=True, exist_ok=True)
        (root / "zarr.json").write_bytes(GROUP)
        (root / "a" / "zarr.json").write_bytes(array())
        values = {(index,): self.value() for index in range(SIZE)}
        for (index,), value in values.items():
            (root / "a" / "c" / str(index)).write_bytes(value)
        has_collected = False

        def progress(done: object) -> None:
            nonlocal has_collected
            if not has_collected and self.rng.random() < 0.3:
                has_collected = True
                self.collect()

        request = ImportRequest(
            str(root), self.directory / "state", overwrite=True, pack_bytes=self.rng.choice([0, 32])
        )
        repository = self.repository
        if self.is_stale(repository):
            self.refuses(lambda: import_directory(self.repository, request, lambda done: None))
            repository = WritableRepository.open(self.storage)
        done = import_directory(repository, request, progress)
        assert done.snapshot_id is not None
        self.check(done.snapshot_id, values)

    # What others do.

    def collect(self) -> None:
        cutoff = system_clock() + self.rng.choice(CUTOFFS)
        if self.official is not None and self.rng.random() < 0.5:
            self.official(cutoff)
        else:
            collect_garbage(WritableRepository.open(self.storage), cutoff)

    def upgrade(self) -> None:
        """Upgrades to spec 2, with or without the old files; handles that are open are stale from now on."""
        repository = WritableRepository.open(self.storage)
        upgrade(repository, delete_unused_v1_files=self.rng.random() < 0.5)
        self.spec_version = 2
        self.upgraded += 1
        tip = self.tip()
        for attempt in (
            lambda: collect_garbage(self.repository, system_clock() + HOUR),
            lambda: expire(self.repository, ExpirationRequest(system_clock() + HOUR)),
            lambda: self.repository.reset_branch("main", tip),
            lambda: self.repository.create_branch("stale", tip),
            lambda: self.repository.create_tag("stale", tip),
            self.repository.save_config,
        ):
            self.refuses(attempt)

    def repair(self) -> None:
        """Checks, and mends what needs no mending: nothing changes."""
        before = self.tip()
        report = repair(self.storage)
        assert not report.findings, report.findings
        assert self.tip() == before

    def expire(self) -> None:
        cutoff = system_clock() + self.rng.choice(CUTOFFS)
        if self.official_expire is not None and self.rng.random() < 0.5:
            self.official_expire(cutoff)
            return
        expire(WritableRepository.open(self.storage), ExpirationRequest(cutoff))

    def reset(self) -> None:
        repository = WritableRepository.open(self.storage)
        history = [info.id for info in repository.ancestry(branch="main")]
        known = [each for each in history if each in self.snapshots]
        repository.reset_branch("main", self.rng.choice(known))


def run_uploads(storage: Storage, rng: random.Random, directory: Path, steps: int, *, spec_version: int = 2) -> int:
    """A working tree whose chunks are uploaded while nobody waits, and commits of it between collections.

    Returns:
        How many commits were made.
    """
    staged = StagedChunks(storage, directory, spec_version=spec_version)
    options = UploadOptions(pack_bytes=rng.choice([0, 64]), quiet_s=0.001)
    staged.start_uploads(options)
    with staged.repository.transaction("main", message="arrays") as session:
        session.nodes.put("/", GROUP)
        session.nodes.put("/a", array())
    values: Values = {}
    made = 0
    try:
        for number in range(steps):
            match rng.randrange(4):
                case 0 | 1:
                    index = (rng.randrange(SIZE),)
                    values[index] = f"{number:08d}".encode() * 100
                    staged.write({index: values[index]})
                case 2:
                    if rng.random() < 0.7:
                        staged.wait_for(lambda state: not state.pending or options.pack_bytes > 0)
                    collect_garbage(WritableRepository.open(storage), system_clock() + rng.choice(CUTOFFS))
                case _ if values:
                    snapshot_id = storing_again(
                        staged.driver.tree.uploads, lambda: staged.commit(list(values), options)
                    )
                    assert values_of(WritableRepository.open(storage), snapshot_id) == values
                    made += 1
    finally:
        staged.close()
    return made
