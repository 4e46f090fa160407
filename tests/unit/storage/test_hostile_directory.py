"""Nothing in a local repository is followed out of it, and nothing in it is waited for.

The cases are generated: each place that an operation reaches, the object itself, its directories, the lock and what
else stands there, times each thing that somebody can put there, times each operation of a storage.
"""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from icefs.errors import (
    AccessDeniedError,
    IcefsError,
    NotAnObjectError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageError,
)
from icefs.storage.local.lock import LOCK_NAME
from icefs.storage.local.store import LocalStorage
from tests.support.hostile import (
    SECRET,
    STRANGE,
    THINGS,
    call_as_other_user,
    deadline,
    fits,
    make_outside,
    place,
    unchanged,
)

KEYS = (
    "repo",
    "config.yaml",
    "chunks/A",
    "manifests/A",
    "snapshots/A",
    "transactions/A",
    "overwritten/repo.1",
    "refs/branch.main/ref.json",
)
BYTES = b"0123456789"
READING = {
    "get": lambda s, key, v: s.get(key).data,
    "range": lambda s, key, v: s.get(key, start=2, end=5).data,
    "get_if_changed": lambda s, key, v: s.get_if_changed(key, "1-2-3"),
    "get_if_unchanged": lambda s, key, v: s.get_if_changed(key, v),
    "head": lambda s, key, v: s.head(key),
    "open": lambda s, key, v: os.close(s.local_opener(_directory(key))(key.rpartition("/")[2])[0]),
}
CHANGING = {
    "put": lambda s, key, v: s.put(key, b"new"),
    "create": lambda s, key, v: s.put(key, b"new", create_only=True),
    "replace": lambda s, key, v: s.put(key, b"new", if_match=v),
    "put_file": lambda s, key, v: s.put_file(key, f"{s.local_root}-spool"),
    "put_final_file": lambda s, key, v: s.put_file(key, f"{s.local_root}-spool", is_final=True),
    "copy_from": lambda s, key, v: s.copy(key, "elsewhere/copy"),
    "copy_from_version": lambda s, key, v: s.copy(key, "elsewhere/copy", if_match=v),
    "copy_to": lambda s, key, v: s.copy("other", key),
    "delete": lambda s, key, v: s.delete([key]),
}
REPLACING = {"put", "put_file", "put_final_file", "copy_to"}
LISTING = {
    "list": lambda s, key, v: list(s.iter_objects(_directory(key))),
    "list_all": lambda s, key, v: list(s.iter_objects()),
    "list_dir": lambda s, key, v: list(s.list_dir(_directory(key))),
    "list_foreign": lambda s, key, v: list(s.list_foreign()),
}
OPERATIONS = {**READING, **CHANGING, **LISTING}


def _directory(key: str) -> str:
    directory = key.rpartition("/")[0]
    return f"{directory}/" if directory else ""


def _places(key: str) -> list[str]:
    """Returns the object, the directories on the way to it, and the lock."""
    parts = key.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)] + [LOCK_NAME]


def _expected(operation: str, thing: str, *, at_object: bool, at_lock: bool) -> type[IcefsError] | None:
    """Returns what an operation must end with; None where it must succeed."""
    if operation == "create" and (at_lock or thing == "hard link"):
        return PreconditionFailedError
    if at_lock:
        if operation != "replace" or thing == "hard link":
            return None
        return NotAnObjectError if thing in STRANGE else StorageError
    if thing == "hard link":
        return None
    if operation in ("list_all", "list_foreign", "delete"):
        return None
    if thing in STRANGE:
        if at_object and operation in REPLACING | set(LISTING):
            return None
        return NotAnObjectError
    if at_object:  # a directory
        return None if operation in LISTING else ObjectNotFoundError if operation in READING else StorageError
    return None if operation in LISTING else StorageError  # a file in place of a directory


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("is_durable", [False, True], ids=["quick", "durable"])
def test_what_somebody_puts_into_a_repository_leads_nowhere(tmp_path, thing, is_durable):
    if not fits(thing, is_directory=False) and not fits(thing, is_directory=True):
        pytest.skip("only root makes devices")
    outside = make_outside(tmp_path)
    wrong = []
    for key in KEYS if not is_durable else ("chunks/A",):
        for number, (at, operation) in enumerate(itertools.product(_places(key), OPERATIONS)):
            if not fits(thing, is_directory=at not in (key, LOCK_NAME)):
                continue
            root = tmp_path / f"{key.replace('/', '-')}-{number}"
            wrong += _try(root, outside, key, at, thing, operation, is_durable=is_durable)
    assert wrong == []


def _try(
    root: Path, outside: Path, key: str, at: str, thing: str, operation: str, *, is_durable: bool
) -> Iterator[str]:
    storage = LocalStorage(root, durable=is_durable, lock_timeout_s=0.05)
    maker = LocalStorage(root)
    version = maker.put(key, BYTES)
    maker.put("other", b"other")
    Path(f"{root}-spool").write_bytes(b"from a file")
    place(root / at, thing, outside)
    if thing == "hard link" and at == key:
        version = storage.head(key).version
    case, answer, error = f"{operation} of {key}, {thing} at {at}", None, None
    with unchanged(outside), deadline(5):
        try:
            answer = OPERATIONS[operation](storage, key, version)
            storage.sync()
        except IcefsError as raised:
            error = raised
    expected = _expected(operation, thing, at_object=at == key, at_lock=at == LOCK_NAME)
    if (error is None) != (expected is None) or not isinstance(error, expected or type(None)):
        yield f"{case}: {error!r}, not {expected}"
    if thing != "hard link" and SECRET in repr(answer).encode():
        yield f"{case}: shows the secret"
    if error is not None and str(root) not in error.message:
        yield f"{case}: does not name the path: {error.message}"
    if isinstance(error, NotAnObjectError) and (str(root / at) not in error.message or not error.hint):
        yield f"{case}: does not say what is wrong where: {error.message}"
    if operation in REPLACING and error is None and storage.get(key).data == SECRET:
        yield f"{case}: has replaced nothing"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_may_not_be_read_is_an_error_that_names_it(tmp_path, operation):
    """Root may read everything, so the operations are carried out as another user."""
    scratch = Path(tempfile.mkdtemp(prefix="icefs-unreadable-"))
    scratch.chmod(0o777)
    try:
        assert call_as_other_user(lambda: list(_try_unreadable(scratch, operation))) == []
    finally:
        shutil.rmtree(scratch)


def _try_unreadable(scratch: Path, operation: str) -> Iterator[str]:
    for key in ("repo", "chunks/A"):
        for at in _places(key):
            case = f"{operation} of {key}, {at} may not be read"
            root = scratch / f"{key}-{at}".replace("/", "-")
            storage = LocalStorage(root, lock_timeout_s=0.05)
            version = storage.put(key, BYTES)
            storage.put("other", b"other")
            Path(f"{root}-spool").write_bytes(b"from a file")
            if at == LOCK_NAME:
                (root / at).touch()
            mode = (root / at).stat().st_mode & 0o777
            (root / at).chmod(0)
            try:
                with deadline(5):
                    OPERATIONS[operation](storage, key, version)
            except StorageError as error:
                if str(root) not in error.message or not isinstance(error, AccessDeniedError | PreconditionFailedError):
                    yield f"{case}: {error.message}"
            else:
                if at == key and operation in ("get", "range", "get_if_changed", "head", "open"):
                    yield f"{case}: no error"
            if (root / at).exists():
                (root / at).chmod(mode)


@pytest.mark.parametrize("thing", STRANGE)
def test_it_is_listed_as_what_it_is_and_never_as_an_object(tmp_path, thing):
    if not fits(thing, is_directory=False):
        pytest.skip("only root makes devices")
    outside = make_outside(tmp_path)
    storage = LocalStorage(tmp_path / "repo")
    storage.put("chunks/A", BYTES)
    place(tmp_path / "repo/chunks/B", thing, outside)
    place(tmp_path / "repo/refs", thing, outside)
    kind = "a symbolic link" if "symlink" in thing else f"a {thing}"
    assert sorted(storage.list_foreign()) == [("chunks/B", kind), ("refs", kind)]
    assert [info.key for info in storage.iter_objects()] == ["chunks/A"]
    assert list(storage.list_dir("chunks/")) == ["A"]
    assert list(storage.list_dir()) == ["chunks/"]


def test_the_root_may_be_reached_through_links(tmp_path):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    storage = LocalStorage(tmp_path / "link" / "deep")
    storage.put("chunks/A", BYTES)
    assert storage.get("chunks/A").data == BYTES
    assert (tmp_path / "real/deep/chunks/A").exists()


def test_the_root_is_kept_when_its_name_is_led_elsewhere(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for root in (ours, theirs):
        LocalStorage(root).put("repo", root.name.encode())
    storage = LocalStorage(ours)
    assert storage.get("repo").data == b"ours"
    ours.rename(tmp_path / "moved")
    ours.symlink_to("theirs")
    assert storage.get("repo").data == b"ours"
    (tmp_path / "moved/repo").unlink()
    (tmp_path / "moved").rmdir()
    for _ in range(2):  # the first finds that the directory is gone, the second that its name leads elsewhere
        with pytest.raises(IcefsError) as caught:
            storage.get("repo")
    assert "theirs" in caught.value.message


def test_a_root_that_is_made_again_is_found_again(tmp_path):
    storage = LocalStorage(tmp_path / "repo")
    storage.put("a", b"1")
    (tmp_path / "repo/a").unlink()
    (tmp_path / "repo").rmdir()
    with pytest.raises(ObjectNotFoundError):
        storage.get("a")
    storage.put("b/c", b"2")
    assert LocalStorage(tmp_path / "repo").get("b/c").data == storage.get("b/c").data == b"2"


def test_a_closed_storage_holds_no_directory_open(tmp_path):
    storage = LocalStorage(tmp_path / "repo")
    storage.put("chunks/A", b"1")

    def is_open() -> bool:
        found = set()
        for fd in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):
                found.add(os.readlink(f"/proc/self/fd/{fd}"))
        return str(tmp_path / "repo") in found

    assert is_open()
    storage.close()
    assert not is_open()
