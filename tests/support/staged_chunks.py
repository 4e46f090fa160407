"""Chunk files in a working tree, and the session that they are to be stored in."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from icefs.engine.write.collection_log import Collections
from icefs.engine.write.repository import WritableRepository
from icefs.format.ids import NodeId, SnapshotId
from icefs.format.layout import chunk_key
from icefs.format.manifest.refs import ArrayRefs, InlineRef, NativeRef
from icefs.storage.base import Storage
from icefs.worktree.freeze.frozen import FrozenFile
from icefs.worktree.upload.background import UploadState
from icefs.worktree.upload.options import UploadOptions
from icefs.worktree.upload.uploader import ArrayUpload, Progress, UploadProgress, upload_chunks
from tests.support.dict_base import Snapshots
from tests.support.tree_driver import open_tree

DEADLINE_S = 20

type Chunks = Mapping[tuple[int, ...], bytes]


def path_of(index: tuple[int, ...]) -> str:
    """Returns the path of a chunk of `/a`."""
    return "a/c/" + "/".join(map(str, index))


@dataclass
class StagedChunks:
    """A tree over nothing, with an array `/a`, and a repository to store its chunks in."""

    storage: Storage
    directory: Path
    spec_version: int = 2
    told: list[UploadProgress] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.repository = WritableRepository.create(self.storage, spec_version=self.spec_version)
        self.snapshots = Snapshots({})
        self.driver = open_tree(self.directory, self.snapshots)
        self.driver.mkdir("a")
        self.driver.mkdir("a/c")

    def write(self, chunks: Chunks) -> None:
        for index, data in chunks.items():
            path = path_of(index)
            above = path.rpartition("/")[0]
            if not self.driver.exists(above):
                self.driver.mkdir(above)
            self.driver.write(path, data)

    def start_uploads(
        self,
        options: UploadOptions,
        monotonic: Callable[[], float] = time.monotonic,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        """Begins to upload in the background."""
        inline_bytes = self.repository.context.inline_threshold_bytes
        collections = Collections(self.repository.context)
        self.driver.tree.start_uploads(
            self.storage, inline_bytes, options, collections, monotonic=monotonic, clock_s=clock_s
        )

    def wait_for(self, condition: Callable[[UploadState], bool]) -> UploadState:
        """Waits until background uploads stand so."""
        assert self.driver.tree.uploads is not None
        deadline = time.monotonic() + DEADLINE_S
        while not condition(state := self.driver.tree.uploads.state):
            assert time.monotonic() < deadline, state
            time.sleep(0.005)
        return state

    def store(
        self, chunks: Chunks, options: UploadOptions | None = None, progress: Progress | None = None
    ) -> ArrayRefs:
        """Stores chunks that were written, as a commit does that fails afterwards."""
        return self.store_paths({index: path_of(index) for index in chunks}, options, progress)

    def store_paths(
        self,
        paths: Mapping[tuple[int, ...], str],
        options: UploadOptions | None = None,
        progress: Progress | None = None,
    ) -> ArrayRefs:
        """Stores files as chunks."""
        session = self.repository.writable_session("main")
        frozen = self.driver.tree.freeze()
        try:
            sources = []
            for index, path in paths.items():
                found = frozen.find(path)
                assert isinstance(found, FrozenFile), path
                sources.append((index, found))
            upload = ArrayUpload("/a", NodeId.random(), sources)
            self.told.clear()
            base = self.repository.readonly_session(branch="main")
            told = progress or self.told.append
            ((path, refs),) = upload_chunks([upload], frozen, base, session, told, options, self.driver.tree.uploads)
            assert path == "/a"
            return refs
        finally:
            self.driver.tree.abandon(frozen)

    def commit(self, indices: Iterable[tuple[int, ...]], options: UploadOptions | None = None) -> SnapshotId:
        """Commits chunks of the array `/a` of the repository, as the commit of a mounted tree does."""
        session = self.repository.writable_session("main")
        base = self.repository.session_at(session.snapshot_id)
        frozen = self.driver.tree.freeze()
        try:
            sources = []
            for index in indices:
                found = frozen.find(path_of(index))
                assert isinstance(found, FrozenFile)
                sources.append((index, found))
            upload = ArrayUpload("/a", session.node("/a").id, sources)
            uploads = self.driver.tree.uploads
            for path, refs in upload_chunks([upload], frozen, base, session, self.told.append, options, uploads):
                session.chunks.set_refs(path, refs)
            return session.commit("tree")
        finally:
            self.driver.tree.abandon(frozen)

    def reopen(self, *, was_closed: bool = False) -> None:
        """Closes the tree, and opens it again."""
        if not was_closed:
            self.close()
        self.driver = open_tree(self.directory, self.snapshots)

    def stored(self, refs: ArrayRefs) -> dict[tuple[int, ...], bytes]:
        """Reads what references say."""
        found = {}
        for row in range(len(refs)):
            ref = refs.ref(row)
            if isinstance(ref, InlineRef):
                found[refs.index(row)] = ref.data
            else:
                assert isinstance(ref, NativeRef)
                start, end = ref.offset_bytes, ref.offset_bytes + ref.length_bytes
                found[refs.index(row)] = self.storage.get(chunk_key(ref.chunk_id), start=start, end=end).data
        return found

    def objects(self) -> dict[str, int]:
        """Returns the sizes of all chunk objects."""
        return {info.key: info.size_bytes for info in self.storage.iter_objects("chunks/")}

    def close(self) -> None:
        self.driver.tree.check_invariants()
        self.driver.tree.close()
