"""The objects that snapshots need, and which of them a store lacks.

A repository may have millions of chunk objects, so a set of them is two columns: 20 bytes for each.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from icefs.engine.read.assets import AssetManager
from icefs.engine.read.workers import Workers
from icefs.errors import InvalidInputError, ObjectNotFoundError
from icefs.format.ids import ObjectId
from icefs.format.manifest.reader import Manifest
from icefs.format.manifest.refs import ChunkKind
from icefs.storage.base import Storage

_MAX_QUESTIONS: Final = 10_000
"""For more objects than this, one listing of all of them takes fewer requests than a question for each."""

type Ids = npt.NDArray[np.bytes_]
type Sizes = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Objects:
    """Objects of one directory of a repository.

    INVARIANT: ids are sorted and distinct.

    Attributes:
        directory: `chunks`, `manifests`, `snapshots` or `transactions`.
        ids: Their ids, as strings of 12 bytes; numpy hides zero bytes at the end.
        sizes: So many bytes each has at least.
    """

    directory: str
    ids: Ids
    sizes: Sizes

    @classmethod
    def of(cls, directory: str, ids: Collection[bytes], size_bytes: int = 1) -> "Objects":
        """Makes a set of objects of one least size."""
        column = np.unique(np.frombuffer(b"".join(ids), "S12"))
        return cls(directory, column, np.full(len(column), size_bytes, np.int64))

    @classmethod
    def joined(cls, directory: str, parts: Iterable[tuple[Ids, Sizes]]) -> "Objects":
        """Makes a set of objects that come several times; of sizes the largest counts."""
        columns = [*parts, (np.zeros(0, "S12"), np.zeros(0, np.int64))]
        ids, rows = np.unique(np.concatenate([each for each, _ in columns]), return_inverse=True)
        sizes = np.zeros(len(ids), np.int64)
        np.maximum.at(sizes, rows, np.concatenate([each for _, each in columns]))
        return cls(directory, ids, sizes)

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Yields the key and least size of each."""
        for object_id, size in zip(self.ids.tolist(), self.sizes.tolist(), strict=True):
            yield f"{self.directory}/{ObjectId(object_id.ljust(ObjectId.SIZE, b'\0'))}", size

    def where(self, rows: npt.NDArray[np.bool_]) -> "Objects":
        """Returns some of them."""
        return Objects(self.directory, self.ids[rows], self.sizes[rows])

    def without(self, others: "Objects") -> "Objects":
        """Returns those that are not among others."""
        return self.where(~np.isin(self.ids, others.ids, assume_unique=True))


def chunks_of(assets: AssetManager, manifests: Iterable[Any], directory: str) -> Objects:
    """Returns the chunk objects that manifests refer to.

    Raises:
        ObjectNotFoundError, FormatError, StorageError: a manifest cannot be read.
    """
    fetched = assets.workers.map_ahead(assets.fetch_manifest, manifests)
    return Objects.joined(directory, (part for manifest in fetched for part in _chunk_columns(manifest)))


def _chunk_columns(manifest: Manifest) -> Iterator[tuple[Ids, Sizes]]:
    for refs in manifest.arrays.values():
        rows = refs.kinds == ChunkKind.NATIVE
        if rows.any():
            ids = np.ascontiguousarray(refs.chunk_ids[rows]).view("S12").reshape(-1)
            ends = refs.offsets[rows] + refs.lengths[rows]
            yield ids, np.minimum(ends, np.iinfo(np.int64).max).astype(np.int64)


def present(storage: Storage, workers: Workers, wanted: Objects) -> Objects:
    """Returns which of some objects a store has; one that is too short counts as missing.

    Args:
        storage: The store.
        workers: Ask it, side by side.
        wanted: The objects.

    Raises:
        StorageError: the store cannot be asked.
    """
    if len(wanted) > _MAX_QUESTIONS:
        return _listed(storage, wanted)

    def is_there(one: tuple[str, int]) -> bool:
        key, least = one
        try:
            return storage.head(key).size_bytes >= least
        except ObjectNotFoundError:
            return False

    found = workers.map_ahead(is_there, wanted, window=2 * workers.max_workers)
    return wanted.where(np.fromiter(found, np.bool_, len(wanted)))


def _listed(storage: Storage, wanted: Objects) -> Objects:
    rows = np.zeros(len(wanted), np.bool_)
    for listed in storage.iter_objects(f"{wanted.directory}/"):
        try:
            object_id = ObjectId.parse(listed.key.removeprefix(f"{wanted.directory}/"))
        except InvalidInputError:
            continue
        name = np.frombuffer(bytes(object_id), "S12")[0]
        row = int(np.searchsorted(wanted.ids, name))
        if row < len(wanted) and wanted.ids[row] == name and listed.size_bytes >= wanted.sizes[row]:
            rows[row] = True
    return wanted.where(rows)
