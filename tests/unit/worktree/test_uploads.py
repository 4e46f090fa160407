"""Staged chunks become objects and references: inline, shared or of their own, and nothing is lost when it fails."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from icefs.engine.write.packing import packed_below, plan_packs
from icefs.errors import StorageError
from icefs.format.manifest.refs import ChunkKind, InlineRef, NativeRef
from icefs.storage.base import Storage
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from icefs.worktree.upload.options import UploadOptions
from icefs.worktree.upload.uploader import UploadProgress
from tests.support.faulty import FaultyStorage
from tests.support.hex_storage import HexStorage
from tests.support.staged_chunks import StagedChunks, path_of

KIB = 1024
UNPACKED = UploadOptions(pack_bytes=0)


def numbered(number: int, size: int) -> bytes:
    return (b"%d," % number * size)[:size]


def spool_files(staged: StagedChunks) -> list[Path]:
    return [path for path in (staged.directory / "spool").rglob("*") if path.is_file()]


@pytest.fixture(params=["memory", "local", "hex"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "memory":
        return MemoryStorage()
    local = LocalStorage(tmp_path / "repo")
    return local if request.param == "local" else HexStorage(local)


@pytest.fixture
def open_staged(tmp_path: Path) -> Iterator[Callable[[Storage], StagedChunks]]:
    opened = []

    def open_(storage: Storage) -> StagedChunks:
        opened.append(StagedChunks(storage, tmp_path / "state"))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


@pytest.fixture
def staged(storage: Storage, open_staged: Callable[[Storage], StagedChunks]) -> StagedChunks:
    return open_staged(storage)


@pytest.mark.parametrize("pack_bytes", [0, 64 * KIB, 8 << 20])
def test_every_chunk_is_stored_as_it_was_written(staged: StagedChunks, pack_bytes: int) -> None:
    sizes = [1, 511, 512, 513, 4000, 9000, 8192, 100_000]
    chunks = {(number // 13, number % 13): numbered(number, sizes[number % len(sizes)]) for number in range(150)}
    staged.write(chunks)
    # The order in which they are given does not matter.
    refs = staged.store(dict(reversed(chunks.items())), UploadOptions(pack_bytes=pack_bytes))
    assert staged.stored(refs) == chunks
    kinds = {index: refs.kinds[row] for row, index in enumerate(refs.indices)}
    assert {index for index, kind in kinds.items() if kind == ChunkKind.INLINE} == {
        index for index, data in chunks.items() if len(data) <= 512
    }
    assert staged.stored(staged.store(chunks, UNPACKED)) == chunks


def test_small_chunks_share_objects_in_their_order(staged: StagedChunks) -> None:
    chunks = {(row, column): numbered(row + column, 1000 + row) for row in range(30) for column in range(10)}
    staged.write(chunks)
    refs = staged.store(dict(sorted(chunks.items(), key=lambda item: item[1])), UploadOptions(pack_bytes=32 * KIB))
    assert staged.stored(refs) == chunks
    total = sum(map(len, chunks.values()))
    assert len(staged.objects()) <= total // (30 * KIB) + 1
    assert max(staged.objects().values()) <= 64 * KIB  # twice, where a test's storage stores two bytes for one
    # Within an object, each begins where its neighbour ends.
    for row in range(1, len(refs)):
        before, after = refs.ref(row - 1), refs.ref(row)
        assert isinstance(before, NativeRef)
        assert isinstance(after, NativeRef)
        same = before.chunk_id == after.chunk_id
        assert after.offset_bytes == (before.offset_bytes + before.length_bytes if same else 0)


def test_ten_thousand_chunks_cost_tens_of_requests(open_staged: Callable[[Storage], StagedChunks]) -> None:
    storage = FaultyStorage(MemoryStorage())
    staged = open_staged(storage)
    chunks = {(number,): numbered(number, 10 * KIB) for number in range(2500)}
    staged.write(chunks)
    storage.clear()
    staged.store(chunks)
    assert len([call for call in storage.calls if call.method == "put"]) == 4


def test_large_chunks_have_objects_of_their_own(staged: StagedChunks) -> None:
    chunks = {(number,): numbered(number, size) for number, size in enumerate([1 << 20, 8000, (1 << 20) - 1, 4 << 20])}
    staged.write(chunks)
    refs = staged.store(chunks)
    assert staged.stored(refs) == chunks
    ids = [bytes(chunk_id) for chunk_id in refs.chunk_ids]
    is_local = staged.storage.capabilities.local_files  # where the third one is large, too
    assert len(set(ids)) == (4 if is_local else 3)
    assert is_local or ids[1] == ids[2]


def test_a_scalar_array_has_one_chunk(staged: StagedChunks) -> None:
    staged.driver.rmdir("a/c")
    staged.driver.write("a/c", b"x" * 1000)
    frozen = staged.driver.tree.freeze()
    staged.driver.tree.abandon(frozen)
    refs = staged.store_paths({(): "a/c"})
    assert staged.stored(refs) == {(): b"x" * 1000}


def test_progress_tells_files_and_bytes(staged: StagedChunks) -> None:
    chunks = {(number,): numbered(number, 300 * (number % 5 + 1)) for number in range(500)}
    staged.write(chunks)
    staged.store(chunks, UNPACKED)
    total = sum(map(len, chunks.values()))
    assert staged.told[0] == UploadProgress(0, 500, 0, total)
    assert staged.told[-1] == UploadProgress(500, 500, total, total)
    assert staged.told == sorted(staged.told, key=lambda told: told.files)
    assert len(staged.told) > 1


def test_what_progress_raises_ends_the_upload(staged: StagedChunks) -> None:
    staged.write({(0,): b"x" * 1000})

    class EndedError(Exception):
        pass

    def tell(progress: UploadProgress) -> None:
        raise EndedError

    with pytest.raises(EndedError):
        staged.store({(0,): b""}, progress=tell)
    assert staged.stored(staged.store({(0,): b""})) == {(0,): b"x" * 1000}


# On the same disk


@pytest.fixture
def local(tmp_path: Path, open_staged: Callable[[Storage], StagedChunks]) -> StagedChunks:
    return open_staged(LocalStorage(tmp_path / "repo"))


def test_objects_on_the_same_disk_are_the_spool_files_themselves(local: StagedChunks, tmp_path: Path) -> None:
    local.write({(0,): b"x" * 5000})
    local.store({(0,): b""}, UNPACKED)
    (spooled,) = spool_files(local)
    (key,) = local.objects()
    assert (tmp_path / "repo" / key).stat().st_ino == spooled.stat().st_ino


@pytest.mark.parametrize("how", ["part", "whole", "append", "truncate", "longer"])
@pytest.mark.parametrize("again", [False, True])
def test_an_object_stays_when_its_file_is_written_to(
    local: StagedChunks, tmp_path: Path, how: str, again: bool
) -> None:
    before = b"x" * 5000
    local.write({(0,): before})
    refs = local.store({(0,): b""}, UNPACKED)  # and the commit failed: the file is still staged
    if again:  # after a restart, too
        local.reopen()
    driver, path = local.driver, path_of((0,))
    if how == "whole":
        driver.write(path, b"new")
    elif how in ("truncate", "longer"):
        driver.truncate(path, 10 if how == "truncate" else 6000)
    else:
        handle = driver.open(path, os.O_WRONLY | (os.O_APPEND if how == "append" else 0))
        driver.tree.files.write(handle, 0, b"new")
        driver.close(handle)
    after = driver.read(path)
    assert (
        after
        == {
            "part": b"new" + before[3:],
            "whole": b"new",
            "append": before + b"new",
            "truncate": before[:10],
            "longer": before + bytes(1000),
        }[how]
    )
    assert local.stored(refs) == {(0,): before}
    assert len(spool_files(local)) == 1
    assert local.stored(local.store({(0,): b""}, UNPACKED)) == {(0,): after}
    local.reopen()
    assert local.driver.read(path) == after


def test_a_commit_that_failed_leaves_times_alone(local: StagedChunks) -> None:
    local.write({(0,): b"x" * 5000})
    before = local.driver.stat(path_of((0,)))
    local.store({(0,): b""}, UNPACKED)
    assert local.driver.stat(path_of((0,))) == before
    local.reopen()
    after = local.driver.stat(path_of((0,)))
    assert (after.mtime_ns, after.size) == (before.mtime_ns, before.size)
    assert local.driver.tree.recovery.rewritten == local.driver.tree.recovery.changed == []


# What goes wrong


def test_a_store_that_fails_leaves_everything_staged(open_staged: Callable[[Storage], StagedChunks]) -> None:
    storage = FaultyStorage(MemoryStorage())
    staged = open_staged(storage)
    chunks = {(number,): numbered(number, 2000) for number in range(40)}
    staged.write(chunks)
    for lose in (storage.fail, storage.lose_answer):
        for at in (1, 2, 7, 20):
            storage.clear()
            lose(methods="put", keys="chunks/", at=at)
            with pytest.raises(StorageError, match="planned fault"):
                staged.store(chunks, UploadOptions(pack_bytes=4 * KIB) if at < 20 else UNPACKED)
            storage.clear()
            assert {index: staged.driver.read(path_of(index)) for index in chunks} == chunks
    assert staged.stored(staged.store(chunks, UNPACKED)) == chunks


@pytest.mark.parametrize("size", [100, 5000])
@pytest.mark.parametrize("pack_bytes", [0, 8 << 20])
def test_a_file_that_the_disk_shortened_is_not_committed(local: StagedChunks, size: int, pack_bytes: int) -> None:
    local.write({(0,): b"x" * size})
    (spooled,) = spool_files(local)
    os.truncate(spooled, size - 1)
    with pytest.raises(StorageError, match=r"'a/c/0' has \d+ bytes"):
        local.store({(0,): b""}, UploadOptions(pack_bytes=pack_bytes))


@pytest.mark.parametrize("size", [100, 5000, 3 << 20])
def test_a_file_that_became_longer_on_the_disk_is_not_committed(local: StagedChunks, size: int) -> None:
    local.write({(0,): b"x" * size})
    (spooled,) = spool_files(local)
    os.truncate(spooled, size + (3 << 20))
    with pytest.raises(StorageError, match=f"'a/c/0' has {size + (3 << 20)} bytes .* had {size} when"):
        local.store({(0,): b""}, UploadOptions(pack_bytes=64 << 20))


@pytest.mark.parametrize("size", [100, 5000])
def test_a_file_that_is_gone_is_not_committed(local: StagedChunks, size: int) -> None:
    local.write({(0,): b"x" * size})
    (spooled,) = spool_files(local)
    spooled.unlink()
    with pytest.raises(StorageError, match="No such file"):
        local.store({(0,): b""}, UNPACKED)


# Packing


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([5], [(0, 1)]),
        ([5, 5], [(0, 2)]),
        ([5, 5, 1], [(0, 2), (2, 3)]),
        ([9, 2, 9, 1, 1], [(0, 1), (1, 2), (2, 4), (4, 5)]),
    ],
)
def test_packs_are_filled_in_order(sizes: list[int], expected: list[tuple[int, int]]) -> None:
    assert list(plan_packs(sizes, 10)) == expected


def test_which_chunks_are_packed() -> None:
    assert packed_below(8 << 20, is_local=False) == 1 << 20
    assert packed_below(8 << 20, is_local=True) == 64 * KIB
    assert packed_below(1000, is_local=True) == 125
    assert packed_below(0, is_local=True) == packed_below(0, is_local=False) == 0


def test_inline_chunks_make_no_request(open_staged: Callable[[Storage], StagedChunks]) -> None:
    storage = FaultyStorage(MemoryStorage())
    staged = open_staged(storage)
    chunks = {(number,): numbered(number, 100) for number in range(50)}
    staged.write(chunks)
    storage.clear()
    refs = staged.store(chunks)
    assert [call for call in storage.calls if call.method == "put"] == []
    assert all(isinstance(refs.ref(row), InlineRef) for row in range(50))
