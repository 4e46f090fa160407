"""Readers next to programs that replace, rename, unlink, link and truncate their files: the errnos are tmpfs's.

Threads do random operations on a few names, on tmpfs and in a mount. `ALLOWED` says what each may fail with; tmpfs is
held to it as well, so that the table stays true. Names that are only ever replaced as a whole are read as a whole.
"""

import collections
import errno
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.official import GROUP, commit, create, loose_array_json
from tests.support.killing import rounds
from tests.support.mounting import mounted
from tests.support.soak import depth

SIZE = 3000
NAMES = ["0", "1", "2"]
DIRECTORIES = ["x", "y", "y/z"]
THREADS = 8
SECONDS = rounds(depth(4, 200))

KEYS = {
    "zarr.json": GROUP,
    "a/zarr.json": loose_array_json((4, 4), (1, 1)),
    **{f"a/c/{i}/{j}": bytes([1 + i]) * SIZE for i in range(4) for j in range(4)},
}

NO_NAME = {errno.ENOENT}
ALLOWED = {
    "read": NO_NAME,
    "hold": NO_NAME,
    "stat": NO_NAME,
    "access": NO_NAME,
    "list xattrs": NO_NAME,
    "get xattr": NO_NAME | {errno.ENODATA},
    "list": NO_NAME,
    "truncate": NO_NAME,
    "open and truncate": NO_NAME,
    "chmod": NO_NAME,
    "utime": NO_NAME,
    "create": NO_NAME,
    "create new": NO_NAME | {errno.EEXIST},
    "append": NO_NAME,
    "replace": NO_NAME,
    "rename": NO_NAME,
    "unlink": NO_NAME,
    "link": NO_NAME | {errno.EEXIST},
    "mkdir": NO_NAME | {errno.EEXIST},
    "rmdir": NO_NAME | {errno.ENOTEMPTY},
    "replace directory": NO_NAME | {errno.ENOTEMPTY, errno.EEXIST, errno.EINVAL},
    "stay": NO_NAME,
}


class Mix:
    """What one thread does, in a directory that has `whole` (only replaced), `c` (chunks) and a few directories."""

    def __init__(self, root: Path, seed: str, found: "collections.Counter[tuple[str, int]]") -> None:
        self.root = root
        self.seed = seed
        self.random = random.Random(seed)
        self.found = found
        self.wrong: list[str] = []

    def run(self, deadline: float) -> None:
        steps: list[tuple[str, Callable[[], None]]] = [
            (name, getattr(self, name.replace(" ", "_"))) for name in ALLOWED
        ]
        while time.monotonic() < deadline and not self.wrong:
            name, step = self.random.choice(steps)
            try:
                step()
                self.found[name, 0] += 1
            except OSError as error:
                self.found[name, error.errno or 0] += 1
            except BaseException as error:
                self.wrong.append(repr(error))

    def path(self) -> str:
        """Returns a name: in a directory that comes and goes, or that of a committed chunk."""
        above = self.random.choice([*DIRECTORIES, "a/c/0", "a/c/1"])
        return f"{self.root}/{above}/{self.random.choice(NAMES)}"

    def whole(self) -> str:
        """Returns a name that is only ever replaced, or removed."""
        return f"{self.root}/a/c/2/{self.random.choice(NAMES)}"

    def directory(self) -> str:
        return f"{self.root}/{self.random.choice([*DIRECTORIES, 'a/c/3'])}"

    def new(self, size: int = SIZE) -> str:
        path = f"{self.root}/new-{self.seed}"
        with open(path, "wb") as file:
            file.write(bytes([self.random.randrange(1, 256)]) * size)
        return path

    def check(self, data: bytes) -> None:
        assert len(data) == SIZE, len(data)
        assert len(set(data)) == 1, set(data)

    def read(self) -> None:
        with open(self.whole(), "rb") as file:
            self.check(file.read())
        with open(self.path(), "rb") as file:
            file.read()

    def hold(self) -> None:
        """What is open keeps its bytes, whatever becomes of its name."""
        with open(self.whole(), "rb", buffering=0) as file:
            first = file.read(SIZE)
            self.check(first)
            time.sleep(self.random.random() / 100)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(file.fileno(), SIZE, 0) == first
            assert os.fstat(file.fileno()).st_size == SIZE

    def stat(self) -> None:
        assert os.stat(self.whole()).st_size == SIZE
        os.stat(self.path())
        os.stat(self.directory())

    def access(self) -> None:
        with open(self.whole(), "rb"):
            os.stat(self.path())

    def list_xattrs(self) -> None:
        os.listxattr(self.whole())
        os.listxattr(self.path())
        os.listxattr(self.directory())

    def get_xattr(self) -> None:
        os.getxattr(self.random.choice([self.path, self.whole, self.directory])(), "user.none")

    def list(self) -> None:
        os.listdir(self.directory())

    def truncate(self) -> None:
        os.truncate(self.path(), self.random.choice([0, 10, SIZE]))

    def open_and_truncate(self) -> None:
        os.close(os.open(self.path(), os.O_WRONLY | os.O_TRUNC))

    def chmod(self) -> None:
        os.chmod(self.whole(), self.random.choice([0o644, 0o600]))
        os.chmod(self.path(), self.random.choice([0o644, 0o600]))
        os.chmod(self.directory(), self.random.choice([0o755, 0o700]))

    def utime(self) -> None:
        os.utime(self.path())
        os.utime(self.directory())

    def create(self) -> None:
        with open(self.path(), "wb") as file:
            file.write(b"x" * 100)

    def create_new(self) -> None:
        with open(self.path(), "xb") as file:
            file.write(b"y" * 100)

    def append(self) -> None:
        with open(self.path(), "ab") as file:
            file.write(b"z")

    def replace(self) -> None:
        os.replace(self.new(), self.whole())
        os.replace(self.new(), self.path())

    def rename(self) -> None:
        os.rename(self.path(), self.path())

    def unlink(self) -> None:
        os.unlink(self.random.choice([self.path, self.whole])())

    def link(self) -> None:
        os.link(self.path(), self.path())

    def mkdir(self) -> None:
        os.mkdir(self.directory())

    def rmdir(self) -> None:
        os.rmdir(self.directory())

    def replace_directory(self) -> None:
        os.rename(self.directory(), self.directory())

    def stay(self) -> None:
        """Stands in a directory that may be removed meanwhile."""
        fd = os.open(self.directory(), os.O_RDONLY | os.O_DIRECTORY)
        try:
            time.sleep(self.random.random() / 100)
            os.fstat(fd)
            os.fchmod(fd, 0o755)
            os.listxattr(fd)
            os.listdir(fd)
        finally:
            os.close(fd)


def mixed(root: Path, seed: int) -> "collections.Counter[tuple[str, int]]":
    """Has threads work in a directory; returns how often each operation ended how."""
    found: collections.Counter[tuple[str, int]] = collections.Counter()
    for directory in DIRECTORIES:
        (root / directory).mkdir(parents=True)
    deadline = time.monotonic() + SECONDS
    mixes = [Mix(root, f"{seed}-{number}", found) for number in range(THREADS)]
    threads = [threading.Thread(target=mix.run, args=(deadline,)) for mix in mixes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not [text for mix in mixes for text in mix.wrong]
    return found


def beside_the_table(found: "collections.Counter[tuple[str, int]]") -> dict[str, int]:
    return {
        f"{name}: {errno.errorcode[number]}": count
        for (name, number), count in found.items()
        if number and number not in ALLOWED[name]
    }


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory on tmpfs with what the mount has."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        for key, data in KEYS.items():
            path = Path(directory, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        yield Path(directory)


def test_the_table_is_what_tmpfs_does(memory: Path) -> None:
    found = mixed(memory, 0)
    assert not beside_the_table(found)
    assert {name for name, number in found if not number} >= {"read", "replace", "truncate", "rename", "stay"}


@pytest.mark.parametrize("seed", range(2))
def test_a_mount_gives_the_errnos_of_tmpfs_and_none_beside(tmp_path: Path, seed: int) -> None:
    """Names of new files, of committed chunks, and of directories, in one tree; nothing stays behind of what went."""
    repository = tmp_path / "repo"
    commit(create(repository, 2), "first", KEYS)
    with mounted(repository, branch="main") as mount:
        found = mixed(mount.path, seed)
        assert not beside_the_table(found)
        assert found["read", 0]
        assert found["replace", 0]
