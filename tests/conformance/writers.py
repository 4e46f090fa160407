"""The same writes through the official library and through icefs's engine, and what the official library reads then.

A scenario is a function of a writer; it is given one of each library, on copies of one repository:

    pair = Pair.of(base, tmp_path)
    pair.run(lambda repo: repo.write(lambda s: s.chunk("/a", (0,), b"x"), "a chunk"))
    pair.check()                 # the official library says the same of both copies
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import icechunk as ic
from zarr.core.sync import sync

from icefs.clock import system_clock
from icefs.engine.read.repo_state import feature_flags
from icefs.engine.write.conflicts import BasicConflictSolver, ConflictDetector, ConflictType, VersionSelection
from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.session import WritableSession
from icefs.errors import IcefsError
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.config.codec import parse_config
from icefs.format.config.values import RepositoryConfig
from icefs.format.ids import SnapshotId
from icefs.format.manifest.refs import VirtualRef
from icefs.format.repo.ops_log import RepoAvailability, RepoStatus
from icefs.storage.local.store import LocalStorage
from tests.conformance import oracle
from tests.conformance.official import GeneratedRepo, put, remove
from tests.conformance.oracle import RepoContent, SnapshotContent, diff_facts, error_facts

type Index = tuple[int, ...]
type Outcome = tuple[str, Any]
"""`("ok", value)`, or an error's class in the official tree and its kind."""


class Virtual(NamedTuple):
    """A virtual chunk, for either library."""

    location: str
    offset_bytes: int
    length_bytes: int
    checksum: str | int | None = None


SOLVERS: dict[str, tuple[Any, Any]] = {
    "detector": (ic.ConflictDetector(), ConflictDetector()),
    "ours": (
        ic.BasicConflictSolver(on_chunk_conflict=ic.VersionSelection.UseOurs),
        BasicConflictSolver(VersionSelection.UseOurs),
    ),
    "theirs": (
        ic.BasicConflictSolver(on_chunk_conflict=ic.VersionSelection.UseTheirs),
        BasicConflictSolver(VersionSelection.UseTheirs),
    ),
    "strict": (
        ic.BasicConflictSolver(
            on_chunk_conflict=ic.VersionSelection.Fail,
            fail_on_delete_of_updated_array=True,
            fail_on_delete_of_updated_group=True,
        ),
        BasicConflictSolver(VersionSelection.Fail, True, True),
    ),
}


class SessionWriter(ABC):
    """One session that writes."""

    @abstractmethod
    def node(self, path: str, data: bytes) -> None:
        """Writes a zarr.json."""

    @abstractmethod
    def chunk(self, path: str, index: Index, data: bytes) -> None:
        """Writes a chunk."""

    @abstractmethod
    def drop(self, path: str, *indices: Index) -> None:
        """Deletes chunks."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Deletes a node and what is below it."""

    @abstractmethod
    def virtual(self, path: str, chunks: Mapping[Index, Virtual]) -> None:
        """Sets virtual chunks."""

    @abstractmethod
    def move(self, source: str, target: str) -> None:
        """Moves a node."""

    @abstractmethod
    def commit(self, message: str, metadata: dict[str, Any] | None = None, **how: Any) -> str:
        """Commits; `rebase_with` is one of `SOLVERS`."""

    @abstractmethod
    def amend(self, message: str, **how: Any) -> str:
        """Amends the newest commit."""

    @abstractmethod
    def flush(self, message: str, **how: Any) -> str:
        """Writes a detached snapshot."""

    @abstractmethod
    def rebase(self, solver: str) -> None:
        """Rebases with one of `SOLVERS`."""

    @abstractmethod
    def discard(self) -> None:
        """Discards the changes."""

    @abstractmethod
    def status(self) -> dict[str, Any]:
        """Describes the changes."""

    def chunks(self, path: str, items: Mapping[Index, bytes]) -> None:
        """Writes several chunks."""
        for index, data in items.items():
            self.chunk(path, index, data)


class RepoWriter(ABC):
    """A repository of one library."""

    path: Path
    raw: Any

    @abstractmethod
    def session(self, branch: str = "main", *, rearrange: bool = False) -> SessionWriter:
        """Opens a writable session."""

    @abstractmethod
    def refs(self, method: str, *arguments: Any, **more: Any) -> Any:
        """Calls a method of the repository whose arguments are names and snapshot ids as text."""

    @property
    def spec_version(self) -> int:
        """The version of the format."""
        return int(self.raw.spec_version)

    @abstractmethod
    def features(self) -> Sequence[Any]:
        """Returns all feature flags."""

    @abstractmethod
    def feature(self, name: str, setting: bool | None) -> None:
        """Sets a feature flag."""

    @abstractmethod
    def status(self, availability: str, reason: str | None) -> None:
        """Sets the repository's status."""

    def write(self, changes: Callable[[SessionWriter], object], message: str, branch: str = "main", **how: Any) -> str:
        """Commits changes on a branch."""
        session = self.session(branch)
        changes(session)
        return session.commit(message, **how)


# The official library.


def metadata_key(path: str) -> str:
    """Returns the key of a node's zarr.json."""
    return f"{path.strip('/')}/zarr.json".lstrip("/")


def chunk_key(path: str, index: Index) -> str:
    """Returns a chunk's key in the official store."""
    return "/".join([*path.strip("/").split("/"), "c", *map(str, index)]).lstrip("/")


class OfficialSession(SessionWriter):
    """A session of the official library."""

    def __init__(self, session: ic.Session) -> None:
        self.raw = session

    def node(self, path: str, data: bytes) -> None:
        put(self.raw.store, metadata_key(path), data)

    def chunk(self, path: str, index: Index, data: bytes) -> None:
        put(self.raw.store, chunk_key(path, index), data)

    def drop(self, path: str, *indices: Index) -> None:
        remove(self.raw.store, *(chunk_key(path, index) for index in indices))

    def delete(self, path: str) -> None:
        sync(self.raw.store.delete_dir(path.strip("/")))

    def virtual(self, path: str, chunks: Mapping[Index, Virtual]) -> None:
        specs = []
        for index, chunk in chunks.items():
            check = chunk.checksum
            checksum = {"etag_checksum": check} if isinstance(check, str) else {}
            specs.append(
                ic.VirtualChunkSpec(list(index), chunk.location, chunk.offset_bytes, chunk.length_bytes, **checksum)
            )
        assert not self.raw.store.set_virtual_refs(path.strip("/"), specs, validate_containers=False)

    def move(self, source: str, target: str) -> None:
        self.raw.move(source, target)

    def commit(self, message: str, metadata: dict[str, Any] | None = None, **how: Any) -> str:
        if "rebase_with" in how:
            how["rebase_with"] = SOLVERS[how["rebase_with"]][0]
        return self.raw.commit(message, metadata, **how)

    def amend(self, message: str, **how: Any) -> str:
        return self.raw.amend(message, **how)

    def flush(self, message: str, **how: Any) -> str:
        return self.raw.flush(message, **how)

    def rebase(self, solver: str) -> None:
        self.raw.rebase(SOLVERS[solver][0])

    def discard(self) -> None:
        self.raw.discard_changes()

    def status(self) -> dict[str, Any]:
        return diff_facts(self.raw.status())


class OfficialRepo(RepoWriter):
    """A repository of the official library."""

    def __init__(self, path: Path, config: ic.RepositoryConfig | None = None) -> None:
        self.path = path
        self.raw = ic.Repository.open(ic.local_filesystem_storage(str(path)), config)

    def session(self, branch: str = "main", *, rearrange: bool = False) -> OfficialSession:
        return OfficialSession(self.raw.rearrange_session(branch) if rearrange else self.raw.writable_session(branch))

    def refs(self, method: str, *arguments: Any, **more: Any) -> Any:
        return getattr(self.raw, method)(*arguments, **more)

    def features(self) -> Sequence[Any]:
        return list(self.raw.feature_flags())

    def feature(self, name: str, setting: bool | None) -> None:
        self.raw.set_feature_flag(name, setting)

    def status(self, availability: str, reason: str | None) -> None:
        self.raw.set_status(ic.RepoStatus(getattr(ic.RepoAvailability, availability), None, reason))


# icefs.


class EngineSession(SessionWriter):
    """A session of icefs's engine."""

    def __init__(self, session: WritableSession) -> None:
        self.raw = session

    def node(self, path: str, data: bytes) -> None:
        self.raw.nodes.put(path, data)

    def chunk(self, path: str, index: Index, data: bytes) -> None:
        self.raw.chunks.set(path, index, data)

    def drop(self, path: str, *indices: Index) -> None:
        if len(indices) > 1:
            self.raw.chunks.delete(path, ChunkIndices.from_indices(len(indices[0]), indices))
        else:
            self.raw.chunks.set_ref(path, indices[0], None)

    def delete(self, path: str) -> None:
        self.raw.nodes.delete(path)

    def virtual(self, path: str, chunks: Mapping[Index, Virtual]) -> None:
        for index, chunk in chunks.items():
            etag = chunk.checksum if isinstance(chunk.checksum, str) else None
            self.raw.chunks.set_ref(
                path, index, VirtualRef(chunk.location, chunk.offset_bytes, chunk.length_bytes, etag)
            )

    def move(self, source: str, target: str) -> None:
        self.raw.nodes.move(source, target)

    def commit(self, message: str, metadata: dict[str, Any] | None = None, **how: Any) -> str:
        if "rebase_with" in how:
            how["rebase_with"] = SOLVERS[how["rebase_with"]][1]
        return str(self.raw.commit(message, metadata, **how))

    def amend(self, message: str, **how: Any) -> str:
        return str(self.raw.amend(message, **how))

    def flush(self, message: str, **how: Any) -> str:
        return str(self.raw.flush(message, **how))

    def rebase(self, solver: str) -> None:
        self.raw.rebase(SOLVERS[solver][1])

    def discard(self) -> None:
        self.raw.draft.discard()

    def status(self) -> dict[str, Any]:
        return diff_facts(self.raw.status())


_SNAPSHOT_ARGUMENTS = {"create_branch": 1, "reset_branch": 1, "create_tag": 1, "lookup_snapshot": 0}


class EngineRepo(RepoWriter):
    """A repository of icefs's engine."""

    def __init__(self, path: Path, config: RepositoryConfig | None = None) -> None:
        self.path = path
        # What a power failure would leave is for other tests.
        self.raw = WritableRepository.open(LocalStorage(path, durable=False), config)

    def session(self, branch: str = "main", *, rearrange: bool = False) -> EngineSession:
        return EngineSession(self.raw.rearrange_session(branch) if rearrange else self.raw.writable_session(branch))

    def refs(self, method: str, *arguments: Any, **more: Any) -> Any:
        values = list(arguments)
        position = _SNAPSHOT_ARGUMENTS.get(method)
        if position is not None:
            values[position] = SnapshotId.parse(values[position])
        if "from_snapshot_id" in more:
            more = {"expected": SnapshotId.parse(more["from_snapshot_id"])}
        found = getattr(self.raw, method)(*values, **more)
        return str(found) if isinstance(found, SnapshotId) else found

    def features(self) -> Sequence[Any]:
        return feature_flags(self.raw.context)

    def feature(self, name: str, setting: bool | None) -> None:
        number = next(flag.id for flag in self.features() if flag.name == name)
        self.raw.set_feature_flag(number, setting)

    def status(self, availability: str, reason: str | None) -> None:
        self.raw.set_status(RepoStatus(RepoAvailability[availability], system_clock(), reason))


def same_config(config: ic.RepositoryConfig, scratch: Path) -> RepositoryConfig:
    """Returns an official configuration as icefs reads it."""
    repo = ic.Repository.create(ic.local_filesystem_storage(str(scratch)), config=config)
    assert repo.fetch_config(repo.storage) is not None
    raw = WritableRepository.open(LocalStorage(scratch)).assets.fetch_repo_info()[0].config
    assert raw is not None
    found = parse_config(raw, name="config")
    found.storage = None
    return found


# What both say.


def outcome(action: Callable[[], Any]) -> Outcome:
    """Runs something of either library and says how it ended, in the official library's words."""
    try:
        return "ok", action()
    except (ic.IcechunkError, IcefsError) as error:
        return error_facts(error)
    except (ValueError, TypeError) as error:
        return type(error).__name__, None


def official_kind(kind: ConflictType) -> Any:
    """Returns the official library's member of the same name."""
    return getattr(ic.ConflictType, kind.name)


class ConflictFact(NamedTuple):
    """One conflict."""

    kind: str
    path: str | None
    chunks: frozenset[Index] | None


def conflict_facts(error: Any) -> list[ConflictFact]:
    """Reads the conflicts of a failed rebase, in order but for what the official library has in no order."""
    conflicts = error.conflicts if isinstance(error, ic.IcechunkError) else error.facts["conflicts"]
    found = []
    for conflict in conflicts:
        chunks = conflict.conflicted_chunks
        name = next(kind.name for kind in ConflictType if conflict.conflict_type in (kind, official_kind(kind)))
        found.append(
            ConflictFact(
                name,
                conflict.path or None,
                None if chunks is None else frozenset(map(tuple, chunks)),
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class Pair:
    """The same repository twice: one copy for each library."""

    official: RepoWriter
    ours: RepoWriter

    @classmethod
    def of(
        cls,
        base: Path,
        directory: Path,
        *,
        config: ic.RepositoryConfig | None = None,
        our_config: RepositoryConfig | None = None,
    ) -> Self:
        """Copies a repository twice into a directory, which is made."""
        for name in ("official", "ours"):
            shutil.copytree(base, directory / name)
        return cls(OfficialRepo(directory / "official", config), EngineRepo(directory / "ours", our_config))

    def __iter__(self) -> Any:
        return iter((self.official, self.ours))

    def run(self, scenario: Callable[[RepoWriter], Any]) -> tuple[Any, Any]:
        """Runs a scenario on both and returns what it returns."""
        return scenario(self.official), scenario(self.ours)

    def reopen(self, *, config: Any = None, our_config: Any = None) -> Self:
        """Opens both again."""
        return type(self)(OfficialRepo(self.official.path, config), EngineRepo(self.ours.path, our_config))

    def check(self, *, config: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
        """Checks that the official library says the same of both copies, but for ids and times.

        Args:
            config: Compare the configuration too; of a saved one the storage's settings differ (Divergence 31).
        """
        theirs, ours = facts_of(self.official.path), facts_of(self.ours.path)
        if not config:
            theirs["config"] = ours["config"] = None
        found = list(differences(theirs, ours))
        if found:
            lines = (f"{where}\n  official: {a!r}\n  icefs:    {b!r}" for where, a, b in found)
            raise AssertionError("\n".join(("the official library sees differences", *lines)))
        return theirs, ours


def differences(theirs: Any, ours: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields where two values of nested dictionaries differ, and both."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted(theirs.keys() | ours.keys(), key=repr):
            yield from differences(theirs.get(key, "absent"), ours.get(key, "absent"), f"{where}[{key!r}]")
    elif theirs != ours:
        yield where, theirs, ours


def content_of(path: Path, *, snapshots: Iterable[str] = ()) -> RepoContent:
    """Reads all of a local repository through the official library."""
    version = int(ic.Repository.fetch_spec_version(ic.local_filesystem_storage(str(path))) or 0)
    return oracle.oracle_of(GeneratedRepo(path.name, path, version, snapshots=tuple(snapshots)))


def facts_of(path: Path, *, snapshots: Iterable[str] = ()) -> dict[str, Any]:
    """Reads all of a local repository, with what differs between two runs of the same scenario taken out."""
    content = content_of(path, snapshots=snapshots)
    return _Normaliser(content, path).repository()


class _Normaliser:
    """Replaces ids by names: a snapshot's is its message, a node's its first path and snapshot."""

    def __init__(self, content: RepoContent, path: Path) -> None:
        self.content = content
        self.path = path
        ordered = sorted(content.contents.values(), key=lambda each: each.info["written_at"])
        self.names: dict[str | None, str | None] = {None: None}
        for snapshot in ordered:
            message = snapshot.info["message"]
            assert message not in self.names.values(), "messages name the snapshots of a scenario"
            self.names[snapshot.info["id"]] = message
            for node_path, node_id in sorted(snapshot.node_ids.items()):
                self.names.setdefault(node_id, f"{node_path} of {message}")

    def name(self, value: Any) -> Any:
        return self.names.get(value, "?")

    def repository(self) -> dict[str, Any]:
        content = self.content
        facts: dict[str, Any] = {
            "branches": {name: self.name(value) for name, value in content.branches.items()},
            "tags": {name: self.name(value) for name, value in content.tags.items()},
            "ancestry": {ref: [self.name(each) for each in ids] for ref, ids in content.ancestry.items()},
            "snapshots": {self.name(key): self.snapshot(value) for key, value in content.contents.items()},
            "diffs": {tuple(map(self.name, pair)): diff for pair, diff in content.diffs.items()},
            "config": content.config,
            "stats": content.storage_stats,
            "metadata": content.metadata,
            "flags": content.feature_flags,
        }
        if content.repo_info is not None:
            facts["deleted tags"] = sorted(content.repo_info["deleted_tags"])
            facts["graph"] = {
                self.name(each["id"]): (self.name(each.get("parent_id")), each["metadata"])
                for each in content.repo_info["snapshots"]
            }
        if content.status is not None:
            facts["status"] = {key: value for key, value in content.status.items() if key != "set_at"}
        if content.ops_log is not None:
            facts["ops log"] = [self.update(update) for update in content.ops_log]
        return facts

    def update(self, update: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: self.name(value) if key.endswith("snap_id") else value is None if key == "backup_path" else value
            for key, value in update.items()
            if key not in ("updated_at", "status")
        }

    def snapshot(self, content: SnapshotContent) -> dict[str, Any]:
        nodes = {node["path"]: node for node in content.inspected["nodes"]}
        return {
            "parent": self.name(content.info["parent_id"]),
            "metadata": content.info["metadata"],
            "inspected metadata": content.inspected["metadata"],
            "spec": content.inspected["header"]["spec_version"],
            "values": content.values,
            "failing": content.failing,
            "list_dir": content.list_dir,
            # A native chunk's location is its id.
            "refs": {
                path: {
                    index: (kind, location if kind == 2 else None, offset, length)
                    for index, (kind, location, offset, length) in refs.items()
                }
                for path, refs in content.refs.items()
            },
            "nodes": {path: (node["node_type"], node.get("shape")) for path, node in nodes.items()},
            "node ids": {path: self.name(node_id) for path, node_id in content.node_ids.items()},
            "order": [node["path"] for node in content.inspected["nodes"]],
            "manifests": {path: self.manifests(node, content) for path, node in nodes.items()},
            "files": len(content.manifest_files),
            "locations": content.virtual_locations,
            "log": self.log(content.transaction_log),
        }

    def manifests(self, node: Mapping[str, Any], content: SnapshotContent) -> list[Any]:
        files = {file[0]: file for file in content.manifest_files}
        found = []
        for ref in node.get("manifest_refs", ()):
            inspected = content.manifests[ref["id"]]
            _, size, count = files[ref["id"]]
            assert size == (self.path / "manifests" / ref["id"]).stat().st_size
            arrays = [
                {key: self.name(value) if key == "node_id" else value for key, value in each.items()}
                for each in inspected["arrays"]
            ]
            compressed = inspected["compression"]["uses_location_compression"]
            found.append((ref["extents"], count, arrays, inspected["header"]["spec_version"], compressed))
        return sorted(found, key=repr)

    def log(self, log: Mapping[str, Any] | None) -> dict[str, Any] | None:
        if log is None:
            return None
        facts: dict[str, Any] = {"spec": log["header"]["spec_version"]}
        for key, value in log.items():
            if key == "updated_chunks":
                facts[key] = {self.name(each["node_id"]): sorted(each["chunks"]) for each in value}
            elif key == "moved_nodes":
                facts[key] = value and [
                    {name: self.name(item) if name == "node_id" else item for name, item in each.items()}
                    for each in value
                ]
            elif key != "header" and isinstance(value, list):
                facts[key] = sorted(map(self.name, value), key=str)
        return facts


def rows(*shape: int) -> Sequence[Index]:
    """Returns all indices of a grid."""
    found: list[Index] = [()]
    for size in shape:
        found = [(*index, position) for index in found for position in range(size)]
    return found
