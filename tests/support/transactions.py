"""Repositories in memory for tests of sessions that write."""

import json

from icefs.engine.write.repository import WritableRepository
from icefs.format.ids import SnapshotId

GROUP = b'{"zarr_format":3,"node_type":"group","attributes":{}}'


def array(shape: list[int], chunks: list[int], **attributes: object) -> bytes:
    grid = {"name": "regular", "configuration": {"chunk_shape": chunks}}
    document = {"zarr_format": 3, "node_type": "array", "shape": shape, "chunk_grid": grid, "attributes": attributes}
    return json.dumps(document).encode()


def commit_start(repo: WritableRepository) -> SnapshotId:
    session = repo.writable_session("main")
    session.nodes.put("/", GROUP)
    session.nodes.put("/a", array([8, 8], [2, 2]))
    session.chunks.set("/a", (0, 0), b"zero")
    session.chunks.set("/a", (3, 3), b"x" * 600)
    return session.commit("start")


def chunks_of(repo: WritableRepository, path: str = "/a", branch: str = "main") -> dict[tuple[int, ...], bytes]:
    session = repo.readonly_session(branch)
    refs = session.array_chunks(path)
    return {
        tuple(row): session.read_chunk(batch.ref(position))
        for batch in refs.iter_batches()
        for position, row in enumerate(batch.indices().tolist())
    }
