"""The virtual chunk containers that references need: one for each directory or prefix that holds the files."""

from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

from icefs.engine.read.virtual import Location
from icefs.errors import InvalidInputError
from icefs.format.config.storage import (
    AzureStore,
    GcsStore,
    LocalFileSystemStore,
    ObjectStoreConfig,
    S3CompatibleStore,
    S3Store,
    VirtualChunkContainer,
)
from icefs.transfer.files.buckets import account_of, endpoint_of
from icefs.transfer.files.sources import SourceFile

type Names = tuple[str, ...]

# How many directories a prefix has at least, where files lie in several: neither `/` nor `/data` is for a repository to
# read below, and a bucket is.
_LEAST: Final = {"file": 2, "http": 1, "https": 1}


def containers_for(
    files: Iterable[SourceFile], existing: Iterable[VirtualChunkContainer]
) -> tuple[list[VirtualChunkContainer], list[VirtualChunkContainer]]:
    """Returns the containers to add for some files, and those of the configuration that hold others.

    Raises:
        InvalidInputError: a file lies in the root directory, or in a container that leads to another store; or two
            files lie in one bucket of two stores, which one container cannot tell apart.
    """
    known = list(existing)
    used: dict[str, VirtualChunkContainer] = {}
    parents: dict[tuple[str, str], dict[Names, SourceFile]] = {}
    for home, file in {(_home(file), repr(file.store)): file for file in files}.items():
        location = Location.parse(file.location)
        holding = _holding(location, known)
        if holding is not None:
            _check_same(file, holding)
            used[holding.url_prefix] = holding
        else:
            names = tuple(name for name in Location.parse(f"{home[0]}/").path.split("/") if name)
            found = parents.setdefault((location.scheme, location.authority), {})
            _check_alike(file, next(iter(found.values()), file))
            found[names] = file
    added = []
    for (scheme, authority), found in parents.items():
        for names in common_prefixes(found, _LEAST.get(scheme, 0)):
            if not names and scheme == "file":
                file = next(iter(found.values()))
                raise InvalidInputError(
                    f"{file.name} lies in the root directory, which no repository should be allowed to read",
                    hint="move the file into a directory of its own",
                )
            prefix = f"{scheme}://{authority}/" + "".join(f"{quote(name)}/" for name in names)
            file = next(file for below, file in found.items() if below[: len(names)] == names)
            added.append(VirtualChunkContainer(prefix, _store_of(file, names)))
    return added, list(used.values())


def common_prefixes(parents: Iterable[Names], least: int) -> list[Names]:
    """Returns the longest common directory of some; or several, if it is shorter than `least` names."""
    different = sorted(set(parents))
    first, last = different[0], different[-1]
    count = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), None)
    common = first[: min(len(first), len(last)) if count is None else count]
    if len(different) == 1 or len(common) >= least:
        return [common]
    if common in different and common:
        return [common]  # files lie in it, so that it is needed anyway
    by_next: dict[Names, list[Names]] = {}
    for names in different:
        by_next.setdefault(names[: len(common) + 1], []).append(names)
    return [prefix for below in by_next.values() for prefix in common_prefixes(below, least)]


def _home(file: SourceFile) -> str:
    """Returns where the directory of a file is; a link in a tree may lead elsewhere."""
    if file.home and file.location.startswith(f"{file.home}/"):
        return file.home
    return file.location.rpartition("/")[0]


def allow_option(container: VirtualChunkContainer) -> str:
    """Returns the prefix that `--allow-virtual` takes for a container, with its endpoint or account."""
    endpoint_url, account = endpoint_of(container.store), account_of(container.store)
    if endpoint_url:
        return f"{container.url_prefix}?endpoint_url={endpoint_url}"
    is_told = account is None or "@" in container.url_prefix
    return container.url_prefix if is_told else f"{container.url_prefix}?account={account}"


def _store_of(file: SourceFile, names: Names) -> ObjectStoreConfig:
    return LocalFileSystemStore("/" + "/".join(names)) if isinstance(file.store, LocalFileSystemStore) else file.store


def _holding(location: Location, containers: Iterable[VirtualChunkContainer]) -> VirtualChunkContainer | None:
    best = None
    for container in containers:
        try:
            prefix = Location.parse(container.url_prefix.rstrip("/") + "/")
        except ValueError:
            continue  # the reader warns of it
        if location.is_below(prefix) and (best is None or len(container.url_prefix) > len(best.url_prefix)):
            best = container
    return best


def _check_alike(file: SourceFile, other: SourceFile) -> None:
    """Refuses files of one bucket's name in two stores."""
    if not _is_same_store(file.store, other.store):
        raise InvalidInputError(
            f"{file.name} and {other.name} lie in one bucket by its name, and in two stores",
            hint="import the files of each store into a repository of their own",
        )


def _check_same(file: SourceFile, container: VirtualChunkContainer) -> None:
    """Refuses a container through which another store would be read."""
    if not _is_same_store(file.store, container.store):
        raise InvalidInputError(
            f"{file.name} lies below {container.url_prefix}, which the repository's configuration says to read from "
            "another store",
            hint="name the file with the endpoint that is configured, or change it with 'icefs config set'",
        )


def _is_same_store(mine: ObjectStoreConfig, theirs: ObjectStoreConfig) -> bool:
    if isinstance(mine, S3Store | S3CompatibleStore):
        return isinstance(theirs, S3Store | S3CompatibleStore) and (
            mine.options.endpoint_url == theirs.options.endpoint_url
        )
    if type(mine) is type(theirs) and isinstance(mine, GcsStore | AzureStore):
        return endpoint_of(mine) == endpoint_of(theirs) and account_of(mine) == account_of(theirs)
    return type(mine) is type(theirs)
