"""What a writable branch does as a local file system does, row by row of the design; random sequences of it all are in
`test_differential.py`."""

import errno
import fcntl
import mmap
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.conformance.official import GROUP, commit, create, loose_array_json, put_all
from tests.support.mounting import mounted

NATIVE = b"native " * 1000
KEYS = {
    "zarr.json": GROUP,
    "a/zarr.json": loose_array_json((8,), (1,)),
    "a/c/0": b"inline",
    "a/c/1": NATIVE,
    "g/zarr.json": GROUP,
}


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    path = tmp_path_factory.mktemp("posix") / "repo"
    official = create(path, 2)
    official.create_tag("v1", commit(official, "first", KEYS))
    return official, path


@pytest.fixture(scope="module")
def mount(repo):
    _, path = repo
    with mounted(path, state_dir=str(path.parent / "state")) as found:
        yield found


@pytest.fixture
def tree(repo, mount, request):
    """A branch of its own."""
    official, _ = repo
    name = request.node.name.removeprefix("test_")
    official.create_branch(name, official.lookup_tag("v1"))
    mount.refresh()
    return mount / "branches" / name


def fails(number, function, *args, **kwargs):
    with pytest.raises(OSError) as caught:
        function(*args, **kwargs)
    assert caught.value.errno == number, (errno.errorcode[caught.value.errno], args)


def in_another_process(program, *args):
    """Runs a Python program and returns what it prints."""
    source = f"import errno, fcntl, os, sys\n{program}"
    command = [sys.executable, "-c", source, *map(str, args)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_zarr_v2_names_are_refused(tree):
    for name in (".zgroup", ".zarray", ".zattrs", ".zmetadata"):
        for above in (tree, tree / "a", tree / "a/c"):
            fails(errno.ENOENT, os.stat, above / name)
            fails(errno.EPERM, os.open, above / name, os.O_WRONLY | os.O_CREAT)
            fails(errno.EPERM, os.mkdir, above / name)
            fails(errno.EPERM, os.rename, tree / "a/c/0", above / name)
            fails(errno.EPERM, os.link, tree / "a/c/0", above / name)
            assert name not in os.listdir(above)
    assert (tree / "a/c/0").read_bytes() == b"inline"


def test_invalid_metadata_is_refused_and_kept(tree):
    fd = os.open(tree / "g/zarr.json", os.O_WRONLY | os.O_TRUNC)
    os.write(fd, b'{"zarr_format":')
    fails(errno.EINVAL, os.close, fd)
    assert (tree / "g/zarr.json").read_bytes() == b'{"zarr_format":'
    (tree / "g/new.partial").write_bytes(b"[]")
    fails(errno.EINVAL, os.rename, tree / "g/new.partial", tree / "zarr.json")
    (tree / "h").mkdir()
    fails(errno.EINVAL, os.link, tree / "g/new.partial", tree / "h/zarr.json")
    fails(errno.ENOENT, os.stat, tree / "h/zarr.json")
    assert os.listdir(tree / "h") == []
    assert (tree / "g/new.partial").read_bytes() == b"[]"
    assert (tree / "zarr.json").read_bytes() == GROUP
    fails(errno.EINVAL, (tree / ".icefs/commit").write_text, "a commit")
    assert (tree / "g/zarr.json").read_bytes() == b'{"zarr_format":'
    (tree / "g/zarr.json").write_bytes(GROUP)  # and a correct one heals it


def test_special_files_are_refused(tree):
    fails(errno.EPERM, os.symlink, "zarr.json", tree / "link")
    fails(errno.EPERM, os.mkfifo, tree / "fifo")
    fails(errno.EPERM, os.mknod, tree / "socket", stat.S_IFSOCK | 0o600)
    os.mknod(tree / "file", stat.S_IFREG | 0o600)
    assert os.stat(tree / "file").st_size == 0
    assert sorted(os.listdir(tree)) == ["a", "file", "g", "zarr.json"]
    fails(errno.EINVAL, os.readlink, tree / "file")


def test_trees_are_apart(tree, mount):
    for other in (mount / "tags/v1", mount / "branches/main"):
        fails(errno.EXDEV, os.rename, tree / "a", other / "b")
        fails(errno.EXDEV, os.rename, other / "a", tree / "b")
        fails(errno.EXDEV, os.link, other / "a/c/0", tree / "new")
    for root in (mount / "tags/v1", mount / "snapshots" / os.path.basename(os.readlink(tree / ".icefs/head"))):
        fails(errno.EROFS, os.mkdir, root / "new")
        fails(errno.EROFS, os.open, root / "new", os.O_CREAT | os.O_WRONLY)
        fails(errno.EROFS, os.open, root / "a/c/0", os.O_RDWR)
        fails(errno.EROFS, os.unlink, root / "a/c/0")
        fails(errno.EROFS, os.utime, root / "a/c/0")


def test_locks_between_processes(tree):
    path = tree / "a/c/0"
    flock = """
fd = os.open(sys.argv[1], os.O_RDWR)
try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("got")
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    posix = flock.replace("flock(fd", "lockf(fd")
    for lock, program in ((fcntl.flock, flock), (fcntl.lockf, posix)):
        fd = os.open(path, os.O_RDWR)
        lock(fd, fcntl.LOCK_EX)
        assert in_another_process(program, path) == "EAGAIN\n"
        lock(fd, fcntl.LOCK_UN)
        assert in_another_process(program, path) == "got\n"
        lock(fd, fcntl.LOCK_EX)
        got = threading.Event()
        waits = program.replace(" | fcntl.LOCK_NB", "")

        def wait(program: str = waits, got: threading.Event = got) -> None:
            in_another_process(program, path)
            got.set()

        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not got.wait(0.2)
        os.close(fd)  # gives the lock back, and the waiter gets it
        waiter.join(20)
        assert got.is_set()


def test_appending_from_two_processes(tree):
    """No write is lost and none is torn."""
    path = tree / "log.txt"
    path.touch()
    program = """
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
for number in range(300):
    os.write(fd, f"{sys.argv[2]}{number:04}\\n".encode())
"""
    writers = [threading.Thread(target=in_another_process, args=(program, path, who)) for who in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = path.read_text().splitlines()
    for who in "ab":
        assert [line for line in lines if line[0] == who] == [f"{who}{i:04}" for i in range(300)]
    assert len(lines) == 600


def test_removed_files_stay_open(tree):
    for name, data in (("a/c/0", b"inline"), ("a/c/1", NATIVE)):
        fd = os.open(tree / name, os.O_RDWR)
        os.unlink(tree / name)
        fails(errno.ENOENT, os.stat, tree / name)
        assert os.fstat(fd).st_nlink == 0
        assert os.pread(fd, 1 << 20, 0) == data
        os.pwrite(fd, b"changed", len(data))
        assert os.pread(fd, 1 << 20, 0) == data + b"changed"
        (tree / name).write_bytes(b"another file")
        assert os.pread(fd, 1 << 20, 0) == data + b"changed"
        os.close(fd)
        assert (tree / name).read_bytes() == b"another file"


def test_mappings(tree):
    path = tree / "a/c/1"
    fd = os.open(path, os.O_RDWR)
    private = mmap.mmap(fd, 0, mmap.MAP_PRIVATE)
    private[:3] = b"own"
    shared = mmap.mmap(fd, 0, mmap.MAP_SHARED)
    assert shared[:] == NATIVE
    shared[:6] = b"shared"
    os.close(fd)  # the mapping stays
    shared.flush()
    assert path.read_bytes() == b"shared" + NATIVE[6:]
    assert private[:3] == b"own"
    shared[6:7] = b"!"
    shared.close()
    private.close()
    assert path.read_bytes() == b"shared!" + NATIVE[7:]


def test_extended_attributes(tree):
    assert os.getxattr(tree / "a/c/1", "user.icefs.kind") == b"native"
    for name in ("a", "a/c/0", "zarr.json"):
        fails(errno.EOPNOTSUPP, os.getxattr, tree / name, "system.posix_acl_access")
        fails(errno.EOPNOTSUPP, os.setxattr, tree / name, "system.posix_acl_access", b"\2\0\0\0")
        fails(errno.ENODATA, os.getxattr, tree / name, "user.other")
        fails(errno.EOPNOTSUPP, os.setxattr, tree / name, "user.other", b"x")
        fails(errno.EOPNOTSUPP, os.removexattr, tree / name, "user.other")
    (tree / "new").write_bytes(b"x")
    assert os.listxattr(tree / "new") == []


def test_times_and_numbers_stay_with_content(repo, mount, tree):
    official, _ = repo
    before = {path: path.stat() for path in tree.rglob("*") if path.is_file()}
    (tree / "a/c/2").write_bytes(b"new")
    first = (tree / "a/c/2").stat()
    (tree / ".icefs/commit").write_text("ours")
    assert ((tree / "a/c/2").stat().st_ino, (tree / "a/c/2").stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    session = official.writable_session(tree.name)
    put_all(session.store, {"a/c/0": b"theirs", "a/c/3": b"theirs as well", "a/c/2": b"theirs!"})
    session.commit("theirs")
    mount.refresh()
    for path, was in before.items():
        now = path.stat()
        if path.name == "0":
            assert path.read_bytes() == b"theirs"
            assert now.st_mtime_ns > was.st_mtime_ns
            assert now.st_ino != was.st_ino
        else:
            assert (now.st_ino, now.st_mtime_ns) == (was.st_ino, was.st_mtime_ns), path
    now = (tree / "a/c/2").stat()
    assert (tree / "a/c/2").read_bytes() == b"theirs!"
    assert now.st_mtime_ns > first.st_mtime_ns
    assert now.st_ino != first.st_ino
    # Each change of content is another time, whatever the clock does.
    times = []
    for number in range(50):
        (tree / "a/c/0").write_bytes(b"%d" % number)
        times.append((tree / "a/c/0").stat().st_mtime_ns)
    assert times == sorted(set(times))


def test_missing_names_are_looked_up_again(repo, mount, tree):
    official, _ = repo
    names = ["a/c/4", "a/c/5", "t/zarr.json", "new.txt"]
    for name in names:
        for _ in range(2):
            fails(errno.ENOENT, os.stat, tree / name)
    session = official.writable_session(tree.name)
    put_all(session.store, {"a/c/4": b"theirs", "t/zarr.json": GROUP})
    session.commit("theirs")
    mount.refresh()
    assert (tree / "a/c/4").read_bytes() == b"theirs"
    assert (tree / "t/zarr.json").read_bytes() == GROUP
    for name in ("a/c/5", "new.txt"):
        in_another_process("open(sys.argv[1], 'w').write('x')", tree / name)
        assert (tree / name).read_bytes() == b"x"
        os.unlink(tree / name)
        fails(errno.ENOENT, os.stat, tree / name)


def test_sync_and_attributes(tree):
    fd = os.open(tree / "a/c/0", os.O_RDWR)
    os.pwrite(fd, b"x", 0)
    os.fsync(fd)
    os.fdatasync(fd)
    os.fchmod(fd, 0o600)
    os.fchown(fd, 12, 34)
    os.utime(fd, ns=(5, 7))
    told = os.fstat(fd)
    assert (told.st_mode, told.st_uid, told.st_gid, told.st_mtime_ns) == (stat.S_IFREG | 0o600, 12, 34, 7)
    os.close(fd)
    for name in ("", "a", "a/c"):
        directory = os.open(tree / name, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        os.chmod(tree / name, 0o700)
        assert stat.S_IMODE(os.stat(tree / name).st_mode) == 0o700
    told = os.statvfs(tree)
    assert told.f_namemax == 255
    assert told.f_bavail > 0
    assert told.f_favail > 0
    assert os.access(tree / "a/c/0", os.R_OK | os.W_OK)


def test_parallel_directories(tree):
    """As many make the same directories at once; each hears that it exists, or made it."""
    made = []

    def make(who: int) -> None:
        for number in range(20):
            path = Path(tree, "deep", str(number))
            path.mkdir(parents=True, exist_ok=True)
            (path / f"{who}.partial").write_bytes(b"x")
            made.append(path)

    threads = [threading.Thread(target=make, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 160
    assert all(len(os.listdir(tree / "deep" / str(number))) == 8 for number in range(20))


def test_a_directory_that_is_open_can_be_asked_after_it_was_removed(tree):
    (tree / "made").mkdir()
    (tree / "made/0").write_bytes(b"inline")
    for place in (tree / "a/c", tree / "made"):
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        inner = os.open(place / "0", os.O_RDONLY)
        before = os.fstat(fd)
        subprocess.run(["rm", "-r", place], check=True)
        told = os.fstat(fd)
        assert (told.st_ino, told.st_mode, told.st_nlink) == (before.st_ino, before.st_mode, 0)
        assert os.listdir(fd) == []
        fails(errno.ENOENT, os.open, "x", os.O_WRONLY | os.O_CREAT, dir_fd=fd)
        assert os.read(inner, 10) == b"inline"
        os.close(inner)
        os.close(fd)
