"""What `icefs/vfs/SEMANTICS.md` says first of each matter, on a real mount; the document names all of its tests."""

import asyncio
import errno
import fcntl
import mmap
import os
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.conformance.official import GROUP, commit, create, loose_array_json, put_all, remove
from tests.support.mounting import mounted

BIG = bytes(range(256)) * 4096  # 1 MiB, a native chunk
KEYS = {
    "zarr.json": GROUP,
    "g/zarr.json": GROUP,
    "a/zarr.json": loose_array_json((40, 40), (10, 10)),
    "a/c/0/1": b"chunk 0 1",
    "a/c/2/0": b"chunk 2 0",
    "big/zarr.json": loose_array_json((4 << 20,), (1 << 20,)),
    "big/c/0": BIG,
    "many/zarr.json": loose_array_json((5000,), (1,)),
    "implicit/x/zarr.json": loose_array_json((1,), (1,)),
    "implicit/x/c/0": b"x",
    "scalar/zarr.json": loose_array_json((), ()),
    "scalar/c": b"s",
} | {f"many/c/{i}": b"%d" % i for i in range(5000)}


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    path = tmp_path_factory.mktemp("semantics") / "repo"
    official = create(path, 2)
    official.create_tag("v1", commit(official, "first", KEYS))
    return path


@pytest.fixture(scope="module")
def mount(repo):
    with mounted(repo) as found:
        yield found


@pytest.fixture(scope="module", params=["tags/v1", "branches/main"])
def tree(request, mount):
    return mount / request.param


def fails(number, function, *args, **kwargs):
    with pytest.raises(OSError) as caught:
        function(*args, **kwargs)
    assert caught.value.errno == number, (errno.errorcode[caught.value.errno], args)


def test_missing_names(tree):
    """A missing name is ENOENT, whatever it looks like: `.zgroup`, `.zarray`, a chunk that does not exist, a chunk
    outside of the grid, another spelling of a chunk's name."""
    names = [
        ".zgroup",
        ".zattrs",
        ".zmetadata",
        "a/.zarray",
        "a/c/0/0",
        "a/c/9/9",
        "a/c/4/0",
        "a/c/00/1",
        "a/c/0/01",
        "a/c/2/0.tmp",
        "zarr.aux",
        "A",
    ]
    for name in [*names, "a/c/2/4294967296", "g/c", "a/0", "x" * 255]:
        for _ in range(2):
            fails(errno.ENOENT, os.stat, tree / name)
            fails(errno.ENOENT, os.open, tree / name, os.O_RDONLY)


def test_wrong_kinds_of_names(tree):
    """A file used as a directory is ENOTDIR, a directory read as a file is EISDIR, readlink of a file is EINVAL, and a
    name of more than 255 bytes is ENAMETOOLONG."""
    for name in ("zarr.json", "a/c/0/1"):
        fails(errno.ENOTDIR, os.stat, tree / name / "x")
        fails(errno.ENOTDIR, os.listdir, tree / name)
        fails(errno.ENOTDIR, os.open, tree / name, os.O_RDONLY | os.O_DIRECTORY)
        fails(errno.EINVAL, os.readlink, tree / name)
    for name in ("", "a", "a/c", "a/c/0"):
        fd = os.open(tree / name, os.O_RDONLY)
        fails(errno.EISDIR, os.read, fd, 10)
        os.close(fd)
    fails(errno.ENAMETOOLONG, os.stat, tree / ("x" * 256))


def test_directories(tree):
    """A directory exists where a node or a chunk lies below it. A group whose own metadata was never written is a
    directory without `zarr.json`."""
    assert sorted(os.listdir(tree)) == ["a", "big", "g", "implicit", "many", "scalar", "zarr.json"]
    assert sorted(os.listdir(tree / "a/c")) == ["0", "2"]
    assert os.listdir(tree / "implicit") == ["x"]
    assert os.listdir(tree / "g") == ["zarr.json"]
    assert (tree / "scalar/c").read_bytes() == b"s"


def test_the_hidden_directory(tree, mount):
    """`.icefs` is found by name in the root of each tree and in the root of the mount, and never listed."""
    for place in (tree, mount.path):
        assert ".icefs" not in os.listdir(place)
        assert stat.S_ISDIR(os.stat(place / ".icefs").st_mode)
        assert b"\n" in (place / ".icefs/status").read_bytes()
    for name in ("a/.icefs", "a/c/.icefs", "../.icefs"):
        fails(errno.ENOENT, os.stat, tree / name)
    found = subprocess.run(["find", mount.path, "-name", ".icefs"], check=True, capture_output=True)
    assert found.stdout == b""


def test_sizes(tree):
    """`st_size` is exact before anything is read, one read of `st_size` bytes returns them all, and the next returns
    none."""
    for name in ("a/c/0/1", "big/c/0", "zarr.json", "many/c/4999", "scalar/c"):
        size = os.stat(tree / name).st_size
        fd = os.open(tree / name, os.O_RDONLY)
        assert os.fstat(fd).st_size == size == len(KEYS[name])
        assert os.pread(fd, size, 0) == KEYS[name]
        assert os.pread(fd, 100, size) == b""
        os.close(fd)


def test_times(mount):
    """`st_mtime` of a file in a tag, a snapshot, or a branch as it is first seen, is the time of the commit that
    changed it last, and is the same for as long as the content is. A directory has the time of the snapshot."""
    [first, _] = mount.control("log.json", "tags/v1")
    for root in ("tags/v1", "branches/main"):
        for name in ("", "a", "a/c/0/1", "zarr.json", "a/c"):
            assert _written_at(mount / root / name) == first["written_at"]
            assert _written_at(mount / root / name) == first["written_at"]


def test_times_of_several_commits(tmp_path):
    official = create(tmp_path / "repo", 2)
    commit(official, "first", {"a/zarr.json": loose_array_json((4,), (1,)), "a/c/0": b"0", "a/c/1": b"1"})
    official.create_tag("v2", commit(official, "second", {"a/c/1": b"2"}))
    with mounted(tmp_path / "repo") as mount:
        [second, first, _] = [entry["written_at"] for entry in mount.control("log.json", "tags/v2")]
        expected = {"": second, "a": second, "a/c": second, "a/zarr.json": first, "a/c/0": first, "a/c/1": second}
        for root in ("tags/v2", "branches/main"):
            assert {name: _written_at(mount / root / name) for name in expected} == expected


def _written_at(path):
    found = os.stat(path)
    told = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(found.st_mtime))
    return f"{told}.{found.st_mtime_ns // 1000 % 1_000_000:06}Z"


def test_inode_numbers(tree):
    """Two opens of a name have the same device and inode number while its content is the same."""
    for name in ("a/c/0/1", "zarr.json", "big/c/0", "a/c"):
        one, other = (os.open(tree / name, os.O_RDONLY) for _ in range(2))
        assert os.path.sameopenfile(one, other)
        assert os.fstat(one).st_ino == os.stat(tree / name).st_ino
        os.close(one)
        os.close(other)
    assert len({os.stat(tree / key).st_ino for key in KEYS}) == len(KEYS)


def test_modes(mount, repo):
    """Tags and snapshots are read-only by mode as well: files are 0444 and directories 0555. In branches they are 0644
    and 0755. `--umask`, `--uid` and `--gid` change what is shown."""

    def modes(root):
        return {stat.S_IMODE(os.stat(root / name).st_mode) for name in ("", "a", "a/c", "a/c/0/1", "zarr.json")}

    assert modes(mount / "tags/v1") == {0o555, 0o444}
    assert modes(mount / "branches/main") == {0o755, 0o644}
    assert os.stat(mount / "tags/v1/zarr.json").st_uid == os.getuid()
    with mounted(repo, branch="main", umask=0o027, uid=os.getuid(), gid=54321) as other:
        assert modes(other.path) == {0o750, 0o640}
        assert os.stat(other / "a/c/0/1").st_gid == 54321


def test_extended_attributes(tree, mount):
    """The extended attributes `user.icefs.snapshot`, `.kind` (inline, native, virtual), `.location`, `.offset` and
    `.length` say where the bytes of a file come from, to programs that ask for them by name; none is listed, so that no
    copy gets them. Others do not exist (ENODATA); access control lists are not supported (EOPNOTSUPP)."""
    snapshot = mount.control("log.json", "tags/v1")[0]["id"].encode()
    for name in ("", "a", "a/c", "zarr.json"):
        assert os.listxattr(tree / name) == []
        assert os.getxattr(tree / name, "user.icefs.snapshot") == snapshot
    for name, kind in (("big/c/0", b"native"), ("a/c/0/1", b"inline")):
        assert os.listxattr(tree / name) == []
        asked = ("kind", "length", *(("location", "offset") if kind == b"native" else ()))
        told = {f"user.icefs.{one}": os.getxattr(tree / name, f"user.icefs.{one}") for one in asked}
        assert told["user.icefs.kind"] == kind
        assert told["user.icefs.length"] == b"%d" % len(KEYS[name])
        if kind == b"native":
            path = Path(told["user.icefs.location"].decode().removeprefix("file://"))
            assert path.read_bytes()[int(told["user.icefs.offset"]) :] == BIG
    fails(errno.ENODATA, os.getxattr, tree / "zarr.json", "user.other")
    fails(errno.EOPNOTSUPP, os.getxattr, tree / "zarr.json", "system.posix_acl_access")
    fails(errno.EOPNOTSUPP, os.setxattr, tree / "zarr.json", "system.posix_acl_access", b"\2\0\0\0")
    refused = errno.EROFS if tree.parent.name == "tags" else errno.EOPNOTSUPP
    fails(refused, os.setxattr, tree / "zarr.json", "user.x", b"")


def test_reading(tree):
    """Files can be read with any offsets and sizes, mapped into memory privately and shared, and read with O_DIRECT."""
    fd = os.open(tree / "big/c/0", os.O_RDONLY)
    for offset, size in ((0, 1), (4095, 2), (1 << 19, 1 << 20), ((1 << 20) - 1, 5), (12345, 131072)):
        assert os.pread(fd, size, offset) == BIG[offset : offset + size]
    for flags in (mmap.MAP_PRIVATE, mmap.MAP_SHARED):
        with mmap.mmap(fd, 0, flags=flags, prot=mmap.PROT_READ) as mapped:
            assert mapped[:] == BIG
    os.close(fd)
    direct = os.open(tree / "big/c/0", os.O_RDONLY | os.O_DIRECT)
    buffer = mmap.mmap(-1, 1 << 20)  # aligned
    assert os.readv(direct, [buffer]) == 1 << 20
    assert buffer[:] == BIG
    os.close(direct)


def test_listing(tree):
    """A directory can be listed while it is large, in pieces, from any position, and again from the start."""
    expected = {str(i) for i in range(5000)}
    assert set(os.listdir(tree / "many/c")) == expected
    with os.scandir(tree / "many/c") as entries:
        some = [next(entries) for _ in range(10)]
        assert all(entry.is_file() and entry.stat().st_size == len(KEYS[f"many/c/{entry.name}"]) for entry in some)
        assert {entry.name for entry in some} | {entry.name for entry in entries} == expected
    fd = os.open(tree / "many/c", os.O_RDONLY)
    assert set(os.listdir(fd)) == set(os.listdir(fd)) == expected  # a descriptor is rewound
    os.close(fd)


def test_locks(tree):
    """Locks work among the processes of this machine: flock, POSIX locks, and open file description locks that
    block."""
    path = tree / "a/c/0/1"
    one, other = os.open(path, os.O_RDONLY), os.open(path, os.O_RDONLY)
    fcntl.flock(one, fcntl.LOCK_EX)
    fails(errno.EAGAIN, fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(one, fcntl.LOCK_UN)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_UN)
    fcntl.lockf(one, fcntl.LOCK_SH)
    got = threading.Event()

    def lock_all():
        held = os.open(path, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        got.set()
        os.close(held)

    fcntl.flock(one, fcntl.LOCK_SH)
    waiter = threading.Thread(target=lock_all)
    waiter.start()
    assert not got.wait(0.05)
    fcntl.flock(one, fcntl.LOCK_UN)
    waiter.join(10)
    assert got.is_set()
    os.close(one)
    os.close(other)


def test_harmless_calls(tree):
    """fsync of files and directories, statfs and access succeed."""
    for name in ("a/c/0/1", "zarr.json", "a", "a/c"):
        fd = os.open(tree / name, os.O_RDONLY)
        os.fsync(fd)
        os.fdatasync(fd)
        os.close(fd)
        assert os.access(tree / name, os.R_OK)
    told = os.statvfs(tree)
    assert told.f_namemax == 255
    assert told.f_blocks > 0


@pytest.mark.parametrize("read_only", [True, False])
def test_what_is_read_only(repo, read_only):
    """In tags and snapshots, at the root, and in branches of a mount that only reads, every write, creation, removal,
    rename and change of attributes is EROFS. Renames and links from one tree to another are EXDEV in a mount
    that is `rw`."""
    with mounted(repo, read_only=read_only) as mount:
        snapshot = mount.control("log.json", "tags/v1")[0]["id"]
        places = ["tags/v1", f"snapshots/{snapshot}", *(["branches/main"] if read_only else [])]
        assert_read_only(mount, [mount / place for place in places])


def assert_read_only(mount, roots):
    refused = errno.EROFS if os.geteuid() == 0 else None
    for root in [*roots, mount.path]:
        name = "a" if root != mount.path else "tags"
        attempts = [
            (os.mkdir, root / "new"),
            (os.open, root / "new", os.O_CREAT | os.O_WRONLY),
            (os.rmdir, root / name),
            (os.rename, root / name, root / "new"),
            (os.symlink, "x", root / "new"),
            (os.mkfifo, root / "new"),
            (os.chmod, root / name, 0o700),
            (os.utime, root / name, (0, 0)),
        ]
        if root != mount.path:
            file = root / "a/c/0/1"
            attempts += [
                (os.open, file, os.O_WRONLY),
                (os.open, file, os.O_RDWR),
                (os.open, file, os.O_RDONLY | os.O_TRUNC),
                (os.truncate, file, 0),
                (os.unlink, file),
                (os.link, file, root / "new"),
                (os.open, root / ".icefs/status", os.O_WRONLY),
                (os.open, root / ".icefs/commit", os.O_WRONLY | os.O_TRUNC),
            ]
        for function, *args in attempts:
            if refused is not None:
                fails(refused, function, *args)
            else:
                with pytest.raises(OSError, match=r"Read-only|denied|not permitted"):
                    function(*args)
    if refused is not None:
        is_ro = os.statvfs(mount.path).f_flag & os.ST_RDONLY
        across = errno.EROFS if is_ro else errno.EXDEV
        fails(across, os.rename, roots[0] / "a", roots[1] / "b")
        fails(across, os.link, roots[0] / "a/c/0/1", roots[1] / "b")


def test_a_commit(tmp_path):
    """Over a commit files and directories keep inode numbers, times and cached pages, also those that lie in a
    directory that was renamed."""
    commit(create(tmp_path / "repo", 2), "first", KEYS)

    def seen(place):
        paths = [path for path in sorted(place.rglob("*")) if ".icefs" not in path.parts]
        return {str(path.relative_to(place)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}

    with mounted(tmp_path / "repo", branch="main") as mount:
        seen(mount.path)
        (mount / "a/c/2").rename(mount / "a/c/3")
        (mount / "big").rename(mount / "g/large")
        assert (mount / "g/large/c/0").read_bytes() == BIG
        before = seen(mount.path)
        (mount / ".icefs/commit").write_text("renames")
        assert seen(mount.path) == before
        assert (mount / "g/large/c/0").read_bytes() == BIG
        assert (mount / "a/c/3/0").read_bytes() == KEYS["a/c/2/0"]


@pytest.fixture
def following(tmp_path):
    """A repository of its own, and its branch mounted by itself."""
    official = create(tmp_path / "repo", 2)
    commit(official, "first", {key: data for key, data in KEYS.items() if not key.startswith("many")})
    with mounted(tmp_path / "repo", branch="main") as found:
        yield official, found


def test_edited_metadata(following):
    """What an array's `zarr.json` says counts with the commit. Chunk files of the snapshot that an edited one has no
    place for (outside of a smaller grid, or under other names) can be read until then; `status`, `diff` and the
    commit's result say how many are dropped, of which array and why."""
    official, mount = following
    (mount / "a/zarr.json").write_bytes(loose_array_json((20, 40), (10, 10)))
    (mount / "big/zarr.json").write_bytes(loose_array_json((4 << 20,), (1 << 20,), encoding=("v2", ".")))
    told = [
        {"path": "a", "count": 1, "reason": "the array's grid of chunks is [2, 4] now"},
        {"path": "big", "count": 1, "reason": "the array's chunks have other names now, such as 0 for c/0"},
    ]
    assert mount.control("status.json")["staged"]["dropped_chunks"] == told
    diff = {one["path"]: one["chunks"] for one in mount.control("diff.json")["dropped_chunks"]}
    assert diff["a"] == [{"index": [2, 0], "old_bytes": len(KEYS["a/c/2/0"]), "new_bytes": None}]
    assert diff["big"] == [{"index": [0], "old_bytes": len(BIG), "new_bytes": None}]
    for text in ((mount / ".icefs/status").read_text(), (mount / ".icefs/diff").read_text()):
        assert "dropped  /a: 1 chunk; the array's grid of chunks is [2, 4] now\n" in text
    for key in ("a/c/2/0", "big/c/0"):
        assert (mount / key).read_bytes() == KEYS[key]
    (mount / ".icefs/commit").write_text("smaller")
    assert mount.control("commit")["dropped_chunks"] == told
    assert os.listdir(mount / "a/c") == ["0"]
    assert os.listdir(mount / "big") == ["zarr.json"]
    assert not any(mount.control("status.json")["staged"].values())
    assert keys_at(official) == [
        key for key in sorted(KEYS) if not key.startswith("many") and key not in ("a/c/2/0", "big/c/0")
    ]


def keys_at(official):
    async def collect():
        return sorted([key async for key in official.readonly_session("main").store.list()])

    return asyncio.run(collect())


def test_a_moving_tip(following):
    """After a refresh a branch shows the new tip: changed files have other inode numbers and times, new names are
    there, deleted names are gone, and what did not change keeps inode number, time and cached pages."""
    official, mount = following
    for _ in range(2):  # once for the kernel to remember
        before = {key: os.stat(mount / key) for key in KEYS if not key.startswith("many")}
        assert all((mount / key).read_bytes() == KEYS[key] for key in before)
    fails(errno.ENOENT, os.stat, mount / "a/c/3/3")
    fails(errno.ENOENT, os.stat, mount / "new")

    session = official.writable_session("main")
    put_all(
        session.store, {"a/c/0/1": b"changed", "a/c/3/3": b"new", "new/zarr.json": GROUP, "g/zarr.json": GROUP + b" "}
    )
    remove(session.store, "a/c/2/0")
    session.commit("second")
    [result] = mount.rpc({"op": "refresh"})
    assert list(result["moved"]) == ["main"]

    assert (mount / "a/c/0/1").read_bytes() == b"changed"
    assert (mount / "a/c/3/3").read_bytes() == b"new"
    assert (mount / "g/zarr.json").read_bytes() == GROUP + b" "
    assert os.listdir(mount / "new") == ["zarr.json"]
    for gone in ("a/c/2/0", "a/c/2"):
        fails(errno.ENOENT, os.stat, mount / gone)
    for key in ("a/c/0/1", "g/zarr.json"):
        after = os.stat(mount / key)
        assert after.st_ino != before[key].st_ino
        assert after.st_mtime_ns > before[key].st_mtime_ns
    for key in ("zarr.json", "a/zarr.json", "big/c/0", "implicit/x/c/0"):
        after = os.stat(mount / key)
        assert (after.st_ino, after.st_mtime_ns) == (before[key].st_ino, before[key].st_mtime_ns)

    asked = mount.requests()
    assert (mount / "big/c/0").read_bytes() == BIG
    again = mount.requests()
    assert again["read"] - asked["read"] <= 3  # those of the counters themselves
    assert again["lookup"] == asked["lookup"]


def test_open_files_of_a_moving_tip(following):
    """An open file stays as it was when it was opened, to the last byte."""
    official, mount = following
    files = {name: os.open(mount / name, os.O_RDONLY) for name in ("big/c/0", "a/c/0/1", "g/zarr.json", "a/c/2/0")}
    assert os.pread(files["big/c/0"], 10, 0) == BIG[:10]
    session = official.writable_session("main")
    put_all(
        session.store, {"big/c/0": b"\xff" * (1 << 20), "a/c/0/1": b"changed, and longer", "g/zarr.json": GROUP + b" "}
    )
    remove(session.store, "a/c/2/0")
    session.commit("second")
    mount.refresh()
    assert (mount / "big/c/0").read_bytes() == b"\xff" * (1 << 20)
    for name, fd in files.items():
        assert os.fstat(fd).st_size == len(KEYS[name])
        assert os.pread(fd, 2 << 20, 0) == KEYS[name], name
        os.close(fd)
    assert (mount / "big/c/0").read_bytes() == b"\xff" * (1 << 20)
    assert (mount / "a/c/0/1").read_bytes() == b"changed, and longer"


def test_open_listings_of_a_moving_tip(tmp_path):
    """A listing that was begun is finished as it was begun."""
    official = create(tmp_path / "repo", 2)
    commit(official, "first", {key: data for key, data in KEYS.items() if key.startswith("many")})
    with mounted(tmp_path / "repo", branch="main") as mount, os.scandir(mount / "many/c") as entries:
        names = {next(entries).name}
        session = official.writable_session("main")
        remove(session.store, *(f"many/c/{i}" for i in range(0, 5000, 2)))
        session.commit("second")
        mount.refresh()
        assert len(os.listdir(mount / "many/c")) == 2500
        names |= {entry.name for entry in entries}
        assert names == {str(i) for i in range(5000)}


def test_refs_that_come_and_go(tmp_path):
    """Branches and tags that were made or deleted appear and disappear. A branch that is mounted by itself and is
    deleted keeps showing its last snapshot, and its status says so."""
    official = create(tmp_path / "repo", 2)
    first = commit(official, "first", {"zarr.json": GROUP})
    official.create_branch("old", first)
    official.create_tag("gone", first)
    with mounted(tmp_path / "repo") as mount, mounted(tmp_path / "repo", branch="old") as single:
        assert sorted(os.listdir(mount / "branches")) == ["main", "old"]
        assert (mount / "branches/old/zarr.json").read_bytes() == (mount / "tags/gone/zarr.json").read_bytes() == GROUP
        fails(errno.ENOENT, os.stat, mount / "branches/new")
        official.delete_branch("old")
        official.delete_tag("gone")
        official.create_branch("new", first)
        official.create_tag("newer", first)
        mount.refresh()
        assert sorted(os.listdir(mount / "branches")) == ["main", "new"]
        assert os.listdir(mount / "tags") == ["newer"]
        for name in ("branches/old", "branches/old/zarr.json", "tags/gone"):
            fails(errno.ENOENT, os.stat, mount / name)
        assert (mount / "branches/new/zarr.json").read_bytes() == GROUP
        single.refresh()
        assert (single / "zarr.json").read_bytes() == GROUP
        assert "was deleted" in (single / ".icefs/status").read_text()
