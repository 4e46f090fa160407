"""The daemon's life after `prepare`: mounts, answers until it is unmounted or gets a signal to stop, unmounts."""

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
from typing import Final

import trio

from icefs.daemon import logs, mountpoints
from icefs.daemon.background import in_background
from icefs.daemon.connect import connect
from icefs.daemon.errno_map import RequestRecorder
from icefs.daemon.live_options import LiveOptions
from icefs.daemon.metrics import serve_metrics
from icefs.daemon.options import MountOptions
from icefs.daemon.prepare import Prepared, needs_cache
from icefs.daemon.service import Service, obey_signals
from icefs.daemon.systemd import ServiceManager
from icefs.engine.write.repository import WritableRepository
from icefs.errors import OPEN_FILES_HINT
from icefs.fuse.boundary import OPERATIONS, Recorder
from icefs.fuse.connection import Connection
from icefs.fuse.notifier import KernelNotifier
from icefs.storage.url import redact
from icefs.vfs.control.mount_control import MountControl
from icefs.vfs.control.observing_rpc import set_level
from icefs.vfs.interface import Vfs
from icefs.vfs.mount import Mount
from icefs.vfs.observe.stats import Stats
from icefs.vfs.refs.follower import Follower

logger = logging.getLogger(__name__)

READ_AHEAD_KB: Final = 1024
"""How far the kernel reads ahead; a 1 MiB chunk is then one request instead of eight."""

SWITCH_INTERVAL_S: Final = 0.0005
"""How long a thread that computes, as a commit's does, keeps the event loop waiting: at each system call it makes."""

GRACE_S: Final = 3.0
_FEW_OPEN_FILES: Final = 1024
_MAX_OPEN_FILES: Final = 1 << 16


def serve(prepared: Prepared, on_ready: Callable[[], None], reread: Callable[[], MountOptions] | None = None) -> None:
    """Mounts, and answers until it is unmounted or gets a signal to stop.

    Args:
        prepared: The mount's repository and what belongs to it; the caller closes it.
        on_ready: Is called when the mount answers.
        reread: Reads the configuration again at a SIGHUP; without it SIGHUP ends the mount.

    Raises:
        StorageError: the kernel or `fusermount3` refused to mount.
    """
    options = prepared.options
    _raise_file_limit()
    stats = Stats(OPERATIONS)
    notifier = KernelNotifier()
    mount = Mount(prepared.repository, prepared.refs, prepared.request, notifier, stats, MountControl)
    manager = ServiceManager.from_environment()
    set_level(mount, options.log_level)
    service = Service(
        manager,
        mount,
        LiveOptions(options, prepared.cache, prepared.request.facts, needs_cache(options, prepared.storage)),
        reread,
    )
    is_writable = isinstance(prepared.repository, WritableRepository)
    connection = _connect(options, mount.fs, RequestRecorder(stats), is_writable=is_writable)
    logger.info(
        "icefs %s serves %s at %s, process %d",
        prepared.request.facts.version,
        redact(options.repository),
        options.mountpoint,
        os.getpid(),
    )
    try:
        # What was made so far lives as long as the daemon: no collection need look at it again.
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        trio.run(_main, mount, connection, notifier, service, prepared.listener, on_ready)
    finally:
        service.stopping("unmounting")
        notifier.stop()
        connection.close()
        mount.close()
        manager.close()
        logger.info("unmounted %s", options.mountpoint)


async def _main(
    mount: Mount,
    connection: Connection,
    notifier: KernelNotifier,
    service: Service,
    listener: socket.socket | None,
    on_ready: Callable[[], None],
) -> None:
    async with trio.open_nursery() as nursery:

        async def stop() -> None:
            connection.stop()
            # Requests that wait for a slow store get no more time than this.
            await trio.sleep(GRACE_S)
            nursery.cancel_scope.cancel()

        notifier.start(connection)
        nursery.start_soon(obey_signals, service, stop)
        nursery.start_soon(_poll, mount.follower, service.live)
        nursery.start_soon(mount.observer.run, logs.tick)
        if listener is not None:
            nursery.start_soon(serve_metrics, listener, mount)
        nursery.start_soon(_begin, service, on_ready)
        await connection.serve()
        # Unmounted from outside; or stopped, with every request answered.
        nursery.cancel_scope.cancel()


async def _begin(service: Service, on_ready: Callable[[], None]) -> None:
    """Looks into the mount before anybody may: a daemon that is in its own mount keeps others from unmounting it."""
    await _tune(service.live.options.mountpoint)
    await service.run(on_ready)


async def _tune(mountpoint: str) -> None:
    """Raises the read-ahead once the kernel has made the device known, which the first request does."""
    if os.geteuid() != 0:
        return
    await trio.to_thread.run_sync(os.stat, mountpoint, abandon_on_cancel=True)
    mountpoints.raise_read_ahead(mountpoint, READ_AHEAD_KB)


async def _poll(follower: Follower, live: LiveOptions) -> None:
    last = trio.current_time()
    while True:
        interval_s = live.options.poll_interval_s
        if interval_s > 0 and trio.current_time() >= last + interval_s:
            await in_background("following the refs", follower.refresh)
            last = trio.current_time()
            continue
        await live.wait_for_change(last + interval_s if interval_s > 0 else math.inf)


def _connect(options: MountOptions, fs: Vfs, recorder: Recorder, *, is_writable: bool) -> Connection:
    chosen = ["rw" if is_writable else "ro", "default_permissions", "subtype=icefs", f"fsname={_fsname(options)}"]
    if options.allow_other:
        chosen.append("allow_other")
    return connect(options.fuse_library, options.mountpoint, chosen, fs, recorder)


def _fsname(options: MountOptions) -> str:
    name = options.fsname if options.fsname is not None else redact(options.repository)
    # A comma would be the end of the option.
    return name.replace("\\", "\\\\").replace(",", "\\,")


def _raise_file_limit() -> None:
    """Raises the limit of open files: every open chunk of a local repository is one of the daemon's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FEW_OPEN_FILES:
        logger.warning("the daemon may have %d files open; each open chunk is one: %s", soft, OPEN_FILES_HINT)


def register_stack_dump() -> None:
    """Makes SIGUSR1 write the stacks of all threads to stderr, which is the daemon's log file."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
