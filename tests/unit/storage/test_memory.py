"""Memory, and the decorators over it, keep the contract; memory: names are shared in the process."""

import pickle

import pytest

from icefs.errors import PreconditionFailedError, StorageError, UnreachableError
from icefs.storage.memory import MemoryStorage
from icefs.storage.rehearsal import RehearsalStorage
from tests.support.faulty import FaultyStorage, each_call_in_turn
from tests.support.hex_storage import HexStorage
from tests.support.storage_contract import StorageContract


class TestMemory(StorageContract):
    @pytest.fixture
    def storage(self):
        return MemoryStorage()


class TestHexOverMemory(StorageContract):
    @pytest.fixture
    def storage(self):
        return HexStorage(MemoryStorage())


class TestRehearsalOverMemory(StorageContract):
    @pytest.fixture
    def storage(self):
        return RehearsalStorage(MemoryStorage())

    def test_a_pickled_copy_is_the_same_store(self, storage):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(storage)


def test_a_rehearsal_leaves_the_store_as_it_is():
    inner = MemoryStorage()
    versions = {key: inner.put(key, b"before") for key in ("a", "b", "c/d")}
    storage = RehearsalStorage(inner)
    storage.put("a", b"after", if_match=versions["a"])
    storage.put("new", b"new", create_only=True)
    storage.delete(["b"])
    assert sorted(info.key for info in storage.iter_objects()) == ["a", "c/d", "new"]
    assert sorted(storage.list_dir()) == ["a", "c/", "new"]
    assert storage.get_if_changed("a", versions["a"]) == storage.get("a")
    with pytest.raises(PreconditionFailedError):
        storage.put("a", b"again", if_match=versions["a"])
    storage.put("b", b"made again", create_only=True)
    assert {info.key: inner.get(info.key).data for info in inner.iter_objects()} == dict.fromkeys(versions, b"before")


class TestFaultyWithoutFaults(StorageContract):
    @pytest.fixture
    def storage(self):
        return FaultyStorage(MemoryStorage())


def test_storages_of_one_name_share_their_objects():
    MemoryStorage("shared-by-name").put("a", b"1")
    assert MemoryStorage("shared-by-name").get("a").data == b"1"
    assert list(MemoryStorage("another-name").iter_objects()) == []
    assert list(MemoryStorage().iter_objects()) == []


def test_time_comes_from_the_clock():
    storage = MemoryStorage(clock=lambda: 123_000_007)
    storage.put("a", b"")
    assert storage.head("a").last_modified == 123_000_007


def test_hex_storage_hides_names_and_bytes():
    inner = MemoryStorage()
    HexStorage(inner).put("chunks/A", b"\x01\xfe")
    assert [info.key for info in inner.iter_objects()] == ["chunks/hex-A"]
    assert inner.get("chunks/hex-A").data == b"01fe"


class TestFaults:
    @pytest.fixture
    def faulty(self):
        return FaultyStorage(MemoryStorage())

    def test_a_failed_call_did_not_happen(self, faulty):
        faulty.fail(methods="put", at=2)
        faulty.put("a", b"1")
        with pytest.raises(UnreachableError):
            faulty.put("b", b"2")
        faulty.put("c", b"3")
        assert sorted(faulty.list_dir()) == ["a", "c"]
        assert [call.method for call in faulty.calls] == ["put", "put", "put", "list_dir"]

    def test_a_lost_answer_happened(self, faulty):
        faulty.lose_answer(methods="put", keys="repo")
        faulty.put("chunks/a", b"1")
        with pytest.raises(UnreachableError) as caught:
            faulty.put("repo", b"2", create_only=True)
        assert caught.value.facts["maybe_written"]
        assert faulty.get("repo").data == b"2"

    def test_interference_comes_first(self, faulty):
        version = faulty.put("repo", b"1")
        faulty.interfere(lambda: faulty.inner.put("repo", b"foreign"), methods="put", keys="repo")
        with pytest.raises(PreconditionFailedError):
            faulty.put("repo", b"2", if_match=version)
        faulty.put("repo", b"3", if_match=faulty.get("repo").version)

    def test_any_error_any_number_of_times(self, faulty):
        faulty.fail(methods={"get", "head"}, times=None, error=lambda call: StorageError(f"no {call.key}"))
        for _ in range(3):
            with pytest.raises(StorageError, match="no x"):
                faulty.get("x")
        faulty.put("x", b"")

    def test_each_call_in_turn_is_hit(self):
        def operation(storage):
            storage.put("a", b"1")
            storage.put("b", b"2")
            storage.sync()

        outcomes = [
            (number, sorted(storage.list_dir()), raised is not None)
            for number, storage, raised in each_call_in_turn(
                MemoryStorage, operation, lambda storage, at: storage.fail(at=at)
            )
        ]
        assert outcomes == [(1, [], True), (2, ["a"], True), (3, ["a", "b"], True)]
