"""Chunks are uploaded while nobody waits for them; commits use what is stored, and nothing of it is ever wrong."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from icefs.engine.upkeep.garbage import collect_garbage
from icefs.errors import StorageError
from icefs.format.manifest.refs import ArrayRefs
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from icefs.worktree.upload.log import LOG_NAME
from icefs.worktree.upload.options import UploadOptions
from tests.support.faulty import FaultyStorage
from tests.support.staged_chunks import StagedChunks, path_of

KIB = 1024
SOON = UploadOptions(pack_bytes=0, quiet_s=0.01)
PACKED = UploadOptions(pack_bytes=64 * KIB, quiet_s=0.01)


@pytest.fixture
def storage() -> FaultyStorage:
    return FaultyStorage(MemoryStorage())


@pytest.fixture
def staged(storage: FaultyStorage, tmp_path: Path) -> Iterator[StagedChunks]:
    staged = StagedChunks(storage, tmp_path / "state")
    storage.clear()
    yield staged
    staged.close()


def puts(staged: StagedChunks) -> int:
    assert isinstance(staged.storage, FaultyStorage)
    return len([call for call in staged.storage.calls if call.method == "put" and call.key.startswith("chunks/")])


def looked_up(storage: FaultyStorage) -> int:
    """Returns how many chunks the store was asked for; a collection asks for the store's time in the same way."""
    return len([call for call in storage.calls if call.method == "head" and call.key.startswith("chunks/")])


def check(staged: StagedChunks, chunks: dict[tuple[int, ...], bytes], options: UploadOptions = SOON) -> ArrayRefs:
    refs = staged.store(chunks, options)
    assert staged.stored(refs) == chunks
    return refs


def several(count: int, size: int) -> dict[tuple[int, ...], bytes]:
    return {(number // 10, number % 10): (b"%d," % number * size)[:size] for number in range(count)}


def test_quiet_chunks_are_stored_before_the_commit(staged: StagedChunks) -> None:
    chunks = several(20, 2000)
    staged.start_uploads(SOON)
    staged.write(chunks)
    state = staged.wait_for(lambda state: (state.stored, state.pending) == (20, 0))
    assert (state.stored_bytes, state.error) == (40_000, None)
    assert puts(staged) == 20
    check(staged, chunks)
    assert puts(staged) == 20


def test_a_chunk_rewritten_before_its_upload_costs_one_request(staged: StagedChunks) -> None:
    now_s = 0.0
    staged.start_uploads(UploadOptions(pack_bytes=0, quiet_s=5), lambda: now_s)
    for number in range(5):
        staged.write({(0,): b"%d" % number * 1000})
        now_s += 4.9
    now_s += 0.2
    assert staged.driver.tree.uploads is not None
    with staged.driver.tree.uploads.paused(lambda: None):
        pass  # and looks at the clock again
    staged.wait_for(lambda state: state.stored == 1)
    check(staged, {(0,): b"4" * 1000})
    assert puts(staged) == 1


def test_what_is_open_or_no_chunk_is_left_alone(staged: StagedChunks) -> None:
    staged.start_uploads(SOON)
    handle = staged.driver.open(path_of((0,)), os.O_WRONLY | os.O_CREAT)
    staged.driver.tree.files.write(handle, 0, b"x" * 1000)
    staged.driver.tree.files.flush(handle)
    for path in ("a/zarr.json", "notes.txt", "a/c/5.partial"):
        staged.driver.write(path, b"{}" * 1000)
    staged.write({(1,): b"small", (2,): b"y" * 1000})
    staged.wait_for(lambda state: state.stored == 1 and not state.pending)
    staged.driver.close(handle)
    staged.wait_for(lambda state: state.stored == 2)
    assert puts(staged) == 2


@pytest.mark.parametrize("how", ["part", "whole", "truncate", "gone", "renamed"])
def test_changes_after_the_upload(staged: StagedChunks, how: str) -> None:
    staged.start_uploads(SOON)
    staged.write({(0,): b"x" * 2000, (1,): b"y" * 2000})
    staged.wait_for(lambda state: state.stored == 2)
    driver = staged.driver
    expected = {(1,): b"y" * 2000}
    if how == "part":
        handle = driver.open(path_of((0,)), os.O_WRONLY)
        driver.tree.files.write(handle, 500, b"new")
        driver.close(handle)
        expected[0,] = b"x" * 500 + b"new" + b"x" * 1497
    elif how == "whole":
        driver.write(path_of((0,)), b"n" * 2000)
        expected[0,] = b"n" * 2000
    elif how == "truncate":
        driver.truncate(path_of((0,)), 600)
        expected[0,] = b"x" * 600
    elif how == "gone":
        driver.unlink(path_of((0,)))
    else:
        driver.rename(path_of((0,)), path_of((7,)))
        expected[7,] = b"x" * 2000
    if how != "gone":
        staged.wait_for(lambda state: (state.stored, state.pending) == (2, 0))
    check(staged, expected)
    assert puts(staged) == (2 if how in ("gone", "renamed") else 3)
    spool = [path for path in (staged.directory / "spool").rglob("*") if path.is_file()]
    assert len(spool) == len(expected)


def test_uploads_are_remembered_over_a_restart(staged: StagedChunks) -> None:
    chunks = several(10, 2000)
    staged.start_uploads(SOON)
    staged.write(chunks)
    staged.wait_for(lambda state: state.stored == 10)
    staged.reopen()
    staged.start_uploads(SOON)
    assert staged.wait_for(lambda state: state.stored == 10).pending == 0
    # Uploaded files stay as they were: writers get a file of their own, after a restart as well.
    handle = staged.driver.open(path_of((0, 0)), os.O_WRONLY)
    staged.driver.tree.files.write(handle, 0, b"new")
    staged.driver.close(handle)
    chunks[0, 0] = b"new" + chunks[0, 0][3:]
    staged.wait_for(lambda state: (state.stored, state.pending) == (10, 0))
    check(staged, chunks)
    assert puts(staged) == 11


def test_a_restart_goes_on_with_what_was_not_uploaded(staged: StagedChunks) -> None:
    chunks = several(10, 2000)
    staged.write(chunks)
    staged.reopen()
    staged.start_uploads(SOON)
    staged.wait_for(lambda state: state.stored == 10)
    check(staged, chunks)
    assert puts(staged) == 10


@pytest.mark.parametrize("damage", ["missing", "garbage", "newer"])
def test_a_lost_record_costs_uploads_only(staged: StagedChunks, damage: str) -> None:
    chunks = several(5, 2000)
    staged.start_uploads(SOON)
    staged.write(chunks)
    staged.wait_for(lambda state: state.stored == 5)
    staged.close()
    path = staged.directory / LOG_NAME
    if damage == "missing":
        path.unlink()
    elif damage == "garbage":
        path.write_bytes(b"no database" * 1000)
    else:
        with sqlite3.connect(path) as database:
            database.execute("pragma user_version = 99")
        database.close()
    staged.reopen(was_closed=True)
    staged.start_uploads(SOON)
    staged.wait_for(lambda state: state.stored == 5)
    check(staged, chunks)
    assert puts(staged) == 10


def test_a_record_of_another_file_is_not_believed(staged: StagedChunks) -> None:
    staged.start_uploads(SOON)
    staged.write({(0,): b"x" * 2000})
    staged.wait_for(lambda state: state.stored == 1)
    staged.close()
    (spooled,) = [path for path in (staged.directory / "spool").rglob("*") if path.is_file()]
    spooled.write_bytes(b"z" * 2000)  # as a power loss might, after which the clock had gone on
    staged.reopen(was_closed=True)
    staged.start_uploads(SOON)
    check(staged, {(0,): b"z" * 2000})


def test_small_chunks_wait_for_their_neighbours(staged: StagedChunks) -> None:
    chunks = several(100, 2000)
    staged.start_uploads(PACKED)
    staged.write(chunks)
    # 64 KiB hold 32 of them. Files that may still get neighbours wait.
    state = staged.wait_for(lambda state: state.stored >= 64)
    staged.wait_for(lambda state: state.stored + state.pending == 100)
    assert state.pending > 0
    refs = check(staged, chunks, PACKED)
    assert puts(staged) <= 5
    ids = [bytes(chunk_id) for chunk_id in refs.chunk_ids]
    assert max(ids.count(one) for one in ids) == 32


def test_a_store_that_is_away_keeps_nobody_from_writing(staged: StagedChunks, storage: FaultyStorage) -> None:
    away = storage.fail(methods="put", keys="chunks/", times=None)
    chunks = several(10, 2000)
    staged.start_uploads(replace(SOON, first_backoff_s=0.01))
    staged.write(chunks)
    state = staged.wait_for(lambda state: state.error is not None and away.fired >= 3)
    assert state.stored == 0
    assert "planned fault" in str(state.error)
    with pytest.raises(StorageError, match="planned fault"):
        staged.store(chunks, SOON)
    staged.write({(9, 9): b"later" * 400})
    chunks[9, 9] = b"later" * 400
    storage.clear()
    staged.wait_for(lambda state: (state.stored, state.pending, state.error) == (11, 0, None))
    check(staged, chunks)
    assert puts(staged) == 11


def test_requests_to_a_store_that_is_away_stay_few(staged: StagedChunks, storage: FaultyStorage) -> None:
    away = storage.fail(methods="put", keys="chunks/", times=None)
    staged.start_uploads(replace(SOON, first_backoff_s=60.0))
    staged.write(several(10, 2000))
    staged.wait_for(lambda state: state.error is not None)
    time.sleep(0.3)
    assert away.fired <= 4  # as many as there are workers
    storage.clear()


def test_a_failed_commit_is_remembered_too(staged: StagedChunks, storage: FaultyStorage) -> None:
    chunks = several(40, 2000)
    staged.start_uploads(UploadOptions(pack_bytes=0, quiet_s=1000))
    staged.write(chunks)
    storage.fail(methods="put", keys="chunks/", at=20, times=None)
    with pytest.raises(StorageError):
        staged.store(chunks, SOON)
    storage.clear()
    check(staged, chunks)
    assert 20 <= puts(staged) <= 21
    assert puts(staged) + 19 == 40


def test_a_commit_waits_for_what_is_under_way(staged: StagedChunks, storage: FaultyStorage) -> None:
    release, reached = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        assert release.wait(20)

    storage.interfere(hold, methods="put", keys="chunks/")
    staged.start_uploads(SOON)
    staged.write({(0,): b"x" * 2000})
    assert reached.wait(20)
    assert staged.wait_for(lambda state: state.pending == 1).pending_bytes == 2000
    threading.Timer(0.2, release.set).start()
    check(staged, {(0,): b"x" * 2000})
    assert puts(staged) == 1


def test_what_a_commit_has_stored_is_not_uploaded_again(staged: StagedChunks, storage: FaultyStorage) -> None:
    release, reached = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        assert release.wait(20)

    storage.interfere(hold, methods="put", keys="chunks/", times=None)
    chunks = several(30, 2000)
    staged.start_uploads(SOON)
    staged.write(chunks)
    assert reached.wait(20)
    staged.wait_for(lambda state: state.pending == 30)  # some under way, the others planned
    threading.Timer(0.2, release.set).start()
    check(staged, chunks)
    time.sleep(0.3)  # nobody asks how things stand meanwhile, which would tidy up
    assert puts(staged) == 30


def test_a_file_closed_while_the_last_one_is_planned_is_planned_too(
    staged: StagedChunks, storage: FaultyStorage
) -> None:
    """Between a look at the closed files and the wait for more there is a moment in which one can be closed."""
    release, looked, closed = threading.Event(), threading.Event(), threading.Event()
    calls, began = [0], time.monotonic()

    def monotonic() -> float:
        if threading.current_thread().name == "icefs-uploads":
            calls[0] += 1
            if calls[0] == 2:  # the first call looked at the one closed file, and this one starts its upload
                looked.set()
                assert closed.wait(20)
        return began if not looked.is_set() else began + 60

    def hold() -> None:
        assert release.wait(20)

    storage.interfere(hold, methods="put", keys="chunks/", times=None)
    staged.start_uploads(UploadOptions(pack_bytes=0, quiet_s=0), monotonic)
    staged.write({(0, 0): b"x" * 2000})
    assert looked.wait(20)
    staged.write({(0, 1): b"y" * 2000})
    closed.set()
    staged.wait_for(lambda state: state.pending == 2)
    release.set()
    staged.wait_for(lambda state: (state.stored, state.pending) == (2, 0))


def test_a_file_that_is_closed_again_while_it_is_uploaded_is_uploaded_once(
    staged: StagedChunks, storage: FaultyStorage
) -> None:
    release, reached = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        assert release.wait(20)

    storage.interfere(hold, methods="put", keys="chunks/", times=None)
    staged.start_uploads(replace(SOON, quiet_s=0.0))
    staged.write({(0,): b"x" * 2000})
    assert reached.wait(20)
    staged.driver.read(path_of((0,)))
    staged.write({(1,): b"y" * 3000})
    # Files are planned in the order in which they were closed, so the first one's second close was looked at.
    assert staged.wait_for(lambda state: state.pending_bytes >= 5000).pending_bytes == 5000
    release.set()
    staged.wait_for(lambda state: (state.stored, state.pending) == (2, 0))
    assert puts(staged) == 2


def test_closing_does_not_wait(storage: FaultyStorage, tmp_path: Path) -> None:
    release, reached = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        assert release.wait(20)

    staged = StagedChunks(storage, tmp_path / "state")
    storage.interfere(hold, methods="put", keys="chunks/")
    staged.start_uploads(SOON)
    staged.write({(0,): b"x" * 2000})
    assert reached.wait(20)
    before = time.monotonic()
    staged.close()
    assert time.monotonic() - before < 5
    release.set()
    staged.reopen(was_closed=True)
    staged.start_uploads(SOON)
    check(staged, {(0,): b"x" * 2000})
    staged.close()


def test_uploads_that_were_collected_are_made_again(staged: StagedChunks, storage: FaultyStorage) -> None:
    later_s = 0
    chunks = several(10, 2000)
    staged.start_uploads(SOON, clock_s=lambda: time.time() + later_s)
    staged.write(chunks)
    staged.wait_for(lambda state: state.stored == 10)
    storage.delete(list(staged.objects())[:4])
    # Nothing is looked up before a collection was there, and then everything.
    storage.clear()
    assert len(staged.store(chunks, SOON)) == 10
    assert looked_up(storage) == 0
    collect_garbage(staged.repository, 0)
    storage.clear()
    check(staged, chunks)
    assert looked_up(storage) == 10
    assert puts(staged) == 4
    # What is as old as what collectors take is not even looked for.
    later_s = 13 * 3600
    storage.clear()
    check(staged, chunks)
    assert puts(staged) == 6  # four were stored after the collection
    assert looked_up(storage) == 0


def test_what_is_gone_from_the_tree_is_forgotten(staged: StagedChunks) -> None:
    staged.start_uploads(SOON)
    staged.write(several(10, 2000))
    staged.wait_for(lambda state: state.stored == 10)
    for number in range(10):
        staged.driver.unlink(path_of((0, number)))
    assert staged.wait_for(lambda state: state.stored == 0).pending == 0
    staged.reopen()
    staged.start_uploads(SOON)
    assert staged.wait_for(lambda state: True).stored == 0


def test_nothing_is_uploaded_to_a_disk(tmp_path: Path) -> None:
    staged = StagedChunks(LocalStorage(tmp_path / "repo"), tmp_path / "state")
    staged.start_uploads(SOON)
    assert staged.driver.tree.uploads is None
    staged.close()


def test_many_writers_and_uploads(staged: StagedChunks) -> None:
    """Whatever is rewritten while it is uploaded, what a commit refers to is what the tree shows."""
    staged.start_uploads(UploadOptions(pack_bytes=16 * KIB, quiet_s=0.001))
    for turn in range(15):
        chunks = {(0, number): bytes([turn, number]) * (600 + 10 * turn) for number in range(turn % 3, 20)}
        staged.write(chunks)
        if turn % 2:
            time.sleep(0.003)
        shown = {(0, number): staged.driver.read(path_of((0, number))) for number in range(20)}
        refs = staged.store(shown, UploadOptions(pack_bytes=16 * KIB))
        assert staged.stored(refs) == shown
