"""What every storage must do, as one test suite.

A backend's test file is a subclass with a `storage` fixture (empty, writable) and, where two clients can meet in one
place, an `other` fixture: a second storage on the same objects. Decorators of storages run it too.
"""

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest

from icefs.clock import system_clock
from icefs.errors import (
    InvalidInputError,
    InvalidObjectSizeError,
    ObjectModifiedError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageError,
)
from icefs.storage.base import ObjectInfo, RangeReader, Storage

MINUTE = 60_000_000


def append_line(storage: Storage, key: str, line: bytes) -> int:
    """Adds a line to an object by conditional updates, as a commit does; returns how many tries it took."""
    tries = 1
    while True:
        found = storage.get(key)
        try:
            storage.put(key, found.data + line + b"\n", if_match=found.version)
        except PreconditionFailedError as error:
            if error.facts.get("maybe_written"):
                raise
            tries += 1
        else:
            return tries


class StorageContract:
    """Subclass, and provide the fixtures `storage` and `other`."""

    # Known to differ: `copy(if_match=…)` copies whatever is there.
    copies_conditionally: ClassVar[bool] = True
    # Known to differ: names with these characters do not work.
    lost_characters: ClassVar[str] = ""
    # More than one page of a listing, and one request of deletions, hold.
    many_objects: ClassVar[int] = 1100
    race_threads: ClassVar[int] = 4
    race_updates: ClassVar[int] = 25

    @pytest.fixture
    def storage(self) -> Storage:
        raise NotImplementedError

    @pytest.fixture
    def other(self, storage: Storage) -> Storage:
        """Another client of the same store; where there can be none, the same."""
        return storage

    # --- reading what was written ---

    @pytest.mark.parametrize("data", [b"", b"x", b"hello\0\xff world", bytes(range(256)) * 4096])
    def test_what_is_put_is_got(self, storage, other, data):
        version = storage.put("chunks/A1", data)
        assert other.get("chunks/A1").data == data
        assert other.get("chunks/A1").version == version
        assert other.head("chunks/A1") == storage.head("chunks/A1")

    def test_data_may_be_a_memoryview(self, storage):
        storage.put("a", memoryview(b"0123456789")[2:5])
        assert storage.get("a").data == b"234"

    @pytest.mark.parametrize(
        "key",
        [
            "repo",
            "chunks/0123456789ABCDEFGHJK",
            "overwritten/repo.30708327300650.FRZ9",
            "refs/branch.main/ref.json",
            "refs/tag.ünï ☃/ref.json",
            'refs/branch.a"#%*<>?[]^`{|}~b/ref.json',
            "refs/branch.back\\slash/ref.json",
            "refs/tag.%41+&=;:@,$!'()/ref.json.deleted",
            "refs/branch.\x01\x7f\n/ref.json",
            "refs/tag..x./ref.json",
            "refs/tag.name#1/ref.json",
            "refs/branch." + "long" * 35 + "/ref.json",
        ],
    )
    def test_names_are_kept(self, storage, other, key):
        if set(key) & set(self.lost_characters):
            return
        storage.put(key, b"named")
        assert other.get(key).data == b"named"
        assert [info.key for info in other.iter_objects()] == [key]
        parent = key.rpartition("/")[0] + "/" if "/" in key else ""
        assert list(other.list_dir(parent)) == [key[len(parent) :]]
        assert other.delete([key]) == []
        assert list(other.iter_objects()) == []

    @pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "../a", "a\0b", "a\ud800"])
    def test_what_is_no_key_is_refused(self, storage, key):
        with pytest.raises(InvalidInputError):
            storage.get(key)
        with pytest.raises(InvalidInputError):
            storage.put(key, b"")
        with pytest.raises(InvalidInputError):
            storage.head(key)
        with pytest.raises(InvalidInputError):
            storage.get_if_changed(key, None)
        with pytest.raises(InvalidInputError):
            storage.copy("a", key)
        with pytest.raises(InvalidInputError):
            storage.copy(key, "a")
        with pytest.raises(InvalidInputError):
            storage.delete([key])

    def test_a_missing_object_is_not_found(self, storage):
        storage.put("there/b", b"")
        for key in ("missing", "there", "there/c", "there/c/d"):
            with pytest.raises(ObjectNotFoundError):
                storage.get(key)
            with pytest.raises(ObjectNotFoundError):
                storage.get(key, start=1, end=1)
            with pytest.raises(ObjectNotFoundError):
                storage.get(key, start=1, end=4)
            with pytest.raises(ObjectNotFoundError):
                storage.get_if_changed(key, "some-version")
            with pytest.raises(ObjectNotFoundError):
                storage.head(key)
            with pytest.raises(ObjectNotFoundError):
                storage.copy(key, "target")

    def test_an_error_names_the_object_and_is_a_storage_error(self, storage):
        with pytest.raises(StorageError, match="MISSING"):
            storage.get("snapshots/MISSING")

    # --- ranges ---

    @pytest.mark.parametrize(
        ("start", "end"), [(0, None), (0, 10), (0, 0), (0, 1), (3, 7), (9, 10), (4, 4), (10, 10), (10, None), (9, None)]
    )
    def test_ranges(self, storage, start, end):
        version = storage.put("a", b"0123456789")
        found = storage.get("a", start=start, end=end)
        assert found.data == b"0123456789"[start:end]
        assert found.version == version

    @pytest.mark.parametrize(("start", "end"), [(0, 11), (5, 11), (10, 11), (11, 11), (11, None), (50, 60)])
    def test_a_range_beyond_the_end_is_an_error(self, storage, start, end):
        storage.put("a", b"0123456789")
        with pytest.raises(InvalidObjectSizeError):
            storage.get("a", start=start, end=end)

    @pytest.mark.parametrize(("start", "end"), [(-1, None), (-2, 3), (5, 4)])
    def test_what_is_no_range_is_refused(self, storage, start, end):
        storage.put("a", b"0123456789")
        with pytest.raises(InvalidInputError):
            storage.get("a", start=start, end=end)

    def test_ranges_of_an_empty_object(self, storage):
        storage.put("a", b"")
        assert storage.get("a").data == storage.get("a", start=0, end=0).data == b""
        with pytest.raises(InvalidObjectSizeError):
            storage.get("a", start=0, end=1)

    # --- versions ---

    def test_a_new_version_differs_from_all_before(self, storage, other):
        versions = [storage.put("a", b"same size %03d" % number) for number in range(30)]
        assert len(set(versions)) == 30
        assert other.head("a").version == versions[-1]

    def test_get_if_changed(self, storage, other):
        first = storage.put("a", b"one")
        found = other.get_if_changed("a", None)
        assert found is not None
        assert (found.data, found.version) == (b"one", first)
        assert other.get_if_changed("a", first) is None
        second = storage.put("a", b"two")
        found = other.get_if_changed("a", first)
        assert found is not None
        assert (found.data, found.version) == (b"two", second)

    def test_head(self, storage):
        before = system_clock()
        version = storage.put("a/b", b"12345")
        info = storage.head("a/b")
        assert info == ObjectInfo("a/b", 5, info.last_modified, version)
        # Some stores keep whole seconds, and all of them their own clock.
        assert before - MINUTE < info.last_modified < system_clock() + MINUTE

    # --- conditional writes ---

    def test_create_only(self, storage, other):
        version = storage.put("a", b"first", create_only=True)
        with pytest.raises(PreconditionFailedError):
            other.put("a", b"second", create_only=True)
        assert other.get("a").data == b"first"
        assert other.get("a").version == version
        assert storage.delete(["a"]) == []
        other.put("a", b"third", create_only=True)
        assert storage.get("a").data == b"third"

    def test_update_over_a_version(self, storage, other):
        first = storage.put("a", b"first")
        second = other.put("a", b"second", if_match=first)
        assert second != first
        with pytest.raises(PreconditionFailedError):
            storage.put("a", b"third", if_match=first)
        assert storage.get("a").data == b"second"
        assert storage.put("a", b"third", if_match=second) == other.head("a").version

    def test_a_version_that_was_read_or_described_can_be_updated(self, storage):
        storage.put("a", b"1")
        storage.put("a", b"2", if_match=storage.get("a").version)
        storage.put("a", b"3", if_match=storage.head("a").version)
        changed = storage.get_if_changed("a", None)
        assert changed is not None
        storage.put("a", b"4", if_match=changed.version)
        storage.put("a", b"5", if_match=storage.get("a", start=1).version)
        listed = next(storage.iter_objects()).version
        if listed is not None:
            storage.put("a", b"6", if_match=listed)

    def test_a_missing_object_has_no_version_to_update(self, storage):
        version = storage.put("a", b"first")
        assert storage.delete(["a"]) == []
        with pytest.raises(PreconditionFailedError):
            storage.put("a", b"second", if_match=version)
        with pytest.raises(PreconditionFailedError):
            storage.put("x/y", b"second", if_match=version)
        assert list(storage.iter_objects()) == []

    def test_both_conditions_are_refused(self, storage):
        with pytest.raises(InvalidInputError):
            storage.put("a", b"", if_match="v", create_only=True)

    # --- copies ---

    def test_copy(self, storage, other):
        storage.put("repo", b"state")
        storage.copy("repo", "overwritten/repo.1")
        assert other.get("overwritten/repo.1").data == b"state"
        storage.put("repo", b"newer", if_match=storage.head("repo").version)
        assert other.get("overwritten/repo.1").data == b"state"
        storage.copy("repo", "overwritten/repo.1")
        storage.copy("repo", "overwritten/repo.1")
        assert other.get("overwritten/repo.1").data == other.get("repo").data == b"newer"
        assert sorted(info.key for info in other.iter_objects()) == ["overwritten/repo.1", "repo"]

    def test_a_copy_and_its_source_live_apart(self, storage):
        storage.put("a", b"first")
        storage.copy("a", "b")
        storage.put("a", b"other")
        assert storage.get("b").data == b"first"
        storage.put("b", b"third")
        assert storage.get("a").data == b"other"
        assert storage.delete(["a"]) == []
        assert storage.get("b").data == b"third"

    def test_copy_over_a_version(self, storage):
        first = storage.put("repo", b"one")
        storage.copy("repo", "b1", if_match=first)
        assert storage.get("b1").data == b"one"
        if not self.copies_conditionally:
            return
        storage.put("repo", b"two")
        with pytest.raises(PreconditionFailedError):
            storage.copy("repo", "b2", if_match=first)
        with pytest.raises(ObjectNotFoundError):
            storage.get("b2")
        assert sorted(info.key for info in storage.iter_objects()) == ["b1", "repo"]

    # --- listing ---

    def test_listing(self, storage, other):
        contents = {"repo": 1, "chunks/A": 2, "chunks/B": 0, "chunks/sub/C": 3, "chunks2/D": 4, "refs/branch.x/ref": 5}
        for key, size in contents.items():
            storage.put(key, b"x" * size)
        found = {info.key: info.size_bytes for info in other.iter_objects()}
        assert found == contents
        assert {info.key for info in other.iter_objects("chunks/")} == {"chunks/A", "chunks/B", "chunks/sub/C"}
        assert list(other.iter_objects("chunk/")) == list(other.iter_objects("repo/")) == []
        assert sorted(other.list_dir()) == ["chunks/", "chunks2/", "refs/", "repo"]
        assert sorted(other.list_dir("chunks/")) == ["A", "B", "sub/"]
        assert list(other.list_dir("refs/")) == ["branch.x/"]
        assert list(other.list_dir("nothing/")) == []

    def test_listed_objects_are_described(self, storage):
        storage.put("d/a", b"12345")
        (listed,) = storage.iter_objects("d/")
        described = storage.head("d/a")
        assert (listed.key, listed.size_bytes) == ("d/a", 5)
        assert listed.version in (None, described.version)
        assert abs(listed.last_modified - described.last_modified) < 2_000_000

    def test_an_empty_store_lists_nothing(self, storage):
        assert list(storage.iter_objects()) == list(storage.list_dir()) == []

    def test_a_prefix_ends_with_a_slash(self, storage):
        for prefix in ("chunks", "/", "a//", "../"):
            with pytest.raises(InvalidInputError):
                list(storage.iter_objects(prefix))
            with pytest.raises(InvalidInputError):
                list(storage.list_dir(prefix))

    def test_more_objects_than_one_page(self, storage):
        keys = {f"chunks/{number:05}" for number in range(self.many_objects)}
        with ThreadPoolExecutor(storage.capabilities.concurrency) as pool:
            list(pool.map(lambda key: storage.put(key, b""), keys))
        assert {info.key for info in storage.iter_objects("chunks/")} == keys
        assert set(storage.list_dir("chunks/")) == {key.rpartition("/")[2] for key in keys}
        assert storage.delete(iter(keys)) == []
        assert list(storage.iter_objects("chunks/")) == []

    # --- from files ---

    @pytest.fixture
    def source(self, tmp_path_factory) -> Path:
        return tmp_path_factory.mktemp("source")

    @pytest.mark.parametrize("is_final", [False, True])
    @pytest.mark.parametrize("size", [0, 1, 100_000, 6_000_000])
    def test_a_file_becomes_an_object(self, storage, other, source, size, is_final):
        path, data = source / "file", bytes(range(251)) * (size // 251) + bytes(size % 251)
        path.write_bytes(data)
        version = storage.put_file("chunks/A", str(path), is_final=is_final)
        found = other.get("chunks/A")
        assert (found.data == data, found.version) == (True, version)
        path.unlink()
        assert other.get("chunks/A").data == data
        storage.sync()

    def test_a_file_replaces_an_object(self, storage, other, source):
        path = source / "file"
        path.write_bytes(b"one")
        first = storage.put_file("d/A", str(path), is_final=True)
        second = storage.put_file("d/A", str(path), is_final=True)
        assert other.get("d/A").data == b"one"
        assert [info.key for info in other.iter_objects()] == ["d/A"]
        (source / "other").write_bytes(b"another")
        third = storage.put_file("d/A", str(source / "other"), is_final=True)
        assert other.get("d/A").data == b"another"
        assert third not in (first, second)
        assert path.read_bytes() == b"one"

    def test_a_file_that_is_not_final_may_change(self, storage, other, source):
        path = source / "file"
        path.write_bytes(b"before")
        storage.put_file("d/A", str(path))
        path.write_bytes(b"after")
        assert other.get("d/A").data == b"before"

    def test_a_file_that_cannot_be_read_is_an_error(self, storage, source):
        for is_final in (False, True):
            with pytest.raises(StorageError, match="missing"):
                storage.put_file("d/A", str(source / "missing"), is_final=is_final)
        assert list(storage.iter_objects()) == []

    # --- deleting ---

    def test_delete(self, storage, other):
        for key in ("a", "d/b", "d/c"):
            storage.put(key, b"")
        assert storage.delete(["a", "d/b", "missing", "d/missing", "d"]) == []
        assert [info.key for info in other.iter_objects()] == ["d/c"]
        assert storage.delete([]) == []

    def test_the_time_is_that_of_objects(self, storage, other):
        before = system_clock()
        now = storage.current_time()
        # Stores round to seconds, and their clocks are their own.
        assert before - 5_000_000 < now < system_clock() + 5_000_000
        assert list(other.iter_objects()) == []

    # --- races ---

    def test_one_creation_wins(self, storage, other):
        start = threading.Barrier(self.race_threads)

        def create(number: int) -> bool:
            start.wait()
            try:
                (storage, other)[number % 2].put("repo", b"%d" % number, create_only=True)
            except PreconditionFailedError:
                return False
            return True

        with ThreadPoolExecutor(self.race_threads) as pool:
            won = list(pool.map(create, range(self.race_threads)))
        assert won.count(True) == 1
        assert storage.get("repo").data == b"%d" % won.index(True)

    def test_no_acknowledged_update_is_lost(self, storage, other):
        storage.put("repo", b"")

        def update(thread: int) -> list[bytes]:
            lines = [b"%d.%d" % (thread, number) for number in range(self.race_updates)]
            for line in lines:
                append_line((storage, other)[thread % 2], "repo", line)
            return lines

        with ThreadPoolExecutor(self.race_threads) as pool:
            acknowledged = [line for lines in pool.map(update, range(self.race_threads)) for line in lines]
        found = storage.get("repo").data.split()
        assert sorted(found) == sorted(acknowledged)
        for thread in range(self.race_threads):
            own = [line for line in found if line.startswith(b"%d." % thread)]
            assert own == sorted(own, key=lambda line: int(line.split(b".")[1]))

    def test_a_reader_sees_whole_objects(self, storage, other):
        contents = [bytes([65 + number]) * 100_000 for number in range(8)]
        storage.put("repo", contents[0])
        stop = threading.Event()
        torn = []

        def read() -> None:
            while not stop.is_set():
                data = other.get("repo").data
                if data not in contents:
                    torn.append(data[:10])

        reader = threading.Thread(target=read)
        reader.start()
        for data in contents:
            storage.put("repo", data)
        stop.set()
        reader.join()
        assert torn == []

    # --- the rest ---

    def test_sync_keeps_everything(self, storage, other):
        storage.sync()
        for number in range(100):
            storage.put(f"chunks/{number}", b"%d" % number)
        storage.copy("chunks/1", "backup/1")
        storage.sync()
        assert other.get("chunks/99").data == b"99"
        storage.sync()

    def test_local_files(self, storage):
        storage.put("chunks/A", b"0123456789")
        open_file = storage.local_opener("chunks/")
        assert storage.capabilities.local_files == (open_file is not None) == (storage.local_root is not None)
        assert list(storage.list_foreign()) == []
        if open_file is not None:
            fd, status = open_file("A")
            with os.fdopen(fd, "rb") as file:
                assert file.read() == b"0123456789"
            assert status.st_size == 10
            with pytest.raises(ObjectNotFoundError):
                open_file("missing")

    def test_it_says_where_it_is(self, storage):
        assert storage.url
        assert storage.capabilities.concurrency >= 1

    def test_a_pickled_copy_is_the_same_store(self, storage):
        storage.put("a", b"here")
        copied = pickle.loads(pickle.dumps(storage))
        assert copied.get("a").data == b"here"
        assert copied.url == storage.url
        copied.close()

    def test_ranges_of_foreign_objects(self, storage):
        if not isinstance(storage, RangeReader):
            return
        storage.put("data/file.nc", b"0123456789")
        seconds = storage.head("data/file.nc").last_modified // 1_000_000
        assert storage.read_range("data/file.nc", 2, 5) == b"234"
        assert storage.read_range("data/file.nc", 0, 10, if_unmodified_since_s=seconds) == b"0123456789"
        assert storage.read_range("data/file.nc", 5, 5) == b""
        with pytest.raises(ObjectModifiedError):
            storage.read_range("data/file.nc", 2, 5, if_unmodified_since_s=seconds - 10)
        with pytest.raises(ObjectModifiedError):
            storage.read_range("data/file.nc", 2, 5, if_match_etag="another")
        with pytest.raises(InvalidObjectSizeError):
            storage.read_range("data/file.nc", 5, 11)
        with pytest.raises(ObjectNotFoundError):
            storage.read_range("data/missing", 0, 1)
