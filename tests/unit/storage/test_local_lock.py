"""Only users who may write to a repository can hold its lock, and all of them can."""

import fcntl
import os
import shutil
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from icefs.errors import StorageError
from icefs.storage.local.beneath import Beneath
from icefs.storage.local.lock import LOCK_NAME, exclusive
from icefs.storage.local.store import LocalStorage
from tests.support.hostile import OTHER_USER, call_as_other_user

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


@pytest.fixture
def shared():
    """A directory that other users can reach."""
    directory = Path(tempfile.mkdtemp(prefix="icefs-shared-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def commit(root: Path) -> None:
    storage = LocalStorage(root, lock_timeout_s=0.3)
    storage.put("repo", b"next", if_match=storage.head("repo").version)


def make(root: Path, mode: int) -> Path:
    LocalStorage(root).put("repo", b"first")
    root.chmod(mode)
    return root


@pytest.mark.parametrize(
    ("directory", "lock"), [(0o755, 0o600), (0o700, 0o600), (0o775, 0o660), (0o2770, 0o660), (0o777, 0o666)]
)
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_its_mode_is_that_of_those_who_may_write(tmp_path, directory, lock, mask):
    root = make(tmp_path / "repo", directory)
    before = os.umask(mask)
    try:
        commit(root)
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / LOCK_NAME).stat().st_mode) == lock


def _hold(root: Path) -> list[int]:
    """Tries to hold the lock, by whatever descriptor this user gets."""
    held = []
    for flags in (os.O_RDWR, os.O_RDONLY):
        try:
            fd = os.open(root / LOCK_NAME, flags)
        except PermissionError:
            continue
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.append(fd)
        break
    return held


@needs_root
def test_who_may_only_read_cannot_block_those_who_write(shared):
    root = make(shared / "repo", 0o755)
    commit(root)
    assert call_as_other_user(lambda: _hold(root)) == []


@needs_root
def test_a_lock_file_that_readers_can_open_is_replaced(shared):
    """An earlier icefs made it; somebody who reads may have it open for later."""
    root = make(shared / "repo", 0o755)
    (root / LOCK_NAME).touch(0o644)
    fd = os.open(root / LOCK_NAME, os.O_RDONLY)
    commit(root)
    assert stat.S_IMODE((root / LOCK_NAME).stat().st_mode) == 0o600
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    commit(root)
    os.close(fd)
    assert {path.name for path in root.iterdir()} == {"repo", LOCK_NAME}


@needs_root
@pytest.mark.parametrize("lock", [None, 0o644, 0o600])
def test_all_who_may_write_can_commit_with_any_makers_lock(shared, lock):
    root = make(shared / "repo", 0o755)
    os.chown(root, OTHER_USER, OTHER_USER)
    if lock == 0o644:
        (root / LOCK_NAME).touch(0o644)  # an earlier icefs, as root
    elif lock == 0o600:
        commit(root)
    call_as_other_user(lambda: commit(root))
    commit(root)
    call_as_other_user(lambda: commit(root))


@needs_root
def test_a_group_that_may_write_can_commit(shared):
    root = make(shared / "repo", 0o770)
    os.chown(root, 0, OTHER_USER)
    commit(root)
    call_as_other_user(lambda: commit(root))


@needs_root
def test_users_of_an_access_list_can_commit(shared):
    root = make(shared / "repo", 0o755)
    entries = [(1, 7, 0xFFFFFFFF), (2, 7, OTHER_USER), (4, 5, 0xFFFFFFFF), (16, 7, 0xFFFFFFFF), (32, 5, 0xFFFFFFFF)]
    access = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + permissions.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, permissions, who in entries
    )
    try:
        os.setxattr(root, "system.posix_acl_access", access)
    except OSError:
        pytest.skip("this file system has no access lists")
    commit(root)
    call_as_other_user(lambda: commit(root))


def test_replacing_the_lock_file_lets_nobody_in_beside_its_holder(tmp_path):
    """Threads add to a counter, and somebody makes the lock file readable again and again."""
    root = make(tmp_path / "repo", 0o755)
    (root / "counter").write_text("0")

    def count() -> None:
        files = Beneath(str(root))
        for _ in range(50):
            with exclusive(files, timeout_s=30):
                value = int((root / "counter").read_text())
                (root / LOCK_NAME).chmod(0o644)
                (root / "counter").write_text(str(value + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (root / "counter").read_text() == "200"


@pytest.mark.parametrize("code", ["ENOSYS", "EOPNOTSUPP", "ENOLCK"])
def test_a_file_system_without_locks_is_named_as_the_reason(tmp_path, monkeypatch, code):
    import errno

    root = make(tmp_path / "repo", 0o755)

    def flock(fd, operation):
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StorageError, match=f"locks.*{root}/{LOCK_NAME}"):
        commit(root)
