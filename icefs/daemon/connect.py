"""Mounts: by the native connection to the kernel, or through pyfuse3."""

from collections.abc import Iterable

from icefs.daemon.mountpoints import refused
from icefs.daemon.options import NATIVE
from icefs.errors import StorageError, UnsupportedError
from icefs.fuse.boundary import Recorder
from icefs.fuse.connection import Connection, KernelTooOldError, MountError
from icefs.fuse.loop import NativeConnection
from icefs.vfs.interface import Vfs


def connect(library: str, mountpoint: str, options: Iterable[str], vfs: Vfs, recorder: Recorder) -> Connection:
    """Mounts a file system.

    Args:
        library: One of `FUSE_LIBRARIES`.
        mountpoint: An absolute path.
        options: Those of `fusermount3 -o`; commas in them are escaped.
        vfs: Answers requests.
        recorder: Counts them, and chooses the errno of those that fail.

    Raises:
        AccessDeniedError, StorageError: the kernel or `fusermount3` refused.
        UnsupportedError: the kernel is too old, or the library is not installed.
    """
    try:
        if library == NATIVE:
            return NativeConnection(mountpoint, options, vfs, recorder)
        return _pyfuse3(mountpoint, options, vfs, recorder)
    except KernelTooOldError as error:
        raise UnsupportedError(error.reason, hint=error.advice) from error
    except MountError as error:
        if error.advice is not None:
            raise StorageError(f"cannot mount at {mountpoint}: {error.reason}", hint=error.advice) from error
        raise refused(mountpoint, error.reason) from error


def _pyfuse3(mountpoint: str, options: Iterable[str], vfs: Vfs, recorder: Recorder) -> Connection:
    # An extra, and a library of C that is loaded only for a mount that asks for it.
    try:
        from icefs.fuse.pyfuse3_connection import Pyfuse3Connection
    except ModuleNotFoundError as error:
        if error.name != "pyfuse3":
            raise
        raise UnsupportedError(
            "pyfuse3 is not installed", hint="run \"pip install 'icefs[pyfuse3]'\", or mount without --fuse-library"
        ) from None
    return Pyfuse3Connection(mountpoint, options, vfs, recorder)
