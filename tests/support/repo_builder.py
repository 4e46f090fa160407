"""Builds small repositories from icefs's own encoders, for tests of what reads them."""

from collections.abc import Iterable, Mapping, Sequence

from icefs.format.chunk_indices import ChunkIndices
from icefs.format.ids import INITIAL_SNAPSHOT_ID, ChunkId, ManifestId, NodeId, SnapshotId
from icefs.format.layout import chunk_key, manifest_key, snapshot_key, transaction_log_key
from icefs.format.manifest.refs import ArrayRefs, ChunkRef, InlineRef, NativeRef
from icefs.format.manifest.writer import encode_manifest
from icefs.format.repo.info import RepoInfo, encode_repo_info
from icefs.format.repo.ops_log import OpsLog, RepoAvailability, RepoInitialized, RepoStatus, Update
from icefs.format.repo.snapshot_table import SnapshotInfo, SnapshotTable
from icefs.format.snapshot.nodes import ArrayData, DimensionShape, ManifestFileInfo, ManifestRef, NodeSnapshot
from icefs.format.snapshot.writer import encode_snapshot
from icefs.format.transaction_log import Move, TransactionLog, encode_transaction_log
from icefs.storage.base import Storage
from icefs.storage.memory import MemoryStorage

type Index = tuple[int, ...]
type Box = tuple[tuple[int, int], ...]

START = 1_700_000_000_000_000
SECOND = 1_000_000


def snapshot_id(number: int) -> SnapshotId:
    """Makes a recognisable id."""
    return SnapshotId(b"snapshot" + number.to_bytes(4, "big"))


def node_id(number: int) -> NodeId:
    """Makes a recognisable id."""
    return NodeId(b"node" + number.to_bytes(4, "big"))


def inline(*indices: Index, tag: str = "") -> dict[Index, ChunkRef]:
    """Makes an inline reference for each index, whose bytes name it."""
    return {index: InlineRef(f"{tag}{index}".encode()) for index in indices}


def group(path: str, number: int, *, user_data: bytes = b'{"node_type":"group","zarr_format":3}') -> NodeSnapshot:
    """Makes a group."""
    return NodeSnapshot(node_id(number), path, user_data)


class RepoBuilder:
    """Writes files into a storage, and keeps what `repo` (spec 2) or the refs (spec 1) will say of them.

    Commits are a second apart, the first snapshot at `START`.
    """

    def __init__(self, storage: Storage | None = None, *, spec_version: int = 2) -> None:
        self.storage = storage if storage is not None else MemoryStorage()
        self.spec_version = spec_version
        self.infos: dict[SnapshotId, SnapshotInfo] = {}
        self.branches: dict[str, SnapshotId] = {}
        self.tags: dict[str, SnapshotId] = {}
        self.updates: tuple[Update, ...] = (Update(RepoInitialized(), START),)
        self.repo_before_updates: str | None = None
        self.config: bytes | None = None
        self._manifests: dict[ManifestId, ManifestFileInfo] = {}
        self._count = 0
        self.commit([], snapshot=INITIAL_SNAPSHOT_ID, message="Repository initialized", log=spec_version > 1)

    def _next(self) -> int:
        self._count += 1
        return self._count

    def chunk(self, data: bytes) -> NativeRef:
        """Stores a chunk object."""
        chunk_id = ChunkId(b"chunk!!!" + self._next().to_bytes(4, "big"))
        self.storage.put(chunk_key(chunk_id), data)
        return NativeRef(chunk_id, 0, len(data))

    def manifest(self, *arrays: ArrayRefs) -> ManifestId:
        """Stores a manifest."""
        manifest_id = ManifestId(b"manifest" + self._next().to_bytes(4, "big"))
        data = encode_manifest(manifest_id, arrays, spec_version=self.spec_version)
        self.storage.put(manifest_key(manifest_id), data)
        self._manifests[manifest_id] = ManifestFileInfo(manifest_id, len(data), sum(map(len, arrays)))
        return manifest_id

    def array(
        self,
        path: str,
        number: int,
        grid_shape: Sequence[int],
        refs: Mapping[Index, ChunkRef] | None = None,
        *,
        boxes: Sequence[Box] | None = None,
        user_data: bytes = b'{"node_type":"array","zarr_format":3}',
    ) -> NodeSnapshot:
        """Stores an array's manifests and makes its node.

        Args:
            path: Its path.
            number: Of its node id.
            grid_shape: Chunks along each dimension; each chunk has ten elements along each.
            refs: Its chunks.
            boxes: One manifest for each box, of the chunks in it and with it as extents; None makes one manifest
                with tight extents.
            user_data: Its zarr.json.
        """
        refs = refs or {}
        ndim = len(grid_shape)
        manifests = []
        if boxes is None and refs:
            columns = ArrayRefs.from_refs(node_id(number), ndim, refs.items())
            manifests.append(ManifestRef(self.manifest(columns), columns.bounding_box()))
        for box in boxes or ():
            inside = {
                index: ref
                for index, ref in refs.items()
                if all(low <= at < high for at, (low, high) in zip(index, box, strict=True))
            }
            if inside:  # a manifest is never empty
                columns = ArrayRefs.from_refs(node_id(number), ndim, inside.items())
                manifests.append(ManifestRef(self.manifest(columns), box))
        return self.array_of(path, number, grid_shape, manifests, user_data=user_data)

    def array_of(
        self,
        path: str,
        number: int,
        grid_shape: Sequence[int],
        manifests: Iterable[ManifestRef],
        *,
        user_data: bytes = b'{"node_type":"array","zarr_format":3}',
    ) -> NodeSnapshot:
        """Makes an array's node from manifests that exist already, or do not."""
        shape = tuple(DimensionShape(10 * size, size) for size in grid_shape)
        return NodeSnapshot(node_id(number), path, user_data, ArrayData(shape, None, tuple(manifests)))

    def commit(
        self,
        nodes: Iterable[NodeSnapshot],
        *,
        branch: str | None = "main",
        parent: SnapshotId | None = None,
        snapshot: SnapshotId | None = None,
        message: str | None = None,
        pruned: tuple[SnapshotId, ...] = (),
        log: bool = True,
        chunks: Mapping[int, Iterable[Index]] | None = None,
        moves: tuple[Move, ...] = (),
        **changed: Iterable[int],
    ) -> SnapshotId:
        """Stores a snapshot and its transaction log, and points a branch at it.

        Args:
            nodes: All nodes of it.
            branch: The branch, or None for a snapshot that no branch has.
            parent: The parent; None takes the branch's tip.
            snapshot: Its id; None takes the next number.
            message: The commit message; None names the number.
            pruned: Transaction logs of expired ancestors.
            log: Whether to store a transaction log.
            chunks: What the log says of chunks, by the number of the array's node.
            moves: What it says of moves.
            changed: What it says otherwise: `new_arrays=[1]` and the like, by the numbers of the nodes.
        """
        number = len(self.infos)
        own_id = snapshot_id(number) if snapshot is None else snapshot
        parent_id = parent if parent is not None else self.branches.get(branch or "")
        flushed_at = START + number * SECOND
        text = f"commit {number}" if message is None else message
        nodes = list(nodes)
        used = {ref.manifest_id for node in nodes if node.array for ref in node.array.manifests}
        data = encode_snapshot(
            snapshot_id=own_id,
            flushed_at=flushed_at,
            message=text,
            metadata={"number": number},
            nodes=nodes,
            manifest_files=[self._manifests[found] for found in used if found in self._manifests],
            spec_version=self.spec_version,
            parent_id=parent_id,
        )
        self.storage.put(snapshot_key(own_id), data)
        if log:
            says = TransactionLog(
                id=own_id,
                updated_chunks={
                    node_id(array): ChunkIndices.from_indices(len(next(iter(indices))), indices)
                    for array, indices in ((a, list(i)) for a, i in (chunks or {}).items())
                },
                moved_nodes=moves,
                **{name: tuple(map(node_id, numbers)) for name, numbers in changed.items()},
            )
            self.storage.put(transaction_log_key(own_id), encode_transaction_log(says, spec_version=self.spec_version))
        self.infos[own_id] = SnapshotInfo(own_id, parent_id, flushed_at, text, {"number": number}, pruned)
        if branch is not None:
            self.branches[branch] = own_id
        return own_id

    def repo_info(self) -> RepoInfo:
        """Returns what `repo` is to hold."""
        return RepoInfo(
            snapshots=SnapshotTable.of(self.infos.values()),
            branches=self.branches,
            tags=self.tags,
            deleted_tags=frozenset(),
            status=RepoStatus(RepoAvailability.online, START),
            ops_log=OpsLog(self.updates),
            repo_before_updates=self.repo_before_updates,
            config=self.config,
        )

    def publish(self) -> Storage:
        """Writes `repo`, or the refs of spec 1, and returns the storage."""
        if self.spec_version > 1:
            self.storage.put("repo", encode_repo_info(self.repo_info()))
        else:
            for kind, refs in (("branch", self.branches), ("tag", self.tags)):
                for name, target in refs.items():
                    self.storage.put(f"refs/{kind}.{name}/ref.json", f'{{"snapshot":"{target}"}}'.encode())
        return self.storage
