"""Objects as files below a local directory, side by side with the official library.

What the disk promises here, and what not:

- A reader sees an object whole or not at all; nothing is ever changed in place (`local_files` has the conventions).
- `put(create_only=True)` is atomic against everybody: link(2).
- `put(if_match=…)` is atomic among icefs processes and threads, through a lock, and refuses a version that a foreign
  writer put there up to the moment before the rename. It cannot exclude one in that last moment, because the
  official library honours no lock: hence `capabilities.conditional_update` is False.
- Symbolic links are followed, as the official library follows them.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import override

from icefs.errors import InvalidInputError, ObjectModifiedError, PreconditionFailedError
from icefs.storage.base import (
    Capabilities,
    Object,
    ObjectInfo,
    Storage,
    Version,
    check_conditions,
    check_key,
    check_prefix,
    check_range,
    range_end,
)
from icefs.storage.local_files import (
    NO_LINKS,
    Adoption,
    PendingWrites,
    decode_name,
    discard,
    encode_name,
    exclusive,
    fsync_path,
    open_object,
    read_exactly,
    stage,
    stage_file,
    staged_name,
    storage_error,
    version_of,
)


class LocalStorage(Storage):
    """A directory as an object store.

    Safe for threads: a call keeps its state to itself, but for the list of writes that `sync` has to make durable.

    Attributes:
        root: The directory, absolute. It need not exist before the first write.
    """

    capabilities = Capabilities(conditional_update=False, local_files=True, concurrency=8)

    def __init__(self, root: str | os.PathLike[str], *, durable: bool = True, lock_timeout_s: float = 30.0) -> None:
        """Opens a directory; touches nothing.

        Args:
            root: The directory.
            durable: Whether `sync` and conditional writes wait for the disk. Without, a power failure can lose
                acknowledged commits, as with the official library.
            lock_timeout_s: How long a conditional write waits for other icefs processes.
        """
        self.root = Path(os.path.abspath(root))
        self._root = str(self.root).rstrip("/")
        self._durable = durable
        self._lock_timeout_s = lock_timeout_s
        self._pending = PendingWrites(str(self.root))
        self._adoption = Adoption()

    def __reduce__(self) -> tuple[Callable[..., "LocalStorage"], tuple[str, bool, float]]:
        return (_reopen, (str(self.root), self._durable, self._lock_timeout_s))

    @property
    @override
    def url(self) -> str:
        return str(self.root)

    def _path(self, key: str) -> str:
        check_key(key)
        return f"{self._root}/{encode_name(key)}"

    @override
    def local_file(self, key: str) -> Path:
        return Path(self._path(key))

    @override
    def get(self, key: str, *, start: int = 0, end: int | None = None) -> Object:
        check_range(start, end)
        path = self._path(key)
        try:
            fd, status = open_object(path)
            try:
                end = range_end(status.st_size, start, end, name=path)
                return Object(read_exactly(fd, start, end), version_of(status))
            finally:
                os.close(fd)
        except OSError as error:
            raise storage_error(error, "read", path) from error

    @override
    def get_if_changed(self, key: str, known: Version | None) -> Object | None:
        if known is not None:
            path = self._path(key)
            try:
                if version_of(os.stat(path)) == known:
                    return None
            except OSError as error:
                raise storage_error(error, "read", path) from error
        return self.get(key)

    @override
    def head(self, key: str) -> ObjectInfo:
        path = self._path(key)
        try:
            fd, status = open_object(path)
            os.close(fd)
        except OSError as error:
            raise storage_error(error, "read", path) from error
        return _info(key, status)

    @override
    def put(
        self, key: str, data: bytes | memoryview, *, if_match: Version | None = None, create_only: bool = False
    ) -> Version:
        check_conditions(if_match, create_only)
        path = self._path(key)
        try:
            if create_only:
                return self._create(path, data)
            if if_match is not None:
                return self._replace(path, data, if_match)
            staged, version = self._stage(path, data, durable=False)
            self._rename(staged, path)
        except OSError as error:
            raise storage_error(error, "write", path, writing=True) from error
        if self._durable:
            self._pending.add(path)
        return version

    @override
    def put_file(self, key: str, path: str, *, is_final: bool = False) -> Version:
        target = self._path(key)
        try:
            try:
                version = self._take(path, target, is_final=is_final)
            except FileNotFoundError:
                os.stat(path)
                self._make_directory(os.path.dirname(target))
                version = self._take(path, target, is_final=is_final)
        except OSError as error:
            raise storage_error(error, f"copy {path} to", target, writing=True) from error
        if self._durable:
            self._pending.add(target)
        return version

    def _take(self, path: str, target: str, *, is_final: bool) -> Version:
        version = self._adoption.adopt(path, target) if is_final else None
        if version is None:
            staged, version = stage_file(target, path)
            self._rename(staged, target)
        return version

    def _stage(self, path: str, data: bytes | memoryview, *, durable: bool) -> tuple[str, Version]:
        try:
            return stage(path, data, durable=durable)
        except FileNotFoundError:
            self._make_directory(os.path.dirname(path))
            return stage(path, data, durable=durable)

    def _make_directory(self, path: str) -> None:
        try:
            os.mkdir(path)
        except FileNotFoundError:
            self._make_directory(os.path.dirname(path))
            self._make_directory(path)
        except FileExistsError:
            return
        if self._durable:
            self._pending.add_directory(os.path.dirname(path))

    def _rename(self, staged: str, path: str) -> None:
        try:
            os.rename(staged, path)
        except BaseException:
            discard(staged)
            raise

    def _create(self, path: str, data: bytes | memoryview) -> Version:
        """Publishes a new object if there is none, once everything before it is durable."""
        if os.path.lexists(path):
            raise _precondition_failed(path, "there is an object already")
        staged, version = self._stage(path, data, durable=self._durable)
        try:
            self.sync()
            try:
                os.link(staged, path)
            except FileExistsError:
                raise _precondition_failed(path, "there is an object already") from None
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                with exclusive(self._root, timeout_s=self._lock_timeout_s):
                    if os.path.lexists(path):
                        raise _precondition_failed(path, "there is an object already") from None
                    os.rename(staged, path)
        finally:
            discard(staged)
        self._settle(path)
        return version

    def _replace(self, path: str, data: bytes | memoryview, expected: Version) -> Version:
        """Publishes a new version over `expected`, once everything before it is durable."""
        _check_version(path, expected)
        staged, version = self._stage(path, data, durable=self._durable)
        try:
            self.sync()
            # The slow work is done: what happens under the lock is a stat and a rename.
            with exclusive(self._root, timeout_s=self._lock_timeout_s):
                _check_version(path, expected)
                os.rename(staged, path)
        except BaseException:
            discard(staged)
            raise
        self._settle(path)
        return version

    def _settle(self, path: str) -> None:
        """Makes a published object's directory entry durable."""
        if not self._durable:
            return
        directory = os.path.dirname(path)
        try:
            fsync_path(directory)
        except OSError as error:
            failure = storage_error(error, "sync", directory, writing=True)
            failure.facts["maybe_written"] = True  # It is there; only a power failure now could undo it.
            raise failure from error

    @override
    def copy(self, source: str, target: str, *, if_match: Version | None = None) -> None:
        from_path, to_path = self._path(source), self._path(target)
        try:
            staged = self._stage_copy(from_path, to_path, if_match)
            self._rename(staged, to_path)
            # Renaming one link of a file over another link of the same file does nothing.
            discard(staged)
        except OSError as error:
            raise storage_error(error, f"copy {from_path} to", to_path) from error
        if self._durable:
            self._pending.add(to_path)

    def _stage_copy(self, source: str, target: str, expected: Version | None) -> str:
        """Makes a hard link to `source` that is no object yet, and checks what exactly was caught by it."""
        staged = staged_name(target)
        os.stat(source)  # ENOENT from here on is about the target's directory.
        try:
            try:
                os.link(source, staged)
            except FileNotFoundError:
                self._make_directory(os.path.dirname(target))
                os.link(source, staged)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            fd, status = open_object(source)
            try:
                found = version_of(status)
                if expected in (None, found):
                    return self._stage(target, read_exactly(fd, 0, status.st_size), durable=False)[0]
            finally:
                os.close(fd)
        else:
            found = version_of(os.stat(staged))
            if expected in (None, found):
                return staged
            discard(staged)
        raise _precondition_failed(source, f"its version is {found}, not {expected}")

    @override
    def list_objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        for key, entry in self._walk(prefix):
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue  # Deleted meanwhile, or a dangling link.
            yield _info(key, status)

    def _walk(self, prefix: str) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
        # A directory that a symbolic link leads to is not entered again below itself.
        stack: list[tuple[str, tuple[str, ...]]] = [(prefix, ())]
        while stack:
            directory, links = stack.pop()
            for segment, entry in self._scan(directory):
                if not entry.is_dir():
                    if entry.is_file():
                        yield directory + segment, entry
                elif not entry.is_symlink():
                    stack.append((f"{directory}{segment}/", links))
                else:
                    target = os.path.realpath(entry.path)
                    if target not in links and not f"{os.path.dirname(entry.path)}/".startswith(f"{target}/"):
                        stack.append((f"{directory}{segment}/", (*links, target)))

    def _scan(self, prefix: str) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
        check_prefix(prefix)
        path = f"{self._root}/{encode_name(prefix)}"
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    segment = decode_name(entry.name)
                    if segment is not None:
                        yield segment, entry
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise storage_error(error, "list", path) from error

    @override
    def list_dir(self, prefix: str = "") -> Iterator[str]:
        for segment, entry in self._scan(prefix):
            if entry.is_dir():
                yield f"{segment}/"
            elif entry.is_file():
                yield segment

    @override
    def delete(self, keys: Iterable[str]) -> list[str]:
        failed = []
        for key in keys:
            try:
                os.unlink(self._path(key))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                continue
            except OSError:
                failed.append(key)
        return failed

    @override
    def sync(self) -> None:
        try:
            self._pending.flush()
        except OSError as error:
            raise storage_error(error, "sync what was written below", self.url, writing=True) from error

    def read_range(
        self,
        key: str,
        start: int,
        end: int,
        *,
        if_match_etag: str | None = None,
        if_unmodified_since_s: int | None = None,
    ) -> bytes:
        """Reads a range of any file below the root; see `RangeReader.read_range`.

        Entity tags are the official library's: inode, modification time in microseconds and size, in hexadecimal.
        Times compare by whole seconds, as they do for S3 and HTTP.
        """
        check_range(start, end)
        if "\0" in key or ".." in key.split("/"):
            raise InvalidInputError(f"{key!r} does not name a file below {self.url}", key=key)
        path = f"{self._root}/{key}"
        try:
            fd, status = open_object(path)
            try:
                _check_unmodified(path, status, if_match_etag, if_unmodified_since_s)
                return read_exactly(fd, start, range_end(status.st_size, start, end, name=path))
            finally:
                os.close(fd)
        except OSError as error:
            raise storage_error(error, "read", path) from error


def _reopen(root: str, durable: bool, lock_timeout_s: float) -> LocalStorage:
    return LocalStorage(root, durable=durable, lock_timeout_s=lock_timeout_s)


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, status.st_size, status.st_mtime_ns // 1000, version_of(status))


def _precondition_failed(path: str, reason: str) -> PreconditionFailedError:
    return PreconditionFailedError(f"{path} was changed by another writer: {reason}", path=path)


def _check_version(path: str, expected: Version) -> None:
    try:
        found = version_of(os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        raise _precondition_failed(path, "there is no object any more") from None
    if found != expected:
        raise _precondition_failed(path, f"its version is {found}, not {expected}")


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
