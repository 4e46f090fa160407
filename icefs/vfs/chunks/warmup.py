"""Fills the disk cache with the chunks of a part of a tree, ahead of their readers.

Virtual chunks are among them, as far as they may be followed and have a checksum: others are not kept (see
`engine.read.virtual`). Native chunks of a local repository are not: they are here.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import trio

from icefs.engine.read.assets import coalesce
from icefs.engine.read.session import Session
from icefs.errors import EntryNotFoundError, InvalidInputError, UnsupportedError
from icefs.format.ids import ChunkId
from icefs.format.manifest.refs import ChunkKind, InlineRef, VirtualRef
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.locks import Rank, new_lock
from icefs.paths import NodePath
from icefs.vfs.chunks.array_view import key_layout
from icefs.vfs.threads import Threads

if TYPE_CHECKING:
    from concurrent.futures import Future

type _Neighbours = tuple[ChunkId, list[tuple[int, int]]]

_REPORT_EVERY_S: Final = 0.2
_BATCH: Final = 10_000
_AHEAD: Final = 32


class Warmup:
    """One run.

    Belongs to the thread that `run` is called in; the counters may be read from any, and `stopped` set.

    Attributes:
        chunks: How many chunks there are to keep.
        size_bytes: How much they have.
        done_chunks: How many of them have been looked at.
        done_bytes: How much they have.
        fetched_bytes: How much of it was not kept before.
        skipped_chunks: How many virtual chunks cannot be kept: without checksum, local, or not to be followed.
        stopped: Set to end before the end.
    """

    def __init__(self, session: Session, path: str) -> None:
        self.chunks = self.size_bytes = self.done_chunks = self.done_bytes = self.fetched_bytes = 0
        self.skipped_chunks = 0
        self.stopped = False
        self._session = session
        self._assets = session.context.assets
        self._virtual = session.context.virtual
        is_local = self._assets.storage.capabilities.local_files
        self._kinds = (ChunkKind.VIRTUAL,) if is_local else (ChunkKind.NATIVE, ChunkKind.VIRTUAL)
        self._path = path.strip("/")
        # The workers count, and so does the thread that finds work for them.
        self._lock = new_lock(Rank.LEAF, "a warm-up")

    def run(self) -> None:
        """Fetches what is not kept yet; blocks.

        Raises:
            EntryNotFoundError: nothing of the snapshot lies at the path.
            StorageError, FormatError: something could not be read.
        """
        arrays = list(self._arrays())
        for node in arrays:
            for batch in self._session.array_chunks(node).iter_batches(_BATCH):
                wanted = np.isin(batch.kinds, self._kinds)
                self.chunks += int(wanted.sum())
                self.size_bytes += int(batch.lengths[wanted].sum())
        for _ in self._assets.workers.map_ahead(self._fetch, self._work(arrays), window=_AHEAD):
            if self.stopped:
                return
        if self._assets.disk_cache is not None:
            self._assets.disk_cache.flush()

    def _arrays(self) -> Iterator[NodeSnapshot]:
        root = f"/{self._path}"
        nodes = list(self._session.list_nodes(NodePath(root)))
        if not nodes and not self._session.has_children(NodePath(root)) and self._enclosing_array() is None:
            raise EntryNotFoundError(f"nothing of the snapshot is at {root}", path=root)
        enclosing = self._enclosing_array()
        yield from (node for node in nodes if node.array is not None)
        if enclosing is not None and enclosing not in nodes:
            yield enclosing

    def _enclosing_array(self) -> NodeSnapshot | None:
        """Returns the array whose chunks the path lies among."""
        above = f"/{self._path}"
        while above and (node := self._session.get_node(NodePath(above))) is None:
            above = above.rpartition("/")[0]
        return node if above and node is not None and node.array is not None else None

    def _work(self, arrays: list[NodeSnapshot]) -> "Iterator[_Neighbours | VirtualRef]":
        """Yields chunk objects with neighbouring ranges of them, and virtual chunks."""
        for node in arrays:
            inner = self._inside(node)
            layout = key_layout(node) if inner else None
            for batch in self._session.array_chunks(node).iter_batches(_BATCH):
                objects: dict[ChunkId, list[tuple[int, int]]] = {}
                for row in np.isin(batch.kinds, self._kinds).nonzero()[0].tolist():
                    ref = batch.ref(row)
                    assert not isinstance(ref, InlineRef)
                    if layout is not None:
                        key = layout.format(batch.refs.index(batch.start + row))
                        if key != inner and not key.startswith(inner + "/"):
                            with self._lock:
                                self.chunks -= 1
                                self.size_bytes -= ref.length_bytes
                            continue
                    if isinstance(ref, VirtualRef):
                        yield ref
                        continue
                    span = ref.offset_bytes, ref.offset_bytes + ref.length_bytes
                    objects.setdefault(ref.chunk_id, []).append(span)
                for chunk_id, spans in objects.items():
                    yield from ((chunk_id, run) for run in coalesce(spans))
                    with self._lock:
                        self.done_chunks += len(spans) - len(set(spans))

    def _inside(self, node: NodeSnapshot) -> str:
        """Returns what of the path lies below an array: a chunk key, or the beginning of one."""
        above = node.path.strip("/")
        if not above:
            return self._path
        return self._path.removeprefix(above + "/") if self._path.startswith(above + "/") else ""

    def _fetch(self, work: "_Neighbours | VirtualRef") -> None:
        if self.stopped:
            return
        if isinstance(work, VirtualRef):
            self._fetch_virtual(work)
            return
        chunk_id, spans = work
        missing = [span for span in spans if not self._assets.is_cached(chunk_id, *span)]
        if missing:
            self._assets.read_chunk_ranges(chunk_id, missing)
        with self._lock:
            self.fetched_bytes += sum(end - start for start, end in missing)
            self.done_chunks += len(spans)
            self.done_bytes += sum(end - start for start, end in spans)

    def _fetch_virtual(self, ref: VirtualRef) -> None:
        size = ref.length_bytes
        if not self._virtual.can_keep(ref):
            with self._lock:
                self.chunks -= 1
                self.size_bytes -= size
                self.skipped_chunks += 1
            return
        is_kept = self._virtual.is_kept(ref)
        if not is_kept:
            self._session.read_chunk(ref)
        with self._lock:
            self.fetched_bytes += 0 if is_kept else size
            self.done_chunks += 1
            self.done_bytes += size

    def counts(self) -> dict[str, int]:
        """Returns how far it is."""
        return {
            "chunks": self.chunks,
            "bytes": self.size_bytes,
            "done_chunks": self.done_chunks,
            "done_bytes": self.done_bytes,
            "fetched_bytes": self.fetched_bytes,
            "skipped_chunks": self.skipped_chunks,
        }


async def warm_up(session: Session, request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """Carries out the request `warmup` of `rpc`: `path` lies below the tree's root.

    Raises:
        UnsupportedError: the mount has no disk cache.
        InvalidInputError: the path is none.
    """
    if session.context.assets.disk_cache is None:
        raise UnsupportedError(
            "this mount keeps nothing on the disk",
            hint="mount a repository on a remote store, or one whose virtual chunks are (--allow-virtual), with a "
            "--cache-size other than 0",
        )
    path = request.get("path", "")
    if not isinstance(path, str):
        raise InvalidInputError("the path is not a text")
    warmup = Warmup(session, path)
    finished = trio.Event()
    outcome: list[Future[None]] = []

    def done(future: "Future[None]") -> None:
        outcome.append(future)
        finished.set()

    # A thread of its own: it may take hours, and uses the repository's workers.
    threads = Threads(1, "icefs-warmup")
    threads.start(warmup.run, done)
    try:
        while not finished.is_set():
            with trio.move_on_after(_REPORT_EVERY_S):
                await finished.wait()
            yield {"type": "progress", **warmup.counts()}
    finally:
        warmup.stopped = True
        threads.close()
    outcome[0].result()
    yield warmup.counts()
