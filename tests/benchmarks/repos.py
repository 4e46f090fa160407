"""The repositories that are measured, written by the official library and kept between runs."""

import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("ICECHUNK_LOG", "error")  # or it warns of each local repository

import icechunk
import numpy as np
import zarr

SMALL_GRID = (64, 64)
SMALL_CHUNK_BYTES = 4096
BIG_CHUNKS = 1024
BIG_CHUNK_BYTES = 1 << 20
VIEW_SIDE = 8192
MILLION_GRIDS = {"million": (1000, 1000), "million-3d": (100, 100, 100)}


def cache_root() -> Path:
    """Returns the directory of the generated repositories: `ICEFS_BENCH_DIR`, or one below the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "icefs-bench"
    return Path(os.environ.get("ICEFS_BENCH_DIR", default))


def _create(path: Path) -> icechunk.Repository:
    config = icechunk.RepositoryConfig.default()
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer(
            f"file://{path.parent}/", store=icechunk.local_filesystem_store(str(path.parent))
        )
    )
    return icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)), config=config)


def _chunks_repo(path: Path, shape: tuple[int, ...], chunk: tuple[int, ...]) -> None:
    session = _create(path).writable_session("main")
    array = zarr.create_array(
        session.store, name="a", shape=shape, chunks=chunk, dtype="u1", compressors=None, filters=None, fill_value=0
    )
    rng = np.random.default_rng(7)
    step = max(chunk[0], (64 << 20) // int(np.prod(shape[1:], dtype=int)) // chunk[0] * chunk[0])
    for row in range(0, shape[0], step):
        rows = min(step, shape[0] - row)
        array[row : row + rows] = rng.integers(1, 255, (rows, *shape[1:]), dtype="u1")
    session.commit("chunks")


def _million_repo(path: Path, grid: tuple[int, ...]) -> None:
    """A million virtual references, which the official library records without writing a million objects."""
    source = path.with_suffix(".bin")
    source.write_bytes(bytes(range(256)) * 16)
    session = _create(path).writable_session("main")
    zarr.create_array(
        session.store, name="a", shape=tuple(16 * n for n in grid), chunks=(16,) * len(grid), dtype="u1",
        compressors=None, filters=None, fill_value=0,
    )  # fmt: skip
    count = int(np.prod(grid))
    session.store.set_virtual_refs_arr(
        "a",
        grid,
        [f"file://{source}"] * count,
        np.zeros(count, dtype="u8"),
        np.full(count, 16 ** len(grid), dtype="u8"),
    )
    session.commit("a million chunks")


def _branches_repo(path: Path) -> None:
    """A million virtual references, all of them changed on the branch dev, and one more array on main."""
    _million_repo(path, (1_000_000,))
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(path)))
    repository.create_branch("dev", repository.lookup_branch("main"))
    session = repository.writable_session("dev")
    count = 1_000_000
    locations = [f"file://{path.with_suffix('.bin')}"] * count
    session.store.set_virtual_refs_arr(
        "a", (count,), locations, np.full(count, 16, dtype="u8"), np.full(count, 16, dtype="u8")
    )
    session.commit("all of them")
    session = repository.writable_session("main")
    zarr.create_array(session.store, name="b", shape=(4,), chunks=(4,), dtype="u1")[:] = 1
    session.commit("another array")


def _empty_repo(path: Path) -> None:
    _create(path)
    # The first directory that is written to.
    session = icechunk.Repository.open(icechunk.local_filesystem_storage(str(path))).writable_session("main")
    zarr.create_array(session.store, name="a", shape=(SMALL_GRID[0] ** 2,), chunks=(1,), dtype="u1", compressors=None)
    session.commit("an array without chunks")


def _staged_repo(path: Path) -> None:
    """The small chunks, and an array without any that 100 000 can be written to."""
    _chunks_repo(path, (SMALL_GRID[0] * 64, SMALL_GRID[1] * 64), (64, 64))
    session = icechunk.Repository.open(icechunk.local_filesystem_storage(str(path))).writable_session("main")
    zarr.create_array(
        session.store, name="staged", shape=(100 * 32, 1000 * 32), chunks=(32, 32), dtype="u1", compressors=None
    )
    session.commit("an array without chunks")


def _views_repo(path: Path) -> None:
    """Two arrays of 256 MiB that compress about as well as measurements do, and a group of 200 variables."""
    session = _create(path).writable_session("main")
    side, rng = VIEW_SIDE, np.random.default_rng(7)
    values = np.round(np.cumsum(rng.normal(size=(side, side)), axis=1), 2).astype("f4")
    how = {"dtype": "f4", "compressors": zarr.codecs.ZstdCodec(level=1), "dimension_names": ["y", "x"]}
    for group, chunks in (("square", (1024, 1024)), ("rows", (128, side))):
        zarr.create_array(session.store, name=f"{group}/a", shape=(side, side), chunks=chunks, **how)[:] = values
    for number in range(200):
        zarr.create_array(session.store, name=f"many/v{number}", shape=(64, 64), chunks=(32, 32), **how)
    session.commit("arrays for views")


_RECIPES = {
    "views": _views_repo,
    "branches": _branches_repo,
    "empty": _empty_repo,
    "staged": _staged_repo,
    "small": lambda path: _chunks_repo(path, (SMALL_GRID[0] * 64, SMALL_GRID[1] * 64), (64, 64)),
    "big": lambda path: _chunks_repo(path, (BIG_CHUNKS * BIG_CHUNK_BYTES,), (BIG_CHUNK_BYTES,)),
    **{name: lambda path, grid=grid: _million_repo(path, grid) for name, grid in MILLION_GRIDS.items()},
}


def repository(name: str) -> Path:
    """Returns the path of the repository called `name`, made on first use, with its files in the page cache."""
    root = cache_root()
    path, done = root / name, root / f"{name}.done.json"
    if not done.exists():
        shutil.rmtree(path, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        _RECIPES[name](path)
        done.write_text(json.dumps({"icechunk": icechunk.__version__}))
    _warm(path)
    return path


def _warm(path: Path) -> None:
    """Reads all files once, so that no side of a comparison measures the disk."""
    buffer = bytearray(1 << 20)
    for file in path.rglob("*"):
        if file.is_file():
            with file.open("rb", buffering=0) as opened:
                while opened.readinto(buffer):
                    pass


def drop_pages(path: Path) -> None:
    """Has the kernel drop a file from its page cache, or all files below a directory, so that a disk is measured."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())  # pages that are not written yet cannot be dropped
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
