"""The local directory keeps the contract, the official library's conventions, and its promises about the disk."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from icefs.errors import (
    AccessDeniedError,
    NameTooLongError,
    NoSpaceError,
    NotAnObjectError,
    ObjectNotFoundError,
    PreconditionFailedError,
    ReadOnlyError,
    StorageError,
)
from icefs.storage.local import beneath
from icefs.storage.local import files as local_files
from icefs.storage.local.beneath import Beneath
from icefs.storage.local.files import PendingWrites, decode_name, encode_name
from icefs.storage.local.lock import LOCK_NAME, exclusive
from icefs.storage.local.store import LocalStorage
from tests.support.hex_storage import HexStorage
from tests.support.storage_contract import StorageContract

ROOT = Path(__file__).parents[3]


class TestLocal(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path):
        return LocalStorage(tmp_path / "not" / "yet")

    @pytest.fixture
    def other(self, tmp_path):
        return LocalStorage(tmp_path / "not" / "yet")


class TestLocalNotDurable(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path):
        return LocalStorage(tmp_path, durable=False)


class TestHexOverLocal(StorageContract):
    @pytest.fixture
    def storage(self, tmp_path):
        return HexStorage(LocalStorage(tmp_path))


@pytest.fixture
def storage(tmp_path):
    return LocalStorage(tmp_path / "repo-root")


@pytest.fixture
def root(storage):
    return storage.root


def files_below(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


# --- names and what lies on disk ---


def test_reading_makes_nothing(storage, root):
    with pytest.raises(ObjectNotFoundError):
        storage.get("repo")
    assert list(storage.iter_objects()) == list(storage.list_dir()) == []
    with pytest.raises(PreconditionFailedError):
        storage.put("repo", b"", if_match="1-2-3")
    storage.sync()
    assert not root.exists()


def test_names_on_disk_are_the_official_librarys(storage, root):
    storage.put("refs/tag.ünï/ref.json", b"")
    storage.put('refs/branch.a"#%*b~/ref.json', b"")
    assert files_below(root) == {"refs/tag.%C3%BCn%C3%AF/ref.json", "refs/branch.a%22%23%25%2Ab%7E/ref.json"}
    assert set(storage.list_dir("refs/")) == {"tag.ünï/", 'branch.a"#%*b~/'}


@pytest.mark.parametrize("name", ["A%41", "%c3%bc", "ü", "a~", "a%zz", "%FF", "%", "%2E", "%2E%2E", "x#1", "\udcff"])
def test_a_name_that_no_key_has_on_disk_is_no_object(name):
    assert decode_name(name) is None


def test_encoding_and_decoding_are_inverse():
    for text in ("plain-Name_0.9", "".join(map(chr, range(1, 0x250))).replace("/", ""), "☃\U0001f9ca"):
        assert decode_name(encode_name(text)) == text
        assert encode_name(text).isascii()


def test_staged_files_and_strange_things_are_not_listed(storage, root):
    storage.put("chunks/A", b"1")
    (root / "chunks" / "B#1").write_bytes(b"half-writ")
    (root / "repo#12").write_bytes(b"")
    os.mkfifo(root / "chunks" / "fifo")
    (root / "chunks" / "dangling").symlink_to("nowhere")
    (root / "empty").mkdir()
    assert [info.key for info in storage.iter_objects()] == ["chunks/A"]
    assert list(storage.list_dir("chunks/")) == ["A"]
    for key, cls in (
        ("chunks/fifo", NotAnObjectError),
        ("chunks/dangling", NotAnObjectError),
        ("empty", ObjectNotFoundError),
        ("chunks", ObjectNotFoundError),
    ):
        for read in (storage.get, storage.head):
            with pytest.raises(cls):
                read(key)


def test_nothing_is_left_beside_the_objects(storage, root):
    version = storage.put("repo", b"1", create_only=True)
    with pytest.raises(PreconditionFailedError):
        storage.put("repo", b"2", create_only=True)
    storage.copy("repo", "overwritten/repo.1", if_match=version)
    assert files_below(root) == {"repo", "overwritten/repo.1"}
    version = storage.put("repo", b"3", if_match=version)
    storage.copy("repo", "repo")
    with pytest.raises(PreconditionFailedError):
        storage.put("repo", b"4", if_match="1-2-3")
    with pytest.raises(PreconditionFailedError):
        storage.copy("repo", "overwritten/repo.2", if_match="1-2-3")
    assert files_below(root) == {"repo", "overwritten/repo.1", LOCK_NAME}
    assert decode_name(LOCK_NAME) is None


def test_long_names_leave_room_for_staging(storage):
    key = f"refs/branch.{'n' * 240}/ref.json"
    name = "f" * 255
    storage.put(key, b"1")
    storage.put(name, b"2", create_only=True)
    storage.copy(name, "g" * 255)
    assert storage.get("g" * 255).data == b"2"
    with pytest.raises(NameTooLongError):
        storage.put("h" * 256, b"")


def test_a_backup_is_a_hard_link_that_keeps_its_bytes(storage, root):
    version = storage.put("repo", b"old")
    storage.copy("repo", "overwritten/repo.1", if_match=version)
    assert (root / "repo").samefile(root / "overwritten" / "repo.1")
    storage.put("repo", b"new", if_match=version)
    assert storage.get("overwritten/repo.1").data == b"old"


def test_where_links_are_not_possible_contents_are_copied(storage, root, monkeypatch):
    def no_links(source, target, **directories):
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    version = storage.put("repo", b"1", create_only=True)
    with pytest.raises(PreconditionFailedError):
        storage.put("repo", b"2", create_only=True)
    storage.copy("repo", "overwritten/repo.1", if_match=version)
    with pytest.raises(PreconditionFailedError):
        storage.copy("repo", "overwritten/repo.2", if_match="1-2-3")
    assert not (root / "repo").samefile(root / "overwritten" / "repo.1")
    assert storage.get("overwritten/repo.1").data == b"1"
    assert files_below(root) == {"repo", "overwritten/repo.1", LOCK_NAME}


# --- writers that meet ---


def test_a_foreign_rename_between_reading_and_writing_is_noticed(storage, root):
    version = storage.put("repo", b"base")
    (root / "repo#1").write_bytes(b"evil")
    (root / "repo#1").rename(root / "repo")
    with pytest.raises(PreconditionFailedError):
        storage.put("repo", b"ours", if_match=version)
    assert (root / "repo").read_bytes() == b"evil"


def test_a_foreign_rename_while_we_write_is_noticed(storage, root, monkeypatch):
    """The foreign writer strikes after our first check, while our version is made durable."""
    version = storage.put("repo", b"base")
    storage.sync()
    real_fsync = os.fsync

    def fsync_and_lose_the_race(fd):
        monkeypatch.setattr(os, "fsync", real_fsync)
        (root / "repo#1").write_bytes(b"evil")
        (root / "repo#1").rename(root / "repo")
        real_fsync(fd)

    monkeypatch.setattr(os, "fsync", fsync_and_lose_the_race)
    with pytest.raises(PreconditionFailedError):
        storage.put("repo", b"ours", if_match=version)
    assert (root / "repo").read_bytes() == b"evil"
    assert files_below(root) == {"repo", LOCK_NAME}


def test_a_deletion_while_we_write_is_noticed(storage, root):
    version = storage.put("repo", b"base")
    (root / "repo").unlink()
    with pytest.raises(PreconditionFailedError):
        storage.put("repo", b"ours", if_match=version)
    assert files_below(root) == set()


def test_no_version_names_a_missing_object(storage, root):
    for version in ("none", "", "None"):
        with pytest.raises(PreconditionFailedError):
            storage.put("repo", b"", if_match=version)
    assert not root.exists()


def test_a_backup_holds_the_version_that_was_asked_for(storage, root):
    version = storage.put("repo", b"base")
    (root / "repo#1").write_bytes(b"evil")
    (root / "repo#1").rename(root / "repo")
    with pytest.raises(PreconditionFailedError):
        storage.copy("repo", "overwritten/repo.1", if_match=version)
    assert list(storage.iter_objects("overwritten/")) == []


@pytest.mark.slow
def test_processes_lose_no_update(storage):
    """Four processes, fifty updates each, one object."""
    storage.put("repo", b"")
    writers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.local_appender", storage.url, str(name), "50"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in range(4)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    tries = 0
    for writer in writers:
        answer, _ = writer.communicate(timeout=60)
        assert writer.returncode == 0
        tries += int(answer)
    found = storage.get("repo").data.decode().split()
    assert sorted(found) == sorted(f"{name}.{number}" for name in range(4) for number in range(50))
    assert tries > 200, "the writers never met: the test shows nothing"


def test_the_lock_is_waited_for_and_given_up_on(storage, root):
    version = storage.put("repo", b"1")
    impatient = LocalStorage(root, lock_timeout_s=0.02)
    with exclusive(Beneath(str(root)), timeout_s=1):
        with pytest.raises(StorageError, match="held the lock"):
            impatient.put("repo", b"2", if_match=version)
        waiting = threading.Thread(target=storage.put, args=("repo", b"3"), kwargs={"if_match": version})
        waiting.start()
        waiting.join(0.05)
        assert waiting.is_alive()
        assert storage.get("repo").data == b"1"
    waiting.join(10)
    assert storage.get("repo").data == b"3"


def test_a_deleted_lock_file_locks_nobody_out_or_in(storage, root):
    with exclusive(Beneath(str(root.parent)), timeout_s=1):
        (root.parent / LOCK_NAME).unlink()
        with exclusive(Beneath(str(root.parent)), timeout_s=1):
            assert (root.parent / LOCK_NAME).exists()


# --- what survives ---


@pytest.fixture
def disk(monkeypatch):
    """Records, in order, what is synced, renamed and linked, by path."""
    events = []
    fsync, rename, link, syncfs = os.fsync, os.rename, os.link, beneath._syncfs

    def name(path):
        text = str(path).rpartition("/")[2]
        return text.partition("#")[0] + "#" if "#" in text else text

    def spy(verb, real):
        def called(first, *rest, **directories):
            path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else (*rest, first)[0]
            events.append(f"{verb} {name(path)}")
            return real(first, *rest, **directories)

        return called

    monkeypatch.setattr(os, "fsync", spy("fsync", fsync))
    monkeypatch.setattr(os, "rename", spy("rename", rename))
    monkeypatch.setattr(os, "link", spy("link", link))
    monkeypatch.setattr(beneath, "_syncfs", spy("syncfs", syncfs))
    return events


def test_a_commit_is_durable_from_the_bottom_up(storage, root, disk):
    version = storage.put("repo", b"0", create_only=True)
    assert disk == [
        "fsync repo#",
        f"fsync {root.parent.name}",  # the root's own entry
        "link repo",
        "fsync repo-root",
    ]
    disk.clear()
    storage.put("chunks/A", b"1")
    storage.copy("repo", "overwritten/repo.1", if_match=version)
    assert disk == ["rename A", "link repo.1#", "rename repo.1"]
    disk.clear()
    storage.put("repo", b"2", if_match=version)
    assert disk[0] == "fsync repo#"
    assert sorted(disk[1:-2]) == ["fsync A", "fsync chunks", "fsync overwritten", "fsync repo-root", "fsync repo.1"]
    assert disk[-2:] == ["rename repo", "fsync repo-root"]
    disk.clear()
    storage.sync()
    assert disk == []


def test_many_writes_are_synced_at_once(storage, root, disk):
    for number in range(PendingWrites.MAX_FILES + 1):
        storage.put(f"chunks/{number}", b"")
    disk.clear()
    storage.sync()
    storage.sync()
    assert disk == ["syncfs repo-root"]


def test_without_durability_the_disk_is_left_alone(tmp_path, disk):
    storage = LocalStorage(tmp_path, durable=False)
    version = storage.put("repo", b"0", create_only=True)
    storage.put("chunks/A", b"")
    storage.put("repo", b"1", if_match=version)
    storage.sync()
    assert [event for event in disk if "sync" in event] == []


def test_what_the_disk_lost_is_never_called_safe(storage, monkeypatch):
    version = storage.put("repo", b"base")
    storage.sync()
    storage.put("chunks/A", b"1")
    real_fsync = os.fsync

    def broken(fd):
        raise OSError(errno.EIO, "lost")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(StorageError, match="Input/output"):
        storage.sync()
    monkeypatch.setattr(os, "fsync", real_fsync)
    with pytest.raises(StorageError, match="Input/output"):
        storage.put("repo", b"with a lost chunk", if_match=version)
    assert storage.get("repo").data == b"base"
    assert LocalStorage(storage.root).put("repo", b"another storage wrote no such chunk", if_match=version)


def test_a_passing_failure_of_sync_passes(storage, monkeypatch):
    storage.put("chunks/A", b"1")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.EINTR, "")))
        with pytest.raises(StorageError):
            storage.sync()
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    storage.sync()
    assert str(storage.root / "chunks" / "A") in synced


def test_sync_waits_for_a_sync_that_took_its_writes(storage, monkeypatch):
    """A second caller must not hear "all is safe" while the first one's flush is still under way."""
    storage.put("chunks/A", b"1")
    entered, go_on, order = threading.Event(), threading.Event(), []
    real_fsync = os.fsync

    def slow(fd):
        entered.set()
        go_on.wait(10)
        real_fsync(fd)

    monkeypatch.setattr(os, "fsync", slow)
    first = threading.Thread(target=lambda: (storage.sync(), order.append("first")))
    second = threading.Thread(target=lambda: (storage.sync(), order.append("second")))
    first.start()
    assert entered.wait(10)
    second.start()
    second.join(0.05)
    assert order == []
    go_on.set()
    first.join(10)
    second.join(10)
    assert sorted(order) == ["first", "second"]


# --- what the operating system says ---


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (errno.ENOSPC, NoSpaceError),
        (errno.EDQUOT, NoSpaceError),
        (errno.EROFS, ReadOnlyError),
        (errno.EACCES, AccessDeniedError),
        (errno.EPERM, AccessDeniedError),
        (errno.EIO, StorageError),
    ],
)
@pytest.mark.parametrize("condition", [{}, {"create_only": True}, {"if_match": True}])
def test_a_failing_write_leaves_nothing_and_says_why(storage, root, monkeypatch, code, cls, condition):
    version = storage.put("repo", b"base")
    key = "new" if "create_only" in condition else "repo"
    if "if_match" in condition:
        condition = {"if_match": version}
    real_write = os.write
    calls = []

    def half_then_fail(fd, data):
        calls.append(1)
        if len(calls) > 1:
            raise OSError(code, "planned")
        return real_write(fd, data[:3])

    monkeypatch.setattr(os, "write", half_then_fail)
    with pytest.raises(cls, match=str(root / key)) as caught:
        storage.put(key, b"0123456789", **condition)
    assert type(caught.value) is cls
    assert files_below(root) == {"repo"}
    assert storage.get("repo").data == b"base"


def test_a_really_full_disk():
    with pytest.raises(OSError, match="No space") as caught:
        Path("/dev/full").write_bytes(b"x")
    assert isinstance(local_files.storage_error(caught.value, "write", "/dev/full"), NoSpaceError)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_permissions(storage, root):
    storage.put("repo", b"1")
    (root / "repo").chmod(0)
    with pytest.raises(AccessDeniedError):
        storage.get("repo")
    root.chmod(0o555)
    with pytest.raises(AccessDeniedError):
        storage.put("a", b"")
    root.chmod(0o755)


def test_a_file_in_the_way_is_no_missing_object(storage, root):
    storage.put("a", b"")
    with pytest.raises(StorageError) as caught:
        storage.put("a/b", b"")
    assert not isinstance(caught.value, ObjectNotFoundError)
    storage.put("d/e", b"")
    with pytest.raises(StorageError):
        storage.put("d", b"")
    assert files_below(root) == {"a", "d/e"}


def test_what_cannot_be_deleted_is_returned(storage, monkeypatch):
    for key in ("a", "b", "c"):
        storage.put(key, b"")
    real_unlink = os.unlink

    def unlink(path, **directory):
        if path == "b":
            raise PermissionError(errno.EACCES, "no")
        real_unlink(path, **directory)

    monkeypatch.setattr(os, "unlink", unlink)
    assert storage.delete(["a", "b", "c"]) == ["b"]
    assert [info.key for info in storage.iter_objects()] == ["b"]


def test_an_object_too_large_to_be_read_whole(storage, root):
    root.mkdir()
    with (root / "huge").open("wb") as file:
        file.truncate((1 << 32) + 1)
    with pytest.raises(StorageError, match="too many"):
        storage.get("huge")
    assert storage.get("huge", start=1 << 32).data == b"\0"
    assert storage.get("huge", start=5, end=9).data == b"\0" * 4


def test_the_root_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage = LocalStorage("here/../there")
    monkeypatch.chdir("/")
    storage.put("a", b"1")
    assert (tmp_path / "there" / "a").read_bytes() == b"1"
    assert storage.url == str(tmp_path / "there")


# --- files that become objects ---


@pytest.fixture
def spooled(tmp_path):
    path = tmp_path / "spooled"
    path.write_bytes(b"bytes")
    path.chmod(0o600)
    os.utime(path, (1, 1))
    return path


def test_a_final_file_is_kept_itself(storage, root, spooled):
    before = time.time()
    storage.put_file("chunks/A", str(spooled), is_final=True)
    status = (root / "chunks/A").stat()
    assert status.st_ino == spooled.stat().st_ino
    # Collectors go by the age of an object, and other users may read what the umask lets them.
    assert status.st_mtime >= before - 1
    storage.put("chunks/B", b"bytes")
    assert status.st_mode == (root / "chunks/B").stat().st_mode
    assert [path.name for path in sorted((root / "chunks").iterdir())] == ["A", "B"]


def test_a_file_that_may_change_is_copied(storage, root, spooled):
    storage.put_file("chunks/A", str(spooled))
    assert (root / "chunks/A").stat().st_ino != spooled.stat().st_ino
    assert (spooled.stat().st_mode & 0o777, spooled.stat().st_mtime) == (0o600, 1)


def test_a_directory_with_a_group_of_its_own_gets_copies(storage, root, spooled, monkeypatch):
    (root / "chunks").mkdir(parents=True)
    (root / "chunks").chmod(0o2755)
    monkeypatch.setattr(os, "getegid", lambda: (root / "chunks").stat().st_gid + 1)
    storage.put_file("chunks/A", str(spooled), is_final=True)
    assert (root / "chunks/A").stat().st_ino != spooled.stat().st_ino


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_a_file_that_cannot_be_linked_is_copied(storage, root, spooled, monkeypatch, code):
    def link(*paths, **directories):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    storage.put_file("chunks/A", str(spooled), is_final=True)
    assert (root / "chunks/A").read_bytes() == b"bytes"
    assert len(list((root / "chunks").iterdir())) == 1


def test_a_file_of_another_file_system_is_copied(storage, root, spooled, monkeypatch):
    def copy_file_range(*arguments):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "copy_file_range", copy_file_range)
    storage.put_file("chunks/A", str(spooled))
    assert (root / "chunks/A").read_bytes() == b"bytes"


def test_adopted_files_are_made_durable(storage, root, spooled, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    storage.put_file("chunks/A", str(spooled), is_final=True)
    storage.sync()
    assert {str(root / "chunks/A"), str(root / "chunks")} <= set(synced)
