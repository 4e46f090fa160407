"""Programs in the middle of writing, through the kernel, while somebody commits: all ways to write × kinds of files.

Each case is a directory with an array of its own, so that one commit meets all of them at once.
"""

import contextlib
import ctypes
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, product
from pathlib import Path
from typing import Any

import pytest

from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from icefs.zarr.keys import is_zarr_key
from icefs.zarr.reader import KeyReader
from icefs.zarr.writer import KeyWriter, MetadataTarget
from tests.support.mounting import Mount, mounted

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
CHUNK_BYTES = 8192
NUMBERS = count(1)
SHARDING = {
    "name": "sharding_indexed",
    "configuration": {
        "chunk_shape": [CHUNK_BYTES // 2],
        "codecs": [{"name": "bytes"}],
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    },
}


def array(*codecs: Any) -> bytes:
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [4 * CHUNK_BYTES],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [CHUNK_BYTES]}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 0,
        "codecs": list(codecs) or [{"name": "bytes"}],
        "attributes": {"n": next(NUMBERS)},
    }
    return json.dumps(document).encode().ljust(CHUNK_BYTES)


def chunk() -> bytes:
    return next(NUMBERS).to_bytes(2, "little") * (CHUNK_BYTES // 2)


GROUP = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}}).encode()

# What is there before, and the file that is written to.
KINDS: dict[str, tuple[dict[str, Callable[[], bytes]], str]] = {
    "zarr.json": ({"zarr.json": array, "c/0": chunk}, "zarr.json"),
    "chunk": ({"zarr.json": array, "c/0": chunk, "c/1": chunk}, "c/0"),
    "new chunk": ({"zarr.json": array, "c/0": chunk}, "c/2"),
    "new array": ({}, "zarr.json"),
    "shard": ({"zarr.json": lambda: array(SHARDING), "c/0": chunk}, "c/0"),
    "untracked": ({"zarr.json": array}, "notes.txt"),
}


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o644)


@dataclass
class Writer:
    """A program with a file, and what it does with it before the commit and after it.

    Attributes:
        path: The file.
        whole: What it is to hold in the end.
        is_done: Whether it holds that already, and nobody is about to write more.
        fds: Descriptors that it has open.
        mappings: Mappings of the file.
    """

    path: Path
    whole: bytes
    is_done: bool = False
    fds: list[int] = field(default_factory=list)
    mappings: list[Any] = field(default_factory=list)

    def keep(self, flags: int) -> int:
        self.fds.append(_open(self.path, flags))
        return self.fds[-1]

    def close(self) -> None:
        for mapping in self.mappings:
            mapping.close()
        for fd in self.fds:
            os.close(fd)

    def give_up(self) -> None:
        with contextlib.suppress(OSError):  # half a zarr.json is refused
            self.close()

    def finish(self) -> None:
        """Completes the file and closes it."""
        if not self.is_done:
            if self.mappings:
                self.mappings[0][:] = self.whole
            elif self.fds:
                os.ftruncate(self.fds[0], 0)
                os.pwrite(self.fds[0], self.whole, 0)
        self.close()


def truncated(one: Writer) -> None:
    one.keep(os.O_WRONLY | os.O_TRUNC)


def partly(one: Writer) -> None:
    os.write(one.keep(os.O_WRONLY | os.O_TRUNC), one.whole[:5000])


def in_place(one: Writer) -> None:
    os.pwrite(one.keep(os.O_RDWR), one.whole[:5000], 0)


def appended(one: Writer) -> None:
    os.write(one.keep(os.O_WRONLY | os.O_APPEND), b"more")


def flushed(one: Writer) -> None:
    """Another descriptor of the same opening was closed, as a child process does."""
    fd = one.keep(os.O_WRONLY | os.O_TRUNC)
    os.write(fd, one.whole[:5000])
    with contextlib.suppress(OSError):  # half a zarr.json is refused
        os.close(os.dup(fd))


def mapped(one: Writer) -> None:
    fd = one.keep(os.O_RDWR)
    os.ftruncate(fd, len(one.whole))
    one.mappings.append(mmap.mmap(fd, len(one.whole)))
    one.mappings[0][:5000] = one.whole[:5000]


class Mapping:
    """A shared mapping without a descriptor."""

    def __init__(self, fd: int, size: int) -> None:
        self._size = size
        self._address = LIBC.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
        assert self._address not in (None, ctypes.c_void_p(-1).value)

    def __setitem__(self, where: slice, data: bytes) -> None:
        ctypes.memmove(self._address + (where.start or 0), data, len(data))

    def close(self) -> None:
        assert LIBC.munmap(ctypes.c_void_p(self._address), ctypes.c_size_t(self._size)) == 0


def mapped_and_closed(one: Writer) -> None:
    """The descriptor is gone, the pages are not written yet. Python's own mappings keep a descriptor."""
    fd = one.keep(os.O_RDWR)
    os.ftruncate(fd, len(one.whole))
    one.mappings.append(Mapping(fd, len(one.whole)))
    one.mappings[0][:5000] = one.whole[:5000]
    with contextlib.suppress(OSError):  # half a zarr.json is refused
        os.close(one.fds.pop())


def renamed(one: Writer) -> None:
    temporary = one.path.with_name(".temporary")
    one.fds.append(_open(temporary, os.O_WRONLY | os.O_EXCL))
    os.write(one.fds[0], one.whole[:5000])
    temporary.rename(one.path)


def complete_and_open(one: Writer) -> None:
    os.write(one.keep(os.O_WRONLY | os.O_TRUNC), one.whole)


def unchanged(one: Writer) -> None:
    one.path.write_bytes(one.whole)
    one.keep(os.O_RDWR)
    one.is_done = True


def closed(one: Writer) -> None:
    os.write(one.keep(os.O_WRONLY | os.O_TRUNC), one.whole)
    os.close(one.fds.pop())
    one.is_done = True


def unmapped(one: Writer) -> None:
    mapped(one)
    one.mappings[0][:] = one.whole
    one.close()
    one.fds, one.mappings, one.is_done = [], [], True


WAYS: list[Callable[[Writer], None]] = [
    truncated,
    partly,
    in_place,
    appended,
    flushed,
    mapped,
    mapped_and_closed,
    renamed,
    complete_and_open,
    unchanged,
    closed,
    unmapped,
]
CASES = [(f"{way.__name__}-{kind.replace(' ', '_')}", way, kind) for way, kind in product(WAYS, KINDS)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mount, WritableRepository]]:
    """A repository with the files of all cases in `main`, mounted as a whole."""
    repo = tmp_path_factory.mktemp("open") / "repo"
    repository = WritableRepository.create(open_storage(str(repo)))
    session = repository.writable_session("main")
    writer = KeyWriter(session, KeyReader(session))
    session.nodes.put("/", GROUP)
    for name, _, kind in CASES:
        for below, make in KINDS[kind][0].items():
            target = writer.target(f"{name}/{below}")
            if isinstance(target, MetadataTarget):
                session.nodes.put(target.path, make())
            else:
                session.chunks.set(target.path, target.index, make())
    session.commit("made")
    with mounted(repo, state_dir=str(repo.parent / "trees")) as mount:
        yield mount, repository
    repository.close()


def committed(repository: WritableRepository, branch: str) -> dict[str, bytes]:
    repository = WritableRepository.open(repository.storage)
    try:
        reader = KeyReader(repository.session_at(repository.lookup_branch(branch)))
        return {key: bytes(reader.read(key) or b"") for batch in reader.list_batches() for key in batch}
    finally:
        repository.close()


def tree(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def answer_of(mount: Mount, tree: str, **request: Any) -> dict[str, Any]:
    return mount.rpc({"op": "commit", "message": "x", **request}, tree)[-1]


@pytest.mark.parametrize("how", ["plain", "amend", "rebase"])
def test_each_file_is_committed_whole_or_not_at_all(shared: tuple[Mount, WritableRepository], how: str) -> None:
    mount, repository = shared
    repository.create_branch(how, repository.lookup_branch("main"))
    mount.refresh()
    place, branch = mount.path / "branches" / how, f"branches/{how}"
    before = committed(repository, how)
    with contextlib.ExitStack() as stack:
        writers = {}
        for name, way, kind in CASES:
            below = KINDS[kind][1]
            path = place / name / below
            path.parent.mkdir(parents=True, exist_ok=True)
            one = writers[f"{name}/{below}"] = Writer(path, (array if below == "zarr.json" else chunk)())
            way(one)
            stack.callback(one.give_up)
            if kind == "new array":  # its chunks are there before its zarr.json is
                (place / name / "c").mkdir()
                (place / name / "c" / "0").write_bytes(chunk())
        if how == "rebase":
            session = repository.writable_session(how)
            session.nodes.put("/theirs", GROUP)
            session.commit("theirs")
        more = {"plain": {}, "amend": {"amend": True}, "rebase": {"rebase": "fail"}}[how]
        now = tree(place)
        answer = answer_of(mount, branch, **more)
        assert answer["type"] == "result", answer
        after = committed(repository, how)
        shown = tree(place)
        assert shown == now | ({"theirs/zarr.json": GROUP} if how == "rebase" else {})

        unfinished = {path for path, one in writers.items() if not one.is_done and is_zarr_key(path)}
        waiting = {path.replace("zarr.json", "c/0") for path in unfinished if "new_array" in path}
        assert {one["path"] for one in answer["open"]} == unfinished | waiting
        assert answer["left_out"]["open"] == len(unfinished | waiting)
        assert {one["path"] for one in mount.control("status.json", branch)["open"]} == unfinished | waiting
        assert answer["invalid"] == []
        for path in before.keys() | now.keys():
            is_taken = is_zarr_key(path) and path not in unfinished | waiting
            assert after.get(path) == (now.get(path) if is_taken else before.get(path)), path

        stack.pop_all()
        for one in writers.values():
            one.finish()
    last = tree(place)
    assert {path: last[path] for path in writers} == {path: one.whole for path, one in writers.items()}
    answer = answer_of(mount, branch)
    assert (answer["type"], answer["open"]) == ("result", []), answer
    assert committed(repository, how) == {path: data for path, data in last.items() if is_zarr_key(path)}
    assert mount.control("status.json", branch)["open"] == []


def test_an_option_takes_open_files_as_they_are(shared: tuple[Mount, WritableRepository]) -> None:
    mount, repository = shared
    repository.create_branch("included", repository.lookup_branch("main"))
    mount.refresh()
    place = mount.path / "branches" / "included"
    writers = []
    for name, way, kind in CASES:
        if way in (complete_and_open, mapped_and_closed) and kind in ("chunk", "new chunk", "shard"):
            one = Writer(place / name / KINDS[kind][1], chunk())
            way(one)
            writers.append(one)
    try:
        now = tree(place)
        told = answer_of(mount, "branches/included")
        assert told["kind"] == "no-changes-to-commit"
        assert len(told["open"]) == len(writers) == 6
        assert "open for writing" in told["message"]
        assert "--include-open" in told["hint"]
        answer = answer_of(mount, "branches/included", include_open=True)
        assert (answer["type"], answer["open"], answer["chunks"]) == ("result", [], 6)
        assert committed(repository, "included") == now == tree(place)
        assert mount.control("status.json", "branches/included")["open"] == []
    finally:
        for one in writers:
            one.finish()
    assert answer_of(mount, "branches/included")["open"] == []
    assert committed(repository, "included") == tree(place)


def test_what_a_program_closed_before_it_ended_is_taken(shared: tuple[Mount, WritableRepository]) -> None:
    """However many files: the kernel says that they are closed after the program has ended."""
    mount, repository = shared
    repository.create_branch("ended", repository.lookup_branch("main"))
    mount.refresh()
    place = mount.path / "branches" / "ended"
    program = """
import mmap, os, sys
for number in range(200):
    place = f"{sys.argv[1]}/many{number}"
    os.makedirs(f"{place}/c")
    open(f"{place}/zarr.json", "wb").write(sys.argv[2].encode())
    fd = os.open(f"{place}/c/0", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 8192)
    mapping = mmap.mmap(fd, 8192)
    mapping[:] = bytes([number]) * 8192
"""
    subprocess.run([sys.executable, "-c", program, place, array().decode()], check=True)
    answer = answer_of(mount, "branches/ended")
    assert (answer["open"], answer["nodes"], answer["chunks"]) == ([], 200, 200)
    assert committed(repository, "ended") == tree(place)
