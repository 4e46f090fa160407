"""What is timed of writing; run as the clients of `clients`, in processes of their own.

Each takes a directory that it may fill: of a mount, or of a plain disk. Those of the official library take the
directory that a repository is made in.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

SMALL_FILES = 4096
SMALL_BYTES = 4096
BIG_FILES = 512
BIG_BYTES = 1 << 20
STAGED_CHUNKS = 100_000
STAGED_BYTES = 1024
MILLION = 1_000_000

_WRITE_ONCE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC


def _write_file(path: str, data: bytes) -> None:
    fd = os.open(path, _WRITE_ONCE, 0o644)
    os.write(fd, data)
    os.close(fd)


def _go_to_new(directory: str) -> None:
    path = Path(directory, "c")
    path.mkdir()
    os.chdir(path)


def create_write_close(directory: str) -> float:
    """Makes 4096 files of 4 KiB in one directory."""
    _go_to_new(directory)
    data = os.urandom(SMALL_BYTES)
    start = time.perf_counter()
    for number in range(SMALL_FILES):
        _write_file(str(number), data)
    return time.perf_counter() - start


def write_rename(directory: str) -> float:
    """Makes 4096 files of 4 KiB under other names first, as zarr-python does."""
    _go_to_new(directory)
    data = os.urandom(SMALL_BYTES)
    start = time.perf_counter()
    for number in range(SMALL_FILES):
        name = str(number)
        temporary = f"{name}.0123456789abcdef.partial"
        _write_file(temporary, data)
        os.rename(temporary, name)
    return time.perf_counter() - start


def write_big(directory: str) -> float:
    """Makes 512 files of 1 MiB."""
    _go_to_new(directory)
    data = os.urandom(BIG_BYTES)
    start = time.perf_counter()
    for number in range(BIG_FILES):
        _write_file(str(number), data)
    return time.perf_counter() - start


def _commit(mountpoint: str) -> float:
    start = time.perf_counter()
    Path(mountpoint, ".icefs/commit").write_text("benchmark\n")
    return time.perf_counter() - start


def _gibibyte() -> "object":
    import numpy as np

    return np.random.default_rng(7).integers(1, 255, 1 << 30, dtype="u1")


def _write_array(store: object, data: "object") -> None:
    import zarr

    array = zarr.create_array(
        store, name="big", shape=(1 << 30,), chunks=(1 << 20,), dtype="u1", compressors=None, filters=None, fill_value=0
    )
    array[:] = data


def zarr_write_commit(mountpoint: str) -> float:
    """Writes a 1 GiB array with zarr-python's LocalStore, and commits it."""
    import zarr

    data = _gibibyte()
    start = time.perf_counter()
    _write_array(zarr.storage.LocalStore(mountpoint), data)
    _commit(mountpoint)
    return time.perf_counter() - start


def official_zarr_write_commit(directory: str) -> float:
    """Writes the same array through the official library's store, and commits it."""
    os.environ.setdefault("ICECHUNK_LOG", "error")
    import icechunk

    data = _gibibyte()
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(f"{directory}/official"))
    start = time.perf_counter()
    session = repo.writable_session("main")
    _write_array(session.store, data)
    session.commit("benchmark")
    return time.perf_counter() - start


class _Probe(threading.Thread):
    """Does something again and again, and keeps the longest time that it took."""

    def __init__(self, action: Callable[[int], None]) -> None:
        super().__init__(daemon=True)
        self._action = action
        self._stop_now = threading.Event()
        self.longest_s = 0.0
        self.error: OSError | None = None

    def run(self) -> None:
        number = 0
        while not self._stop_now.wait(0.002):
            number += 1
            start = time.perf_counter()
            try:
                self._action(number)
            except OSError as error:
                self.error = error
                return
            self.longest_s = max(self.longest_s, time.perf_counter() - start)

    def result(self) -> float:
        """Stops; returns the longest time in seconds."""
        self._stop_now.set()
        self.join()
        if self.error is not None:
            raise self.error
        return self.longest_s


def staged_commit(mountpoint: str) -> float:
    """Commits 100 000 small chunks while somebody reads chunks and somebody writes others.

    Prints the longest stalls as JSON before the seconds that the commit took.
    """
    os.chdir(mountpoint)
    data = os.urandom(STAGED_BYTES)
    columns = STAGED_CHUNKS // 100
    for row in range(100):
        os.makedirs(f"staged/c/{row}")
        for column in range(columns):
            _write_file(f"staged/c/{row}/{column}", data)
    os.makedirs("others")

    def read(number: int) -> None:
        with open(f"a/c/{number % 64}/{number // 64 % 64}", "rb", buffering=0) as file:
            file.read()

    reader, writer = _Probe(read), _Probe(lambda number: _write_file(f"others/{number}.txt", data))
    reader.start()
    writer.start()
    seconds = _commit(".")
    stalls = {"reader": reader.result(), "writer": writer.result()}
    state = json.loads(Path(".icefs/commit").read_text())
    if state["chunks"] != STAGED_CHUNKS:
        raise SystemExit(f"committed {state['chunks']} chunks only")
    print(json.dumps(stalls))
    return seconds


def _touch_million(library: ModuleType, directory: str) -> float:
    import numpy as np
    import zarr

    source = Path(directory, "million.bin")
    source.write_bytes(bytes(4096))
    repo = library.Repository.create(library.local_filesystem_storage(f"{directory}/{library.__name__}"))
    session = repo.writable_session("main")
    zarr.create_array(
        session.store, name="a", shape=(16_000, 16_000), chunks=(16, 16), dtype="u1", compressors=None, filters=None,
        fill_value=0,
    )  # fmt: skip
    session.commit("an array")
    locations = [f"file://{source}"] * MILLION
    offsets, lengths = np.zeros(MILLION, dtype="u8"), np.full(MILLION, 256, dtype="u8")
    start = time.perf_counter()
    session = repo.writable_session("main")
    session.store.set_virtual_refs_arr("a", (1000, 1000), locations, offsets, lengths, validate_containers=False)
    session.commit("a million references")
    return time.perf_counter() - start


def million_refs(directory: str) -> float:
    """Sets a million references in one transaction."""
    import icefs

    return _touch_million(icefs, directory)


def official_million_refs(directory: str) -> float:
    """Does the same with the official library."""
    os.environ.setdefault("ICECHUNK_LOG", "error")
    import icechunk

    return _touch_million(icechunk, directory)


CLIENTS: dict[str, Callable[[str], float]] = {
    function.__name__: function
    for function in (
        create_write_close, write_rename, write_big, zarr_write_commit, official_zarr_write_commit, staged_commit,
        million_refs, official_million_refs,
    )
}  # fmt: skip
