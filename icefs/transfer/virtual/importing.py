"""Files in other formats become one commit of virtual references."""

from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

from icefs.engine.write.conflicts import ConflictDetector
from icefs.engine.write.repository import WritableRepository
from icefs.errors import InvalidInputError
from icefs.format.config.storage import VirtualChunkContainer
from icefs.format.config.values import RepositoryConfig
from icefs.format.ids import SnapshotId
from icefs.paths import ROOT_NODE, NodePath
from icefs.transfer.files.combine import combine
from icefs.transfer.files.model import LeftOut
from icefs.transfer.files.placing import check_request
from icefs.transfer.files.sources import Source, SourceFile, Sources, settle
from icefs.transfer.files.wanted import Wanted, check_named
from icefs.transfer.progress import Progress, Transferred
from icefs.transfer.virtual.containers import allow_option, containers_for
from icefs.transfer.virtual.joining import join, same
from icefs.transfer.virtual.loading import load_small
from icefs.transfer.virtual.model import VirtualTree
from icefs.transfer.virtual.parsers import parse, require_library
from icefs.transfer.virtual.writing import TreePlan, apply, plan_append, plan_new

_CORE_CODECS: Final = ("bytes", "gzip", "zstd", "blosc", "crc32c", "transpose", "sharding_indexed", "vlen-utf8")


@dataclass(frozen=True, slots=True)
class VirtualRequest:
    """What to refer to, and where from.

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
        loadable: Copy the values of these arrays.
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
    loadable: Collection[str] = ()
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ReferredArray:
    """An array of the import.

    Attributes:
        path: The node's.
        shape: Its shape afterwards.
        chunk_shape: The shape of its chunks.
        references: How many references are set.
        bytes: How many bytes they refer to.
        copied_chunks: How many chunks are copied instead.
        copied_bytes: Their bytes.
    """

    path: NodePath
    shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    references: int
    bytes: int
    copied_chunks: int
    copied_bytes: int


@dataclass(slots=True)
class Referred:
    """What an import of references did, or would do.

    Attributes:
        snapshot_id: The commit; None of a dry run.
        files: How many files and trees were read.
        arrays: The arrays.
        containers: The containers that were added to the configuration.
        allow: The prefixes that `--allow-virtual` takes for reading.
        replaced: The nodes that existed and were replaced.
        left_out: What cannot be referred to.
        unchecked: Files whose store tells neither an entity tag nor a time: that they change is not noticed.
        codecs: The codecs, besides those of every reader, that the arrays need.
    """

    snapshot_id: SnapshotId | None = None
    files: int = 0
    arrays: list[ReferredArray] = field(default_factory=list)
    containers: list[VirtualChunkContainer] = field(default_factory=list)
    allow: list[str] = field(default_factory=list)
    replaced: list[NodePath] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    codecs: list[str] = field(default_factory=list)


def import_virtual(
    repository: WritableRepository, request: VirtualRequest, progress: Progress = lambda done: None
) -> Referred:
    """Makes one commit of references to the arrays of files.

    The configuration gets the containers that the references need before the commit is made.

    Args:
        repository: Where to.
        request: What, and how.
        progress: See `Progress`.

    Raises:
        EntryNotFoundError: a file is not there.
        UnsupportedError: VirtualiZarr is not installed; or a file, or its store, is not supported.
        InvalidInputError: files do not fit together, or to what is there (kind `not-alike`); or nothing can be
            referred to.
        AlreadyExistsError: arrays exist, and neither `append` nor `overwrite` is set.
        ObjectModifiedError: a file changed meanwhile.
        RebaseFailedError: others have changed the same arrays meanwhile.
        StorageError: a store failed.
    """
    check_request(request.path, request.concat, append=request.append, overwrite=request.overwrite)
    require_library()
    repository.context.check_online()
    with closing(Sources()) as sources:
        return _import(repository, request, sources.find(request.files), progress)


def _import(
    repository: WritableRepository, request: VirtualRequest, found: Sequence[Source], progress: Progress
) -> Referred:
    session = repository.writable_session(request.branch)
    tree = combine(_parse_all(found, request, progress), request.concat, join, same)
    if not tree.arrays:
        reasons = "; ".join(f"{one.path}: {one.reason}" for one in tree.left_out[:3])
        raise InvalidInputError(
            f"{tree.file} has no array that can be referred to{': ' if reasons else ''}{reasons}",
            kind="nothing-to-import",
        )
    if request.append:
        assert request.concat is not None  # `check_request` saw to it
        plan = plan_append(session, tree, request.path, request.concat)
    else:
        plan = plan_new(session, tree, request.path, overwrite=request.overwrite)
    files = _files(plan)
    saved = WritableRepository.fetch_config(repository.storage) or RepositoryConfig()
    added, used = containers_for(files, (saved.virtual_chunk_containers or {}).values())
    result = _facts(plan, tree, len(found))
    result.containers = added
    result.allow = [allow_option(container) for container in (*added, *used)]
    result.unchecked = sorted({file.name for file in files if file.checksum is None})
    if request.dry_run:
        return result
    apply(session, plan)
    for source in found:
        if isinstance(source, SourceFile):
            source.check()
    settle(files)
    if added:
        for container in added:
            saved.set_virtual_chunk_container(container)
        repository.config = saved
        repository.save_config()
    result.snapshot_id = session.commit(
        request.message or f"refer to {tree.file}", request.metadata, rebase_with=ConflictDetector()
    )
    return result


def _parse_all(found: Sequence[Source], request: VirtualRequest, progress: Progress) -> list[VirtualTree]:
    wanted = Wanted(request.variables, request.drop)
    done = Transferred(total_files=len(found))
    progress(done)
    trees = []
    for source in found:
        tree = parse(source, wanted.skips)
        load_small(tree, request.loadable)
        wanted.prune(tree)
        trees.append(tree)
        done.files += 1
        progress(done)
    check_named((*request.variables, *request.loadable), trees)
    return trees


def _files(plan: TreePlan) -> list[SourceFile]:
    files = {}
    for array in plan.arrays:
        for file in array.refs.files:
            files[id(file)] = file
    return list(files.values())


def _facts(plan: TreePlan, tree: VirtualTree, files: int) -> Referred:
    result = Referred(files=files, replaced=plan.placement.replaced, left_out=tree.left_out)
    codecs: set[str] = set()
    for array in plan.arrays:
        codecs.update(codec["name"] for codec in array.document.get("codecs", []))
        result.arrays.append(
            ReferredArray(
                array.path,
                tuple(array.document["shape"]),
                tuple(array.document["chunk_grid"]["configuration"]["chunk_shape"]),
                len(array.refs),
                int(array.refs.lengths.sum()),
                len(array.chunks),
                sum(map(len, array.chunks.values())),
            )
        )
    result.codecs = sorted(codecs.difference(_CORE_CODECS))
    return result
