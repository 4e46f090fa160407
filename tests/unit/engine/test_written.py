"""Files that were just written are kept for one reader, within a limit."""

from icefs.engine.read.written import WrittenFiles
from icefs.engine.write.repository import WritableRepository
from icefs.storage.memory import MemoryStorage
from tests.support.faulty import FaultyStorage
from tests.support.transactions import commit_start


def test_the_oldest_files_go_first_and_a_file_that_is_too_large_is_not_kept():
    files = WrittenFiles(100)
    for number in range(5):
        files.put(f"manifests/{number}", bytes([number]) * 40)
    files.put("manifests/large", b"x" * 101)
    assert [files.take(f"manifests/{number}") for number in range(3)] == [None] * 3
    assert files.take("manifests/large") is None
    assert [files.take(f"manifests/{number}") for number in (3, 4)] == [b"\3" * 40, b"\4" * 40]


def test_a_file_is_taken_once_and_makes_room():
    files = WrittenFiles(100)
    files.put("a", b"a" * 60)
    assert files.take("a") == b"a" * 60
    assert files.take("a") is None
    files.put("b", b"b" * 60)
    files.put("c", b"c" * 40)
    assert (files.take("b"), files.take("c")) == (b"b" * 60, b"c" * 40)


def test_a_file_that_is_written_again_counts_once():
    files = WrittenFiles(100)
    files.put("a", b"a" * 60)
    files.put("a", b"A" * 60)
    files.put("b", b"b" * 40)
    assert (files.take("a"), files.take("b")) == (b"A" * 60, b"b" * 40)
    files.put("c", b"c")
    files.clear()
    assert files.take("c") is None


def test_the_next_commit_reads_nothing_that_the_last_one_wrote():
    storage = FaultyStorage(MemoryStorage())
    repository = WritableRepository.create(storage)
    commit_start(repository)
    storage.calls.clear()
    session = repository.writable_session("main")
    session.chunks.set("/a", (1, 1), b"next")
    session.commit("next")
    read = {call.key.partition("/")[0] for call in storage.calls if call.method == "get"}
    assert read.isdisjoint({"snapshots", "manifests", "transactions"})
