"""A directory of Zarr v3 becomes one commit.

    scan → refuse what cannot be → store chunks (resumable) → nodes and references into a session → commit

Nodes keep the bytes of their zarr.json. Without `overwrite` no node of the branch is changed. With it, a node of the
directory replaces the one at its path: of an array exactly the directory's chunks remain. Nodes that the directory
does not have stay.
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from icefs.engine.history.changes import compare_refs
from icefs.engine.read.chunks import ALL_ROWS
from icefs.engine.read.session import Session
from icefs.engine.write.changeset import difference
from icefs.engine.write.collection_log import Collections
from icefs.engine.write.conflicts import ConflictDetector
from icefs.engine.write.packing import DEFAULT_PACK_BYTES
from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.session import WritableSession
from icefs.errors import (
    AlreadyExistsError,
    ChunksCollectedError,
    InvalidInputError,
    RebaseFailedError,
    StorageError,
)
from icefs.format.chunk_indices import pack_keys
from icefs.format.ids import SnapshotId
from icefs.format.manifest.refs import ArrayRefs
from icefs.format.snapshot.nodes import NodeSnapshot, NodeType, is_canonical_path
from icefs.format.zarr_json import parse_zarr_json
from icefs.paths import ROOT_NODE, NodePath, node_and_ancestors
from icefs.transfer.chunk_files import ArrayRows, ChunkFiles
from icefs.transfer.ledger import Ledger, ledger_path
from icefs.transfer.progress import Progress, Transferred
from icefs.transfer.scan import Scanned, scan_directory
from icefs.words import plural
from icefs.zarr.invalid import Invalid

_GROUP: Final = json.dumps({"attributes": {}, "zarr_format": 3, "node_type": "group"}, indent=2).encode()
_SHOWN: Final = 3
_COLLECTED_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What to import, where to, and how.

    Attributes:
        source: The directory.
        state_dir: Where stored chunks are remembered.
        branch: The branch to commit to.
        path: The node that the directory becomes.
        message: The commit message.
        metadata: The commit's metadata.
        overwrite: Replace nodes that exist.
        skip_invalid: Leave out what cannot be imported.
        dry_run: Only find out what would be done.
        pack_bytes: How large an object may become that small chunks share; 0 gives each its own.
    """

    source: str
    state_dir: Path
    branch: str = "main"
    path: NodePath = ROOT_NODE
    message: str = ""
    metadata: dict[str, Any] | None = None
    overwrite: bool = False
    skip_invalid: bool = False
    dry_run: bool = False
    pack_bytes: int = DEFAULT_PACK_BYTES


@dataclass(slots=True)
class Imported:
    """What an import did, or would do.

    Attributes:
        snapshot_id: The commit; None of a dry run, or where nothing was to be changed.
        is_repeated: Whether an earlier run had made that commit already.
        nodes: How many groups and arrays the directory has.
        chunks: How many chunks.
        bytes: How many bytes they have.
        stored_chunks: How many of them were stored now, outside of manifests.
        stored_bytes: Their bytes.
        replaced: The paths of nodes that existed and were replaced by others; of a dry run, that exist.
        invalid: What cannot be imported, and was left out.
        untracked: Files that are no Zarr keys.
    """

    snapshot_id: SnapshotId | None = None
    is_repeated: bool = False
    nodes: int = 0
    chunks: int = 0
    bytes: int = 0
    stored_chunks: int = 0
    stored_bytes: int = 0
    replaced: list[NodePath] = field(default_factory=list)
    invalid: list[Invalid] = field(default_factory=list)
    untracked: list[str] = field(default_factory=list)


def import_directory(
    repository: WritableRepository, request: ImportRequest, progress: Progress = lambda done: None
) -> Imported:
    """Imports a directory of Zarr v3 as one commit.

    Run again after it was interrupted, it stores only what is missing.

    Args:
        repository: Where to.
        request: What, and how.
        progress: See `Progress`; an import that it ends leaves the repository as it was.

    Raises:
        EntryNotFoundError, UnsupportedError, StorageError: as `scan_directory`.
        InvalidInputError: some files cannot be imported; `facts["invalid"]` lists them (kind `invalid-tree`). Or the
            path is none.
        AlreadyExistsError: nodes of the directory exist, and `overwrite` is off; or an array is above the path.
        SessionStateError: files changed while they were read; or the same import is under way elsewhere.
        RebaseFailedError: others have changed the same nodes meanwhile.
        StorageError: the store failed.
    """
    if not is_canonical_path(request.path):
        raise InvalidInputError(f"{request.path!r} is not the absolute path of a node", kind="invalid-path")
    repository.context.check_online()
    base = repository.session_at(repository.lookup_branch(request.branch))
    scanned = scan_directory(request.source, spec_version=repository.spec_version)
    result = Imported(
        nodes=len(scanned.nodes),
        chunks=scanned.num_chunks,
        bytes=scanned.chunk_bytes,
        invalid=scanned.invalid,
        untracked=scanned.untracked,
    )
    if scanned.invalid and not request.skip_invalid:
        raise _invalid(scanned.invalid)
    run = _Import(repository, request, scanned, base, result)
    if request.dry_run:
        run.check_nodes()
        return result
    with Ledger(ledger_path(request.state_dir, repository.storage.url, request.source)) as ledger:
        if not request.overwrite and run.was_done(ledger):
            return result
        run.check_nodes()
        run.run(ledger, progress)
    return result


class _Import:
    def __init__(
        self, repository: WritableRepository, request: ImportRequest, scanned: Scanned, base: Session, result: Imported
    ) -> None:
        self._repository = repository
        self._request = request
        self._scanned = scanned
        self._base = base
        self._result = result

    def _target(self, path: NodePath) -> NodePath:
        """Returns where a node of the directory goes."""
        above = self._request.path.rstrip("/")
        return NodePath(f"{above}{path}".rstrip("/") or ROOT_NODE)

    @property
    def _what(self) -> str:
        return json.dumps([self._request.branch, self._request.path])

    def was_done(self, ledger: Ledger) -> bool:
        """Tells whether an earlier run committed just this, and was interrupted before it could say so, or was not."""
        found = ledger.last_commit(self._scanned.fingerprint(), self._what)
        if found is None or not self._is_in_history(found):
            return False
        self._result.snapshot_id, self._result.is_repeated = found, True
        return True

    def _is_in_history(self, snapshot_id: SnapshotId) -> bool:
        return any(info.id == snapshot_id for info in self._repository.ancestry(branch=self._request.branch))

    def check_nodes(self) -> None:
        """Refuses what would replace something without being asked to."""
        for above in _groups_above(self._request.path):
            node = self._base.get_node(above)
            if node is not None and node.array is not None:
                raise AlreadyExistsError(
                    f"{above} is an array, and nothing can be imported below it",
                    path=above,
                    hint="choose another --path",
                )
        there = {}
        for path, data in self._scanned.nodes.items():
            node = self._base.get_node(self._target(path))
            if node is not None and not (node.array is None and node.user_data == data):
                there[node.path] = node
        self._result.replaced = sorted(there)
        if there and not self._request.overwrite:
            more = f" and {len(there) - 1} more" if len(there) > 1 else ""
            raise AlreadyExistsError(
                f"{min(there)}{more} exists already in branch {self._request.branch!r}",
                paths=sorted(there),
                hint="choose another --path, or replace what is there with --overwrite",
            )

    def run(self, ledger: Ledger, progress: Progress) -> None:
        """Stores and commits; once more where garbage collection took chunks meanwhile."""
        for _ in range(_COLLECTED_TRIES - 1):
            with contextlib.suppress(ChunksCollectedError):
                return self._run_once(ledger, progress)
        return self._run_once(ledger, progress)

    def _run_once(self, ledger: Ledger, progress: Progress) -> None:
        # Opened first: the commit looks up the chunks if a collection runs from now on.
        session = self._repository.writable_session_at(self._request.branch, self._base.snapshot_id)
        store = ChunkFiles(self._repository.context, ledger, self._request.pack_bytes, progress)
        rows = [ArrayRows(files, ledger.array(path)) for path, files in self._scanned.arrays.items()]
        if store.reuse(rows, lambda path: self._base_refs(self._target(path))):
            # A collection that is under way may take them after they were looked up: the commit copies them then.
            session.draft.holds_chunks_since([Collections(self._repository.context).at_work_since()])
        try:
            store.run(rows)
        finally:
            self._take_counts(store.transferred)
        self._apply(session, rows)
        if not session.has_uncommitted_changes:
            return  # all that is there is just what the directory has
        self._result.snapshot_id = self._commit(session, ledger)

    def _take_counts(self, done: Transferred) -> None:
        self._result.stored_chunks, self._result.stored_bytes = done.stored_files, done.stored_bytes

    def _base_refs(self, path: NodePath) -> ArrayRefs | None:
        node = self._base.get_node(path)
        return None if node is None or node.array is None else _refs(self._base, node)

    def _apply(self, session: WritableSession, rows: Sequence[ArrayRows]) -> None:
        for above in reversed(_groups_above(self._request.path)):
            if session.get_node(above) is None:
                session.nodes.put(above, _GROUP)
        changed: set[NodePath] = set()
        for path, data in self._scanned.nodes.items():
            target = self._target(path)
            known = session.get_node(target)
            if known is not None and known.node_type is not _node_type(data):
                session.nodes.delete(target)
            session.nodes.put(target, data)
            if known is None or known.user_data != data:
                changed.add(target)
        for array in rows:
            node = session.node(self._target(array.files.path))
            if _set_chunks(session, node, array.refs(node.id)):
                changed.add(node.path)
        # Of what exists, an import may bring the very same again.
        self._result.replaced = [path for path in self._result.replaced if path in changed]

    def _commit(self, session: WritableSession, ledger: Ledger) -> SnapshotId:
        fingerprint = self._scanned.fingerprint()

        def note(new: SnapshotId) -> None:
            ledger.about_to_commit(new, fingerprint, self._what)

        try:
            return session.commit(
                self._request.message or f"import {self._request.source}",
                self._request.metadata,
                rebase_with=ConflictDetector(),
                before_publish=note,
            )
        except RebaseFailedError as error:
            error.hint = "import again, onto the newest commit; --overwrite replaces the nodes that others have made"
            raise
        except StorageError as error:
            if not session.draft.in_doubt:
                raise
            # The store's answer was lost. If it does not answer now either, the next run finds out.
            made = session.draft.in_doubt[-1].snapshot_id
            error.hint = "run it again: it finds out whether the commit was made"
            with contextlib.suppress(StorageError):
                if self._is_in_history(made):
                    return made
            raise


def _set_chunks(session: WritableSession, node: NodeSnapshot, refs: ArrayRefs) -> bool:
    """Lets an array have just these chunks, changing no more than is different; tells whether anything was."""
    there = _refs(session, node)
    if there is None or not len(there):
        session.chunks.set_refs(node.path, refs)
        return bool(len(refs))
    if not refs.ndim:
        if not len(refs):
            session.chunks.set_ref(node.path, (), None)
        elif refs.ref(0) != there.ref(0):
            session.chunks.set_refs(node.path, refs)
        else:
            return False
        return True
    if not len(refs):
        session.chunks.delete(node.path, there.indices)
        return True
    changed = compare_refs(there, refs)
    if len(changed):
        session.chunks.delete(node.path, difference(changed, refs.indices))
        mine, others = pack_keys(refs.coords, changed.coords)
        session.chunks.set_refs(node.path, refs.select(np.isin(mine, others)))
    return bool(len(changed))


def _refs(session: Session, node: NodeSnapshot) -> ArrayRefs | None:
    """Returns all references of an array in one set."""
    batches = list(session.array_chunks(node).iter_batches(ALL_ROWS))
    parts = [batch.refs for batch in batches if len(batch)]
    return ArrayRefs.concat(parts) if parts else None


def _groups_above(path: NodePath) -> list[NodePath]:
    """Returns the paths above a node, the nearest first."""
    return list(node_and_ancestors(path))[1:]


def _node_type(data: bytes) -> NodeType:
    return parse_zarr_json(data, name="zarr.json").node_type


def _invalid(invalid: Sequence[Invalid]) -> InvalidInputError:
    shown = [f"{path} {reason}" for path, reason in invalid[:_SHOWN]]
    more = f"; and {len(invalid) - _SHOWN} more" if len(invalid) > _SHOWN else ""
    return InvalidInputError(
        f"{plural(len(invalid), 'file')} cannot be imported: {'; '.join(shown)}{more}",
        kind="invalid-tree",
        hint="correct or remove them, or leave them out with --skip-invalid",
        invalid=[list(one) for one in invalid],
    )
