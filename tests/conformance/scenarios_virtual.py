"""Repositories that refer to bytes in other files: every kind of checksum, container and failure."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import icechunk as ic

from tests.conformance.official import GROUP, GeneratedRepo, array_json, create, put_all

_WRITTEN_AT = 1_600_000_000
"""The modification time of the files referred to, a whole second: checksums by time know no fractions."""


def _make_files(directory: Path) -> None:
    directory.mkdir(parents=True)
    for name, data in {
        "plain.bin": bytes(range(256)) * 8,
        "name with spaces, ü & %41.bin": b"odd name: " + bytes(range(100)),
        "sub/deep/inner.bin": b"inner" * 100,
        "empty.bin": b"",
    }.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        os.utime(file, (_WRITTEN_AT, _WRITTEN_AT))


def _container(prefix: str, directory: Path, name: str | None = None) -> ic.VirtualChunkContainer:
    return ic.VirtualChunkContainer(prefix, ic.local_filesystem_store(str(directory)), name=name)


def virtual(path: Path, spec_version: int) -> GeneratedRepo:
    """References with and without checksums, into named and unnamed containers, good and bad."""
    files = path.with_name(f"{path.name}-files")
    _make_files(files)
    files.with_name(f"{files.name}-denied").mkdir()
    base, denied = f"file://{files}/", f"file://{files}-denied/"
    inner = f"{base}sub/"
    containers = [
        _container(base, files),
        _container(inner, files / "sub", name="inner" if spec_version > 1 else None),
        _container(denied, Path(f"{files}-denied")),
    ]
    repo = create(
        path, spec_version, virtual=[base], virtual_chunk_containers={each.url_prefix: each for each in containers}
    )
    repo.save_config()
    session = repo.writable_session("main")
    store = session.store
    put_all(store, {"zarr.json": GROUP, "a/zarr.json": array_json([40], [1]), "a/c/0": b"inline", "a/c/1": b"n" * 600})
    when = datetime.fromtimestamp(_WRITTEN_AT, UTC)
    odd = base + quote("name with spaces, ü & %41.bin")
    references: list[tuple[str, int, int, str | datetime | None]] = [
        (f"{base}plain.bin", 0, 2048, None),
        (f"{base}plain.bin", 100, 7, None),
        (f"{base}plain.bin", 2047, 1, when),
        (f"{base}plain.bin", 5, 50, datetime.fromtimestamp(_WRITTEN_AT - 1, UTC)),
        (f"{base}plain.bin", 5, 50, datetime.fromtimestamp(_WRITTEN_AT + 100, UTC)),
        (f"{base}plain.bin", 5, 50, "not-the-etag"),
        (f"{base}plain.bin", 2000, 49, None),
        (f"{base}plain.bin", 5000, 10, None),
        (f"{base}missing.bin", 0, 10, None),
        (f"{base}empty.bin", 0, 10, None),
        (f"{base}sub", 0, 10, None),
        (f"{base}plain.bin/below", 0, 10, None),
        (odd, 3, 20, None),
        (odd, 3, 20, when),
        (f"{inner}deep/inner.bin", 10, 20, when),
        (f"{denied}x.bin", 0, 10, None),
    ]
    if spec_version > 1:
        references.append(("vcc://inner/deep/inner.bin", 1, 9, None))
    for number, (location, offset, length, checksum) in enumerate(references):
        store.set_virtual_ref(f"a/c/{number + 2}", location, offset=offset, length=length, checksum=checksum)
    unknown = {"a/c/30": "s3://nowhere/x", "a/c/31": "file:///etc/hostname", "a/c/32": "https://example.org/a"}
    for key, location in unknown.items():
        store.set_virtual_ref(key, location, offset=0, length=5, validate_container=False)
    session.commit("virtual", {"references": len(references)})
    session = repo.writable_session("main")
    put_all(session.store, {"a/c/2": b"no longer virtual"})
    session.commit("one made real")
    return GeneratedRepo("virtual", path, spec_version, virtual_prefixes=(base, inner))


def many_virtual(path: Path, spec_version: int) -> GeneratedRepo:
    """So many virtual references in one manifest that version 2 compresses their locations with a dictionary."""
    files = path.with_name(f"{path.name}-files")
    _make_files(files)
    base = f"file://{files}/"
    repo = create(
        path,
        spec_version,
        virtual=[base],
        virtual_chunk_containers={base: _container(base, files)},
        max_concurrent_requests=64,
    )
    repo.save_config()
    session = repo.writable_session("main")
    put_all(session.store, {"zarr.json": GROUP, "a/zarr.json": array_json([60, 40], [1, 1]), "a/c/0/0": b"inline"})
    names = ["plain.bin", "sub/deep/inner.bin", "missing-" + "x" * 700 + ".bin"]
    session.store.set_virtual_refs(
        "/a",
        [
            ic.VirtualChunkSpec(
                [row, column],
                base + names[2 if row == 59 and column == 30 else (row + column) % 2],
                (row * 7 + column) % 400,
                1 + column,
                None if column % 3 else f"etag-{column}",
                datetime.fromtimestamp(_WRITTEN_AT + 5, UTC) if column % 3 == 2 else None,
            )
            for row in range(60)
            for column in range(40)
            if (row, column) != (0, 0) and row % 2
        ],
    )
    session.commit("many")
    return GeneratedRepo("many-virtual", path, spec_version, virtual_prefixes=(base,))


SCENARIOS: dict[Callable[[Path, int], GeneratedRepo], tuple[int, ...]] = {virtual: (1, 2), many_virtual: (1, 2)}
