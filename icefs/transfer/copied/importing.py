"""Files in other formats become one commit of arrays that hold their values."""

import math
from collections.abc import Collection, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

from icefs.engine.write.conflicts import ConflictDetector
from icefs.engine.write.repository import WritableRepository
from icefs.errors import InvalidInputError
from icefs.format.ids import SnapshotId
from icefs.paths import ROOT_NODE, NodePath
from icefs.transfer.copied.joining import join, same
from icefs.transfer.copied.model import CopiedTree
from icefs.transfer.copied.parsing import parse_values
from icefs.transfer.copied.writing import ArrayPlan, TreePlan, apply, plan_append, plan_new
from icefs.transfer.files.combine import combine
from icefs.transfer.files.model import LeftOut, chunk_shape_of
from icefs.transfer.files.placing import check_request
from icefs.transfer.files.sources import Source, SourceFile, Sources
from icefs.transfer.files.wanted import Wanted, check_named
from icefs.transfer.progress import Progress, Transferred


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """What to copy, and where to.

    Attributes:
        files: Paths, URLs and patterns.
        branch: The branch to commit to.
        path: The group that the arrays go into.
        message: The commit message.
        metadata: The commit's metadata.
        concat: The dimension that the files are joined along, in their order.
        append: Add to the arrays that are there, along `concat`.
        overwrite: Replace arrays that exist.
        variables: Only these arrays; all, if empty.
        drop: Not these arrays.
        dry_run: Only find out what would be done.
    """

    files: Sequence[str]
    branch: str = "main"
    path: NodePath = ROOT_NODE
    message: str = ""
    metadata: dict[str, Any] | None = None
    concat: str | None = None
    append: bool = False
    overwrite: bool = False
    variables: Collection[str] = ()
    drop: Collection[str] = ()
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class CopiedTo:
    """An array of the import.

    Attributes:
        path: The node's.
        shape: Its shape afterwards.
        chunk_shape: The shape of its chunks.
        chunks: How many chunks are written, at most.
        bytes: The bytes of the values that are copied, decoded.
        codecs: The names of its codecs.
    """

    path: NodePath
    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    chunks: int
    bytes: int
    codecs: tuple[str, ...]


@dataclass(slots=True)
class CopiedFiles:
    """What an import of values did, or would do.

    Attributes:
        snapshot_id: The commit; None of a dry run.
        files: How many files and trees were read.
        arrays: The arrays.
        replaced: The nodes that existed and were replaced.
        left_out: What cannot be copied.
    """

    snapshot_id: SnapshotId | None = None
    files: int = 0
    arrays: list[CopiedTo] = field(default_factory=list)
    replaced: list[NodePath] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def import_copies(
    repository: WritableRepository, request: CopyRequest, progress: Progress = lambda done: None
) -> CopiedFiles:
    """Makes one commit of the values of files' arrays.

    Args:
        repository: Where to.
        request: What, and how.
        progress: See `Progress`.

    Raises:
        EntryNotFoundError: a file is not there.
        UnsupportedError: a library is not installed; or a file, or its store, is not supported.
        InvalidInputError: files do not fit together, or to what is there (kind `not-alike`); or one is damaged; or
            nothing can be copied.
        AlreadyExistsError: arrays exist, and neither `append` nor `overwrite` is set.
        ObjectModifiedError: a file changed meanwhile.
        RebaseFailedError: others have changed the same arrays meanwhile.
        StorageError: a store failed.
    """
    check_request(request.path, request.concat, append=request.append, overwrite=request.overwrite)
    repository.context.check_online()
    with closing(Sources()) as sources, ExitStack() as opened:
        return _import(repository, request, sources.find(request.files), progress, opened)


def _import(
    repository: WritableRepository,
    request: CopyRequest,
    found: Sequence[Source],
    progress: Progress,
    opened: ExitStack,
) -> CopiedFiles:
    session = repository.writable_session(request.branch)
    done = Transferred(total_files=len(found))
    tree = combine(_parse_all(found, request, opened), request.concat, join, same)
    if not tree.arrays:
        reasons = "; ".join(f"{one.path}: {one.reason}" for one in tree.left_out[:3])
        raise InvalidInputError(
            f"{tree.file} has no array that can be copied{': ' if reasons else ''}{reasons}", kind="nothing-to-import"
        )
    if request.append:
        assert request.concat is not None  # `check_request` saw to it
        plan = plan_append(session, tree, request.path, request.concat)
    else:
        plan = plan_new(session, tree, request.path, overwrite=request.overwrite)
    result = _facts(plan, tree, len(found))
    if request.dry_run:
        return result
    done.total_bytes = sum(array.bytes for array in result.arrays)

    def wrote(size: int) -> None:
        done.bytes += size

    apply(session, plan, wrote, lambda: progress(done))
    for source in found:
        if isinstance(source, SourceFile):
            source.check()
    done.files = len(found)
    progress(done)
    result.snapshot_id = session.commit(
        request.message or f"copy {tree.file}", request.metadata, rebase_with=ConflictDetector()
    )
    return result


def _parse_all(found: Sequence[Source], request: CopyRequest, opened: ExitStack) -> list[CopiedTree]:
    wanted = Wanted(request.variables, request.drop)
    trees = []
    for source in found:
        tree = parse_values(source, wanted.skips, opened)
        wanted.prune(tree)
        trees.append(tree)
    check_named(request.variables, trees)
    return trees


def _facts(plan: TreePlan, tree: CopiedTree, files: int) -> CopiedFiles:
    arrays = [
        CopiedTo(
            array.path,
            tuple(array.document["shape"]),
            chunk_shape_of(array.document),
            array.num_chunks,
            _bytes(array),
            tuple(codec["name"] for codec in array.document["codecs"]),
        )
        for array in plan.arrays
    ]
    return CopiedFiles(None, files, arrays, plan.placement.replaced, tree.left_out)


def _bytes(plan: ArrayPlan) -> int:
    return math.prod(plan.array.shape) * plan.array.itemsize
