"""Objects as files below a local directory, side by side with the official library.

The promises of the disk, and their limits:

- A reader sees an object whole or not at all; nothing is ever changed in place (`local_files` has the conventions).
- `put(create_only=True)` is atomic against everybody: link(2).
- `put(if_match=…)` is atomic among icefs processes and threads, through a lock, and refuses a version that a foreign
  writer put there up to the moment before the rename. It cannot exclude one in that last moment, because the
  official library honours no lock: hence `capabilities.conditional_update` is False.
- No symbolic link in the directory is followed, for its maker is unknown; the official library follows them.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import override

from icefs.errors import NotAnObjectError, PreconditionFailedError
from icefs.storage.base import (
    Capabilities,
    FileOpener,
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
from icefs.storage.local.beneath import Beneath, Parent, kind_of, refuse
from icefs.storage.local.files import (
    NO_LINKS,
    Adoption,
    PendingWrites,
    decode_name,
    discard,
    encode_name,
    move,
    read_exactly,
    stage,
    stage_file,
    stage_open,
    staged_name,
    storage_error,
    version_of,
)
from icefs.storage.local.lock import exclusive
from icefs.storage.settings import OF_THIS_MACHINE, StoreSettings


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
        self._files = Beneath(str(self.root))
        self._durable = durable
        self._lock_timeout_s = lock_timeout_s
        self._pending = PendingWrites(self._files)
        self._adoption = Adoption()

    def __reduce__(self) -> tuple[Callable[..., "LocalStorage"], tuple[str, bool, float]]:
        return (_reopen, (str(self.root), self._durable, self._lock_timeout_s))

    @property
    @override
    def url(self) -> str:
        return str(self.root)

    @override
    def facts(self) -> Mapping[str, str]:
        return {"type": "local filesystem", "path": self.url}

    def _name(self, key: str) -> str:
        """Returns where an object lies below the root."""
        check_key(key)
        return encode_name(key)

    @property
    @override
    def local_root(self) -> Path:
        return self.root

    @override
    def local_opener(self, prefix: str) -> FileOpener:
        check_prefix(prefix)
        directory, files = encode_name(prefix), self._files

        def open_file(name: str) -> tuple[int, os.stat_result]:
            where = directory + encode_name(name)
            try:
                try:
                    return files.open_file(where, os.O_NOATIME)
                except PermissionError:  # only a file's owner may read it without a new access time
                    return files.open_file(where)
            except OSError as error:
                raise storage_error(error, "read", files.path(where)) from error

        return open_file

    @override
    def get(self, key: str, *, start: int = 0, end: int | None = None) -> Object:
        check_range(start, end)
        name = self._name(key)
        try:
            fd, status = self._files.open_file(name)
            try:
                end = range_end(status.st_size, start, end, name=self._files.path(name))
                return Object(read_exactly(fd, start, end), version_of(status))
            finally:
                os.close(fd)
        except OSError as error:
            raise storage_error(error, "read", self._files.path(name)) from error

    @override
    def get_if_changed(self, key: str, known: Version | None) -> Object | None:
        if known is not None:
            name = self._name(key)
            try:
                if version_of(self._files.status(name)) == known:
                    return None
            except OSError as error:
                raise storage_error(error, "read", self._files.path(name)) from error
        return self.get(key)

    @override
    def head(self, key: str) -> ObjectInfo:
        name = self._name(key)
        try:
            fd, status = self._files.open_file(name)
            os.close(fd)
        except OSError as error:
            raise storage_error(error, "read", self._files.path(name)) from error
        return _info(key, status)

    @override
    def put(
        self, key: str, data: bytes | memoryview, *, if_match: Version | None = None, create_only: bool = False
    ) -> Version:
        check_conditions(if_match, create_only)
        name = self._name(key)

        def write(parent: Parent) -> Version:
            path = self._files.path(name)
            if create_only:
                return self._create(parent, path, data)
            if if_match is not None:
                return self._replace(parent, path, data, if_match)
            staged, version = stage(parent, data, durable=False)
            move(parent, staged)
            return version

        if if_match is not None:
            self._require(name, if_match)
        try:
            version = self._in_parent(name, write)
        except OSError as error:
            raise storage_error(error, "write", self._files.path(name), writing=True) from error
        if create_only or if_match is not None:
            self._settle(name)
        elif self._durable:
            self._pending.add(name)
        return version

    @override
    def put_file(self, key: str, path: str, *, is_final: bool = False) -> Version:
        name = self._name(key)
        directory = name.rpartition("/")[0]

        def take(parent: Parent) -> Version:
            version = self._adoption.adopt(path, directory, parent) if is_final else None
            if version is None:
                staged, version = stage_file(parent, path)
                move(parent, staged)
            return version

        try:
            os.stat(path)  # ENOENT from here on is about the target's directory.
            version = self._in_parent(name, take)
        except OSError as error:
            raise storage_error(error, f"copy {path} to", self._files.path(name), writing=True) from error
        if self._durable:
            self._pending.add(name)
        return version

    @override
    def copy_from(self, source: Storage, key: str) -> bool:
        opener = source.local_opener("") if source.capabilities.local_files else None
        if opener is None:
            return False
        name = self._name(key)
        fd, _ = opener(key)
        try:

            def take(parent: Parent) -> None:
                staged, _ = stage_open(parent, fd, key)
                move(parent, staged)

            self._in_parent(name, take)
        except OSError as error:
            raise storage_error(error, f"copy {source.url}/{key} to", self._files.path(name), writing=True) from error
        finally:
            os.close(fd)
        if self._durable:
            self._pending.add(name)
        return True

    def _in_parent[T](self, name: str, make: Callable[[Parent], T]) -> T:
        """Makes something in the directory of an object, and first the directory if there is none.

        Raises:
            OSError, NotAnObjectError: as `make`, and as `Beneath.make_directory`.
        """
        try:
            with self._files.parent(name) as parent:
                return make(parent)
        except FileNotFoundError:
            made = self._files.make_directory(name.rpartition("/")[0])
        if self._durable:
            for directory in made:
                self._pending.add_directory(_above(directory))
        with self._files.parent(name) as parent:
            return make(parent)

    def _create(self, parent: Parent, path: str, data: bytes | memoryview) -> Version:
        """Publishes a new object if there is none, once everything before it is durable."""
        _require_none(parent, path)
        staged, version = stage(parent, data, durable=self._durable)
        try:
            self.sync()
            try:
                os.link(staged, parent.name, src_dir_fd=parent.fd, dst_dir_fd=parent.fd, follow_symlinks=False)
            except FileExistsError:
                _require_none(parent, path)
                raise _precondition_failed(path, "there is an object already") from None
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                with exclusive(self._files, timeout_s=self._lock_timeout_s):
                    _require_none(parent, path)
                    os.rename(staged, parent.name, src_dir_fd=parent.fd, dst_dir_fd=parent.fd)
        finally:
            discard(parent, staged)
        return version

    def _replace(self, parent: Parent, path: str, data: bytes | memoryview, expected: Version) -> Version:
        """Publishes a new version over `expected`, once everything before it is durable."""
        staged, version = stage(parent, data, durable=self._durable)
        try:
            self.sync()
            # The slow work is done: what happens under the lock is a stat and a rename.
            with exclusive(self._files, timeout_s=self._lock_timeout_s):
                _check_version(parent.status(), path, expected)
                os.rename(staged, parent.name, src_dir_fd=parent.fd, dst_dir_fd=parent.fd)
        except FileNotFoundError:
            discard(parent, staged)
            raise _precondition_failed(path, "there is no object any more") from None
        except BaseException:
            discard(parent, staged)
            raise
        return version

    def _require(self, name: str, expected: Version) -> None:
        """Finds out before anything is written whether a conditional write has to fail."""
        path = self._files.path(name)
        try:
            _check_version(self._files.status(name), path, expected)
        except (FileNotFoundError, NotADirectoryError):
            raise _precondition_failed(path, "there is no object any more") from None
        except OSError as error:
            raise storage_error(error, "write", path) from error

    def _settle(self, name: str) -> None:
        """Makes a published object's directory entry durable."""
        if not self._durable:
            return
        directory = name.rpartition("/")[0]
        try:
            self._files.sync(directory)
        except OSError as error:
            failure = storage_error(error, "sync", self._files.path(directory), writing=True)
            failure.facts["maybe_written"] = True  # It is there; only a power failure now could undo it.
            raise failure from error

    @override
    def copy(self, source: str, target: str, *, if_match: Version | None = None) -> None:
        from_name, to_name = self._name(source), self._name(target)
        from_path, to_path = self._files.path(from_name), self._files.path(to_name)

        def make(parent: Parent) -> None:
            staged = self._stage_copy(from_name, parent, if_match)
            move(parent, staged)
            # Renaming one link of a file over another link of the same file does nothing.
            discard(parent, staged)

        try:
            self._files.status(from_name)  # ENOENT from here on is about the target's directory.
            self._in_parent(to_name, make)
        except OSError as error:
            raise storage_error(error, f"copy {from_path} to", to_path) from error
        if self._durable:
            self._pending.add(to_name)

    def _stage_copy(self, source: str, parent: Parent, expected: Version | None) -> str:
        """Makes a hard link to `source` that is no object yet, and checks what exactly was caught by it."""
        staged = staged_name(parent.name)
        path = self._files.path(source)
        try:
            with self._files.parent(source) as origin:
                os.link(origin.name, staged, src_dir_fd=origin.fd, dst_dir_fd=parent.fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            fd, status = self._files.open_file(source)
            try:
                found = version_of(status)
                if expected in (None, found):
                    return stage(parent, read_exactly(fd, 0, status.st_size), durable=False)[0]
            finally:
                os.close(fd)
        else:
            try:
                status = parent.status(staged)
                refuse(status, path)
                found = version_of(status)
                if expected in (None, found):
                    return staged
            except BaseException:
                discard(parent, staged)
                raise
            discard(parent, staged)
        raise _precondition_failed(path, f"its version is {found}, not {expected}")

    @override
    def usual_settings(self) -> StoreSettings:
        return OF_THIS_MACHINE

    @override
    def unheeded_settings(self, settings: StoreSettings) -> tuple[str, ...]:
        return settings.given(OF_THIS_MACHINE)  # all are about requests over a network, which there are none of

    @override
    def iter_objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        stack = [prefix]
        while stack:
            directory = stack.pop()
            for segment, entry in self._scan(directory):
                if entry.is_dir(follow_symlinks=False):
                    stack.append(f"{directory}{segment}/")
                elif entry.is_file(follow_symlinks=False):
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # deleted meanwhile
                    yield _info(directory + segment, status)

    def _scan(self, prefix: str) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
        check_prefix(prefix)
        name = encode_name(prefix[:-1])
        try:
            for entry in self._files.scan(name):
                segment = decode_name(entry.name)
                if segment is not None:
                    yield segment, entry
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise storage_error(error, "list", self._files.path(name)) from error

    @override
    def list_dir(self, prefix: str = "") -> Iterator[str]:
        for segment, entry in self._scan(prefix):
            if entry.is_dir(follow_symlinks=False):
                yield f"{segment}/"
            elif entry.is_file(follow_symlinks=False):
                yield segment

    @override
    def list_foreign(self) -> Iterator[tuple[str, str]]:
        stack = [""]
        while stack:
            directory = stack.pop()
            try:
                for entry in self._files.scan(directory):
                    name = f"{directory}/{entry.name}" if directory else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(name)
                    elif not entry.is_file(follow_symlinks=False):
                        kind = kind_of(entry.stat(follow_symlinks=False).st_mode)
                        if kind is not None:
                            yield name, kind
            except FileNotFoundError:
                continue  # deleted meanwhile
            except OSError as error:
                raise storage_error(error, "list", self._files.path(directory)) from error

    @override
    def delete(self, keys: Iterable[str]) -> list[str]:
        failed = []
        for key in keys:
            try:
                with self._files.parent(self._name(key)) as parent:
                    os.unlink(parent.name, dir_fd=parent.fd)
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                continue
            except (OSError, NotAnObjectError):
                failed.append(key)
            else:
                self._remove_empty(key)
        return failed

    @override
    def current_time(self) -> int:
        # Of the disk, which may be another machine's: objects that icefs writes get the times of their writers.
        try:
            return self._in_parent("clock", _time_of_new_file)
        except OSError as error:
            raise storage_error(error, "ask for the time of", self.url, writing=True) from error

    def _remove_empty(self, key: str) -> None:
        """Removes the directories that a deleted object leaves empty; not `chunks` and its like, for many objects."""
        above = key.rpartition("/")[0]
        while above and key.count("/") > 1:
            try:
                with self._files.parent(self._name(above)) as parent:
                    os.rmdir(parent.name, dir_fd=parent.fd)
            except (OSError, NotAnObjectError):
                return  # not empty, or somebody else's business
            above = above.rpartition("/")[0]

    @override
    def close(self) -> None:
        self._files.release()

    @override
    def sync(self) -> None:
        try:
            self._pending.flush()
        except OSError as error:
            raise storage_error(error, "sync what was written below", self.url, writing=True) from error


def _reopen(root: str, durable: bool, lock_timeout_s: float) -> LocalStorage:
    return LocalStorage(root, durable=durable, lock_timeout_s=lock_timeout_s)


def _time_of_new_file(parent: Parent) -> int:
    name = staged_name(parent.name)
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=parent.fd)
    try:
        return os.fstat(fd).st_mtime_ns // 1000
    finally:
        os.close(fd)
        os.unlink(name, dir_fd=parent.fd)


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key, status.st_size, status.st_mtime_ns // 1000, version_of(status))


def _precondition_failed(path: str, reason: str) -> PreconditionFailedError:
    return PreconditionFailedError(f"{path} was changed by another writer: {reason}", path=path)


def _check_version(status: os.stat_result, path: str, expected: Version) -> None:
    refuse(status, path)
    found = version_of(status)
    if found != expected:
        raise _precondition_failed(path, f"its version is {found}, not {expected}")


def _require_none(parent: Parent, path: str) -> None:
    try:
        status = parent.status()
    except FileNotFoundError:
        return
    refuse(status, path)
    raise _precondition_failed(path, "there is an object already")


def _above(directory: str) -> str:
    """Returns the directory that has the entry of one that was made: absolute paths lie above the root."""
    return os.path.dirname(directory) if directory.startswith("/") else directory.rpartition("/")[0]
