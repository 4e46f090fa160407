"""Virtual chunks: byte ranges of objects that are not the repository's.

A repository may come from anybody, so a location is followed only if both hold:

- it lies in a container of the repository's configuration (the one with the longest URL prefix; `vcc://name/rest`
  names its container), which says how to reach the object;
- it lies below a URL prefix that the user authorised when opening the repository. Nothing is authorised by default.
  (The official library wants the container's own prefix to be authorised; every such prefix works here too.)

Locations are compared in decoded form: scheme and host in lower case, path percent-decoded. Characters that would not
be used as they stand are refused, for else the reference would lead to another object (Divergence 78): `?` and `#`,
which end the path of a URL, and control characters and spaces at the end, which parsers of URLs drop; all can be
percent-encoded. A location with a `.` or `..` segment is refused, encoded or not, whatever the scheme: HTTP clients,
proxies and some object stores resolve them out of the prefix (Divergence 79). A local file must lie below the
authorised prefix after all symbolic links as well, and the kernel tells where the file that was opened lies: a link
that somebody plants in a data directory, at whatever moment, cannot choose what a reader of a repository sees.

A checksum is an entity tag, or a time in whole seconds after which the object must not have been modified. Times of
local files are compared by the second: an object of second S is unmodified since S, whatever fraction follows.

Bytes that came from a remote store under a checksum are those that the reference means, and stay so whatever becomes of
the object: the disk cache keeps them under the place (endpoint, bucket or host, path), the checksum and the range. A
reference without a checksum, or with a weak entity tag, which other bytes may have too, means whatever is there now,
and is not kept.
Whether a location may be followed is decided before the cache is asked.
Source: format notes §6.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Self
from urllib.parse import quote, unquote

from icefs.engine.read.cache import WeightedCache
from icefs.engine.read.virtual_azure import AZURE_SCHEMES, open_azure_container, split_azure_prefix
from icefs.engine.read.virtual_endpoints import check_endpoint, endpoint_of, split_prefix
from icefs.engine.read.virtual_gcs import GCS_SCHEMES, open_gcs_container
from icefs.engine.read.workers import Workers
from icefs.errors import (
    FormatError,
    InvalidInputError,
    InvalidObjectSizeError,
    NameTooLongError,
    ObjectModifiedError,
    ObjectNotFoundError,
    UnauthorizedContainerError,
    UnsupportedError,
)
from icefs.format.config.storage import (
    AzureStore,
    GcsStore,
    HttpStore,
    LocalFileSystemStore,
    S3CompatibleStore,
    S3Store,
    TigrisStore,
    VirtualChunkContainer,
)
from icefs.format.manifest.refs import VirtualRef
from icefs.storage.azure.options import AzureCredentials
from icefs.storage.base import RangeReader, Storage
from icefs.storage.cache.disk import CacheView, DiskCache
from icefs.storage.cache.entry import CachedFile
from icefs.storage.gcs.options import GcsCredentials
from icefs.storage.local.ranges import LocalRanges
from icefs.storage.metered import MeteredRanges, StoreMeter
from icefs.storage.s3.options import S3Credentials

_log = logging.getLogger(__name__)
_RELATIVE: Final = "vcc://"
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)", re.DOTALL)
_NOT_USED: Final = re.compile(r"[?#\x00-\x1f\x7f]| +\Z")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
_MAX_READERS: Final = 50
_PART_BYTES: Final = 12 << 20


@dataclass(frozen=True, slots=True)
class ContainerCredentials:
    """How to sign requests to the objects below an authorised prefix; those of S3, of Azure, or of Google.

    Attributes:
        s3: Keys, or a callback that returns them; None leaves it to the AWS environment.
        anonymous: Whether to send requests unsigned; None does what the container says.
        profile: A profile of the AWS configuration files.
        azure: One way to sign, or a callback that returns it; None leaves it to the environment.
        gcs: Keys, a token, or a callback that returns one; None leaves it to the environment.
    """

    s3: S3Credentials | Callable[[], S3Credentials] | None = None
    anonymous: bool | None = None
    profile: str | None = None
    azure: AzureCredentials | Callable[[], AzureCredentials] | None = None
    gcs: GcsCredentials | None = None


type Authorizations = Mapping[str, ContainerCredentials | None]
"""The URL prefixes that may be followed, each with its credentials or None for those of the environment."""


@dataclass(frozen=True, slots=True)
class Location:
    """A URL taken apart.

    Attributes:
        scheme: In lower case.
        authority: Bucket, or host with the port unless it is the scheme's own; empty for files.
        path: Percent-decoded, beginning with `/`.
        written_path: The path as it was written; web servers may tell `+` from `%2B`.
    """

    scheme: str
    authority: str
    path: str
    written_path: str = field(default="", compare=False)

    @classmethod
    def parse(cls, url: str) -> Self:
        """Takes a URL apart.

        Raises:
            ValueError: it is no URL with an authority and a path, has something that would not be used, is not UTF-8
                when decoded, or has a NUL or a `.` or `..` segment.
        """
        match = _URL.fullmatch(url)
        if match is None:
            raise ValueError("it is no URL")
        unused = _NOT_USED.search(url)
        if unused is not None:
            what = unused[0][-1]
            raise ValueError(f"its {what!r} would be no part of the object's name; write it as %{ord(what):02X}")
        scheme = match[1].lower()
        # Bucket names are case-sensitive in the official library's eyes; host names are not.
        authority = match[2].lower().removesuffix(_DEFAULT_PORTS[scheme]) if scheme in _DEFAULT_PORTS else match[2]
        if scheme == "file":
            if authority not in ("", "localhost"):
                raise ValueError(f"it names a file of another host, {authority}")
            authority = ""
        elif not authority:
            raise ValueError("it names no bucket or host")
        try:
            path = unquote(match[3] or "/", errors="strict")
            path.encode()
        except UnicodeError:
            raise ValueError("its path is not UTF-8") from None
        if "\0" in path:
            raise ValueError("its path has a NUL")
        if not {".", ".."}.isdisjoint(path.split("/")):
            raise ValueError("its path has a '.' or '..' segment")
        return cls(scheme, authority, path, re.sub("%2f", "/", match[3] or "/", flags=re.IGNORECASE))

    def is_below(self, prefix: "Location") -> bool:
        """Tells whether this lies below a prefix, which ends with `/`."""
        return self.scheme == prefix.scheme and self.authority == prefix.authority and self.path.startswith(prefix.path)


@dataclass(frozen=True, slots=True)
class _Container:
    prefix: Location
    url_prefix: str
    config: VirtualChunkContainer


@dataclass(frozen=True, slots=True)
class _Authorization:
    """What may be followed.

    Attributes:
        prefix: The place.
        credentials: How to sign requests there; None for those of the environment.
        files: The directory, if it is one; where its own path leads is settled when it is authorised.
        endpoint_url: Where the user says that the bucket is, if it is one of S3.
    """

    prefix: Location
    credentials: ContainerCredentials | None
    files: LocalRanges | None
    endpoint_url: str | None = None

    @property
    def url(self) -> str:
        """The prefix, as a URL."""
        return f"{self.prefix.scheme}://{self.prefix.authority}{quote(self.prefix.path)}"


@dataclass(slots=True)
class _Source:
    """What objects of one bucket or host are read through, and the part of the disk cache that is theirs.

    Attributes:
        reader: Reads them.
        store: The store behind the reader; None for local files.
        scope: What decides besides the place which bytes are there: the headers that a web server is sent.
        view: Their part of the cache; made by the first read, for finding out where a bucket is may take a while.
    """

    reader: RangeReader
    store: Storage | None
    scope: str
    view: CacheView | None = field(default=None)

    def find_view(self, cache: DiskCache) -> CacheView:
        """Returns their part of the cache; may ask for credentials."""
        if self.view is None:
            assert self.store is not None  # only remote objects are cached
            self.view = cache.view(f"virtual {self.store.identity} {self.scope}")
        return self.view


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a reference leads.

    Attributes:
        url: Its location, expanded.
        location: The same, taken apart.
        container: The container that it lies in.
        authorization: What allows to follow it.
    """

    url: str
    location: Location
    container: _Container
    authorization: _Authorization

    @property
    def source_key(self) -> tuple[str, str, str]:
        """What has a reader of its own."""
        bucket = f"{self.location.scheme}://{self.location.authority}"
        return self.container.url_prefix, bucket, self.authorization.prefix.path


class VirtualResolver:
    """Finds and reads what virtual chunk references refer to.

    Safe to use from any thread. Keeps at most fifty connections' worth of readers, one for each container and bucket
    or host; `close` gives their resources back.
    """

    def __init__(
        self,
        containers: Iterable[VirtualChunkContainer],
        authorized: Authorizations,
        workers: Workers,
        meter: StoreMeter | None = None,
        cache: DiskCache | None = None,
        *,
        storage: Storage | None = None,
        named_endpoints: Iterable[str] = (),
    ) -> None:
        """Takes the containers of a configuration, leaving out, with a warning, those that cannot be used.

        Args:
            containers: Of the configuration.
            authorized: What may be followed.
            workers: Fetch large chunks in parts.
            meter: Counts the requests.
            cache: Where to keep what was read from a remote store; its opener's to close.
            storage: The repository's, whose endpoint the user has named.
            named_endpoints: Other S3 endpoints that the user has named.

        Raises:
            InvalidInputError: an authorised prefix is no URL.
        """
        self._containers: list[_Container] = []
        for config in containers:
            url_prefix = config.url_prefix if config.url_prefix.endswith("/") else f"{config.url_prefix}/"
            try:
                self._containers.append(_Container(Location.parse(url_prefix), url_prefix, config))
            except ValueError as error:
                _log.warning("ignoring the virtual chunk container %r: %s", config.url_prefix, error)
        self._containers.sort(key=lambda container: len(container.url_prefix), reverse=True)
        self._authorized = [_authorization(prefix, credentials) for prefix, credentials in authorized.items()]
        self._authorized.sort(key=lambda authorization: len(authorization.prefix.path), reverse=True)
        self._workers = workers
        self._meter = meter
        self._cache = cache
        self._storage = storage
        self._named_endpoints = frozenset(named_endpoints)
        self._sources: WeightedCache[tuple[str, str, str], _Source] = WeightedCache(_MAX_READERS)

    def expand(self, location: str) -> str:
        """Returns the absolute URL of a location, which may be relative to a named container.

        Raises:
            InvalidInputError: no container has the name (kind `no-container-for-virtual-chunk`).
        """
        if not location.startswith(_RELATIVE):
            return location
        name, slash, rest = location[len(_RELATIVE) :].partition("/")
        if slash:
            for container in self._containers:
                if container.config.name == name:
                    return container.url_prefix + rest
        raise _no_container(location)

    def has_container(self, location: str) -> bool:
        """Tells whether a container of the configuration holds a location; none holds what is no location."""
        try:
            parsed = Location.parse(self.expand(location))
        except ValueError:  # InvalidInputError is one
            return False
        return any(parsed.is_below(container.prefix) for container in self._containers)

    def read(self, ref: VirtualRef, start: int = 0, end: int | None = None) -> bytes:
        """Reads the bytes `[start, end)` of a virtual chunk, all of it by default.

        Raises:
            UnauthorizedContainerError: the user did not authorise following it.
            InvalidInputError: no container of the configuration holds it.
            UnsupportedError: icefs cannot reach such a container.
            FormatError: the location is malformed.
            ObjectModifiedError: the object is not the one that was referenced.
            ObjectNotFoundError, InvalidObjectSizeError, StorageError: it cannot be read.
        """
        target = self._resolve(ref)
        end = ref.length_bytes if end is None else end
        first, last = ref.offset_bytes + start, ref.offset_bytes + end
        source, name = self._source(target), _cache_name(ref, target)
        view = None if self._cache is None or name is None else source.find_view(self._cache)
        if view is None or name is None:
            return self._read(ref, target, source, first, last)
        data = view.get(name, first, last)
        if data is None:
            data = self._read(ref, target, source, first, last)
            view.put(name, data, first, last)
        return data

    def open_cached(self, ref: VirtualRef) -> CachedFile | None:
        """Opens what the disk cache keeps of a chunk; None unless that can be found out without waiting.

        Raises:
            UnauthorizedContainerError, InvalidInputError, FormatError: as `read`.
        """
        if self._cache is None:
            return None
        target = self._resolve(ref)
        source, name = self._sources.peek(target.source_key), _cache_name(ref, target)
        if source is None or source.view is None or name is None:
            return None
        return source.view.open(name, ref.offset_bytes, ref.offset_bytes + ref.length_bytes)

    def can_keep(self, ref: VirtualRef) -> bool:
        """Tells whether the disk cache may keep a chunk: it may be followed, and has a checksum."""
        if self._cache is None:
            return False
        try:
            return _cache_name(ref, self._resolve(ref)) is not None
        except (UnauthorizedContainerError, InvalidInputError, FormatError):
            return False

    def is_kept(self, ref: VirtualRef) -> bool:
        """Tells whether the disk cache keeps a chunk; may ask for credentials. Raises as `open_cached`."""
        if self._cache is None:
            return False
        target = self._resolve(ref)
        name = _cache_name(ref, target)
        start = ref.offset_bytes
        return name is not None and self._source(target).find_view(self._cache).has(
            name, start, start + ref.length_bytes
        )

    def _resolve(self, ref: VirtualRef) -> _Target:
        url = self.expand(ref.location)
        try:
            location = Location.parse(url)
        except ValueError as error:
            reason = f"{url!r} is no location of a virtual chunk: {error}"
            raise FormatError(reason, kind="invalid-virtual-ref", file=url, reason=str(error)) from None
        container = self._container_of(location, url)
        return _Target(url, location, container, self._authorization_of(location, container))

    def _read(self, ref: VirtualRef, target: _Target, source: _Source, first: int, last: int) -> bytes:
        fetch = partial(
            source.reader.read_range,
            _key(target),
            if_match_etag=ref.etag,
            if_unmodified_since_s=None if ref.etag is not None else ref.last_modified or None,
        )
        try:
            return self._fetch(fetch, first, last, is_remote=target.location.scheme != "file")
        except (ObjectNotFoundError, NameTooLongError) as error:
            raise ObjectNotFoundError(
                f"virtual chunk: there is no object at {target.url}", kind="virtual-chunk-fetch", url=target.url
            ) from error
        except ObjectModifiedError as error:
            error.facts["url"] = target.url
            raise
        except InvalidObjectSizeError as error:
            error.facts["virtual"] = target.url
            raise

    def _fetch(self, fetch: Callable[[int, int], bytes], first: int, last: int, *, is_remote: bool) -> bytes:
        if not is_remote or last - first <= 2 * _PART_BYTES:
            data = fetch(first, last)
        else:
            parts = range(first, last, _PART_BYTES)
            data = b"".join(self._workers.map_ahead(lambda at: fetch(at, min(at + _PART_BYTES, last)), parts))
        if len(data) != last - first:
            raise InvalidObjectSizeError(
                f"virtual chunk: {len(data)} bytes came where {last - first} are expected",
                actual_bytes=len(data),
                expected_bytes=last - first,
            )
        return data

    def _container_of(self, location: Location, url: str) -> _Container:
        for container in self._containers:
            if location.is_below(container.prefix):
                return container
        raise _no_container(url)

    def _authorization_of(self, location: Location, container: _Container) -> _Authorization:
        for authorization in self._authorized:
            if location.is_below(authorization.prefix):
                return authorization
        named = f" (container {container.config.name!r})" if container.config.name else ""
        store = container.config.store
        if isinstance(store, S3Store | S3CompatibleStore) and store.options.endpoint_url:
            named += f" (at {store.options.endpoint_url}, says the repository)"
        raise UnauthorizedContainerError(
            f"virtual chunks below {container.url_prefix}{named} may not be followed",
            hint=f"allow it with `--allow-virtual {container.url_prefix}` if you trust the repository with that",
            url_prefix=container.url_prefix,
        )

    def _source(self, target: _Target) -> _Source:
        def load() -> tuple[_Source, int]:
            reader = self._open_reader(target.container, target.location, target.authorization)
            behind = reader if isinstance(reader, Storage) else None
            if self._meter is not None:
                reader = MeteredRanges(reader, self._meter, "virtual")
            store = target.container.config.store
            headers = sorted((store.headers or {}).items()) if isinstance(store, HttpStore) else ()
            return _Source(reader, behind, repr(headers) if headers else ""), 1

        return self._sources.get(target.source_key, load)

    def _open_reader(self, container: _Container, location: Location, authorization: _Authorization) -> RangeReader:
        """Opens what a container's objects are read through; the storages are imported when they are needed."""
        store = container.config.store
        scheme = location.scheme
        if isinstance(store, LocalFileSystemStore) and scheme == "file":
            assert authorization.files is not None  # what allows a file is a prefix of files
            return authorization.files
        if isinstance(store, S3Store | S3CompatibleStore | TigrisStore) and scheme in ("s3", "tigris"):
            credentials = authorization.credentials or ContainerCredentials()
            check_endpoint(
                store,
                anonymous=credentials.anonymous,
                has_own_keys=credentials.s3 is not None,
                url_prefix=container.url_prefix,
                storage=self._storage,
                named=(*self._named_endpoints, authorization.endpoint_url),
            )
            return _open_s3(store, location.authority, credentials)
        if isinstance(store, AzureStore) and scheme in AZURE_SCHEMES:
            credentials = authorization.credentials or ContainerCredentials()
            return open_azure_container(
                store,
                location.authority,
                credentials=credentials.azure,
                anonymous=credentials.anonymous,
                url_prefix=container.url_prefix,
                storage=self._storage,
                named=(authorization.endpoint_url,),
            )
        if isinstance(store, GcsStore) and scheme in GCS_SCHEMES:
            credentials = authorization.credentials or ContainerCredentials()
            return open_gcs_container(
                store,
                location.authority,
                credentials=credentials.gcs,
                anonymous=credentials.anonymous,
                url_prefix=container.url_prefix,
                storage=self._storage,
                named=(authorization.endpoint_url,),
            )
        if isinstance(store, HttpStore) and scheme in ("http", "https"):
            from icefs.storage.http import HttpStorage
            from icefs.storage.http_client import HttpOptions

            headers = tuple((store.headers or {}).items())
            allowed = tuple(each.url for each in self._authorized if each.prefix.scheme in _DEFAULT_PORTS)
            options = HttpOptions(headers=headers, redirect_to=allowed, has_encoded_keys=True)
            return HttpStorage(f"{scheme}://{location.authority}/", options)
        kind = type(store).__name__.removesuffix("Store").lower()
        raise UnsupportedError(
            f"icefs cannot read virtual chunks below {container.url_prefix} from a store of type {kind}",
            url_prefix=container.url_prefix,
        )

    def close(self) -> None:
        """Gives back the readers' connections; they are opened again if they are needed."""
        for source in self._sources.clear():
            if source.store is not None:
                source.store.close()


def _cache_name(ref: VirtualRef, target: _Target) -> str | None:
    """Returns what names the bytes of an object that a reference means; None where nothing says which they are."""
    if target.location.scheme == "file":
        return None  # it is here already
    path = target.location.written_path if target.location.scheme in _DEFAULT_PORTS else target.location.path
    if ref.etag is not None:
        tag = ref.etag.strip('"')
        return None if not tag or ref.etag.startswith("W/") else f"{path}\0etag {tag}"
    return f"{path}\0time {ref.last_modified}" if ref.last_modified else None


def _authorization(prefix: str, credentials: ContainerCredentials | None) -> _Authorization:
    is_azure = prefix.partition("://")[0].lower() in AZURE_SCHEMES
    prefix, endpoint_url = split_azure_prefix(prefix) if is_azure else split_prefix(prefix)
    try:
        place = Location.parse(prefix if prefix.endswith("/") else f"{prefix}/")
    except ValueError as error:
        raise InvalidInputError(
            f"{prefix!r} is no URL prefix of virtual chunks: {error}", kind="invalid-virtual-ref"
        ) from None
    return _Authorization(place, credentials, LocalRanges(place.path) if place.scheme == "file" else None, endpoint_url)


def _no_container(url: str) -> InvalidInputError:
    return InvalidInputError(
        f"no virtual chunk container of the repository's configuration holds {url}",
        kind="no-container-for-virtual-chunk",
        url=url,
    )


def _key(target: _Target) -> str:
    """Returns the key to read: below the bucket or host, or of a file below the authorised directory."""
    location = target.location
    if location.scheme in _DEFAULT_PORTS:
        return location.written_path[1:]
    return location.path[1:] if location.scheme != "file" else location.path[len(target.authorization.prefix.path) :]


def _open_s3(
    store: S3Store | S3CompatibleStore | TigrisStore, bucket: str, credentials: ContainerCredentials
) -> RangeReader:
    from icefs.storage.s3.options import S3Options
    from icefs.storage.s3.store import S3Storage

    options = store.options
    return S3Storage(
        bucket,
        options=S3Options(
            endpoint_url=endpoint_of(store),
            region=options.region,
            profile=credentials.profile,
            anonymous=options.anonymous if credentials.anonymous is None else credentials.anonymous,
            force_path_style=options.force_path_style or None,
            allow_http=True,
            requester_pays=options.requester_pays,
            credentials=credentials.s3,
            legacy_rooted_keys=False,  # the names of virtual chunks are whole
        ),
    )
