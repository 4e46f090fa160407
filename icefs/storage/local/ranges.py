"""Reads ranges of files below one directory, which links may lead around in, but not out of.

Virtual chunks refer to files that somebody else keeps, with whatever links they like among them. A file is opened in
two steps: first only as a place (O_PATH), which the kernel then names without links; and if that lies below the
directory, that very file is opened for reading. A link that is swapped in meanwhile changes nothing.
"""

import errno
import os
import stat

from icefs.errors import InvalidInputError, ObjectModifiedError, UnauthorizedContainerError
from icefs.storage.base import check_range, range_end
from icefs.storage.local.files import read_exactly, storage_error

_PLACE = os.O_PATH | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class LocalRanges:
    """The files below a directory, to be read in ranges; see `RangeReader`. Safe for threads."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        """Takes a directory, which may itself be reached through links; those count as they are now.

        Args:
            root: The directory; need not exist.
        """
        self.named = os.path.abspath(root)
        self._real = os.path.realpath(self.named)

    def read_range(
        self,
        key: str,
        start: int,
        end: int,
        *,
        if_match_etag: str | None = None,
        if_unmodified_since_s: int | None = None,
    ) -> bytes:
        """Reads a range of any file below the directory.

        Entity tags are the official library's: inode, modification time in microseconds and size, in hexadecimal.
        Times compare by whole seconds, as they do for S3 and HTTP.

        Raises:
            UnauthorizedContainerError: a link leads out of the directory.
            ObjectModifiedError, ObjectNotFoundError, InvalidObjectSizeError, StorageError: as `RangeReader`.
        """
        check_range(start, end)
        path = f"{self.named.rstrip('/')}/{key}"
        if "\0" in key or ".." in key.split("/"):
            raise InvalidInputError(f"{key!r} does not name a file below {self.named}", key=key)
        try:
            fd = self._open(path)
            try:
                status = os.fstat(fd)
                _check_unmodified(path, status, if_match_etag, if_unmodified_since_s)
                return read_exactly(fd, start, range_end(status.st_size, start, end, name=path))
            finally:
                os.close(fd)
        except OSError as error:
            raise storage_error(error, "read", path) from error

    def _open(self, path: str) -> int:
        place = os.open(path, _PLACE)
        try:
            found = os.readlink(f"/proc/self/fd/{place}")
            if os.path.commonpath((self._real, found)) != self._real:
                raise UnauthorizedContainerError(
                    f"{path} leads through a symbolic link to {found}, outside of {self._real}",
                    hint="allow the place that the link leads to as well, if you trust the repository with it",
                    path=found,
                )
            if not stat.S_ISREG(os.fstat(place).st_mode):
                raise FileNotFoundError(errno.ENOENT, "not a regular file", path)
            return os.open(f"/proc/self/fd/{place}", _READ)
        finally:
            os.close(place)


def _check_unmodified(path: str, status: os.stat_result, etag: str | None, since_s: int | None) -> None:
    if etag is not None:
        found = f"{status.st_ino:x}-{status.st_mtime_ns // 1000:x}-{status.st_size:x}"
        if etag.strip('"') != found:
            raise ObjectModifiedError(
                f"{path} is not the file that was referenced: its entity tag is {found}, not {etag}", path=path
            )
    if since_s is not None and status.st_mtime_ns // 1_000_000_000 > since_s:
        raise ObjectModifiedError(
            f"{path} was modified after it was referenced",
            path=path,
            modified_s=status.st_mtime_ns // 1_000_000_000,
            expected_s=since_s,
        )
