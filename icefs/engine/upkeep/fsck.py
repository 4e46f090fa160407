"""Checking a repository: whether everything that refs lead to is there, whole, and as the format demands.

    refs → snapshots → transaction logs
              └ manifests → chunk objects

Each object is looked at once. Damage of one stops nothing but the way through it. Objects that nothing leads to are no
damage: they are garbage collection's business, and counted here, unless something that may lead there cannot be read.
An object that a newer Icechunk wrote is no damage either, and nothing is repaired around it.

Losses that writers without a lock leave behind in a repository on a file system show in `overwritten/`: a backup
whose ops log has an update that the present history lacks. Repairing brings back what such updates added, as
branches and tags; see `lost_updates`.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np

from icefs.engine.read.assets import AssetManager, repository_not_found
from icefs.engine.read.refs import RefsV1
from icefs.engine.repository import Repository
from icefs.engine.upkeep.fsck_sizes import ImpossibleSizes
from icefs.engine.upkeep.lost_updates import (
    LostUpdate,
    bring_back_newer,
    find_lost_updates,
    recover,
    restore_repo_info,
)
from icefs.engine.write.repository import WritableRepository
from icefs.errors import (
    FormatError,
    IcefsError,
    NotAnObjectError,
    ObjectNotFoundError,
    RepositoryNotFoundError,
    StorageError,
    UnsupportedSpecVersionError,
)
from icefs.format.config.codec import parse_config, parse_config_yaml
from icefs.format.ids import INITIAL_SNAPSHOT_ID, ChunkId, ManifestId, SnapshotId
from icefs.format.layout import (
    CHUNKS,
    CONFIG_V1,
    MANIFESTS,
    REPO_INFO,
    SNAPSHOTS,
    TRANSACTIONS,
    chunk_key,
    manifest_key,
    snapshot_key,
    transaction_log_key,
)
from icefs.format.manifest.reader import Manifest
from icefs.format.manifest.refs import ArrayRefs, ChunkKind
from icefs.format.repo.info import RepoInfo
from icefs.format.repo.refs_v1 import branch_key, tag_key
from icefs.format.snapshot.nodes import ManifestFileInfo
from icefs.format.snapshot.reader import Snapshot
from icefs.storage.base import Storage

type Progress = Callable[[str, int], None]

_READ_BYTES: Final = 8 << 20
_SHOWN_CHUNKS: Final = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    Attributes:
        kind: `missing`, `malformed`, `size`, `order`, `dangling` (leads nowhere), `unreadable`, `lost-update`,
            `foreign` (neither a file nor a directory), or `newer` (written in a spec version that this icefs does not
            know).
        key: The object.
        message: What is wrong with it.
    """

    kind: str
    key: str
    message: str


@dataclass(slots=True)
class FsckReport:
    """What was found.

    Attributes:
        findings: What is wrong.
        checked: How many objects of each kind were looked at.
        orphans: How many objects of each kind nothing leads to, and their bytes.
        lost: Updates that got lost.
        repaired: What was repaired, for people.
    """

    findings: list[Finding] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    orphans: dict[str, dict[str, int]] = field(default_factory=dict)
    lost: list[LostUpdate] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)

    @property
    def status(self) -> Literal["clean", "repaired", "newer", "damaged"]:
        """The outcome in a word; `newer` where nothing is wrong but that this icefs does not know all of it."""
        if self.findings:
            return "newer" if all(one.kind == "newer" for one in self.findings) else "damaged"
        return "repaired" if self.repaired else "clean"

    def to_json(self) -> dict[str, Any]:
        """Describes the report in JSON."""
        return {
            "status": self.status,
            "findings": [{"kind": one.kind, "key": one.key, "message": one.message} for one in self.findings],
            "checked": self.checked,
            "orphans": self.orphans,
            "lost_updates": [one.to_json() for one in self.lost],
            "repaired": self.repaired,
        }


def fsck(storage: Storage, *, deep: bool = False, progress: Progress = lambda what, count: None) -> FsckReport:
    """Checks a repository without changing anything.

    Args:
        storage: Where.
        deep: Read every chunk object to its end, too.
        progress: Called with how far it is.

    Raises:
        RepositoryNotFoundError: nothing of a repository is there.
        UnsupportedSpecVersionError: a newer Icechunk wrote `repo`.
        StorageError: the store cannot be listed or reached at all.
    """
    return _Check(storage, deep=deep, progress=progress).run()


def repair(storage: Storage, *, deep: bool = False, progress: Progress = lambda what, count: None) -> FsckReport:
    """Checks a repository, and mends what the copies in `overwritten/` can mend.

    Args:
        storage: Where.
        deep: Read every chunk object to its end, too.
        progress: Called with how far it is.

    Raises:
        UnsupportedSpecVersionError: a newer Icechunk wrote something of it; nothing was changed.
        StorageError, ConflictError, ReadOnlyError: the repository cannot be read or written.
    """
    report = fsck(storage, deep=deep, progress=progress)
    done: list[str] = []
    newer = [one.key for one in report.findings if one.kind == "newer"]
    if newer:
        more = f" and {len(newer) - 1} more" if len(newer) > 1 else ""
        raise UnsupportedSpecVersionError(
            f"{newer[0]}{more} of {storage.url} was written by a newer Icechunk; nothing was repaired",
            hint="upgrade icefs, then check again",
            file=newer[0],
        )
    if any(one.key == REPO_INFO and one.kind in ("missing", "malformed") for one in report.findings):
        restored = restore_repo_info(storage)
        if restored is not None:
            kept = f"; the damaged one is kept in {restored.damaged_key}" if restored.damaged_key else ""
            done.append(f"{REPO_INFO} is what it was in {restored.backup_key}{kept}")
            with closing(WritableRepository.open(storage)) as repository:
                done += bring_back_newer(repository)
            report = fsck(storage, progress=progress)
    if any(update.is_recoverable for update in report.lost):
        with closing(WritableRepository.open(storage)) as repository:
            done += recover(repository, report.lost)
    if done:
        report = fsck(storage, deep=deep, progress=progress)
    report.repaired = done
    return report


class _Check:
    def __init__(self, storage: Storage, *, deep: bool, progress: Progress) -> None:
        self._storage = storage
        self._deep = deep
        self._is_v1 = False
        self._progress = progress
        self._assets = AssetManager(storage)
        self._report = FsckReport()
        self._sizes: dict[str, int] = {}
        self._used: set[str] = set()
        self._reported: set[str] = set()
        self._is_complete = True
        self._impossible = ImpossibleSizes({})
        self._manifests: dict[ManifestId, ManifestFileInfo] = {}

    def run(self) -> FsckReport:
        report = self._report
        try:
            for directory in (SNAPSHOTS, TRANSACTIONS, MANIFESTS, CHUNKS):
                try:
                    for info in self._storage.iter_objects(f"{directory}/"):
                        self._sizes[info.key] = info.size_bytes
                except NotAnObjectError as error:
                    self._found("foreign", directory, error.own_message)
                self._progress(f"{directory} listed", len(self._sizes))
            if not self._sizes and not report.findings:
                raise repository_not_found(self._storage)
            self._is_v1 = Repository.fetch_spec_version(self._storage) == 1
            snapshots = self._check_v1() if self._is_v1 else self._check_v2()
            for count, snapshot_id in enumerate(sorted(snapshots), 1):
                self._check_snapshot(snapshot_id, snapshots[snapshot_id])
                self._progress("snapshots checked", count)
            for count, manifest in enumerate(self._manifests.values(), 1):
                self._check_manifest(manifest)
                self._progress("manifests checked", count)
            if self._deep:
                self._read_chunks()
            self._check_foreign()
        finally:
            self._assets.close()
        report.checked = _by_directory(self._used)
        if self._is_complete:
            self._count_orphans()
        return report

    def _size(self, key: str) -> int | None:
        """Returns an object's size; what came after the listing is asked for."""
        size = self._sizes.get(key)
        if size is None:
            try:
                size = self._sizes[key] = self._storage.head(key).size_bytes
            except ObjectNotFoundError:
                return None
            except NotAnObjectError as error:
                self._found("foreign", key, error.own_message)
                self._reported.add(key)
        return size

    def _found(self, kind: str, key: str, message: str) -> None:
        self._report.findings.append(Finding(kind, key, message))

    def _read[T](self, key: str, fetch: Callable[[], T]) -> T | None:
        """Reads an object, or says what is wrong with it: then nobody knows what else it leads to."""
        self._used.add(key)
        try:
            return fetch()
        except UnsupportedSpecVersionError as error:
            if key == REPO_INFO:
                raise
            self._found("newer", key, str(error.facts.get("reason", error.own_message)))
        except (ObjectNotFoundError, RepositoryNotFoundError):
            self._found("missing", key, "is not there")
        except FormatError as error:
            self._found("malformed", key, str(error.facts.get("reason", error.own_message)))
        except NotAnObjectError as error:
            self._found("foreign", key, error.own_message)
        except StorageError as error:
            self._found("unreadable", key, error.own_message)
        self._is_complete &= key.startswith(f"{TRANSACTIONS}/")
        return None

    # Refs.

    def _check_v2(self) -> dict[SnapshotId, int | None]:
        """Returns the snapshots of the repository, and when `repo` says that they were written."""
        info = self._read(REPO_INFO, lambda: self._assets.fetch_repo_info()[0])
        if info is None:
            return {}
        config = info.config
        if config is not None:
            self._check_config(REPO_INFO, lambda: parse_config(config, name=REPO_INFO))
        for kind, refs in (("branch", info.branches), ("tag", info.tags)):
            for name, snapshot_id in refs.items():
                if snapshot_id not in info.snapshots:
                    self._found(
                        "dangling", REPO_INFO, f"{kind} {name!r} leads to snapshot {snapshot_id}, unknown to it"
                    )
        self._impossible = ImpossibleSizes({tip: name for name, tip in info.branches.items()})
        self._check_updates(info)
        known: dict[SnapshotId, int | None] = {}
        try:
            for each in info.snapshots.values():
                known[each.id] = each.flushed_at
                for log in each.pruned_ancestor_tx_logs:
                    # Garbage collection of older libraries took these; readers do without.
                    self._used.add(transaction_log_key(log))
        except FormatError as error:
            self._found("malformed", REPO_INFO, error.own_message)
        return known

    def _check_config(self, key: str, parse: Callable[[], object]) -> None:
        try:
            parse()
        except FormatError as error:
            self._found("malformed", key, f"its configuration: {error.facts.get('reason', error.own_message)}")

    def _check_updates(self, info: RepoInfo) -> None:
        try:
            lost, problems = find_lost_updates(self._assets, info)
        except StorageError as error:
            self._found("unreadable", "overwritten", error.own_message)
            return
        self._report.lost = lost
        for key, problem in problems:
            is_newer = isinstance(problem, UnsupportedSpecVersionError)
            self._found("newer" if is_newer else "malformed", key, problem.own_message)
        for update in lost:
            if update.is_recoverable:
                self._found("lost-update", update.backup_key, update.describe())

    def _check_v1(self) -> dict[SnapshotId, int | None]:
        refs = RefsV1(self._assets).fetch()
        broken = {branch_key(name): error for name, error in refs.broken_branches.items()}
        broken |= {tag_key(name): error for name, error in refs.broken_tags.items()}
        self._used |= {*map(branch_key, refs.branches), *map(tag_key, refs.tags), *broken}
        for key, error in broken.items():
            self._found("malformed", key, str(error.facts.get("reason", error.own_message)))
            self._is_complete = False
        with suppress(ObjectNotFoundError):
            data = self._storage.get(CONFIG_V1).data
            self._check_config(CONFIG_V1, lambda: parse_config_yaml(data, name=CONFIG_V1))
        self._impossible = ImpossibleSizes({tip: name for name, tip in refs.branches.items()})
        known: dict[SnapshotId, int | None] = {}
        for tip in {*refs.branches.values(), *refs.tags.values()}:
            current: SnapshotId | None = tip
            while current is not None and current not in known:
                known[current] = None
                snapshot = self._fetch_quietly(current)
                current = None if snapshot is None else snapshot.parent_id
        return known

    def _fetch_quietly(self, snapshot_id: SnapshotId) -> Snapshot | None:
        try:
            return self._assets.fetch_snapshot(snapshot_id)
        except IcefsError:
            self._is_complete = False
            return None  # `_check_snapshot` will say why

    # Snapshots and manifests.

    def _check_snapshot(self, snapshot_id: SnapshotId, flushed_at: int | None) -> None:
        key = snapshot_key(snapshot_id)
        snapshot = self._read(key, lambda: self._assets.fetch_snapshot(snapshot_id))
        self._check_log(snapshot_id, snapshot)
        if snapshot is None:
            return
        if snapshot.id != snapshot_id:
            self._found("malformed", key, f"says that its id is {snapshot.id}")
        if flushed_at is not None and snapshot.flushed_at != flushed_at:
            self._found("malformed", key, f"was written at another time than {REPO_INFO} says")
        if list(snapshot.paths) != sorted(snapshot.paths, key=lambda path: path.encode(errors="surrogatepass")):
            self._found("order", key, "its nodes are not sorted by path; official readers will not find some")
        for path in snapshot.shadowed:
            self._found(
                "malformed",
                key,
                f"has several nodes at {path}, of which the newest is read; the next commit to its branch keeps only "
                "that one, and 'icefs branch reset' goes back to the commit before",
            )
        manifests = dict(snapshot.manifest_files)
        if list(manifests) != sorted(manifests):
            self._found("order", key, "its manifest files are not sorted by id")
        try:
            for node in snapshot.nodes():
                self._impossible.add(snapshot_id, node)
                for ref in () if node.array is None else node.array.manifests:
                    if ref.manifest_id not in manifests:
                        self._found(
                            "dangling", key, f"{node.path} needs manifest {ref.manifest_id}, which is not listed"
                        )
        except FormatError as error:
            self._found("malformed", key, str(error.facts.get("reason", error.own_message)))
        self._manifests.update(manifests)

    def _check_log(self, snapshot_id: SnapshotId, snapshot: Snapshot | None) -> None:
        key = transaction_log_key(snapshot_id)
        is_v1 = snapshot is None or snapshot.spec_version == 1
        if snapshot_id == INITIAL_SNAPSHOT_ID and is_v1 and key not in self._sizes:
            return  # spec 1 writes none for the first snapshot, and an upgrade adds none
        log = self._read(key, lambda: self._assets.fetch_transaction_log(snapshot_id))
        if log is not None and log.id != snapshot_id:
            self._found("malformed", key, f"says that it is the log of {log.id}")

    def _check_manifest(self, info: ManifestFileInfo) -> None:
        key = manifest_key(info.id)
        manifest = self._read(key, lambda: self._assets.fetch_manifest(info.id))
        if manifest is None:
            return
        size = self._size(key)
        if manifest.id != info.id:
            self._found("malformed", key, f"says that its id is {manifest.id}")
        if size is not None and size != info.size_bytes:
            self._found("size", key, f"has {size} bytes, and snapshots say {info.size_bytes}")
        if manifest.num_chunk_refs != info.num_chunk_refs:
            counts = f"has {manifest.num_chunk_refs} references, and snapshots say {info.num_chunk_refs}"
            self._found("malformed", key, counts)
        try:
            self._check_chunks(key, manifest)
            self._check_sizes(info.id, manifest)
        except FormatError as error:
            self._found("malformed", key, str(error.facts.get("reason", error.own_message)))

    def _check_chunks(self, key: str, manifest: Manifest) -> None:
        shown = 0
        for refs in manifest.arrays.values():
            refs.virtual_locations()  # decompresses them
            for name, needed, row in _objects(refs):
                self._used.add(name)
                size = self._size(name)
                if (size is not None and size >= needed) or name in self._reported:
                    continue
                self._reported.add(name)
                shown += 1
                if shown > _SHOWN_CHUNKS:
                    continue
                where = f"chunk {list(refs.index(row))} of array {refs.node_id} (in {key})"
                if size is None:
                    self._found("missing", name, f"is not there; needed for {where}")
                else:
                    self._found("size", name, f"has {size} bytes, and {where} ends at {needed}")
        if shown > _SHOWN_CHUNKS:
            self._found("missing", key, f"{shown - _SHOWN_CHUNKS} more of its chunk objects are missing or too short")

    def _check_sizes(self, manifest_id: ManifestId, manifest: Manifest) -> None:
        key, count = manifest_key(manifest_id), 0
        for refs in manifest.arrays.values():
            for problem in self._impossible.find(manifest_id, refs):
                count += 1
                if count <= _SHOWN_CHUNKS:
                    self._found("size", key, problem)
        if count > _SHOWN_CHUNKS:
            self._found("size", key, f"{count - _SHOWN_CHUNKS} more of its chunks have sizes that they cannot have")

    # Chunks.

    def _read_chunks(self) -> None:
        needed = sorted(key for key in self._used if key.startswith(f"{CHUNKS}/") and key in self._sizes)

        def read(key: str) -> tuple[str, str | None]:
            try:
                for start in range(0, self._sizes[key], _READ_BYTES):
                    self._storage.get(key, start=start, end=min(start + _READ_BYTES, self._sizes[key]))
            except StorageError as error:
                return key, error.own_message
            return key, None

        for count, (key, problem) in enumerate(self._assets.workers.map_ahead(read, needed), 1):
            if problem is not None:
                self._found("unreadable", key, problem)
            self._progress("chunks read", count)

    # What can be no object.

    def _check_foreign(self) -> None:
        """Reports what stands among the objects and is neither a file nor a directory, whether it is needed or not."""
        known = {finding.key for finding in self._report.findings}
        for key, kind in self._storage.list_foreign():
            if key not in known:
                self._found("foreign", key, f"is {kind}, which nothing in a repository can be; remove it")

    # What nothing leads to.

    def _count_orphans(self) -> None:
        for key, size in self._sizes.items():
            if key not in self._used:
                counted = self._report.orphans.setdefault(key.partition("/")[0], {"objects": 0, "bytes": 0})
                counted["objects"] += 1
                counted["bytes"] += size


def _objects(refs: ArrayRefs) -> Iterator[tuple[str, int, int]]:
    """Yields the chunk objects that an array's references need: key, bytes needed, and a row that needs them."""
    rows = np.flatnonzero(refs.kinds == ChunkKind.NATIVE)
    if not len(rows):
        return
    ends = refs.offsets[rows] + refs.lengths[rows]
    ids = np.ascontiguousarray(refs.chunk_ids[rows]).view("S12").reshape(-1)
    order = np.lexsort((ends, ids))
    last = np.flatnonzero(np.append(ids[order][1:] != ids[order][:-1], True))
    for at in order[last].tolist():
        yield chunk_key(ChunkId(refs.chunk_ids[rows[at]].tobytes())), int(ends[at]), int(rows[at])


def _by_directory(keys: Iterable[str]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for key in keys:
        directory = key.partition("/")[0]
        counted[directory] = counted.get(directory, 0) + 1
    return counted
