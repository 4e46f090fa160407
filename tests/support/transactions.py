"""Repositories in memory for tests of sessions that write."""

import json

from icefs.engine.write.repository import WritableRepository
from icefs.format.ids import SnapshotId

GROUP = b'{"zarr_format":3,"node_type":"group","attributes":{}}'


def array(shape: list[int], chunks: list[int], **attributes: object) -> bytes:
    """Returns as much of the `zarr.json` of an array as the engine reads."""
    grid = {"name": "regular", "configuration": {"chunk_shape": chunks}}
    document = {"zarr_format": 3, "node_type": "array", "shape": shape, "chunk_grid": grid, "attributes": attributes}
    return json.dumps(document).encode()


def commit_start(repo: WritableRepository) -> SnapshotId:
    """Commits a root group and the array `/a` of 4 by 4 chunks, two of which are set."""
    session = repo.writable_session("main")
    session.nodes.put("/", GROUP)
    session.nodes.put("/a", array([8, 8], [2, 2]))
    session.chunks.set("/a", (0, 0), b"zero")
    session.chunks.set("/a", (3, 3), b"x" * 600)
    return session.commit("start")


def chunks_of(repo: WritableRepository, path: str = "/a", branch: str = "main") -> dict[tuple[int, ...], bytes]:
    """Reads the chunks of an array at the tip of a branch, by index."""
    session = repo.readonly_session(branch)
    refs = session.array_chunks(path)
    return {
        tuple(row): session.read_chunk(batch.ref(position))
        for batch in refs.iter_batches()
        for position, row in enumerate(batch.indices().tolist())
    }
