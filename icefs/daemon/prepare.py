"""Opens what a mount needs: all that can be wrong with its options is found before anything is mounted."""

import contextlib
import logging
import os
import socket
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from icefs.clock import system_clock, to_datetime
from icefs.daemon import mountpoints
from icefs.daemon.apart import why_not_writable
from icefs.daemon.earlier import describe_open_files
from icefs.daemon.metrics import listen
from icefs.daemon.options import MountOptions
from icefs.engine.history.lineage_cache import default_cache_path
from icefs.engine.read.refs import Refs
from icefs.engine.repository import Repository
from icefs.engine.write.repository import WritableRepository
from icefs.errors import IcefsError, TreeInUseError
from icefs.format.ids import SnapshotId
from icefs.storage.base import Storage
from icefs.storage.cache.disk import DiskCache, default_cache_dir
from icefs.storage.metered import MeteredStorage, StoreMeter
from icefs.storage.url import open_storage, redact
from icefs.vfs.attrs import Ownership
from icefs.vfs.branches.settings import WorkingOptions
from icefs.vfs.mount import MountRequest
from icefs.vfs.observe.mount_facts import MountFacts
from icefs.vfs.views.versions import view_tools
from icefs.views.decoder import DecodingLimits
from icefs.worktree.spool.state import check_usable, find_directory
from icefs.worktree.upload.options import UploadOptions

logger = logging.getLogger(__name__)

_NOT_SHOWN: Final = frozenset(("mountpoint", "fsname", "foreground"))


class Prepared:
    """The repository of a mount and what belongs to it, open and checked: all that `serve` needs."""

    def __init__(
        self,
        options: MountOptions,
        storage: Storage,
        repository: Repository,
        refs: Refs,
        request: MountRequest,
        cache: DiskCache | None,
        listener: socket.socket | None,
    ) -> None:
        self.options = options
        self.storage = storage
        self.repository = repository
        self.refs = refs
        self.request = request
        self.cache = cache
        self.listener = listener

    def close(self) -> None:
        """Closes the repository, with its threads and connections, and the socket of metrics."""
        if self.listener is not None:
            self.listener.close()
        self.repository.close()
        self.storage.close()


def prepare(options: MountOptions) -> Prepared:
    """Checks the options of a mount, and opens the repository.

    Raises:
        InvalidInputError: the mountpoint or an option is wrong.
        StaleError: a daemon has died there, and its mount cannot be cleared away.
        UnsupportedError: FUSE is not there.
        RepositoryNotFoundError, RefNotFoundError, SnapshotNotFoundError: there is nothing to mount.
        StorageError, FormatError: the repository cannot be read.
    """
    mountpoints.check_fuse(allow_other=options.allow_other)
    if mountpoints.clear_dead_mounts(options.mountpoint):
        logger.info("cleared away %s, whose daemon had died", options.mountpoint)
    mountpoints.check_mountpoint(options.mountpoint)
    storage = MeteredStorage(open_storage(options.repository), StoreMeter())
    with contextlib.ExitStack() as undo:
        undo.callback(storage.close)
        if storage.local_root is not None:
            mountpoints.check_apart(options.mountpoint, str(storage.local_root))
        authorized = dict.fromkeys(options.allow_virtual)
        is_writable = options.is_writable and storage.capabilities.is_writable
        kind = WritableRepository if is_writable else Repository
        cache = _open_cache(options, storage)
        if cache is not None:
            undo.callback(cache.close)
        repository = kind.open(storage, authorize_virtual_chunk_access=authorized, cache=cache)
        undo.callback(repository.close)
        if storage.local_root is not None and options.is_writable:
            reason = why_not_writable(str(storage.local_root))
            if reason is not None:
                logger.warning("%s cannot be written to, so nothing can be committed: %s", storage.url, reason)
        refs = repository.refs()
        request = _request(options, repository, refs)
        if request.working is not None:
            try:
                check_usable(request.working.state_root, request.working.state_directory)
            except TreeInUseError as error:
                files = describe_open_files()
                if files is not None:
                    error.hint = f"close the files that are open in it, and mount again: {files}"
                raise
        listener = None if options.metrics is None else listen(options.metrics)
        undo.pop_all()
    return Prepared(options, storage, repository, refs, request, cache, listener)


def needs_cache(options: MountOptions, storage: Storage) -> bool:
    """Tells whether a cache has something to keep: of a local repository only virtual chunks of remote stores."""
    return not storage.capabilities.local_files or any(
        not prefix.lower().startswith("file:") for prefix in options.allow_virtual
    )


def _open_cache(options: MountOptions, storage: Storage) -> DiskCache | None:
    """Opens the disk cache; None without a use for one, or if the default directory cannot be used."""
    if options.cache_size <= 0 or not needs_cache(options, storage):
        return None
    try:
        return DiskCache(options.cache_dir or default_cache_dir(), options.cache_size)
    except IcefsError as error:
        if options.cache_dir is not None:
            raise
        logger.warning("no disk cache: %s", error)
        return None


def _request(options: MountOptions, repository: Repository, refs: Refs) -> MountRequest:
    kind, name, snapshot_id = "", "", None
    if options.branch is not None:
        tip = refs.branch(options.branch)
        if options.as_of is None:
            kind, name, snapshot_id = "branch", options.branch, tip
        else:
            kind, snapshot_id = "snapshot", repository.resolve(branch=options.branch, as_of=options.as_of)
    elif options.tag is not None:
        kind, name, snapshot_id = "tag", options.tag, refs.tag(options.tag)
    elif options.snapshot is not None:
        kind, snapshot_id = "snapshot", SnapshotId.parse(options.snapshot)
    if snapshot_id is not None:
        repository.session_at(snapshot_id)  # fails before the mount if the snapshot cannot be read
    ownership = Ownership(
        os.getuid() if options.uid is None else options.uid,
        os.getgid() if options.gid is None else options.gid,
        options.umask,
    )
    facts = MountFacts(
        {
            "version": program_version(),
            "mountpoint": options.mountpoint,
            "log_file": options.log_file,
            "started_at": to_datetime(system_clock()).isoformat(),
        },
        _shown(options),
        can_reload=False,
        reloads=0,
        needs_restart=[],
        no_effect=[],
        problem=None,
    )
    return MountRequest(
        ownership,
        kind,
        name,
        snapshot_id,
        options.memory_bytes,
        facts,
        _working(options, repository, name if kind == "branch" else None),
        default_cache_path(repository.storage.url),
        options.view or "",
        view_tools(DecodingLimits(cache_bytes=options.view_cache)),
    )


def _working(options: MountOptions, repository: Repository, branch: str | None) -> WorkingOptions | None:
    """Returns how working trees are kept, of all branches or of one; None where nothing is writable."""
    if not options.is_writable:
        return None
    assert options.state_dir is not None  # `resolved` chose one
    root, directory = Path(options.state_dir), None
    if branch is not None:
        directory = find_directory(root, redact(repository.storage.url), branch, options.mountpoint)
    uploads = UploadOptions(options.pack_size, options.upload_after_s or None)
    return WorkingOptions(root, options.mountpoint, uploads, directory)


def _shown(options: MountOptions) -> dict[str, Any]:
    """Returns the options as `info.json` has them: without secrets, and without those that it has elsewhere."""
    shown = {name: value for name, value in asdict(options).items() if name not in _NOT_SHOWN}
    shown["repository"] = redact(options.repository)
    shown["allow_virtual"] = [redact(prefix) for prefix in options.allow_virtual]
    return shown


def program_version() -> str:
    """Returns icefs's own version."""
    try:
        return version("icefs")
    except PackageNotFoundError:
        return "unknown"
