"""What the scenarios share: opening, creating and writing repositories with the official library."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import icechunk as ic
from zarr.core.buffer import cpu
from zarr.core.sync import sync

# The library warns on stderr of each local storage it opens; what matters here, it raises.
ic.set_logs_filter("off")


@dataclass(frozen=True, slots=True)
class GeneratedRepo:
    """A local repository that the official library wrote.

    Attributes:
        name: The scenario and the version of the format, as in `history-v2`.
        path: Its directory.
        spec_version: 1 or 2.
        virtual_prefixes: The URL prefixes of virtual chunk containers that a reader should authorise.
        snapshots: Ids that no branch or tag reaches but that should still be read (flushed, reset away, …).
        mountable: Whether all of its keys can be files of one directory tree; not so where a node's name is
            longer than a file name may be, or where one name would be both a file and a directory.
        unlisted_tags: Tags that exist and can be looked up, but that the official library does not list.
    """

    name: str
    path: Path
    spec_version: int
    virtual_prefixes: tuple[str, ...] = ()
    snapshots: tuple[str, ...] = ()
    mountable: bool = True
    unlisted_tags: tuple[str, ...] = ()


type Scenario = Callable[[Path, int], GeneratedRepo]

GROUP = b'{"zarr_format":3,"node_type":"group","attributes":{}}'


def loose_array_json(shape: Sequence[int], chunks: Sequence[int], **more: Any) -> bytes:
    """Writes the metadata of an array whose chunks may have any size, as far as its codecs say."""
    codecs = [{"name": "bytes"}, {"name": "numcodecs.zlib", "configuration": {"level": 1}}]
    return array_json(shape, chunks, codecs=codecs, **more)


def array_json(
    shape: Sequence[int],
    chunks: Sequence[int],
    *,
    encoding: tuple[str, str | None] | None = ("default", "/"),
    grid: Mapping[str, Any] | None = None,
    **more: Any,
) -> bytes:
    """Writes the metadata of a uint8 array without compression; `more` adds or (with None) removes members."""
    document: dict[str, Any] = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": "uint8",
        "chunk_grid": grid or {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
        "attributes": {},
    }
    if encoding is not None:
        name, separator = encoding
        document["chunk_key_encoding"] = {"name": name}
        if separator is not None:
            document["chunk_key_encoding"]["configuration"] = {"separator": separator}
    document |= more
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def create(path: Path, spec_version: int, *, virtual: Iterable[str] = (), **config: Any) -> ic.Repository:
    """Creates a repository at `path` with the members of `config` in its configuration.

    Args:
        path: Where; its parents exist.
        spec_version: 1 or 2.
        virtual: URL prefixes of virtual chunk containers to authorise.
        config: Keyword arguments of `RepositoryConfig`; none leaves the configuration unsaved.
    """
    return ic.Repository.create(
        ic.local_filesystem_storage(str(path)),
        config=ic.RepositoryConfig(**config) if config else None,
        spec_version=spec_version,
        authorize_virtual_chunk_access=credentials(virtual),
    )


def credentials(prefixes: Iterable[str]) -> dict[str, Any]:
    """Returns what authorises reading virtual chunks of local files below each of the prefixes."""
    return ic.containers_credentials(dict.fromkeys(prefixes, ic.credentials.LocalFileSystemAccess))


def open_official(repo: GeneratedRepo) -> ic.Repository:
    """Opens a generated repository with the official library."""
    return ic.Repository.open(
        ic.local_filesystem_storage(str(repo.path)), authorize_virtual_chunk_access=credentials(repo.virtual_prefixes)
    )


def put(store: ic.IcechunkStore, key: str, data: bytes) -> None:
    """Writes one key through the official store."""
    sync(store.set(key, cpu.Buffer.from_bytes(data)))


def put_all(store: ic.IcechunkStore, items: Mapping[str, bytes]) -> None:
    """Writes many keys through the official store, in their order."""

    async def run() -> None:
        for key, data in items.items():
            await store.set(key, cpu.Buffer.from_bytes(data))

    sync(run())


def remove(store: ic.IcechunkStore, *keys: str) -> None:
    """Deletes keys through the official store."""
    for key in keys:
        sync(store.delete(key))


def commit(repo: ic.Repository, message: str, items: Mapping[str, bytes], *, branch: str = "main", **how: Any) -> str:
    """Commits the keys of `items` on top of a branch; returns the new snapshot's id."""
    session = repo.writable_session(branch)
    put_all(session.store, items)
    return session.commit(message, **how)
