"""The daemon's life: opens the repository, mounts, answers until it is told to stop, unmounts.

Whatever can be wrong with what was asked for is found out by `prepare`, before anything is mounted.
"""

import contextlib
import faulthandler
import gc
import logging
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import trio

from icefs.clock import system_clock, to_datetime
from icefs.daemon import logs, mountpoints
from icefs.daemon.apart import why_not_writable
from icefs.daemon.background import in_background
from icefs.daemon.connect import connect
from icefs.daemon.earlier import describe_open_files
from icefs.daemon.errno_map import RequestRecorder
from icefs.daemon.metrics import listen, serve_metrics
from icefs.daemon.options import MountOptions
from icefs.daemon.service import Knobs, Service, ServiceManager, obey_signals
from icefs.engine.history.lineage_cache import default_cache_path
from icefs.engine.read.refs import Refs
from icefs.engine.repository import Repository
from icefs.engine.write.repository import WritableRepository
from icefs.errors import OPEN_FILES_HINT, IcefsError, TreeInUseError
from icefs.format.ids import SnapshotId
from icefs.fuse.boundary import OPERATIONS, Recorder
from icefs.fuse.connection import Connection
from icefs.fuse.notifier import KernelNotifier
from icefs.storage.base import Storage
from icefs.storage.cache.disk import DiskCache, default_cache_dir
from icefs.storage.metered import MeteredStorage, StoreMeter
from icefs.storage.url import open_storage, redact
from icefs.vfs.attrs import Ownership
from icefs.vfs.control.observing_rpc import set_level
from icefs.vfs.filesystem import FileSystem, MountRequest
from icefs.vfs.observe.stats import Stats
from icefs.worktree.spool.state import check_usable, find_directory
from icefs.worktree.upload.packing import UploadOptions

logger = logging.getLogger(__name__)

READ_AHEAD_KB: Final = 1024
"""How far the kernel reads ahead; a 1 MiB chunk is then one request instead of eight."""

SWITCH_INTERVAL_S: Final = 0.0005
"""How long a thread that computes, as a commit's does, keeps the event loop waiting: at each system call it makes."""

_GRACE_S: Final = 3.0
_FEW_OPEN_FILES: Final = 1024
_MAX_OPEN_FILES: Final = 1 << 16


class Prepared:
    """What was found out before mounting: everything that `serve` needs."""

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
        """Gives back the repository's threads and connections."""
        if self.listener is not None:
            self.listener.close()
        self.repository.close()
        self.storage.close()


def prepare(options: MountOptions) -> Prepared:
    """Checks what was asked for and opens the repository.

    Raises:
        InvalidInputError: something about the mountpoint or the options.
        StaleError: a daemon has died there, and its mount cannot be cleared away.
        UnsupportedError: FUSE is not there.
        RepositoryNotFoundError, RefNotFoundError, SnapshotNotFoundError: nothing to mount.
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
        if request.state_root is not None:
            try:
                check_usable(request.state_root, request.state_directory)
            except TreeInUseError as error:
                files = describe_open_files()
                if files is not None:
                    error.hint = f"close the files that are open in it, and mount again: {files}"
                raise
        listener = None if options.metrics is None else listen(options.metrics)
        undo.pop_all()
    return Prepared(options, storage, repository, refs, request, cache, listener)


def _needs_cache(options: MountOptions, storage: Storage) -> bool:
    """Tells whether there is something to keep: of a local repository only virtual chunks of remote stores."""
    return not storage.capabilities.local_files or any(
        not prefix.lower().startswith("file:") for prefix in options.allow_virtual
    )


def _open_cache(options: MountOptions, storage: Storage) -> DiskCache | None:
    """Opens the disk cache; None where there is no use for one, or where nobody asked for the place it cannot have."""
    if options.cache_size <= 0 or not _needs_cache(options, storage):
        return None
    try:
        return DiskCache(options.cache_dir or default_cache_dir(), options.cache_size)
    except IcefsError as error:
        if options.cache_dir is not None:
            raise
        logger.warning("nothing is kept on the disk: %s", error)
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
        repository.session_at(snapshot_id)  # what cannot be read shall not be mounted
    ownership = Ownership(
        os.getuid() if options.uid is None else options.uid,
        os.getgid() if options.gid is None else options.gid,
        options.umask,
    )
    facts: dict[str, Any] = {
        "version": program_version(),
        "mountpoint": options.mountpoint,
        "log_file": options.log_file,
        "started_at": to_datetime(system_clock()).isoformat(),
        "options": {
            "repository": redact(options.repository),
            "uid": options.uid,
            "gid": options.gid,
            "umask": options.umask,
            "branch": options.branch,
            "tag": options.tag,
            "snapshot": options.snapshot,
            "as_of": options.as_of,
            "read_only": options.read_only,
            "allow_other": options.allow_other,
            "poll_interval_s": options.poll_interval_s,
            "allow_virtual": [redact(prefix) for prefix in options.allow_virtual],
            "memory_bytes": options.memory_bytes,
            "cache_dir": options.cache_dir,
            "cache_size": options.cache_size,
            "state_dir": options.state_dir,
            "log_file": options.log_file,
            "log_format": options.log_format,
            "pack_size": options.pack_size,
            "upload_after_s": options.upload_after_s,
            "log_level": options.log_level,
            "metrics": options.metrics,
            "fuse_library": options.fuse_library,
        },
        "service": {"can_reload": False, "reloads": 0, "needs_restart": [], "no_effect": [], "problem": None},
    }
    assert options.state_dir is not None or not options.is_writable  # `resolved` chose one
    state_root = Path(options.state_dir) if options.state_dir is not None and options.is_writable else None
    state_directory = None
    if state_root is not None and kind == "branch":
        state_directory = find_directory(state_root, redact(repository.storage.url), name, options.mountpoint)
    uploads = UploadOptions(options.pack_size, options.upload_after_s or None)
    return MountRequest(
        ownership,
        kind,
        name,
        snapshot_id,
        options.memory_bytes,
        facts,
        state_root,
        uploads,
        history_cache=default_cache_path(repository.storage.url),
        state_directory=state_directory,
    )


def program_version() -> str:
    """Returns icefs's own version."""
    try:
        return version("icefs")
    except PackageNotFoundError:
        return "unknown"


def serve(prepared: Prepared, on_ready: Callable[[], None], reread: Callable[[], MountOptions] | None = None) -> None:
    """Mounts and answers until unmounted or told to stop by a signal.

    Args:
        prepared: What to serve; it is given back at the end.
        on_ready: Called when the kernel's requests are answered.
        reread: Reads the configuration again at a SIGHUP; without it SIGHUP ends the mount.

    Raises:
        StorageError: the kernel or `fusermount3` refused to mount.
    """
    options = prepared.options
    _raise_file_limit()
    stats = Stats(OPERATIONS)
    notifier = KernelNotifier()
    fs = FileSystem(prepared.repository, prepared.refs, prepared.request, notifier, stats)
    manager = ServiceManager.from_environment()
    set_level(fs, options.log_level)
    service = Service(
        manager,
        fs,
        Knobs(options, prepared.cache, prepared.request.facts, _needs_cache(options, prepared.storage)),
        reread,
    )
    is_writable = isinstance(prepared.repository, WritableRepository)
    connection = _mount(options, fs, RequestRecorder(stats), is_writable=is_writable)
    logger.info(
        "icefs %s serves %s at %s, process %d",
        prepared.request.facts["version"],
        redact(options.repository),
        options.mountpoint,
        os.getpid(),
    )
    try:
        # What was made so far lives as long as the daemon: no collection need look at it again.
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        trio.run(_main, fs, connection, notifier, service, prepared.listener, on_ready)
    finally:
        service.stopping("unmounting")
        notifier.stop()
        connection.close()
        fs.close()
        manager.close()
        logger.info("unmounted %s", options.mountpoint)


async def _main(
    fs: FileSystem,
    connection: Connection,
    notifier: KernelNotifier,
    service: Service,
    listener: socket.socket | None,
    on_ready: Callable[[], None],
) -> None:
    async with trio.open_nursery() as nursery:

        async def stop() -> None:
            connection.stop()
            # Requests that wait for a slow store are not waited for.
            await trio.sleep(_GRACE_S)
            nursery.cancel_scope.cancel()

        notifier.start(connection)
        nursery.start_soon(obey_signals, service, stop)
        nursery.start_soon(_poll, fs, service.knobs)
        nursery.start_soon(_tune, service.knobs.options.mountpoint)
        nursery.start_soon(fs.observer.run, logs.tick)
        if listener is not None:
            nursery.start_soon(serve_metrics, listener, fs)
        nursery.start_soon(service.run, on_ready)
        await connection.serve()
        # Unmounted from outside, or told to stop and every request answered.
        nursery.cancel_scope.cancel()


async def _tune(mountpoint: str) -> None:
    """Raises the read-ahead once the kernel has made the device known, which the first request does."""
    if os.geteuid() != 0:
        return
    await trio.to_thread.run_sync(os.stat, mountpoint, abandon_on_cancel=True)
    mountpoints.raise_read_ahead(mountpoint, READ_AHEAD_KB)


async def _poll(fs: FileSystem, knobs: Knobs) -> None:
    last = trio.current_time()
    while True:
        interval_s = knobs.options.poll_interval_s
        if interval_s > 0 and trio.current_time() >= last + interval_s:
            await in_background("following the refs", fs.refresh)
            last = trio.current_time()
            continue
        await knobs.wait_for_turn(last + interval_s if interval_s > 0 else math.inf)


def _mount(options: MountOptions, fs: FileSystem, recorder: Recorder, *, is_writable: bool) -> Connection:
    chosen = ["rw" if is_writable else "ro", "default_permissions", "subtype=icefs", f"fsname={_fsname(options)}"]
    if options.allow_other:
        chosen.append("allow_other")
    return connect(options.fuse_library, options.mountpoint, chosen, fs, recorder)


def _fsname(options: MountOptions) -> str:
    name = options.fsname if options.fsname is not None else redact(options.repository)
    # A comma would be the end of the option.
    return name.replace("\\", "\\\\").replace(",", "\\,")


def _raise_file_limit() -> None:
    """Every open chunk of a local repository is an open file of the daemon."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FEW_OPEN_FILES:
        logger.warning("the daemon may have %d files open; each open chunk is one: %s", soft, OPEN_FILES_HINT)


def register_stack_dump() -> None:
    """Lets SIGUSR1 write the stacks of all threads to stderr, which is the daemon's log file."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
