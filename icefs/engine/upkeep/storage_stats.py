"""How many bytes the chunks of a repository take: of its whole history, and of one snapshot by array.

    native   in objects of the repository's own; what several references share counts once
    virtual  in objects elsewhere; what several references share counts once
    inline   in manifests; counted as often as manifests hold them

Source: upstream icechunk/src/ops/stats.rs, which counts one reference for each native object; here each distinct range
of an object counts, as several chunks may share one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from icefs.engine.read.session import Session
from icefs.engine.repository import Repository
from icefs.format.ids import ManifestId, SnapshotId
from icefs.format.manifest.refs import ArrayRefs, ChunkKind
from icefs.paths import NodePath
from icefs.words import node_key

_KEY_BYTES: Final = 28
_MERGE_EVERY: Final = 64

type Progress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class StorageStats:
    """Sizes of chunks, in bytes.

    Attributes:
        native_bytes: In objects of the repository.
        virtual_bytes: In objects elsewhere.
        inlined_bytes: In manifests.
        num_chunks: How many there are; chunks with the same bytes in the same place count once.
    """

    native_bytes: int = 0
    virtual_bytes: int = 0
    inlined_bytes: int = 0
    num_chunks: int = 0

    def __add__(self, other: "StorageStats") -> "StorageStats":
        return StorageStats(
            self.native_bytes + other.native_bytes,
            self.virtual_bytes + other.virtual_bytes,
            self.inlined_bytes + other.inlined_bytes,
            self.num_chunks + other.num_chunks,
        )

    @property
    def non_virtual_bytes(self) -> int:
        """What the repository itself takes."""
        return self.native_bytes + self.inlined_bytes

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.non_virtual_bytes + self.virtual_bytes

    def to_json(self) -> dict[str, int]:
        """Returns the numbers by name."""
        return {
            "native_bytes": self.native_bytes,
            "virtual_bytes": self.virtual_bytes,
            "inlined_bytes": self.inlined_bytes,
            "num_chunks": self.num_chunks,
        }


class _Ranges:
    """Distinct ranges of objects, as fixed-width keys: 12 bytes for the object, 8 for offset and length each."""

    def __init__(self) -> None:
        self._keys: npt.NDArray[np.bytes_] = np.zeros(0, f"S{_KEY_BYTES}")
        self._lengths: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._waiting: list[tuple[npt.NDArray[np.bytes_], npt.NDArray[np.uint64]]] = []

    def add(
        self, objects: npt.NDArray[np.uint8], offsets: npt.NDArray[np.uint64], lengths: npt.NDArray[np.uint64]
    ) -> None:
        """Takes the ranges of `n` references: `uint8[n, 12]`, `uint64[n]`, `uint64[n]`."""
        if not len(lengths):
            return
        numbers = np.stack([offsets, lengths], axis=1).astype(">u8").view(np.uint8).reshape(-1, 16)
        keys = np.ascontiguousarray(np.concatenate([objects, numbers], axis=1)).view(f"S{_KEY_BYTES}").reshape(-1)
        self._waiting.append((keys, lengths))
        if len(self._waiting) >= _MERGE_EVERY:
            self._merge()

    def _merge(self) -> None:
        keys = np.concatenate([self._keys, *(keys for keys, _ in self._waiting)])
        lengths = np.concatenate([self._lengths, *(lengths for _, lengths in self._waiting)])
        self._waiting.clear()
        self._keys, first = np.unique(keys, return_index=True)
        self._lengths = lengths[first]

    def total(self) -> tuple[int, int]:
        """Returns how many distinct ranges there are, and their bytes."""
        self._merge()
        return len(self._keys), int(self._lengths.sum(dtype=np.uint64))


class _Counter:
    def __init__(self) -> None:
        self._native = _Ranges()
        self._virtual = _Ranges()
        self._inline = StorageStats()

    def add(self, refs: ArrayRefs) -> None:
        native = refs.kinds == ChunkKind.NATIVE
        self._native.add(refs.chunk_ids[native], refs.offsets[native], refs.lengths[native])
        inline = refs.kinds == ChunkKind.INLINE
        self._inline += StorageStats(
            inlined_bytes=int(refs.lengths[inline].sum(dtype=np.uint64)), num_chunks=int(inline.sum())
        )
        if refs.virtual is not None:
            rows = refs.virtual.rows
            digests = b"".join(blake2b(each, digest_size=12).digest() for each in refs.virtual.locations.plain())
            objects = np.frombuffer(digests, np.uint8).reshape(-1, 12)
            self._virtual.add(objects, refs.offsets[rows], refs.lengths[rows])

    def stats(self) -> StorageStats:
        num_native, native_bytes = self._native.total()
        num_virtual, virtual_bytes = self._virtual.total()
        return self._inline + StorageStats(native_bytes, virtual_bytes, 0, num_native + num_virtual)


def history_stats(repository: Repository, progress: Progress = lambda what, count: None) -> StorageStats:
    """Counts the chunks of all snapshots that branches and tags lead to.

    Raises:
        FormatError, StorageError: something cannot be read.
    """
    assets = repository.assets
    snapshots = reachable(repository)
    manifests: set[ManifestId] = set()
    for count, snapshot in enumerate(assets.workers.map_ahead(assets.fetch_snapshot, sorted(snapshots)), 1):
        manifests.update(snapshot.manifest_files)
        progress("snapshots read", count)
    counter = _Counter()
    for count, manifest in enumerate(assets.workers.map_ahead(assets.fetch_manifest, sorted(manifests)), 1):
        for refs in manifest.arrays.values():
            counter.add(refs)
        progress("manifests read", count)
    return counter.stats()


def reachable(repository: Repository) -> set[SnapshotId]:
    """Returns the snapshots that branches and tags lead to.

    Raises:
        FormatError: a ref is malformed: nobody knows where it leads.
    """
    refs = repository.refs()
    broken = [*refs.broken_branches.values(), *refs.broken_tags.values()]
    if broken:
        raise broken[0]
    found: set[SnapshotId] = set()
    for tip in {*refs.branches.values(), *refs.tags.values()}:
        for info in repository.ancestry(snapshot_id=tip):
            if info.id in found:
                break
            found.add(info.id)
    return found


def snapshot_stats(session: Session, paths: Iterable[NodePath] | None = None) -> dict[NodePath, StorageStats]:
    """Counts the chunks of each array of a snapshot, by path; chunks outside of the present grid are not counted.

    Raises:
        FormatError, StorageError: something cannot be read.
    """
    wanted = None if paths is None else set(paths)
    found: dict[NodePath, StorageStats] = {}
    for node in session.list_nodes():
        if node.array is None or (wanted is not None and node.path not in wanted):
            continue
        counter = _Counter()
        for batch in session.array_chunks(node).iter_batches():
            counter.add(batch.refs.select(np.arange(batch.start, batch.end)))
        found[node.path] = counter.stats()
    return found


def stats_to_json(by_array: dict[NodePath, StorageStats]) -> dict[str, Any]:
    """Returns the numbers of arrays by path, without a leading slash, and their sum."""
    total = sum(by_array.values(), StorageStats())
    return {"arrays": {node_key(path): stats.to_json() for path, stats in by_array.items()}, **total.to_json()}
