"""The files, and trees of files, that a user names: local ones, in buckets, and on web servers.

Each file is pinned when it is found: every later read asks for just that version, and fails where the file has changed.
References hold the entity tag where there is a strong one, else the time of last modification.

References to local files hold a time, for the official library finds no entity tag of theirs right. It is the next
whole second: the official library takes the fraction of a file's time into account, and refuses the second before. A
change within that second would go unnoticed by either library, so that an import ends only after it (`settle`).
"""

import fnmatch
import glob
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlsplit

from icefs.errors import EntryNotFoundError, InvalidInputError, ObjectNotFoundError, UnsupportedError
from icefs.format.config.storage import HttpStore, LocalFileSystemStore, ObjectStoreConfig
from icefs.storage.base import ObjectInfo, RangeReader, Storage
from icefs.storage.local.ranges import LocalRanges
from icefs.storage.url import open_storage, parse_location, redact
from icefs.transfer.files.buckets import URL_SCHEMES, entity_tags, store_config, url_of

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_MAGIC: Final = re.compile(r"[*?\[]")
_FILE_SAFE: Final = "/"
ZARR_NAMES: Final = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
"""The files that hold the metadata of Zarr v2 and v3."""

# A signature is within the first bytes of a file, but for HDF5 with a user block before it.
_HEAD_BYTES: Final = 4096
_SETTLING_S: Final = 2.5


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file, as it was when it was found.

    Attributes:
        name: As the user named it, or as a listing did.
        location: As references hold it.
        size_bytes: Its length.
        etag: Its entity tag, or None.
        modified_s: When it was modified last, in seconds since 1970, rounded up; 0 where that is unknown.
        store: How a container reaches it.
        reader: Reads it.
        key: Its name for the reader.
        home: The location of the directory, or tree, that it belongs to, without a slash at the end; empty for that of
            its own directory.
    """

    name: str
    location: str
    size_bytes: int
    etag: str | None
    modified_s: int
    store: ObjectStoreConfig = field(repr=False)
    reader: RangeReader = field(repr=False)
    key: str = field(repr=False)
    home: str = ""

    @property
    def is_local(self) -> bool:
        """Whether it is a file of this machine."""
        return isinstance(self.store, LocalFileSystemStore)

    @property
    def checksum(self) -> str | datetime | None:
        """What a reference holds to know the file by: the entity tag, else the time; None where there is neither."""
        if self.etag is not None and not self.is_local:
            return self.etag
        return datetime.fromtimestamp(self.modified_s, UTC) if self.modified_s else None

    def read(self, start: int, end: int) -> bytes:
        """Reads the bytes `[start, end)`.

        Raises:
            ObjectModifiedError: the file has changed since it was found.
            StorageError: it cannot be read.
        """
        if end <= start:
            return b""
        since = None if self.etag is not None else self.modified_s or None
        return self.reader.read_range(self.key, start, end, if_match_etag=self.etag, if_unmodified_since_s=since)

    def check(self) -> None:
        """Finds out whether the file is still the same; raises as `read`."""
        if self.size_bytes:
            self.read(self.size_bytes - 1, self.size_bytes)

    def head(self) -> bytes:
        """Returns the first bytes, which tell the format."""
        return self.read(0, min(self.size_bytes, _HEAD_BYTES))


@dataclass(frozen=True, slots=True)
class SourceTree:
    """A tree of files that is one Zarr hierarchy.

    Attributes:
        name: As the user named it.
        files: The files by their paths below it.
    """

    name: str
    files: dict[str, SourceFile]


type Source = SourceFile | SourceTree


class Sources:
    """Finds the files that a user names; `close` gives back what they are read through."""

    def __init__(self) -> None:
        self._local = LocalRanges("/")
        self._stores: dict[tuple[Any, ...], Storage] = {}

    def close(self) -> None:
        """Gives back connections."""
        for store in self._stores.values():
            store.close()

    def find(self, names: Sequence[str]) -> list[Source]:
        """Returns the files and trees of some names, in their order; those of a pattern by their names.

        Args:
            names: Paths, URLs (`file:`, `s3:`, `gs:`, `az:`, `abfs:`, `http:`, `https:`) with the options of their kind
                after `?`, and patterns with `*` and `[…]` (and `?` in local ones).

        Raises:
            EntryNotFoundError: nothing is there, or nothing matches.
            UnsupportedError: a file is in a store that icefs cannot refer to.
            InvalidInputError: a name is not valid.
            StorageError: the store failed.
        """
        found: list[Source] = []
        for name in names:
            if not _URL.match(name):
                found.extend(self._find_local(name))
                continue
            location = parse_location(name)
            if location.scheme == "file":
                found.append(self._local_source(location.root, name))
            elif location.scheme in URL_SCHEMES:
                found.extend(self._find_in_bucket(name))
            elif location.scheme == "http":
                found.append(self._find_on_web(name))
            else:
                raise UnsupportedError(
                    f"{redact(name)} cannot be referred to: virtual chunks are not read from such a store",
                    hint="copy the file to a directory, s3://, gs://, az://, or a web server",
                )
        return found

    def _find_local(self, name: str) -> Iterator[Source]:
        if os.path.lexists(name) or not _MAGIC.search(name):
            yield self._local_source(name, name)
            return
        matches = sorted(glob.glob(name))
        if not matches:
            raise EntryNotFoundError(f"no file matches {name}", path=name)
        for match in matches:
            yield self._local_source(match, match)

    def _local_source(self, path: str, name: str) -> Source:
        real = os.path.realpath(path)
        if not os.path.exists(real):
            raise EntryNotFoundError(f"there is no {name}", path=name)
        if not os.path.isdir(real):
            return self._local_file(real, name)
        files: dict[str, SourceFile] = {}
        for folder, _, inside in os.walk(real):
            for each in inside:
                whole = os.path.join(folder, each)
                files[os.path.relpath(whole, real)] = self._local_file(os.path.realpath(whole), whole)
        return _tree(name, files)

    def _local_file(self, real: str, name: str) -> SourceFile:
        try:
            encoded = real.encode()
        except UnicodeEncodeError:
            raise InvalidInputError(f"{name!r} cannot be referred to: its name is not UTF-8") from None
        status = os.stat(real)
        etag = f"{status.st_ino:x}-{status.st_mtime_ns // 1000:x}-{status.st_size:x}"
        return SourceFile(
            name=name,
            location="file://" + quote(encoded, safe=_FILE_SAFE),
            size_bytes=status.st_size,
            etag=etag,
            modified_s=-(-status.st_mtime_ns // 1_000_000_000),
            store=LocalFileSystemStore("/"),
            reader=self._local,
            key=real[1:],
        )

    def _find_in_bucket(self, name: str) -> list[Source]:
        location = parse_location(name)
        options = dict(location.options)
        bucket = url_of(location.scheme, location.root)
        store = self._store((location.scheme, location.root, tuple(sorted(options.items()))), bucket, options)
        config = store_config(location.scheme, location.root, store, options)

        def files(found: list[ObjectInfo]) -> list[SourceFile]:
            return [
                SourceFile(
                    name=f"{bucket}/{info.key}",
                    location=f"{bucket}/{quote(info.key)}",
                    size_bytes=info.size_bytes,
                    etag=etag,
                    modified_s=info.last_modified // 1_000_000,
                    store=config,
                    reader=_range_reader(store),
                    key=info.key,
                )
                for info, etag in zip(found, entity_tags(store, found), strict=True)
            ]

        if not _MAGIC.search(location.prefix):
            return [_stored_source(name, location.prefix, store, files)]
        fixed = location.prefix[: _MAGIC.search(location.prefix).start()]  # type: ignore[union-attr]  # it has one
        listed = store.iter_objects(fixed[: fixed.rfind("/") + 1])
        matches = sorted((info for info in listed if _matches(info.key, location.prefix)), key=lambda info: info.key)
        if not matches:
            raise EntryNotFoundError(f"no object matches {redact(name)}", path=redact(name))
        return list(files(matches))

    def _find_on_web(self, name: str) -> Source:
        location = parse_location(name)
        parts = urlsplit(location.root)
        host = f"{parts.scheme}://{parts.netloc}/"
        options = dict(location.options)
        store = self._web_store(host, options)
        key = quote(parts.path[1:], safe="/%:@!$&'()*+,;=~")
        try:
            info = store.head(key)
        except ObjectNotFoundError:
            raise EntryNotFoundError(f"there is no {redact(name)}", path=redact(name)) from None
        strong = info.version if info.version is not None and info.version.startswith('"') else None
        weak = info.version if info.version is not None and info.version.startswith("W/") else None
        modified_s = info.last_modified // 1_000_000
        return SourceFile(
            name=redact(name),
            location=host + key,
            size_bytes=info.size_bytes,
            etag=strong or (weak if not modified_s else None),
            modified_s=modified_s,
            store=HttpStore(),
            reader=_range_reader(store),
            key=key,
        )

    def _store(self, known_as: tuple[Any, ...], url: str, options: dict[str, Any]) -> Storage:
        if known_as not in self._stores:
            self._stores[known_as] = open_storage(url, **options)
        return self._stores[known_as]

    def _web_store(self, host: str, options: dict[str, Any]) -> Storage:
        known_as = ("http", host, tuple(sorted(options.items())))
        if known_as not in self._stores:
            # Lazy, as in `storage.url`: urllib3 takes 90 ms.
            from icefs.storage.http import HttpStorage
            from icefs.storage.http_client import HttpOptions

            redirect_to = (options["redirect_to"],) if "redirect_to" in options else ()
            self._stores[known_as] = HttpStorage(host, HttpOptions(redirect_to=redirect_to, has_encoded_keys=True))
        return self._stores[known_as]


def settle(files: Iterable[SourceFile]) -> None:
    """Waits until a later change of any local file is noticed by its time, and finds out that none has changed so far.

    Raises:
        ObjectModifiedError, StorageError: as `SourceFile.check`.
    """
    local = [file for file in files if file.is_local]
    wait_s = max((file.modified_s + 1 for file in local), default=0) - time.time()
    if 0 < wait_s <= _SETTLING_S:  # longer, and the file's time lies in the future, which waiting does not mend
        time.sleep(wait_s)
    for file in local:
        file.check()


def _stored_source(
    name: str, key: str, store: Storage, files: Callable[[list[ObjectInfo]], list[SourceFile]]
) -> Source:
    try:
        found = store.head(key)
    except ObjectNotFoundError:
        below = f"{key}/"
        listed = list(store.iter_objects(below))
        if not listed:
            raise EntryNotFoundError(f"there is no {redact(name)}", path=redact(name)) from None
        return _tree(redact(name), {file.key[len(below) :]: file for file in files(listed)})
    return files([found])[0]


def _tree(name: str, files: dict[str, SourceFile]) -> SourceTree:
    if not any(each in files for each in ZARR_NAMES):
        raise InvalidInputError(
            f"{name} is a directory without Zarr metadata, which cannot be referred to",
            hint="name its files, for example with a pattern such as 'DIR/*.nc'",
        )
    some = next(each for each in ZARR_NAMES if each in files)
    home = files[some].location.removesuffix(f"/{some}")
    return SourceTree(name, {path: replace(file, home=home) for path, file in files.items()})


def _range_reader(store: Storage) -> RangeReader:
    assert isinstance(store, RangeReader)  # all kinds that are opened here are
    return store


def _matches(key: str, pattern: str) -> bool:
    """Tells whether a key matches a pattern, of which no part but a slash itself stands for a slash."""
    names, patterns = key.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(map(fnmatch.fnmatchcase, names, patterns))
