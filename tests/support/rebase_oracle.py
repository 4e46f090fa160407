"""What the official library makes of a working tree's changes where it rebases them: the judge of `icefs rebase`."""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

import icechunk
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import _collect_aiterator, sync

from icefs.format.zarr_json import chunk_key_encoding_of
from icefs.words import node_name
from icefs.zarr.keys import chunk_key, metadata_key, node_prefix
from tests.conformance.official import put

SOLVERS: dict[str, icechunk.ConflictSolver] = {
    "fail": icechunk.ConflictDetector(),
    "ours": icechunk.BasicConflictSolver(on_chunk_conflict=icechunk.VersionSelection.UseOurs),
    "theirs": icechunk.BasicConflictSolver(
        on_chunk_conflict=icechunk.VersionSelection.UseTheirs,
        fail_on_delete_of_updated_array=True,
        fail_on_delete_of_updated_group=True,
    ),
}

_numbers = count(1)


@dataclass
class Changes:
    """A working tree's changes, in keys.

    Attributes:
        deleted: The paths of the nodes that are gone, with all that was below them.
        metadata: The `zarr.json` of nodes that are new or rewritten, by path.
        chunks: The chunks that were written, by key.
        removed: The keys of the chunks that were deleted.
    """

    deleted: list[str] = field(default_factory=list)
    metadata: dict[str, bytes] = field(default_factory=dict)
    chunks: dict[str, bytes] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, diff: dict[str, Any], files: dict[str, bytes], base: dict[str, bytes]) -> "Changes | None":
        """Reads them from `diff.json`, and from the files; None for changes that keys do not show.

        Those are renames, which `diff.json` lists by node, groups without their members, and chunks that go with
        the metadata.
        """
        if diff["renamed_nodes"] or diff["dropped_chunks"]:
            return None
        found = cls(list(map(node_name, diff["deleted_nodes"])))
        for path in found.deleted:
            if any(key in files for key in base if key.startswith(node_prefix(path)) and key.endswith("zarr.json")):
                return None
        for path in map(node_name, [*diff["new_nodes"], *diff["updated_nodes"]]):
            found.metadata[path] = files[metadata_key(path)]
        for array, chunks in diff["chunks"].items():
            path = node_name(array)
            # Of an array whose zarr.json was removed, which no commit takes, that of the base counts.
            metadata = files.get(metadata_key(path)) or base[metadata_key(path)]
            encoding, prefix = chunk_key_encoding_of(metadata), node_prefix(path)
            for row in chunks["written"]:
                key = prefix + chunk_key(encoding, row["index"])
                found.chunks[key] = files[key]
            found.removed += [prefix + chunk_key(encoding, row["index"]) for row in chunks["deleted"]]
        return found


def rebased(
    official: icechunk.Repository, branch: str, base: str, changes: Changes, how: str
) -> dict[str, bytes] | None:
    """Returns the keys after a rebase of changes to one of a branch's snapshots onto its tip; None for conflicts."""
    name = f"oracle-{next(_numbers)}"
    official.create_branch(name, base)
    try:
        session = official.writable_session(name)
        for path in changes.deleted:
            sync(session.store.delete_dir(path.strip("/")))
        for path, data in sorted(changes.metadata.items(), key=lambda item: item[0].count("/")):
            put(session.store, metadata_key(path), data)
        for key, data in changes.chunks.items():
            put(session.store, key, data)
        for key in changes.removed:
            sync(session.store.delete(key))
        official.reset_branch(name, official.lookup_branch(branch))
        try:
            session.rebase(SOLVERS[how])
        except icechunk.RebaseFailedError:
            return None
        keys = sync(_collect_aiterator(session.store.list()))
        buffers = default_buffer_prototype()
        return {key: sync(session.store.get(key, buffers)).to_bytes() for key in keys}
    finally:
        official.delete_branch(name)
